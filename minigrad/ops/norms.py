"""Norms of vectors and of matrices. At 0, where a norm has a kink, its derivative is taken as 0."""

import math
from numbers import Real
from typing import Any

from ..backend import check_axes, is_floating
from ..primitive import expect_arrays, primitive
from .decompositions import check_matrices, svdvals
from .elementwise import abs, square
from .elementwise import sign as _sign
from .reductions import _kept, max, min, sum
from .shaping import moveaxis, reshape


def _check_floating(op, x):
    expect_arrays(op, x)
    if not is_floating(x.dtype):
        raise TypeError(f"{op}: needs a floating-point dtype, got {x.dtype}; convert it with x.astype(...)")


def _length_rule(xp, g, x, out, axis, keepdims):
    g, out = (_kept(xp, v, x.shape, axis, keepdims) for v in (g, out))
    none = out == 0
    return g * (xp.where(none, xp.zeros_like(x), x) / xp.where(none, xp.ones_like(out), out))


@primitive(x=_length_rule)
def _length(xp, x, axis, keepdims):
    return xp.sqrt(xp.sum(xp.square(x), axis=axis, keepdims=keepdims))


def _p_norm_rule(xp, g, x, out, p, axis, keepdims):
    g, out = (_kept(xp, v, x.shape, axis, keepdims) for v in (g, out))
    none = out == 0  # all elements are 0; or one is, where p < 0
    ratio = xp.where(x == 0, xp.ones_like(x), xp.abs(x)) / xp.where(none, xp.ones_like(out), out)
    return xp.where(none, xp.zeros_like(g), g) * xp.sign(x) * ratio ** (p - 1)


@primitive(x=_p_norm_rule)
def _p_norm(xp, x, p, axis, keepdims):
    return xp.sum(xp.abs(x) ** p, axis=axis, keepdims=keepdims) ** (1 / p)


def vector_norm(x, axis=None, keepdims=False, ord: Any = 2) -> Any:
    """The norm of the vectors along `axis`: an integer, a tuple of them, or None for all axes.

    `ord` is a number p, for sum(abs(x) ** p) ** (1 / p); `inf` and `-inf` are the largest and the smallest
    abs(x), and 0 counts the elements that are not 0. Where an element is 0 its derivative is taken as 0 in
    all of them; equal extremes share theirs.
    """
    return _vector_norm("vector_norm", x, axis, keepdims, ord)


def _vector_norm(op, x, axis, keepdims, ord):
    _check_floating(op, x)
    axes = check_axes(op, axis, len(x.shape))
    if ord in (math.inf, -math.inf) and not math.prod(x.shape[a] for a in axes):
        raise ValueError(f"{op}: no elements have no extreme: shape {tuple(x.shape)}, axis={axis}")
    if ord == 2:
        return _length(x, axis, keepdims)
    if ord == 1:
        return sum(abs(x), axis, keepdims)
    if ord == math.inf:
        return max(abs(x), axis, keepdims)
    if ord == -math.inf:
        return min(abs(x), axis, keepdims)
    if ord == 0:
        return sum(square(_sign(x)), axis, keepdims)
    if not isinstance(ord, Real):
        raise ValueError(f"{op}: ord must be a number, got {ord!r}")
    return _p_norm(x, float(ord), axis, keepdims)


def matrix_norm(x, keepdims=False, ord: Any = "fro") -> Any:
    """The norm of matrices (..., m, n): 'fro', 'nuc', 1, -1, 2, -2, inf or -inf.

    'fro' is the root of the sum of squares. Of the singular values 'nuc' is the sum, 2 the largest, -2 the
    smallest; of the columns' sums of abs(x) 1 is the largest, -1 the smallest; and so for the rows inf and
    -inf. Equal extremes share the derivative, and that of a singular value that is 0 is taken as 0.
    """
    return _matrix_norm("matrix_norm", x, keepdims, ord)


def _matrix_norm(op, x, keepdims, ord):
    _check_floating(op, x)
    if len(x.shape) < 2:
        raise ValueError(f"{op}: needs matrices, got shape {tuple(x.shape)}")
    if ord == "fro":
        return _length(x, (-2, -1), keepdims)
    if ord in ("nuc", 2, -2):
        check_matrices(op, x)
        reduce = {"nuc": sum, 2: max, -2: min}[ord]
        result = reduce(svdvals(x), axis=-1)
    elif ord in (1, -1, math.inf, -math.inf):
        reduce = max if ord > 0 else min
        result = reduce(sum(abs(x), axis=-2 if ord in (1, -1) else -1), axis=-1)
    else:
        raise ValueError(f"{op}: ord must be 'fro', 'nuc', ±1, ±2 or ±inf, got {ord!r}")
    return reshape(result, (*x.shape[:-2], 1, 1)) if keepdims else result


def norm(x, ord: Any = None, axis=None, keepdims=False) -> Any:
    """NumPy's name for both: the norm of vectors where `axis` is an integer, of matrices where it is a pair.

    Without an axis x is a vector or a matrix itself. Without `ord` it is the root of the sum of squares,
    and then x without an axis may have any shape. See `vector_norm` and `matrix_norm`.
    """
    expect_arrays("norm", x)
    n = len(x.shape)
    if axis is None and ord is not None and n not in (1, 2):
        raise ValueError(f"norm: for ord={ord} x of shape {tuple(x.shape)} needs an axis, or a pair of axes")
    axes = check_axes("norm", axis, n)
    if ord is None or len(axes) == 1:
        return _vector_norm("norm", x, axes, keepdims, 2 if ord is None else ord)
    if len(axes) != 2:
        raise ValueError(f"norm: axis must be an integer or a pair of two, got {axis}")
    result = _matrix_norm("norm", moveaxis(x, axes, (-2, -1)), False, ord)
    kept = tuple(1 if i in axes else size for i, size in enumerate(x.shape))
    return reshape(result, kept) if keepdims else result
