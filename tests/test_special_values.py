"""Zeros, infinities, NaN, subnormal and huge numbers: values as NumPy's, and gradients as documented.

`CORNERS` is the list of kinks, jumps, ties and infinities: what the derivative is taken to be there, and
what torch makes of it where that is something else.
"""

import decimal
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest
from cases import CASES, Case
from cases import torch as torch_module
from helpers import torch_or_skip

import minigrad as mg

INF, NAN = math.inf, math.nan
FLOATS = [np.float16, np.float32, np.float64]

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of what is tested here


def specials(dtype: Any) -> np.ndarray:
    f = np.finfo(dtype)
    sizes = [0.0, f.smallest_subnormal, f.smallest_normal, f.eps, 0.5, 1.0, 1.5, 2.0, 100.0]
    sizes += [math.sqrt(float(f.max)), f.max, INF]
    return np.array([*sizes, *(-v for v in sizes), NAN], dtype)


def grid(case: Case, dtype: Any) -> list[np.ndarray]:
    """All special values, or all pairs of them."""
    values = specials(dtype)
    return [a.ravel() for a in np.meshgrid(*[values] * len(case.draws))]


def assert_identical(got: np.ndarray, expected: np.ndarray) -> None:
    """The same bits, but for which NaN it is."""
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got)[number], np.signbit(expected)[number])


def once(rows: list[Case]) -> list[Any]:
    """One row of each op, without settings."""
    first = {case.op: case for case in reversed(rows) if not case.settings}
    return [pytest.param(case, id=op) for op, case in sorted(first.items())]


# --- values ------------------------------------------------------------------------------------------

ELEMENTWISE = [case for case in CASES if case.elementwise and all(d.kind == "float" for d in case.draws)]
COMPARISONS = [case for case in CASES if not case.differentiable and case.draws[0].kind == "float"]
POINTWISE = {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "isnan", "isinf"}
POINTWISE |= {"isfinite", "relu"}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", once([c for c in ELEMENTWISE if c.numpy is None or c.op == "relu"]))
def test_elementwise_values_are_those_of_numpy(case: Case, dtype):
    arrays = grid(case, dtype)
    assert_identical(case.compute(*map(mg.tensor, arrays)).numpy(), case.expected(*arrays))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", once([c for c in COMPARISONS if c.op in POINTWISE]))
def test_comparisons_are_those_of_numpy(case: Case, dtype):
    arrays = grid(case, dtype)
    np.testing.assert_array_equal(case.compute(*map(mg.tensor, arrays)).numpy(), case.expected(*arrays))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "bounds", [(-1.0, 1.0), (0.0, None), (None, 0.0), (-INF, INF), (NAN, 1.0), (2.0, 1.0)]
)
def test_clip_is_that_of_numpy(bounds, dtype):
    x = specials(dtype)
    low, high = bounds
    assert_identical(mg.clip(mg.tensor(x), low, high).numpy(), np.asarray(np.clip(x, low, high)))


REDUCTIONS = ["sum", "mean", "prod", "max", "min", "var", "argmax", "argmin", "all", "any", "cumulative_sum"]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_are_those_of_numpy(name, dtype):
    values = specials(dtype)
    rows = np.stack([a.ravel() for a in np.meshgrid(values, values, values)], axis=1)
    got = getattr(mg, name)(mg.tensor(rows), axis=1).numpy()
    expected = getattr(np, "cumsum" if name == "cumulative_sum" else name)(rows, axis=1)
    if name == "var":  # computed by the same formula, in the dtype: NumPy computes float16 in float32
        tolerance = 1e-2 if dtype is np.float16 else 4 * np.finfo(dtype).eps
        fits = np.isfinite(expected) & (np.abs(rows).max(axis=1) < math.sqrt(float(np.finfo(dtype).max)) / 4)
        np.testing.assert_allclose(
            got[fits], expected[fits], rtol=tolerance, atol=float(np.finfo(dtype).tiny)
        )
    elif got.dtype.kind == "f":
        assert_identical(got, expected)
    else:
        np.testing.assert_array_equal(got, expected)


