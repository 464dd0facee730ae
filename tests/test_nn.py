"""Modules, layers, losses and initial values; torch is the oracle where it is installed."""

import copy
import math
import pickle

import numpy as np
import pytest
from helpers import torch_or_skip
from safetensors.numpy import load_file, save_file

import minigrad as mg
from minigrad import nn
from minigrad.nn import functional as F  # noqa: N812


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


# --- Module ------------------------------------------------------------------------------------------


class Nested(nn.Module):
    def __init__(self):
        self.scale = nn.Parameter([1.0])
        self.blocks = [nn.Linear(2, 2), nn.Linear(2, 2)]
        self.named = {"head": nn.Linear(2, 1, bias=False)}
        self.tied = self.blocks[0]
        self.count = 3

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.named["head"](x) * self.scale


def test_parameters_are_found_in_attributes_lists_and_dicts():
    model = Nested()
    assert [name for name, _ in model.named_parameters()] == [
        "scale",
        "blocks.0.weight",
        "blocks.0.bias",
        "blocks.1.weight",
        "blocks.1.bias",
        "named.head.weight",
    ]
    assert len(list(model.parameters())) == 6
    assert set(model.state_dict()) - {name for name, _ in model.named_parameters()} == {
        "tied.weight",
        "tied.bias",
    }
    assert [name for name, _ in model.named_modules()] == ["", "blocks.0", "blocks.1", "named.head"]
    model(mg.ones((1, 2))).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_modules_that_point_at_each_other():
    one, two = nn.Module(), nn.Module()
    one.inner, two.outer = two, one  # pyright: ignore[reportAttributeAccessIssue]
    one.weight = nn.Parameter([1.0])  # pyright: ignore[reportAttributeAccessIssue]
    assert [name for name, _ in one.named_parameters()] == ["weight"]
    assert [name for name, _ in two.named_parameters()] == ["outer.weight"]


def test_state_dict_goes_round():
    one, two = net(), net()
    x = mg.random.normal((5, 3))
    saved = one.state_dict()
    assert list(saved) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    before = saved["0.weight"].copy()
    two.load_state_dict(saved)
    np.testing.assert_array_equal(one(x).detach().numpy(), two(x).detach().numpy())
    two.load_state_dict({name: mg.tensor(a, dtype=mg.float64) for name, a in saved.items()})
    assert two[0].weight.dtype == np.float32
    mg.optim.SGD(one.parameters(), lr=1.0)
    one(x).sum().backward()
    mg.optim.SGD(one.parameters(), lr=1.0).step()
    np.testing.assert_array_equal(saved["0.weight"], before)


def test_state_dict_can_be_saved_as_it_is(tmp_path):
    one, two = net(), net()
    x = mg.random.normal((5, 3))
    one[0].weight.data = np.asfortranarray(one[0].weight.detach().numpy())
    assert not one[0].weight.data.flags.c_contiguous
    save_file(one.state_dict(), tmp_path / "net.safetensors")
    two.load_state_dict(load_file(tmp_path / "net.safetensors"))
    np.testing.assert_array_equal(one(x).detach().numpy(), two(x).detach().numpy())


def test_load_state_dict_is_strict_and_all_or_nothing():
    model = net()
    saved = model.state_dict()
    for a in saved.values():
        a[...] = 0
    before = model.state_dict()

    def unchanged() -> bool:
        return all(np.array_equal(a, before[name]) for name, a in model.state_dict().items())

    incomplete = {k: v for k, v in saved.items() if k != "2.bias"} | {"extra": mg.ones(1)}
    with pytest.raises(KeyError, match=r"missing \['2.bias'\], unexpected \['extra'\]"):
        model.load_state_dict(incomplete)
    assert unchanged()
    with pytest.raises(ValueError, match=r"2.bias: \(3,\) instead of \(2,\)"):
        model.load_state_dict({**saved, "2.bias": mg.zeros(3)})
    assert unchanged()
    model.load_state_dict(incomplete, strict=False)
    assert model[0].weight.sum().item() == 0
    assert model[2].bias.tolist() == before["2.bias"].tolist()


