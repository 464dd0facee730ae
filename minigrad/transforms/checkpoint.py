"""Less memory for more time: run a part of the forward pass again in the backward pass.

When a checkpointed function has run, the graph behind its results is cut out, and with it all that its
operations kept. One node takes its place, which points to what that graph pointed to. When gradients
come back to it, the function runs again, and they go through the new graph.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy

from .. import ops, random
from ..autograd import Memory, Node, Variable, grad_mode, is_grad_enabled, new, next_number, outside, wrap
from ..autograd.backward import gradients_of
from ..backend import namespace, plain
from ..primitive import Op, Plan
from . import trees
from .gradients import check_function


class Run(NamedTuple):
    """What a function gave, and the graph that it made."""

    outputs: Any
    results: list[Any]  # the tensors among the outputs that have nodes in this graph, one for each node
    parents: list[Node]  # the nodes outside that this graph points to
    stamps: set[tuple[Memory, int]]


def _run(function: Callable[..., Any], args: Any, kwargs: Any) -> Run:
    first = next_number()
    outputs = function(*args, **kwargs)
    results: dict[Node, Any] = {}
    for y in trees.leaves(outputs):
        if isinstance(y, Variable) and y.node is not None and y.node.parents and y.node.number > first:
            results[y.node] = y
    inner, parents = list(results), set()
    seen = set(inner)
    for node in inner:  # which grows meanwhile
        for parent in node.parents:
            if parent.number < first:
                parents.add(parent)
            elif parent not in seen:
                seen.add(parent)
                inner.append(parent)
    stamps = {(memory, version) for node in inner for _, memory, version in node.stamps}
    in_order = sorted(parents, key=lambda node: node.number)
    return Run(outputs, list(results.values()), in_order, stamps)


def checkpoint(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, keeping nothing of what it computes but its results: backward runs it again.

    So a net in n such parts keeps the results of its parts and, for a while, the inside of one. Random
    numbers are the same in the second run; the stream goes on as if there had been one run. Gradients flow
    to arguments, to parameters of modules, and to whatever else the function uses, to any order.

    (`torch.utils.checkpoint.checkpoint(f, x)` is `checkpoint(f)(x)` here, as in JAX.)

    Args:
        function: computes the same each time from the same inputs; it may give any nesting of tensors.

    Raises:
        RuntimeError: in backward, the second run gave something else than the first: the function
            depends on what has changed since, as parameters do after an optimizer's step.

    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, 2.0], requires_grad=True)
    >>> mg.checkpoint(lambda x: mg.exp(mg.sin(x)))(x).sum().backward()
    >>> mg.autograd.grad(mg.exp(mg.sin(x)).sum(), x)[0].tolist() == x.grad.tolist()
    True
    """

    check_function("checkpoint", function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not is_grad_enabled():
            return function(*args, **kwargs)
        state = random.get_state()
        run = _run(function, args, kwargs)
        return _cut(run, Segment(function, args, kwargs, state, run)) if run.results else run.outputs

    return call


class Segment:
    """A run that can be repeated: what a checkpoint's node keeps."""

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: Any, state: Any, run: Run):
        self.function, self.args, self.kwargs, self.state = function, args, kwargs, state
        self.parents, self.stamps = run.parents, run.stamps
        self.sums = [_sums(y._data) for y in run.results]
        self.latest: Any = None, []

    def gradient(self, parts: "Parts", i: int, create_graph: bool) -> Any:
        """The gradient by parent i, given those of the results. The first parent's asking computes all."""
        if self.latest[0] is not parts:
            self.latest = parts, self._gradients(parts.gradients, create_graph)
        gradient = self.latest[1][i]
        if i == len(self.parents) - 1:
            self.latest = None, []
        return gradient

    def _gradients(self, given: dict[int, Any], create_graph: bool) -> list[Any]:
        current = all(memory.version == version for memory, version in self.stamps)
        with grad_mode(True), random.fork(self.state):
            run = _run(self.function, self.args, self.kwargs)
        parents = _matching(self.parents, run.parents)
        if not current or parents is None or not _close(run.results, self.sums):
            name = getattr(self.function, "__name__", type(self.function).__name__)
            raise RuntimeError(
                f"checkpoint: running {name!r} again did not give what it gave in the forward pass: it "
                "depends on something that has changed since. Call backward() before step(), and let the "
                "function take what changes as an argument"
            )
        results = [run.results[k] for k in given]
        gs = [g if create_graph else wrap(g) for g in given.values()]
        # What is beyond the parents, and be it one from another, is for the outer pass.
        found = gradients_of(results, gs, parents, create_graph, create_graph, stop=True)
        device = results[0].device
        filled = [
            ops.zeros(node.shape, dtype=node.dtype, device=device) if g is None else g
            for node, g in zip(self.parents, found, strict=True)
        ]
        return filled if create_graph else [g._data for g in filled]


