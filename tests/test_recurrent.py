"""Recurrent layers and cells; torch is the oracle where it is installed, and gradcheck elsewhere."""

import functools
import itertools
import math
import operator
from collections.abc import Iterable
from typing import Any

import array_api_strict as strict
import numpy as np
import pytest
from conftest import DEVICE
from helpers import needs_compiler

import minigrad as mg
from minigrad import nn
from minigrad.kernels import plan
from minigrad.ops.recurrence import recurrence
from minigrad.primitive import OPS

LAYERS: dict[str, Any] = {"RNN": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}
CELLS: dict[str, Any] = {"RNN": nn.RNNCell, "GRU": nn.GRUCell, "LSTM": nn.LSTMCell}
KINDS = pytest.mark.parametrize("kind", list(LAYERS))


@pytest.fixture(
    params=[pytest.param(True, id="kernels", marks=needs_compiler), pytest.param(False, id="none")]
)
def kernels(request, monkeypatch):
    """With kernels, and without."""
    monkeypatch.setattr(plan, "enabled", request.param)


def total(values: Iterable[Any]) -> Any:
    return functools.reduce(operator.add, values)


def outputs(layer: Any, x: Any, states: list[Any] | None) -> list[Any]:
    """All that a layer of ours or of torch's gives, in one list."""
    lstm = "LSTM" in type(layer).__name__
    hx = None if states is None else tuple(states) if lstm else states[0]
    results = layer(x, hx)
    if not isinstance(results, tuple):
        return [results]
    return [r for part in results for r in (part if isinstance(part, tuple) else (part,))]


def compare(torch: Any, kind: str, arguments: dict[str, Any], cell=False, **sizes: Any) -> None:
    """Values, and the gradients by input, states and parameters, of each result in its turn and of all."""
    steps, batch, inputs, hidden = (sizes.get(n, d) for n, d in zip("tbih", (5, 3, 4, 6), strict=True))
    dtype = sizes.get("dtype", np.float64)
    given = sizes.get("given", True)
    name = kind + "Cell" if cell else kind
    theirs = getattr(torch.nn, name)(inputs, hidden, dtype=getattr(torch, dtype.__name__), **arguments)
    ours = (CELLS if cell else LAYERS)[kind](inputs, hidden, dtype=dtype, **arguments)
    state_dict = {k: v.detach().numpy() for k, v in theirs.state_dict().items()}
    assert list(state_dict) == list(ours.state_dict())
    ours.load_state_dict(state_dict)
    random = np.random.default_rng(0)
    middle = [] if batch is None else [batch]
    count = arguments.get("num_layers", 1) * (1 + arguments.get("bidirectional", False))
    shape = (*middle, inputs) if cell else (steps, *middle, inputs)
    state_shape = (*middle, hidden) if cell else (count, *middle, hidden)
    if arguments.get("batch_first") and batch is not None:
        shape = (batch, steps, inputs)
    arrays = [random.normal(size=shape).astype(dtype)]
    if given:
        arrays += [random.normal(size=state_shape).astype(dtype) for _ in range(1 + (kind == "LSTM"))]
    xs = [mg.tensor(a, requires_grad=True) for a in arrays]
    ts = [torch.tensor(a, requires_grad=True) for a in arrays]
    tolerance = 1e-10 if dtype == np.float64 else 1e-5
    results = outputs(ours, xs[0], xs[1:] if given else None)
    expected = outputs(theirs, ts[0], ts[1:] if given else None)
    assert len(results) == len(expected)

    def same(a: Any, b: Any, what: str) -> None:
        assert (a is None) == (b is None), what
        if a is not None:
            a, b = a.detach().numpy(), b.detach().numpy()
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            scale = max(1.0, float(np.abs(b).max())) if b.size else 1.0
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale, err_msg=what)

    weights = [random.normal(size=tuple(r.shape)).astype(dtype) for r in expected]
    for r, e in zip(results, expected, strict=True):
        same(r, e, "result")
    for used in [*([i] for i in range(len(weights))), range(len(weights))] if len(weights) > 1 else [[0]]:
        of_ours, of_torch = [*xs, *ours.parameters()], [*ts, *theirs.parameters()]
        for p in (*of_ours, *of_torch):
            p.grad = None
        total((results[i] * mg.tensor(weights[i])).sum() for i in used).backward(retain_graph=True)
        total((expected[i] * torch.tensor(weights[i])).sum() for i in used).backward(retain_graph=True)
        for p, q in zip(of_ours, of_torch, strict=True):
            same(p.grad, q.grad, f"gradient of results {list(used)}")


