"""All that the ops ask of an array library beyond the Array API standard, each with a fallback within it.

NumPy and CuPy have these functions. For any other namespace the fallbacks serve: they are short, right and
slow, with a Python loop over the elements that are written.
"""

import math
from typing import Any

from ..backend import cast, create, is_bool, numpy_namespace

# --- keys of slices, integer arrays and masks together ----------------------------------------------


def _indexes_as_numpy(xp):
    """Whether its arrays take NumPy's keys: so do those of a library that has NumPy's `add.at`."""
    return hasattr(xp.add, "at")


def read(xp, x, key) -> Any:
    """x[key] for any key that NumPy takes. (The standard has no slices beside integer arrays.)"""
    if _indexes_as_numpy(xp):
        return x[key]
    places = _places(xp, key, x)
    return xp.reshape(xp.take(xp.reshape(x, (-1,)), xp.reshape(places, (-1,)), axis=0), places.shape)


def take(xp, x, indices, axis) -> Any:
    """The slices of x at `indices` along `axis`. (The standard takes 1-D indices alone.)"""
    if _indexes_as_numpy(xp) or indices.ndim == 1:
        return xp.take(x, indices, axis=axis)
    return read(xp, x, (*[slice(None)] * axis, indices, ...))


def write(xp, out, key, value) -> None:
    """out[key] = value. (The standard has no integer arrays in it.) Of two writes the later stays."""
    if _indexes_as_numpy(xp):
        out[key] = value
        return
    for spot, element in _spots(xp, out, key, value):
        out[spot] = element


def add_at(xp, out, key, value) -> None:
    """out[key] += value, where a place that is named twice is added to twice."""
    if _indexes_as_numpy(xp):
        xp.add.at(out, key, value)
        return
    for spot, element in _spots(xp, out, key, value):
        out[spot] += element


def _spots(xp, out, key, value):
    """The index of each element that `key` names, with the element of `value` that belongs there."""
    places = _places(xp, key, out)
    shape = places.shape
    places = xp.reshape(places, (-1,))
    if getattr(value, "shape", ()) != ():
        value = xp.reshape(xp.broadcast_to(value, shape), (-1,))
    for i in range(places.shape[0]):
        place, spot = int(places[i]), []
        for size in reversed(out.shape):
            place, index = divmod(place, size)
            spot.insert(0, index)
        yield tuple(spot), value[i] if getattr(value, "shape", ()) != () else value


def _places(xp, key, x):
    """What x[key] would give if each element of x were its place in the flattened x."""
    parts = []
    for part in key if isinstance(key, tuple) else (key,):
        is_mask = is_bool(getattr(part, "dtype", ""))
        parts.extend(xp.nonzero(part) if is_mask else [part])
    # Integers and integer arrays broadcast to a block of axes, which stands where the first of them does:
    # or, as NumPy has it, in front, if something stands between them, be it an ellipsis for no axes.
    together = _are_neighbours(_indices(parts))
    end = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
    missing = len(x.shape) - sum(part is not None and part is not Ellipsis for part in parts)
    if missing < 0:
        raise IndexError(f"too many indices for an array of shape {tuple(x.shape)}")
    parts[end : end + 1] = [slice(None)] * missing

    indices = _indices(parts)
    first = indices[0] if indices and together else 0
    shapes = [tuple(getattr(parts[i], "shape", ())) for i in indices]
    width = max(map(len, shapes), default=0)
    ndim = len(parts) - len(indices) + width

    places = create(xp, "zeros", (1,) * ndim, dtype=int, like=x)
    axis = ahead = 0  # the axis of x, and how many axes of the result were made of slices and None so far
    for i, part in enumerate(parts):
        if part is None:
            ahead += 1
            continue
        size, stride = x.shape[axis], math.prod(x.shape[axis + 1 :])
        axis += 1
        if isinstance(part, slice):
            before = ahead + (width if i >= first else 0)
            ahead += 1
            part = create(xp, "arange", *part.indices(size), like=x)
            after = ndim - before - 1
        else:
            before, after = first + width - len(getattr(part, "shape", ())), ndim - first - width
            if hasattr(part, "shape"):
                part = xp.astype(part, places.dtype)  # small and unsigned integers would overflow
            else:
                part = create(xp, "asarray", part, like=x)
            if xp.any((part < -size) | (part >= size)):
                raise IndexError(f"an index is out of bounds for axis {axis - 1} of length {size}")
            part = xp.where(part < 0, part + size, part)
        places = places + stride * xp.reshape(part, (1,) * before + tuple(part.shape) + (1,) * after)
    return places


def _indices(parts):
    """Where in a key there are integers and integer arrays."""
    return [i for i, part in enumerate(parts) if not (part is None or part is ... or isinstance(part, slice))]


def _are_neighbours(places):
    return not places or places[-1] - places[0] == len(places) - 1


# --- sums of products ------------------------------------------------------------------------------


def einsum(xp, subscripts, *operands) -> Any:
    """Sums of products; `subscripts` are letters alone, with their output spelled out."""
    if hasattr(xp, "einsum"):
        return xp.einsum(subscripts, *operands, optimize=len(operands) > 2)
    inputs, _, output = subscripts.partition("->")
    letters = output + "".join(c for c in dict.fromkeys(inputs) if c not in output + ",")
    product: Any = None
    for term, x in zip(inputs.split(","), operands, strict=True):
        # Each operand with an axis for every letter: one that stands twice in it reads a diagonal.
        key = tuple(
            xp.reshape(create(xp, "arange", size, like=x), tuple(-1 if c == d else 1 for d in letters))
            for c, size in zip(term, x.shape, strict=True)
        )
        x = read(xp, x, key) if key else x
        product = x if product is None else product * x
    return xp.sum(product, axis=tuple(range(len(output), len(letters))), dtype=product.dtype)


# --- what is in the standard, but not everywhere alike ----------------------------------------------


def orderly(xp, x) -> Any:
    """x, or integers that have its order: not everywhere can bools be sorted and searched."""
    return cast(xp, x, xp.uint8) if is_bool(x.dtype) else x


def argsort(xp, x, axis) -> Any:
    """The order that sorts x along `axis`, in which equal elements stay in their order."""
    # The standard sorts so by default, and CuPy always does.
    return numpy_namespace.argsort(x, axis, "stable") if xp is numpy_namespace else xp.argsort(x, axis=axis)


def cumulative_sum(xp, x, axis) -> Any:
    """The sums up to each element."""
    # The standard's name came to NumPy with 2.1.
    return xp.cumulative_sum(x, axis=axis) if hasattr(xp, "cumulative_sum") else xp.cumsum(x, axis=axis)


def cumulative_prod(xp, x, axis) -> Any:
    """The products up to each element."""
    # The standard's name came to NumPy with 2.1.
    return xp.cumulative_prod(x, axis=axis) if hasattr(xp, "cumulative_prod") else xp.cumprod(x, axis=axis)
