"""The cross entropy of class indices, in one step because every training step of a classifier ends in it."""

from typing import Any

from ..autograd import Variable
from ..primitive import primitive
from . import beyond
from .reductions import softmax


def _cross_entropy_dx(xp, g, x: Any, key, axis, factor, smoothing):
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


@primitive(
    "classes are numbered from 0 to one less than there are",
    x=_cross_entropy_dx,
)
def cross_entropy_of(xp, x, key, axis, factor, smoothing, summed) -> Any:
    """`factor` times the log-probabilities of the target classes, at each place or `summed`.

    x holds log-probabilities along `axis`. The gradient is that by any scores of which x is the
    log_softmax: they differ from it by a shift alone, which changes neither the loss nor any of its
    derivatives. So x may take the place of the scores in the graph, and log_softmax needs no node.

    `key` reads the target class at each place (see `indexing.grid`), and so no element twice.
    `smoothing` is the part of each target that is spread evenly over the classes.
    """
    picked = beyond.read(xp, x, key)
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * xp.mean(x, axis=axis)
    return (xp.sum(picked) if summed else picked) * factor
