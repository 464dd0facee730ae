"""Activations, shapes, embeddings, dropout and initial values, against torch and against formulas."""

import math
from typing import Any

import numpy as np
import pytest
from helpers import needs_compiler

import minigrad as mg
from minigrad import nn
from minigrad.nn import functional as F  # noqa: N812

# --- activations -------------------------------------------------------------------------------------

ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    ("ReLU", {"inplace": True}),
    ("LeakyReLU", {}),
    ("LeakyReLU", {"negative_slope": 0.3}),
    ("ELU", {}),
    ("ELU", {"alpha": 0.3}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("GELU", {}),
    ("GELU", {"approximate": "tanh"}),
    ("SiLU", {}),
    ("Softplus", {}),
    ("Softplus", {"beta": 3.0}),
    ("Softplus", {"beta": 2.0, "threshold": 1.0}),
    ("Hardtanh", {}),
    ("Hardtanh", {"min_val": -0.5, "max_val": 2.0}),
    ("ReLU6", {}),
    ("Softmax", {"dim": 0}),
    ("Softmax", {"dim": -1}),
    ("LogSoftmax", {"dim": 1}),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize(("name", "arguments"), ACTIVATIONS)
def test_activations_against_torch(torch, name, arguments, dtype, tolerance):
    a = np.random.default_rng(0).normal(size=(2, 3, 4)) * 3
    a.flat[:6] = [0.0, 1.0, -1.0, 6.0, 30.0, -30.0]  # corners, too
    a = a.astype(dtype)
    x, t = mg.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
    ours = getattr(nn, name)(**arguments)(x)
    theirs = getattr(torch.nn, name)(**{k: v for k, v in arguments.items() if k != "inplace"})(t)
    assert str(ours.dtype) == dtype
    np.testing.assert_allclose(ours.detach(), theirs.detach().numpy(), rtol=tolerance, atol=tolerance)
    g = np.random.default_rng(1).normal(size=a.shape).astype(dtype)
    ours.backward(g)
    theirs.backward(torch.tensor(g))
    np.testing.assert_allclose(x.grad, t.grad.numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "arguments"), ACTIVATIONS)
def test_second_derivatives_of_activations(name, arguments):
    x = mg.tensor([[0.3, -0.7, 1.4], [-2.2, 0.4, 3.1]], dtype=mg.float64, requires_grad=True)
    assert mg.testing.gradcheck(getattr(nn, name)(**arguments), x, order=2)


def test_activations_print_their_settings():
    shown = [repr(getattr(nn, name)(**arguments)) for name, arguments in ACTIVATIONS]
    assert shown[:5] == [
        "ReLU()",
        "LeakyReLU(negative_slope=0.01)",
        "LeakyReLU(negative_slope=0.3)",
        "ELU(alpha=1.0)",
        "ELU(alpha=0.3)",
    ]
    assert "Softplus(beta=2.0, threshold=1.0)" in shown
    assert "GELU(approximate='tanh')" in shown


