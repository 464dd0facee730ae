"""How gradients flow back through the graph, from results to what they were computed from.

Each rule is array code that is given the namespace it computes with, and that is the whole trick
behind higher orders: with NumPy as the namespace the gradients are plain arrays, and with minigrad's
own ops they are tensors, which have a graph of their own.
"""

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy

from ..backend import Array, Namespace, cast, create, numpy_namespace, of, plain
from .anomaly import check_gradient
from .mode import grad_mode, watcher
from .node import FREED, Hooks, Node, Variable, made_at, wrap

_number = operator.attrgetter("number")


def gradients(
    roots: dict[Node, Any],
    retain_graph: bool = False,
    create_graph: bool = False,
    wanted: set[Node] | None = None,
    stop: bool = False,
) -> Iterator[tuple[Any, Any]]:
    """Yield nodes that the roots were computed from, each with its gradient: all leaves, or those wanted.

    `roots` holds the gradient of each root: an array, or with `create_graph` a tensor, and so are those
    that come out. Only what leads to a wanted node is passed at all; and with `stop` no wanted node is: each
    gets what comes to it by ways that lead through no other, and no hook is called there. At its core this is

        for node, newest first: for each parent: arrived[parent] += rule(arrived[node])

    so that a node is passed once, after all that was computed from it; then its saved values are let go,
    unless `retain_graph`.
    """
    ndarray = numpy.ndarray
    arrived = dict(roots)
    # The first gradient to arrive at a node is borrowed: a rule may have passed on an array that
    # somebody else holds. The first addition makes a new array, which is ours to write to.
    ours: set[Node] = set()
    watched = watcher.get() is not None
    plan = parent = None
    gradient: Any = ()  # until a rule gives one
    node: Any = None
    found, needed = _newest_first(roots, wanted, stop)
    try:
        for node in found:
            g = arrived.pop(node)
            if stop and wanted is not None and node in wanted:
                yield node, g
                continue
            plan = node.plan
            if plan is None:
                if node.hooks:
                    g = _hooked(node.hooks, g, create_graph)
                yield node, g
                continue
            if plan.hooks:
                parent = None
                g = _hooked(plan.hooks, g, create_graph)
            if needed is not None:
                assert wanted is not None
                if node in wanted:
                    yield node, g
                if needed.isdisjoint(node.parents):
                    continue
            if create_graph:
                xp = Variable.namespace
                saved = _as_tensors(node)
            else:
                xp = numpy_namespace if type(g) is ndarray else _namespace_of(g)
                saved = node.saved
            rules = plan.rules
            if plan.joint:
                parent = node.parents[0]
                rules = plan.together(xp, g, node.parents, saved, needed)
            place = -1
            for parent in node.parents:
                place += 1
                if needed is not None and parent not in needed:
                    continue
                gradient = rules[place](xp, g, parent, saved)
                if gradient.shape != parent.shape:
                    gradient = _sum_to(xp, gradient, parent.shape)
                if gradient.dtype is not parent.dtype and gradient.dtype != parent.dtype:
                    gradient = cast(xp, gradient, parent.dtype)
                if watched:
                    check_gradient(node, gradient, g, parent)
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
        if plan is None or parent is None:
            raise
        note = (
            f"in the gradient of {plan.name!r} (result {node.shape}) for an input of shape {parent.shape}, "
            f"computed at {made_at(node)}"
        )
        if gradient is not None:
            error.add_note(note)
            raise
        nothing = TypeError("a gradient rule gave None")
        nothing.add_note(note)
        raise nothing from error


