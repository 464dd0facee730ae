"""Products of vectors, matrices and tensors, diagonals and traces. Most are made of other ops."""

import math
from typing import Any

from ..backend import check_axes, check_axis, create, integer, refuse_dtype
from ..primitive import expect_arrays, primitive
from . import beyond
from .elementwise import multiply
from .indexing import getitem
from .reductions import sum as _sum
from .shaping import expand_dims, moveaxis, permute_dims, reshape, roll, squeeze

# --- matmul ----------------------------------------------------------------------------------------


def _matmul_dx(xp, g, y, shape):
    if y.ndim == 1:
        return xp.expand_dims(g, axis=-1) * y
    if len(shape) == 1:
        g = xp.expand_dims(g, axis=-2)
    return g @ y.mT


def _matmul_dy(xp, g, x, shape):
    if len(shape) == 1:
        return x * xp.expand_dims(g, axis=-1)
    if x.ndim == 1:
        return xp.expand_dims(x, axis=-1) * xp.expand_dims(g, axis=-2)
    return x.mT @ g


@primitive(
    "the last axis of x must be as long as the last but one of y, and the axes before must broadcast",
    x=_matmul_dx,
    y=_matmul_dy,
)
def matmul(xp, x, y) -> Any:
    """The matrix product over the last two axes; the axes before broadcast. 1-D inputs are vectors."""
    return x @ y


def vecdot(x, y, axis=-1) -> Any:
    """The scalar product of vectors: the sum of x * y along `axis`, of one length in both.

    The other axes broadcast. `axis` is counted in each of x and y, before that.
    """
    x, y = _vectors("vecdot", x, y, axis)
    return squeeze(matmul(expand_dims(x, -2), expand_dims(y, -1)), (-2, -1))


def cross(x, y, axis=-1) -> Any:
    """The cross product of 3-D vectors, which lie along `axis`; the other axes broadcast.

    (NumPy takes vectors of two components, too.)
    """
    x, y = _vectors("cross", x, y, axis, 3)
    result = roll(x, -1, -1) * roll(y, -2, -1) - roll(x, -2, -1) * roll(y, -1, -1)
    return moveaxis(result, -1, axis)


def _vectors(op, x, y, axis, length=None):
    """x and y with that axis, of one (or that) length, moved to the end, if the other axes broadcast."""
    expect_arrays(op, x, y)
    shapes = tuple(x.shape), tuple(y.shape)
    x, y = (moveaxis(v, check_axis(op, axis, len(v.shape)), -1) for v in (x, y))
    m, n = x.shape[-1], y.shape[-1]
    if m != n or length not in (None, m):
        needed = "of one length" if length is None else f"of {length} components"
        raise ValueError(
            f"{op}: needs vectors {needed} along axis {axis}, got shapes {shapes[0]} and {shapes[1]}"
        )
    if shapes[0] != shapes[1]:
        for a, b in zip(reversed(x.shape[:-1]), reversed(y.shape[:-1]), strict=False):
            if a != b and 1 not in (a, b):
                raise ValueError(
                    f"{op}: shapes {shapes[0]} and {shapes[1]} do not broadcast in the axes other than {axis}"
                )
    return x, y


def outer(x, y) -> Any:
    """All products of an element of x with one of y, as a matrix. Both are flattened, as in NumPy."""
    expect_arrays("outer", x, y)
    return multiply(reshape(x, (-1, 1)), reshape(y, (1, -1)))


def kron(x, y) -> Any:
    """The Kronecker product: blocks that are y times each element of x.

    An input with fewer axes than the other gets new ones in front.
    """
    expect_arrays("kron", x, y)
    n = max(len(x.shape), len(y.shape))
    a, b = ((*[1] * (n - len(shape)), *shape) for shape in (x.shape, y.shape))
    x = reshape(x, tuple(size for p in a for size in (p, 1)))
    y = reshape(y, tuple(size for q in b for size in (1, q)))
    return reshape(multiply(x, y), tuple(p * q for p, q in zip(a, b, strict=True)))


def tensordot(x, y, axes: Any = 2) -> Any:
    """Products summed over several axes at once.

    `axes` is a number n (the last n axes of x against the first n of y) or a pair of tuples, the axes
    of x and those of y that go with them.
    """
    expect_arrays("tensordot", x, y)
    n, m = len(x.shape), len(y.shape)
    if isinstance(axes, (list, tuple)) and len(axes) == 2:
        of_x, of_y = ((tuple(a) if isinstance(a, list) else a) for a in axes)
    else:
        count = integer("tensordot", "axes, if not a pair,", axes)
        of_x, of_y = tuple(range(n - count, n)), tuple(range(count))
    of_x, of_y = check_axes("tensordot", of_x, n), check_axes("tensordot", of_y, m)
    if [x.shape[a] for a in of_x] != [y.shape[a] for a in of_y]:
        raise ValueError(
            f"tensordot: axes={axes} do not match in shapes {tuple(x.shape)} and {tuple(y.shape)}"
        )
    left = tuple(a for a in range(n) if a not in of_x)
    right = tuple(a for a in range(m) if a not in of_y)
    summed = math.prod(x.shape[a] for a in of_x)
    kept_x, kept_y = tuple(x.shape[a] for a in left), tuple(y.shape[a] for a in right)
    x = reshape(permute_dims(x, left + of_x), (math.prod(kept_x), summed))
    y = reshape(permute_dims(y, of_y + right), (summed, math.prod(kept_y)))
    return reshape(matmul(x, y), kept_x + kept_y)


# --- diagonals -------------------------------------------------------------------------------------


