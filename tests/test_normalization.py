"""Layer, RMS, group and batch norm: torch is the oracle where it is installed, and finite differences."""

from typing import Any

import numpy as np
import pytest
from helpers import torch_or_skip

import minigrad as mg
from minigrad import nn
from minigrad.kernels import plan
from minigrad.nn import functional as F  # noqa: N812
from minigrad.testing import gradcheck


@pytest.fixture(params=["compiled", "composed"], autouse=True)
def kernels(request, monkeypatch):
    if request.param == "composed":
        monkeypatch.setattr(plan, "enabled", False)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(1.5, 2.0, shape)


# --- against torch ------------------------------------------------------------------------------------

# What is called, its shape of input, the shape of its parameters, and its arguments.
GRID: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("layer_norm", (5, 7), (7,), {"normalized_shape": (7,)}),
    ("layer_norm", (3, 40), (40,), {"normalized_shape": (40,), "eps": 0.1}),
    ("layer_norm", (2, 3, 4, 65), (4, 65), {"normalized_shape": (4, 65)}),
    ("layer_norm", (130, 3), (3,), {"normalized_shape": (3,), "eps": 1e-3}),
    ("layer_norm", (6,), (6,), {"normalized_shape": (6,)}),
    ("rms_norm", (5, 7), (7,), {"normalized_shape": (7,)}),
    ("rms_norm", (3, 2, 33), (2, 33), {"normalized_shape": (2, 33), "eps": 1e-3}),
    ("group_norm", (3, 6, 5), (6,), {"num_groups": 3}),
    ("group_norm", (2, 4, 3, 5), (4,), {"num_groups": 1, "eps": 0.01}),
    ("group_norm", (2, 4), (4,), {"num_groups": 2}),
    ("batch_norm", (6, 4), (4,), {"training": True}),
    ("batch_norm", (6, 4, 5), (4,), {"training": True, "momentum": 0.3}),
    ("batch_norm", (3, 4, 5, 7), (4,), {"training": True, "eps": 0.01}),
    ("batch_norm", (3, 4, 5, 7), (4,), {"training": False}),
    ("batch_norm", (2, 3), (3,), {"training": False}),
]


@pytest.mark.parametrize("affine", ["both", "weight", "none"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("name", "shape", "of_parameters", "arguments"), GRID)
def test_values_and_gradients_against_torch(name, shape, of_parameters, arguments, affine, dtype):
    torch = torch_or_skip()
    x, g = drawn(*shape).astype(dtype), drawn(*shape, seed=1).astype(dtype)
    parameters = [drawn(*of_parameters, seed=2).astype(dtype), drawn(*of_parameters, seed=3).astype(dtype)]
    parameters = parameters[: {"both": 2, "weight": 1, "none": 0}[affine]]
    if name == "rms_norm":
        parameters = parameters[:1]
    running = [drawn(*of_parameters, seed=4).astype(dtype), abs(drawn(*of_parameters, seed=5)).astype(dtype)]
    results = []
    for make, functional in (
        (lambda a, r: mg.tensor(a, requires_grad=r), F),
        (lambda a, r: torch.tensor(a, requires_grad=r), torch.nn.functional),
    ):
        inputs = [make(a, True) for a in (x, *parameters)]
        state = [make(a, False) for a in running] if name == "batch_norm" else []
        given = dict(zip(("weight", "bias"), inputs[1:], strict=False)) | arguments
        y = getattr(functional, name)(inputs[0], *state, **given)
        y.backward(make(g, False))
        results.append([y.detach().numpy(), *(t.grad.numpy() for t in inputs), *(s.numpy() for s in state)])
    tolerance = 1e-10 if dtype == np.float64 else 1e-5
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype == dtype
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * max(1, abs(theirs).max()))