def test_a_parameter_is_not_lost_by_assignment():
    layer = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"Linear.weight is a parameter and would be lost"):
        layer.weight = layer.weight * 2
    w = layer.weight
    before = w.detach().numpy()
    layer(mg.ones((1, 2))).sum().backward()
    with mg.no_grad():
        layer.weight -= 0.5 * layer.weight.grad
        for p in layer.parameters():
            p *= 2
    assert layer.weight is w
    np.testing.assert_allclose(w.detach().numpy(), 2 * (before - 0.5), rtol=1e-6)
    layer.bias = nn.Parameter(mg.zeros(2))
    layer.bias = None
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


def test_sequential_refuses_what_is_no_module():
    for bad, what in (
        (nn.Tanh, "the class Tanh"),
        (mg.tanh, "function"),
        ([nn.Tanh()], "list"),
        (None, "NoneType"),
    ):
        with pytest.raises(TypeError, match=what):
            nn.Sequential(nn.Linear(1, 1), bad)
    model = nn.Sequential({"in": nn.Linear(2, 3), "out": nn.Tanh()})
    assert list(model.state_dict()) == ["in.weight", "in.bias"]
    assert len(model) == len(list(model.children())) == len(list(model.modules())) - 1 == 2


def test_train_and_eval():
    model = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)))
    assert model.training
    x = mg.ones(1000)
    assert (model(x) == 0).any()
    assert model.eval() is model
    assert not model[1][0].training
    assert model(x).data.base is x.data.base
    model.train()
    assert model[1][0].training


def test_to_dtype_and_device():
    model = net()
    model(mg.ones((1, 3))).sum().backward()
    kept = model[0].weight
    assert model.to(mg.float64) is model
    assert model[0].weight is kept
    assert kept.dtype == kept.grad.dtype == np.float64
    model(mg.ones((1, 3), dtype=mg.float64)).sum().backward()
    model.to("numpy")
    with pytest.raises(TypeError, match="int64"):
        model.to(mg.int64)
    with pytest.raises(ValueError, match="cuda"):
        model.to("cuda")


def test_freezing():
    model = net()
    model[0].requires_grad_(False)
    model(mg.ones((1, 3))).sum().backward()
    assert [p.grad is None for p in model.parameters()] == [True, True, False, False]


def test_modules_can_be_copied_and_pickled():
    model = net()
    x = mg.random.normal((5, 3))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(model(x).detach().numpy(), other(x).detach().numpy())
        assert other[0].weight is not model[0].weight


def test_repr_and_containers():
    model = net()
    assert repr(model) == (
        "Sequential(\n"
        "  (0): Linear(in_features=3, out_features=4, bias=True)\n"
        "  (1): ReLU()\n"
        "  (2): Linear(in_features=4, out_features=2, bias=True)\n"
        ")"
    )
    assert (len(model), model[-1].out_features) == (3, 2)
    assert repr(nn.Dropout(0.2)) == "Dropout(p=0.2)"
    with pytest.raises(NotImplementedError, match=r"Module does not define forward"):
        nn.Module()(1)


# --- layers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4, 3), (3,), (2, 5, 3)])
def test_linear(bias, shape):
    layer = nn.Linear(3, 2, bias=bias).to(mg.float64)
    x = mg.random.normal(shape, dtype=mg.float64, requires_grad=True)
    expected = x.detach().numpy() @ layer.weight.detach().numpy().T
    if bias:
        expected = expected + layer.bias.detach().numpy()
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-12)
    assert mg.testing.gradcheck(lambda x, *p: mg.linear(x, *p), x, *layer.parameters(), order=2)


@pytest.mark.parametrize(
    ("layer", "name", "arguments"),
    [
        (nn.ReLU, "ReLU", ()),
        (nn.Tanh, "Tanh", ()),
        (nn.GELU, "GELU", ()),
        (nn.Flatten, "Flatten", ()),
        (nn.Flatten, "Flatten", (0, 1)),
    ],
)
def test_layers_against_torch(layer, name, arguments):
    torch = torch_or_skip()
    a = np.random.default_rng(0).normal(size=(2, 3, 4))
    x, t = mg.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
    ours, theirs = layer(*arguments)(x), getattr(torch.nn, name)(*arguments)(t)
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-12, atol=1e-15)
    ours.sum().backward()
    theirs.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-12, atol=1e-15)


