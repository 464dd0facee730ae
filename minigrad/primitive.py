"""How a forward function and its gradient rules become a public, differentiable function.

    @primitive(x=lambda g, y: g * y, y=lambda g, x: g * x)
    def multiply(xp, x, y):
        return x * y

The forward function is array code: `xp` is the namespace of the arrays that it is given, NumPy for
instance. There is one rule for each input that has a gradient, under the name of that input. A rule
names in its own parameters what it needs, and what no rule names is not kept in memory:

- `g`: the gradient of the result;
- the parameters of the forward function, inputs and settings alike, by name;
- `out`: the result;
- `xp`: the namespace to compute with (NumPy, CuPy, or minigrad's own ops: so a rule must use nothing
  but the Array API standard and minigrad's ops);
- `shape`, `dtype`: of the input whose gradient this is, without keeping the input itself;
- `i`: which of them this input is, for the rule of a variadic parameter (`*operands`);
- `kept`: what the forward function gave beside its result, which it does if a rule names this: a pair
  `(out, kept)`. Of gradients that are tensors, for higher orders, it is no part: it has no graph;
- `wanted`: the names of the inputs whose gradients are asked for. A rule that names it is given for several
  inputs, and called once for all of them: it returns a dict with at least these gradients by name.

A rule must not write to `g`, and need not undo broadcasting or restore dtypes: the engine does.

The public function takes tensors and gives a tensor. Given plain arrays only, it computes on them and
gives a plain array: rules may call minigrad's own ops whichever namespace they run in.
"""

import functools
import sys
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy

from .autograd import Leaf, Memory, Node, Variable, grad_enabled, grad_mode, new, next_number, outside, wrap
from .autograd.backward import gradients_of
from .backend import SCALARS, Array, Namespace, namespace, numpy_namespace, of, plain
from .rules import Op, Plan, compiled, parameters_of

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])

OPS: dict[str, Op] = {}
"""Every primitive of this package by name."""

_VARIADIC = 0x04  # the flag of a code object that has *args
_recording = grad_enabled.get
_frame = sys._getframe
_ndarray = numpy.ndarray
_SETTINGS = {int, float, bool, str, tuple, type(None)}  # what most arguments are that are no arrays
_CONSTANTS = (numpy.ndarray, complex)  # beside tensors the one must be copied, the other refused


def primitive(
    hint: str = "", /, **rules: Callable[..., Any]
) -> Callable[[Callable[Concatenate[Any, P], Any]], Callable[P, Any]]:
    """Make a differentiable function of a forward function `(xp, inputs…, settings…)`.

    Args:
        hint: what to check when the forward function fails, for its error message.
        **rules: for each differentiable input, its gradient rule (see the top of this module).

    Raises:
        TypeError: a rule belongs to, or names, something that the forward function does not have.
    """

    def decorate(forward):
        code = forward.__code__
        variadic = bool(code.co_flags & _VARIADIC)
        namespace_name, *parameters = parameters_of(code) or [""]
        if namespace_name != "xp":
            raise TypeError(
                f"{forward.__name__}: the first parameter of a forward function must be xp, the namespace to "
                f"compute with, got {namespace_name!r}"
            )
        if code.co_kwonlyargcount:
            raise TypeError(f"{forward.__name__}: a forward function cannot have keyword-only parameters")
        if variadic:
            parameters.append(code.co_varnames[code.co_argcount])
        # Some public functions prepare the arguments of a private primitive.
        name = forward.__name__.lstrip("_")
        op = Op(name, forward, parameters, rules, variadic, hint)
        if forward.__module__.startswith("minigrad."):
            OPS[name] = op
        signature = ", ".join([*parameters[:-1], "*" * variadic + parameters[-1]])
        call = compiled(f"lambda {signature}: _apply_(_op_, [{signature}])", _apply_=_apply, _op_=op)
        call.__defaults__ = forward.__defaults__
        return _dress(call, forward)

    return decorate


def elementwise(
    forward: Callable[..., Array] | None = None, /, **rules: Callable[..., Any]
) -> Callable[[F], F]:
    """Make a differentiable function of one or two inputs, each element by itself: the fast kind.

    The function that it decorates gives the name, the parameters and the docstring, and has no body.
    The forward function is `forward(xp, inputs…)`, or else the namespace's own of that name.
    """

    def decorate(function):
        name = function.__name__
        parameters = parameters_of(function.__code__)
        compute = forward or (lambda xp, *inputs: getattr(xp, name)(*inputs))
        numpy_compute = functools.partial(forward, numpy_namespace) if forward else getattr(numpy, name)
        op = OPS[name] = Op(name, compute, parameters, rules, False, BROADCAST_HINT)
        make = _unary if len(parameters) == 1 else _binary
        return _dress(make(op, numpy_compute), function)

    return decorate