# --- against torch -------------------------------------------------------------------------------------

GRID = [
    {"num_layers": layers, "bidirectional": both, "batch_first": first, "bias": bias}
    for layers, both, first, bias in itertools.product((1, 2), (False, True), (False, True), (True, False))
]


@KINDS
@pytest.mark.parametrize("arguments", GRID, ids=lambda a: "-".join(str(int(v)) for v in a.values()))
@pytest.mark.parametrize("given", [True, False], ids=["states", "zeros"])
def test_layers_against_torch(torch, kernels, kind, arguments, given):
    compare(torch, kind, arguments, given=given)


@KINDS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "sizes",
    [
        {"h": 1},
        {"h": 3, "i": 1},
        {"h": 17, "b": 9},
        {"h": 128, "i": 128, "b": 17, "t": 3},
        {"t": 1},
        {"b": 1},
        {"b": None},
        {"h": 50, "i": 70, "b": 33},
    ],
    ids=str,
)
def test_sizes_against_torch(torch, kernels, kind, dtype, sizes):
    compare(torch, kind, {}, dtype=dtype, **sizes)
    compare(torch, kind, {"bidirectional": True, "num_layers": 2}, dtype=dtype, **sizes)


def test_relu_against_torch(torch, kernels):
    for arguments in ({}, {"bidirectional": True, "num_layers": 3, "dropout": 0.0}):
        compare(torch, "RNN", {"nonlinearity": "relu", **arguments})


@KINDS
def test_unbatched_input_ignores_batch_first(torch, kernels, kind):
    compare(torch, kind, {"batch_first": True, "bidirectional": True}, b=None)


@KINDS
@pytest.mark.parametrize("arguments", [{}, {"bias": False}], ids=str)
@pytest.mark.parametrize("sizes", [{}, {"b": None}, {"given": False}, {"dtype": np.float32}], ids=str)
def test_cells_against_torch(torch, kind, arguments, sizes):
    compare(torch, kind, arguments, cell=True, **sizes)
    if kind == "RNN":
        compare(torch, kind, {"nonlinearity": "relu", **arguments}, cell=True, **sizes)


@KINDS
def test_an_empty_batch(kernels, kind):
    layer = LAYERS[kind](3, 4, num_layers=2, bidirectional=True)
    x = mg.zeros((5, 0, 3), requires_grad=True)
    output, last = layer(x)
    h = last[0] if kind == "LSTM" else last
    assert (output.shape, h.shape) == ((5, 0, 8), (4, 0, 4))
    output.sum().backward()
    assert x.grad.shape == x.shape
    for p in layer.parameters():
        np.testing.assert_array_equal(p.grad.numpy(), np.zeros(p.shape))


@KINDS
def test_training_as_in_torch(torch, kernels, kind):
    """Fifty steps of gradient descent, through the last state of each sequence and its cell.

    In float64, since recurrent nets are chaotic: some make a difference in rounding 10 million times larger.
    """
    theirs, ours = getattr(torch.nn, kind)(2, 9).double(), LAYERS[kind](2, 9, dtype=mg.float64)
    ours.load_state_dict({k: v.detach().numpy() for k, v in theirs.state_dict().items()})
    x = np.random.default_rng(0).normal(size=(12, 20, 2))
    target = x.sum(axis=0)[:, :1].repeat(9, axis=1) / 6

    def losses(layer: Any, optimizer: Any, x: Any, target: Any) -> list[float]:
        found = []
        for _ in range(50):
            optimizer.zero_grad()
            _, *last = outputs(layer, x, None)
            loss = total(((state[0] - target) ** 2).mean() for state in last)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    a = losses(ours, mg.optim.SGD(ours.parameters(), lr=0.1), mg.tensor(x), mg.tensor(target))
    b = losses(theirs, torch.optim.SGD(theirs.parameters(), lr=0.1), torch.tensor(x), torch.tensor(target))
    np.testing.assert_allclose(a, b, rtol=1e-7)
    assert a[-1] < 0.8 * a[0]


# --- by finite differences, and by the steps -------------------------------------------------------------


