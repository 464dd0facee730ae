"""Sums, extremes, statistics: functions that take axes away, or run along one.

`axis` is None (all axes), an integer, or a tuple of integers; negative ones count from the end. With
`keepdims` the reduced axes stay, with length 1.
"""

import math
from typing import Any

from ..backend import check_axes, is_bool, refuse_dtype
from ..primitive import expect_arrays, primitive
from .elementwise import astype


def _axes(axis, ndim):
    """`axis` as a tuple of integers from 0 to ndim - 1."""
    if axis is None:
        return tuple(range(ndim))
    return tuple(a % ndim for a in (axis if isinstance(axis, tuple) else (axis,)))


def _kept(xp, reduced, shape, axis, keepdims):
    """`reduced`, with the axes that were taken from `shape` put back, of length 1."""
    if keepdims:
        return reduced
    axes = _axes(axis, len(shape))
    return xp.reshape(reduced, tuple(1 if i in axes else size for i, size in enumerate(shape)))


def _count(shape, axis):
    """How many elements go into each result."""
    return math.prod(shape[a] for a in _axes(axis, len(shape)))


def _spread(xp, g, shape, axis, keepdims):
    """`g` repeated over the reduced axes: what each element of a sum receives."""
    return xp.broadcast_to(_kept(xp, g, shape, axis, keepdims), shape)


# --- sums and products -----------------------------------------------------------------------------


@primitive(x=_spread)
def _sum(xp, x, axis=None, keepdims=False):
    return xp.sum(x, axis=axis, keepdims=keepdims)


def sum(x, axis=None, keepdims=False, dtype=None) -> Any:
    """The sum of the elements, in `dtype` if one is given, to which x is converted before.

    Bools and small integers are summed as the default integers.
    """
    if dtype is None:
        return _sum(x, axis, keepdims)
    expect_arrays("sum", x)
    refuse_dtype("sum", dtype)
    return astype(_sum(astype(x, dtype), axis, keepdims), dtype)


def count_nonzero(x, axis=None, keepdims=False) -> Any:
    """How many elements are not 0 (NaN counts), as an integer."""
    expect_arrays("count_nonzero", x)
    check_axes("count_nonzero", axis, len(x.shape))
    return sum(astype(x if is_bool(x.dtype) else x != 0, int), axis, keepdims)


@primitive(
    x=lambda xp, g, shape, axis, keepdims: _spread(
        xp, g * (1 / (_count(shape, axis) or 1)), shape, axis, keepdims
    )
)
def mean(xp, x, axis=None, keepdims=False) -> Any:
    """The mean of the elements."""
    return xp.mean(x, axis=axis, keepdims=keepdims)


def _products_of_others(xp, x, axis):
    """For each element, the product of the others along `axis`: right where some are 0, too.

    It is the product of all before it times that of all after it, each found by doubling.
    """
    axes = _axes(axis, x.ndim)
    rest = tuple(a for a in range(x.ndim) if a not in axes)
    lead = tuple(x.shape[a] for a in rest)
    rows = xp.reshape(xp.permute_dims(x, rest + axes), (*lead, _count(x.shape, axis)))
    n = rows.shape[-1]
    before = xp.concat([xp.ones_like(rows[..., :1]), rows[..., :-1]], axis=-1)
    after = xp.concat([rows[..., 1:], xp.ones_like(rows[..., :1])], axis=-1)
    step = 1
    while step < n:
        ones = xp.ones_like(rows[..., :step])
        before = before * xp.concat([ones, before[..., :-step]], axis=-1)
        after = after * xp.concat([after[..., step:], ones], axis=-1)
        step *= 2
    others = xp.reshape(before * after, lead + tuple(x.shape[a] for a in axes))
    order = rest + axes
    return xp.permute_dims(others, tuple(order.index(a) for a in range(x.ndim)))


@primitive(
    x=lambda xp, g, x, axis, keepdims: (
        _kept(xp, g, x.shape, axis, keepdims) * _products_of_others(xp, x, axis)
    )
)
def _prod(xp, x, axis, keepdims):
    return xp.prod(x, axis=axis, keepdims=keepdims)


def prod(x, axis=None, keepdims=False, dtype=None) -> Any:
    """The product of the elements, in `dtype` if one is given, to which x is converted before.

    Bools and small integers are multiplied as the default integers. The gradient is right where elements
    are 0, too, to any order.
    """
    if dtype is None:
        return _prod(x, axis, keepdims)
    expect_arrays("prod", x)
    refuse_dtype("prod", dtype)
    return astype(_prod(astype(x, dtype), axis, keepdims), dtype)


# --- extremes --------------------------------------------------------------------------------------


