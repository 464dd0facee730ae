"""Normalizing layers: torch's names, arguments, defaults, parameters and buffers."""

import math
from typing import Any

from .. import ops
from ..atomic import at_once
from ..backend import integer, integers
from ..ops.normalization import batch_norm_and_changes, group_norm, layer_norm, rms_norm
from ..tensor import Tensor
from .module import Module
from .parameter import Buffer, Parameter


def _parameter(wanted: bool, shape: Any, value: float, dtype: Any, device: str | None) -> Any:
    return (
        Parameter(ops.full(shape, value, dtype=dtype or ops.default_dtype(), device=device))
        if wanted
        else None
    )


class LayerNorm(Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last axes; see `functional.layer_norm`.

    `weight` begins as 1 and `bias` as 0, both of shape `normalized_shape`; without `elementwise_affine` there
    is neither.
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: Any = None,
        device: str | None = None,
    ):
        self.normalized_shape = integers("LayerNorm", "normalized_shape", normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.weight = _parameter(elementwise_affine, self.normalized_shape, 1, dtype, device)
        self.bias = _parameter(elementwise_affine and bias, self.normalized_shape, 0, dtype, device)

    def forward(self, x: Tensor) -> Tensor:
        """layer_norm(x, normalized_shape, weight, bias, eps)."""
        return layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(Module):
    """x / sqrt(mean of x² + eps) * weight, over the last axes; see `functional.rms_norm`.

    `weight` begins as 1. `eps` is by default the distance from 1 to the next number of the input's dtype.
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float | None = None,
        elementwise_affine: bool = True,
        dtype: Any = None,
        device: str | None = None,
    ):
        self.normalized_shape = integers("RMSNorm", "normalized_shape", normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.weight = _parameter(elementwise_affine, self.normalized_shape, 1, dtype, device)

    def forward(self, x: Tensor) -> Tensor:
        """rms_norm(x, normalized_shape, weight, eps)."""
        return rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """The channels of (N, C, …) normalized in groups; see `functional.group_norm`.

    Raises:
        ValueError: `num_channels` cannot be cut into `num_groups` groups.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        dtype: Any = None,
        device: str | None = None,
    ):
        self.num_groups = integer("GroupNorm", "num_groups", num_groups)
        self.num_channels = integer("GroupNorm", "num_channels", num_channels)
        if self.num_groups < 1 or self.num_channels % self.num_groups:
            raise ValueError(f"GroupNorm: {num_channels} channels cannot be cut into {num_groups} groups")
        self.eps = eps
        self.affine = affine
        self.weight = _parameter(affine, (num_channels,), 1, dtype, device)
        self.bias = _parameter(affine, (num_channels,), 0, dtype, device)

    def forward(self, x: Tensor) -> Tensor:
        """group_norm(x, num_groups, weight, bias, eps)."""
        _expect("GroupNorm", x, self.num_channels, ())
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


def _expect(layer: str, x: Any, channels: int, ndims: tuple[int, ...]) -> None:
    """Raise `ValueError` unless x has so many channels and one of these numbers of axes (any, if none)."""
    shape = tuple(x.shape)
    if (ndims and len(shape) not in ndims) or shape[1:2] != (channels,):
        axes = f" with {' or '.join(map(str, ndims))} axes" if ndims else ""
        raise ValueError(f"{layer}: expected (N, {channels}, …){axes}, got shape {shape}")


class _BatchNorm(Module):
    """What the batch norms share.

    Each channel of (N, C, …) is normalized over the batch; see `functional.batch_norm`. In training the
    buffers `running_mean` and `running_var` follow the statistics of the batches, and they are what
    evaluation normalizes by; `num_batches_tracked` counts.

    Args:
        num_features: C.
        eps: added to the variance.
        momentum: how much a batch counts in the running statistics; None takes the mean of all batches.
        affine: with `weight` and `bias` of shape (C,), which begin as 1 and 0.
        track_running_stats: with these buffers; without them evaluation, too, normalizes by the batch.
    """

    ndims: tuple[int, ...] = ()

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: Any = None,
        device: str | None = None,
    ):
        self.num_features = integer(type(self).__name__, "num_features", num_features)
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.weight = _parameter(affine, (num_features,), 1, dtype, device)
        self.bias = _parameter(affine, (num_features,), 0, dtype, device)
        self.running_mean: Any = None
        self.running_var: Any = None
        self.num_batches_tracked: Any = None
        if track_running_stats:
            dtype = dtype or ops.default_dtype()
            self.running_mean = Buffer(ops.zeros(num_features, dtype=dtype, device=device))
            self.running_var = Buffer(ops.ones(num_features, dtype=dtype, device=device))
            self.num_batches_tracked = Buffer(ops.zeros((), dtype=int, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """batch_norm(x), by the batch in training mode and by the running statistics in evaluation mode."""
        _expect(type(self).__name__, x, self.num_features, self.ndims)
        by_batch = self.training or self.running_mean is None
        momentum, count = self.momentum, self.num_batches_tracked
        if self.training and count is not None:
            count = count + 1
            if momentum is None:
                momentum = 1 / count.item()
        out, changes = batch_norm_and_changes(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            by_batch,
            momentum if momentum is not None else math.nan,
            self.eps,
        )
        if count is not None:
            changes += self.num_batches_tracked._taking(count)
        at_once(changes)
        return out

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    __doc__ = (_BatchNorm.__doc__ or "").replace(
        "What the batch norms share.", "Batch norm of (N, C) or (N, C, L)."
    )
    ndims = (2, 3)


class BatchNorm2d(_BatchNorm):
    __doc__ = (_BatchNorm.__doc__ or "").replace("What the batch norms share.", "Batch norm of (N, C, H, W).")
    ndims = (4,)