def _dress(call: Any, function: FunctionType) -> Any:
    """Give `call` the name and the papers of the function it stands for."""
    for attribute in ("__name__", "__qualname__", "__doc__", "__module__"):
        setattr(call, attribute, getattr(function, attribute))
    call.__annotations__ = {k: v for k, v in function.__annotations__.items() if k != "xp"}
    return call


# --- what functions made of other ones check first -------------------------------------------------


def expect_arrays(op: str, *values: Any) -> None:
    """Raise, in the name of `op`, unless its inputs `values` are tensors or arrays on one device.

    Primitives see to that themselves; functions made of them check it before they look at a shape.

    Raises:
        TypeError: there is something else among them.
        ValueError: they live on different devices.
    """
    for value in values:
        if type(value._data if isinstance(value, Variable) else value) is not _ndarray:
            arrays = [v._data if isinstance(v, Variable) else v for v in values]
            for array in arrays:
                namespace(op, [array])
            namespace(op, arrays)
            return


# --- recording -------------------------------------------------------------------------------------


def _apply(op: Op, values: list[Any]) -> Any:
    """Compute `op` on its arguments, and record it if a gradient may be asked for."""
    needed = 0
    parents = []
    homes = []
    plain = []
    others = []
    tensors = False
    all_numpy = True
    differentiable = op.differentiable
    for slot, value in enumerate(values):
        if isinstance(value, Variable):
            tensors = True
            values[slot] = data = value._data
            all_numpy = all_numpy and type(data) is _ndarray
            node = value.node
            if node is not None and slot in differentiable:
                needed |= 1 << slot
                parents.append(node)
            if value.home is not None:
                homes.append((slot, value.home))
        elif isinstance(value, _CONSTANTS):
            plain.append(slot)
        elif slot in differentiable and not _fits(op, slot, value):
            name = op.parameters[min(slot, len(op.parameters) - 1)]
            raise TypeError(
                f"{op.name}: expected a tensor or an array, got {type(value).__name__} as {name}; "
                "mg.tensor(...) makes one"
            )
        elif type(value) is list:
            values[slot] = value[:]  # the caller may change it before backward reads it
        elif type(value) not in _SETTINGS:
            others.append(slot)
    if others:
        plain += [slot for slot in others if of(values[slot]) and not isinstance(values[slot], numpy.generic)]
    in_numpy = all_numpy and not others and (tensors or (plain and isinstance(values[plain[0]], _ndarray)))
    xp = numpy_namespace if in_numpy else namespace(op.name, values)
    if plain and tensors:
        for slot in plain:
            values[slot] = _constant(op.name, values[slot])
    if xp is not numpy_namespace and hasattr(xp, "lift") and (lifted := xp.lift(values)):  # inside vmap
        return _apply(op, xp.lift(_as_given(values, needed, parents, homes)) if tensors else lifted)
    kept = None
    try:
        out = op.forward(xp, *values)
        if op.keeps:
            out, kept = out
    except RETOLD as error:
        raise _retold(op, values, error) from error
    if not tensors:
        return out
    if type(out) is not _ndarray:
        if isinstance(out, numpy.generic):
            out = numpy.asarray(out)
        elif of(out) is None:
            got = type(out).__name__
            raise TypeError(f"{op.name}: the forward function must give one array, got {got}")
    home = _home_of(xp, out, values, homes) if homes else None
    if not needed or not (recording := _recording()):
        return wrap(out, None, home)
    plan = op.plans.get(needed) or op.plan(needed, len(values))
    node = new(Node)
    node.plan = plan
    node.parents = tuple(parents)
    node.saved = plan.save(out, kept, *values)
    node.shape = out.shape
    node.dtype = out.dtype
    node.number = next_number()
    frame = outside(_frame(2))
    node.code = frame.f_code
    node.instruction = frame.f_lasti
    node.stamps = ()
    if homes:
        _stamp(node, homes if home is None else [*homes, (-1, home)])
    if recording is not True:
        recording.check(op.name, node, out, values)
    return wrap(out, node, home)


def _fits(op: Op, slot: int, value: Any) -> bool:
    """Whether `value` can be a differentiable input: a number, an array, or None where there is a default."""
    return isinstance(value, SCALARS) or of(value) is not None or (value is None and slot >= op.required)