def _newest_first(
    roots: dict[Node, Any], wanted: set[Node] | None, stop: bool
) -> tuple[list[Node], set[Node] | None]:
    """The nodes to pass, each before all that it was computed from; and where gradients are needed.

    A node is younger than its parents, so their numbers alone give the order. All checks are made
    here, before any gradient is computed: an error leaves nothing half done.
    """
    oldest = min((node.number for node in wanted), default=0) if wanted else 0
    found = list(roots)
    seen = set(found)
    for node in found:  # which grows meanwhile
        if stop and wanted is not None and node in wanted:
            continue
        for parent in node.parents:
            if parent not in seen and parent.number >= oldest:
                seen.add(parent)
                found.append(parent)
    found.sort(key=_number, reverse=True)
    needed = None
    if wanted is not None:
        needed = set(wanted)
        for node in reversed(found):
            if not needed.isdisjoint(node.parents):
                needed.add(node)
        found = [node for node in found if node in needed]
    for node in found:
        if node.saved is FREED:
            raise RuntimeError(
                f"backward: the graph behind {node.plan.name!r} was freed by an earlier backward "  # pyright: ignore[reportOptionalMemberAccess]
                "through it; pass retain_graph=True to that one, or run the forward pass again "
                f"(it was computed at {made_at(node)})"
            )
        if node.stamps:
            _check_stamps(node)
    return found, needed


def _check_stamps(node: Node) -> None:
    assert node.plan is not None
    for _, memory, version in node.stamps:
        if memory.version != version:
            raise RuntimeError(
                f"backward: the gradient of {node.plan.name!r} (result {node.shape}) needs the value that a "
                "parameter had in the forward pass, and an optimizer has overwritten it since; call "
                "backward() before step(), or run the forward pass again "
                f"(it was computed at {made_at(node)})"
            )


def _namespace_of(g: Any) -> Namespace:
    backend = of(g)
    return backend.xp if backend else None  # the gradients of a checkpoint's results, which come together


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
    total = xp.sum(g, axis=axes)
    if total.shape == shape:
        return total
    if math.prod(total.shape) != math.prod(shape) or added < 0:
        raise ValueError(f"the rule gave a gradient of shape {tuple(g.shape)}")
    return xp.reshape(total, shape)


def _hooked(hooks: Hooks, g: Any, is_tensor: bool) -> Any:
    """The gradient `g` as the hooks leave it, each of which may give another in its place."""
    for function in list(hooks.values()):
        tensor = g if is_tensor else wrap(g)
        with grad_mode(is_tensor):
            changed: Any = function(tensor)
        if changed is None:
            continue
        own = g.shape, tensor.device
        got: Any = type(changed).__name__
        if isinstance(changed, Variable):
            other: Any = changed
            got = other.shape, other.device
        if got != own:
            raise ValueError(
                f"a hook must give None, or a tensor of the gradient's (shape, device) {own}; got {got}"
            )
        with grad_mode(is_tensor):
            changed = Variable.namespace.astype(changed, tensor._data.dtype, copy=False)
        g = changed if is_tensor else changed._data
    return g


# --- gradients on request ----------------------------------------------------------------------------


def given_gradient(op: str, output: Any, gradient: Any) -> Any:
    """`gradient` as a tensor that fits `output`: ones where it is None, which needs a single element."""
    data = output._data
    backend = of(data)
    assert backend is not None
    if gradient is None:
        if data.size != 1:
            raise ValueError(
                f"{op}: a tensor of shape {data.shape} needs a gradient of that shape; "
                "or reduce it first, as with .sum().backward()"
            )
        return wrap(create(backend.xp, "ones", data.shape, dtype=data.dtype, like=data))
    given: Any = (
        gradient
        if isinstance(gradient, Variable)
        else Variable.namespace.tensor(gradient, device=backend.name)
    )
    array = given._data
    if array.shape != data.shape or of(array).name != backend.name:  # pyright: ignore[reportOptionalMemberAccess]
        raise ValueError(
            f"{op}: got a gradient of shape {array.shape} on {of(array).name!r} for a tensor of "  # pyright: ignore[reportOptionalMemberAccess]
            f"shape {data.shape} on {backend.name!r}"
        )
    if array.dtype != data.dtype:
        given = Variable.namespace.astype(given, data.dtype)
    if plain(data) is not data:  # inside vmap
        given = data.take_in(given)
    return given if given.home is None else given * 1.0  # an optimizer may write to it


