"""Arithmetic and elementary functions, each with its derivative beside it.

`@elementwise` means: the forward function is the array library's own function of that name. Inputs are
tensors, arrays or Python numbers, of any shapes that broadcast together; dtypes follow NumPy, and a
Python number takes the dtype of what it meets.
"""

import math
from typing import Any

from ..autograd import Variable
from ..backend import SCALARS, cast, create, is_floating, move, of, refuse_dtype
from ..primitive import elementwise, expect_arrays, primitive
from .activations import sigmoid
from .dtypes import numpy_dtype, result_type


def _nothing(xp, g):
    """The derivative of a step function: zero wherever there is one."""
    return xp.zeros_like(g)


# --- arithmetic ------------------------------------------------------------------------------------


@elementwise(x=lambda g: g, y=lambda g: g)
def add(x, y) -> Any:
    """x + y."""


@elementwise(x=lambda g: g, y=lambda g: -g)
def subtract(x, y) -> Any:
    """x - y."""


@elementwise(x=lambda g, y: g * y, y=lambda g, x: g * x)
def multiply(x, y) -> Any:
    """x * y."""


@elementwise(x=lambda g, y: g / y, y=lambda g, y, out: -g * out / y)
def divide(x, y) -> Any:
    """x / y. Integers are divided as floats."""


def _pow_dx(xp, g, x, y):
    if isinstance(y, SCALARS):
        return xp.zeros_like(g) if y == 0 else g * (y * x ** (y - 1))
    y = _cast(y, g.dtype)  # small integers would overflow
    # x^0 is 1 whatever x is, and its derivative 0; where x is 0 or NaN the formula would make that NaN.
    constant = (y == 0) & ((x == 0) | (x != x))
    return g * (y * xp.where(constant, xp.ones_like(x), x) ** (y - 1))


def _pow_dy(xp, g, x, out):
    if isinstance(x, SCALARS):
        return xp.zeros_like(g) if x == 0 else g * out * (math.log(x) if x > 0 else math.nan)
    x = _cast(x, g.dtype)
    at_zero = x == 0
    return g * xp.where(at_zero, xp.zeros_like(out), out) * xp.log(xp.where(at_zero, xp.ones_like(x), x))


@elementwise(x=_pow_dx, y=_pow_dy)
def pow(x, y) -> Any:
    """x to the power of y.

    The derivative by x is 0 where y is 0, also at x = 0. That by y is taken as 0 where x is 0, and is NaN
    where x is negative. (torch has it infinite where x is 0 and y negative.)
    """


@elementwise(x=lambda g: g, y=lambda xp, g, x, y: -g * xp.floor_divide(x, y))
def remainder(x, y) -> Any:
    """The remainder of x / y, with the sign of y (Python's `%`)."""


@elementwise(x=_nothing, y=_nothing)
def floor_divide(x, y) -> Any:
    """x / y rounded down (Python's `//`). Its derivative is 0."""


def _ties_halved(xp, g, loses, ties):
    """The gradient of the input that was taken, nothing where it `loses`, half of it where both are equal."""
    return xp.where(ties, g / 2, xp.where(loses, xp.zeros_like(g), g))


@elementwise(
    x=lambda xp, g, x, y: _ties_halved(xp, g, x < y, x == y),
    y=lambda xp, g, x, y: _ties_halved(xp, g, y < x, x == y),
)
def maximum(x, y) -> Any:
    """The larger of x and y; NaN if either is NaN.

    Where both are equal, each gets half the gradient; where one is NaN, both get all of it, as in torch.
    """


@elementwise(
    x=lambda xp, g, x, y: _ties_halved(xp, g, x > y, x == y),
    y=lambda xp, g, x, y: _ties_halved(xp, g, y > x, x == y),
)
def minimum(x, y) -> Any:
    """The smaller of x and y; NaN if either is NaN.

    Where both are equal, each gets half the gradient; where one is NaN, both get all of it, as in torch.
    """