def test_softplus_is_smooth_where_torch_cuts_off():
    x = mg.tensor([21.0], dtype=mg.float64)
    np.testing.assert_allclose((F.softplus(x) - x).item(), math.exp(-21), rtol=1e-4)
    assert F.softplus(x, threshold=10.0).item() == 21


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.gelu(mg.ones(1), "erf"), ValueError, "approximate must be 'none' or 'tanh', got 'erf'"),
        (lambda: F.softplus(mg.ones(1), beta=0), ValueError, "beta must not be 0"),
        (lambda: F.hardtanh(mg.ones(1), 1.0, 0.0), ValueError, "got 1.0 and 0.0"),
        (lambda: nn.Hardtanh(1.0, 0.0), ValueError, "Hardtanh: .*got 1.0 and 0.0"),
        (lambda: F.softmax(mg.ones(1), 1), IndexError, "softmax: .* axis 1 is out of bounds"),
    ],
)
def test_activations_refuse(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- shapes ------------------------------------------------------------------------------------------


def test_shapes_against_torch(torch):
    a = np.arange(48.0).reshape(2, 12, 2)
    for name, arguments in (
        ("Identity", (7, "whatever")),
        ("Flatten", ()),
        ("Flatten", (0, 1)),
        ("Unflatten", (1, (3, 4))),
        ("Unflatten", (-2, (2, -1, 3))),
    ):
        ours, theirs = getattr(nn, name)(*arguments), getattr(torch.nn, name)(*arguments)
        np.testing.assert_array_equal(ours(mg.tensor(a)), theirs(torch.tensor(a)).numpy())
    assert nn.Unflatten(1, (3, 4))(mg.ones((0, 12))).shape == (0, 3, 4)
    for sizes in ((5, 2), (5, -1), (-1, -1), (0, -1)):
        with pytest.raises(ValueError, match=r"Unflatten: axis 1 of shape .* cannot be made into"):
            nn.Unflatten(1, sizes)(mg.tensor(a))
    with pytest.raises(TypeError, match="unflattened_size must be an integer"):
        nn.Unflatten(1, (2.0, 6))  # pyright: ignore[reportArgumentType]
    with pytest.raises(IndexError, match="no axis 3"):
        nn.Unflatten(3, (2, 6))(mg.tensor(a))


# --- embeddings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding_idx", [None, 2, -1])
@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (0,), (400, 5)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_embedding_against_torch(torch, shape, padding_idx, dtype):
    random = np.random.default_rng(0)
    table = random.normal(size=(9, 6)).astype(dtype)
    indices = np.asarray(random.integers(0, 9, shape))
    ours = nn.Embedding(9, 6, padding_idx).to(np.dtype(dtype))
    theirs = torch.nn.Embedding(9, 6, padding_idx, dtype=getattr(torch, dtype))
    ours.load_state_dict({"weight": table})
    theirs.load_state_dict({"weight": torch.tensor(table)})
    y, u = ours(mg.tensor(indices)), theirs(torch.tensor(indices))
    assert y.shape == (*shape, 6)
    np.testing.assert_array_equal(y.detach(), u.detach().numpy())
    g = random.normal(size=y.shape).astype(dtype)
    y.backward(g)
    u.backward(torch.tensor(g))
    tolerance = 1e-10 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(ours.weight.grad, theirs.weight.grad.numpy(), rtol=tolerance, atol=tolerance)


def test_embedding_begins_as_in_torch():
    mg.random.seed(0)
    layer = nn.Embedding(500, 40, padding_idx=-1)
    values = layer.weight.detach().numpy()
    assert layer.padding_idx == 499
    assert (values[-1] == 0).all()
    assert abs(values[:-1].std() - 1) < 0.02
    assert abs(values[:-1].mean()) < 0.02
    assert repr(layer) == "Embedding(500, 40, padding_idx=499)"
    fixed = nn.Embedding.from_pretrained(np.eye(3), padding_idx=0)
    assert (fixed.weight.dtype, fixed.weight.requires_grad) == (np.float64, False)
    assert fixed([[2]]).tolist() == [[[0.0, 0.0, 1.0]]]
    assert nn.Embedding.from_pretrained(np.eye(3), freeze=False).weight.requires_grad


@pytest.mark.parametrize("device", ["numpy", "strict"])
def test_second_derivatives_of_embeddings(device):
    weight = mg.tensor(np.random.default_rng(0).normal(size=(4, 2)), requires_grad=True, device=device)
    indices = mg.tensor([[0, 3, 3], [1, 0, 3]], device=device)
    for padding_idx in (None, 3):
        (gradient,) = mg.autograd.grad((F.embedding(indices, weight, padding_idx) ** 3).sum(), weight)
        counts = np.array([2, 1, 0, 3 if padding_idx is None else 0])
        np.testing.assert_allclose(
            gradient.numpy(), 3 * counts[:, None] * weight.detach().numpy() ** 2, rtol=1e-12
        )
    if device == "numpy":
        assert mg.testing.gradcheck(lambda w: mg.sin(F.embedding(indices, w)), weight, order=2)


@needs_compiler
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_relu_by_its_kernels_is_what_array_code_gives(dtype, monkeypatch):
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, -1e-40]
    random = np.random.default_rng(0)
    values, slopes = np.repeat([*special, *random.normal(size=20)], 27), np.tile([*special, *range(20)], 27)
    found = []
    for many in (0, 1000):
        monkeypatch.setattr("minigrad.kernels.plan.MANY", many)
        x = mg.tensor(values, dtype=dtype, requires_grad=True)
        y = mg.relu(x)
        y.backward(mg.tensor(slopes, dtype=dtype))
        found.append((y.detach().numpy(), x.grad.numpy()))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0][0], np.maximum(values.astype(dtype), 0))
    passed = ~(values.astype(dtype) <= 0)
    np.testing.assert_array_equal(found[0][1], np.where(passed, slopes, 0).astype(dtype))


