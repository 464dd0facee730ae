"""Matrices taken apart: cholesky, qr, eigh, svd, and the eigenvalues or singular values alone.

An op of the engine has one result. So a decomposition packs its parts into one array, of which its
public function gives out views, and its rule finds their gradients packed in the same way.

Every rule solves for the change of the factors to first order. Two vectors of an eigenbasis mix with a
weight of 1 / (the distance of their eigenvalues). Where that distance is no more than rounding makes of 0
they may mix at will, and the weight is taken as 0: gradients stay finite. They are right there for what
treats such vectors as one space, like its projector or the sum of its eigenvalues, but for other results,
and in second derivatives, the terms of the mixing are missing.
"""

import math
from typing import Any, NamedTuple

from numpy.linalg import LinAlgError

from ..primitive import expect_arrays, primitive
from .shaping import expand_dims, matrix_transpose, reshape


class EighResult(NamedTuple):
    """What `eigh` gives."""

    eigenvalues: Any
    eigenvectors: Any


class QRResult(NamedTuple):
    """What `qr` gives."""

    Q: Any
    R: Any


class SVDResult(NamedTuple):
    """What `svd` gives."""

    U: Any
    S: Any
    Vh: Any


def check_matrices(op, x, square=False) -> None:
    """Raise unless x is a matrix, or a stack of them in its last two axes, that LAPACK can compute with."""
    expect_arrays(op, x)
    if len(x.shape) < 2 or (square and x.shape[-1] != x.shape[-2]):
        raise LinAlgError(f"{op}: needs {'square ' * square}matrices, got shape {tuple(x.shape)}")
    if not str(x.dtype).endswith(("float32", "float64")):
        raise TypeError(
            f"{op}: computes in float32 and float64, got {x.dtype}; convert it, as with x.astype(mg.float32)"
        )


def epsilon(dtype) -> float:
    """The distance from 1 to the next number, in float32 or float64."""
    return 2.0**-23 if str(dtype).endswith("32") else 2.0**-52


def _pack(xp, batch, *parts):
    """Arrays that begin with the axes `batch` as one array, all other axes of all of them in its last."""
    rows = [xp.reshape(part, (*batch, math.prod(part.shape[len(batch) :]))) for part in parts]
    return xp.concat(rows, axis=-1)


def _unpack(packed, *shapes):
    """The arrays that were packed, given their shapes without the batch: views."""
    parts, end = [], 0
    for shape in shapes:
        start, end = end, end + math.prod(shape)
        parts.append(reshape(packed[..., start:end], (*packed.shape[:-1], *shape)))
    return parts


def _is_rounding(xp, x, largest):
    """Whether x may be what rounding made of 0, among values up to `largest`.

    Equal eigenvalues and singular values of up to 100 rows were seen to come out 13 epsilons apart.
    """
    return xp.abs(x) <= largest * (16 * epsilon(x.dtype))


def _inverse(xp, x, largest):
    """1 / x, but 0 where x may be 0."""
    none = _is_rounding(xp, x, largest)
    return xp.where(none, xp.zeros_like(x), 1 / xp.where(none, xp.ones_like(x), x))


def _symmetric(x):
    return (x + x.mT) / 2


# --- cholesky --------------------------------------------------------------------------------------


def _cholesky_rule(xp, g, out):
    inner = out.mT @ g
    inner = xp.tril(inner, k=0) + xp.tril(inner, k=-1)
    upper = out.mT
    return _symmetric(xp.linalg.solve(upper, xp.linalg.solve(upper, inner).mT)) / 2


@primitive("its eigenvalues must be above 0", x=_cholesky_rule)
def _cholesky(xp, x):
    return xp.linalg.cholesky(x)


def cholesky(x, upper=False) -> Any:
    """The lower triangular L with L @ L.mT = x, of symmetric, positive definite matrices (..., n, n).

    `upper=True` gives L.mT. Only the lower triangle of x is read; the gradient is symmetric: that of
    changes which keep x symmetric.

    Raises `numpy.linalg.LinAlgError`, a `ValueError`, where x is not square or not positive definite.
    (CuPy gives NaN then, unless `cupyx.errstate(linalg="raise")` is set.)

    >>> import minigrad as mg
    >>> mg.linalg.cholesky(mg.tensor([[4.0, 2.0], [2.0, 5.0]])).tolist()
    [[2.0, 0.0], [1.0, 2.0]]
    """
    check_matrices("cholesky", x, square=True)
    lower = _cholesky(x)
    return matrix_transpose(lower) if upper else lower


