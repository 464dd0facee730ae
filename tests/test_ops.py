"""Every op, by the table of cases: values, gradients, memory, dtypes, layouts, backends, and torch."""

import inspect
import operator
import os
import weakref
from dataclasses import replace
from typing import Any

import cases
import numpy as np
import pytest
from cases import CASES, Case
from helpers import take_grad, torch_or_skip
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad.autograd import Node
from minigrad.backend import get
from minigrad.primitive import OPS
from minigrad.testing import gradcheck

BACKENDS = ["numpy", "strict", "cupy"]
SMOOTH = [case for case in CASES if case.differentiable]


def table(rows: list[Case]) -> Any:
    return pytest.mark.parametrize("case", rows, ids=[f"{i}-{case}" for i, case in enumerate(rows)])


def need(device: str) -> None:
    if device == "cupy":
        try:
            get("cupy")
        except (ImportError, RuntimeError) as error:
            pytest.skip(str(error))


def tensors(case: Case, arrays: list[np.ndarray], device: str = "numpy") -> list[mg.Tensor]:
    """The inputs as tensors on that device, requiring gradients where the case has them."""
    smooth = case.smooth()
    return [
        mg.tensor(a, requires_grad=i in smooth and a.dtype.kind == "f", device=device)
        for i, a in enumerate(arrays)
    ]


def graph(node: Node | None) -> list[Node]:
    """The nodes below a result that are not leaves."""
    found: list[Node] = []
    pending = [node] if node is not None else []
    while pending:
        node = pending.pop()
        if node.plan is not None and node not in found:
            found.append(node)
            pending.extend(node.parents)
    return found


def test_every_op_has_a_row():
    rows = {case.op for case in CASES}
    names = {case.name for case in CASES}
    made = {
        "arange",
        "asarray",
        "default_dtype",
        "empty",
        "eye",
        "full",
        "linspace",
        "ones",
        "set_default_dtype",
    }
    made |= {"broadcast_shapes", "e", "inf", "nan", "newaxis", "pi"}  # not of tensors: see test_sorting.py
    made |= {"from_dlpack", "tensor", "zeros"}  # creation functions: see test_tensor.py
    made |= {"can_cast", "finfo", "iinfo", "isdtype", "result_type"}  # of dtypes: see test_standard.py
    aliases = {
        n
        for n in mg.ops.__all__
        if any(getattr(mg.ops, n) is getattr(mg.ops, m) for m in rows if hasattr(mg.ops, m))
    }
    assert set(mg.ops.__all__) - aliases - rows - made - {"linalg"} == set()
    in_both = {n for n in mg.linalg.__all__ if getattr(mg.linalg, n) is getattr(mg.ops, n, None)}
    results = {n for n in mg.linalg.__all__ if n.endswith("Result")}
    assert {f"linalg.{n}" for n in set(mg.linalg.__all__) - in_both - results} - rows == set()
    # Reached by way of rows of other names.
    helpers = {"cast", "cast_away", "copy", "identity", "last_writes", "cofactors", "det_curvature"}
    helpers |= {"length", "p_norm"}  # vector_norm's
    helpers |= {"up_to_itself"}  # attention's
    helpers |= {"conv2d_weight", "to_places", "from_places", "max_places", "spread", "means"}
    helpers |= {"watch"}  # of the transforms and of fused ops, which test_transforms.py tests
    helpers |= {"recurrence"}  # of recurrent layers: see test_recurrent.py
    helpers |= {"enter", "leave", "lift", "sum_over"}  # vmap's: see test_vmap.py
    assert set(OPS) - names - helpers == set()


def test_every_differentiable_op_has_rows_of_three_shapes():
    shapes: dict[str, set[Any]] = {}
    for case in SMOOTH:
        shapes.setdefault(case.op, set()).add(tuple(draw.shape for draw in case.draws))
    assert {op for op, found in shapes.items() if len(found) < 3} == set()


# --- values and gradients --------------------------------------------------------------------------