def _divisor(xp, length):
    """`length`, or infinity where it is 0: what is divided by that is 0, and so are all its derivatives."""
    return xp.where(length == 0, xp.full_like(length, math.inf), length)


def _atan2_rule(xp, g, this, other):
    this, other = (v if isinstance(v, SCALARS) else _cast(v, g.dtype) for v in (this, other))
    length = _divisor(xp, xp.hypot(this, other))
    return g * (other / length / length)


@elementwise(x=lambda xp, g, x, y: _atan2_rule(xp, g, x, y), y=lambda xp, g, x, y: -_atan2_rule(xp, g, y, x))
def atan2(x, y) -> Any:
    """The angle of the point (y, x) in radians, in [-pi, pi].

    At the origin, where the angle jumps, the derivatives are taken as 0; where x or y is infinite, they
    are NaN (as in torch, both).
    """


@elementwise(
    x=lambda xp, g, x, out: g * (x / _divisor(xp, out)),
    y=lambda xp, g, y, out: g * (y / _divisor(xp, out)),
)
def hypot(x, y) -> Any:
    """sqrt(x² + y²), without overflow in between.

    At the origin its derivatives are taken as 0, of all orders (torch's are NaN); where x or y is infinite,
    that by the infinite one is NaN.
    """


def _share(xp, g, x, y):
    """g exp(x) / (exp(x) + exp(y)), where one half goes to each of two equal infinities."""
    x, y = (xp.full_like(g, v) if isinstance(v, SCALARS) else _cast(v, g.dtype) for v in (x, y))
    same = (x == y) & xp.isinf(x)
    zero = xp.zeros_like(g)
    return g * sigmoid(xp.where(same, zero, x) - xp.where(same, zero, y))


@elementwise(x=lambda xp, g, x, y: _share(xp, g, x, y), y=lambda xp, g, x, y: _share(xp, g, y, x))
def logaddexp(x, y) -> Any:
    """log(exp(x) + exp(y)), without overflow in between.

    Infinity beside a smaller number gets all of the gradient; equal infinities get half each, -inf too.
    (torch gives NaN for those.)
    """


@elementwise(x=lambda g: -g)
def negative(x) -> Any:
    """-x."""


@elementwise(x=lambda g: g)
def positive(x) -> Any:
    """+x."""


@elementwise(x=lambda xp, g, x: g * xp.sign(x))
def abs(x) -> Any:
    """The absolute value. Its derivative at 0 is taken as 0, that of NaN is NaN (torch's is 0)."""


@elementwise(x=_nothing)
def sign(x) -> Any:
    """-1, 0 or 1. Its derivative is 0."""


@elementwise(x=lambda xp, g, x, y: g * xp.sign(x) * xp.copysign(xp.ones_like(g), y), y=_nothing)
def copysign(x, y) -> Any:
    """The magnitude of x with the sign of y, also of a zero or a NaN. Integers become floats.

    The derivative by x is 1 or -1, and 0 where x is 0, as that of `abs`; the derivative by y is 0.
    """


@elementwise(x=lambda g: g, y=_nothing)
def nextafter(x, y) -> Any:
    """The next floating-point number after x in the direction of y.

    It is x but for a rounding error, so its derivative by x is 1, and by y 0. (torch has none.)
    """


@elementwise(x=lambda g, out: g / (2 * out))
def sqrt(x) -> Any:
    """The square root. Its derivative at 0 is infinite, as in torch.

    So the gradient of sqrt(x * x) is NaN at 0 (0 * inf); that of `abs`, `hypot` and norms is 0.
    """


@elementwise(x=lambda g, x: 2 * g * x)
def square(x) -> Any:
    """x²."""


@elementwise(lambda xp, x: 1 / x, x=lambda g, out: -g * out * out)
def reciprocal(x) -> Any:
    """1 / x. Integers become floats. (NumPy's would be 0, of all but 1 and -1.)"""


