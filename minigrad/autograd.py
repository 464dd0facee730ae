"""The engine: what an operation leaves behind, and how gradients flow back through it.

Every operation on tensors that require gradients leaves a `Node`. A node points at the nodes of its
inputs, and never at a tensor: so there are no reference cycles, and a graph is freed as soon as the
last tensor that needs it goes. Besides that a node keeps the few arrays that its gradient rules name.

`gradients` walks the graph from a result to its leaves. Each rule is array code that is given the
namespace it computes with, and that is the whole trick behind higher orders: with NumPy as the
namespace the gradients are plain arrays, and with minigrad's own ops they are tensors, which have a
graph of their own.
"""

import itertools
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar

import numpy

from .backend import Array, Namespace, cast, is_floating, namespace, numpy_namespace, of

if TYPE_CHECKING:
    from .primitive import Plan

# --- grad mode -------------------------------------------------------------------------------------

grad_enabled: ContextVar[bool] = ContextVar("minigrad.grad_enabled", default=True)
"""A context variable, so that threads and asyncio tasks do not see each other's mode."""


def is_grad_enabled() -> bool:
    """Whether operations are recorded in this thread or task. A new thread begins with True."""
    return grad_enabled.get()


@contextmanager
def grad_mode(enabled: bool) -> Iterator[None]:
    """Record, or do not, inside a `with` block or a decorated function."""
    token = grad_enabled.set(enabled)
    try:
        yield
    finally:
        grad_enabled.reset(token)


def no_grad():
    """Record nothing inside: `with no_grad():`, or `@no_grad()` on a function.

    >>> import minigrad as mg
    >>> x = mg.ones(2, requires_grad=True)
    >>> with mg.no_grad():
    ...     (x * 2).requires_grad
    False
    """
    return grad_mode(False)


def enable_grad():
    """Record inside, also within a `no_grad` block: `with enable_grad():` or `@enable_grad()`."""
    return grad_mode(True)


# --- the graph -------------------------------------------------------------------------------------


FREED = object()
"""What a node saved after backward has passed it."""

next_number = itertools.count().__next__
_number = operator.attrgetter("number")


class Node:
    """One recorded operation.

    Attributes:
        plan: the op's rules for those inputs that need a gradient; None in a leaf.
        parents: the nodes of those inputs, in the same order.
        saved: the values that these rules name, and nothing else; FREED once backward has passed.
        stamps: (input slot, memory, version) of each saved value that lies in the memory of a leaf.
        shape, dtype: of the result.
        number: counts the nodes as they are made.
    """

    __slots__ = ("dtype", "number", "parents", "plan", "saved", "shape", "stamps")

    plan: "Plan | None"
    parents: "tuple[Node, ...]"
    saved: Any
    stamps: "tuple[tuple[int, Memory, int], ...]"

    # No __init__: `primitive` fills the slots in where it makes a node, which is done for every op.


class Memory:
    """The memory of a leaf: counts the times that it was overwritten, which only optimizers do."""

    __slots__ = ("version",)

    def __init__(self):
        self.version = 0


class Leaf(Node):
    """Where a gradient ends up: the node of a tensor that the user made."""

    __slots__ = ("grad",)

    def __init__(self, shape, dtype):
        self.plan = None
        self.parents = self.saved = self.stamps = ()
        self.shape = shape
        self.dtype = dtype
        self.number = next_number()
        self.grad: Any = None


class Variable:
    """An array and its place in the graph: all that the engine knows of a tensor.

    Attributes:
        _data: the array.
        node: None (no gradient flows), a Leaf, or the Node of the operation that made it.
        home: the Memory of the leaf in which the array lies, if any: set in a parameter, in its views,
            and in what was detached from it.
    """

    __slots__ = ("__weakref__", "_data", "home", "node")

    _data: Array
    node: Node | None
    home: Memory | None

    made: "ClassVar[type]"  # the class of results: Tensor, which is built from the ops and comes after them


new = object.__new__


def wrap(data: Array, node: Node | None = None, home: Memory | None = None) -> Any:
    """A tensor from its parts, with no checks."""
    result = new(Variable.made)
    result._data = data
    result.node = node
    result.home = home
    return result


def require_grad(variable: Any) -> None:
    """Make `variable`, whose memory nobody else may hold, a leaf to which gradients flow."""
    data = variable._data
    if not is_floating(data.dtype):
        raise TypeError(
            f"only floating-point tensors can require gradients, got {data.dtype}; "
            "convert it first, as with dtype=mg.float32"
        )
    variable.node = Leaf(data.shape, data.dtype)
    variable.home = Memory()


# --- backward --------------------------------------------------------------------------------------


