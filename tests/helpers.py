"""Small things that several test files use."""

import minigrad as mg


def take_grad(x: mg.Tensor) -> mg.Tensor:
    """The gradient of x, which has none afterwards."""
    g = x.grad
    x.grad = None
    return g
