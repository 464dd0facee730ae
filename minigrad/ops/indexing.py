"""Reading and writing parts of an array, by slices, masks and integer arrays.

Reading has as its gradient a scatter (an array of zeros to which the gradient is added in the places
that were read) and a scatter has a reading: so the two are each other's rules, to any order.
"""

import itertools
from numbers import Integral
from typing import Any

from ..autograd import Variable
from ..backend import cast, check_axis, create, is_bool, is_floating, namespace, of, plain
from ..primitive import expect_arrays, primitive
from . import beyond
from .row_sums import add_rows
from .shaping import broadcast_to, reshape


def _read_key(op, x, key):
    """x, `key` with arrays in place of tensors and lists, and whether it can name a place twice.

    Inside `vmap`, x also gets the hidden axes of a key that differs between the examples.
    """
    given, x = x, x._data if isinstance(x, Variable) else x
    xp = namespace(op, [x])
    parts = []
    twice = False
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, Variable):
            part = part._data
        elif of(part) is not None:  # the caller may write to it before backward reads it
            part = namespace(op, [part]).asarray(part, copy=True)
        elif isinstance(part, (list, tuple)):
            part = _listed(xp, part, x)
        if hasattr(part, "shape"):
            if plain(part) is not part:
                given = part.take_in(given)
            if part.shape != ():
                namespace(op, [x, part])  # refuses an index on another device
                if is_floating(part.dtype):
                    raise IndexError(f"{op}: indices must be integers or bools, got {part.dtype}")
                twice = twice or not _is_mask(part)
        parts.append(part)
    return given, (tuple(parts) if isinstance(key, tuple) else parts[0]), twice


def _listed(xp, part, x):
    """The array of a list of integers or bools, on the device of x."""
    array = create(xp, "asarray", part, like=x)
    return array if array.size else create(xp, "zeros", array.shape, dtype=int, like=x)


def _is_mask(array):
    return is_bool(array.dtype)


def _scattered(g, shape, key, twice) -> Any:
    return scatter(g, key, shape, twice)


@primitive(x=_scattered)
def _getitem(xp, x, key, twice) -> Any:
    return beyond.read(xp, x, key)


def getitem(x, key) -> Any:
    """x[key]. A key has integers, slices, `None`, `...`, integer arrays and masks, as in NumPy."""
    x, key, twice = _read_key("getitem", x, key)
    return _getitem(x, key, twice)


@primitive(x=lambda g, key, twice: _getitem(g, key, twice))
def scatter(xp, x, key, sizes, twice=True) -> Any:
    """Zeros of shape `sizes`, with x added in the places that `key` names: the reverse of x[key].

    `twice=False` promises that no place is named twice, which is faster.
    """
    out = create(xp, "zeros", sizes, dtype=x.dtype, like=x)
    if twice:
        if not add_rows(out, key, x):
            beyond.add_at(xp, out, key, x)
    else:
        beyond.write(xp, out, key, x)
    return out


def _overwritten(g, key) -> Any:
    return _setitem(g, key, 0.0, False)


def _written(g, key, twice) -> Any:
    g, written = _getitem(g, key, twice), _last_writes(g, key) if twice else 1.0
    return g * written


@primitive(x=_overwritten, value=_written)
def _setitem(xp, x, key, value, twice) -> Any:
    out = xp.asarray(x, copy=True)
    beyond.write(xp, out, key, value)
    return out


@primitive()
def _last_writes(xp, x, key):
    """1 for each place of the key that was written last, 0 for those overwritten by a later one."""
    writer = create(xp, "zeros", x.shape, dtype=int, like=x)
    part = beyond.read(xp, writer, key)
    order = xp.reshape(create(xp, "arange", part.size, like=x), part.shape)
    beyond.write(xp, writer, key, order)
    return cast(xp, beyond.read(xp, writer, key) == order, x.dtype)


