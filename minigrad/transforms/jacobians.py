"""Whole matrices of derivatives."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from .. import ops
from ..autograd import is_grad_enabled, wrap
from ..backend import create, of
from . import trees
from .gradients import Forward, Function, Watch, tensors_among


def _units(x: Any) -> list[Any]:
    """For each element of `x` a tensor of its shape that is 1 there and 0 elsewhere."""
    backend = of(x._data)
    assert backend is not None
    rows = create(backend.xp, "eye", x.size, dtype=x.dtype, like=x._data)
    return [wrap(backend.xp.reshape(rows[i, ...], x.shape)) for i in range(x.size)]


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
            each element of the argument; None takes the shorter.

    Returns:
        A function that gives, for outputs of shape `m` and an argument of shape `n`, a tensor of shape
        `m + n`; nested as the outputs are, and therein as the argument is.

    >>> import minigrad as mg
    >>> mg.jacobian(lambda x: x**2)(mg.tensor([1.0, 2.0, 3.0])).tolist()
    [[2.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 6.0]]
    """
    if mode not in (None, "reverse", "forward"):
        raise ValueError(f"jacobian: mode must be 'reverse', 'forward' or None, got {mode!r}")
    several = not isinstance(argnums, int)
    places = tuple(argnums) if several else (argnums,)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        run = Watch("jacobian", function, args, places, kwargs)
        outputs, *aux = run.outputs if has_aux else (run.outputs,)
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
        rows = [run.pull([unit], True, create_graph, [y]) for unit in _units(y)]
        matrices.append([_joined([row[k] for row in rows], 0, y, x) for k, x in enumerate(run.sources)])
    return matrices


def _by_columns(run: Watch) -> list[list[Any]]:
    """The same, with a pass for each element of a source."""
    forward = Forward(run)
    matrices: list[list[Any]] = [[] for _ in run.results]
    for k, x in enumerate(run.sources):
        columns = [forward.push([unit], [k]) for unit in _units(x)]
        for j, y in enumerate(run.results):
            matrices[j].append(_joined([column[j] for column in columns], -1, y, x))
    return matrices


def _joined(parts: list[Any], axis: int, y: Any, x: Any) -> Any:
    """Rows, or columns with `axis=-1`, of the derivative of y by x, as one tensor."""
    shape = (*y.shape, *x.shape)
    if not parts:
        return ops.zeros(shape, dtype=x.dtype, device=x.device)
    return ops.reshape(ops.stack(parts, axis), shape)


def hessian(function: Function, argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function that gives all second derivatives of `function`: the Jacobian of its Jacobian.

    For a function of one argument of shape `n` that gives a number, they come as a tensor of shape
    `n + n`; nested arguments and several `argnums` nest the result twice.

    >>> import minigrad as mg
    >>> mg.hessian(lambda x: x[0] ** 2 * x[1])(mg.tensor([1.0, 2.0])).tolist()
    [[4.0, 2.0], [2.0, 0.0]]
    """
    return jacobian(jacobian(function, argnums), argnums)