def test_dropout():
    mg.random.seed(0)
    x = mg.ones((200, 200), requires_grad=True)
    y = F.dropout(x, 0.3)
    values = np.unique(y.detach().numpy())
    np.testing.assert_allclose(values, [0, 1 / 0.7], rtol=1e-6)
    assert abs(y.mean().item() - 1) < 0.02
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())
    assert F.dropout(x, 1.0).sum().item() == 0
    same = F.dropout(x, 0.0) * 1
    assert np.array_equal(same.detach().numpy(), x.detach().numpy())
    mg.random.seed(0)
    np.testing.assert_array_equal(F.dropout(x, 0.3).detach().numpy(), y.detach().numpy())
    hidden = x * 1
    same = F.dropout(hidden, training=False)
    same += 1  # leaves what went in as it was
    assert (hidden.max().item(), same.min().item()) == (1, 2)
    for bad in (lambda: nn.Dropout(1.5), lambda: F.dropout(x, -0.1)):
        with pytest.raises(ValueError, match="p must be from 0 to 1"):
            bad()


# --- losses ------------------------------------------------------------------------------------------

SHAPES = [((4,), ()), ((5, 4), (5,)), ((3, 4, 2), (3, 2)), ((2, 3, 2, 2), (2, 2, 2))]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize(("shape", "target_shape"), SHAPES)
def test_cross_entropy_against_torch(shape, target_shape, probabilities, reduction, label_smoothing):
    torch = torch_or_skip()
    random = np.random.default_rng(0)
    a = random.normal(size=shape) * 3
    axis = 0 if len(shape) == 1 else 1
    if probabilities:
        target = random.uniform(size=shape)
        target /= target.sum(axis=axis, keepdims=True)
    else:
        target = np.asarray(random.integers(0, shape[axis], target_shape))
    x, t = mg.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
    ours = F.cross_entropy(x, mg.tensor(target), reduction=reduction, label_smoothing=label_smoothing)
    theirs = torch.nn.functional.cross_entropy(
        t, torch.from_numpy(target), reduction=reduction, label_smoothing=label_smoothing
    )
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-12)
    g = random.normal(size=ours.shape)
    ours.backward(g)
    theirs.backward(torch.tensor(g))
    np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-10, atol=1e-13)
    x.grad = None
    assert mg.testing.gradcheck(
        lambda x: F.cross_entropy(x, target, reduction=reduction, label_smoothing=label_smoothing), x, order=2
    )


def test_cross_entropy_by_its_formula():
    x = mg.tensor([[0.0, math.log(3.0)]], dtype=mg.float64)
    np.testing.assert_allclose(F.cross_entropy(x, mg.tensor([1])).item(), math.log(4 / 3))
    np.testing.assert_allclose(
        F.cross_entropy(x, mg.tensor([[0.5, 0.5]], dtype=mg.float64)).item(), math.log(4) - math.log(3) / 2
    )
    assert F.cross_entropy(x.numpy(), [1]).item() == F.cross_entropy(x, mg.tensor([1])).item()
    far = mg.tensor([[0.0, -1000.0]])
    assert F.cross_entropy(far, mg.tensor([1])).item() == 1000
    assert math.isnan(F.cross_entropy(mg.zeros((0, 3)), mg.zeros(0, dtype=int)).item())


