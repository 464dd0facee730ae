"""Layers without parameters, and losses, as functions: torch's names, argument order and defaults."""

import math
from typing import Any

from .. import ops, random
from ..autograd import wrap
from ..backend import is_floating, is_integer, namespace, plain
from ..ops import gelu, linear, relu, sigmoid, silu, softplus, tanh
from ..ops.losses import cross_entropy_of
from ..ops.normalization import batch_norm, group_norm, layer_norm, rms_norm
from ..tensor import Tensor

__all__ = [
    "batch_norm",
    "cross_entropy",
    "dropout",
    "gelu",
    "group_norm",
    "layer_norm",
    "linear",
    "mse_loss",
    "relu",
    "rms_norm",
    "sigmoid",
    "silu",
    "softplus",
    "tanh",
]


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Set each element to 0 with probability `p`, and scale the rest by 1 / (1 - p).

    Does nothing unless `training`. The random numbers come from `minigrad.random`.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p must be from 0 to 1, got {p}")
    if not training or p == 0:
        return wrap(input._data, input.node, input.home)  # so that x += y on the result leaves the input
    mask = random.bernoulli(input.shape, 1 - p, dtype=input.dtype, device=input.device)
    return input * (mask * (1 / (1 - p)) if p < 1 else mask)


_REDUCTIONS = ("mean", "sum", "none")


def _reduced(op: str, losses: Tensor, reduction: str) -> Tensor:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{op}: reduction must be one of {_REDUCTIONS}, got {reduction!r}")
    return losses.mean() if reduction == "mean" else losses.sum() if reduction == "sum" else losses


def mse_loss(input: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """The squared difference of input and target, which must have the same shape.

    `reduction` is `'mean'`, `'sum'` or `'none'`.
    """
    target = ops.asarray(target)
    if input.shape != target.shape:
        raise ValueError(f"mse_loss: shapes must be equal, got {input.shape} and {target.shape}")
    return _reduced("mse_loss", ops.square(input - target), reduction)


def cross_entropy(
    input: Tensor, target: Any, *, reduction: str = "mean", label_smoothing: float = 0.0
) -> Tensor:
    """The cross entropy between softmax(input) and the target classes.

    Args:
        input: scores (logits) of shape (C,), (N, C) or (N, C, d1, …), where C is the number of classes.
        target: class indices, integers of shape (), (N,) or (N, d1, …); or class probabilities, floats
            of the shape of `input`.
        reduction: `'mean'` over all but the class axis, `'sum'`, or `'none'`.
        label_smoothing: this part of each target, from 0 to 1, is spread evenly over all classes.

    Raises:
        IndexError: a class index is negative or not below C.
        ValueError: the shapes do not fit, or an option is unknown.
    """
    input = input if isinstance(input, Tensor) else ops.tensor(input)
    target = target if isinstance(target, Tensor) else ops.tensor(target)
    shape = input.shape
    if not shape or not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: got input of shape {shape}, label_smoothing={label_smoothing}")
    axis = 0 if len(shape) == 1 else 1
    classes = shape[axis]
    if is_floating(target.dtype):
        if target.shape != shape:
            raise ValueError(
                f"cross_entropy: probabilities need the input's shape, got {target.shape} and {shape}"
            )
        if label_smoothing:
            target = target * (1 - label_smoothing) + label_smoothing / classes
        losses = -(ops.log_softmax(input, axis) * target).sum(axis=axis)
        return _reduced("cross_entropy", losses, reduction)
    _check_classes(target, shape, axis)
    if reduction not in _REDUCTIONS:
        raise ValueError(f"cross_entropy: reduction must be one of {_REDUCTIONS}, got {reduction!r}")
    if plain(target._data) is not target._data:  # inside vmap
        input = target._data.take_in(input)
    factor = -1.0 if reduction != "mean" else -1 / target.size if target.size else math.nan
    return cross_entropy_of(input, target._data, axis, factor, label_smoothing, reduction != "none")


def _check_classes(target: Tensor, shape: tuple[int, ...], axis: int) -> None:
    if target.shape != shape[:axis] + shape[axis + 1 :]:
        raise ValueError(
            f"cross_entropy: class indices need the input's shape without its class axis, got {target.shape} "
            f"for input {shape}; class probabilities must be floats"
        )
    if not is_integer(target.dtype):
        raise TypeError(f"cross_entropy: class indices must be integers, got {target.dtype}")
    # An array library reads a negative index from the end, and CuPy and kernels one that is too large.
    array = plain(target._data)  # inside vmap that of all examples
    xp = namespace("cross_entropy", [array])
    if array.size and (xp.min(array) < 0 or xp.max(array) >= shape[axis]):
        raise IndexError(
            f"cross_entropy: class indices must be from 0 to {shape[axis] - 1}, got "
            f"{array.min()} to {array.max()}"
        )