def inputs_of(cell: str, steps=3, batch=2, inputs=2, hidden=3, bias=True) -> list[Any]:
    random = np.random.default_rng(0)
    gates = {"gru": 3, "lstm": 4}.get(cell, 1) * hidden
    shapes: list[Any] = [(steps, batch, inputs), (batch, hidden), (gates, inputs), (gates, hidden)]
    shapes += [(batch, hidden)] * (cell == "lstm") + [(gates,), (gates,)] * bias
    return [mg.tensor(random.normal(size=shape), requires_grad=True) for shape in shapes]


def run(cell: str, reverse: bool, *values: Any) -> list[Any]:
    x, h, weight_ih, weight_hh, *rest = values
    states, biases = ([h, *rest[:1]], rest[1:]) if cell == "lstm" else ([h], rest)
    return list(recurrence(cell, x, states, [weight_ih, weight_hh, *biases], reverse))


CELL_NAMES = pytest.mark.parametrize("cell", ["tanh", "relu", "gru", "lstm"])


@CELL_NAMES
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_to_second_order(kernels, cell, reverse):
    values = inputs_of(cell)
    for i in range(2 + (cell == "lstm")):
        assert mg.testing.gradcheck(lambda *v, i=i: run(cell, reverse, *v)[i], *values, order=2)


@needs_compiler
@CELL_NAMES
def test_third_order_and_single_inputs(cell):
    values = inputs_of(cell, steps=2, batch=1, inputs=1, hidden=2)
    for i in range(len(values)):
        fixed = [v.detach() for v in values]

        def by(v: Any, i=i, fixed=fixed) -> Any:
            return run(cell, False, *fixed[:i], v, *fixed[i + 1 :])[0]

        assert mg.testing.gradcheck(by, values[i], order=3)


@needs_compiler
@CELL_NAMES
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_compiled_op_computes_what_the_steps_do(cell, reverse, dtype, monkeypatch):
    values = [(v.detach() * 0.2).astype(dtype).requires_grad_() for v in inputs_of(cell, 4, 19, 5, 33)]
    calls = []
    forward = OPS["recurrence"].forward
    monkeypatch.setattr(OPS["recurrence"], "forward", lambda *a: calls.append(1) or forward(*a))
    found = []
    for enabled in (True, False):
        monkeypatch.setattr(plan, "enabled", enabled)
        results = run(cell, reverse, *values)
        total((r * r).sum() for r in results).backward()
        found.append([r.detach().numpy() for r in results] + [v.grad.numpy() for v in values])
        for v in values:
            v.grad = None
    assert calls == [1]
    tolerance = 2e-5 if dtype == np.float32 else 1e-11
    for fused, stepped in zip(*found, strict=True):
        assert fused.dtype == stepped.dtype == dtype
        np.testing.assert_allclose(fused, stepped, rtol=tolerance, atol=tolerance * np.abs(stepped).max())


@needs_compiler
@KINDS
def test_only_gradients_that_are_wanted(kind):
    layer = LAYERS[kind](3, 4)
    x = mg.random.normal((5, 2, 3))
    layer.weight_hh_l0.requires_grad_(False)
    layer.bias_ih_l0.requires_grad_(False)
    layer(x)[0].sum().backward()
    assert [p.grad is None for p in layer.parameters()] == [False, True, True, False]
    layer.requires_grad_(False)
    assert not layer(x)[0].requires_grad
    x.requires_grad_()
    layer(x)[0].sum().backward()
    assert x.grad.shape == x.shape