@table(CASES)
def test_values_against_numpy(case: Case):
    arrays = case.inputs()
    result = case.compute(*tensors(case, arrays))
    expected = case.expected(*arrays)
    assert isinstance(result, mg.Tensor)
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(result.detach().numpy(), expected, rtol=1e-13, atol=1e-15)


@table(SMOOTH)
def test_gradients_of_all_orders(case: Case):
    assert gradcheck(case.compute, *tensors(case, case.inputs()), order=case.orders)


EXAMPLES = int(os.environ.get("MINIGRAD_EXAMPLES", "0"))
drawn = settings(max_examples=EXAMPLES or 2)


@table(SMOOTH)
@drawn
@given(seed=st.integers(0, 2**32 - 1))
def test_gradients_at_drawn_inputs(case: Case, seed):
    """`MINIGRAD_EXAMPLES=100` tries that many for each row, other ones each time."""
    arrays = case.inputs(seed=seed)
    assert gradcheck(case.compute, *tensors(case, arrays), order=2)


@table([case for case in SMOOTH if case.elementwise and all(d.shape == (3,) for d in case.draws)])
@drawn
@given(data=st.data())
def test_gradients_at_drawn_shapes(case: Case, data):
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=len(case.draws), max_dims=3, max_side=3))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    arrays = [
        np.asarray(draw(random, shape)) for draw, shape in zip(case.draws, shapes.input_shapes, strict=True)
    ]
    assert gradcheck(case.compute, *tensors(case, arrays), order=2)


@table([case for case in SMOOTH if case.smooth() == [0, 1] and case.draws[0].shape == case.draws[1].shape])
def test_same_tensor_as_both_operands(case: Case):
    x = case.draws[0](np.random.default_rng(1)) ** 2 + 0.5
    if case.op in ("maximum", "minimum", "floor_divide", "remainder", "setitem"):
        one, two = mg.tensor(x, requires_grad=True), mg.tensor(x, requires_grad=True)
        case.compute(one, two).sum().backward()
        both = mg.tensor(x, requires_grad=True)
        case.compute(both, both).sum().backward()
        np.testing.assert_allclose(both.grad.numpy(), one.grad.numpy() + two.grad.numpy())
    else:
        assert gradcheck(lambda x: case.compute(x, x), mg.tensor(x, requires_grad=True), order=2)


@table([case for case in SMOOTH if case.elementwise and len(case.draws) == 2 and case.draws[0].shape == (3,)])
@pytest.mark.parametrize(
    "shapes",
    [((0,), (1,)), ((1,), (0,)), ((2, 0), (2, 1)), ((2, 3), (1, 1)), ((1, 3), (2, 1)), ((), (2, 1, 2))],
)
def test_broadcasting(case: Case, shapes):
    random = np.random.default_rng(0)
    arrays = [draw(random, shape) for draw, shape in zip(case.draws, shapes, strict=True)]
    x, y = tensors(case, arrays)
    result = case.compute(x, y)
    assert result.shape == np.broadcast_shapes(*shapes)
    if result.size:
        assert gradcheck(case.compute, x, y)
    result.backward(mg.ones_like(result))
    assert (x.grad.shape, y.grad.shape) == shapes


@given(hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=3, max_dims=4))
@settings(max_examples=50)
def test_gradients_of_any_broadcast_have_the_shapes_of_the_inputs(shapes):
    x, y = (mg.ones(shape, dtype=mg.float64, requires_grad=True) for shape in shapes.input_shapes)
    result = x * y
    assert result.shape == shapes.result_shape
    result.sum().backward()
    # Each element of x is used once for each element of the result that it goes into.
    for t in (x, y):
        assert t.grad.shape == t.shape
        times = result.size / t.size if t.size else 0
        np.testing.assert_array_equal(t.grad.numpy(), np.full(t.shape, times))


# --- what must not happen: writing, keeping, dropping ------------------------------------------------


@table(SMOOTH)
def test_nothing_writes_to_inputs_or_gradients(case: Case):
    arrays = case.inputs()
    xs = tensors(case, arrays)
    result = case.compute(*xs)
    value = result.detach().numpy()
    g = np.random.default_rng(2).normal(size=result.shape)
    gradient = mg.tensor(g, requires_grad=True)
    result.backward(gradient, create_graph=True)
    result.backward(gradient)
    for x, before in zip(xs, arrays, strict=True):
        np.testing.assert_array_equal(x.detach().numpy(), before)
    np.testing.assert_array_equal(gradient.detach().numpy(), g)
    np.testing.assert_array_equal(result.detach().numpy(), value)