def exact(f: Callable[[decimal.Decimal], decimal.Decimal], x: float) -> float:
    """f(x) computed with many digits."""
    with decimal.localcontext(prec=400, Emin=-999999, Emax=999999):
        return float(f(decimal.Decimal(x)))


@pytest.mark.parametrize(
    ("name", "f", "at_infinity", "at_minus_infinity"),
    [
        ("sigmoid", lambda x: 1 / (1 + (-x).exp()), 1.0, 0.0),
        ("softplus", lambda x: (1 + x.exp()).ln(), INF, 0.0),
        ("silu", lambda x: x / (1 + (-x).exp()), INF, NAN),
        ("gelu", None, INF, NAN),
        ("erf", None, 1.0, -1.0),
    ],
)
def test_activations_keep_their_digits_everywhere(name, f, at_infinity, at_minus_infinity):
    function = getattr(mg, name)
    sizes = [0.0, 5e-324, 2.3e-308, 1e-200, 1e-9, 0.5, 1.0, 3.0, 20.0, 37.0, 700.0, 744.0, 750.0, 1e4]
    for x in [*sizes, *(-v for v in sizes)]:
        if name == "erf":
            expected = math.erf(x)
        elif name == "gelu":
            expected = x * 0.5 * math.erfc(-x / math.sqrt(2))
        else:
            expected = exact(f, x)
        got = function(np.array(x)).item()
        # 1 + erf(x) cancels in gelu for negative x; what is left is small beside x.
        scale = abs(x) if name == "gelu" and x < 0 else abs(expected)
        assert abs(got - expected) <= 4 * np.spacing(scale) + abs(x) * 5e-324, (x, got, expected)
    for dtype in FLOATS:
        ends = function(np.array([INF, -INF, NAN], dtype))
        np.testing.assert_array_equal(ends, np.array([at_infinity, at_minus_infinity, NAN], dtype))


@pytest.mark.parametrize("dtype", FLOATS)
def test_exponential_sums(dtype):
    rows = {
        (0.0, -INF): (0.0, [1.0, 0.0]),
        (-INF, -INF): (-INF, [NAN, NAN]),
        (INF, 0.0): (INF, [NAN, NAN]),
        (NAN, 0.0): (NAN, [NAN, NAN]),
        (float(np.finfo(dtype).max), 0.0): (float(np.finfo(dtype).max), [1.0, 0.0]),
        (-float(np.finfo(dtype).max) / 2, -INF): (-float(np.finfo(dtype).max) / 2, [1.0, 0.0]),
    }
    for row, (total, shares) in rows.items():
        x = mg.tensor(np.array(row, dtype))
        np.testing.assert_array_equal(mg.logsumexp(x).numpy(), np.array(total, dtype))
        np.testing.assert_array_equal(mg.softmax(x).numpy(), np.array(shares, dtype))
        logs = [r - total if shares[0] == 1.0 else NAN for r in row]
        np.testing.assert_array_equal(mg.log_softmax(x).numpy(), np.array(logs, dtype))


# --- derivatives at corners --------------------------------------------------------------------------

Numbers: TypeAlias = tuple[float, ...]