# --- qr --------------------------------------------------------------------------------------------


def _first(q, g, k):
    """The first k columns of the orthogonal q, with the gradient of all columns, that of the rest included.

    The rest is at right angles to them: what turns one of the first to one of the rest turns that back.
    """
    first, rest = q[..., :k], q[..., k:]
    return first, g[..., :k] - rest @ (g[..., k:].mT @ first)


def _qr_sizes(shape, mode):
    m, n = shape[-2:]
    k = m if mode == "complete" else min(m, n)
    return (m, k), (k, n)


def _qr_rule(xp, g, out, shape, mode):
    m, n = shape[-2:]
    k = min(m, n)
    sizes = _qr_sizes(shape, mode)
    (q, r), (gq, gr) = _unpack(out, *sizes), _unpack(g, *sizes)
    q, gq = _first(q, gq, k)
    # The first k columns of x alone determine q; the others are q @ beside.
    r, beside, gr, g_beside = r[..., :k, :k], r[..., :k, k:], gr[..., :k, :k], gr[..., :k, k:]
    gq = gq + (q @ beside) @ g_beside.mT
    inner = r @ gr.mT - gq.mT @ q
    inner = xp.tril(inner, k=0) + xp.tril(inner, k=-1).mT
    gx = xp.linalg.solve(r, (gq + q @ inner).mT).mT
    return xp.concat([gx, q @ g_beside], axis=-1) if n > m else gx


@primitive(x=_qr_rule)
def _qr(xp, x, mode):
    return _pack(xp, x.shape[:-2], *xp.linalg.qr(x, mode=mode))


def qr(x, mode="reduced") -> QRResult:
    """Q with orthogonal columns and upper triangular R, of which x = Q @ R, for matrices (..., m, n).

    With k = min(m, n), Q is (..., m, k) and R (..., k, n); for `mode="complete"` they are (..., m, m) and
    (..., m, n). The signs in them are LAPACK's choice.

    Differentiable where the first k columns of x are linearly independent (elsewhere backward raises
    `numpy.linalg.LinAlgError`). The columns of Q beyond the k-th are any basis of what is left: their
    gradient is right for what does not depend on which. (torch refuses it.)
    """
    check_matrices("qr", x)
    if mode not in ("reduced", "complete"):
        raise ValueError(f"qr: mode must be 'reduced' or 'complete', got {mode!r}")
    return QRResult(*_unpack(_qr(x, mode), *_qr_sizes(x.shape, mode)))


# --- eigh ------------------------------------------------------------------------------------------


def _eigh_rule(xp, g, out, shape):
    n = shape[-1]
    (w, v), (gw, gv) = (_unpack(packed, (n,), (n, n)) for packed in (out, g))
    apart = expand_dims(w, -2) - expand_dims(w, -1)
    largest = expand_dims(xp.maximum(xp.abs(w[..., :1]), xp.abs(w[..., -1:])), -1)
    mixing = (v.mT @ gv) * _inverse(xp, apart, largest)
    return _symmetric((v @ mixing + v * expand_dims(gw, -2)) @ v.mT)


@primitive(x=_eigh_rule)
def _eigh(xp, x):
    return _pack(xp, x.shape[:-2], *xp.linalg.eigh(x))


def eigh(x) -> EighResult:
    """The eigenvalues (..., n), in ascending order, and eigenvectors, as columns, of symmetric matrices.

    x = v @ diag(w) @ v.mT. Only the lower triangle of x is read, and its gradient is symmetric. The
    signs of the vectors are LAPACK's choice: gradients make sense for results that do not depend on it.

    Where eigenvalues are equal, the basis of their common space is LAPACK's choice, too. Its mixing is
    taken as 0 in gradients, which stay finite, and are right for the projector on that space and for the
    sum of its eigenvalues. (In torch they are infinite or NaN there.)

    >>> import minigrad as mg
    >>> w, v = mg.linalg.eigh(mg.tensor([[2.0, 0.0], [0.0, 1.0]]))
    >>> w.tolist()
    [1.0, 2.0]
    """
    check_matrices("eigh", x, square=True)
    n = x.shape[-1]
    return EighResult(*_unpack(_eigh(x), (n,), (n, n)))