@table(CASES)
def test_forward_leaves_the_bytes_of_its_inputs(case: Case):
    arrays = case.inputs()
    before = [a.tobytes() for a in arrays]
    result = case.compute(*map(mg.asarray, arrays))  # which share the memory of the arrays
    assert [a.tobytes() for a in arrays] == before
    for a in arrays:  # nor may a later write to them change a result that claims memory of its own
        shares = np.shares_memory(result.data, a)
        assert not shares or case.op in VIEWS, case


VIEWS = {"reshape", "permute_dims", "transpose", "matrix_transpose", "moveaxis", "expand_dims", "squeeze"}
VIEWS |= {"flatten", "broadcast_to", "flip", "getitem", "to", "einsum", "swapaxes", "ravel", "tile"}
VIEWS |= {"diagonal", "linalg.diagonal", "broadcast_arrays", "meshgrid", "split", "unstack", "diff"}
VIEWS |= {"conj", "real"}  # which give real numbers themselves


@table(SMOOTH)
def test_a_step_before_backward_is_noticed(case: Case):
    """An optimizer overwrites one input after the other: backward says so, or did not need the old value."""
    for i in case.smooth():
        xs = tensors(case, case.inputs())
        result = case.compute(*xs)
        if not result.requires_grad:
            continue
        weights = mg.tensor(np.random.default_rng(2).uniform(0.5, 1.5, result.shape))
        result.backward(weights, retain_graph=True)
        first = [x.grad for x in xs]
        for x in xs:
            if x.requires_grad:
                x.grad = mg.ones_like(x) if x is xs[i] else None
        mg.optim.SGD([xs[i]], lr=0.5).step()
        xs[i].grad = None
        needed = {
            node.plan.name
            for node in graph(result.node)
            for _, memory, _ in node.stamps
            if node.plan is not None and memory is xs[i].home
        }
        op = OPS.get(case.op)
        if op is not None and op.rules and case.minigrad is None and not op.variadic:
            live = [op.rule_of(slot) for slot in case.smooth()]
            named = any(op.parameters[i] in rule_parameters(rule) for rule in live)
            assert (case.op in needed) or not named
        if needed:
            with pytest.raises(RuntimeError, match="overwritten") as caught:
                result.backward(weights, retain_graph=True)
            assert any(f"{name!r}" in str(caught.value) for name in needed)
            assert all(x.grad is None for x in xs)
        else:
            result.backward(weights)
            for x, before in zip(xs, first, strict=True):
                assert (x.grad is None) == (before is None)
                if before is not None:
                    np.testing.assert_array_equal(x.grad.numpy(), before.numpy())


@table(SMOOTH)
def test_rules_get_gradients_that_somebody_else_holds(case: Case):
    """The same gradient is sent through the op and past it: the op must not change it on the way."""
    arrays = case.inputs()
    xs = tensors(case, arrays)
    result = case.compute(*xs)
    beside = mg.zeros_like(result).requires_grad_()
    g = np.random.default_rng(2).normal(size=result.shape)
    (result + beside).backward(mg.tensor(g))
    np.testing.assert_array_equal(beside.grad.numpy(), g)


PRIMITIVE = [
    case for case in SMOOTH if case.name in OPS and not OPS[case.name].variadic and case.minigrad is None
]


@table(PRIMITIVE)
def test_graph_holds_what_the_rules_name_and_nothing_else(case: Case):
    op = OPS[case.name]
    arrays = case.inputs()
    xs = tensors(case, arrays)
    refs = [weakref.ref(x._data) for x in xs]
    result = case.compute(*xs)
    node = result.node
    if node.plan.name != case.name:
        pytest.skip(f"{case.op} is made of other ops, which have rows of their own")
    out = weakref.ref(result._data)
    del arrays, xs, result
    named = {name for slot in node.plan.slots for name in rule_parameters(op.rule_of(slot))}
    for name, ref in (*zip(op.parameters, refs, strict=False), ("out", out)):
        assert (ref() is not None) == (name in named), name
    kept = named & {*op.parameters, "out", "kept"}
    assert node.plan.single == (len(kept) == 1)
    assert node.plan.single or len(node.saved) == len(kept)