def as_array(g: Array) -> Array:
    """`g`, if need be, as an array: NumPy's reductions give scalars."""
    return numpy.asarray(g) if isinstance(g, numpy.generic) else g


def grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Any, ...]:
    """The gradients of `outputs` by `inputs`, as a tuple of tensors. No `.grad` changes.

    (`torch.autograd.grad`, with its arguments.)

    Args:
        outputs: a tensor, or a list or tuple of them.
        inputs: likewise; leaves, or tensors on the way from them to the outputs.
        grad_outputs: for each output the derivative of what is wanted by it, of its shape; None is 1,
            which only an output of one element may have.
        retain_graph: keep the graph, so that it can be passed again; by default as `create_graph`.
        create_graph: make the gradients differentiable themselves.
        allow_unused: give None for an input from which no output was computed.

    Raises:
        RuntimeError: an output or input requires no gradients; an input was not used; or the graph was
            freed, or an optimizer has overwritten a value that it needs.
        ValueError: a gradient is missing, or has another shape; or there are too few or too many.

    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, 2.0], requires_grad=True)
    >>> (slope,) = mg.autograd.grad((x**3).sum(), x, create_graph=True)
    >>> slope.tolist(), mg.autograd.grad(slope.sum(), x)[0].tolist()
    ([3.0, 12.0], [6.0, 12.0])
    """
    outputs, inputs = _as_sequence("outputs", outputs), _as_sequence("inputs", inputs)
    given = [None] * len(outputs) if grad_outputs is None else _as_sequence("grad_outputs", grad_outputs)
    if len(given) != len(outputs):
        raise ValueError(f"grad: got {len(outputs)} output(s), and {len(given)} gradient(s) of them")
    for name, tensors in (("output", outputs), ("input", inputs)):
        for i, x in enumerate(tensors):
            if x.node is None:
                raise RuntimeError(
                    f"grad: {name} {i}, of shape {tuple(x._data.shape)}, requires no gradients: it was not "
                    "computed from a tensor with requires_grad=True, or it was computed under no_grad()"
                )
    gs = [given_gradient("grad", y, g) for y, g in zip(outputs, given, strict=True)]
    retain = create_graph if retain_graph is None else retain_graph
    found = gradients_of(outputs, gs, [x.node for x in inputs], retain, create_graph)
    unused = [i for i, g in enumerate(found) if g is None]
    if unused and not allow_unused:
        raise RuntimeError(
            f"grad: nothing among the outputs was computed from input(s) {unused}; "
            "allow_unused=True gives None for them"
        )
    return tuple(found)


def gradients_of(
    outputs: Sequence[Any],
    gs: Sequence[Any],
    nodes: Sequence[Node],
    retain_graph: bool,
    create_graph: bool,
    stop: bool = False,
) -> list[Any]:
    """For each of `nodes`, the gradient of the outputs, each times its `gs`, as a tensor; None if unused.

    With `stop`, none flows on from one of the nodes to another.
    """
    roots: dict[Node, Any] = {}
    for y, g in zip(outputs, gs, strict=True):
        if y.node is not None:
            g = g if create_graph else g._data
            roots[y.node] = roots[y.node] + g if y.node in roots else g
    with grad_mode(create_graph):
        found = dict(gradients(roots, retain_graph, create_graph, set(nodes), stop))
    return [
        None if node not in found else found[node] if create_graph else wrap(as_array(found[node]))
        for node in nodes
    ]


def _as_sequence(name: str, value: Any) -> list[Any]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    for x in values:
        if not isinstance(x, Variable) and not (name == "grad_outputs"):
            raise TypeError(f"grad: {name} must be a tensor, or a list of them; got {type(x).__name__}")
    return values