def gradients(
    root: Node, g: Any, retain_graph: bool, tensor_namespace: Namespace | None = None
) -> Iterator[tuple[Leaf, Any]]:
    """Yield each leaf that `root` was computed from, with its gradient, given the gradient `g` of root.

    A node is passed once, after all that was computed from it; its saved values are let go at once
    unless `retain_graph`. With `tensor_namespace` (minigrad's ops) the gradients are tensors.
    """
    ndarray = numpy.ndarray
    arrived = {root: g}
    # The first gradient to arrive at a node is borrowed: a rule may have passed on an array that
    # somebody else holds. The first addition makes a new array, which is ours to write to.
    ours: set[Node] = set()
    plan = parent = None
    try:
        for node in _newest_first(root):
            g = arrived.pop(node)
            plan = node.plan
            if plan is None:
                assert isinstance(node, Leaf)
                yield node, g
                continue
            if tensor_namespace is None:
                xp = numpy_namespace if type(g) is ndarray else namespace(plan.name, [g])
                saved = node.saved
            else:
                xp = tensor_namespace
                saved = _as_tensors(node)
            place = 0
            for parent in node.parents:
                gradient = plan.rules[place](xp, g, parent, saved)
                place += 1  # noqa: SIM113 - enumerate and zip would take a tenth of the time of a small op
                if gradient.shape != parent.shape:
                    gradient = _sum_to(xp, gradient, parent.shape)
                if gradient.dtype is not parent.dtype and gradient.dtype != parent.dtype:
                    gradient = cast(xp, gradient, parent.dtype)
                if parent not in arrived:
                    arrived[parent] = gradient
                elif parent not in ours:
                    arrived[parent] = arrived[parent] + gradient
                    ours.add(parent)
                else:
                    arrived[parent] += gradient
            if not retain_graph:
                node.saved = FREED
                node.parents = ()
    except Exception as error:
        if plan is not None and parent is not None:
            error.add_note(
                f"in the gradient of {plan.name!r} (result {node.shape}) for an input of shape {parent.shape}"  # pyright: ignore[reportPossiblyUnboundVariable]
            )
        raise


def _newest_first(root: Node) -> list[Node]:
    """The nodes that `root` was computed from, each before all that it was itself computed from.

    A node is younger than its parents, so their numbers alone give the order. All checks are made
    here, before any gradient is computed: an error leaves nothing half done.
    """
    found = [root]
    seen = {root}
    for node in found:  # which grows meanwhile
        if node.saved is FREED:
            raise RuntimeError(
                f"backward: the graph behind {node.plan.name!r} was freed by an earlier backward "  # pyright: ignore[reportOptionalMemberAccess]
                "through it; pass retain_graph=True to that one, or run the forward pass again"
            )
        if node.stamps:
            _check_stamps(node)
        for parent in node.parents:
            if parent not in seen:
                seen.add(parent)
                found.append(parent)
    found.sort(key=_number, reverse=True)
    return found


def _check_stamps(node: Node) -> None:
    assert node.plan is not None
    for _, memory, version in node.stamps:
        if memory.version != version:
            raise RuntimeError(
                f"backward: the gradient of {node.plan.name!r} (result {node.shape}) needs the value that a "
                "parameter had in the forward pass, and an optimizer has overwritten it since; call "
                "backward() before step(), or run the forward pass again"
            )


def _as_tensors(node: Node) -> list[Any]:
    """What a node saved, with the inputs and the result as tensors in their places in the graph."""
    assert node.plan is not None
    saved: list[Any] = [node.saved] if node.plan.single else list(node.saved)
    places = node.plan.places
    tensors = {slot: wrap(saved[places[slot]], None, memory) for slot, memory, _ in node.stamps}
    for slot, its_node in (*zip(node.plan.slots, node.parents, strict=True), (-1, node)):
        if slot in places:
            tensors.setdefault(slot, wrap(saved[places[slot]])).node = its_node
    for slot, place in places.items():
        if slot in tensors:
            saved[place] = tensors[slot]
        elif of(saved[place]) is not None:
            saved[place] = wrap(saved[place])
    return saved[0] if node.plan.single else saved


def _sum_to(xp: Namespace, g: Any, shape: tuple[int, ...]) -> Any:
    """Undo broadcasting: sum `g` over the axes along which an input of `shape` was repeated."""
    added = len(g.shape) - len(shape)
    axes = tuple(range(added))
    if 1 in shape:
        axes += tuple(i + added for i, size in enumerate(shape) if size == 1 and g.shape[i + added] != 1)
    g = xp.sum(g, axis=axes)
    return g if g.shape == shape else xp.reshape(g, shape)
