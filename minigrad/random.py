"""Random numbers: one seeded stream, drawn with NumPy and then moved to where they are wanted.

So a seed gives the same numbers on every backend.
"""

from typing import Any

import numpy

from .backend import current, get
from .ops import default_dtype, tensor

_generator: "numpy.random.Generator | None" = None


def seed(n: int) -> None:
    """Begin the stream anew from `n`: what is drawn after it repeats exactly."""
    global _generator
    _generator = numpy.random.default_rng(n)


def generator() -> "numpy.random.Generator":
    """The stream itself; from a fresh seed unless `seed` was called."""
    global _generator
    if _generator is None:  # made when first used: NumPy takes a while to load its random numbers
        _generator = numpy.random.default_rng()
    return _generator


def _tensor(draw: Any, shape: Any, dtype: Any, requires_grad: bool, device: str | None) -> Any:
    array = numpy.asarray(draw(size=shape), dtype=dtype or default_dtype())
    return tensor(array, requires_grad=requires_grad, device=(get(device) if device else current()).name)


def uniform(shape, low=0.0, high=1.0, dtype=None, requires_grad=False, device=None) -> Any:
    """Numbers spread evenly over [low, high)."""
    return _tensor(lambda size: generator().uniform(low, high, size), shape, dtype, requires_grad, device)


def normal(shape, mean=0.0, std=1.0, dtype=None, requires_grad=False, device=None) -> Any:
    """Normally distributed numbers."""
    return _tensor(lambda size: generator().normal(mean, std, size), shape, dtype, requires_grad, device)