# Functions of a namespace and inputs; the inputs; the derivatives by each; torch's where they are others.
CORNERS: dict[str, tuple[Callable[..., Any], Numbers, Numbers, Numbers | None]] = {
    "abs at 0": (lambda xp, x: xp.abs(x), (0.0,), (0.0,), None),
    "abs at -0": (lambda xp, x: xp.abs(x), (-0.0,), (0.0,), None),
    "abs of NaN": (lambda xp, x: xp.abs(x), (NAN,), (NAN,), (0.0,)),
    "sign at 0": (lambda xp, x: xp.sign(x), (0.0,), (0.0,), None),
    "relu at 0": (lambda xp, x: xp.relu(x), (0.0,), (0.0,), None),
    "relu of infinity": (lambda xp, x: xp.relu(x), (INF,), (1.0,), None),
    "relu of NaN": (lambda xp, x: xp.relu(x), (NAN,), (1.0,), None),
    "sqrt of relu at -1": (lambda xp, x: xp.sqrt(xp.relu(x)), (-1.0,), (0.0,), None),
    "sqrt at 0": (lambda xp, x: xp.sqrt(x), (0.0,), (INF,), None),
    "sqrt of a square at 0": (lambda xp, x: xp.sqrt(x * x), (0.0,), (NAN,), None),
    "hypot at the origin": (lambda xp, x, y: xp.hypot(x, y), (0.0, 0.0), (0.0, 0.0), (NAN, NAN)),
    "hypot near it": (lambda xp, x, y: xp.hypot(x, y), (5e-324, 0.0), (1.0, 0.0), None),
    "hypot of large ones": (lambda xp, x, y: xp.hypot(x, y), (1e308, 0.0), (1.0, 0.0), None),
    "atan2 at the origin": (lambda xp, x, y: xp.atan2(x, y), (0.0, 0.0), (0.0, 0.0), None),
    "atan2 of large ones": (lambda xp, x, y: xp.atan2(x, y), (0.0, 1e200), (1e-200, 0.0), (0.0, 0.0)),
    "atan2 of small ones": (lambda xp, x, y: xp.atan2(x, y), (0.0, 1e-200), (1e200, 0.0), (0.0, 0.0)),
    "0 ** 0": (lambda xp, x, y: x**y, (0.0, 0.0), (0.0, 0.0), None),
    "0 ** 1": (lambda xp, x, y: x**y, (0.0, 1.0), (1.0, 0.0), None),
    "0 ** 2": (lambda xp, x, y: x**y, (0.0, 2.0), (0.0, 0.0), None),
    "0 ** 0.5": (lambda xp, x, y: x**y, (0.0, 0.5), (INF, 0.0), None),
    "0 ** -1": (lambda xp, x, y: x**y, (0.0, -1.0), (-INF, 0.0), (-INF, -INF)),
    "NaN ** 0": (lambda xp, x, y: x**y, (NAN, 0.0), (0.0, NAN), None),
    "x ** 0 at 0": (lambda xp, x: x**0, (0.0,), (0.0,), None),
    "x ** 1 at 0": (lambda xp, x: x**1, (0.0,), (1.0,), None),
    "x ** 2 at infinity": (lambda xp, x: x**2, (INF,), (INF,), None),
    "0 ** y": (lambda xp, y: 0.0**y, (0.0,), (0.0,), None),
    "maximum of equals": (lambda xp, x, y: xp.maximum(x, y), (1.0, 1.0), (0.5, 0.5), None),
    "maximum of 0 and -0": (lambda xp, x, y: xp.maximum(x, y), (0.0, -0.0), (0.5, 0.5), None),
    "maximum of infinities": (lambda xp, x, y: xp.maximum(x, y), (INF, INF), (0.5, 0.5), None),
    "maximum with NaN": (lambda xp, x, y: xp.maximum(x, y), (NAN, 1.0), (1.0, 1.0), None),
    "minimum of equals": (lambda xp, x, y: xp.minimum(x, y), (1.0, 1.0), (0.5, 0.5), None),
    "minimum with NaN": (lambda xp, x, y: xp.minimum(x, y), (1.0, NAN), (1.0, 1.0), None),
    "clip at its lower bound": (lambda xp, x: xp.clip(x, 0.0, 1.0), (0.0,), (1.0,), None),
    "clip at its upper bound": (lambda xp, x: xp.clip(x, 0.0, 1.0), (1.0,), (1.0,), None),
    "clip of infinity": (lambda xp, x: xp.clip(x, 0.0, 1.0), (INF,), (0.0,), None),
    "clip of NaN": (lambda xp, x: xp.clip(x, 0.0, 1.0), (NAN,), (0.0,), None),
    "logaddexp of -infinities": (lambda xp, x, y: xp.logaddexp(x, y), (-INF, -INF), (0.5, 0.5), (NAN, NAN)),
    "logaddexp of infinities": (lambda xp, x, y: xp.logaddexp(x, y), (INF, INF), (0.5, 0.5), (NAN, NAN)),
    "logaddexp of both": (lambda xp, x, y: xp.logaddexp(x, y), (INF, -INF), (1.0, 0.0), None),
    "logaddexp, one -infinite": (lambda xp, x, y: xp.logaddexp(x, y), (-INF, 1.0), (0.0, 1.0), None),
    "logaddexp, one infinite": (lambda xp, x, y: xp.logaddexp(x, y), (1.0, INF), (0.0, 1.0), None),
    "logaddexp of large ones": (lambda xp, x, y: xp.logaddexp(x, y), (1e308, 1e308), (0.5, 0.5), None),
    "log at 0": (lambda xp, x: xp.log(x), (0.0,), (INF,), None),
    "log1p at -1": (lambda xp, x: xp.log1p(x), (-1.0,), (INF,), None),
    "asin at 1": (lambda xp, x: xp.asin(x), (1.0,), (INF,), None),
    "acosh at 1": (lambda xp, x: xp.acosh(x), (1.0,), (INF,), None),
    "atanh at 1": (lambda xp, x: xp.atanh(x), (1.0,), (INF,), None),
    "reciprocal at 0": (lambda xp, x: xp.reciprocal(x), (0.0,), (-INF,), None),
    "asinh of large ones": (lambda xp, x: xp.asinh(x), (1e200,), (1e-200,), (0.0,)),
    "tanh of infinity": (lambda xp, x: xp.tanh(x), (INF,), (0.0,), None),
    "exp of -infinity": (lambda xp, x: xp.exp(x), (-INF,), (0.0,), None),
    "sigmoid of a huge one": (lambda xp, x: xp.sigmoid(x), (1e300,), (0.0,), None),
    "softplus of a huge one": (lambda xp, x: xp.softplus(x), (1e300,), (1.0,), None),
    "softplus of -infinity": (lambda xp, x: xp.softplus(x), (-INF,), (0.0,), None),
    "silu of a huge one": (lambda xp, x: xp.silu(x), (1e300,), (1.0,), None),
    "silu of a huge negative one": (lambda xp, x: xp.silu(x), (-1e300,), (0.0,), None),
    "gelu of a huge one": (lambda xp, x: xp.gelu(x), (1e300,), (1.0,), None),
    "gelu of a huge negative one": (lambda xp, x: xp.gelu(x), (-1e300,), (0.0,), None),
    "logsumexp with -infinity": (lambda xp, *x: xp.logsumexp(xp.stack(x), 0), (0.0, -INF), (1.0, 0.0), None),
    "logsumexp of -infinities": (
        lambda xp, *x: xp.logsumexp(xp.stack(x), 0),
        (-INF, -INF),
        (0.0, 0.0),
        (NAN, NAN),
    ),
    "logsumexp with infinity": (lambda xp, *x: xp.logsumexp(xp.stack(x), 0), (0.0, INF), (0.0, NAN), None),
    "softmax with -infinity": (
        lambda xp, *x: xp.softmax(xp.stack(x), 0)[0],
        (0.0, -INF, 0.0),
        (0.25, 0.0, -0.25),
        None,
    ),
    "log_softmax with -infinity": (
        lambda xp, *x: xp.log_softmax(xp.stack(x), 0)[0],
        (0.0, -INF, 0.0),
        (0.5, 0.0, -0.5),
        None,
    ),
    "softmax of -infinities": (
        lambda xp, *x: xp.softmax(xp.stack(x), 0)[0],
        (-INF, -INF),
        (NAN, NAN),
        None,
    ),
    "max of equals": (lambda xp, *x: xp.amax(xp.stack(x), 0), (2.0, 2.0, 1.0), (0.5, 0.5, 0.0), None),
    "max with NaN": (lambda xp, *x: xp.amax(xp.stack(x), 0), (2.0, NAN), (NAN, NAN), None),
    "max of infinities": (lambda xp, *x: xp.amax(xp.stack(x), 0), (INF, INF, 0.0), (0.5, 0.5, 0.0), None),
    "min of equals": (lambda xp, *x: xp.amin(xp.stack(x), 0), (1.0, 2.0, 1.0), (0.5, 0.0, 0.5), None),
    "prod with a zero": (lambda xp, *x: xp.prod(xp.stack(x)), (0.0, 2.0, 3.0), (6.0, 0.0, 0.0), None),
    "prod with two zeros": (lambda xp, *x: xp.prod(xp.stack(x)), (0.0, 0.0, 3.0), (0.0, 0.0, 0.0), None),
    "prod with infinity": (lambda xp, *x: xp.prod(xp.stack(x)), (INF, 2.0), (2.0, INF), (NAN, INF)),
    "var of equals": (lambda xp, *x: xp.var(xp.stack(x), correction=0), (2.0, 2.0), (0.0, 0.0), None),
    "where beside a NaN": (lambda xp, x, y: xp.where(x > 0, y, 2 * x), (0.0, NAN), (2.0, 0.0), None),
    "where of NaN times x": (lambda xp, x: xp.where(x > 0, x * NAN, x), (0.0,), (NAN,), None),
    "where beside an infinity": (lambda xp, x: xp.where(x > 0, xp.log(x), x), (-1.0,), (1.0,), None),
    "where not guarded": (lambda xp, x: xp.where(x > 0, xp.log(x), 0.0 * x), (0.0,), (NAN,), None),
    "where guarded": (
        lambda xp, x: xp.where(x > 0, xp.log(xp.where(x > 0, x, xp.ones_like(x))), 0.0 * x),
        (0.0,),
        (0.0,),
        None,
    ),
}