def _matching(before: list[Node], after: list[Node]) -> list[Node] | None:
    """The nodes from outside in the second run that stand for those in the first; None if others are there.

    A transform may have given parameters places of their own in the first run, and be over in the second:
    its `watch` nodes, which change nothing, make the difference.
    """
    if before == after:
        return after
    found = {_origin(node): node for node in after}
    origins = [_origin(node) for node in before]
    alike = len(found) == len(after) == len(before) and found.keys() == set(origins)
    return [found[origin] for origin in origins] if alike else None


def _origin(node: Node) -> Node:
    while node.plan is not None and node.plan.name == "watch" and node.parents:
        (node,) = node.parents
    return node


def _sums(array: Any) -> tuple[Any, Any]:
    """The sums of the elements and of their sizes: enough to see whether another run gave the same."""
    array = plain(array)  # inside vmap that of all examples
    xp = namespace("checkpoint", [array])
    with numpy.errstate(all="ignore"):
        return xp.sum(array), xp.sum(xp.abs(array))


def _close(results: Sequence[Any], sums: Sequence[tuple[Any, Any]]) -> bool:
    """Whether the results have these sums, but for rounding."""
    if len(results) != len(sums):
        return False
    for y, (total, size) in zip(results, sums, strict=True):
        one, other, scale = float(_sums(y._data)[0]), float(total), float(size)
        precision = 2.0**-8 if y.dtype.itemsize == 2 else 2.0**-18
        if one != other and one == one and not abs(one - other) <= precision * scale:
            return False
    return True


# --- the node in place of a graph --------------------------------------------------------------------


class Parts:
    """The gradients that arrive for the results of a checkpoint, by their numbers.

    To the engine it is one gradient: it can be added, and has a shape and a dtype.
    """

    shape = ()
    dtype = None

    def __init__(self, gradients: dict[int, Any]):
        self.gradients = gradients

    def __add__(self, other: "Parts") -> "Parts":
        both = dict(self.gradients)
        for k, g in other.gradients.items():
            both[k] = both[k] + g if k in both else g
        return Parts(both)


def _bundle_rule(xp: Any, g: Parts, i: int, segment: Segment) -> Any:
    return segment.gradient(g, i, xp is Variable.namespace)


def _no_forward(xp: Any, *inputs: Any) -> Any:
    raise NotImplementedError("checkpoint: its nodes are made by hand")


_BUNDLE = Op("checkpoint", _no_forward, ["segment", "inputs"], {"inputs": _bundle_rule}, True, "")
_RESULT = Op("checkpoint", _no_forward, ["bundle", "k"], {"bundle": lambda g, k: Parts({k: g})}, False, "")


def _cut(run: Run, segment: Segment) -> Any:
    """The outputs of the run, with one node in place of the graph that made them."""
    count = len(run.parents)
    inputs = (2 << count) - 2  # the bits of all arguments but the first, the segment
    bundle = _node(_BUNDLE.plan(inputs, count + 1), tuple(run.parents), (segment,), Parts)
    nodes = {y.node: _node(_RESULT.plan(1, 2), (bundle,), k, y._data) for k, y in enumerate(run.results)}
    return trees.mapped(
        lambda y: wrap(y._data, nodes[y.node], y.home) if getattr(y, "node", None) in nodes else y,
        run.outputs,
    )


def _node(plan: Plan, parents: tuple[Node, ...], saved: Any, like: Any) -> Node:
    node = new(Node)
    node.plan, node.parents, node.saved, node.stamps = plan, parents, saved, ()
    node.shape, node.dtype, node.number = like.shape, like.dtype, next_number()
    frame = outside(sys._getframe(1))
    node.code, node.instruction = frame.f_code, frame.f_lasti
    return node
