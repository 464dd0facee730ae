"""Functions that put elements in order, and those that pick by rank.

They sort stably: equal elements (0.0 and -0.0 are) stay in the order that they had. NaN comes after all
numbers, as in NumPy, and before them where the order is descending.

What was taken from a place gives its gradient to that place: so of equal elements each receives the
gradient of the rank that a stable sort gives it.
"""

import math
from numbers import Real
from typing import Any, NamedTuple

from ..autograd import is_grad_enabled
from ..backend import cast, check_axes, check_axis, integer, is_floating
from ..primitive import expect_arrays, primitive
from . import beyond
from .comparison import isnan
from .elementwise import astype, where
from .indexing import getitem, take_distinct
from .joining import stack
from .reductions import mean
from .shaping import permute_dims, reshape

# --- orders ----------------------------------------------------------------------------------------


@primitive()
def _argsort(xp, x, axis, descending):
    x = beyond.orderly(xp, x)
    if not descending:
        return beyond.argsort(xp, x, axis)
    # From behind, so that equal elements stay in their order when all is turned round.
    order = beyond.argsort(xp, xp.flip(x, axis=axis), axis)
    return x.shape[axis] - 1 - xp.flip(order, axis=axis)


def argsort(x, axis=-1, descending=False, stable=True) -> Any:
    """The indices along `axis` that sort x: `take_along_axis(x, argsort(x))` is sorted.

    It is always stable; `stable=False` changes nothing.
    """
    expect_arrays("argsort", x)
    return _argsort(x, check_axis("argsort", axis, len(x.shape)), descending)


@primitive()
def _sort(xp, x, axis, descending):
    out = xp.sort(beyond.orderly(xp, x), axis=axis)
    out = xp.flip(out, axis=axis) if descending else out
    return out if out.dtype == x.dtype else cast(xp, out, x.dtype)


def sort(x, axis=-1, descending=False, stable=True) -> Any:
    """The elements in ascending (or `descending`) order along `axis`.

    With `stable=False`, which lets 0.0 and -0.0 change places, this is much faster where no gradient is
    recorded.

    The method, too, gives a new tensor. (NumPy's sorts in place; `torch.sort` gives the indices,
    too, which are those of `argsort`.)

    >>> import minigrad as mg
    >>> x = mg.tensor([2.0, 3.0, 1.0], requires_grad=True)
    >>> (mg.sort(x) * mg.tensor([1.0, 10.0, 100.0])).sum().backward()
    >>> x.grad.tolist()
    [10.0, 100.0, 1.0]
    """
    expect_arrays("sort", x)
    axis = check_axis("sort", axis, len(x.shape))
    recorded = getattr(x, "node", None) is not None and is_grad_enabled()
    if not is_floating(x.dtype) or not (stable or recorded):
        return _sort(x, axis, descending)
    return take_distinct(x, argsort(x, axis, descending, stable), axis)


class TopK(NamedTuple):
    """The largest elements, and where they were."""

    values: Any
    indices: Any


def topk(x, k, axis=-1, largest=True) -> TopK:
    """The `k` largest (or smallest) elements along `axis`, in order, and their indices (torch's function).

    A NaN counts as larger than all numbers. Of equal elements the first come first.
    """
    expect_arrays("topk", x)
    axis = check_axis("topk", axis, len(x.shape))
    if not 0 <= integer("topk", "k", k) <= x.shape[axis]:
        raise ValueError(f"topk: there are {x.shape[axis]} elements along axis {axis}, and k is {k}")
    indices = getitem(argsort(x, axis, descending=largest), (*[slice(None)] * axis, slice(k), ...))
    return TopK(take_distinct(x, indices, axis), indices)


# --- the middle, and other ranks ---------------------------------------------------------------------


def _sorted_rows(op, x, axis):
    """x sorted along `axis` (an integer, a tuple, or None for all), which comes last, and NaN if it has one.

    Also the shape that a result of one element for each row has with `keepdims`.
    """
    expect_arrays(op, x)
    n = len(x.shape)
    axes = check_axes(op, axis, n)
    rest = tuple(a for a in range(n) if a not in axes)
    length = math.prod(x.shape[a] for a in axes)
    if not length:
        raise ValueError(f"{op}: there is none of no elements: shape {tuple(x.shape)}, axis={axis}")
    rows = reshape(permute_dims(x, rest + axes), (*(x.shape[a] for a in rest), length))
    rows = sort(rows if is_floating(x.dtype) else astype(rows, float), stable=False)
    last = getitem(rows, (..., slice(-1, None)))
    return where(isnan(last), last, rows), tuple(1 if a in axes else size for a, size in enumerate(x.shape))


def median(x, axis=None, keepdims=False) -> Any:
    """The middle element in order, or the mean of the middle two; NaN if there is one.

    `axis` is None (all), an integer or a tuple. Integers become floats. The gradient goes to the middle
    elements, half to each of two. (`torch.median` gives the lower of two.)
    """
    rows, kept = _sorted_rows("median", x, axis)
    n = rows.shape[-1]
    middle = mean(getitem(rows, (..., slice((n - 1) // 2, n // 2 + 1))), axis=-1)
    return reshape(middle, kept) if keepdims else middle


def quantile(x, q, axis=None, keepdims=False) -> Any:
    """The value below which the fraction `q` of the elements lies, interpolated linearly.

    Args:
        x: integers become floats. NaN gives NaN.
        q: a number from 0 to 1; or a list or array of them, along which the first axis of the result runs.
        axis, keepdims: as in `median`.

    The gradient goes to the two neighbours, in proportion; there is none by `q`.
    """
    q = q.tolist() if hasattr(q, "shape") and hasattr(q, "tolist") else q
    if isinstance(q, (list, tuple)) and not q:
        raise ValueError("quantile: q must be a number from 0 to 1, or several, got none")
    rows, kept = _sorted_rows("quantile", x, axis)
    results = [_at_rank(rows, each) for each in (q if isinstance(q, (list, tuple)) else [q])]
    results = [reshape(each, kept) for each in results] if keepdims else results
    return stack(results) if isinstance(q, (list, tuple)) else results[0]


def _at_rank(rows, q):
    if not isinstance(q, Real) or not 0 <= float(q) <= 1:
        raise ValueError(f"quantile: q must be from 0 to 1, got {q!r}")
    rank = float(q) * (rows.shape[-1] - 1)
    i = math.floor(rank)
    result = getitem(rows, (..., i))
    if rank > i:
        result = result * (i + 1 - rank) + getitem(rows, (..., i + 1)) * (rank - i)
    return result