class Ours:
    """minigrad's functions under the names by which torch has them, too."""

    def __getattr__(self, name: str) -> Any:
        return getattr(mg, {"amax": "max", "amin": "min"}.get(name, name))


class Theirs:
    def __getattr__(self, name: str) -> Any:
        return getattr(torch_module(), name, None) or getattr(torch_module().nn.functional, name)


@pytest.mark.parametrize("dtype", [mg.float32, mg.float64])
@pytest.mark.parametrize("corner", CORNERS)
def test_derivatives_at_corners(corner, dtype):
    function, at, slopes, _ = CORNERS[corner]
    if dtype == mg.float32 and any(0 < abs(v) < 1e-37 or 1e38 < abs(v) < INF for v in (*at, *slopes)):
        pytest.skip("beyond the numbers of float32")
    inputs = [mg.tensor(v, dtype=dtype, requires_grad=True) for v in at]
    function(Ours(), *inputs).backward()
    np.testing.assert_allclose([x.grad.item() for x in inputs], slopes, rtol=1e-6)


@pytest.mark.parametrize("corner", CORNERS)
def test_derivatives_at_corners_are_those_of_torch(corner):
    torch: Any = torch_or_skip()
    function, at, slopes, others = CORNERS[corner]
    if others is not None:
        pytest.skip(f"torch has {others}, minigrad {slopes}")
    inputs = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in at]
    function(Theirs(), *inputs).backward()
    found = [0.0 if x.grad is None else x.grad.item() for x in inputs]
    np.testing.assert_allclose(found, slopes, rtol=1e-12)