def rule_parameters(rule: Any) -> tuple[str, ...]:
    return rule.__code__.co_varnames[: rule.__code__.co_argcount]


def test_only_what_the_live_gradients_need_is_kept():
    constant = np.ones(3)
    x = mg.tensor(np.ones(3), requires_grad=True)
    ref = weakref.ref(x._data)
    y = x * mg.asarray(constant)  # the gradient of x needs the constant, and nothing needs x
    np.testing.assert_array_equal(y.node.saved, constant)
    del x
    assert ref() is None


LINEAR = {"add", "subtract", "negative", "positive", "sum", "mean", "cumulative_sum", "astype"}
LINEAR |= {"reshape", "permute_dims", "transpose", "matrix_transpose", "moveaxis", "expand_dims", "squeeze"}
LINEAR |= {"diagonal", "trace", "linalg.diagonal", "linalg.trace"}
LINEAR |= {"flatten", "broadcast_to", "concat", "stack", "flip", "roll", "tril", "triu", "pad"}
LINEAR |= {"swapaxes", "ravel", "broadcast_arrays", "meshgrid", "split", "tile", "diff", "nextafter"}


@table([case for case in SMOOTH if case.op in LINEAR])
def test_linear_ops_keep_no_arrays(case: Case):
    result = case.compute(*tensors(case, case.inputs()))
    for node in graph(result.node):
        assert node.plan is not None
        saved = [node.saved] if node.plan.single else node.saved
        assert not any(isinstance(value, np.ndarray) for value in saved), node.plan.name


# --- dtypes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@table([case for case in SMOOTH if case.op not in ("astype", "einsum") and "dtype" not in case.settings])
def test_float_dtypes_are_kept(case: Case, dtype):
    if dtype not in case.dtypes:
        pytest.skip(f"{case.op} does not compute in {np.dtype(dtype)}")
    arrays = case.inputs(dtype)
    xs = tensors(case, arrays)
    result = case.compute(*xs)
    assert result.dtype == dtype
    result.backward(mg.ones_like(result))
    for i in case.smooth():
        assert xs[i].grad is None or xs[i].grad.dtype == dtype
    tolerance = {np.float16: 2e-2, np.float32: 1e-5, np.float64: 1e-12}[dtype]
    expected = case.expected(*(a.astype(np.float64) if a.dtype == dtype else a for a in arrays))
    np.testing.assert_allclose(
        result.detach().numpy().astype(np.float64), expected, rtol=tolerance, atol=tolerance
    )


BINARY = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.pow,
    operator.mod,
    operator.floordiv,
]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("op", BINARY, ids=lambda op: op.__name__)
@pytest.mark.parametrize("scalar", [2, 2.0, True])
def test_python_scalars_are_weak(op, dtype, scalar):
    x = mg.tensor(np.array([1.5, 2.5], dtype), requires_grad=True)
    for result in (op(x, scalar), op(scalar, x)):
        assert result.dtype == dtype
        result.sum().backward()
        assert take_grad(x).dtype == dtype


@table([case for case in SMOOTH if len(case.smooth()) == 2 and case.op not in ("setitem",)])
def test_mixed_dtypes_give_each_input_a_gradient_of_its_own(case: Case):
    i, j = case.smooth()
    arrays = case.inputs()
    arrays[i] = arrays[i].astype(np.float32)
    xs = tensors(case, arrays)
    result = case.compute(*xs)
    assert result.dtype == np.float64
    result.backward(mg.ones_like(result))
    assert (xs[i].grad.dtype, xs[j].grad.dtype) == (np.float32, np.float64)


# --- layouts ---------------------------------------------------------------------------------------


def strided(a: np.ndarray) -> np.ndarray:
    return np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a


