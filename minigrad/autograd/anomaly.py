"""Finding the operation that first made a NaN or an infinity."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy

from ..atomic import holding
from ..backend import Array, is_floating, namespace, of, plain
from .mode import grad_enabled, watcher
from .node import Node, made_at


def _flaw(op: str, array: Array) -> str:
    """What is not finite in `array`, in words; empty if nothing is."""
    if not is_floating(array.dtype):
        return ""
    array = plain(array)  # inside vmap that of all examples
    xp = namespace(op, [array])
    if bool(xp.all(xp.isfinite(array))):
        return ""
    return "NaN" if bool(xp.any(xp.isnan(array))) else "an infinity"


def _flaws(op: str, values: Sequence[Any]) -> list[str]:
    arrays = [value for value in values if hasattr(value, "dtype")]
    return [_flaw(op, array) for array in arrays]


class Watcher:
    """What `detect_anomaly` looks with: at the result of each recorded operation."""

    def check(self, name: str, node: Node, out: Array, inputs: Sequence[Any]) -> None:
        """Raise if `out` holds a NaN, or an infinity that the inputs do not."""
        flaw = _flaw(name, out)
        if not flaw:
            return
        before = [f"{x} in input {i}" for i, x in enumerate(_flaws(name, inputs)) if x]
        infinite_number = any(isinstance(x, float) and x - x != 0 for x in inputs)
        if flaw == "NaN" or not (before or infinite_number):
            why = f"; there was {', '.join(before)} already" if before else ", from finite inputs"
            raise FloatingPointError(
                f"{name}: the result {tuple(out.shape)} {out.dtype} holds {flaw}{why}; "
                f"computed at {made_at(node)}"
            )


def check_gradient(node: Node, gradient: Any, g: Any, parent: Node) -> None:
    """Raise if the gradient that a rule gave holds a NaN, or an infinity that the given one does not."""
    gradient, g = (getattr(x, "_data", x) for x in (gradient, g))
    if of(gradient) is None or of(g) is None:  # those of a checkpoint's results, which come together
        return
    name = node.plan.name  # pyright: ignore[reportOptionalMemberAccess]
    flaw = _flaw(name, gradient)
    if flaw and (flaw == "NaN" or not _flaw(name, g)):
        before = _flaw(name, g)
        why = f"; there was {before} in the gradient of its result already" if before else ""
        raise FloatingPointError(f"the gradient of {name!r} holds {flaw}{why}")


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Inside, the first operation that makes a NaN or an infinity is an error that says where it is.

    It looks at the result of each operation that is recorded for gradients, and at each gradient: at a
    NaN always, and at an infinity unless it came in with the inputs, as in a mask of `-inf`. This takes
    one pass over each array: little next to a matrix product. (torch looks at gradients alone.)

    Raises:
        FloatingPointError: names the op, what it got, and the line of yours that called it.

    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, 0.0], requires_grad=True)
    >>> with mg.detect_anomaly():
    ...     mg.sqrt(x).sum().backward()  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    FloatingPointError: the gradient of 'sqrt' holds an infinity
    in the gradient of 'sqrt' (result (2,)) for an input of shape (2,), computed at <doctest ...
    """
    watch = Watcher()
    with (
        holding(watcher, watch),
        holding(grad_enabled, grad_enabled.get() and watch),
        numpy.errstate(all="ignore"),  # whose warnings would say less
    ):
        yield