SMOOTH_TO_SECOND_ORDER = {
    "abs at 0": [0.0],
    "relu at 0": [0.0],
    "hypot at the origin": [0.0, 0.0],
    "atan2 at the origin": [0.0, 0.0],
    "0 ** 0": [0.0, 1.0],  # as if x^-1 were 1: in truth it is infinite
    "0 ** 1": [0.0, 1.0],
    "0 ** 2": [2.0, 0.0],
    "x ** 0 at 0": [0.0],
    "x ** 1 at 0": [0.0],
    "maximum of equals": [0.0, 0.0],
    "clip at its lower bound": [0.0],
    "logaddexp of -infinities": [0.0, 0.0],
    "logaddexp of infinities": [0.0, 0.0],
    "logaddexp, one -infinite": [0.0, 0.0],
    "logaddexp of large ones": [0.0, 0.0],
    "logsumexp with -infinity": [0.0, 0.0],
    "logsumexp of -infinities": [0.0, 0.0],
    "softmax with -infinity": [0.0, 0.0, 0.0],
    "log_softmax with -infinity": [0.0, 0.0, 0.0],
    "max of equals": [0.0, 0.0, 0.0],
    "prod with a zero": [5.0, 3.0, 2.0],
    "var of equals": [0.0, 0.0],
    "where guarded": [0.0],
}


