"""Losses of single elements, which the losses of `minigrad.nn` are made of."""

from typing import Any

from ..primitive import elementwise, primitive
from .activations import sigmoid
from .elementwise import clip


@primitive(x=lambda g, x, delta: g * clip(x, -delta, delta))
def huber(xp, x, delta) -> Any:
    """x²/2, but straight lines of that slope where abs(x) is above `delta` (Huber, 1964)."""
    size = xp.abs(x)
    return xp.where(size <= delta, 0.5 * x * x, delta * (size - 0.5 * delta))


def _logit_loss(xp, x, y):
    return xp.maximum(x, 0) - x * y + xp.log1p(xp.exp(-xp.abs(x)))


@elementwise(_logit_loss, x=lambda g, x, y: g * (sigmoid(x) - y), y=lambda g, x: -g * x)
def logit_loss(x, y) -> Any:
    """The cross entropy of probabilities y and sigmoid(x), which does not round to 0 or 1 on the way."""


def _log(xp, x):
    """log(x), at least -100: so that 0 * log(0) is 0, and a loss finite, as in torch."""
    return xp.where(x == 0, -100.0, xp.maximum(xp.log(xp.where(x == 0, 1.0, x)), -100.0))


def _probability_loss(xp, x, y):
    return (y - 1) * _log(xp, 1 - x) - y * _log(xp, x)


def _probability_loss_dx(xp, g, x, y):
    # torch's least denominator, but for a dtype in which that is 0.
    least = 6e-8 if x.dtype == getattr(xp, "float16", None) else 1e-12
    return g * (x - y) / xp.maximum((1 - x) * x, least)


@elementwise(
    _probability_loss, x=_probability_loss_dx, y=lambda xp, g, x: g * (_log(xp, 1 - x) - _log(xp, x))
)
def probability_loss(x, y) -> Any:
    """The cross entropy of probabilities y and x, with logarithms of at least -100, as in torch."""