def _as_given(
    values: list[Any], needed: int, parents: list[Node], homes: list[tuple[int, Memory]]
) -> list[Any]:
    """The arguments of an op as tensors again."""
    nodes = iter(parents)
    memories = dict(homes)
    return [
        value
        if of(value) is None
        else wrap(value, next(nodes) if needed >> slot & 1 else None, memories.get(slot))
        for slot, value in enumerate(values)
    ]


def _unary(op: Op, numpy_function: Callable[..., Array]) -> Callable[..., Any]:
    """`_apply` for one input, in as few steps as can be: small nets spend their time here.

    So the line that is noted is that of the caller, even if that is a function of this package: only
    `detect_anomaly` has it look for the user's.
    """
    name = op.name
    differentiable = bool(op.rules)
    plans: list[Plan | None] = [None]  # made when first needed, as in `_binary`: imports stay fast

    def call(x):
        if not isinstance(x, Variable):
            return op.forward(namespace(name, [x]), x)
        data = x._data
        if type(data) is _ndarray:
            try:
                out = numpy_function(data)
            except RETOLD as error:
                raise _retold(op, [data], error) from error
            if type(out) is not _ndarray:
                out = numpy.asarray(out)
        else:
            out = op.forward(namespace(name, [data]), data)
        parent = x.node
        if parent is None or not differentiable or not (recording := _recording()):
            return wrap(out)
        plan = plans[0]
        if plan is None:
            plan = plans[0] = Plan(op, 1, 1)
        result = new(Variable.made)
        result._data = out
        result.home = None
        result.node = node = new(Node)
        node.plan = plan
        node.parents = (parent,)
        node.saved = plan.save(out, None, data)
        node.shape = parent.shape
        node.dtype = parent.dtype
        node.number = next_number()
        frame = _frame(1) if recording is True else outside(_frame(1))
        node.code = frame.f_code
        node.instruction = frame.f_lasti
        node.stamps = ()
        if x.home is not None:
            _stamp(node, ((0, x.home),))
        if recording is not True:
            recording.check(name, node, out, (data,))
        return result

    return call


def _binary(op: Op, numpy_function: Callable[..., Array]) -> Callable[..., Any]:
    """`_apply` for two inputs, each of which may be a tensor, a plain array or a Python number."""
    name = op.name
    differentiable = bool(op.rules)
    plans: list[Plan | None] = [None] * 4

    def call(x, y):
        node_x = node_y = home_x = home_y = None
        if isinstance(x, Variable):
            a = x._data
            node_x = x.node
            home_x = x.home
            if isinstance(y, Variable):
                b = y._data
                node_y = y.node
                home_y = y.home
            else:
                b = _constant(name, y)
        elif isinstance(y, Variable):
            a = _constant(name, x)
            b = y._data
            node_y = y.node
            home_y = y.home
        else:
            return op.forward(namespace(name, [x, y]), x, y)
        if type(a) is _ndarray and (type(b) is _ndarray or type(b) in SCALARS):
            try:
                out = numpy_function(a, b)
            except RETOLD as error:
                raise _retold(op, [a, b], error) from error
            if type(out) is not _ndarray:
                out = numpy.asarray(out)
        else:
            xp = namespace(name, [a, b])
            lifted = xp.lift([x, y]) if hasattr(xp, "lift") else None  # inside vmap, see there
            if lifted:
                return call(*lifted)
            out = _compute(op, xp, a, b)
        parents: Any
        if node_x is None:
            needed, parents = 2, (node_y,)
        elif node_y is None:
            needed, parents = 1, (node_x,)
        else:
            needed, parents = 3, (node_x, node_y)
        if parents[0] is None or not differentiable or not (recording := _recording()):
            return wrap(out)
        plan = plans[needed]
        if plan is None:
            plan = plans[needed] = Plan(op, needed, 2)
        result = new(Variable.made)
        result._data = out
        result.home = None
        result.node = node = new(Node)
        node.plan = plan
        node.parents = parents
        node.saved = plan.save(out, None, a, b)
        node.shape = out.shape
        node.dtype = out.dtype
        node.number = next_number()
        frame = _frame(1) if recording is True else outside(_frame(1))
        node.code = frame.f_code
        node.instruction = frame.f_lasti
        node.stamps = ()
        if home_x is not None or home_y is not None:
            _stamp(node, ((0, home_x), (1, home_y)))
        if recording is not True:
            recording.check(name, node, out, (a, b))
        return result

    return call