def _eigvalsh_rule(xp, g, x):
    _, v = xp.linalg.eigh(x)
    return (v * expand_dims(g, -2)) @ v.mT


@primitive(x=_eigvalsh_rule)
def _eigvalsh(xp, x):
    return xp.linalg.eigvalsh(x)


def eigvalsh(x) -> Any:
    """The eigenvalues (..., n) of symmetric matrices, in ascending order; see `eigh`.

    First derivatives are right for all results that treat equal eigenvalues alike, as a sum of any
    function of them does. In second derivatives the mixing of equal ones is taken as 0.
    """
    check_matrices("eigvalsh", x, square=True)
    return _eigvalsh(x)


# --- svd -------------------------------------------------------------------------------------------


def _svd_sizes(shape, full):
    m, n = shape[-2:]
    k = min(m, n)
    return (m, m if full else k), (k,), (n if full else k, n)


def _svd_rule(xp, g, out, shape, full):
    m, n = shape[-2:]
    k = min(m, n)
    sizes = _svd_sizes(shape, full)
    (u, s, vh), (gu, gs, gvh) = _unpack(out, *sizes), _unpack(g, *sizes)
    u, gu = _first(u, gu, k)
    v, gv = _first(vh.mT, gvh.mT, k)
    in_u, in_v = u.mT @ gu, v.mT @ gv
    turn_u, turn_v = in_u - in_u.mT, in_v - in_v.mT
    row, column = expand_dims(s, -2), expand_dims(s, -1)
    largest = row[..., :1]
    # What turns u and v together depends on the distance of two singular values, what turns them against
    # each other on their sum: so x's polar factor u @ vh has its derivative where they are equal, too.
    mixing = (turn_u + turn_v) * _inverse(xp, row - column, largest)
    mixing = (mixing + (turn_u - turn_v) * _inverse(xp, row + column, largest)) / 2
    left = u @ mixing + u * expand_dims(gs, -2)
    inverse = _inverse(xp, row, largest)
    if m > n:
        left = left + (gu - u @ in_u) * inverse
    gx = left @ v.mT
    return gx + (u * inverse) @ (gv - v @ in_v).mT if n > m else gx


@primitive(x=_svd_rule)
def _svd(xp, x, full):
    return _pack(xp, x.shape[:-2], *xp.linalg.svd(x, full_matrices=full))


def svd(x, full_matrices=True) -> SVDResult:
    """The singular value decomposition x = U @ diag(S) @ Vh of matrices (..., m, n).

    With k = min(m, n), S is (..., k), in descending order, U (..., m, m) and Vh (..., n, n); without
    `full_matrices`, which is cheaper, they are (..., m, k) and (..., k, n).

    The signs of the vectors are LAPACK's choice, as is the basis of those beyond the k-th: gradients make
    sense for results that do not depend on it. (torch refuses those of `full_matrices`.) Where singular
    values are equal, gradients stay finite, as those of `eigh`; U @ Vh has its right one.

    >>> import minigrad as mg
    >>> mg.linalg.svd(mg.tensor([[0.0, 2.0], [1.0, 0.0]])).S.tolist()
    [2.0, 1.0]
    """
    check_matrices("svd", x)
    full = bool(full_matrices)
    return SVDResult(*_unpack(_svd(x, full), *_svd_sizes(x.shape, full)))


def _svdvals_rule(xp, g, x):
    u, s, vh = xp.linalg.svd(x, full_matrices=False)
    g = xp.where(_is_rounding(xp, s, s[..., :1]), xp.zeros_like(g), g)
    return (u * expand_dims(g, -2)) @ vh


@primitive(x=_svdvals_rule)
def _svdvals(xp, x):
    if hasattr(xp.linalg, "svdvals"):
        return xp.linalg.svdvals(x)
    return xp.linalg.svd(x, compute_uv=False)  # CuPy


def svdvals(x) -> Any:
    """The singular values (..., min(m, n)) of matrices (..., m, n), in descending order; see `svd`.

    One that is 0 has a kink there, as abs has: its derivative is taken as 0.
    """
    check_matrices("svdvals", x)
    return _svdvals(x)