LAYERS = [
    ("LayerNorm", (5,), (3, 5)),
    ("LayerNorm", ((2, 5), 1e-4, True, False), (3, 2, 5)),
    ("LayerNorm", (5, 1e-5, False), (3, 5)),
    ("RMSNorm", (5,), (3, 5)),
    ("RMSNorm", ((2, 5), 1e-4, False), (3, 2, 5)),
    ("GroupNorm", (2, 6), (3, 6, 4)),
    ("GroupNorm", (2, 6, 1e-4, False), (3, 6, 4, 2)),
    ("BatchNorm1d", (6,), (5, 6)),
    ("BatchNorm1d", (6, 1e-4, 0.3), (5, 6, 4)),
    ("BatchNorm2d", (6, 1e-4, None), (5, 6, 3, 2)),
    ("BatchNorm2d", (6, 1e-5, 0.1, False), (5, 6, 3, 2)),
    ("BatchNorm2d", (6, 1e-5, 0.1, True, False), (5, 6, 3, 2)),
]


@pytest.mark.parametrize(("name", "arguments", "shape"), LAYERS)
def test_layers_and_their_state_against_torch(name, arguments, shape):
    torch = torch_or_skip()
    ours, theirs = getattr(nn, name)(*arguments), getattr(torch.nn, name)(*arguments)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }
    for step in range(3):
        x = drawn(*shape, seed=step).astype(np.float32)
        np.testing.assert_allclose(
            ours(mg.tensor(x)).detach().numpy(), theirs(torch.tensor(x)).detach().numpy(), atol=1e-5
        )
    state, its = ours.state_dict(), theirs.state_dict()
    for key in its:
        assert state[key].dtype == its[key].numpy().dtype
        np.testing.assert_allclose(state[key], its[key].numpy(), rtol=1e-5, atol=1e-6)
    for module in (ours, theirs):
        module.eval()
    x = drawn(*shape, seed=9).astype(np.float32)
    np.testing.assert_allclose(
        ours(mg.tensor(x)).detach().numpy(), theirs(torch.tensor(x)).detach().numpy(), atol=1e-5
    )
    other = getattr(nn, name)(*arguments)
    other.load_state_dict(its)
    theirs.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
    assert repr(ours).startswith(f"{name}(")


# --- by formulas and differences -----------------------------------------------------------------------


def test_by_the_formulas():
    x = drawn(4, 6, 5)
    layer = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(F.layer_norm(mg.tensor(x), 5).numpy(), layer, rtol=1e-12)
    rms = x / np.sqrt((x**2).mean(-1, keepdims=True) + 2.0**-52)
    np.testing.assert_allclose(F.rms_norm(mg.tensor(x), 5).numpy(), rms, rtol=1e-12)
    batch = (x - x.mean((0, 2), keepdims=True)) / np.sqrt(x.var((0, 2), keepdims=True) + 1e-5)
    mean, var = mg.zeros(6, dtype=mg.float64), mg.ones(6, dtype=mg.float64)
    y = F.batch_norm(mg.tensor(x), mean, var, training=True, momentum=0.25)
    np.testing.assert_allclose(y.numpy(), batch, rtol=1e-12)
    np.testing.assert_allclose(mean.numpy(), 0.25 * x.mean((0, 2)), rtol=1e-12)
    np.testing.assert_allclose(var.numpy(), 0.75 + 0.25 * x.var((0, 2), ddof=1), rtol=1e-12)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda x, w, b: F.layer_norm(x, 5, w, b), [(3, 5), (5,), (5,)]),
        (lambda x, w: F.rms_norm(x, (2, 3), w, 0.1), [(3, 2, 3), (2, 3)]),
        (lambda x, w, b: F.group_norm(x, 2, w, b), [(2, 4, 3), (4,), (4,)]),
        (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), [(3, 2, 4), (2,), (2,)]),
        (lambda x, w, b: F.batch_norm(x, None, None, w, b, True), [(4, 2), (2,), (2,)]),
    ],
)
def test_gradients_of_both_orders(function, shapes):
    inputs = [mg.tensor(drawn(*shape, seed=i), requires_grad=True) for i, shape in enumerate(shapes)]
    assert gradcheck(function, *inputs, order=2)
    assert gradcheck(lambda x: function(x, *[p.detach() for p in inputs[1:]]), inputs[0], order=2)
    assert gradcheck(lambda *p: function(inputs[0].detach(), *p), *inputs[1:])


