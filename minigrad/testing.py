"""For tests: gradients checked against finite differences, minigrad's and yours; memory measured."""

import math
from collections.abc import Callable
from typing import Any

import numpy

from . import ops
from .autograd import enable_grad
from .autograd.backward import gradients_of
from .backend import of
from .tensor import Tensor

_FULL = 1024  # the largest Jacobian, in elements, that is compared whole
_DIRECTIONS = 8


def gradcheck(
    function: Callable[..., Any],
    *inputs: Any,
    order: int = 1,
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    seed: int = 0,
) -> bool:
    """Compare the gradients of `function` at `inputs` with central differences.

    Up to 1024 elements the whole Jacobian is compared; above that its products with random directions.

    Args:
        function: takes `inputs`, and gives a tensor or a tuple of tensors; the same each time.
        *inputs: tensors; those that require gradients are checked, and must be float64.
        order: 2 checks the gradients of the gradients too, and so on.
        eps: the step of the differences.
        rtol, atol: the relative and the absolute error allowed.
        seed: for the random directions.

    Returns:
        True, so that it can be asserted.

    Raises:
        AssertionError: a gradient is wrong; the message says which, and by how much.
        TypeError: an input is of another dtype than float64, in which differences are too coarse.
        ValueError: no input requires gradients.

    >>> import minigrad as mg
    >>> x = mg.tensor([0.5, 2.0], dtype=mg.float64, requires_grad=True)
    >>> mg.testing.gradcheck(lambda x: mg.sin(x) * x, x, order=2)
    True
    """
    checked = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    if not checked:
        raise ValueError("gradcheck: no input requires gradients; make one with requires_grad=True")
    for i in checked:
        if inputs[i].dtype != numpy.float64:
            raise TypeError(f"gradcheck: input {i} is {inputs[i].dtype}; differences need float64")
    with enable_grad():
        _check_first_order(function, inputs, checked, eps, rtol, atol, numpy.random.default_rng(seed))
        if order > 1:
            outputs = _outputs(function, inputs)
            draw = numpy.random.default_rng(seed + 1)
            weights = [
                ops.tensor(draw.uniform(0.5, 1.5, y.shape), requires_grad=True, device=y.device)
                for y in outputs
            ]
            n = len(inputs)

            def gradient(*args: Any) -> tuple[Tensor, ...]:
                leaves = [args[i] for i in checked]
                return tuple(_vjp(_outputs(function, args[:n]), args[n:], leaves, create_graph=True))

            gradcheck(gradient, *inputs, *weights, order=order - 1, eps=eps, rtol=rtol, atol=atol, seed=seed)
    return True


def _outputs(function: Callable[..., Any], inputs: Any) -> tuple[Tensor, ...]:
    outputs = function(*inputs)
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)


def _vjp(outputs, weights, leaves, create_graph: bool) -> list[Tensor]:
    """The gradients by `leaves` of the sum of the outputs times their weights; zeros where there is none."""
    found = gradients_of(outputs, weights, [x.node for x in leaves], True, create_graph)
    return [ops.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]


def _check_first_order(function, inputs, checked, eps, rtol, atol, random) -> None:
    def at(arrays: list[numpy.ndarray], requires_grad: bool) -> tuple[list[Any], tuple[Tensor, ...]]:
        args = list(inputs)
        for i, array in zip(checked, arrays, strict=True):
            args[i] = ops.tensor(array, requires_grad=requires_grad, device=inputs[i].device)
        return [args[i] for i in checked], _outputs(function, args)

    def values(arrays: list[numpy.ndarray]) -> numpy.ndarray:
        return _flat([_numpy(y) for y in at(arrays, True)[1]])

    point = [_numpy(inputs[i]) for i in checked]
    leaves, outputs = at(point, True)
    shapes = [x.shape for x in point]
    n, m = sum(x.size for x in point), sum(y.size for y in outputs)
    if n * m <= _FULL:
        into, out_of = numpy.eye(n), numpy.eye(m)
    else:
        into, out_of = random.normal(size=(_DIRECTIONS, n)), random.normal(size=(_DIRECTIONS, m))
    # Row i, column j: the derivative of the outputs weighted by out_of[i] along into[j].
    numeric = numpy.zeros((len(out_of), len(into)))
    for j, direction in enumerate(into):
        steps = _split(direction * eps, shapes)
        above, below = (values([x + s * d for x, d in zip(point, steps, strict=True)]) for s in (1, -1))
        numeric[:, j] = out_of @ ((above - below) / (2 * eps))
    exact = numpy.zeros_like(numeric)
    for i, row in enumerate(out_of):
        weights = [
            ops.tensor(w, dtype=y.dtype, device=y.device)
            for w, y in zip(_split(row, [y.shape for y in outputs]), outputs, strict=True)
        ]
        exact[i] = into @ _flat([_numpy(g) for g in _vjp(outputs, weights, leaves, create_graph=False)])
    wrong = ~numpy.isclose(exact, numeric, rtol=rtol, atol=atol)
    if wrong.any():
        i, j = map(int, numpy.argwhere(wrong)[0])
        what = (
            f"of output element {i} by input element {j}, both counted over the flattened tensors,"
            if n * m <= _FULL
            else f"along random directions (pair {i}, {j})"
        )
        raise AssertionError(
            f"gradcheck: {int(wrong.sum())} of {wrong.size} derivatives are wrong. That {what} is "
            f"{exact[i, j]:.9g}, but differences give {numeric[i, j]:.9g} "
            f"(inputs of shape {shapes}, outputs of shape {[y.shape for y in outputs]})"
        )


def _numpy(x: Tensor) -> numpy.ndarray:
    its = of(x._data)
    assert its is not None
    return numpy.array(its.to_numpy(x._data))


def _flat(arrays: list[numpy.ndarray]) -> numpy.ndarray:
    return numpy.concatenate([a.reshape(-1) for a in arrays]) if arrays else numpy.zeros(0)


def _split(flat: numpy.ndarray, shapes: list[tuple[int, ...]]) -> list[numpy.ndarray]:
    ends = numpy.cumsum([math.prod(shape) for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(numpy.split(flat, ends), shapes, strict=True)]


# --- memory ----------------------------------------------------------------------------------------


def peak_bytes(function: Callable[[], Any]) -> int:
    """The most bytes of NumPy's arrays, and of Python's objects, that a call of `function` held at once.

    Beyond what was there before; memory on a GPU is not counted. The call takes longer than usual, since
    every allocation is followed (by the standard library's `tracemalloc`).

    >>> import minigrad as mg
    >>> x = mg.ones(1_000_000, requires_grad=True)
    >>> mg.testing.peak_bytes(lambda: mg.exp(x)) // 1_000_000
    4
    """
    import tracemalloc  # which most programs never need

    following = tracemalloc.is_tracing()
    if not following:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        function()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not following:
            tracemalloc.stop()
