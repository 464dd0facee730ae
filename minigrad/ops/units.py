"""Nonlinear functions of neural nets that have settings."""

import math
from typing import Any

from ..kernels import ElementwiseKernel, fits
from ..kernels.vectors import FUNCTIONS
from ..primitive import primitive
from .activations import sigmoid

_TWO_SQRT_TWO_OVER_PI = 2 * math.sqrt(2 / math.pi)


@primitive(x=lambda xp, g, x, slope: xp.where(x > 0, g, g * slope))
def leaky_relu(xp, x, slope) -> Any:
    """x where it is positive, and else x times `slope`, which is its derivative at 0, too."""
    return xp.where(x > 0, x, x * slope)


@primitive(x=lambda xp, g, x, alpha: xp.where(x > 0, g, g * alpha * xp.exp(xp.minimum(x, 0))))
def elu(xp, x, alpha) -> Any:
    """x where it is positive, and else `alpha` (exp(x) - 1); at 0 the derivative is `alpha`."""
    return xp.where(x > 0, x, xp.expm1(xp.minimum(x, 0)) * alpha)


@primitive(x=lambda xp, g, x, low, high: xp.where((x <= low) | (x >= high), 0.0, g))
def hardtanh(xp, x, low, high) -> Any:
    """x, but no less than `low` and no more than `high`. The derivative is 0 there, in both corners, too."""
    return xp.minimum(xp.maximum(x, low), high)


# 0.5 (1 + tanh(u)) = sigmoid(2 u), which does not cancel for negative u.
_GELU_TANH = ElementwiseKernel(
    "T x",
    "T y",
    "y = x * sigmoid(T(1.59576912160573071176) * (x + T(0.044715) * x * x * x))",
    "gelu_tanh",
    preamble=FUNCTIONS,
    cost=3,
)
_GELU_TANH_DX = ElementwiseKernel(
    "T g, T x",
    "T dx",
    """
    const T s = sigmoid(T(1.59576912160573071176) * (x + T(0.044715) * x * x * x));
    dx = g * (s + x * s * (1 - s) * T(1.59576912160573071176) * (1 + T(0.134145) * x * x));
    """,
    "gelu_tanh_dx",
    preamble=FUNCTIONS,
    cost=3,
)


def _gelu_tanh_dx(g, x):
    if fits(g):
        return _GELU_TANH_DX(g, x)
    s = sigmoid(_TWO_SQRT_TWO_OVER_PI * (x + 0.044715 * x * x * x))
    return g * (s + x * s * (1 - s) * _TWO_SQRT_TWO_OVER_PI * (1 + 3 * 0.044715 * x * x))


@primitive(x=_gelu_tanh_dx)
def gelu_tanh(xp, x) -> Any:
    """Nearly `gelu`, by tanh (Hendrycks and Gimpel, 2016): what GPT-2 was trained with."""
    if fits(x):
        return _GELU_TANH(x)
    return x * sigmoid(_TWO_SQRT_TWO_OVER_PI * (x + 0.044715 * x * x * x))
