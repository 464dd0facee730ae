"""Functions that make one array of several, several of one, or repeat the elements of one."""

from typing import Any

from ..backend import check_axis, create, integers, is_floating
from ..primitive import expect_arrays, primitive
from . import beyond
from .indexing import getitem, take
from .shaping import broadcast_to, expand_dims, flatten, ravel, reshape

# --- joining ---------------------------------------------------------------------------------------


def _along(axis, ndim, start, stop):
    """The key that slices one axis."""
    return (*[slice(None)] * (axis % ndim), slice(start, stop), ...)


@primitive(arrays=lambda g, i, axis, ends, shape: g[_along(axis, len(shape), ends[i] - shape[axis], ends[i])])
def _concat(xp, axis, ends, *arrays):
    return xp.concat(arrays, axis=axis)


def concat(arrays, axis: int | None = 0) -> Any:
    """A list or tuple of tensors joined along an axis that they have; None flattens them first."""
    arrays = _sequence("concat", arrays)
    if axis is None:
        arrays, axis = [flatten(x) for x in arrays], 0
    ends, end = [], 0
    for x in arrays:
        end += x.shape[check_axis("concat", axis, len(x.shape))]
        ends.append(end)
    return _concat(axis, tuple(ends), *arrays)


concatenate = concat


def stack(arrays, axis=0) -> Any:
    """A list or tuple of tensors of one shape joined along a new axis."""
    arrays = _sequence("stack", arrays)
    shapes = [tuple(x.shape) for x in arrays]
    if len(set(shapes)) > 1:
        raise ValueError(f"stack: needs inputs of one shape, got {shapes}")
    axis = check_axis("stack", axis, len(shapes[0]) + 1)
    return concat([expand_dims(x, axis) for x in arrays], axis)


def _sequence(op, arrays):
    if not isinstance(arrays, (list, tuple)) or not arrays:
        raise TypeError(f"{op}: expected a non-empty list or tuple of tensors, got {type(arrays).__name__}")
    expect_arrays(op, *arrays)
    return arrays


# --- splitting -------------------------------------------------------------------------------------


def unstack(x, axis=0) -> tuple[Any, ...]:
    """The slices of x along `axis`, without that axis, as a tuple: the reverse of `stack`."""
    expect_arrays("unstack", x)
    axis = check_axis("unstack", axis, len(x.shape))
    return tuple(getitem(x, (*[slice(None)] * axis, i, ...)) for i in range(x.shape[axis]))


def split(x, indices_or_sections, axis=0) -> list[Any]:
    """A list of parts of x along `axis`: so many of equal length, or cut before each of the indices.

    As in NumPy. (`torch.split` takes the length of the parts.)

    >>> import minigrad as mg
    >>> [part.tolist() for part in mg.split(mg.arange(5), [1, 3])]
    [[0], [1, 2], [3, 4]]
    """
    expect_arrays("split", x)
    axis = check_axis("split", axis, len(x.shape))
    size = x.shape[axis]
    cuts = integers("split", "indices_or_sections", indices_or_sections)
    if not hasattr(indices_or_sections, "__iter__"):
        n = cuts[0]
        if n < 1 or size % n:
            raise ValueError(f"split: {size} elements along axis {axis} cannot be split into {n} equal parts")
        cuts = [size // n * i for i in range(1, n)]
    return [
        getitem(x, _along(axis, len(x.shape), start, stop))
        for start, stop in zip([0, *cuts], [*cuts, size], strict=True)
    ]


# --- repeating -------------------------------------------------------------------------------------


def repeat(x, repeats, axis=None) -> Any:
    """Each element along `axis` so many times in a row; of the flattened x without an axis.

    `repeats` is an integer, or one for each element, as a list or an array of integers.
    (torch calls this `repeat_interleave`, and its method `repeat` is `tile`.)

    >>> import minigrad as mg
    >>> mg.repeat(mg.tensor([3, 5]), [1, 2]).tolist()
    [3, 5, 5]
    """
    expect_arrays("repeat", x)
    if axis is None:
        x, axis = ravel(x), 0
    shape = tuple(x.shape)
    axis = check_axis("repeat", axis, len(shape))
    if isinstance(repeats, (list, tuple)) and len(repeats) == 1:
        repeats = repeats[0]
    if isinstance(repeats, int):
        if repeats < 0:
            raise ValueError(f"repeat: cannot repeat {repeats} times")
        before, after = shape[: axis + 1], shape[axis + 1 :]
        x = broadcast_to(expand_dims(x, axis + 1), (*before, repeats, *after))
        return reshape(x, (*before[:-1], before[-1] * repeats, *after))
    if not isinstance(repeats, (list, tuple)):
        expect_arrays("repeat", x, repeats)
    return take(x, _repeat(x, repeats, shape[axis]), axis)


@primitive()
def _repeat(xp, x, repeats, size):
    """Which element each one of the result is."""
    if isinstance(repeats, (list, tuple)):
        repeats = create(xp, "asarray", repeats, dtype=None if repeats else int, like=x)
    if is_floating(repeats.dtype) or tuple(repeats.shape) not in ((size,), (1,), ()):
        raise ValueError(f"repeats must be integers of shape ({size},), got {repeats.shape} {repeats.dtype}")
    if xp.any(repeats < 0):
        raise ValueError("cannot repeat a negative number of times")
    ends = beyond.cumulative_sum(xp, xp.broadcast_to(repeats, (size,)), 0)
    total = create(xp, "arange", int(ends[-1]) if size else 0, like=x)
    return xp.searchsorted(ends, total, side="right")


def tile(x, repetitions) -> Any:
    """x side by side with itself, so many times along each axis: a tuple, or an integer for the last axis.

    Where x has more axes than `repetitions`, or fewer, they are aligned from the right.
    """
    expect_arrays("tile", x)
    times = integers("tile", "repetitions", repetitions)
    if any(t < 0 for t in times):
        raise ValueError(f"tile: cannot repeat {repetitions} times")
    shape = tuple(x.shape)
    n = max(len(times), len(shape))
    times, shape = (1,) * (n - len(times)) + times, (1,) * (n - len(shape)) + shape
    x = reshape(x, tuple(size for s in shape for size in (1, s)))
    x = broadcast_to(x, tuple(size for pair in zip(times, shape, strict=True) for size in pair))
    return reshape(x, tuple(t * s for t, s in zip(times, shape, strict=True)))
