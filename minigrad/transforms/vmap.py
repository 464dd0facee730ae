"""`vmap`: a function of one example, made into one of many examples at once.

What it runs the function on are tensors with batched arrays (see `batched`): all ops and their gradients
work on these as they are. What remains is to go in and out, by four ops that are each other's gradients.
`_enter` hides an axis, and `_leave` shows it again. `_lift` takes in what all examples share, and
`_sum_over` adds up what they send back to it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

from .. import ops
from ..atomic import holding
from ..autograd import Variable
from ..backend import check_axis, create, of, plain, vmap_depth
from ..batched import Batching, Level, Levels, align, batching, levels_of, union
from ..primitive import primitive
from .gradients import check_function


def _data(value: Any) -> Any:
    return value._data if isinstance(value, Variable) else value


# --- in and out ------------------------------------------------------------------------------------


def _entered(g, shape, level, axis) -> Any:
    g = _lifted(g, (level,))
    if not level.active:
        return _leave(g, level, axis)
    # The gradient of one example, by all of them: it is 0 but in its own place.
    data = _data(g)
    own = data.space.wrap(create(data.space.base, "arange", level.size, like=data.examples), (level,))
    return ops.scatter(g, (*[slice(None)] * axis, own, ...), shape, False)


@primitive(x=_entered)
def _enter(xp, x, level, axis):
    inside, outer = batching(x), levels_of(x) or ()
    levels = union([outer, (level,)])
    order = list(range(plain(x).ndim))
    order.insert(levels.index(level), order.pop(len(outer) + axis))
    return inside.wrap(inside.base.permute_dims(plain(x), tuple(order)), levels)


@primitive(x=lambda g, level, axis: _enter(g, level, axis))
def _leave(xp, x, level, axis):
    place, array = x.levels.index(level), x.examples
    sizes = (*array.shape[:place], level.size, *array.shape[place + 1 :])
    order = list(range(array.ndim))
    order.insert(len(x.levels) - 1 + axis, order.pop(place))
    array = x.space.base.permute_dims(x.space.base.broadcast_to(array, sizes), tuple(order))
    return x.space.wrap(array, tuple(other for other in x.levels if other is not level))


def _shared(g, levels) -> Any:
    over = tuple(level for level in levels if not level.active)
    return _sum_over(_lifted(g, over), over) if over else g


@primitive(x=_shared)
def _lift(xp, x, levels):
    inside, own = batching(x), levels_of(x) or ()
    levels = union([own, levels])
    return inside.wrap(align(inside.base, plain(x), own, levels, x.ndim), levels)


@primitive(x=lambda g, levels: _lifted(g, levels))
def _sum_over(xp, x, levels):
    axes = tuple(i for i, level in enumerate(x.levels) if level in levels)
    alike = math.prod(x.levels[i].size for i in axes if x.examples.shape[i] == 1)
    xp = x.space.base
    total = xp.sum(x.examples, axis=axes)
    rest = tuple(level for level in x.levels if level not in levels)
    return x.space.wrap(total if alike == 1 else total * alike, rest)


def _lifted(x: Any, levels: Levels) -> Any:
    """x, a tensor or an array, in all of `levels`."""
    own = levels_of(_data(x)) or ()
    missing = tuple(level for level in levels if level not in own)
    return _lift(x, missing) if missing else x


def _lift_all(values: list[Any]) -> list[Any] | None:
    found = [levels_of(_data(value)) for value in values]
    levels = union(found)
    if all(own is None or own == levels for own in found):
        return None
    return [v if own is None else _lifted(v, levels) for v, own in zip(values, found, strict=True)]


Batching.lift = staticmethod(_lift_all)


# --- the transform ---------------------------------------------------------------------------------


def vmap(function: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0) -> Callable[..., Any]:
    """A function that computes `function` for many examples at once, as a loop over them would.

    Gradients flow through it, also to tensors that `function` takes from around it, and inside they can be
    taken for each example. It can be nested, and used on what any of the transforms make.

    Args:
        function: takes and gives tensors, or lists, tuples and dicts of them. It sees one example: the axis
            of examples is not in the shapes. It is run once: whatever else it does happens once, not once
            for each example.
        in_axes: where the axis of examples is: an integer for all arguments, or a tuple (or list) with one
            for each of them, None for what all examples share. For a list, tuple or dict of tensors it is
            one for all of them, or the like with one for each. Keyword arguments are shared.
        out_axes: where that axis goes in the results, in the same way; None for a result that does not
            depend on the example.

    Raises:
        ValueError: no argument has an axis of examples, or not all of them have equally many; `in_axes` or
            `out_axes` does not fit.
        IndexError: an argument has no such axis.
        TypeError: `function` asks for a single value, as `if x > 0` and `x.item()` do, where each example
            has its own (`mg.where` chooses in each); or it gives something else than tensors.
        NotImplementedError: reading by a mask that differs between examples; or a function that has no
            batched form, with its name.
        RuntimeError: `function` draws random numbers, which all examples would share (draw them before, and
            pass them as an argument); or calls `backward` (see `grad`).

    (In torch a function that draws random numbers can be told to share them, and JAX's shares them always.)

    >>> import minigrad as mg
    >>> matrices, vector = mg.ones((5, 2, 3)), mg.ones(3)
    >>> mg.vmap(mg.matmul, in_axes=(0, None))(matrices, vector).shape
    (5, 2)
    """

    check_function("vmap", function)

    @functools.wraps(function, updated=())
    def batched(*args: Any, **settings: Any) -> Any:
        axes = tuple(in_axes) if isinstance(in_axes, (tuple, list)) else (in_axes,) * len(args)
        sizes: list[int] = []
        _map("in_axes", lambda x, axis: sizes.append(_size(x, axis)), args, axes)
        if not sizes:
            raise ValueError(f"vmap: in_axes {in_axes} gives no argument an axis of examples")
        if len(set(sizes)) > 1:
            raise ValueError(f"vmap: all arguments must have equally many examples, got {sizes}")
        level = Level(sizes[0])
        try:
            with holding(vmap_depth, vmap_depth.get() + 1):
                result = function(*_map("in_axes", lambda x, a: _in(x, level, a), args, axes), **settings)
        finally:
            level.active = False
        return _map("out_axes", lambda y, axis: _out(y, level, axis), result, out_axes)

    return batched


def _map(what: str, change: Callable[[Any, Any], Any], tree: Any, axes: Any) -> Any:
    """`tree` with everything in it changed, given its axis; inputs without one stay as they are."""
    if axes is None and what == "in_axes":
        return tree
    if not isinstance(tree, (list, tuple, dict)):
        return change(tree, axes)
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    if axes is None or isinstance(axes, int):
        axes = dict.fromkeys(keys, axes)
    elif isinstance(axes, dict) != isinstance(tree, dict) or len(axes) != len(tree):
        raise ValueError(f"vmap: {what} {axes} does not fit a {type(tree).__name__} of {len(tree)}")
    parts = [_map(what, change, tree[key], axes[key]) for key in keys]
    if isinstance(tree, dict):
        return dict(zip(keys, parts, strict=True))
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


def _size(x: Any, axis: int) -> int:
    if not isinstance(x, Variable) and of(x) is None:
        raise TypeError(f"vmap: a {type(x).__name__} has no axes; None in in_axes is for what examples share")
    shape = _data(x).shape
    return shape[check_axis("vmap", axis, len(shape))]


def _in(x: Any, level: Level, axis: int) -> Any:
    x = x if isinstance(x, Variable) else ops.tensor(x)
    return _enter(x, level, axis % len(x._data.shape))


def _out(y: Any, level: Level, axis: int | None) -> Any:
    if not isinstance(y, Variable):
        kind = type(y).__name__
        raise TypeError(
            f"vmap: a function must give tensors, or lists, tuples or dicts of them, not a {kind}"
        )
    if axis is None:
        if level in (levels_of(y._data) or ()):
            raise ValueError("vmap: out_axes is None for a result that differs between the examples")
        return y
    return _leave(_lifted(y, (level,)), level, check_axis("vmap", axis, len(y._data.shape) + 1))