def setitem(x, key, value) -> Any:
    """A copy of x in which x[key] is `value`, broadcast to its shape and converted to its dtype."""
    x, key, twice = _read_key("setitem", x, key)
    if isinstance(value, list):
        raise TypeError("setitem: got a list where a tensor or a number is expected")
    if isinstance(value, Variable) and not is_floating(x.dtype):
        value = value._data  # no gradient flows through integers
    sizes = getattr(value, "shape", ())
    if sizes[:1] == (1,):  # it may have more axes than its place, of length 1 in front
        value = reshape(value, tuple(itertools.dropwhile(lambda size: size == 1, sizes)))
    return _setitem(x, key, value, twice)


def _take_dx(g, shape, indices, axis) -> Any:
    indices = indices._data if isinstance(indices, Variable) else indices
    return scatter(g, (*[slice(None)] * axis, indices, ...), shape)


@primitive(x=_take_dx)
def _take(xp, x, indices, axis):
    return beyond.take(xp, x, indices, axis)


def take(x, indices, axis=None) -> Any:
    """The slices of x at `indices` (integers) along `axis`; of the flattened x without an axis."""
    expect_arrays("take", x, *([] if isinstance(indices, (Integral, list, tuple)) else [indices]))
    if isinstance(indices, (list, tuple)):  # the caller may change it before backward reads it
        data = getattr(x, "_data", x)
        indices = _listed(namespace("take", [data]), indices, data)
    _refuse_masks("take", indices)
    if axis is None:
        return _take(reshape(x, -1), indices, 0)
    return _take(x, indices, check_axis("take", axis, len(x.shape)))


def _refuse_masks(op, indices):
    if hasattr(indices, "dtype") and _is_mask(indices):
        raise IndexError(f"{op}: indices must be integers, got bools; x[mask] reads by a mask")


def take_along_axis(x, indices, axis=-1) -> Any:
    """For each place in `indices`, the element of x at that index along `axis`, all else equal.

    The other axes broadcast.

    >>> import minigrad as mg
    >>> scores = mg.tensor([[1.0, 2.0], [4.0, 3.0]])
    >>> mg.take_along_axis(scores, mg.argmax(scores, axis=1, keepdims=True), axis=1).numpy().tolist()
    [[2.0], [4.0]]
    """
    op = "take_along_axis"
    expect_arrays(op, x, indices)
    n, got = len(x.shape), f"{tuple(x.shape)} and {tuple(indices.shape)}"
    axis = check_axis(op, axis, n)
    if len(indices.shape) != n:
        raise ValueError(f"{op}: x and indices need equally many axes, got {got}")
    if is_floating(indices.dtype) or _is_mask(indices):
        raise TypeError(f"{op}: indices must be integers, got {indices.dtype}")
    others = [(a, b) for i, (a, b) in enumerate(zip(x.shape, indices.shape, strict=True)) if i != axis]
    if any(a != b and 1 not in (a, b) for a, b in others):
        raise ValueError(f"{op}: shapes {got} do not broadcast in the axes other than {axis}")
    sizes = [max(a, b) if a and b else 0 for a, b in zip(x.shape, indices.shape, strict=True)]
    x = broadcast_to(x, (*sizes[:axis], x.shape[axis], *sizes[axis + 1 :]))
    indices = broadcast_to(indices, (*sizes[:axis], indices.shape[axis], *sizes[axis + 1 :]))
    try:
        return getitem(x, grid(indices._data if isinstance(indices, Variable) else indices, axis))
    except IndexError as error:
        raise IndexError(f"{op}: {error}") from None


def take_distinct(x, indices, axis) -> Any:
    """`take_along_axis` for indices that differ along `axis`, as those of a sort do: a faster gradient."""
    return _getitem(x, grid(indices._data if isinstance(indices, Variable) else indices, axis), False)


def grid(indices, axis, inserted=False):
    """The key that reads, at each place of the array `indices`, the element with that index along `axis`.

    With `inserted` the indices lack that axis.
    """
    xp = namespace("grid", [indices])
    n = indices.ndim
    places = [create(xp, "arange", size, like=indices) for size in indices.shape]
    if n > 1:
        places = [xp.reshape(place, (*[1] * i, -1, *[1] * (n - 1 - i))) for i, place in enumerate(places)]
    return (*places[:axis], indices, *places[axis if inserted else axis + 1 :])
