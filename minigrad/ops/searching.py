"""Functions that say where elements are, and which there are."""

from typing import Any, NamedTuple

from ..autograd import Variable, wrap
from ..backend import SCALARS, create, is_floating, namespace, of
from ..primitive import expect_arrays, primitive
from . import beyond
from .comparison import greater, logical_and, logical_xor, not_equal
from .cumulative import cumulative_sum, diff
from .elementwise import astype
from .indexing import getitem, take
from .shaping import pad, ravel, reshape
from .sorting import argsort, sort

# --- where -----------------------------------------------------------------------------------------


def nonzero(x) -> tuple[Any, ...]:
    """The indices of the elements that are not 0, in order: an array of integers for each axis.

    They are a key, so `x[nonzero(x)]` are these elements. A 0-d x has no axes, and is refused.
    (torch gives a matrix.)
    """
    expect_arrays("nonzero", x)
    if not x.shape:
        raise ValueError("nonzero: a 0-d input has no axis along which to say where")
    array = x._data if isinstance(x, Variable) else x
    xp = namespace("nonzero", [array])
    found = xp.nonzero(array)
    return tuple(wrap(indices) for indices in found) if isinstance(x, Variable) else found


@primitive()
def searchsorted(xp, x1, x2, side="left", sorter=None) -> Any:
    """Where in the sorted 1-D x1 each element of x2 would go, as an integer.

    Before all that is equal to it with `side="left"`, after it with `"right"`. `sorter` are indices that
    sort x1, as from `argsort`, if it is not in order itself.
    """
    if side not in ("left", "right"):
        raise ValueError(f"side must be 'left' or 'right', got {side!r}")
    for name, array in (("x1", x1), ("x2", x2)):
        if of(array) is None and not (name == "x2" and isinstance(array, SCALARS)):
            raise TypeError(f"{name} must be a tensor or an array, got {type(array).__name__}")
    if isinstance(x2, SCALARS):
        x2 = create(xp, "asarray", x2, dtype=x1.dtype if is_floating(x1.dtype) else None, like=x1)
    return xp.searchsorted(beyond.orderly(xp, x1), beyond.orderly(xp, x2), side=side, sorter=sorter)


def isin(x, values, invert=False) -> Any:
    """Whether each element of x is one of `values` (with `invert`: is none of them).

    NaN equals nothing, itself included.

    >>> import minigrad as mg
    >>> mg.isin(mg.tensor([1, 2, 3]), mg.tensor([3, 1])).tolist()
    [True, False, True]
    """
    expect_arrays("isin", x, values)
    values = sort(ravel(values), stable=False)
    found = greater(searchsorted(values, x, "right"), searchsorted(values, x, "left"))
    return logical_xor(logical_and(found, x == x), bool(invert))


# --- sets ------------------------------------------------------------------------------------------


class UniqueAll(NamedTuple):
    """The distinct elements; where each is first; where among them each element of x is; how many of each."""

    values: Any
    indices: Any
    inverse_indices: Any
    counts: Any


class UniqueCounts(NamedTuple):
    """The distinct elements, and how many there are of each."""

    values: Any
    counts: Any


class UniqueInverse(NamedTuple):
    """The distinct elements, and for each element of x which of them it is."""

    values: Any
    inverse_indices: Any


def unique_all(x) -> UniqueAll:
    """The distinct elements of x (flattened) in order, with `indices`, `inverse_indices` and `counts`.

    Each NaN counts as distinct from all others, and 0.0 as equal to -0.0. The values are differentiable:
    the gradient goes to the first of equal elements, from where its value was taken. (This is right as
    long as no two elements are equal: where two part, the number of distinct ones changes.)

    >>> import minigrad as mg
    >>> mg.unique_all(mg.tensor([5, 3, 5])).inverse_indices.tolist()
    [1, 0, 1]
    """
    expect_arrays("unique_all", x)
    flat = ravel(x)
    order = argsort(flat)
    ordered = take(flat, order)
    changes = not_equal(getitem(ordered, slice(1, None)), getitem(ordered, slice(0, -1)))
    is_first = pad(changes, ((min(1, flat.shape[0]), 0),), True)
    (starts,) = nonzero(is_first)
    indices = take(order, starts)
    ranks = cumulative_sum(astype(is_first, int)) - 1
    return UniqueAll(
        take(flat, indices),
        indices,
        reshape(take(ranks, argsort(order)), tuple(x.shape)),
        diff(starts, append=flat.shape[0]),
    )


def unique_counts(x) -> UniqueCounts:
    """The distinct elements of x, and how many there are of each: see `unique_all`."""
    expect_arrays("unique_counts", x)
    values, _, _, counts = unique_all(x)
    return UniqueCounts(values, counts)


def unique_inverse(x) -> UniqueInverse:
    """The distinct elements of x, and for each element of x which of them it is: see `unique_all`.

    `values[inverse_indices]` is x.
    """
    expect_arrays("unique_inverse", x)
    values, _, inverse_indices, _ = unique_all(x)
    return UniqueInverse(values, inverse_indices)


def unique_values(x) -> Any:
    """The distinct elements of x: see `unique_all`."""
    expect_arrays("unique_values", x)
    return unique_all(x).values