def test_other_arrays():
    need_strict = pytest.importorskip("array_api_strict")
    del need_strict
    for dtype in (mg.float32, mg.float64):
        x = drawn(4, 6, 5).astype(dtype)
        for compute in (
            lambda x: F.layer_norm(x, 5),
            lambda x: F.group_norm(x, 3),
            lambda x: F.batch_norm(x, None, None, training=True),
        ):
            expected = compute(mg.tensor(x)).numpy()
            strided = mg.tensor(np.asfortranarray(x)[:, :, :])
            np.testing.assert_allclose(compute(strided).numpy(), expected, rtol=1e-5)
            strict = compute(mg.tensor(x, device="strict"))
            np.testing.assert_allclose(strict.numpy(), expected, rtol=1e-5, atol=1e-6)
    each = mg.vmap(lambda x: F.layer_norm(x, 5))(mg.tensor(drawn(4, 6, 5)))
    np.testing.assert_allclose(each.numpy(), F.layer_norm(mg.tensor(drawn(4, 6, 5)), 5).numpy())
    half = F.layer_norm(mg.tensor(drawn(4, 6), dtype=mg.float16), 6)
    assert half.dtype == np.float16
    assert F.layer_norm(mg.zeros((0, 5)), 5).shape == (0, 5)
    assert F.rms_norm(mg.zeros((2, 0, 5)), 5).shape == (2, 0, 5)


def test_a_batch_norm_counts_and_forgets_nothing_on_the_way():
    layer = nn.BatchNorm1d(3)
    layer(mg.tensor(drawn(4, 3), dtype=mg.float32))
    assert layer.num_batches_tracked.item() == 1
    before = layer.state_dict()
    with pytest.raises(ValueError, match="more than one value"):
        F.batch_norm(mg.ones((1, 3)), layer.running_mean, layer.running_var, training=True)
    layer.eval()
    layer(mg.ones((1, 3)))
    assert all(np.array_equal(a, before[k]) for k, a in layer.state_dict().items())
    assert not layer.running_mean.requires_grad
    with pytest.raises(ValueError, match="vmap"):
        mg.vmap(lambda x: F.batch_norm(x, layer.running_mean, layer.running_var, training=True))(
            mg.ones((2, 4, 3))
        )


def test_bad_arguments():
    x = mg.ones((2, 4, 3))
    for call, message in (
        (lambda: F.layer_norm(x, 4), r"must end in the axes \(4,\), got shape \(2, 4, 3\)"),
        (lambda: F.layer_norm(x, ()), "must end in the axes"),
        (lambda: F.layer_norm(x, 3, mg.ones(4)), r"weight must have the shape \(3,\), got \(4,\)"),
        (lambda: F.rms_norm(x, (2, 3)), r"rms_norm: the input must end in the axes \(2, 3\)"),
        (lambda: F.group_norm(x, 3), "4 channels cannot be cut into 3 groups"),
        (lambda: F.group_norm(mg.ones(3), 3), r"must have the axes \(N, C, …\), got shape \(3,\)"),
        (lambda: F.batch_norm(x, mg.ones(3), mg.ones(4)), r"running_mean must have the shape \(4,\)"),
        (lambda: F.batch_norm(x, None, None), "needs running_mean and running_var"),
        (lambda: nn.GroupNorm(3, 4), "4 channels cannot be cut into 3 groups"),
        (lambda: nn.BatchNorm2d(4)(x), r"expected \(N, 4, …\) with 4 axes, got shape \(2, 4, 3\)"),
        (lambda: nn.BatchNorm1d(3)(x), r"expected \(N, 3, …\) with 2 or 3 axes, got shape \(2, 4, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    for call in (
        lambda: F.layer_norm(mg.ones((2, 3), dtype=mg.int64), 3),
        lambda: nn.LayerNorm(2.5),  # pyright: ignore[reportArgumentType]
        lambda: F.layer_norm([1.0], 1),
    ):
        with pytest.raises(TypeError, match=r"layer_norm|LayerNorm"):
            call()


def test_running_statistics_keep_their_dtype(kernels):
    layer = mg.nn.BatchNorm1d(3)
    layer(mg.ones((4, 3, 2), dtype=mg.float64))
    assert layer.running_mean.dtype == layer.running_var.dtype == mg.float32
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.1, rtol=1e-6)
