"""Functions that move elements about without computing on them.

Where the array library can give a view (reshape, permute, slices, broadcasting) no memory is copied.
"""

from numbers import Integral
from typing import Any

import numpy

from ..backend import check_axes, check_axis, create, integers
from ..primitive import BROADCAST_HINT, expect_arrays, primitive


@primitive(x=lambda xp, g, shape: xp.reshape(g, shape))
def _reshape(xp, x, sizes):
    return xp.reshape(x, sizes)


def reshape(x, shape, copy=None) -> Any:
    """The same elements in another `shape`: an integer or a tuple, in which one size may be -1.

    Memory is shared where it can be, unless with `copy=True`. Since tensors are values that cannot be told
    from outside, and `copy=False` is no different from None. (In the standard it may raise.)
    """
    if copy:
        expect_arrays("reshape", x)
        x = _copy(x)
    return _reshape(x, (shape,) if isinstance(shape, int) else shape)


@primitive(x=lambda g: g)
def _copy(xp, x):
    return xp.asarray(x, copy=True)


def _inverse(axes):
    order = [0] * len(axes)
    for i, axis in enumerate(axes):
        order[axis] = i
    return tuple(order)


@primitive(x=lambda xp, g, axes: xp.permute_dims(g, _inverse(axes)))
def permute_dims(xp, x, axes) -> Any:
    """x with its axes in another order: axis i of the result is axis `axes[i]` of x."""
    return xp.permute_dims(x, axes)


def transpose(x, axes=None) -> Any:
    """NumPy's name for `permute_dims`; without `axes` their order is reversed.

    (`torch.transpose` takes two axes and swaps them.)
    """
    expect_arrays("transpose", x)
    n = len(x.shape)
    if axes is None:
        return permute_dims(x, tuple(reversed(range(n))))
    axes = check_axes("transpose", integers("transpose", "axes", axes), n)
    if len(axes) != n:
        raise ValueError(f"transpose: axes={axes} must name each axis of shape {tuple(x.shape)}")
    return permute_dims(x, axes)


def matrix_transpose(x) -> Any:
    """The last two axes swapped."""
    expect_arrays("matrix_transpose", x)
    n = len(x.shape)
    if n < 2:
        raise ValueError(f"matrix_transpose: needs at least 2 axes, got shape {tuple(x.shape)}")
    return permute_dims(x, (*range(n - 2), n - 1, n - 2))


def swapaxes(x, axis1, axis2) -> Any:
    """The two axes swapped. (This is what `torch.transpose` does.)"""
    expect_arrays("swapaxes", x)
    n = len(x.shape)
    axes = list(range(n))
    i, j = (check_axis("swapaxes", axis, n) for axis in (axis1, axis2))
    axes[i], axes[j] = j, i
    return permute_dims(x, tuple(axes))


def moveaxis(x, source, destination) -> Any:
    """x with the axis (or tuple of axes) `source` moved to the place(s) `destination`."""
    expect_arrays("moveaxis", x)
    n = len(x.shape)
    sources, places = check_axes("moveaxis", source, n), check_axes("moveaxis", destination, n)
    if len(sources) != len(places):
        raise ValueError(f"moveaxis: source={source} and destination={destination} differ in length")
    order = [a for a in range(n) if a not in sources]
    for place, axis in sorted(zip(places, sources, strict=True)):
        order.insert(place, axis)
    return permute_dims(x, tuple(order))


@primitive(x=lambda xp, g, shape: xp.reshape(g, shape))
def expand_dims(xp, x, axis=0) -> Any:
    """x with a new axis of length 1, which is axis `axis` of the result."""
    return xp.expand_dims(x, axis=axis)


@primitive(x=lambda xp, g, shape: xp.reshape(g, shape))
def squeeze(xp, x, axis=None) -> Any:
    """x without its axes of length 1: those named, or, as NumPy does, all of them."""
    if axis is None:
        axis = tuple(i for i, size in enumerate(x.shape) if size == 1)
    return xp.squeeze(x, axis=axis)


def flatten(x, start_dim=0, end_dim=-1) -> Any:
    """The axes from `start_dim` to `end_dim`, both included, made into one (torch's signature)."""
    expect_arrays("flatten", x)
    sizes = tuple(x.shape)
    n = len(sizes)
    if n == 0:
        return _reshape(x, (1,))
    start, end = check_axis("flatten", start_dim, n), check_axis("flatten", end_dim, n)
    if start > end:
        raise ValueError(f"flatten: start_dim={start_dim} comes after end_dim={end_dim} in shape {sizes}")
    total = 1
    for size in sizes[start : end + 1]:
        total *= size
    return _reshape(x, (*sizes[:start], total, *sizes[end + 1 :]))


def ravel(x) -> Any:
    """All elements along one axis."""
    expect_arrays("ravel", x)
    return _reshape(x, (-1,))


@primitive(x=lambda g: g)  # the engine sums over what was repeated
def _broadcast_to(xp, x, sizes):
    return xp.broadcast_to(x, sizes)


def broadcast_to(x, shape) -> Any:
    """x repeated along new axes and along axes of length 1, up to `shape`."""
    return _broadcast_to(x, shape)