@primitive(
    x=lambda xp, g, x, min, max: xp.where(_inside(xp, x, min, max), g, xp.zeros_like(g)),
    min=lambda xp, g, x, min, max: xp.where(_below(x, min, max), g, xp.zeros_like(g)),
    max=lambda xp, g, x, min, max: xp.where(_above(x, min, max), g, xp.zeros_like(g)),
)
def clip(xp, x, min=None, max=None) -> Any:
    """x, but no smaller than `min` and no larger than `max`; None means no bound.

    The bounds may be numbers or tensors. At a bound the gradient goes to x. Where min > max, the result
    is max. Where x is NaN, so is the result, and no gradient flows, as in torch.
    """
    x = +x if min is None else xp.maximum(x, min)
    return x if max is None else xp.minimum(x, max)


def _inside(xp, x, min, max):
    inside = x == x if min is None else x >= min
    return inside if max is None else inside & (x <= max)


def _below(x, min, max):
    return (x < min) if max is None else (x < min) & (min <= max)


def _above(x, min, max):
    return (x > max) if min is None else (x > max) | (min > max)


# --- of complex numbers, which tensors do not hold ---------------------------------------------------


def conj(x) -> Any:
    """x itself, for it is real."""
    expect_arrays("conj", x)
    return x


def real(x) -> Any:
    """x itself, for it is real."""
    expect_arrays("real", x)
    return x


@primitive()
def imag(xp, x) -> Any:
    """Zeros, for x is real."""
    return xp.zeros_like(x)


# --- rounding: constant almost everywhere ----------------------------------------------------------


def _whole(x):
    """Whether x is of integers, of which CuPy's functions, and NumPy's before 2.1, would make floats."""
    return "int" in str(x.dtype)


@elementwise(lambda xp, x: +x if _whole(x) else xp.floor(x), x=_nothing)
def floor(x) -> Any:
    """The largest integer not above x. Its derivative is 0."""


@elementwise(lambda xp, x: +x if _whole(x) else xp.ceil(x), x=_nothing)
def ceil(x) -> Any:
    """The smallest integer not below x. Its derivative is 0."""


@elementwise(x=_nothing)
def round(x) -> Any:
    """The nearest integer; halves go to the even one. Its derivative is 0."""


@elementwise(lambda xp, x: +x if _whole(x) else xp.trunc(x), x=_nothing)
def trunc(x) -> Any:
    """x without its fraction. Its derivative is 0."""


# --- exponentials and logarithms -------------------------------------------------------------------


@elementwise(x=lambda g, out: g * out)
def exp(x) -> Any:
    """e to the power of x."""


@elementwise(x=lambda g, out: g * (out + 1))
def expm1(x) -> Any:
    """exp(x) - 1, precise near 0."""


@elementwise(x=lambda g, x: g / x)
def log(x) -> Any:
    """The natural logarithm. Its derivative at 0 is infinite; see `where` for how to keep out of there."""


@elementwise(x=lambda g, x: g / (x + 1))
def log1p(x) -> Any:
    """log(1 + x), precise near 0."""


@elementwise(x=lambda g, x: g / (x * math.log(2)))
def log2(x) -> Any:
    """The logarithm to base 2."""


@elementwise(x=lambda g, x: g / (x * math.log(10)))
def log10(x) -> Any:
    """The logarithm to base 10."""


# --- trigonometric and hyperbolic functions; angles in radians --------------------------------------


@elementwise(x=lambda xp, g, x: g * xp.cos(x))
def sin(x) -> Any:
    """The sine."""


@elementwise(x=lambda xp, g, x: -g * xp.sin(x))
def cos(x) -> Any:
    """The cosine."""


@elementwise(x=lambda g, out: g * (1 + out * out))
def tan(x) -> Any:
    """The tangent."""


@elementwise(x=lambda xp, g, x: g / xp.sqrt((1 - x) * (1 + x)))
def asin(x) -> Any:
    """The inverse sine, in [-pi/2, pi/2]."""