@needs_compiler
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("shape", [(7, 200), (7, 3, 50), (7,)])
def test_rows_are_added_by_the_kernel_as_by_numpy(shape, dtype, monkeypatch):
    random = np.random.default_rng(0)
    for key in (random.integers(-7, 7, (30, 40)), random.integers(0, 7, 5000).astype(np.int32)[::-1]):
        g = random.integers(-9, 9, (*key.shape, *shape[1:])).astype(dtype)
        found = []
        for enabled in (True, False):
            monkeypatch.setattr("minigrad.kernels.plan.enabled", enabled)
            x = mg.zeros(shape, dtype=dtype, requires_grad=True)
            x[key].backward(g)
            found.append(x.grad.numpy())
        np.testing.assert_array_equal(*found)
        expected = np.zeros(shape)
        np.add.at(expected, key, g.astype(np.float64))
        np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.embedding([0, 4], mg.ones((4, 2))), IndexError, "embedding: .*from 0 to 3, got 0 to 4"),
        (lambda: F.embedding([0, -1], mg.ones((4, 2))), IndexError, "embedding: .*from 0 to 3, got -1 to 0"),
        (lambda: F.embedding([0.0], mg.ones((4, 2))), TypeError, "embedding: indices must be integers"),
        (lambda: F.embedding([True], mg.ones((4, 2))), TypeError, "embedding: indices must be integers"),
        (lambda: F.embedding([0], mg.ones(4)), ValueError, r"weight must have shape \(V, D\), got \(4,\)"),
        (lambda: F.embedding([0], mg.ones((4, 2)), 4), ValueError, "padding_idx must be one of 4 rows"),
        (lambda: nn.Embedding(4, 2, 1.5), TypeError, "padding_idx must be an integer"),  # pyright: ignore[reportArgumentType]
        (lambda: nn.Embedding.from_pretrained(mg.ones(3)), ValueError, r"got \(3,\)"),
    ],
)
def test_embedding_refuses(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_embeddings_of_examples():
    weight = mg.tensor(np.arange(8.0).reshape(4, 2), requires_grad=True)
    indices = mg.tensor([[0, 3, 3], [1, 0, 3]])
    rows = mg.vmap(lambda i: F.embedding(i, weight, 3))(indices)
    np.testing.assert_array_equal(rows.detach(), F.embedding(indices, weight).detach())


# --- dropout -----------------------------------------------------------------------------------------


def test_dropout_of_channels():
    mg.random.seed(0)
    x = mg.ones((50, 20, 3, 4), requires_grad=True)
    layer = nn.Dropout2d(0.3, inplace=True)
    y = layer(x)
    values = y.detach().numpy()
    assert (values == values[:, :, :1, :1]).all()
    np.testing.assert_allclose(np.unique(values), [0, 1 / 0.7], rtol=1e-6)
    assert abs((values == 0).mean() - 0.3) < 0.05
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, values)
    np.testing.assert_array_equal(layer.eval()(x).detach(), x.detach())
    with pytest.raises(ValueError, match=r"expected shape \(N, C, H, W\), got \(3, 4\)"):
        F.dropout2d(mg.ones((3, 4)))
    with pytest.raises(ValueError, match="Dropout2d: p must be from 0 to 1, got 2"):
        nn.Dropout2d(2)


# --- initial values ----------------------------------------------------------------------------------


def test_truncated_normal_by_its_formulas():
    mg.random.seed(0)
    for mean, std, a, b in ((0.0, 1.0, -2.0, 2.0), (1.0, 0.5, 0.8, 1.5), (0.0, 1.0, 1.0, 3.0)):
        x = mg.zeros((200, 300))
        assert nn.init.trunc_normal_(x, mean, std, a, b) is x
        values = x.numpy().astype(float)
        assert a <= values.min() < values.max() <= b
        low, high = (a - mean) / std, (b - mean) / std
        density = [math.exp(-(v**2) / 2) / math.sqrt(2 * math.pi) for v in (low, high)]
        inside = 0.5 * (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)))
        shift = (density[0] - density[1]) / inside
        spread = 1 + (low * density[0] - high * density[1]) / inside - shift**2
        assert abs(values.mean() - mean - std * shift) < 0.01 * std
        assert abs(values.std() - std * math.sqrt(spread)) < 0.01 * std
    with pytest.raises(ValueError, match=r"too little .* inside \[5.0, 9.0\]"):
        nn.init.trunc_normal_(mg.zeros(3), a=5.0, b=9.0)


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (3, 4, 2)])
def test_orthogonal(shape):
    mg.random.seed(0)
    x = mg.zeros(shape, dtype=mg.float64)
    assert nn.init.orthogonal_(x, gain=2.0) is x
    matrix = x.numpy().reshape(shape[0], -1)
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    np.testing.assert_allclose(matrix @ matrix.T, 4 * np.eye(len(matrix)), atol=1e-12)
    with pytest.raises(ValueError, match="at least 2 axes"):
        nn.init.orthogonal_(mg.zeros(3))


def test_orthogonal_is_evenly_distributed():
    mg.random.seed(0)
    first = np.array([nn.init.orthogonal_(mg.zeros((2, 2))).numpy()[0] for _ in range(2000)])
    angles = np.arctan2(first[:, 1], first[:, 0])
    counts, _ = np.histogram(angles, bins=8, range=(-math.pi, math.pi))
    assert ((counts - 250) ** 2 / 250).sum() < 24.3  # chi squared of 7 degrees: 1 in 1000


def test_eye():
    x = mg.zeros((2, 3))
    assert nn.init.eye_(x) is x
    assert x.tolist() == [[1, 0, 0], [0, 1, 0]]
    with pytest.raises(ValueError, match=r"eye_ needs a matrix, got shape \(2,\)"):
        nn.init.eye_(mg.zeros(2))


def test_parameters_stay_parameters_when_filled():
    p = nn.Parameter(mg.zeros((4, 6)))
    node = p.node
    for fill in (nn.init.orthogonal_, nn.init.trunc_normal_, nn.init.eye_):
        fill(p)
        assert p.node is node
        assert p.requires_grad