def broadcast_shapes(*shapes) -> tuple[int, ...]:
    """The shape to which arrays of these shapes broadcast."""
    return common_shape("broadcast_shapes", *shapes)


def common_shape(op, *shapes) -> tuple[int, ...]:
    """`broadcast_shapes`, with an error in the name of `op`."""
    try:
        return numpy.broadcast_shapes(*shapes)
    except (TypeError, ValueError) as error:
        got = " and ".join(map(str, shapes))
        raise type(error)(f"{op}: shapes {got} do not broadcast ({BROADCAST_HINT})") from None


def broadcast_arrays(*arrays) -> list[Any]:
    """A list of the arrays, each broadcast to the shape that they all broadcast to."""
    expect_arrays("broadcast_arrays", *arrays)
    shape = common_shape("broadcast_arrays", *(tuple(x.shape) for x in arrays))
    return [broadcast_to(x, shape) for x in arrays]


def meshgrid(*arrays, indexing="xy") -> list[Any]:
    """A grid of coordinates: for each 1-D input an array with an axis for every input.

    With `indexing="ij"` the values of input i run along axis i; with `"xy"`, the default, the first two
    axes are swapped, as in NumPy. (torch's default is `"ij"`.)

    >>> import minigrad as mg
    >>> rows, columns = mg.meshgrid(mg.arange(2), mg.arange(3), indexing="ij")
    >>> columns.tolist()
    [[0, 1, 2], [0, 1, 2]]
    """
    expect_arrays("meshgrid", *arrays)
    n = len(arrays)
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing must be 'xy' or 'ij', got {indexing!r}")
    if any(len(x.shape) > 1 for x in arrays):
        raise ValueError(f"meshgrid: needs inputs of one axis, got shapes {[tuple(x.shape) for x in arrays]}")
    place = [1, 0, *range(2, n)] if indexing == "xy" and n > 1 else range(n)
    lines = [reshape(x, (*[1] * i, -1, *[1] * (n - 1 - i))) for i, x in zip(place, arrays, strict=True)]
    return broadcast_arrays(*lines)


# --- borders, and moves within an array -------------------------------------------------------------


def pad(x, pad_width, value=0.0) -> Any:
    """x with a border of the constant `value`.

    `pad_width` is as in NumPy: an integer, a pair (before, after) for all axes, or a pair for each.
    (`torch.nn.functional.pad` lists the axes from the last to the first.)
    """
    expect_arrays("pad", x)
    if not isinstance(pad_width, Integral) and not getattr(pad_width, "__len__", None):
        raise TypeError(f"pad: pad_width must be an integer, a pair or pairs, got {pad_width!r}")
    n = len(x.shape)
    if isinstance(pad_width, Integral):
        pairs = ((pad_width, pad_width),) * n
    elif len(pad_width) == 2 and all(isinstance(p, Integral) for p in pad_width):
        pairs = (tuple(pad_width),) * n
    else:
        pairs = tuple(integers("pad", "a pair of pad_width", pair) for pair in pad_width)
    if len(pairs) != n or any(len(p) != 2 or min(p) < 0 for p in pairs):
        raise ValueError(f"pad: for shape {tuple(x.shape)} got pad_width={pad_width}")
    return _pad(x, pairs, value)


def _inside(pairs, shape):
    """The key of the part of a padded array that is not border."""
    return tuple(slice(before, before + size) for (before, _), size in zip(pairs, shape, strict=True))


@primitive(x=lambda g, pairs, shape: g[_inside(pairs, shape)])
def _pad(xp, x, pairs, value):
    shape = tuple(before + size + after for (before, after), size in zip(pairs, x.shape, strict=True))
    out = create(xp, "full", shape, value, dtype=x.dtype, like=x)
    out[_inside(pairs, x.shape)] = x
    return out


@primitive(x=lambda xp, g, axis: xp.flip(g, axis=axis))
def flip(xp, x, axis=None) -> Any:
    """x reversed along `axis` (an integer, a tuple, or None for all)."""
    return xp.flip(x, axis=axis)


@primitive(x=lambda xp, g, shift, axis: xp.roll(g, _opposite(shift), axis=axis))
def roll(xp, x, shift, axis=None) -> Any:
    """x shifted along `axis`, wrapping round: what leaves at the end comes in at the start.

    `shift` and `axis` may be tuples of the same length. Without `axis` the flattened array is rolled.
    """
    return xp.roll(x, shift, axis=axis)


def _opposite(shift):
    return tuple(-s for s in shift) if isinstance(shift, (tuple, list)) else -shift


@primitive(x=lambda xp, g, k: xp.tril(g, k=k))
def tril(xp, x, k=0) -> Any:
    """The lower triangle of the last two axes: 0 above the k-th diagonal."""
    return xp.tril(x, k=k)


@primitive(x=lambda xp, g, k: xp.triu(g, k=k))
def triu(xp, x, k=0) -> Any:
    """The upper triangle of the last two axes: 0 below the k-th diagonal."""
    return xp.triu(x, k=k)