@pytest.mark.parametrize("corner", SMOOTH_TO_SECOND_ORDER)
def test_second_derivatives_at_corners(corner):
    """By each input, of the sum of the first derivatives."""
    function, at, _, _ = CORNERS[corner]
    inputs = [mg.tensor(v, dtype=mg.float64, requires_grad=True) for v in at]
    function(Ours(), *inputs).backward(create_graph=True)
    total = mg.stack([x.grad for x in inputs]).sum()
    for x in inputs:
        x.grad = None
    if total.requires_grad:
        total.backward()
    found = [0.0 if x.grad is None else x.grad.item() for x in inputs]
    np.testing.assert_allclose(found, SMOOTH_TO_SECOND_ORDER[corner], atol=1e-12)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", once([c for c in ELEMENTWISE if c.differentiable]))
def test_no_gradient_is_nan_unless_the_value_is(case: Case, dtype):
    arrays = grid(case, dtype)
    xs = [mg.tensor(a, requires_grad=True) for a in arrays]
    result = case.compute(*xs)
    result.backward(mg.ones_like(result))
    allowed = np.isnan(result.detach().numpy())
    if case.op in ("pow", "atan2", "hypot", "silu", "gelu"):  # where infinities meet, there is no derivative
        for a in arrays:
            allowed |= ~np.isfinite(a)
    if case.op == "pow":
        x, y = arrays
        # By y at a negative x, as documented; and 0 times x^-1, which overflows.
        allowed |= (x < 0) | ((y == 0) & (np.abs(x) < np.finfo(dtype).smallest_normal))
    for x in xs:
        assert not (np.isnan(x.grad.numpy()) & ~allowed).any()


BY_ROWS: dict[str, Callable[[Any], Any]] = {
    **{name: lambda x, name=name: getattr(mg, name)(x, axis=1) for name in REDUCTIONS[:6]},
    "cumulative_sum": lambda x: mg.cumulative_sum(x, axis=1),
    "logsumexp": lambda x: mg.logsumexp(x, axis=1),
    "softmax": mg.softmax,
    "log_softmax": mg.log_softmax,
    "where": lambda x: mg.where(x > 0, x, 2 * x),
    "maximum": lambda x: mg.maximum(x, 0.5),
    "getitem": lambda x: x[:, ::-1],
    "concat": lambda x: mg.concat([x, x], axis=1),
    "linear": lambda x: mg.linear(x, mg.ones((3, 2), dtype=mg.float64)),
}


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("name", BY_ROWS)
def test_a_gradient_that_is_not_finite_stays_in_its_row(name, bad):
    x = mg.tensor([[1.0, 2.0], [3.0, -4.0]], dtype=mg.float64, requires_grad=True)
    y = BY_ROWS[name](x)
    g = np.ones(y.shape)
    g[0] = bad
    y.backward(mg.tensor(g))
    assert np.isfinite(x.grad.numpy()[1]).all()
    assert not np.isfinite(x.grad.numpy()[0]).all()


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint8, np.uint16, np.int64])
@pytest.mark.parametrize(
    "name", ["sigmoid", "softplus", "silu", "gelu", "softmax", "log_softmax", "logsumexp"]
)
def test_integers_do_not_wrap_round(name, dtype):
    values = np.array(
        [[-100, 100, 3], [0, 1, 2]] if np.dtype(dtype).kind == "i" else [[1, 200, 3], [0, 1, 2]]
    )
    values = values.astype(dtype)
    function = getattr(mg, name) if hasattr(mg, name) else getattr(mg.nn.functional, name)
    result = function(mg.tensor(values))
    np.testing.assert_allclose(
        result.numpy(), function(mg.tensor(values.astype(float))).numpy(), rtol=2e-3, atol=1e-6
    )


def test_the_reciprocal_of_integers_is_no_integer():
    assert mg.reciprocal(mg.tensor([2, -4])).tolist() == [0.5, -0.25]
