"""Softmax and its logarithm: along the last axis of float arrays by kernels, in two passes over each row."""

from typing import Any

from ..kernels import RowKernel, fits
from ..primitive import primitive

_SOFTMAX = RowKernel(
    "T x",
    "T y",
    """
    const T top = MAX(x[j]);
    EACH(y[j] = fast_exp(x[j] - top))
    const T scale = 1 / SUM(y[j]);
    EACH(y[j] *= scale)
    """,
    "softmax",
)

_SOFTMAX_DX = RowKernel(
    "T g, T y", "T dx", "const T mean = SUM(g[j] * y[j]); EACH(dx[j] = y[j] * (g[j] - mean))", "softmax_dx"
)

_LOG_SOFTMAX = RowKernel(
    "T x",
    "T y",
    """
    const T top = MAX(x[j]);
    const T rest = log(SUM(fast_exp(x[j] - top)));
    EACH(y[j] = (x[j] - top) - rest)
    """,
    "log_softmax",
)

_LOG_SOFTMAX_DX = RowKernel(
    "T g, T y",
    "T dx",
    "const T total = SUM(g[j]); EACH(dx[j] = g[j] - fast_exp(y[j]) * total)",
    "log_softmax_dx",
)


def _is_last(axis, x):
    return axis in (-1, len(x.shape) - 1)


def _softmax_dx(xp, g, out, axis):
    if _is_last(axis, g) and fits(g):
        return _SOFTMAX_DX(g, out)
    return out * (g - xp.sum(g * out, axis=axis, keepdims=True))


@primitive(x=_softmax_dx)
def softmax(xp, x, axis=-1) -> Any:
    """exp(x) / sum(exp(x)) along `axis`, by default the last.

    Elements of -inf get 0, and no gradient: so they mask. Of nothing but -inf the result is NaN, 0/0, as
    in torch; so it is beside infinity or NaN.
    """
    if _is_last(axis, x) and fits(x):
        return _SOFTMAX(x)
    e = xp.exp(x - xp.max(x, axis=axis, keepdims=True) * 1.0)  # small integers would overflow
    e /= xp.sum(e, axis=axis, keepdims=True)
    return e


def _log_softmax_dx(xp, g, out, axis):
    if _is_last(axis, g) and fits(g):
        return _LOG_SOFTMAX_DX(g, out)
    return g - xp.exp(out) * xp.sum(g, axis=axis, keepdims=True)


@primitive(x=_log_softmax_dx)
def log_softmax(xp, x, axis=-1) -> Any:
    """log(softmax(x)) along `axis`, by default the last: exact where softmax would round to 0.

    Elements of -inf stay that, and do not count for the others. Of nothing but -inf the result is NaN, as
    it is beside infinity or NaN.
    """
    if _is_last(axis, x) and fits(x):
        return _LOG_SOFTMAX(x)
    shifted = x - xp.max(x, axis=axis, keepdims=True) * 1.0  # as in softmax
    shifted -= xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))
    return shifted
