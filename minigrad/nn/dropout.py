"""Dropout: of elements, and of whole channels."""

from .. import random
from ..autograd import wrap
from ..ops.dropout import keep_scaled
from ..tensor import Tensor
from .module import Module


def dropout(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Set each element to 0 with probability `p`, and scale the rest by 1 / (1 - p).

    Does nothing unless `training`. The random numbers come from `minigrad.random`.
    """
    return _dropped("dropout", input, input.shape, p, training)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """Set whole channels, the last two axes of (N, C, H, W), to 0 with probability `p`.

    The rest is scaled by 1 / (1 - p). Does nothing unless `training`. (torch also takes three axes, in a
    meaning that it says will change.)
    """
    if input.ndim != 4:
        raise ValueError(f"dropout2d: expected shape (N, C, H, W), got {input.shape}")
    return _dropped("dropout2d", input, (*input.shape[:2], 1, 1), p, training)


def _dropped(op: str, input: Tensor, shape: tuple[int, ...], p: float, training: bool) -> Tensor:
    _check_probability(op, p)
    if not training or p == 0:
        return wrap(input._data, input.node, input.home)  # so that x += y on the result leaves the input
    keep = random.bernoulli(shape, 1 - p, dtype=bool, device=input.device)
    return keep_scaled(input, keep, 1 / (1 - p) if p < 1 else 1.0)


def _check_probability(op: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{op}: p must be from 0 to 1, got {p}")


class Dropout(Module):
    """In training, set elements to 0 with probability `p` and scale the rest by 1 / (1 - p).

    `inplace`, which torch has, changes nothing: a tensor is a value.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False):
        _check_probability(type(self).__name__, p)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """x with dropout in training mode, x itself in evaluation mode."""
        return dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout2d(Dropout):
    """In training, set whole channels of (N, C, H, W) to 0, and scale the rest: see `Dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """x with dropout of channels in training mode, x itself in evaluation mode."""
        return dropout2d(x, self.p, self.training)
