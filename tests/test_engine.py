"""The engine: ordering, accumulation, freeing, grad modes, versions, and its errors."""

import asyncio
import gc
import itertools
import math
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
from helpers import garbage, take_grad

import minigrad as mg


def leaf(*values: float) -> mg.Tensor:
    return mg.tensor(list(values), dtype=mg.float64, requires_grad=True)


# --- accumulation ----------------------------------------------------------------------------------


def test_diamond():
    x = leaf(3.0)
    y = x * x
    (y * y + y).backward()  # x⁴ + x²
    assert x.grad.tolist() == [4 * 27 + 2 * 3]


def test_dead_branches_are_not_waited_for():
    x = leaf(2.0)
    y = x * 3
    _unused = [y * i for i in range(5)]
    (y * y).backward()
    assert x.grad.tolist() == [2 * 9 * 2]


def test_many_paths_take_linear_time():
    x = leaf(1.0)
    y = x
    for _ in range(200):  # 2²⁰⁰ paths
        y = (y + y) * 0.5
    y.backward()
    assert x.grad.tolist() == [1.0]


def test_gradients_add_up_over_calls():
    x = leaf(1.0, 2.0)
    for _ in range(3):
        (x * x).sum().backward()
    assert x.grad.tolist() == [6.0, 12.0]


def test_shared_gradients_are_not_corrupted():
    """`add` hands the same array to both inputs; adding to it for one must not change the other's."""
    a, b = leaf(1.0), leaf(1.0)
    ((a + b) * 1 + a * 3).backward()
    assert (a.grad.tolist(), b.grad.tolist()) == ([4.0], [1.0])
    a, b = leaf(1.0), leaf(1.0)
    s = a + b
    (s + a + a + a + b).backward()
    assert (a.grad.tolist(), b.grad.tolist()) == ([4.0], [2.0])
    (a + b).sum().backward()
    (a * 3).sum().backward()  # into a gradient that is a view, and read-only
    assert (a.grad.tolist(), b.grad.tolist()) == ([8.0], [3.0])


def test_an_earlier_gradient_does_not_change():
    x = leaf(1.0)
    (x * 2).backward()
    first = x.grad
    for _ in range(3):
        (x * 2).backward()
    assert first.tolist() == [2.0]
    assert x.grad.tolist() == [8.0]


def test_given_gradient_is_copied_from_arrays():
    x = leaf(1.0, 1.0)
    g = np.array([1.0, 2.0])
    (x + 0).backward(g)
    g[:] = 99
    assert x.grad.tolist() == [1.0, 2.0]


# --- depth and memory ------------------------------------------------------------------------------


def chain(x: mg.Tensor, n: int) -> mg.Tensor:
    for _ in range(n):
        x = x * 1.0
    return x


def skip_chain(x: mg.Tensor, n: int) -> mg.Tensor:
    y = before = x
    for _ in range(n // 2):
        y, before = (y + before) * 0.5, y
    return y


def deep(make, n: int) -> tuple[mg.Tensor, mg.Tensor, weakref.ref]:
    """A leaf, what was computed from it in n steps, and an array that only the first step keeps."""
    x, factor = leaf(0.5), mg.ones(1, dtype=mg.float64)
    return x, make(x * factor, n), weakref.ref(factor._data)


@pytest.mark.parametrize("make", [chain, skip_chain])
@pytest.mark.parametrize("n", [150_000, 1_000_000])
def test_deep_graphs(make, n):
    x, y, kept = deep(make, n)
    assert kept() is not None
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), [1.0])
    assert kept() is None


@pytest.mark.parametrize(("make", "n"), [(chain, 1_000_000), (skip_chain, 150_000)])
def test_deep_graphs_are_freed_without_backward(make, n):
    _, y, kept = deep(make, n)
    assert kept() is not None
    del y
    assert kept() is None


def test_create_graph_on_a_deep_chain():
    x = leaf(1.0)
    y = x
    for _ in range(20_000):
        y = y * 1.0
    (y * y).backward(create_graph=True)
    g = take_grad(x)
    g.backward()
    assert x.grad.tolist() == [2.0]