@pytest.mark.parametrize(
    ("input", "target", "how", "error", "message"),
    [
        (mg.zeros((2, 3)), mg.tensor([0, 3]), {}, IndexError, "from 0 to 2, got 0 to 3"),
        (mg.zeros((2, 3)), mg.tensor([0, -1]), {}, IndexError, "from 0 to 2, got -1 to 0"),
        (mg.zeros((2, 3)), mg.tensor([0]), {}, ValueError, r"\(1,\) for input \(2, 3\)"),
        (mg.zeros((2, 3)), mg.zeros((2, 2)), {}, ValueError, r"\(2, 2\) and \(2, 3\)"),
        (mg.zeros((2, 3)), mg.tensor([True, False]), {}, TypeError, "bool"),
        (mg.zeros((2, 3)), mg.tensor([0, 1]), {"reduction": "max"}, ValueError, "reduction.*'max'"),
        (mg.zeros((2, 3)), mg.zeros((2, 3)), {"reduction": "max"}, ValueError, "reduction.*'max'"),
        (mg.zeros((2, 3)), mg.tensor([0, 1]), {"label_smoothing": 2}, ValueError, "label_smoothing=2"),
        (mg.zeros(()), mg.tensor(0), {}, ValueError, r"\(\)"),
    ],
)
def test_cross_entropy_refuses(input, target, how, error, message):
    with pytest.raises(error, match=message):
        F.cross_entropy(input, target, **how)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mse_loss(reduction):
    x = mg.tensor([1.0, 2.0], dtype=mg.float64, requires_grad=True)
    result = F.mse_loss(x, np.array([0.0, 4.0]), reduction=reduction)
    assert result.tolist() == {"mean": 2.5, "sum": 5.0, "none": [1.0, 4.0]}[reduction]
    result.sum().backward()
    assert x.grad.tolist() == [1.0, -2.0] if reduction == "mean" else [2.0, -4.0]
    with pytest.raises(ValueError, match=r"\(2,\) and \(2, 1\)"):
        F.mse_loss(x, mg.zeros((2, 1)))


# --- initial values ----------------------------------------------------------------------------------


def test_init_distributions():
    mg.random.seed(1)
    w = mg.zeros((200, 300))
    for fill, std, bound in (
        (lambda: nn.init.uniform_(w, -2, 2), 4 / math.sqrt(12), 2),
        (lambda: nn.init.normal_(w, 0, 0.3), 0.3, math.inf),
        (lambda: nn.init.xavier_uniform_(w), math.sqrt(2 / 500), math.sqrt(6 / 500)),
        (lambda: nn.init.xavier_normal_(w, gain=2), 2 * math.sqrt(2 / 500), math.inf),
        (lambda: nn.init.kaiming_uniform_(w, nonlinearity="relu"), math.sqrt(2 / 300), math.sqrt(6 / 300)),
        (
            lambda: nn.init.kaiming_normal_(w, mode="fan_out", nonlinearity="relu"),
            math.sqrt(2 / 200),
            math.inf,
        ),
        (lambda: nn.init.kaiming_uniform_(w, a=math.sqrt(5)), 1 / math.sqrt(900), 1 / math.sqrt(300)),
    ):
        assert fill() is w
        values = w.numpy()
        assert abs(values.mean()) < 5 * std / math.sqrt(values.size)
        assert abs(values.std() / std - 1) < 0.02
        assert np.abs(values).max() <= bound
    assert nn.init.zeros_(w).sum().item() == 0
    assert nn.init.ones_(w).min().item() == 1
    assert nn.init.constant_(w, 0.5).max().item() == 0.5
    for bad in (lambda: nn.init.xavier_normal_(mg.zeros(3)), lambda: nn.init.kaiming_normal_(w, mode="fan")):
        with pytest.raises(ValueError, match="init:"):
            bad()


def test_gains_against_torch():
    torch = torch_or_skip()
    for name in ("linear", "sigmoid", "tanh", "relu", "selu", "leaky_relu"):
        assert nn.init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
    assert nn.init.calculate_gain("leaky_relu", 0.2) == pytest.approx(
        torch.nn.init.calculate_gain("leaky_relu", 0.2)
    )
    with pytest.raises(ValueError, match="unknown nonlinearity"):
        nn.init.calculate_gain("step")


def test_linear_begins_as_in_torch():
    mg.random.seed(0)
    layer = nn.Linear(64, 1000)
    for p in (layer.weight, layer.bias):
        values = p.detach().numpy()
        assert np.abs(values).max() <= 1 / 8
        assert abs(values.std() * math.sqrt(3) * 8 - 1) < 0.05