def fortran(a: np.ndarray) -> np.ndarray:
    return a.copy(order="F")


def reversed_(a: np.ndarray) -> np.ndarray:
    return a[tuple([slice(None, None, -1)] * a.ndim)].copy()[tuple([slice(None, None, -1)] * a.ndim)]


def read_only(a: np.ndarray) -> np.ndarray:
    a.flags.writeable = False
    return a


@pytest.mark.parametrize("layout", [strided, reversed_, fortran, read_only], ids=lambda f: f.__name__)
@table(CASES)
def test_layouts(case: Case, layout):
    def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
        xs = [mg.asarray(a) for a in arrays]
        for i in case.smooth():
            xs[i].requires_grad_()
        result = case.compute(*xs)
        if result.requires_grad:
            result.backward(mg.ones_like(result))
        return [
            result.detach().numpy(),
            *(xs[i].grad.numpy() for i in case.smooth() if xs[i].grad is not None),
        ]

    arrays = case.inputs()
    for plain, laid_out in zip(run(arrays), run([layout(a) for a in case.inputs()]), strict=True):
        np.testing.assert_allclose(laid_out, plain, rtol=1e-12)


@table([case for case in SMOOTH if case.elementwise and case.draws[0].shape in ((3,), (3, 4))])
def test_empty_inputs(case: Case):
    xs = tensors(case, [np.zeros((2, 0, 3)) for _ in case.draws])
    result = case.compute(*xs)
    assert result.shape == (2, 0, 3)
    result.sum().backward()
    assert all(x.grad.shape == (2, 0, 3) for x in xs)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: x.sum(axis=1), (2,)),
        (lambda x: x.prod(axis=1), (2,)),
        (lambda x: mg.concat([x, x]), (4, 0)),
        (lambda x: x.reshape(0, 5), (0, 5)),
        (lambda x: x[:, :0], (2, 0)),
        (lambda x: x @ mg.ones((0, 3), dtype=mg.float64), (2, 3)),
        (lambda x: mg.linear(x, mg.ones((3, 0), dtype=mg.float64)), (2, 3)),
        (lambda x: mg.cumulative_sum(x, axis=0), (2, 0)),
        (lambda x: mg.pad(x, 1), (4, 2)),
    ],
)
def test_empty_inputs_of_other_ops(function, shape):
    x = mg.zeros((2, 0), dtype=mg.float64, requires_grad=True)
    result = function(x)
    assert result.shape == shape
    result.sum().backward()
    assert x.grad.shape == (2, 0)


# --- errors ----------------------------------------------------------------------------------------

PLAIN: dict[str, Any] = {
    "getitem": lambda x: mg.ops.getitem(x, 0),
    "setitem": lambda x, value: mg.ops.setitem(x, 0, value),
    "scatter": lambda x: mg.ops.scatter(x, 0, (2, 3, 4)),
    "searchsorted": mg.searchsorted,
    "linalg.cholesky": mg.linalg.cholesky,
    "linalg.eigh": mg.linalg.eigh,
    "linalg.eigvalsh": mg.linalg.eigvalsh,
    "unstack": mg.unstack,
    "split": mg.split,
}
"""The functions whose rows compute with their inputs before, or with their result."""

OF_FUNCTIONS = [
    replace(
        case,
        minigrad=PLAIN.get(case.op, case.minigrad),
        settings={} if case.op == "linalg.cholesky" else case.settings,
    )
    for case in CASES
    if hasattr(mg.linalg if case.op.startswith("linalg.") else mg.ops, case.name)
]
"""The rows of public functions, which may be made of others, but whose errors name none but themselves."""


def names(case: Case, error: BaseException) -> bool:
    return str(error).startswith(f"{case.name}: ")


def one_of_each(rows: list[Case]) -> list[Any]:
    """For each op the first of its rows with the most inputs."""
    found: dict[str, Case] = {}
    for case in rows:
        if case.op not in found or len(case.draws) > len(found[case.op].draws):
            found[case.op] = case
    return [pytest.param(case, id=op) for op, case in sorted(found.items())]


