"""Less memory for more time: run a part of the forward pass again in the backward pass.

When a checkpointed function has run, the graph behind its results is cut out, and with it all that its
operations kept. One node takes its place, which points to what that graph pointed to. When gradients
come back to it, the function runs again, and they go through the new graph.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy

from .. import ops, random
from ..atomic import holding
from ..autograd import Memory, Node, Variable, grad_mode, is_grad_enabled, new, next_number, outside, wrap
from ..autograd.backward import gradients_of
from ..backend import namespace, of, plain, vmap_depth
from ..batched import levels_of, union
from ..rules import Op, Plan
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
    numbers are the same in the second run; the stream goes on as if there had been one run. (Threads must not
    draw from one stream meanwhile: `mg.random.fork` gives each its own.) Gradients flow to arguments, to
    parameters of modules, and to whatever else the function uses, to any order.

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

    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        if not is_grad_enabled():
            return function(*args, **kwargs)
        state = random.get_state()
        inputs = _held((args, kwargs))
        run = _run(function, args, kwargs)
        return _cut(run, Segment(function, inputs, state, run)) if run.results else run.outputs

    return call


class Segment:
    """A run that can be repeated: what a checkpoint's node keeps."""

    def __init__(self, function: Callable[..., Any], inputs: Any, state: Any, run: Run):
        self.function, self.inputs, self.state = function, inputs, state
        self.parents, self.stamps = run.parents, run.stamps
        self.results = [y._data for y in run.results]

    def gradients(self, given: dict[int, Any], create_graph: bool) -> list[Any]:
        """The gradients by all parents, given those of the results."""
        current = all(memory.version == version for memory, version in self.stamps)
        args, kwargs = _held(self.inputs)
        with grad_mode(True), random.fork(self.state), _as_before(self.results):
            run = _run(self.function, args, kwargs)
        parents = _matching(self.parents, run.parents)
        same = len(run.results) == len(self.results) and all(
            _alike(y._data, before) for y, before in zip(run.results, self.results, strict=True)
        )
        if not current or parents is None or not same:
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


@contextmanager
def _as_before(results: list[Any]) -> Iterator[None]:
    """Inside, what vmap runs is what it was when the results were first computed.

    If they are batched, it may be over by now; or there is one now, and numbers can be drawn none the less,
    since they are those of the first run.
    """
    ended = [level for level in union(map(levels_of, results)) if not level.active]
    try:
        for level in ended:
            level.active = True
        with holding(vmap_depth, 0):
            yield
    finally:
        for level in ended:
            level.active = False


def _held(inputs: Any) -> Any:
    """The inputs, in tensors and arrays of their own: those given may come to have other values."""

    def held(x: Any) -> Any:
        if type(x) is Variable.made:
            return wrap(x._data, x.node, x.home)
        backend = of(x)
        return backend.xp.asarray(x, copy=True) if backend and isinstance(x, backend.array) else x

    return trees.mapped(held, inputs)


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
    return getattr(node, "stands_for", None) or node


def _alike(result: Any, before: Any) -> bool:
    """Whether two runs gave the same, but for rounding."""
    a, b = plain(result), plain(before)  # inside vmap those of all examples
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    xp = namespace("checkpoint", [a])
    differ = (a != b) & ~(xp.isnan(a) & xp.isnan(b))
    if not xp.any(differ):
        return True
    with numpy.errstate(all="ignore"):
        scale = xp.max(xp.where(xp.isfinite(b), xp.abs(b), xp.zeros_like(b)))
        near = xp.abs(a - b) <= scale * (2.0**-8 if xp.finfo(b.dtype).bits == 16 else 2.0**-18)
    return bool(xp.all(near | ~differ))


# --- the node in place of a graph --------------------------------------------------------------------


class Parts:
    """The gradients that arrive for the results of a checkpoint, by their numbers.

    To the engine it is one gradient: it can be added, and has a shape and a dtype.
    """

    shape = ()
    dtype = None

    def __init__(self, gradients: dict[int, Any]):
        self.gradients = gradients
        self.found: list[Any] | None = None  # the gradients by all parents, when the first was asked for

    def __add__(self, other: "Parts") -> "Parts":
        both = dict(self.gradients)
        for k, g in other.gradients.items():
            both[k] = both[k] + g if k in both else g
        return Parts(both)


def _bundle_rule(xp: Any, g: Parts, i: int, segment: Segment) -> Any:
    if g.found is None:
        g.found = segment.gradients(g.gradients, xp is Variable.namespace)
    return g.found[i]


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
