"""The cross entropy of class indices, in one step because every training step of a classifier ends in it."""

from typing import Any

from ..autograd import Variable, wrap
from ..kernels import RowKernel, fits, pays
from ..primitive import primitive, through_reference
from . import beyond
from .indexing import grid
from .softmax import log_softmax, softmax

# The sum of a row is `rest`, its logarithm, behind the largest element: apart they lose no digits.
_ROWS = RowKernel(
    "T x, raw int64 target, float64 smoothing",
    "raw T loss, raw T largest, raw T logarithm",
    """
    const T top = MAX(x[j]), rest = log(SUM(fast_exp(x[j] - top)));
    const T picked = x[target[i]] - top - rest;
    const T evenly = smoothing ? SUM(x[j] - top - rest) / m : T(0);
    loss[i] = T(1 - smoothing) * picked + (smoothing ? T(smoothing) * evenly : T(0));
    largest[i] = top;
    logarithm[i] = rest;
    """,
    "cross_entropy_rows",
    cost=3,
)

_ROWS_DX = RowKernel(
    "T x, raw int64 target, raw T largest, raw T logarithm, raw T g, int64 step, float64 factor, "
    "float64 smoothing",
    "T dx",
    """
    const T top = largest[i], rest = logarithm[i], slope = g[step * i] * T(factor);
    const T evenly = T(smoothing) / m, wanted = T(1 - smoothing);
    const int64_t its = target[i];
    EACH(dx[j] = (fast_exp(x[j] - top - rest) - evenly - (j == its ? wanted : T(0))) * slope)
    """,
    "cross_entropy_rows_dx",
    cost=3,
)


def _rows_dx(xp, g, x, target, factor, smoothing, summed, kept):
    if not fits(g):
        classes = target._data if isinstance(target, Variable) else target
        return through_reference(
            lambda x: _composed(x, classes, 1, factor, smoothing, summed), g, ("x",), x=x
        )["x"]
    return _ROWS_DX(x, target, *kept, g, g.ndim, -factor, smoothing)  # one gradient for all rows, or each


@primitive("classes are numbered from 0 to one less than there are", x=_rows_dx)
def _cross_entropy_rows(xp, x, target, factor, smoothing, summed):
    losses, *kept = _ROWS(x, target, smoothing)
    return (xp.sum(losses) if summed else losses) * xp.asarray(factor, dtype=x.dtype), kept


def _dx(xp, g, x: Any, key, axis, factor, smoothing):
    """p - q, of the probabilities p that x stands for and the smoothed targets q."""
    # On tensors p must depend on x as softmax does, so that it can be differentiated again.
    if isinstance(x, Variable):
        p: Any = softmax(x, axis)
        p[key] = p[key] - (1 - smoothing)
    else:
        p = xp.exp(x)
        beyond.write(xp, p, key, beyond.read(xp, p, key) - (1 - smoothing))
    if smoothing:
        p = p - smoothing / p.shape[axis]
    if g.shape != ():
        g = xp.expand_dims(g, axis=axis)
    return p * (g * -factor)


@primitive("classes are numbered from 0 to one less than there are", x=_dx)
def _cross_entropy_of(xp, x, key, axis, factor, smoothing, summed):
    # x holds log-probabilities. The gradient is that by any scores of which x is the log_softmax: they
    # differ from it by a shift alone, which changes neither the loss nor any of its derivatives. So x may
    # take the place of the scores in the graph, and log_softmax needs no node.
    picked = beyond.read(xp, x, key)
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * xp.mean(x, axis=axis)
    return (xp.sum(picked) if summed else picked) * factor


def _composed(x, target, axis, factor, smoothing, summed):
    log_p = wrap(log_softmax(x._data, axis), x.node)
    key = grid(target, axis, inserted=True)  # which reads the target class at each place
    return _cross_entropy_of(log_p, key, axis, factor, smoothing, summed)


def cross_entropy_of(x, target, axis, factor, smoothing, summed) -> Any:
    """`factor` times the log-probabilities of the target classes, at each place or `summed`.

    Args:
        x: a tensor of scores along `axis`.
        target: an array of class numbers, checked before, of the shape of x without `axis`.
        axis: where the classes are.
        factor: a number.
        smoothing: the part of each target that is spread evenly over the classes.
        summed: whether to sum over all places.
    """
    if axis == 1 and len(x.shape) == 2 and pays(x._data) and type(target) is type(x._data):
        return _cross_entropy_rows(x, target.astype("int64", copy=False), factor, smoothing, summed)
    return _composed(x, target, axis, factor, smoothing, summed)