@elementwise(x=lambda xp, g, x: -g / xp.sqrt((1 - x) * (1 + x)))
def acos(x) -> Any:
    """The inverse cosine, in [0, pi]."""


@elementwise(x=lambda g, x: g / (1 + x * x))
def atan(x) -> Any:
    """The inverse tangent, in [-pi/2, pi/2]."""


@elementwise(x=lambda xp, g, x: g * xp.cosh(x))
def sinh(x) -> Any:
    """The hyperbolic sine."""


@elementwise(x=lambda xp, g, x: g * xp.sinh(x))
def cosh(x) -> Any:
    """The hyperbolic cosine."""


@elementwise(x=lambda g, out: g * (1 - out * out))
def tanh(x) -> Any:
    """The hyperbolic tangent."""


@elementwise(x=lambda xp, g, x: g / xp.hypot(x, xp.ones_like(x)))
def asinh(x) -> Any:
    """The inverse hyperbolic sine."""


@elementwise(x=lambda xp, g, x: g / xp.sqrt((x - 1) * (x + 1)))
def acosh(x) -> Any:
    """The inverse hyperbolic cosine, of x >= 1."""


@elementwise(x=lambda g, x: g / ((1 - x) * (1 + x)))
def atanh(x) -> Any:
    """The inverse hyperbolic tangent, of -1 < x < 1."""


# --- choosing and converting -----------------------------------------------------------------------


@primitive(
    x=lambda xp, g, condition: xp.where(condition, g, xp.zeros_like(g)),
    y=lambda xp, g, condition: xp.where(condition, xp.zeros_like(g), g),
)
def where(xp, condition, x, y) -> Any:
    """x where `condition` (bool) is true, else y; the three broadcast together.

    Of two Python numbers the result has the dtype that `result_type` gives for them.

    The one that was not taken gets a gradient of 0 there, whatever the gradient of the result is. But if
    it was computed by a function whose derivative is infinite there, that makes NaN of the 0: so guard
    what goes into the function, not what comes out (in torch and JAX, too).

    >>> import minigrad as mg
    >>> x = mg.tensor([0.0, 4.0], requires_grad=True)
    >>> positive = x > 0
    >>> y = mg.where(positive, mg.sqrt(mg.where(positive, x, 1.0)), 0.0)
    >>> y.sum().backward()
    >>> x.grad.tolist()
    [0.0, 0.25]
    """
    if not hasattr(condition, "dtype") and not isinstance(condition, SCALARS):  # NumPy would take its truth
        raise TypeError(f"the condition must be a tensor of bools, got {type(condition).__name__}")
    if isinstance(x, SCALARS) and isinstance(y, SCALARS):
        x = create(xp, "asarray", x, dtype=result_type(x, y), like=condition)
    return xp.where(condition, x, y)


@primitive(x=lambda g: g)
def _cast(xp, x, dtype):
    return cast(xp, x, dtype)


@primitive()
def _cast_away(xp, x, dtype):
    return cast(xp, x, dtype)


def _back(g, device, source) -> Any:
    return _to(g, source, device)


@primitive(x=_back)
def _to(xp, x, device, source) -> Any:
    return move(x, device)


def astype(x, dtype, copy=True, device=None) -> Any:
    """x converted to `dtype`, and moved to `device` if one is named.

    The gradient is converted and moved back; to integers and bools none flows. `copy=False` gives x itself
    where nothing changes.
    """
    expect_arrays("astype", x)
    refuse_dtype("astype", dtype)
    data = x._data if isinstance(x, Variable) else x
    if copy or numpy_dtype("astype", data) != numpy_dtype("astype", dtype):
        x = (_cast if is_floating(dtype) else _cast_away)(x, dtype)
    source = None if device is None else of(data)
    return x if source is None or source.name == device else _to(x, device, source.name)
