"""Linear algebra, as `minigrad.linalg`: what the Array API standard has under that name, and NumPy's norm.

Matrices are the last two axes of their arrays, the axes before are a batch. What is computed by LAPACK
needs float32 or float64: other dtypes are refused. (NumPy converts integers; none of the libraries has
float16.) Where a matrix is singular, or not positive definite, NumPy raises `numpy.linalg.LinAlgError`,
a `ValueError`; CuPy gives infinities or NaN, unless `cupyx.errstate(linalg="raise")` is set.
"""

from typing import Any, NamedTuple

import numpy
from numpy.linalg import LinAlgError

from ..backend import SCALARS, create, integer
from ..primitive import expect_arrays, primitive
from .decompositions import (
    EighResult,
    QRResult,
    SVDResult,
    check_matrices,
    cholesky,
    eigh,
    eigvalsh,
    epsilon,
    qr,
    svd,
    svdvals,
)
from .elementwise import astype, positive
from .norms import matrix_norm, norm, vector_norm
from .products import cross, identity, matmul, outer, tensordot, vecdot
from .products import diagonal as _diagonal
from .products import trace as _trace
from .reductions import _products_of_others
from .reductions import sum as _sum
from .shaping import broadcast_to, common_shape, expand_dims, matrix_transpose, reshape, squeeze

__all__ = [
    "EighResult",
    "QRResult",
    "SVDResult",
    "SlogdetResult",
    "cholesky",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "norm",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]


def diagonal(x, offset=0) -> Any:
    """The diagonals of matrices (..., m, n), `offset` above the main one, or below it if negative.

    (`minigrad.diagonal`, as NumPy's and torch's, takes the first two axes.)
    """
    return _diagonal(x, offset, -2, -1)


def trace(x, offset=0, dtype=None) -> Any:
    """The sums of the diagonals of matrices (..., m, n); see `diagonal`."""
    return _trace(x, offset, -2, -1, dtype)


# --- equations and inverses ------------------------------------------------------------------------


@primitive(
    "a must have an inverse, and the axes before the last two must broadcast",
    a=lambda g, a, out: -solve(a.mT, g) @ out.mT,
    b=lambda g, a: solve(a.mT, g),
)
def _solve(xp, a, b):
    # CuPy's does not broadcast.
    batch = numpy.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (v if v.shape[:-2] == batch else xp.broadcast_to(v, (*batch, *v.shape[-2:])) for v in (a, b))
    return xp.linalg.solve(a, b)


def solve(a, b) -> Any:
    """The x with a @ x = b, for square matrices a (..., n, n) and b (..., n, k), or a vector b (n,).

    The axes before broadcast. Only a b of one axis is a vector, as in the standard and NumPy 2.

    Raises `numpy.linalg.LinAlgError`, a `ValueError`, where a is singular; `pinv` takes it still.

    >>> import minigrad as mg
    >>> mg.linalg.solve(mg.tensor([[2.0, 0.0], [0.0, 4.0]]), mg.tensor([1.0, 1.0])).tolist()
    [0.5, 0.25]
    """
    expect_arrays("solve", a, b)
    got = f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
    check_matrices("solve", a, square=True)
    is_vector = len(b.shape) == 1
    columns = expand_dims(b, -1) if is_vector else b
    check_matrices("solve", columns)
    if columns.shape[-2] != a.shape[-1]:
        raise LinAlgError(f"solve: b must have as many rows as a, got {got}")
    try:
        numpy.broadcast_shapes(a.shape[:-2], columns.shape[:-2])
    except ValueError:
        raise ValueError(f"solve: the axes before the last two must broadcast, got {got}") from None
    x = _solve(a, columns)
    return squeeze(x, -1) if is_vector else x


@primitive("pinv gives an inverse of a singular one, too", x=lambda g, out: -out.mT @ g @ out.mT)
def _inv(xp, x):
    return xp.linalg.inv(x)


def inv(x) -> Any:
    """The inverse of square matrices (..., n, n). To solve equations, `solve` is faster and more precise.

    Raises `numpy.linalg.LinAlgError`, a `ValueError`, where x is singular.
    """
    check_matrices("inv", x, square=True)
    return _inv(x)


def _check_rtol(op, x, rtol):
    if hasattr(rtol, "shape"):
        expect_arrays(op, x, rtol)
        common_shape(op, tuple(x.shape[:-2]), tuple(rtol.shape))
    elif rtol is not None and not isinstance(rtol, SCALARS):
        raise TypeError(f"{op}: rtol must be a number or an array, got {type(rtol).__name__}")


def _cutoff(x, s, rtol):
    """The largest singular value that counts as 0; `s` are all of them, in descending order."""
    if rtol is None:
        rtol = max(x.shape[-2:]) * epsilon(x.dtype)
    elif hasattr(rtol, "shape"):
        rtol = expand_dims(rtol, -1)
    return rtol * s[..., :1]


def _pinv_rule(g, x, out):
    g, p, pt = g.mT, out, out.mT
    return (g - x @ (p @ g)) @ p @ pt + pt @ p @ (g - (g @ p) @ x) - pt @ g.mT @ pt


@primitive(x=_pinv_rule)
def _pinv(xp, x, rtol):
    u, s, vh = xp.linalg.svd(x, full_matrices=False)
    none = s <= _cutoff(x, s, rtol)
    inverse = xp.where(none, xp.zeros_like(s), 1 / xp.where(none, xp.ones_like(s), s))
    return (vh.mT * expand_dims(inverse, -2)) @ u.mT