def _shared_among_ties(xp, g, x, out, axis, keepdims):
    """The gradient of an extreme value, in equal shares to all elements that have it."""
    hit = astype(x == _kept(xp, out, x.shape, axis, keepdims), x.dtype)
    return _kept(xp, g, x.shape, axis, keepdims) * hit / xp.sum(hit, axis=axis, keepdims=True)


@primitive(x=_shared_among_ties)
def max(xp, x, axis=None, keepdims=False) -> Any:
    """The largest element; NaN if any element is. Equal largest ones share the gradient equally.

    (`torch.max` with an axis gives one of them all; `torch.amax` shares as here.) Where the result is NaN,
    all gradients are.
    """
    return xp.max(x, axis=axis, keepdims=keepdims)


@primitive(x=_shared_among_ties)
def min(xp, x, axis=None, keepdims=False) -> Any:
    """The smallest element; NaN if any element is. Equal smallest ones share the gradient equally.

    Where the result is NaN, all gradients are.
    """
    return xp.min(x, axis=axis, keepdims=keepdims)


@primitive()
def argmax(xp, x, axis=None, keepdims=False) -> Any:
    """Where the largest element is, as an integer: along `axis`, or in the flattened array."""
    return xp.argmax(x, axis=axis, keepdims=keepdims)


@primitive()
def argmin(xp, x, axis=None, keepdims=False) -> Any:
    """Where the smallest element is, as an integer: along `axis`, or in the flattened array."""
    return xp.argmin(x, axis=axis, keepdims=keepdims)


@primitive()
def all(xp, x, axis=None, keepdims=False) -> Any:
    """Whether all elements are true."""
    return xp.all(x, axis=axis, keepdims=keepdims)


@primitive()
def any(xp, x, axis=None, keepdims=False) -> Any:
    """Whether any element is true."""
    return xp.any(x, axis=axis, keepdims=keepdims)


# --- statistics ------------------------------------------------------------------------------------


def _centred(xp, x, axis):
    return x - xp.mean(x, axis=axis, keepdims=True)


def _degrees(shape, axis, correction):
    """n - correction; NaN where that leaves nothing, so that the variance is."""
    n = _count(shape, axis)
    return n - correction if n > correction else math.nan


def _variance(xp, x, axis, correction, keepdims):
    total = xp.sum(xp.square(_centred(xp, x, axis)), axis=axis, keepdims=keepdims)
    return total / _degrees(x.shape, axis, correction)


@primitive(
    x=lambda xp, g, x, axis, correction, keepdims: (
        _kept(xp, g, x.shape, axis, keepdims)
        * _centred(xp, x, axis)
        * (2 / _degrees(x.shape, axis, correction))
    )
)
def var(xp, x, axis=None, correction=0.0, keepdims=False) -> Any:
    """The variance: squared distances from the mean, summed, over n - `correction`.

    `correction=1` gives the unbiased estimate, which is torch's default; 0 is the standard's. Of no more
    than `correction` elements it is NaN.
    """
    return _variance(xp, x, axis, correction, keepdims)


def _std_dx(xp, g, x, out, axis, correction, keepdims):
    out = xp.where(out == 0, xp.ones_like(out), out)  # where it is 0, so is the distance from the mean
    g = _kept(xp, g / out, x.shape, axis, keepdims)
    return g * _centred(xp, x, axis) * (1 / _degrees(x.shape, axis, correction))


@primitive(x=_std_dx)
def std(xp, x, axis=None, correction=0.0, keepdims=False) -> Any:
    """The standard deviation: the square root of `var`. Where all elements are equal its gradient is 0."""
    return xp.sqrt(_variance(xp, x, axis, correction, keepdims))


# --- sums of exponentials, safe from overflow ------------------------------------------------------


def _finite(xp, x):
    """`x`, with 0 in place of infinities: something that can be subtracted from them."""
    return xp.where(xp.isfinite(x), x, xp.zeros_like(x))


@primitive(
    x=lambda xp, g, x, out, axis, keepdims: (
        _kept(xp, g, x.shape, axis, keepdims)
        * xp.exp(x - _kept(xp, xp.where(out == -math.inf, xp.zeros_like(out), out), x.shape, axis, keepdims))
    )
)
def logsumexp(xp, x, axis=None, keepdims=False) -> Any:
    """log(sum(exp(x))), without overflow.

    Elements of -inf count as nothing, and get no gradient. Of nothing but them the result is -inf, with no
    gradient either (torch's is NaN). Infinity gives infinity, and as its own gradient NaN, as in torch.
    """
    top = _finite(xp, xp.max(x, axis=axis, keepdims=True)) * 1.0  # from which integers cannot overflow
    total = xp.sum(xp.exp(x - top), axis=axis, keepdims=keepdims)
    return xp.log(total) + xp.reshape(top, total.shape)