def training_step(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = mg.nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def small_net():
    mg.random.seed(0)
    model = mg.nn.Sequential(mg.nn.Linear(8, 16), mg.nn.GELU(), mg.nn.Dropout(0.1), mg.nn.Linear(16, 4))
    x = mg.random.normal((32, 8))
    y = mg.tensor(np.arange(32) % 4)
    return model, mg.optim.RAdam(model.parameters()), x, y


def test_no_reference_cycles():
    model, optimizer, x, y = small_net()

    def failing_backward() -> None:
        with pytest.raises(ValueError, match="gradient"):
            model(x).backward()

    assert garbage(lambda: training_step(model, optimizer, x, y)) == 0
    assert garbage(lambda: model(x)) == 0  # a graph that no backward passes
    assert garbage(failing_backward) == 0
    assert garbage(keep_itself) > 0


def keep_itself() -> None:
    knot: list[object] = []
    knot.append(knot)


def test_memory_is_flat_over_a_thousand_steps():
    model, optimizer, x, y = small_net()
    tracemalloc.start()
    try:
        for _ in range(1000):  # until Python's free lists are full of blocks that tracemalloc has seen
            training_step(model, optimizer, x, y)
        sizes = []
        for _ in range(5):
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
            for _ in range(1000):
                training_step(model, optimizer, x, y)
        # A leak grows in every quarter; what Python and NumPy allocate now and then for themselves does not.
        growth = min(after - before for before, after in itertools.pairwise(sizes))
        assert growth < 1000 * 5, f"{growth} bytes in 1000 steps"
    finally:
        tracemalloc.stop()


def test_backward_frees_what_it_has_passed():
    x = leaf(*np.ones(1000))
    y = mg.exp(x)
    ref = weakref.ref(y._data)  # kept by the rule of exp
    z = y.sum()
    del y
    assert ref() is not None
    z.backward()
    assert ref() is None
    assert z.node is not None


def test_nodes_do_not_point_at_tensors():
    x = leaf(1.0)
    y = x * x
    ref = weakref.ref(x)
    del x
    assert ref() is None
    y.backward()  # into a leaf whose tensor is gone


# --- a second backward, and create_graph -------------------------------------------------------------


def test_second_backward_says_so():
    x = leaf(2.0)
    y = x * x
    y.backward()
    with pytest.raises(RuntimeError, match=r"'multiply' was freed.*retain_graph=True"):
        y.backward()
    assert x.grad.tolist() == [4.0]


def test_second_backward_through_a_shared_part_leaves_no_gradient_half_added():
    x, w = leaf(2.0), leaf(3.0)
    shared = x * x
    one, two = shared * w, shared * w
    one.backward()
    before = x.grad.tolist(), w.grad.tolist()
    with pytest.raises(RuntimeError, match="freed"):
        two.backward()
    assert (x.grad.tolist(), w.grad.tolist()) == before


def test_retain_graph():
    x = leaf(2.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [8.0]


def test_orders_of_a_power():
    x = leaf(1.5)
    derivative = x**5
    for expected in (5 * 1.5**4, 20 * 1.5**3, 60 * 1.5**2, 120 * 1.5, 120.0, 0.0):
        derivative.backward(create_graph=True)
        derivative = take_grad(x)
        np.testing.assert_allclose(derivative.item(), expected)


def test_gradients_have_no_graph_unless_asked_for():
    x = leaf(1.0)
    (x * x).backward()
    assert not x.grad.requires_grad
    x.grad = None
    with mg.no_grad():
        y = x.detach().requires_grad_()
    (y * y).backward(create_graph=True)
    assert y.grad.requires_grad


def test_create_graph_works_under_no_grad():
    x = leaf(2.0)
    y = x * x * x
    with mg.no_grad():
        y.backward(create_graph=True)
    g = take_grad(x)
    g.backward()
    assert x.grad.tolist() == [12.0]


def test_create_graph_after_the_result_is_gone():
    """Rules that name `out` find it again though the tensor that held it was dropped."""
    x = leaf(0.3)
    z = mg.exp(x) * 1.0
    z.backward(create_graph=True)
    g = take_grad(x)
    g.backward()
    np.testing.assert_allclose(x.grad.numpy(), np.exp([0.3]))


# --- versions: backward after step --------------------------------------------------------------------


def test_backward_after_step_is_an_error_that_names_the_op():
    w = leaf(2.0, 3.0)
    optimizer = mg.optim.SGD([w], lr=0.1)
    loss = (w * w).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"'multiply' .* needs the value.*step"):
        loss.backward()


@pytest.mark.parametrize(
    "view",
    [
        lambda w: w.T,
        lambda w: w[:1],
        lambda w: w.reshape(4),
        lambda w: w.detach(),
        lambda w: w.T.detach().T,
        lambda w: mg.broadcast_to(w, (3, 2, 2)),
        lambda w: mg.flip(w),
    ],
)
def test_versions_reach_views_and_detached_tensors(view):
    w = mg.ones((2, 2), dtype=mg.float64, requires_grad=True)
    x = mg.ones(1, dtype=mg.float64, requires_grad=True)
    loss = (view(w) * x).sum()
    loss.backward(retain_graph=True)
    if w.grad is None:
        w.grad = mg.ones_like(w)
    mg.optim.SGD([w], lr=0.1).step()
    with pytest.raises(RuntimeError, match="overwritten"):
        loss.backward()


def test_versions_reach_the_graph_of_gradients():
    w = leaf(2.0)
    x = leaf(3.0)
    (w.detach() * x * x).backward(create_graph=True)
    slope = x.grad  # 2 w x: w in it lies in the memory of the parameter
    w.grad = mg.ones_like(w)
    mg.optim.SGD([w], lr=0.1).step()
    with pytest.raises(RuntimeError, match="overwritten"):
        slope.backward()


def test_versions_reach_variadic_operands():
    w = mg.ones((2, 2), dtype=mg.float64, requires_grad=True)
    x = mg.ones((2, 2), dtype=mg.float64, requires_grad=True)
    loss = mg.einsum("ij,jk->", x, w.detach())
    w.grad = mg.ones_like(w)
    mg.optim.SGD([w], lr=0.1).step()
    with pytest.raises(RuntimeError, match="overwritten"):
        loss.backward()


def test_what_needs_no_old_value_survives_a_step():
    w = leaf(2.0)
    loss = (w + 1.0).sum()
    loss.backward(retain_graph=True)
    mg.optim.SGD([w], lr=0.1).step()
    loss.backward()
    assert w.grad.tolist() == [2.0]


def test_rebinding_data_leaves_old_graphs_right():
    w = leaf(2.0)
    loss = w * w
    w.data = np.array([5.0])
    loss.backward()
    assert w.grad.tolist() == [4.0]


# --- grad modes --------------------------------------------------------------------------------------


def test_no_grad_and_enable_grad():
    x = leaf(1.0)
    with mg.no_grad():
        assert not mg.is_grad_enabled()
        assert not (x * x).requires_grad
        with mg.enable_grad():
            assert (x * x).requires_grad
        assert not mg.is_grad_enabled()
    assert mg.is_grad_enabled()

    @mg.no_grad()
    def f():
        return (x * x).requires_grad

    assert [f(), f()] == [False, False]
    assert mg.is_grad_enabled()


def test_mode_is_restored_after_an_error():
    with pytest.raises(KeyError), mg.no_grad():
        raise KeyError
    assert mg.is_grad_enabled()


def test_mode_of_threads():
    x = leaf(1.0)
    stop = threading.Event()
    wrong: list[str] = []

    def infer():
        while not stop.is_set():
            with mg.no_grad():
                if (x * x).requires_grad:
                    wrong.append("inference recorded")

    threads = [threading.Thread(target=infer) for _ in range(2)]
    for t in threads:
        t.start()
    for _ in range(3000):
        if not (x * x).requires_grad:
            wrong.append("training did not record")
    stop.set()
    for t in threads:
        t.join()
    assert wrong == []


def test_a_new_thread_begins_with_gradients():
    seen = []
    with mg.no_grad():
        t = threading.Thread(target=lambda: seen.append(mg.is_grad_enabled()))
        t.start()
        t.join()
    assert seen == [True]


def test_mode_of_asyncio_tasks():
    async def infer():
        with mg.no_grad():
            await asyncio.sleep(0.01)
            return mg.is_grad_enabled()

    async def train():
        await asyncio.sleep(0.005)
        return mg.is_grad_enabled()

    async def both():
        return await asyncio.gather(infer(), train())

    assert asyncio.run(both()) == [False, True]


def test_backward_in_threads_at_once():
    results = []

    def work(k: float):
        x = leaf(k)
        for _ in range(200):
            y = x
            for _ in range(10):
                y = y * x
            y.backward()
            results.append((k, take_grad(x).item()))

    threads = [threading.Thread(target=work, args=(k,)) for k in (1.0, 1.1, 1.2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for k, g in results:
        np.testing.assert_allclose(g, 11 * k**10)


# --- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda x: (x * x).backward(), ValueError, r"shape \(2,\) needs a gradient"),
        (lambda x: (x * x).detach().backward(), RuntimeError, "no graph"),
        (lambda x: mg.ones(1).backward(), RuntimeError, "requires_grad=True"),
        (lambda x: (x * x).backward(mg.ones(3)), ValueError, r"\(3,\).*\(2,\)"),
        (lambda x: mg.tensor([1, 2], requires_grad=True), TypeError, r"int64.*dtype=mg.float32"),
        (lambda x: mg.tensor([True]).requires_grad_(), TypeError, "bool"),
        (lambda x: x + mg.ones(3), ValueError, r"add: .*\(2,\) float64.*\(3,\) float32"),
        (lambda x: x @ mg.ones((3, 2)), ValueError, r"matmul: .*\(2,\).*\(3, 2\)"),
        (lambda x: mg.linear(x, mg.ones((3, 3))), ValueError, r"linear: .*\[out, in\]"),
        (lambda x: x.reshape(3), ValueError, r"reshape: .*\(2,\)"),
        (lambda x: x.sum(axis=2), IndexError, r"sum: .*\(2,\).*axis 2"),
        (lambda x: x[5], IndexError, "getitem.*out of bounds"),
        (lambda x: x[0.5], IndexError, "getitem"),
        (lambda x: x[mg.ones(2)], IndexError, "integers or bools"),
        (lambda x: mg.concat([x, mg.ones((2, 2))]), ValueError, "concat"),
        (lambda x: mg.concat([x, x], axis=1), IndexError, "concat: there is no axis 1"),
        (lambda x: mg.moveaxis(x, 5, 0), IndexError, "moveaxis: there is no axis 5"),
        (lambda x: mg.flatten(x, 7), IndexError, "flatten: there is no axis 7"),
        (lambda x: mg.take(x, mg.tensor([0]), axis=3), IndexError, "take: there is no axis 3"),
        (lambda x: mg.take(x, [True, False]), IndexError, "take: indices must be integers"),
        (lambda x: mg.take_along_axis(x, x > 0), TypeError, "take_along_axis: indices must be integers"),
        (lambda x: mg.tensordot(x, x, ((7,), (5,))), IndexError, "tensordot: there is no axis 7"),
        (lambda x: mg.matmul(x, (1.0, 2.0)), TypeError, "matmul: .*got tuple as y"),
        (lambda x: mg.linear(x, mg.ones((3, 2)), mg.ones((4, 3))), ValueError, "weight must have 2 axes"),
        (lambda x: mg.concat([]), TypeError, "non-empty"),
        (lambda x: mg.stack([x, mg.ones(3)]), ValueError, "one shape"),
        (lambda x: x + "a", TypeError, "add: .*str"),
        (lambda x: mg.add(x, [1, 2]), TypeError, "list"),
        (lambda x: x * 1j, TypeError, "complex"),
        (lambda x: x * np.array([1j]), TypeError, "complex"),
        (lambda x: mg.exp(2.0), TypeError, "exp: .*float"),
        (lambda x: mg.sum([1.0, 2.0]), TypeError, "sum: .*list"),
        (lambda x: mg.where(x > 0, [1, 2], x), TypeError, "where: .*got list as x"),
        (lambda x: mg.einsum("ij->i", x), ValueError, r"einsum.*\(2,\)"),
        (lambda x: mg.tensordot(x, mg.ones(3), 1), ValueError, "tensordot"),
        (lambda x: x.T, ValueError, "matrix"),
        (lambda x: x.item(), ValueError, "one element"),
        (lambda x: mg.pad(x, ((1, 2), (3, 4))), ValueError, "pad"),
        (lambda x: mg.take_along_axis(x, mg.tensor([[1]])), ValueError, "equally many axes"),
        (lambda x: mg.cumulative_sum(mg.ones((2, 2))), ValueError, "needs an axis"),
        (lambda x: mg.cumulative_sum(x, dtype=complex), TypeError, "^cumulative_sum: .*complex"),
        (lambda x: mg.sum(x, dtype=complex), TypeError, "^sum: .*complex"),
        (lambda x: mg.linalg.trace(mg.ones((2, 2)), dtype=complex), TypeError, "^trace: .*complex"),
        (lambda x: mg.concat(["text"], axis=None), TypeError, "^concat: .*got str"),
        (lambda x: mg.concat(x), TypeError, "^concat: .*list or tuple .*got Tensor"),
        (lambda x: mg.stack([x, x], axis=3), IndexError, "^stack: .*axis 3"),
        (lambda x: mg.transpose(x, (0, 1)), IndexError, "^transpose: .*axis 1"),
        (lambda x: mg.transpose(mg.ones((2, 2)), 0), ValueError, r"^transpose: axes=\(0,\) .*\(2, 2\)"),
        (lambda x: mg.moveaxis(mg.ones((2, 2)), (0, 0), (0, 1)), ValueError, "^moveaxis: .*twice"),
        (lambda x: mg.moveaxis(mg.ones((2, 2)), (0, 1), 0), ValueError, "^moveaxis: .*differ in length"),
        (lambda x: mg.median(mg.ones((2, 2)), (0, -2)), ValueError, "^median: .*twice"),
        (lambda x: mg.pad(x, 1.5), TypeError, "^pad: .*got 1.5"),
        (lambda x: mg.tile(x, 1.5), TypeError, "^tile: repetitions .*float"),
        (lambda x: mg.tile(x, -1), ValueError, "^tile: .*-1"),
        (lambda x: mg.split(x, 1.5), TypeError, "^split: .*float"),
        (lambda x: mg.tensordot(x, x, (1, 2, 3)), TypeError, "^tensordot: .*tuple"),
        (lambda x: mg.tensordot(x, x, 5), IndexError, "^tensordot: .*axis"),
        (lambda x: mg.einsum(x, "i->i"), TypeError, "^einsum: subscripts come first"),
        (lambda x: mg.diff(x, prepend=mg.ones((2, 2))), ValueError, r"^diff: .*\(2,\) and \(2, 2\)"),
        (lambda x: mg.diff(mg.tensor([1, 2]), append=0.5), TypeError, "^diff: .*int64 cannot hold 0.5"),
        (lambda x: mg.diff(x, n=-1), ValueError, "^diff: n must not be negative"),
        (lambda x: mg.take_along_axis(x, mg.tensor([5])), IndexError, "^take_along_axis: .*out of bounds"),
        (lambda x: mg.take_along_axis(x, x), TypeError, "^take_along_axis: .*got float64"),
        (lambda x: mg.vecdot(mg.ones((2, 2)), mg.ones((3, 2))), ValueError, r"^vecdot: .*\(3, 2\) do not"),
        (lambda x: mg.broadcast_shapes((2,), (3,)), ValueError, r"^broadcast_shapes: .*\(2,\) and \(3,\)"),
        (lambda x: mg.quantile(x, []), ValueError, "^quantile: .*got none"),
        (lambda x: mg.linear(x, 2.0), ValueError, "^linear: got .* and float: weight must have 2 axes"),
        (lambda x: mg.linear(None, mg.ones((2, 2))), TypeError, "^linear: .*got NoneType as x"),
        (lambda x: mg.zeros("text"), TypeError, "^zeros: got 'text'"),
        (lambda x: mg.linspace(0, 1, num=-1), ValueError, "^linspace: got 0, 1, -1"),
        (lambda x: mg.linalg.matrix_power(mg.ones((2, 2)), -1), ValueError, "^matrix_power: n=-1 .*Singular"),
        (lambda x: mg.linalg.pinv(mg.ones((2, 2)), rtol="text"), TypeError, "^pinv: rtol .*got str"),
        (lambda x: mg.linalg.norm(mg.zeros((0,)), math.inf), ValueError, r"^norm: .*\(0,\)"),
        (lambda x: mg.linalg.norm(mg.tensor([1, 2])), TypeError, "^norm: .*int64"),
        (
            lambda x: mg.linalg.matrix_norm(mg.ones((2, 2), mg.float16), ord=2),
            TypeError,
            "^matrix_norm: .*float16",
        ),
    ],
)
def test_errors_name_the_op_and_what_it_got(make, error, message):
    with pytest.raises(error, match=message):
        make(leaf(1.0, 2.0))


def test_an_error_in_a_rule_says_which():
    from minigrad.primitive import OPS, primitive

    def fails(g):
        raise ZeroDivisionError("oh")

    @primitive(x=fails)
    def failing_op(xp, x):
        return x + 0

    assert "failing_op" not in OPS  # which are minigrad's own
    with pytest.raises(ZeroDivisionError, match="oh") as caught:
        failing_op(leaf(1.0, 2.0)).sum().backward()
    (note,) = caught.value.__notes__
    assert "in the gradient of 'failing_op' (result (2,)) for an input of shape (2,)" in note
    assert "test_engine.py" in note
    assert note.endswith("failing_op(leaf(1.0, 2.0)).sum().backward()")


def test_a_rule_that_names_something_unknown_is_refused():
    from minigrad.primitive import OPS, primitive

    for rules in ({"x": lambda g, z: g}, {"z": lambda g: g}):
        with pytest.raises(TypeError, match="names unknown"):
            primitive(**rules)(lambda xp, x: x)
    assert "<lambda>" not in OPS


# --- rules of several inputs, and values that are kept -------------------------------------------------


def test_a_rule_of_several_inputs_is_called_once_for_those_that_are_wanted():
    from minigrad.primitive import primitive, through_reference

    calls = []

    def rule(xp, g, x, y, kept, wanted):
        calls.append(wanted)
        if isinstance(g, mg.Tensor):
            return through_reference(lambda x, y: x * mg.exp(y), g, wanted, x=x, y=y)
        return {"x": g * kept, "y": g * x * kept}

    @primitive(x=rule, y=rule)
    def scaled(xp, x, y):
        e = xp.exp(y)
        return x * e, e

    a = mg.tensor([1.0, 2.0], dtype=mg.float64, requires_grad=True)
    b = mg.tensor([0.5, 0.3], dtype=mg.float64, requires_grad=True)
    scaled(a, b).sum().backward()
    np.testing.assert_array_equal(a.grad.numpy(), np.exp(b.detach().numpy()))
    scaled(a, b.detach()).sum().backward()
    mg.autograd.grad(scaled(a, b).sum(), b)
    assert calls == [("x", "y"), ("x",), ("y",)]
    assert mg.testing.gradcheck(scaled, a, b, order=3)
    assert mg.testing.gradcheck(lambda x: scaled(x, x), a, order=2)
    assert scaled(np.ones(2), np.zeros(2)).tolist() == [1.0, 1.0]

    with pytest.raises(TypeError, match="names unknown"):
        primitive(x=lambda g, wanted, shape: g)(lambda xp, x: x)