def pinv(x, rtol=None) -> Any:
    """The pseudo-inverse (..., n, m) of matrices (..., m, n), of Moore and Penrose.

    pinv(a) @ b is the x that brings a @ x closest to b, and the shortest such.

    Singular values not above `rtol` times the largest count as 0; `rtol` is a number or an array of the
    batch's shape, by default max(m, n) times the dtype's epsilon. (NumPy's default is 1e-15.) The gradient
    is right where small changes leave the rank as it is.
    """
    check_matrices("pinv", x)
    _check_rtol("pinv", x, rtol)
    return _pinv(x, rtol)


def matrix_rank(x, rtol=None) -> Any:
    """How many singular values of each matrix (..., m, n) are above `rtol` times the largest: integers.

    `rtol` is as in `pinv`. (NumPy's `tol` is not relative.)
    """
    check_matrices("matrix_rank", x)
    _check_rtol("matrix_rank", x, rtol)
    s = svdvals(x)
    return _sum(astype(s > _cutoff(x, s, rtol), int), axis=-1)


def matrix_power(x, n) -> Any:
    """The product of n factors x, square matrices (..., m, m); n < 0 takes their inverses, 0 the identity."""
    check_matrices("matrix_power", x, square=True)
    n = integer("matrix_power", "n", n)
    if n == 0:
        return broadcast_to(identity(x, x.shape[-1]), x.shape)
    if n < 0:
        try:
            x, n = inv(x), -n
        except LinAlgError as error:
            raise LinAlgError(f"matrix_power: n={n} takes the inverse: {error}") from None
    result = None
    while True:
        if n & 1:
            result = positive(x) if result is None else matmul(result, x)
        n >>= 1
        if not n:
            return result
        x = matmul(x, x)


# --- determinants ----------------------------------------------------------------------------------


class SlogdetResult(NamedTuple):
    """What `slogdet` gives."""

    sign: Any
    logabsdet: Any


def _as_matrices(x):
    return reshape(x, (*x.shape, 1, 1))


def _slogdet_rule(xp, g, x):
    return _as_matrices(g[..., 1]) * xp.linalg.inv(x).mT


@primitive(x=_slogdet_rule)
def _slogdet(xp, x):
    return xp.stack(tuple(xp.linalg.slogdet(x)), axis=-1)


def slogdet(x) -> SlogdetResult:
    """The sign of the determinant of matrices (..., n, n), and the logarithm of its absolute value.

    They are safe from overflow where `det` is not. The derivative of the sign is 0. Of a singular matrix
    they are 0 and -inf, with no gradient: backward raises `numpy.linalg.LinAlgError`.
    """
    check_matrices("slogdet", x, square=True)
    packed = _slogdet(x)
    return SlogdetResult(packed[..., 0], packed[..., 1])


@primitive(x=lambda g, x: _as_matrices(g) * _cofactors(x))
def _det(xp, x):
    return xp.linalg.det(x)


def det(x) -> Any:
    """The determinant of square matrices (..., n, n).

    Its first and second derivatives are right for singular matrices, too, which takes a singular value
    decomposition: those of `slogdet` are cheaper. For the third ones x must have an inverse.
    """
    check_matrices("det", x, square=True)
    return _det(x)


# The derivatives of the determinant are polynomials, which must not be divided by a determinant that may
# be 0. With x = u @ diag(s) @ vh they are those of a diagonal matrix, turned back by u and vh.


def _turned(xp, x):
    """The singular value decomposition of x, with det(u) * det(vh) as factor on u."""
    u, s, vh = xp.linalg.svd(x)
    return u, s, vh, expand_dims(xp.sign(xp.linalg.det(u) * xp.linalg.det(vh)), -1)


def _det_curvature_dh(g, x) -> Any:
    return _det_curvature(x, g)


@primitive(x=_det_curvature_dh)
def _cofactors(xp, x):
    """The gradient of det(x)."""
    u, s, vh, sign = _turned(xp, x)
    return (u * expand_dims(sign * _products_of_others(xp, s, -1), -2)) @ vh


def _det_curvature_dx(g, x, h):
    y = matrix_transpose(inv(x))
    ygy, yhy = y @ g.mT @ y, y @ h.mT @ y
    yg, yh, ghy = (_sum(v, axis=(-2, -1), keepdims=True) for v in (y * g, y * h, ygy * h))
    change = y * (yg * yh - ghy) - ygy * yh - yhy * yg + ygy @ h.mT @ y + yhy @ g.mT @ y
    return _as_matrices(det(x)) * change


@primitive(x=_det_curvature_dx, h=_det_curvature_dh)
def _det_curvature(xp, x, h):
    """The gradient of sum(h * _cofactors(x)): the second derivative of det at x, applied to h.

    At a diagonal matrix the cofactor of (i, i) changes with each (j, j), and that of (i, j) with (j, i),
    both by the product of all s but the i-th and the j-th.
    """
    u, s, vh, sign = _turned(xp, x)
    eye = create(xp, "eye", x.shape[-1], dtype=x.dtype, like=x)
    h = u.mT @ h @ vh.mT
    one_for_i = xp.where(eye == 1, xp.ones_like(x), expand_dims(s, -2))
    # On the diagonal they cancel below, but not to the last digit.
    others = _products_of_others(xp, one_for_i, -1) * (1 - eye)
    along = expand_dims(xp.sum(h * eye, axis=-1), -2)
    change = expand_dims(xp.sum(others * along, axis=-1), -2) * eye - others * h.mT
    return (u * expand_dims(sign, -2)) @ change @ vh
