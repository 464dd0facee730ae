"""Functions that run along one axis: sums and products so far, and differences of neighbours."""

from typing import Any

from ..backend import SCALARS, check_axis, integer, is_bool, is_floating, refuse_dtype
from ..primitive import expect_arrays, primitive
from . import beyond
from .comparison import not_equal
from .elementwise import astype, subtract
from .indexing import getitem
from .joining import concat
from .shaping import moveaxis, pad


def _prepared(op, x, axis, dtype, initial):
    """x, converted and led by the `initial` value if there are such, and its axis counted from the front."""
    expect_arrays(op, x)
    n = len(x.shape)
    if axis is None and n != 1:
        raise ValueError(f"{op}: an input of shape {tuple(x.shape)} needs an axis")
    axis = check_axis(op, 0 if axis is None else axis, n)
    if dtype is not None:
        refuse_dtype(op, dtype)
        x = astype(x, dtype)
    return (x if initial is None else _with_border(op, x, axis, initial, (1, 0))), axis


def _with_border(op, x, axis, value, widths):
    """x with `value` in so many places before and after it along `axis`."""
    if isinstance(value, float) and not is_floating(x.dtype):
        raise TypeError(
            f"{op}: an array of {x.dtype} cannot hold {value}; convert it first, as with mg.astype"
        )
    return pad(x, [widths if a == axis else (0, 0) for a in range(len(x.shape))], value)


@primitive(x=lambda xp, g, axis: xp.flip(beyond.cumulative_sum(xp, xp.flip(g, axis=axis), axis), axis=axis))
def _cumulative_sum(xp, x, axis):
    return beyond.cumulative_sum(xp, x, axis)


def cumulative_sum(x, axis=None, dtype=None, include_initial=False) -> Any:
    """The sums of the elements up to each one along `axis`, which only a 1-D input may leave out.

    Args:
        x: bools and small integers are summed as the default integers.
        axis: an integer. (NumPy's `cumsum` flattens x without one.)
        dtype: of the result; x is converted to it before.
        include_initial: begin with the sum of no elements, 0: the result is longer than x by one.
    """
    x, axis = _prepared("cumulative_sum", x, axis, dtype, 0 if include_initial else None)
    result = _cumulative_sum(x, axis)
    return result if dtype is None else astype(result, dtype)


def _later(xp, x, step):
    """The element that comes `step` places later in each row; 0 where there is none."""
    return xp.concat([x[..., step:], xp.zeros_like(x[..., :step])], axis=-1)


def _cumulative_prod_dx(xp, g, x, out, axis):
    """For each element, the product of those before it, times the sum of g times the products after it.

    That sum s satisfies s[k] = g[k] + x[k + 1] s[k + 1]: it is found by doubling, and divides by nothing.
    """
    g, x, out = (moveaxis(v, axis, -1) for v in (g, x, out))
    total, factor, step = g, _later(xp, x, 1), 1
    while step < x.shape[-1]:
        total = total + factor * _later(xp, total, step)
        factor = factor * _later(xp, factor, step)
        step *= 2
    before = xp.concat([xp.ones_like(out[..., :1]), out[..., :-1]], axis=-1)
    return moveaxis(before * total, -1, axis)


@primitive(x=_cumulative_prod_dx)
def _cumulative_prod(xp, x, axis):
    return beyond.cumulative_prod(xp, x, axis)


def cumulative_prod(x, axis=None, dtype=None, include_initial=False) -> Any:
    """The products of the elements up to each one along `axis`, which only a 1-D input may leave out.

    The gradient is right where elements are 0, too, to any order. Arguments are as in `cumulative_sum`;
    the product of no elements is 1.
    """
    x, axis = _prepared("cumulative_prod", x, axis, dtype, 1 if include_initial else None)
    result = _cumulative_prod(x, axis)
    return result if dtype is None else astype(result, dtype)


def diff(x, n=1, axis=-1, prepend=None, append=None) -> Any:
    """The differences of neighbours along `axis`, taken `n` times.

    `prepend` and `append`, arrays or numbers, are joined to x before; a number stands for a slice of
    length 1. Of bools the result is bool: whether neighbours differ. With n=0 it is x, nothing joined.

    >>> import minigrad as mg
    >>> mg.diff(mg.tensor([1.0, 4.0, 9.0, 16.0]), n=2).tolist()
    [2.0, 2.0]
    """
    joined = [x, *(v for v in (prepend, append) if v is not None and not isinstance(v, SCALARS))]
    expect_arrays("diff", *joined)
    axis = check_axis("diff", axis, len(x.shape))
    if integer("diff", "n", n) < 0:
        raise ValueError(f"diff: n must not be negative, got {n}")
    if n == 0:
        return x
    if isinstance(prepend, SCALARS):
        prepend, x = None, _with_border("diff", x, axis, prepend, (1, 0))
    if isinstance(append, SCALARS):
        append, x = None, _with_border("diff", x, axis, append, (0, 1))
    if len(joined) > 1:
        shapes = [tuple(v.shape) for v in joined]
        if len({(len(s), s[:axis], s[axis + 1 :]) for s in shapes}) > 1:
            raise ValueError(f"diff: cannot join shapes {' and '.join(map(str, shapes))} along axis {axis}")
        x = concat([v for v in (prepend, x, append) if v is not None], axis)
    later, earlier = ((*[slice(None)] * axis, bounds, ...) for bounds in (slice(1, None), slice(0, -1)))
    for _ in range(n):
        x = (not_equal if is_bool(x.dtype) else subtract)(getitem(x, later), getitem(x, earlier))
    return x
