"""The nonlinear functions of neural nets, and the error function that one of them needs."""

import math
from typing import Any

from ..backend import cast
from ..kernels import ElementwiseKernel, fits, pays
from ..kernels.vectors import FUNCTIONS
from ..primitive import elementwise, primitive

_SQRT_HALF = math.sqrt(0.5)
_TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)
_ONE_OVER_SQRT_TAU = 1 / math.sqrt(2 * math.pi)


_RELU = ElementwiseKernel("T x", "T y", "y = x <= 0 ? T(0) : x", "relu")
_RELU_DX = ElementwiseKernel("T g, T y", "T dx", "dx = y <= 0 ? T(0) : g", "relu_dx")
_SIGMOID = ElementwiseKernel("T x", "T y", "y = sigmoid(x)", "sigmoid_of", preamble=FUNCTIONS, cost=3)
_SIGMOID_DX = ElementwiseKernel("T g, T y", "T dx", "dx = g * y * (1 - y)", "sigmoid_dx")
_SILU = ElementwiseKernel("T x", "T y", "y = x * sigmoid(x)", "silu", preamble=FUNCTIONS, cost=3)
_SILU_DX = ElementwiseKernel(
    "T g, T x",
    "T dx",
    "const T s = sigmoid(x); dx = g * (s * (1 + x * (1 - s)))",
    "silu_dx",
    preamble=FUNCTIONS,
    cost=3,
)
_GELU = ElementwiseKernel(
    "T x",
    "T y",
    "y = x * normal_cdf(x, fast_exp(T(-0.5) * x * x))",
    "gelu",
    preamble=FUNCTIONS,
    cost=5,
)
_GELU_DX = ElementwiseKernel(
    "T g, T x",
    "T dx",
    """
    const T bell = fast_exp(T(-0.5) * x * x);
    dx = g * (normal_cdf(x, bell) + x * bell * T(0.39894228040143267794));
    """,
    "gelu_dx",
    preamble=FUNCTIONS,
    cost=5,
)


def _relu(xp, x):
    return _RELU(x) if pays(x) else xp.maximum(x, 0)


def _relu_dx(xp, g, out):
    return _RELU_DX(g, out) if pays(g) else xp.where(out <= 0, 0.0, g)


@elementwise(_relu, x=_relu_dx)
def relu(x) -> Any:
    """The larger of x and 0. Its derivative at 0 is taken as 0; the gradient passes NaN. Both as in torch."""


def _sigmoid(xp, x):
    if fits(x):
        return _SIGMOID(x)
    return xp.exp(xp.minimum(x, 0)) / (1 + xp.exp(xp.abs(x) * -1.0))  # without overflow


@elementwise(_sigmoid, x=lambda g, out: _SIGMOID_DX(g, out) if fits(g) else g * out * (1 - out))
def sigmoid(x) -> Any:
    """1 / (1 + exp(-x))."""


@primitive(x=lambda g, x: g * sigmoid(x))
def softplus(xp, x) -> Any:
    """log(1 + exp(x)), without overflow."""
    return xp.maximum(x, 0) + xp.log1p(xp.exp(xp.abs(x) * -1.0))  # unsigned integers have no -x


def _silu_dx(g, x):
    if fits(g):
        return _SILU_DX(g, x)
    s = sigmoid(x)
    return g * (s * (1 + x * (1 - s)))


@primitive(x=_silu_dx)
def silu(xp, x) -> Any:
    """x * sigmoid(x), also called swish. Of -inf it is NaN, 0 * inf, as in torch."""
    return _SILU(x) if fits(x) else x * sigmoid(x)


def _gelu_dx(xp, g, x):
    if fits(g):
        return _GELU_DX(g, x)
    return g * (_normal_cdf(x) + x * xp.exp(-0.5 * x * x) * _ONE_OVER_SQRT_TAU)


@primitive(x=_gelu_dx)
def gelu(xp, x) -> Any:
    """x times the normal distribution function of x (Hendrycks and Gimpel, 2016), the exact form.

    Of -inf it is NaN, 0 * inf, as in torch.
    """
    return _GELU(x) if fits(x) else x * _normal_cdf(x)


def _normal_cdf(x):
    return 0.5 * (1 + erf(x * _SQRT_HALF))


# Rational approximations: W. J. Cody, "Rational Chebyshev approximations for the error function",
# Mathematics of Computation 23 (1969), Tables II and III; lowest power first.
_NEAR_P = (
    3.20937758913846947e03,
    3.77485237685302021e02,
    1.13864154151050156e02,
    3.16112374387056560e00,
    1.85777706184603153e-1,
)
_NEAR_Q = (
    2.84423683343917062e03,
    1.28261652607737228e03,
    2.44024637934444173e02,
    2.36012909523441209e01,
    1.0,
)
_FAR_P = (
    1.23033935479799725e03,
    2.05107837782607147e03,
    1.71204761263407058e03,
    8.81952221241769090e02,
    2.98635138197400131e02,
    6.61191906371416295e01,
    8.88314979438837594e00,
    5.64188496988670089e-1,
    2.15311535474403846e-8,
)
_FAR_Q = (
    1.23033935480374942e03,
    3.43936767414372164e03,
    4.36261909014324716e03,
    3.29079923573345963e03,
    1.62138957456669019e03,
    5.37181101862009858e02,
    1.17693950891312499e02,
    1.57449261107098347e01,
    1.0,
)


def _polynomial(x, coefficients):
    total = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        total = total * x + c
    return total


@primitive(x=lambda xp, g, x: g * xp.exp(-x * x) * _TWO_OVER_SQRT_PI)
def erf(xp, x) -> Any:
    """The error function, 2/sqrt(pi) times the integral of exp(-t²) from 0 to x."""
    if x.dtype == getattr(xp, "float16", None):  # whose largest number is below the coefficients
        return cast(xp, erf(cast(xp, x, xp.float32)), x.dtype)
    size = xp.minimum(xp.abs(x), 6.0)  # from there on the result is 1 to double precision
    squared = size * size
    near = x * _polynomial(squared, _NEAR_P) / _polynomial(squared, _NEAR_Q)
    far = 1 - xp.exp(-squared) * _polynomial(size, _FAR_P) / _polynomial(size, _FAR_Q)
    return xp.where(size <= 0.5, near, xp.sign(x) * far)