SEVERAL = [case for case in OF_FUNCTIONS if len(case.draws) > 1]


@pytest.mark.parametrize("case", one_of_each(SEVERAL))
def test_errors_of_mixed_devices_name_the_op_and_both(case: Case):
    arrays = case.inputs()
    for i in range(len(arrays)):
        xs = [mg.tensor(a, device="strict" if i == j else "numpy") for j, a in enumerate(arrays)]
        with pytest.raises(ValueError, match=r"'numpy' .*'strict'|'strict' .*'numpy'") as caught:
            case.compute(*xs)
        assert names(case, caught.value)


ANY_SHAPES = {"outer", "kron", "isin", "take"}
UNLIKE = [c for c in SEVERAL if all(d.shape for d in c.draws[:2]) and c.op not in ANY_SHAPES]


@pytest.mark.parametrize("case", one_of_each(UNLIKE))
def test_errors_of_shapes_name_the_op_and_both(case: Case):
    first = (7, 7) if case.op == "linalg.solve" else (7, 5)
    arrays = [np.ones(first if i == 0 else (3, 2)) for i in range(len(case.draws))]
    xs = [mg.tensor(a.astype(b.dtype)) for a, b in zip(arrays, case.inputs(), strict=True)]
    with pytest.raises((ValueError, IndexError)) as caught:
        case.compute(*xs)
    assert names(case, caught.value)
    assert "(3, 2)" in str(caught.value)
    assert str(first) in str(caught.value)


def has_axis(case: Case) -> bool:
    function = operator.attrgetter(case.op)(mg.ops if hasattr(mg.ops, case.op) else mg)
    passed = case.minigrad is None or "axis" in case.settings
    return passed and "axis" in inspect.signature(function).parameters


@pytest.mark.parametrize("case", one_of_each([c for c in OF_FUNCTIONS if has_axis(c)]))
def test_errors_of_axes_name_the_op_and_the_axis(case: Case):
    inputs = tensors(case, case.inputs())
    for axis, error, message in (
        (9, IndexError, "axis 9"),
        (-9, IndexError, "axis -9"),
        ("a", TypeError, "str"),
    ):
        with pytest.raises(error, match=message) as caught:
            replace(case, settings={**case.settings, "axis": axis}).compute(*inputs)
        assert names(case, caught.value)


FLAGS = {"keepdims", "include_initial", "stable", "descending", "largest", "upper", "full_matrices", "invert"}


@pytest.mark.parametrize("wrong", ["text", object()], ids=lambda v: type(v).__name__)
@table([c for c in OF_FUNCTIONS if c.settings.keys() - FLAGS])
def test_errors_of_settings_name_the_op(case: Case, wrong):
    for name in case.settings.keys() - FLAGS:
        with pytest.raises((TypeError, ValueError)) as caught:
            replace(case, settings={**case.settings, name: wrong}).compute(*tensors(case, case.inputs()))
        assert names(case, caught.value)


OPTIONAL = {("clip", 1), ("clip", 2), ("linear", 2), ("diff", 1), ("diff", 2)}
OPTIONAL |= {("conv1d", 2), ("conv2d", 2), ("conv_transpose2d", 2)}