def diagonal(x, offset=0, axis1=0, axis2=1) -> Any:
    """The diagonal of each matrix that lies in two of the axes of x; it becomes the last axis.

    `offset` > 0 takes a diagonal above the main one, `offset` < 0 one below. (As in NumPy and torch the
    matrices lie in the first two axes; for `linalg.diagonal` in the last two, as in the standard.)
    """
    return _diagonal("diagonal", x, offset, axis1, axis2)


def _diagonal(op, x, offset, axis1, axis2):
    expect_arrays(op, x)
    ndim = len(x.shape)
    axes = check_axis(op, axis1, ndim), check_axis(op, axis2, ndim)
    if axes[0] == axes[1]:
        raise ValueError(f"{op}: axis1={axis1} and axis2={axis2} are one axis of {tuple(x.shape)}")
    offset = integer(op, "offset", offset)
    x = moveaxis(x, axes, (-2, -1))
    m, n = x.shape[-2:]
    length = max(0, min(m + min(offset, 0), n - max(offset, 0)))
    start = offset if offset >= 0 else -offset * n
    steps = slice(start, start + length * (n + 1) - n, n + 1) if length else slice(0)
    return getitem(reshape(x, (*x.shape[:-2], m * n)), (..., steps))


def trace(x, offset=0, axis1=0, axis2=1, dtype=None) -> Any:
    """The sum of a diagonal (see `diagonal`), in `dtype` if one is given.

    (The standard's `linalg.trace` is of the last two axes.)
    """
    if dtype is not None:
        refuse_dtype("trace", dtype)
    return _sum(_diagonal("trace", x, offset, axis1, axis2), axis=-1, dtype=dtype)


# --- einsum ----------------------------------------------------------------------------------------

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _explicit(subscripts, shapes):
    """`subscripts` with letters in place of `...`, and with its output spelled out."""
    inputs, arrow, output = subscripts.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != len(shapes):
        raise ValueError(f"einsum: {subscripts!r} is for {len(terms)} operand(s), got shapes {shapes}")
    spare = [c for c in LETTERS if c not in subscripts]
    hidden = [len(shape) - len(term.replace("...", "")) for term, shape in zip(terms, shapes, strict=True)]
    if any(n < 0 or (n > 0 and "..." not in term) for n, term in zip(hidden, terms, strict=True)):
        raise ValueError(f"einsum: {subscripts!r} does not fit the shapes {shapes}")
    ellipsis = "".join(spare[: max(hidden)])
    # Aligned from the right, as in broadcasting.
    terms = [t.replace("...", ellipsis[len(ellipsis) - n :]) for t, n in zip(terms, hidden, strict=True)]
    if not arrow:
        joined = "".join(terms)
        once = sorted(c for c in set(joined) if joined.count(c) == 1 and c not in ellipsis)
        output = ellipsis + "".join(once)
    return terms, output.replace("...", ellipsis)


def _einsum_gradient(xp, g, i, subscripts, operands, shape):
    """Swap the operand for the result: the gradient is an einsum of `g` and the other operands."""
    inputs, output = subscripts.split("->")
    terms = inputs.split(",")
    own = terms[i]
    letters = "".join(dict.fromkeys(own))
    others = [(t, x) for k, (t, x) in enumerate(zip(terms, operands, strict=True)) if k != i]
    found = set(output).union(*(t for t, _ in others))
    reached = "".join(c for c in letters if c in found)
    expression = ",".join([output, *(t for t, _ in others)]) + "->" + reached
    gradient = _einsum(expression, g, *(x for _, x in others))
    # A letter that is nowhere else was summed over: every place along it gets the same.
    sizes = dict(zip(own, shape, strict=True))
    shown = dict(zip(reached, gradient.shape, strict=True))
    gradient = xp.reshape(gradient, tuple(shown.get(c, 1) for c in letters))
    gradient = xp.broadcast_to(gradient, tuple(max(shown.get(c, 1), sizes[c]) for c in letters))
    if letters == own:
        return gradient
    # A letter that stands twice read a diagonal: nothing flows to what is beside it.
    spare = iter(c for c in LETTERS if c not in letters)
    renamed, diagonals = "", []
    for c in own:
        if c in renamed:
            new = next(spare)
            diagonals.append((c + new, identity(g, sizes[c])))
            c = new
        renamed += c
    expression = ",".join([letters, *(t for t, _ in diagonals)]) + "->" + renamed
    return _einsum(expression, gradient, *(eye for _, eye in diagonals))


@primitive()
def identity(xp, x, n) -> Any:
    """The identity matrix with n rows, of the dtype and on the device of x."""
    return create(xp, "eye", n, dtype=x.dtype, like=x)


@primitive(operands=_einsum_gradient)
def _einsum(xp, subscripts, *operands) -> Any:
    return beyond.einsum(xp, subscripts, *operands)


def einsum(subscripts, *operands) -> Any:
    """Sums of products in Einstein's notation, as in NumPy: letters, `...`, and an optional `->`.

    An ellipsis that an output after `->` lacks is summed over, as in torch. (NumPy refuses it.)

    >>> import minigrad as mg
    >>> mg.einsum("ij,kj->ik", mg.ones((2, 3)), mg.ones((4, 3))).shape
    (2, 4)
    """
    if not isinstance(subscripts, str):
        raise TypeError(f"einsum: subscripts come first, as a string, got {type(subscripts).__name__}")
    expect_arrays("einsum", *operands)
    terms, output = _explicit(subscripts, [tuple(x.shape) for x in operands])
    return _einsum(",".join(terms) + "->" + output, *operands)
