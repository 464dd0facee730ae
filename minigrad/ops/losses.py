"""What losses need beyond the other ops, in one step because every training step ends in it."""

from typing import Any

from ..primitive import primitive
from .indexing import scatter


@primitive(
    "classes are numbered from 0 to one less than there are",
    log_p=lambda g, shape, key, factor: scatter(g * factor, key, shape, False),
)
def nll(xp, log_p, key, factor, summed) -> Any:
    """`factor` times log_p[key], at each place or `summed`: the negative log-likelihood of classes.

    The key names the target class at each place (see `indexing.grid`), so no element twice.
    """
    picked = log_p[key]
    return (xp.sum(picked) if summed else picked) * factor
