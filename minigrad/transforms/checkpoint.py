"""Less memory for more time: run a part of the forward pass again in the backward pass.

The graph of a checkpointed function is cut out when the function has run, and with it all that its
operations kept. One node takes its place, which points to what that graph pointed to. When a gradient
comes back to it, the function is run again, and the gradient goes through the new graph.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from .. import ops, random
from ..autograd import Node, Variable, grad_mode, is_grad_enabled, new, next_number, outside, wrap
from ..autograd.backward import gradients_of
from ..primitive import Op, Plan
from . import trees


class Parts:
    """The gradients that arrive for the results of a checkpoint, by their numbers.

    It stands for one gradient in the engine, so it can be added, and has a shape and a dtype.
    """

    shape = ()
    dtype = None

    def __init__(self, gradients: dict[int, Any]):
        self.gradients = gradients

    def __add__(self, other: "Parts") -> "Parts":
        total = dict(self.gradients)
        for k, g in other.gradients.items():
            total[k] = total[k] + g if k in total else g
        return Parts(total)


class Segment:
    """A run of a function that can be repeated: what a checkpoint's node keeps.

    Attributes:
        outputs: what the function gave, until the graph behind it is cut out.
        roots: the nodes of those results that were computed in it, each once.
        parents: the nodes from outside that these were computed from.
    """

    def __init__(self, function: Callable[..., Any], args: Any, kwargs: Any):
        self.function, self.args, self.kwargs = function, args, kwargs
        self.state = random.get_state()
        self.run()
        self.sums = [_sums(y._data) for y in self.results]
        self.stamps = {(memory, version) for node in self.inner for _, memory, version in node.stamps}

    def run(self) -> None:
        first = next_number()
        self.outputs = self.function(*self.args, **self.kwargs)
        found = {}
        for y in trees.leaves(self.outputs):
            if isinstance(y, Variable) and y.node is not None and y.node.number > first and y.node.parents:
                found[y.node] = y
        self.results = list(found.values())
        self.inner, self.parents = _inside(list(found), first)

    def cut(self) -> Any:
        """The outputs, with one node in place of the graph that made them."""
        bundle = _node(Plan(_CHECKPOINT, (2 << len(self.parents)) - 2, len(self.parents) + 1), self.parents)
        bundle.saved = (self,)
        bundle.shape, bundle.dtype = Parts.shape, Parts.dtype
        tensors = {}
        for k, y in enumerate(self.results):
            part = _node(Plan(_RESULT, 1, 2), (bundle,))
            part.saved = k
            part.shape, part.dtype = y.node.shape, y.node.dtype
            tensors[y.node] = part
        outputs = trees.mapped(
            lambda y: wrap(y._data, tensors[y.node], y.home) if getattr(y, "node", None) in tensors else y,
            self.outputs,
        )
        del self.outputs, self.results, self.inner
        return outputs

    def gradients(self, parts: Parts, create_graph: bool) -> list[Any]:
        """Run again, and give the gradient by each of the parents."""
        if parts is self.parts:  # asked for by the next parent
            return self.found

        if any(memory.version != version for memory, version in self.stamps):
            raise RuntimeError(...)
        before = self.parents
        with grad_mode(True), random.fork(self.state):
            self.run()