@pytest.mark.parametrize("wrong", ["text", None, object(), 1j], ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("case", one_of_each(OF_FUNCTIONS))
def test_errors_of_types_name_the_op(case: Case, wrong):
    for i in range(len(case.draws)):
        if wrong is None and (case.op, i) in OPTIONAL:
            continue
        inputs: list[Any] = tensors(case, case.inputs())
        inputs[i] = wrong
        with pytest.raises(TypeError, match=type(wrong).__name__) as caught:
            case.compute(*inputs)
        assert names(case, caught.value)


# --- backends --------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", BACKENDS)
@table(CASES)
def test_backends_agree_with_numpy(case: Case, device):
    """Values, first and second gradients; the arrays stay on their device all the way."""
    need(device)

    def run(device: str) -> list[Any]:
        xs = tensors(case, case.inputs(), device)
        found = [case.compute(*xs)]
        if found[0].requires_grad:
            g = np.random.default_rng(3).uniform(0.5, 1.5, found[0].shape)
            gradient = mg.tensor(g, requires_grad=True, device=device)
            found[0].backward(gradient, create_graph=True)
            first = [xs[i].grad for i in case.smooth() if xs[i].grad is not None]
            for x in xs:
                if x.requires_grad:
                    x.grad = None
            total: Any = sum(((f * f).sum() for f in first), mg.tensor(np.zeros(()), device=device))
            if total.requires_grad:  # not if the first gradients are constant
                total.backward()
            second = [t.grad for t in (*xs, gradient) if t.grad is not None]
            found += [*first, *second]
        assert all(t.device == device for t in found)
        return found

    for here, there in zip(run(device), run("numpy"), strict=True):
        np.testing.assert_allclose(
            here.detach().to("numpy").numpy(), there.detach().numpy(), rtol=1e-12, atol=1e-12
        )


# --- torch -----------------------------------------------------------------------------------------


def torch_function(case: Case) -> Any:
    torch: Any = torch_or_skip()
    if case.torch is None:
        pytest.skip("torch has no such function")
    if callable(case.torch):
        own = case.torch
        return lambda *xs: own(*xs, **case.settings)
    found: Any = torch
    for name in (case.torch or case.op).split("."):
        found = getattr(found, name)
    return lambda *xs: found(*xs, **{"dim" if k == "axis" else k: v for k, v in case.settings.items()})


def error_in_ulps(got: np.ndarray, exact: np.ndarray, elementwise: bool) -> float:
    """The largest error in units of the last place: of each value, or, for sums, of the largest one."""
    dtype = exact.dtype
    scale = np.maximum(np.abs(exact), (1e-3 if elementwise else 1.0) * np.max(np.abs(exact), initial=0.0))
    return float(np.max(np.abs(got - exact) / np.spacing(scale.astype(dtype)), initial=0.0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@table(CASES)
def test_values_and_gradients_against_torch(case: Case, dtype):
    function = torch_function(case)
    torch = cases.torch()
    arrays = case.inputs(dtype)
    xs = tensors(case, arrays)
    ts = [torch.from_numpy(a.copy()) for a in arrays]
    for i in case.smooth():
        ts[i].requires_grad_()
    ours, theirs = case.compute(*xs), function(*ts)
    assert ours.shape == tuple(theirs.shape)
    if not case.differentiable:
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
        return
    g = np.random.default_rng(4).uniform(0.5, 1.5, ours.shape).astype(dtype)
    ours.backward(mg.tensor(g))
    theirs.backward(torch.from_numpy(g))
    pairs = [(ours.detach(), theirs.detach())]
    pairs += [(xs[i].grad, ts[i].grad) for i in case.smooth() if ts[i].grad is not None]
    separate = case.elementwise and len({a.shape for a in arrays}) == 1
    limit = case.ulps if dtype == np.float32 else 4000  # ulps: 4000 are 1e-12
    for mine, its in pairs:
        assert mine is not None
        assert error_in_ulps(mine.numpy(), its.numpy(), separate) <= limit


EXACT = ("add", "subtract", "multiply", "divide", "relu", "where", "negative", "abs", "maximum")
FEW_ULPS = ("exp", "expm1", "log", "log1p", "log2", "log10", "sin", "cos", "tan", "tanh", "sinh", "cosh")
FEW_ULPS += ("asin", "acos", "atan", "asinh", "acosh", "atanh", "sigmoid", "softplus", "erf", "sqrt")


def many(case: Case, n: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [d(random, (n,)).astype(np.float32) if d.kind == "float" else d(random, (n,)) for d in case.draws]


def one_of(op: str) -> Case:
    return next(case for case in CASES if case.op == op)


@pytest.mark.parametrize("op", EXACT)
def test_values_are_those_of_torch_to_the_last_bit(op):
    case = one_of(op)
    arrays = many(case, 10_000)
    theirs = torch_function(case)(*(cases.torch().from_numpy(a) for a in arrays)).numpy()
    np.testing.assert_array_equal(case.compute(*map(mg.tensor, arrays)).numpy(), theirs)


@pytest.mark.parametrize("op", FEW_ULPS)
def test_values_are_within_4_ulps(op):
    """float32, against the same function of float64."""
    case = one_of(op)
    arrays = many(case, 100_000)
    with np.errstate(all="ignore"):
        got = case.compute(*map(mg.tensor, arrays)).numpy()
        exact = case.compute(*(mg.tensor(a.astype(np.float64)) for a in arrays)).numpy()
    assert got.dtype == np.float32
    assert np.max(np.abs(got - exact) / np.spacing(np.abs(exact).astype(np.float32))) <= 4


@pytest.mark.parametrize(
    "op", ["sum", "mean", "var", "logsumexp", "softmax", "log_softmax", "matmul", "linear"]
)
def test_sums_are_as_exact_as_those_of_torch(op):
    """float32, against float64: no more than twice the error of torch, or 2 ulps of the largest value."""
    random = np.random.default_rng(0)
    shapes = {"matmul": [(64, 500), (500, 64)], "linear": [(64, 500), (64, 500), (64,)]}.get(op, [(64, 500)])
    arrays = [random.normal(1.0, 1.0, shape).astype(np.float32) for shape in shapes]
    case = Case(op, (), {} if op in ("matmul", "linear") else {"axis": -1}, torch=one_of(op).torch)
    ours = case.compute(*map(mg.tensor, arrays)).numpy()
    theirs = torch_function(case)(*map(cases.torch().from_numpy, arrays)).numpy()
    exact = case.compute(*(mg.tensor(a.astype(np.float64)) for a in arrays)).numpy()
    its_error = np.max(np.abs(theirs - exact))
    assert np.max(np.abs(ours - exact)) <= max(2 * its_error, 2 * np.spacing(np.float32(np.abs(exact).max())))


@table(SMOOTH)
def test_second_gradients_against_torch(case: Case):
    function = torch_function(case)
    torch = cases.torch()
    arrays = case.inputs()
    xs = tensors(case, arrays)
    ts = [torch.from_numpy(a.copy()).requires_grad_(i in case.smooth()) for i, a in enumerate(arrays)]
    ours, theirs = case.compute(*xs), function(*ts)
    random = np.random.default_rng(5)
    g = random.uniform(0.5, 1.5, ours.shape)
    given = mg.tensor(g, requires_grad=True), torch.from_numpy(g).requires_grad_()
    wanted = [i for i in case.smooth() if ts[i].requires_grad]
    weights = [random.uniform(0.5, 1.5, arrays[i].shape) for i in wanted]
    first = torch.autograd.grad(
        theirs, [ts[i] for i in wanted], given[1], create_graph=True, materialize_grads=True
    )
    ours.backward(given[0], create_graph=True)
    total: Any = mg.zeros((), dtype=mg.float64)
    for i, w in zip(wanted, weights, strict=True):
        total = total + (xs[i].grad * w).sum()
        xs[i].grad = None
    its_total: Any = sum((f * torch.from_numpy(w)).sum() for f, w in zip(first, weights, strict=True))
    if not its_total.requires_grad:  # as of steps, whose derivative is the constant 0
        assert total.item() == its_total.item()
        return
    second = torch.autograd.grad(its_total, [*(ts[i] for i in wanted), given[1]], materialize_grads=True)
    if total.requires_grad:  # not if the first gradients are constant
        total.backward()
    for mine, its in zip([*(xs[i] for i in wanted), given[0]], second, strict=True):
        found = np.zeros(mine.shape) if mine.grad is None else mine.grad.numpy()
        np.testing.assert_allclose(found, its.numpy(force=True), rtol=1e-9, atol=1e-12)


def test_the_table_itself():
    """A case whose value does not depend on its inputs would test nothing."""
    for case in SMOOTH:
        one, other = case.expected(*case.inputs(seed=0)), case.expected(*case.inputs(seed=1))
        steps = ("sign", "floor", "ceil", "round", "trunc", "floor_divide")
        if case.op not in steps and case.settings.get("ord") != 0:
            assert not np.array_equal(one, other), case
    assert len(CASES) > 300
    assert cases.CASES is CASES