@KINDS
@pytest.mark.parametrize("layout", ["strided", "fortran", "reversed"])
def test_layouts_of_the_input(kernels, kind, layout):
    layer = LAYERS[kind](4, 5, dtype=mg.float64)
    a = np.random.default_rng(0).normal(size=(6, 3, 8))
    layouts = {"strided": a[..., ::2], "fortran": np.asfortranarray(a[..., :4]), "reversed": a[::-1, :, :4]}
    found = []
    for x in (layouts[layout], layouts[layout].copy(order="C")):
        x = mg.asarray(x).detach().requires_grad_()
        output, _ = layer(x)
        (output * output).sum().backward()
        found.append((output.detach().numpy(), x.grad.numpy()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


@KINDS
def test_on_another_array_library(kind):
    """The same values and gradients on array-api-strict, from a device that NumPy cannot read."""
    layer = LAYERS[kind](3, 4, num_layers=2, bidirectional=True, dtype=mg.float64)
    other = LAYERS[kind](3, 4, num_layers=2, bidirectional=True, dtype=mg.float64)
    for name, value in layer.state_dict().items():
        setattr(other, name, nn.Parameter(value, device="strict"))
    a = np.random.default_rng(0).normal(size=(5, 2, 3))
    x, y = mg.tensor(a, requires_grad=True), mg.tensor(a, requires_grad=True, device="strict")
    results = outputs(layer, x, None), outputs(other, y, None)
    for one, two in zip(*results, strict=True):
        assert isinstance(two.data, type(strict.zeros(1, device=DEVICE)))
        np.testing.assert_allclose(two.detach().numpy(), one.detach().numpy(), rtol=1e-12, atol=1e-14)
    for found in results:
        total((r * r).sum() for r in found).backward()
    np.testing.assert_allclose(y.grad.numpy(), x.grad.numpy(), rtol=1e-10, atol=1e-14)
    for p, q in zip(layer.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(q.grad.numpy(), p.grad.numpy(), rtol=1e-10, atol=1e-14)


@KINDS
def test_half_precision_and_mixed_dtypes(kind):
    layer = LAYERS[kind](3, 4, dtype=mg.float16)
    x = mg.random.normal((5, 2, 3), dtype=mg.float16, requires_grad=True)
    output, _ = layer(x)
    output.sum().backward()
    assert output.dtype == x.grad.dtype == layer.weight_hh_l0.grad.dtype == np.float16
    wide = LAYERS[kind](3, 4, dtype=mg.float64)
    wide.load_state_dict(layer.state_dict())
    expected, _ = wide(x.detach().astype(mg.float64))
    np.testing.assert_allclose(output.detach().numpy(), expected.detach().numpy(), atol=5e-3)
    mixed, _ = wide(x)
    assert mixed.dtype == np.float64


@KINDS
def test_vmap_over_sequences(kind):
    layer = LAYERS[kind](3, 4, dtype=mg.float64)
    x = mg.random.normal((6, 5, 3), dtype=mg.float64)
    output = mg.vmap(lambda one: layer(one)[0])(x)
    expected, _ = layer(mg.swapaxes(x, 0, 1))
    np.testing.assert_allclose(
        output.detach().numpy(), expected.detach().numpy().swapaxes(0, 1), rtol=1e-12, atol=1e-14
    )


# --- dropout, initial values, errors ---------------------------------------------------------------------


@KINDS
def test_dropout_lies_between_layers_in_training(kind):
    mg.random.seed(0)
    x = mg.random.normal((4, 3, 5))
    one, two = LAYERS[kind](5, 200, dropout=0.4), LAYERS[kind](5, 200, num_layers=2, dropout=0.4)
    same = [layer(x)[0].detach().numpy() for layer in (one, one)]
    np.testing.assert_array_equal(*same)  # there is nothing between the layers of one
    differ = [two(x)[0].detach().numpy() for _ in range(2)]
    assert not np.array_equal(*differ)
    two.eval()
    np.testing.assert_array_equal(two(x)[0].detach().numpy(), two(x)[0].detach().numpy())

    # With weights that pass on what the first layer gives, the second shows what was dropped.
    layer: Any = nn.RNN(1, 400, num_layers=2, nonlinearity="relu", bias=False, dropout=0.4)
    layer.weight_ih_l0.data = np.ones((400, 1), np.float32)
    layer.weight_ih_l1.data = np.eye(400, dtype=np.float32)
    for name in ("weight_hh_l0", "weight_hh_l1"):
        getattr(layer, name).data = np.zeros((400, 400), np.float32)
    output, h_n = layer(mg.ones((50, 1, 1)))
    values = output.detach().numpy()
    np.testing.assert_allclose(np.unique(values), [0, 1 / 0.6], rtol=1e-6)
    assert abs((values == 0).mean() - 0.4) < 0.02
    assert (h_n[0].detach().numpy() == 1).all()  # the states themselves are whole
    layer.dropout = 1.0
    assert layer(mg.ones((5, 1, 1)))[0].sum().item() == 0


@KINDS
def test_initial_values(kind):
    mg.random.seed(0)
    layer = LAYERS[kind](30, 64, num_layers=2, bidirectional=True)
    for name, p in layer.named_parameters():
        values = p.detach().numpy()
        assert np.abs(values).max() <= 1 / 8, name
        assert abs(values.std() * math.sqrt(3) * 8 - 1) < 0.3, name
    before = layer.state_dict()
    layer.reset_parameters()
    assert all(not np.array_equal(before[name], p.detach().numpy()) for name, p in layer.named_parameters())


def test_printing():
    assert repr(nn.RNN(2, 3, nonlinearity="relu")) == "RNN(2, 3, nonlinearity='relu')"
    assert repr(nn.GRU(2, 3, 2, batch_first=True)) == "GRU(2, 3, num_layers=2, batch_first=True)"
    assert (
        repr(nn.LSTM(2, 3, bidirectional=True, dropout=0.5)) == "LSTM(2, 3, dropout=0.5, bidirectional=True)"
    )
    assert repr(nn.LSTMCell(2, 3, bias=False)) == "LSTMCell(2, 3, bias=False)"
    assert repr(nn.RNNCell(2, 3, nonlinearity="relu")) == "RNNCell(2, 3, nonlinearity='relu')"


def states(*shape: int) -> Any:
    return mg.zeros(shape), mg.zeros(shape)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.RNN(0, 3), ValueError, "RNN: input_size must be at least 1, got 0"),
        (lambda: nn.GRU(2, -3), ValueError, "GRU: hidden_size must be at least 1, got -3"),
        (lambda: nn.LSTM(2, 3, 0), ValueError, "LSTM: num_layers must be at least 1, got 0"),
        (lambda: nn.LSTM(2, 3.0), TypeError, "LSTM: hidden_size must be an integer, got float 3.0"),  # pyright: ignore[reportArgumentType]
        (lambda: nn.LSTM(2, 3, proj_size=2), ValueError, "LSTM: .*proj_size must be 0, got 2"),
        (lambda: nn.RNN(2, 3, nonlinearity="gelu"), ValueError, "RNN: nonlinearity must be .* got 'gelu'"),
        (lambda: nn.RNNCell(2, 3, nonlinearity="gelu"), ValueError, "RNNCell: nonlinearity must be"),
        (lambda: nn.GRU(2, 3, dropout=1.5), ValueError, "GRU: dropout must be from 0 to 1, got 1.5"),
        (lambda: nn.GRUCell(2, 0), ValueError, "GRUCell: hidden_size must be at least 1"),
        (lambda: nn.RNN(2, 3)(mg.zeros((4, 1, 3))), ValueError, r"\(steps, batch, 2\).* got \(4, 1, 3\)"),
        (
            lambda: nn.RNN(2, 3, batch_first=True)(mg.zeros(2)),
            ValueError,
            r"\(batch, steps, 2\).* \(2,\)",
        ),
        (lambda: nn.RNN(2, 3)(mg.zeros((0, 1, 2))), ValueError, "RNN: expected at least one step"),
        (
            lambda: nn.GRU(2, 3)(mg.zeros((4, 5, 2)), mg.zeros((1, 4, 3))),
            ValueError,
            r"GRU: expected initial states of shape \(1, 5, 3\), got \(1, 4, 3\)",
        ),
        (
            lambda: nn.LSTM(2, 3)(mg.zeros((4, 5, 2)), states(2, 5, 3)),
            ValueError,
            r"\(1, 5, 3\), got \(2, 5, 3\)",
        ),
        (lambda: nn.LSTM(2, 3)(mg.zeros((4, 2)), states(1, 1, 3)), ValueError, r"\(1, 3\), got \(1, 1, 3\)"),
        (
            lambda: nn.LSTM(2, 3)(mg.zeros((4, 5, 2)), mg.zeros((1, 5, 3))),
            TypeError,
            r"pair \(h, c\).* Tensor",
        ),  # pyright: ignore[reportArgumentType]
        (lambda: nn.LSTMCell(2, 3)(mg.zeros((5, 2)), mg.zeros((5, 3))), TypeError, r"pair \(h, c\)"),  # pyright: ignore[reportArgumentType]
        (lambda: nn.GRUCell(2, 3)(mg.zeros((5, 1, 2))), ValueError, r"\(batch, 2\).* got \(5, 1, 2\)"),
        (lambda: nn.GRUCell(2, 3)(mg.zeros((5, 2)), mg.zeros((4, 3))), ValueError, r"\(5, 3\), got \(4, 3\)"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_weights_of_other_shapes_are_refused(kernels):
    layer = nn.GRU(2, 3)
    layer.weight_hh_l0 = nn.Parameter(mg.zeros((6, 3)))
    with pytest.raises(ValueError, match=r"gru: .* expected .*\(9, 3\).* got .*\(6, 3\)"):
        layer(mg.zeros((4, 5, 2)))
