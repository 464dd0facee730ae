"""The graph: what an operation leaves behind.

Every operation on tensors that require gradients leaves a `Node`. A node points at the nodes of its
inputs, and never at a tensor: so there are no reference cycles, and a graph is freed as soon as the
last tensor that needs it goes. Besides that a node keeps the few arrays that its gradient rules name.

Optimizers overwrite the memory of parameters, which nothing else does. So a node stamps what it keeps of
such memory with the memory's version, and a backward that finds a newer one is an error.
"""

import itertools
import linecache
import os
from collections.abc import Callable
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, ClassVar

from ..backend import Array, Namespace, is_floating

if TYPE_CHECKING:
    from ..rules import Plan


FREED = object()
"""What a node saved after backward has passed it."""

next_number = itertools.count().__next__


class Node:
    """One recorded operation.

    Attributes:
        plan: the op's rules for those inputs that need a gradient; None in a leaf.
        parents: the nodes of those inputs, in the same order.
        saved: the values that these rules name, and nothing else; FREED once backward has passed.
        stamps: (input slot, memory, version) of each saved value that lies in the memory of a leaf.
        shape, dtype: of the result.
        number: counts the nodes as they are made.
        code, instruction: the place in the user's program that called the operation, see `made_at`.
    """

    __slots__ = ("code", "dtype", "instruction", "number", "parents", "plan", "saved", "shape", "stamps")

    plan: "Plan | None"
    parents: "tuple[Node, ...]"
    saved: Any
    stamps: "tuple[tuple[int, Memory, int], ...]"
    code: CodeType
    instruction: int

    # No __init__: `primitive` fills the slots in where it makes a node, which is done for every op.


class Memory:
    """The memory of a leaf: counts the times that it was overwritten, which only optimizers do."""

    __slots__ = ("version",)

    def __init__(self):
        self.version = 0


class Leaf(Node):
    """Where a gradient ends up: the node of a tensor that the user made."""

    __slots__ = ("grad", "hooks")
    lasting = True  # whether its tensor is to stay a leaf; not the argument of a function in a transform

    def __init__(self, shape, dtype):
        self.plan = None
        self.parents = self.saved = self.stamps = ()
        self.shape = shape
        self.dtype = dtype
        self.number = next_number()
        self.grad: Any = None
        self.hooks: Hooks = {}


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

    # What comes after the engine, and tells it of itself:
    made: "ClassVar[type]"  # the class of results, Tensor
    namespace: ClassVar[Namespace]  # minigrad's ops


new = object.__new__


def wrap(data: Array, node: Node | None = None, home: Memory | None = None) -> Any:
    """A tensor from its parts, with no checks."""
    result = new(Variable.made)
    result._data = data
    result.node = node
    result.home = home
    return result


def leaf_for(array: Array) -> Leaf:
    """A leaf for a tensor with this array. Raises `TypeError` unless it is of floating-point numbers."""
    if not is_floating(array.dtype):
        raise TypeError(
            f"only floating-point tensors can require gradients, got {array.dtype}; "
            "convert it first, as with dtype=mg.float32"
        )
    return Leaf(array.shape, array.dtype)


def require_grad(variable: Any) -> None:
    """Make `variable`, whose memory nobody else may hold, a leaf to which gradients flow."""
    variable.node, variable.home = leaf_for(variable._data), Memory()


# --- hooks -----------------------------------------------------------------------------------------

Hooks = dict[int, Callable[[Any], Any]]


class Hook:
    """A hook among others: `remove()` takes it away, as leaving a `with` block does."""

    def __init__(self, hooks: dict[int, Any], function: Any):
        self._hooks = hooks
        self._key = next_number()
        hooks[self._key] = function

    def remove(self) -> None:
        """Take the hook away; calling it again does nothing."""
        self._hooks.pop(self._key, None)

    def __enter__(self) -> "Hook":
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def hooks_of(node: Node) -> Hooks:
    """The hooks of a node, to which one can be added."""
    if isinstance(node, Leaf):
        return node.hooks
    assert node.plan is not None
    if not node.plan.hooks:  # a plan is shared by all nodes of an op: from now on this one has its own
        node.plan = node.plan.with_hooks()
    return node.plan.hooks


# --- where in the user's program --------------------------------------------------------------------

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def outside(frame: FrameType) -> FrameType:
    """The frame of the user's program that called into this package, by way of `frame`."""
    while frame.f_code.co_filename.startswith(HERE) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def line_of(code: CodeType, instruction: int) -> int:
    """The line that an instruction comes from."""
    positions = list(code.co_positions())
    return positions[instruction // 2][0] or code.co_firstlineno


def made_at(node: Node) -> str:
    """The line that made `node`: where it is, and what it says."""
    if node.plan is None:
        return ""
    line = line_of(node.code, node.instruction)
    name = node.code.co_filename
    text = linecache.getline(name, line).strip()
    return f"{name}:{line} in {node.code.co_qualname}" + (f": {text}" if text else "")
