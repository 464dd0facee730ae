"""Whole matrices of derivatives."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from .. import ops
from ..autograd import is_grad_enabled, wrap
from ..backend import create, of
from . import trees
from .gradients import Forward, Function, Watch, check_function, places_of, tensors_among, without_aux
from .vmap import vmap

_AT_ONCE = 64  # passes that are made in one, which takes so many times the memory


def _for_each_unit(function: Callable[[Any], tuple[Any, ...]], x: Any) -> list[Any]:
    """What `function` gives for each tensor that is 1 in one place of x's shape, along a new first axis."""
    backend = of(x._data)
    assert backend is not None
    n = x.size
    eye = create(backend.xp, "eye", n, dtype=x.dtype, like=x._data)
    units = wrap(backend.xp.reshape(eye, (n, *x.shape)))
    if n == 1:
        return [ops.expand_dims(part, 0) for part in function(units[0])]
    parts = [vmap(function)(units[i : i + _AT_ONCE]) for i in range(0, n, _AT_ONCE)]
    return [column[0] if len(column) == 1 else ops.concat(column) for column in zip(*parts, strict=True)]


def jacobian(
    function: Function,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    mode: str | None = None,
) -> Callable[..., Any]:
    """A function that gives the derivative of each element of the outputs by each of an argument.

    Args:
        function: gives a tensor of floating-point numbers, or any nesting of them; with `has_aux` a pair
            of that and anything else.
        argnums: as for `grad`.
        mode: `'reverse'` takes a pass for each element of the outputs, `'forward'` (a vjp of a vjp) for
            each element of the argument; None takes the shorter. `vmap` makes up to 64 passes at once.

    Returns:
        A function that gives, for outputs of shape `m` and an argument of shape `n`, a tensor of shape
        `m + n`; nested as the outputs are, and therein as the argument is.

    >>> import minigrad as mg
    >>> mg.jacobian(lambda x: x**2)(mg.tensor([1.0, 2.0, 3.0])).tolist()
    [[2.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 6.0]]
    """
    if mode not in (None, "reverse", "forward"):
        raise ValueError(f"jacobian: mode must be 'reverse', 'forward' or None, got {mode!r}")
    check_function("jacobian", function)
    several, places = not isinstance(argnums, int), places_of("jacobian", argnums)

    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        run = Watch("jacobian", function, args, places, kwargs)
        outputs, *aux = without_aux("jacobian", run.outputs, has_aux)
        run.results = tensors_among("jacobian", outputs)
        n, m = (sum(x.size for x in xs) for xs in (run.sources, run.results))
        matrices = (_by_columns if mode == "forward" or (mode is None and n < m) else _by_rows)(run)
        rows = []
        for row in matrices:
            tree = trees.rebuilt(run.chosen, iter(row))
            rows.append(tuple(tree) if several else tree[0])
        result = trees.rebuilt(outputs, iter(rows))
        return (result, run.closed(aux[0])) if has_aux else result

    return call


def _by_rows(run: Watch) -> list[list[Any]]:
    """The derivative of each result by each source, with a pass for each element of a result."""
    create_graph = is_grad_enabled() and run.open
    matrices = []
    for y in run.results:
        shapes = [(*y.shape, *x.shape) for x in run.sources]
        rows = _for_each_unit(lambda unit, y=y: tuple(run.pull([unit], True, create_graph, [y])), y)
        matrices.append(_reshaped(rows, shapes, y))
    return matrices


def _by_columns(run: Watch) -> list[list[Any]]:
    """The same, with a pass for each element of a source."""
    forward = Forward(run)
    matrices: list[list[Any]] = [[] for _ in run.results]
    for k, x in enumerate(run.sources):
        shapes = [(*y.shape, *x.shape) for y in run.results]
        columns = _for_each_unit(lambda unit, k=k: tuple(forward.push([unit], [k])), x)
        columns = [ops.moveaxis(column, 0, -1) for column in columns]
        for matrix, column in zip(matrices, _reshaped(columns, shapes, x), strict=True):
            matrix.append(column)
    return matrices


def _reshaped(parts: list[Any], shapes: list[tuple[int, ...]], like: Any) -> list[Any]:
    if not parts:  # there was no unit
        return [ops.zeros(shape, dtype=like.dtype, device=like.device) for shape in shapes]
    return [ops.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]


def hessian(function: Function, argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function that gives all second derivatives of `function`: the Jacobian of its Jacobian.

    For a function of one argument of shape `n` that gives a number, they come as a tensor of shape
    `n + n`; nested arguments and several `argnums` nest the result twice.

    >>> import minigrad as mg
    >>> mg.hessian(lambda x: x[0] ** 2 * x[1])(mg.tensor([1.0, 2.0])).tolist()
    [[4.0, 2.0], [2.0, 0.0]]
    """
    return jacobian(jacobian(function, argnums), argnums)
