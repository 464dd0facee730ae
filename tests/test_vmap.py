"""`vmap` against a loop over the examples: every op, its gradients, and what else may be in the function."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import CASES, Case
from helpers import torch_or_skip
from test_ops import BACKENDS, need, table

import minigrad as mg
from minigrad import vmap
from minigrad.autograd.backward import gradients_of
from minigrad.batched import Level
from minigrad.testing import gradcheck
from minigrad.transforms.vmap import _lift, _sum_over

N = 3


def batch(case: Case, shared: tuple[int, ...] = (), seed: int = 0) -> list[np.ndarray]:
    """Inputs of the case for N examples, along the first axis; those in `shared` for all."""
    draws = [case.inputs(seed=seed + i) for i in range(N)]
    return [
        draws[0][slot] if slot in shared else np.stack([inputs[slot] for inputs in draws])
        for slot in range(len(case.draws))
    ]


SHAPE_BY_VALUE = {"nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values"}
SEARCHING = {"searchsorted", "isin"}  # in what all examples share, alone


def works(case: Case) -> bool:
    counts = case.op == "repeat" and len(case.draws) > 1  # of their own for each example
    return case.op not in SHAPE_BY_VALUE | SEARCHING and not counts


WORKING = [case for case in CASES if works(case)]


def loop(function: Any, axes: Any, *inputs: Any) -> Any:
    """What vmap must give."""
    n = next(x.shape[0] for x, axis in zip(inputs, axes, strict=True) if axis == 0)
    rows = [
        function(*(x if axis is None else x[i] for x, axis in zip(inputs, axes, strict=True)))
        for i in range(n)
    ]
    return mg.stack(rows)


def gradients(case: Case, arrays: list[np.ndarray], device: str, compute: Any) -> list[Any]:
    """The value, first gradients and second gradients of what `compute` makes of the arrays."""
    smooth = case.smooth()
    xs = [mg.tensor(a, requires_grad=i in smooth, device=device) for i, a in enumerate(arrays)]
    result = compute(*xs)
    found = [result]
    if result.requires_grad:
        g = np.random.default_rng(3).uniform(0.5, 1.5, result.shape)
        gradient = mg.tensor(g, requires_grad=True, device=device)
        result.backward(gradient, create_graph=True)
        first = [xs[i].grad for i in smooth if xs[i].grad is not None]
        for x in xs:
            if x.requires_grad:
                x.grad = None
        total: Any = sum(((f * f).sum() for f in first), mg.tensor(np.zeros(()), device=device))
        if total.requires_grad:
            total.backward()
        found += [*first, *(t.grad for t in (*xs, gradient) if t.grad is not None)]
    assert all(t.device == device for t in found)
    return [t.detach().to("numpy").numpy() for t in found]


def same(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("device", BACKENDS)
@table(WORKING)
def test_every_op_against_a_loop(case: Case, device):
    need(device)
    axes = (0,) * len(case.draws)
    arrays = batch(case)
    got = gradients(case, arrays, device, vmap(case.compute))
    same(got, gradients(case, arrays, "numpy", lambda *xs: loop(case.compute, axes, *xs)))


@table([case for case in CASES if not works(case)])
def test_ops_that_refuse(case: Case):
    with pytest.raises((NotImplementedError, TypeError), match="vmap"):
        vmap(case.compute)(*map(mg.tensor, batch(case)))


@table([case for case in WORKING if len(case.draws) > 1])
def test_inputs_that_all_examples_share(case: Case):
    n = len(case.draws)
    one_shared = [tuple(None if i == slot else 0 for i in range(n)) for slot in range(n)]
    one_batched = [tuple(0 if i == slot else None for i in range(n)) for slot in range(n)]
    for axes in {*one_shared, *one_batched}:
        arrays = batch(case, tuple(i for i in range(n) if axes[i] is None))
        got = gradients(case, arrays, "numpy", vmap(case.compute, in_axes=axes))
        same(got, gradients(case, arrays, "numpy", lambda *xs, axes=axes: loop(case.compute, axes, *xs)))


@table(WORKING)
def test_two_batches_one_in_the_other(case: Case):
    """The first input has an axis of examples for both, the others for one of them each."""
    arrays = batch(case)
    arrays[0] = np.stack([arrays[0], batch(case, seed=N)[0]])
    inner: list[int | None] = [0]
    outer: list[int | None] = [0]
    for slot in range(1, len(arrays)):
        inner.append(None if slot % 2 else 0)
        outer.append(0 if slot % 2 else None)
        arrays[slot] = arrays[slot][:2] if slot % 2 else arrays[slot]

    def nested(*xs: Any) -> Any:
        return vmap(vmap(case.compute, in_axes=inner), in_axes=outer)(*xs)

    def loops(*xs: Any) -> Any:
        return loop(lambda *ys: loop(case.compute, inner, *ys), outer, *xs)

    same(gradients(case, arrays, "numpy", nested), gradients(case, arrays, "numpy", loops))


@pytest.mark.parametrize("n", [0, 1])
@table([case for case in WORKING if case.elementwise or case.op in ("sum", "matmul", "einsum", "getitem")])
def test_no_example_and_only_one(case: Case, n: int):
    arrays = [a[:n] for a in batch(case)]
    result, *found = gradients(case, arrays, "numpy", vmap(case.compute))
    assert result.shape == (n, *case.expected(*case.inputs()).shape)
    if n:
        axes = (0,) * len(arrays)
        want = gradients(case, arrays, "numpy", lambda *xs: loop(case.compute, axes, *xs))
        same([result, *found], want)


# --- keys that differ between examples ----------------------------------------------------------------

KEYS: list[Any] = [
    lambda i: i,
    lambda i: (i, 1),
    lambda i: (slice(None), i),
    lambda i: (..., i),
    lambda i: (None, i, None),
    lambda i: (i, slice(None), np.array([1, 0])),
    lambda i: (i, np.array([[0], [2]])),
    lambda i: (slice(None), i, 1),
    lambda i: (1, slice(None, None, -1), i),
    lambda i: (slice(None), i, i),
    lambda i: (slice(None), i, None, 1),
    lambda i: (np.array([True, False, True]), slice(1, None), i),
]


@pytest.mark.parametrize("index_shape", [(), (2,), (1, 2)])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("own_x", [True, False])
def test_each_example_has_its_own_key(key, index_shape, own_x):
    random = np.random.default_rng(0)
    x = random.normal(size=(N, 3, 3, 3) if own_x else (3, 3, 3))
    index = random.integers(-3, 3, (N, *index_shape))
    value = np.zeros((3, 3, 3))
    axes = (0 if own_x else None, 0)

    def compute(x: Any, i: Any) -> Any:
        return x[key(i)]

    try:
        value = np.zeros((3, 3, 3))[key(index[0])]
    except IndexError:
        pytest.skip("the parts of the key do not broadcast")
    value = random.normal(size=(N, *value.shape))

    def write(x: Any, i: Any, v: Any) -> Any:
        return mg.ops.setitem(x, key(i), v)

    for function, arrays, in_axes in (
        (compute, [x, index], axes),
        (write, [x, index, value], (*axes, 0)),
        (write, [x, index, value[0]], (*axes, None)),
    ):
        found = []
        for run in (vmap(function, in_axes), lambda *xs, f=function, a=in_axes: loop(f, a, *xs)):
            xs = [mg.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
            result = run(*xs)
            weights = mg.tensor(np.random.default_rng(1).normal(size=result.shape))
            (result * weights).sum().backward()
            found.append([result.detach().numpy(), *(t.grad.numpy() for t in xs if t.requires_grad)])
        same(*found)


def test_writing_to_what_was_the_same_for_all():
    def function(x: Any) -> Any:
        out = mg.zeros(3, dtype=mg.float64)
        out[1:] = x
        out += 1
        return out

    x = mg.tensor(np.arange(8.0).reshape(4, 2), requires_grad=True)
    same([vmap(function)(x).detach().numpy()], [loop(function, (0,), x).detach().numpy()])
    vmap(function)(x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.ones((4, 2)))


# --- gradients inside, outside, and through -----------------------------------------------------------


def by_leaf(y: Any, g: Any, leaf: Any) -> Any:
    """The gradient of y times g by a leaf: a tensor with a graph, but without one if g is an array."""
    as_tensors = isinstance(g, mg.Tensor)
    return gradients_of([y], [g if as_tensors else mg.asarray(g)], [leaf.node], True, as_tensors)[0]


def weights() -> tuple[mg.Tensor, mg.Tensor]:
    random = np.random.default_rng(0)
    return (
        mg.tensor(random.normal(size=3), requires_grad=True),
        mg.tensor(random.normal(size=(4, 3)), requires_grad=True),
    )


def numbers(*tensors: Any) -> list[np.ndarray]:
    return [t.detach().numpy() for t in tensors]


FUNCTIONS: list[Any] = [
    lambda w, x: (mg.sin(w) * x).sum(),
    lambda w, x: mg.tanh(w @ x) + (w * w).sum(),
    lambda w, x: (w + 1)[0] * x[1] + w.prod(),
    lambda w, x: (mg.exp(w * 0.1) * w).sum() * (x * x).sum(),
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_all_examples_share_gets_the_sum_of_their_gradients(function):
    w, xs = weights()
    vmap(lambda x: function(w, x))(xs).sum().backward()
    v, ys = weights()
    loop(lambda y: function(v, y), (0,), ys).sum().backward()
    same(numbers(w.grad, xs.grad), numbers(v.grad, ys.grad))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_shared_work_inside_counts_once_for_each_example(function):
    """`v` has the same value for all examples, and goes into what differs and out as it is."""

    def both(w: Any, x: Any) -> Any:
        v = mg.cos(w) * 2
        return v, function(v, x) * v[0], v.sum()

    w, xs = weights()
    mg.concat([mg.reshape(y, -1) for y in vmap(lambda x: both(w, x))(xs)]).sum().backward()
    v, ys = weights()
    rows = [both(v, ys[i]) for i in range(4)]
    mg.concat([mg.reshape(y, -1) for row in rows for y in row]).sum().backward()
    same(numbers(w.grad, xs.grad), numbers(v.grad, ys.grad))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradients_inside_are_those_of_each_example(function):
    w, xs = weights()
    inside = vmap(lambda x: mg.grad(function)(w, x))(xs)
    expected = loop(lambda x: mg.grad(function)(w, x), (0,), xs)
    same(numbers(inside), numbers(expected))
    (inside * inside).sum().backward()
    got, xs.grad = xs.grad, None
    (expected * expected).sum().backward()
    same(numbers(got), numbers(xs.grad))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradients_inside_by_tensors_outside(function):
    """By the shared one, and by the one whose rows are the examples."""
    w, xs = weights()

    def by(t: Any) -> Any:
        def derivative(x: Any) -> Any:
            y = function(w, x)
            return by_leaf(y, mg.ones_like(y), t)

        return derivative

    for t in (w, xs):
        inside, expected = vmap(by(t))(xs), loop(by(t), (0,), xs)
        same(numbers(inside), numbers(expected))
        found = []
        for result in (inside, expected):
            w.grad = xs.grad = None
            (result * result).sum().backward()
            found.append(numbers(*(t.grad for t in (w, xs) if t.grad is not None)))
        same(*found)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_jacobian_in_one_pass(function):
    """The pullback of a result with the gradient batched: all rows of the Jacobian at once."""
    w, xs = weights()
    y = vmap(lambda x: function(w, x) * x)(xs)
    units = mg.tensor(np.eye(12).reshape(12, 4, 3))
    for t in (w, xs):
        for as_tensors in (True, False):

            def pull(g: Any, t=t, as_tensors=as_tensors) -> Any:
                return mg.asarray(by_leaf(y, g if as_tensors else g._data, t))

            same(numbers(vmap(pull)(units)), numbers(loop(pull, (0,), units)))


def f(w: Any, x: Any) -> Any:
    return mg.exp(mg.sin(w) @ x) * x[0] + (w * w).sum()


ONES = mg.ones(3, dtype=mg.float64)
TRANSFORMED: list[Any] = [
    lambda w, x: mg.grad(f, 1)(w, x),
    lambda w, x: mg.grad(lambda x: mg.square(mg.grad(f, 1)(w, x)).sum())(x),
    lambda w, x: mg.value_and_grad(f)(w, x)[0] * mg.value_and_grad(f)(w, x)[1],
    lambda w, x: mg.vjp(lambda w: mg.sin(w) * x, w)[1](ONES)[0],
    lambda w, x: mg.vjp(lambda w: mg.stack([w, w])[1, mg.astype(x * 0, mg.int64)], w)[1](ONES)[0] * x,
    lambda w, x: mg.jvp(lambda w: mg.sin(w) * x, (w,), (ONES,))[1],
    lambda w, x: mg.jvp(lambda x: mg.sin(x) * w, (x,), (x * 2,))[1],
    lambda w, x: mg.jacobian(lambda x: mg.tanh(w * x) * x.sum())(x),
    lambda w, x: mg.hessian(lambda w: f(w, x))(w),
    lambda w, x: mg.hvp(lambda w: f(w, x), (w,), (x,))[0],
    lambda w, x: mg.autograd.grad(f(w, x), w, create_graph=True)[0],
    lambda w, x: mg.checkpoint(lambda x: f(w, x))(x),
    lambda w, x: mg.grad(lambda w: mg.checkpoint(f)(w, x))(w),
    lambda w, x: mg.stop_gradient(x) * x * w,
]


@pytest.mark.parametrize("function", TRANSFORMED)
def test_transforms_inside(function):
    """Their results, and the gradients of these by what is outside."""
    found = []
    for run in (vmap, lambda function: lambda rows: loop(function, (0,), rows)):
        w, xs = weights()
        result = run(lambda x, w=w: function(w, x))(xs)
        mg.square(result).sum().backward()
        found.append(numbers(result, *(t.grad for t in (w, xs) if t.grad is not None)))
    same(*found)


def test_transforms_outside():
    w, xs = weights()
    batched = lambda w: vmap(f, in_axes=(None, 0))(w, xs).sum()  # noqa: E731
    looped = lambda w: loop(f, (None, 0), w, xs).sum()  # noqa: E731
    for transform in (mg.grad, mg.hessian):
        same(numbers(transform(batched)(w)), numbers(transform(looped)(w)))
    assert gradcheck(vmap(f, in_axes=(None, 0)), w, xs, order=2)


def test_jacobians_and_hessians_in_one_pass():
    w, xs = weights()
    units = mg.eye(3, dtype=mg.float64)

    def g(w: Any) -> Any:
        return mg.sin(w) * w[0]

    _, pullback = mg.vjp(g, w)
    same(numbers(vmap(lambda u: pullback(u)[0])(units)), numbers(mg.jacobian(g)(w)))
    forward = vmap(lambda v: mg.jvp(g, (w,), (v,))[1], out_axes=1)
    same(numbers(forward(units)), numbers(mg.jacobian(g)(w)))
    columns = vmap(lambda v: mg.hvp(lambda w: f(w, xs[0]), (w,), (v,))[0])
    same(numbers(columns(units)), numbers(mg.hessian(lambda w: f(w, xs[0]))(w)))


@table([case for case in CASES if case.smooth()])
def test_hessians_of_every_op(case: Case):
    """They pass batched gradients through rules whose other arrays are plain."""
    xs = [mg.tensor(array) for array in case.inputs()]
    smooth = case.smooth()

    def f(*changed: mg.Tensor) -> mg.Tensor:
        inputs = list(xs)
        for i, x in zip(smooth, changed, strict=True):
            inputs[i] = x
        return (case.compute(*inputs) ** 2).sum()

    point = tuple(xs[i] for i in smooth)
    got = mg.hessian(lambda x: f(x, *point[1:]))(point[0]).numpy()
    n = point[0].size
    units = np.eye(n).reshape(n, *point[0].shape)
    rows = [mg.hvp(lambda x: f(x, *point[1:]), point[:1], (mg.tensor(u),))[0].numpy() for u in units]
    np.testing.assert_allclose(got, np.reshape(rows, got.shape), rtol=1e-9, atol=1e-9)


def test_modules_and_anomalies():
    net = mg.nn.Sequential(mg.nn.Linear(3, 4), mg.nn.ReLU(), mg.nn.Linear(4, 1))
    x = mg.random.normal((5, 3))
    found = vmap(lambda x: mg.grad(lambda net: net(x).sum())(net))(x)
    for name, each in found.items():
        rows = [mg.grad(lambda net, i=i: net(x[i]).sum())(net)[name] for i in range(5)]
        np.testing.assert_allclose(
            each.detach().numpy(), mg.stack(rows).detach().numpy(), rtol=1e-4, atol=1e-6
        )
    x = mg.tensor([1.0, -1.0], requires_grad=True)
    with mg.detect_anomaly(), pytest.raises(FloatingPointError, match="log: the result"):
        vmap(mg.log)(x)


def test_gradients_of_each_example_of_a_net_against_torch():
    torch: Any = torch_or_skip()
    random = np.random.default_rng(0)
    shapes = [(8, 5), (8,), (3, 8), (3,)]
    params = [random.normal(size=shape) for shape in shapes]
    x, y = random.normal(size=(6, 5)), random.integers(0, 3, 6)

    def loss(xp: Any, cross_entropy: Any, params: Any, x: Any, y: Any) -> Any:
        h = xp.tanh(params[0] @ x + params[1])
        return cross_entropy(params[2] @ h + params[3], y)

    def of_one(x: Any, y: Any) -> list[Any]:
        return mg.grad(lambda p: loss(mg, mg.nn.functional.cross_entropy, p, x, y))(params)

    ours = vmap(of_one)(x, y)
    theirs = torch.func.vmap(
        torch.func.grad(lambda p, x, y: loss(torch, torch.nn.functional.cross_entropy, p, x, y)),
        in_dims=(None, 0, 0),
    )([torch.from_numpy(p) for p in params], torch.from_numpy(x), torch.from_numpy(y))
    for mine, its in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), its.numpy(), rtol=1e-10, atol=1e-12)


def test_scores_that_all_examples_share():
    scores = mg.tensor(np.arange(4.0), requires_grad=True)
    targets = mg.tensor(np.array([0, 3, 3]))
    found = []
    for run in (vmap(mg.nn.functional.cross_entropy, in_axes=(None, 0)), None):
        scores.grad = None
        losses = (
            run(scores, targets) if run else loop(mg.nn.functional.cross_entropy, (None, 0), scores, targets)
        )
        (losses * mg.tensor([1.0, 2.0, 3.0], dtype=mg.float64)).sum().backward()
        found.append(numbers(losses, scores.grad))
    same(*found)
    with pytest.raises(IndexError, match="class indices must be from 0 to 3, got 0 to 4"):
        vmap(mg.nn.functional.cross_entropy, in_axes=(None, 0))(scores, mg.tensor(np.array([0, 4])))


def test_what_is_the_same_for_all_counts_once_for_each():
    level = Level(3)
    level.active = False
    w = mg.tensor(np.arange(2.0), requires_grad=True)
    lifted = _lift(w, (level,))
    assert lifted._data.examples.shape == (1, 2)
    products = [lifted @ mg.ones(2, dtype=mg.float64), mg.ones((2, 2), dtype=mg.float64) @ lifted]
    products.append(lifted @ mg.ones((2, 2), dtype=mg.float64))
    products.append(mg.einsum("i,i->", lifted, lifted))
    assert all(p._data.levels == (level,) for p in products)
    total = _sum_over(lifted, (level,))
    assert total.tolist() == [0.0, 3.0]
    total.sum().backward()
    assert w.grad.tolist() == [3.0, 3.0]


def test_an_optimizer_that_writes_to_what_was_mapped_or_shared_is_noticed():
    for axis in (0, None):
        w = mg.nn.Parameter(mg.ones((3, 3)))
        y = vmap(lambda w, x: (w * w).sum() * x, in_axes=(axis, 0))(w, mg.ones(3))
        y.sum().backward(retain_graph=True)
        mg.optim.SGD([w], lr=0.1).step()
        with pytest.raises(RuntimeError, match="an optimizer has overwritten"):
            y.sum().backward()


def test_modes_and_dtypes():
    x = mg.ones((3, 2), dtype=mg.float16, requires_grad=True)
    with mg.no_grad():
        assert not vmap(mg.erf)(x).requires_grad
    result = vmap(lambda x: mg.erf(x) * 2.0)(x)
    assert result.dtype == mg.float16
    np.testing.assert_array_equal(result.detach().numpy(), (mg.erf(x) * 2.0).detach().numpy())
    assert not vmap(lambda x: x > 0)(x).requires_grad


# --- axes, structures, errors --------------------------------------------------------------------------


def test_axes():
    x, y = mg.tensor(np.arange(24.0).reshape(2, 3, 4)), mg.tensor(np.arange(3.0))
    assert vmap(mg.sum)(x).shape == (2,)
    assert vmap(lambda x: x * 2, in_axes=1, out_axes=1)(x).tolist() == (x * 2).tolist()
    assert vmap(lambda x: x * 2, in_axes=-1, out_axes=-1)(x).tolist() == (x * 2).tolist()
    assert vmap(lambda x: x.T, in_axes=2, out_axes=0)(x).shape == (4, 3, 2)
    assert vmap(lambda x, y: x * y, in_axes=(1, 0), out_axes=1)(x, y).tolist() == (x * y[:, None]).tolist()
    assert vmap(lambda x, y, k=1: x + y + k, in_axes=(1, 0))(x, y, k=2).shape == (3, 2, 4)
    assert vmap(lambda x, y: y, in_axes=(0, None), out_axes=None)(x, y) is y
    assert vmap(lambda x: mg.asarray(1.5))(x).tolist() == [1.5, 1.5]
    assert vmap(lambda x: x)(np.ones((2, 3))).shape == (2, 3)


def test_structures():
    class Pair(NamedTuple):
        a: Any
        b: Any

    x, y = mg.ones((3, 2)), mg.zeros((2, 3))

    def function(d: Any, pair: Any) -> Any:
        return {"sum": d["x"] + pair.b, "all": [d["x"], (pair.a, d["y"])], "pair": Pair(d["x"], pair.b)}

    out = vmap(
        function,
        in_axes=({"x": 0, "y": None}, (0, 1)),
        out_axes={"sum": 1, "all": [0, 0], "pair": 0},
    )({"x": x, "y": y}, Pair(x, y))
    assert out["sum"].shape == (2, 3)
    assert out["all"][0].shape == (3, 2)
    assert isinstance(out["all"][1], tuple)
    assert out["all"][1][1].shape == (3, 2, 3)
    assert isinstance(out["pair"], Pair)
    assert out["pair"].b.shape == (3, 2)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "equally many", lambda: vmap(mg.add)(mg.ones(3), mg.ones(2))),
        (ValueError, "no argument an axis", lambda: vmap(mg.sin, in_axes=None)(mg.ones(3))),
        (ValueError, "does not fit a tuple of 1", lambda: vmap(mg.sin, in_axes=(0, 0))(mg.ones(3))),
        (ValueError, "does not fit", lambda: vmap(lambda x: x[0], in_axes=([0],))([mg.ones(3), mg.ones(3)])),
        (ValueError, "differs between", lambda: vmap(mg.sin, out_axes=None)(mg.ones(3))),
        (IndexError, "no axis 1", lambda: vmap(mg.sin, in_axes=1)(mg.ones(3))),
        (IndexError, "no axis 2", lambda: vmap(mg.sin, out_axes=2)(mg.ones(3))),
        (TypeError, "a float has no axes", lambda: vmap(mg.add)(mg.ones(3), 2.0)),
        (TypeError, "must give tensors", lambda: vmap(lambda x: None)(mg.ones(3))),
        (TypeError, "mg.where", lambda: vmap(lambda x: x if x > 0 else -x)(mg.ones(3))),
        (TypeError, "read values outside", lambda: vmap(lambda x: x * x.item())(mg.ones(3))),
        (TypeError, "read values outside", lambda: vmap(lambda x: mg.tensor(x.numpy()))(mg.ones((3, 2)))),
        (TypeError, "read values outside", lambda: vmap(lambda x: mg.tensor(np.asarray(x)))(mg.ones(3))),
        (TypeError, "read values outside", lambda: vmap(lambda i: mg.ones(int(i)))(mg.arange(3))),
        (NotImplementedError, "a mask that differs", lambda: vmap(lambda x: x[x > 0])(mg.ones((3, 2)))),
        (RuntimeError, "draw them before", lambda: vmap(lambda x: x + mg.random.normal(2))(mg.ones(3))),
        (RuntimeError, "draw them before", lambda: vmap(mg.nn.functional.dropout)(mg.ones((3, 2)))),
        (RuntimeError, "backward: inside vmap", lambda: vmap(_backward)(mg.ones(3, requires_grad=True))),
        (ValueError, "matmul: got", lambda: vmap(mg.matmul)(mg.ones((3, 2, 4)), mg.ones((3, 5, 2)))),
        (IndexError, "too many indices", lambda: vmap(lambda x, i: x[i, 0])(mg.ones((3, 2)), mg.arange(3))),
        (IndexError, "out of bounds", lambda: vmap(lambda x, i: x[i])(mg.ones((3, 2)), mg.arange(3))),
        (IndexError, "no axis 1", lambda: vmap(lambda x: mg.sum(x, axis=1))(mg.ones((3, 2)))),
        (IndexError, "no axis -2", lambda: vmap(lambda x: mg.flip(x, axis=-2))(mg.ones((3, 2)))),
    ],
)
def test_errors(error, message, call):
    with pytest.raises(error, match=message):
        call()


def _backward(x: Any) -> Any:
    (x * x).backward()
    return x


def test_printing():
    seen = []
    vmap(lambda x: seen.append(repr(x)) or x)(mg.ones((2, 3)))
    assert "examples" in seen[0]


FUNCTIONS_OF_ARRAYS: list[Any] = [
    lambda xp, x: xp.sort(x, axis=-1),
    lambda xp, x: xp.argsort(
        xp.floor(xp.concat([x] * 20, axis=1)), axis=1, **({"stable": True} if xp is np else {})
    ),
    lambda xp, x: xp.diff(x, axis=0),
    lambda xp, x: xp.stack([x, -x], axis=1),
    lambda xp, x: xp.count_nonzero(xp.floor(x), axis=0),
    lambda xp, x: xp.cumsum(x, axis=None),
    lambda xp, x: xp.cumprod(x, axis=-2),
    lambda xp, x: xp.take(x, np.array([2, 0]), axis=-1),
    lambda xp, x: x * xp.asarray([1.0, 2.0, 3.0], device=x.device),
    lambda xp, x: xp.searchsorted(np.array([-1.0, 0.0, 1.0]), x),
    lambda xp, x: xp.copysign(x, -x * x),
    lambda xp, x: xp.linalg.inv(x),
    lambda xp, x: xp.linalg.solve(x, x[:, :1]),
    lambda xp, x: xp.linalg.slogdet(x)[1] + xp.linalg.slogdet(x).sign,
    lambda xp, x: xp.linalg.eigh(x + x.mT)[0],
    lambda xp, x: xp.linalg.matrix_power(x, 3),
    lambda xp, x: xp.linalg.qr(x)[1],
]


@pytest.mark.parametrize("function", FUNCTIONS_OF_ARRAYS)
def test_functions_of_the_namespace(function):
    """Those of the standard that batched arrays have, whether an op uses them or not."""
    x = np.random.default_rng(0).normal(size=(N, 3, 3))
    got = vmap(lambda t: mg.asarray(function(t._data.space, t._data)))(x)
    np.testing.assert_allclose(got.numpy(), np.stack([function(np, row) for row in x]), rtol=1e-12)


def test_a_function_without_a_batched_form_names_itself():
    x = mg.ones((3, 2))._data
    found = []
    vmap(lambda t: found.append(t._data) or t)(mg.asarray(x))
    with pytest.raises(NotImplementedError, match="'nonzero'"):
        found[0].space.nonzero(found[0])
    with pytest.raises(AttributeError, match="no_such"):
        print(found[0].space.no_such)
