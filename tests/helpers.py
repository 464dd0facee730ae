"""Small things that several test files use."""

import pytest

import minigrad as mg
from minigrad.kernels import compiler, plan


def take_grad(x: mg.Tensor) -> mg.Tensor:
    """The gradient of x, which has none afterwards."""
    g = x.grad
    x.grad = None
    return g


COMPILES = plan.enabled and compiler.works() is None
needs_compiler = pytest.mark.skipif(not COMPILES, reason="no C++ compiler, or MINIGRAD_KERNELS=off")