def _compute(op: Op, xp: Namespace, a: Any, b: Any) -> Array:
    """The forward function of a binary elementwise op wherever its arrays live."""
    try:
        out = op.forward(xp, a, b)
    except RETOLD as error:
        raise _retold(op, [a, b], error) from error
    return numpy.asarray(out) if isinstance(out, numpy.generic) else out


def _constant(name: str, value: Any) -> Any:
    """A number or an array that stands beside a tensor in an operation."""
    if type(value) in SCALARS or isinstance(value, SCALARS):
        return value
    backend = of(value)
    if backend is not None and getattr(value.dtype, "kind", "f") in "biuf":
        return backend.xp.asarray(value, copy=True)  # the caller may write to it before backward reads it
    what = f"an array of {value.dtype}" if hasattr(value, "dtype") else type(value).__name__
    raise TypeError(f"{name}: a tensor cannot be combined with {what}; mg.tensor(...) converts numbers")


def _stamp(node: Node, homes: Iterable[tuple[int, Memory | None]]) -> None:
    """Note which saved values lie in the memory of a leaf, and how old they are."""
    places = node.plan.places  # pyright: ignore[reportOptionalMemberAccess]
    for slot, memory in homes:
        if slot in places and memory is not None:
            node.stamps += ((slot, memory, memory.version),)


def _home_of(xp: Any, out: Array, values: list[Any], homes: list[tuple[int, Memory]]) -> Memory | None:
    """The memory of a leaf in which the result lies, if it is a view of one."""
    is_view = getattr(out, "base", out) is not None
    for slot, memory in homes:
        if out is values[slot] or (is_view and _overlap(xp, out, values[slot])):
            return memory
    return None


def _overlap(xp: Any, a: Array, b: Array) -> bool:
    if type(a) is not _ndarray or type(b) is not _ndarray:
        a, b = plain(a), plain(b)
    if type(a) is not type(b):  # moved to another device
        return False
    return not hasattr(xp, "may_share_memory") or xp.may_share_memory(a, b)


BROADCAST_HINT = "aligned from the right, two sizes must be equal or one of them 1"


RETOLD = (IndexError, TypeError, numpy.linalg.LinAlgError, ValueError, MemoryError)
"""The errors of array libraries that are retold; others come as they are."""


def _retold(op: Op, values: list[Any], error: Exception) -> Exception:
    """An error of the array library, retold in terms of the op and of what it was given."""
    arrays = [value for value in values if of(value) is not None]
    if any(of(value) is not of(arrays[0]) for value in arrays):
        try:
            namespace(op.name, values)
        except ValueError as mixed:
            return mixed
    kind = next(k for k in RETOLD if isinstance(error, k))
    inputs = op.differentiable
    shown = [v for slot, v in enumerate(values) if of(v) is not None or (slot in inputs and v is not None)]
    got = " and ".join(type(v).__name__ if of(v) is None else f"{tuple(v.shape)} {v.dtype}" for v in shown)
    hint = f" ({op.hint})" if op.hint and issubclass(kind, (ValueError, IndexError)) else ""
    return kind(f"{op.name}: got {got}: {str(error).strip()}{hint}")


# --- fused ops -------------------------------------------------------------------------------------


@primitive(x=lambda g: g)
def watch(xp, x) -> Any:
    """x itself, in a place of its own in the graph."""
    return x


def through_reference(
    reference: Callable[..., Any], g: Any, wanted: Iterable[str], **arguments: Any
) -> dict[str, Any]:
    """The gradients that are `wanted` of a fused op where its kernel cannot give them: for higher orders,
    where `g` and the arguments are tensors, or inside `vmap`.

    `reference` composes of other ops what the fused one computes at once. It is run on the `arguments`,
    tensors or arrays and settings by name, and differentiated: so a fused op needs one formula for all.
    """
    again = isinstance(g, Variable)
    inputs = {}
    for name in wanted:
        x = arguments[name]
        # One tensor may be several of the inputs: each gets a place of its own in the graph.
        inputs[name] = watch(x) if again else wrap(x, Leaf(x.shape, x.dtype))
    arguments |= inputs
    with grad_mode(True):
        out = reference(**{k: v if of(v) is None else wrap(v) for k, v in arguments.items()})
    nodes = [x.node for x in inputs.values()]
    found = gradients_of([out], [g if again else wrap(g)], nodes, again, again, stop=True)
    return dict(zip(inputs, found if again else [x._data for x in found], strict=True))
