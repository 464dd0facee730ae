"""Gradients of functions, and products of vectors with their derivatives.

A transform puts new places of the graph, its own, in place of those of the arguments: it *watches* them
while the function runs. What comes back by way of these places is the derivative by the arguments; and if
an argument already had a place in a graph, the new one points to it, so that the result can be
differentiated further. That is all there is to composing transforms.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from ..autograd import Leaf, Node, grad_mode, is_grad_enabled, next_number, wrap
from ..autograd.backward import given_gradient, gradients_of
from ..backend import is_floating
from ..nn import Module
from ..nn.substitution import substituted, substituting
from ..ops import tensor, zeros_like
from ..primitive import watch
from ..tensor import Tensor
from . import trees

Function = Callable[..., Any]


class Watched(Leaf):
    """The place of an argument that had none. (A parameter of the user's has a plain `Leaf`.)"""

    __slots__ = ("stands_for",)
    lasting = False

    def __init__(self, shape: Any, dtype: Any, stands_for: Node | None = None):
        super().__init__(shape, dtype)
        self.stands_for = stands_for  # the parameter's, which has it again when the transform is over


class Watch:
    """A run of a function, of which the derivatives by some arguments are asked for.

    Attributes:
        outputs: what it gave, a tree.
        results: the tensors among them through which gradients may flow.
        nodes: the places of the arguments' leaves.
        open: whether gradients flow on to what is outside: an argument's graph, or a tensor that the
            function has got from elsewhere. If not, then neither results nor derivatives need a graph.
    """

    def __init__(self, what: str, function: Function, args: Sequence[Any], argnums: Sequence[int], kwargs):
        # Of a module it sees what the parameters have of their own, not what another thread lends them.
        with substituting if trees.has_module(list(args)) else nullcontext():
            self._run(what, function, args, argnums, kwargs)

    def _run(self, what: str, function: Function, args: Sequence[Any], argnums: Sequence[int], kwargs):
        self.chosen: Any = [_argument(what, args, i) for i in argnums]
        if len({i % len(args) for i in argnums}) < len(argnums):
            raise ValueError(f"{what}: argnums names an argument twice: {tuple(argnums)}")
        self.sources: list[Any] = []
        self.moved: dict[Any, Node] = {}  # parameters of modules among the arguments, and their places
        linking = is_grad_enabled()
        first = next_number()
        with grad_mode(True):
            places = [self._place(what, x, linking) for x in trees.leaves(self.chosen)]
            self.nodes: list[Node] = [x.node for x in places]
            new, rest = list(args), iter(places)
            for i, tree in zip(argnums, self.chosen, strict=True):
                new[i] = trees.rebuilt(tree, rest, self._move)
            # From here on with dicts in place of modules, whose parameters may come to be frozen.
            self.chosen = trees.rebuilt(self.chosen, iter(self.sources))
            with self.in_place():
                self.outputs = function(*new, **kwargs)
        self.results = [
            y for y in trees.leaves(self.outputs) if isinstance(y, Tensor) and is_floating(y.dtype)
        ]
        roots = [y.node for y in self.results if y.node]
        self.open = linking and _reaches_others(roots, set(self.nodes), first)

    def _place(self, what: str, x: Any, linking: bool) -> Any:
        """`x` in a place of its own."""
        source = x if isinstance(x, Tensor) else tensor(x)
        if not is_floating(source.dtype):
            raise TypeError(
                f"{what}: an argument to differentiate by holds {source.dtype}; only floating-point numbers "
                "have gradients: convert it, or choose others with argnums"
            )
        self.sources.append(source)
        if linking and source.node is not None and not _is_parameter(source):
            return watch(source)
        return wrap(source._data, Watched(source.shape, source.dtype, source.node), source.home)

    def _move(self, module: Module, places: Iterator[Any]) -> Module:
        """The function gets the same module, whose parameters change places while it runs."""
        for parameter in trees.leaves(module):
            if parameter in self.moved:
                raise ValueError(
                    "a module, or a parameter that modules share, is in two places of the arguments; "
                    "pass it once"
                )
            self.moved[parameter] = next(places).node
        return module

    def in_place(self) -> AbstractContextManager[None]:
        """Inside, the parameters of modules among the arguments are in the places of this run.

        Meanwhile other threads that want to do so must wait.
        """
        return substituted({parameter: {"node": node} for parameter, node in self.moved.items()})

    def pull(
        self,
        cotangents: Sequence[Any],
        retain_graph: bool,
        create_graph: bool,
        results: Sequence[Any] | None = None,
    ) -> list[Any]:
        """The derivatives of the results, each times its cotangent, by the leaves of the arguments."""
        with self.in_place():
            found = gradients_of(
                self.results if results is None else results,
                cotangents,
                self.nodes,
                retain_graph,
                create_graph,
            )
        return [
            zeros_like(source.detach()) if g is None else g
            for source, g in zip(self.sources, found, strict=True)
        ]

    def closed(self, tree: Any) -> Any:
        """`tree`, of tensors that need no graph unless gradients flow on to what is outside."""
        return tree if self.open else stop_gradient(tree)


def _argument(what: str, args: Sequence[Any], i: int) -> Any:
    if not -len(args) <= i < len(args):
        raise ValueError(
            f"{what}: argnums has {i}, but the function was called with {len(args)} positional argument(s)"
        )
    if not trees.leaves(args[i]):
        kind = type(args[i]).__name__
        why = "it holds no floats, no arrays and no tensors"
        if isinstance(args[i], Module):
            why = "none of its parameters requires gradients"
        elif isinstance(args[i], int):
            why = f"it has no derivative; write {int(args[i])}.0"
        raise TypeError(f"{what}: cannot differentiate by argument {i}, of {kind}: {why}")
    return args[i]


def check_function(what: str, function: Any) -> None:
    """Raise `TypeError` for what cannot be called, as in `grad(y, x)`."""
    if not callable(function):
        raise TypeError(
            f"{what}: takes a function and gives a function, got {type(function).__name__}; "
            f"call it as {what}(function)(arguments)" + ", or see mg.autograd.grad" * (what == "grad")
        )


def places_of(what: str, argnums: Any) -> tuple[int, ...]:
    """`argnums` as a tuple."""
    places = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not all(isinstance(i, int) for i in places):
        raise TypeError(f"{what}: argnums must be an integer, or several of them, got {argnums!r}")
    return places


def without_aux(what: str, outputs: Any, has_aux: bool) -> tuple[Any, ...]:
    """The outputs of a function, and the aux if it gives one."""
    if not has_aux:
        return (outputs,)
    if not isinstance(outputs, tuple) or len(outputs) != 2:
        raise TypeError(
            f"{what}: with has_aux the function must give a pair (value, aux), got {type(outputs).__name__}"
        )
    return outputs


def _is_parameter(x: Any) -> bool:
    """Whether it is a module's own, with no place in another transform: derivatives end there."""
    return type(x) is not Tensor and type(x.node) is Leaf


def _reaches_others(roots: Sequence[Node], own: set[Node], first: int) -> bool:
    """Whether there are leaves of somebody else's behind the roots: they are behind any node from before."""
    found, seen = list(roots), set(roots)
    for node in found:  # which grows meanwhile
        if node.number < first or (isinstance(node, Leaf) and node not in own):
            return True
        for parent in node.parents:
            if parent not in seen:
                seen.add(parent)
                found.append(parent)
    return False


def stop_gradient(tree: Any) -> Any:
    """The same values without their graph: no gradient flows back through them. (`detach` for trees.)

    >>> import minigrad as mg
    >>> mg.grad(lambda x: x * mg.stop_gradient(x))(3.0).item()
    3.0
    """
    return trees.mapped(lambda x: x.detach() if isinstance(x, Tensor) else x, tree)


# --- gradients ---------------------------------------------------------------------------------------


def value_and_grad(
    function: Function, argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that gives the value of `function` and its gradient.

    Args:
        function: gives a tensor of one element; with `has_aux` a pair of it and anything else.
        argnums: the place of the argument to differentiate by, or a list or tuple of places. Such an
            argument is a tensor, an array, a float, or any nesting of dicts, lists, tuples, dataclasses
            and modules with them.
        has_aux: whether the value is a pair `(value, aux)`; the pair is then given as the value.

    Returns:
        A function of the same arguments that gives `(value, gradient)`. The gradient is nested as the
        argument is, but a module's is a dict by the names of its parameters; of several `argnums` it is
        a tuple. Both have graphs only where gradients flow on: to arguments that require gradients, and
        to tensors that the function got from elsewhere. Modules' own parameters are not counted.

    Raises:
        TypeError: an argument has no floating-point numbers, or the value is not a tensor.
        ValueError: the value has not one element; `argnums` is out of range.

    >>> import minigrad as mg
    >>> def loss(net, x):
    ...     return mg.square(net["w"] * x + net["b"]).sum()
    >>> net = {"w": mg.tensor([1.0, 2.0]), "b": mg.tensor(1.0)}
    >>> value, gradient = mg.value_and_grad(loss)(net, mg.tensor([3.0, 4.0]))
    >>> value.item(), gradient["w"].tolist(), gradient["b"].item()
    (97.0, [24.0, 72.0], 26.0)
    """
    check_function("grad", function)
    several, places = not isinstance(argnums, int), places_of("grad", argnums)

    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        run = Watch("grad", function, args, places, kwargs)
        value = without_aux("grad", run.outputs, has_aux)[0]
        (value,) = tensors_among("grad", [value]) or [value]
        if not isinstance(value, Tensor):
            raise TypeError(f"grad: the function must give a tensor, got {type(value).__name__}")
        one = given_gradient("grad", value, None)
        run.results = [value]
        found = run.pull([one], run.open, run.open)
        tree = trees.rebuilt(run.chosen, iter(found))
        return run.closed(run.outputs), tuple(tree) if several else tree[0]

    return call


def grad(function: Function, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that gives the gradient of `function`; with `has_aux`, a pair of it and the aux.

    The arguments are those of `value_and_grad`.

    >>> import minigrad as mg
    >>> f = mg.tanh
    >>> for _ in range(3):
    ...     f = mg.grad(f)
    >>> f(0.0).item()
    -2.0
    """
    both = value_and_grad(function, argnums, has_aux)

    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return call


# --- products with derivatives -----------------------------------------------------------------------


def _matched(what: str, tree: Any, like: Any, wanted: Sequence[Any]) -> list[Any]:
    """The leaves of `tree`, nested as `like` is, as tensors that fit those `wanted`."""
    found = trees.leaves_like(what, tree, like)
    return [given_gradient(what, x, g) for x, g in zip(wanted, found, strict=True)]


def vjp(function: Function, *primals: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """The value of `function` at `primals`, and the function that multiplies its Jacobian from the left.

    Returns:
        `(outputs, pullback)`, and with `has_aux` the aux as a third. `pullback(cotangents)` takes a tree
        like the outputs, and gives a tuple of trees like the primals; it can be called again.

    >>> import minigrad as mg
    >>> y, pullback = mg.vjp(lambda x: x**2, mg.tensor([1.0, 2.0]))
    >>> y.tolist(), pullback(mg.tensor([1.0, 10.0]))[0].tolist()
    ([1.0, 4.0], [2.0, 40.0])
    """
    check_function("vjp", function)
    run = Watch("vjp", function, primals, range(len(primals)), {})
    outputs, *aux = without_aux("vjp", run.outputs, has_aux)
    run.results = tensors_among("vjp", outputs)

    def pullback(cotangents: Any) -> tuple[Any, ...]:
        gs = _matched("vjp, cotangents", cotangents, outputs, run.results)
        create = is_grad_enabled() and (run.open or any(g.requires_grad for g in gs))
        return tuple(trees.rebuilt(run.chosen, iter(run.pull(gs, True, create))))

    return run.closed(outputs), pullback, *(run.closed(x) for x in aux)


def tensors_among(what: str, outputs: Any) -> list[Any]:
    """The leaves of outputs, which must be tensors of floating-point numbers."""
    for y in (found := trees.leaves(outputs)):
        if not isinstance(y, Tensor) or not is_floating(y.dtype):
            kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
            raise TypeError(f"{what}: the function must give floating-point tensors, got {kind}; see has_aux")
    return found


def jvp(
    function: Function, primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False
) -> tuple[Any, ...]:
    """The value of `function` at `primals`, and its Jacobian times `tangents`, trees like the primals.

    It needs no rules of its own: a vjp is linear in its cotangents, and the vjp of that is the jvp
    (J. Townsend, "A new trick for calculating Jacobian vector products", 2017).

    Returns `(outputs, derivatives)`, two trees alike, and with `has_aux` the aux as a third.

    >>> import minigrad as mg
    >>> x, v = mg.tensor([1.0, 2.0]), mg.tensor([1.0, 10.0])
    >>> y, derivative = mg.jvp(lambda x: x**2, (x,), (v,))
    >>> derivative.tolist()
    [2.0, 40.0]
    """
    check_function("jvp", function)
    _check_pair("jvp", primals, tangents)
    run = Watch("jvp", function, primals, range(len(primals)), {})
    outputs, *aux = without_aux("jvp", run.outputs, has_aux)
    run.results = tensors_among("jvp", outputs)
    vs = _matched("jvp, tangents", list(tangents), run.chosen, run.sources)
    pushed = Forward(run).push(vs, range(len(vs)))
    return run.closed(outputs), trees.rebuilt(outputs, iter(pushed)), *(run.closed(x) for x in aux)


def _check_pair(what: str, primals: Any, tangents: Any) -> None:
    if not isinstance(primals, (tuple, list)) or not isinstance(tangents, (tuple, list)):
        raise TypeError(f"{what}: primals and tangents are tuples, with one entry for each argument")


class Forward:
    """The derivative of a run as a linear function of tangents."""

    def __init__(self, run: Watch):
        self.run = run
        with grad_mode(True):
            self.cotangents = [_leaf(zeros_like(y.detach())) for y in run.results]
            self.pulled = run.pull(self.cotangents, True, True)

    def push(self, tangents: Sequence[Any], sources: Sequence[int]) -> list[Any]:
        """The Jacobian times tangents of the sources with these numbers; those of the others are 0."""
        create = is_grad_enabled() and (self.run.open or any(v.requires_grad for v in tangents))
        nodes = [u.node for u in self.cotangents]
        with self.run.in_place():
            pulled = [self.pulled[k] for k in sources]
            found = gradients_of(pulled, tangents, nodes, True, create)
        return [
            zeros_like(y.detach()) if g is None else g for y, g in zip(self.run.results, found, strict=True)
        ]


def _leaf(x: Any) -> Any:
    return wrap(x._data, Watched(x.shape, x.dtype))


def hvp(function: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, ...]:
    """The Hessian of `function` at `primals` times `tangents`: a tuple of trees like the primals.

    Two passes over the graph, whatever the size. `function` gives a tensor of one element.

    >>> import minigrad as mg
    >>> x, v = mg.tensor([1.0, 2.0]), mg.tensor([1.0, 10.0])
    >>> mg.hvp(lambda x: (x**3).sum(), (x,), (v,))[0].tolist()
    [6.0, 120.0]
    """
    _check_pair("hvp", primals, tangents)
    gradient = grad(function, tuple(range(len(primals))))
    run = Watch("hvp", lambda *xs: gradient(*xs), primals, range(len(primals)), {})
    vs = _matched("hvp, tangents", list(tangents), run.chosen, run.sources)
    create = is_grad_enabled() and (run.open or any(v.requires_grad for v in vs))
    return tuple(trees.rebuilt(run.chosen, iter(run.pull(vs, create, create))))
