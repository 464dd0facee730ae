"""Modules: buffers, state dicts, hooks, and what looks inside; torch is the oracle where it is installed."""

import copy
import pickle
import sys
from typing import Any

import numpy as np
import pytest
from helpers import torch_or_skip
from safetensors.numpy import save_file as save
from test_project import example

import minigrad as mg
from minigrad import nn

# --- buffers -----------------------------------------------------------------------------------------


class Mean(nn.Module):
    """A running mean, as normalization layers have."""

    def __init__(self, n: int = 3):
        self.weight = nn.Parameter(mg.ones(n))
        self.mean = nn.Buffer(mg.zeros(n))
        self.calls = nn.Buffer(0)
        self.mask = nn.Buffer(mg.asarray([True, False, True]), persistent=False)

    def forward(self, x):
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * x.mean(axis=0)
            self.calls = self.calls + 1
        return (x - self.mean) * self.weight


def test_buffers_are_found():
    model = nn.Sequential(Mean(), nn.Linear(3, 2))
    assert [name for name, _ in model.named_buffers()] == ["0.mean", "0.calls", "0.mask"]
    assert [b.shape for b in model.buffers()] == [(3,), (), (3,)]
    assert list(model.buffers(recurse=False)) == []
    assert [name for name, _ in model[0].named_buffers("at")] == ["at.mean", "at.calls", "at.mask"]
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "1.weight", "1.bias"]
    assert list(model.state_dict()) == ["0.weight", "1.weight", "1.bias", "0.mean", "0.calls"]
    assert not any(b.requires_grad for b in model.buffers())


def test_assigning_updates_a_buffer():
    model = Mean()
    mean, calls = model.mean, model.calls
    x = mg.ones((4, 3), dtype=mg.float64, requires_grad=True)
    model(x * 2).sum().backward()
    model(x * 2)
    assert model.mean is mean
    assert (mean.tolist(), mean.dtype, mean.requires_grad) == ([1.5] * 3, np.float32, False)
    assert model.calls is calls
    assert (calls.item(), calls.dtype, calls.shape) == (2, np.int64, ())
    model.calls = 7
    model.mean = np.array([1, 2])
    assert (calls.item(), mean.tolist(), mean.dtype) == (7, [1.0, 2.0], np.float32)
    model.zero_grad()
    model.mean = model.weight  # whose memory an optimizer overwrites
    optimizer = mg.optim.SGD(model.parameters(), lr=1.0)
    (model.weight * 1).sum().backward()
    optimizer.step()
    assert (model.weight.tolist(), mean.tolist()) == ([0.0] * 3, [1.0] * 3)
    with pytest.raises(TypeError, match="buffer of int64 was given float"):
        model.calls = 0.5
    model.mean = None
    assert model.mean is None
    assert [name for name, _ in model.named_buffers()] == ["calls", "mask"]
    model.calls = nn.Buffer(0.5)
    assert model.calls is not calls


def test_register():
    model: Any = Mean()
    model.register_buffer("count", np.int32(3), persistent=False)
    model.register_buffer("nothing", None)
    model.register_parameter("bias", nn.Parameter([1.0]))
    assert isinstance(model.count, nn.Buffer)
    assert (model.nothing, model.bias.tolist()) == (None, [1.0])
    assert {"count", "nothing"} & set(model.state_dict()) == set()
    for name in ("mean", "forward", "a.b", ""):
        with pytest.raises(KeyError, match="register_buffer"):
            model.register_buffer(name, mg.zeros(1))
    with pytest.raises(TypeError, match="register_buffer: a name must be a str, got int"):
        model.register_buffer(1, mg.zeros(1))
    with pytest.raises(TypeError, match="'other' must be a Parameter, got Tensor"):
        model.register_parameter("other", mg.zeros(1))


def test_buffers_in_state_dicts():
    one, two = Mean(), Mean()
    one(mg.ones((2, 3)))
    saved = one.state_dict()
    assert (saved["calls"].dtype, saved["calls"].shape) == (np.int64, ())
    assert two.load_state_dict(saved) == ([], [])
    assert (two.mean.tolist(), two.calls.item(), two.mask.tolist()) == ([0.5] * 3, 1, [True, False, True])
    with pytest.raises(KeyError, match=r"missing \['mean'\], unexpected nothing"):
        two.load_state_dict({k: v for k, v in saved.items() if k != "mean"})
    missing, unexpected = two.load_state_dict({"weight": mg.zeros(3), "old": 1}, strict=False)
    assert (missing, unexpected) == (["mean", "calls"], ["old"])


def test_buffers_move_and_are_copied():
    model = Mean()
    model.mean = np.array([1.0, 2.0, 3.0])
    model.to(mg.float16)
    assert [b.dtype for b in model.buffers()] == [np.float16, np.int64, bool]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.mean is not model.mean
        assert [(b.tolist(), b.dtype, b.persistent) for b in other.buffers()] == [
            (b.tolist(), b.dtype, b.persistent) for b in model.buffers()
        ]
    assert "Buffer(tensor(0" in repr(model.calls)


def test_transforms_see_parameters_alone():
    model: Any = Mean().eval()
    model.mean = 0.5
    x = mg.ones((4, 3))
    gradient = mg.grad(lambda m: m(x).sum())(model)
    assert {name: g.tolist() for name, g in gradient.items()} == {"weight": [2.0] * 3}
    np.testing.assert_allclose(mg.vmap(model)(x).detach().numpy(), model(x).detach().numpy())
    with pytest.raises(RuntimeError, match="a buffer was given a value inside vmap"):
        mg.vmap(model.train())(mg.ones((2, 4, 3)))
    assert next(model.buffers()).tolist() == 0.5


# --- state dicts, to torch and back ------------------------------------------------------------------


def both_nets(torch) -> tuple[nn.Module, Any]:
    def net(library):
        return library.Sequential(
            library.Embedding(7, 6, padding_idx=0),
            library.Linear(6, 5),
            library.LeakyReLU(0.1),
            library.LayerNorm(5),
            library.Sequential(
                library.Dropout(0.5), library.BatchNorm1d(9), library.Linear(5, 3, bias=False)
            ),
        )

    return net(nn), net(torch.nn)


def test_states_of_torch_and_back(torch, tmp_path):
    from safetensors.torch import load_file, save_file

    ours, theirs = both_nets(torch)
    theirs.eval()
    ours.eval()
    tokens = np.random.default_rng(0).integers(0, 7, (4, 9))
    expected = theirs(torch.tensor(tokens)).detach().numpy()
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    for state in (theirs.state_dict(), tmp_path / "theirs.safetensors", str(tmp_path / "theirs.safetensors")):
        for p in ours.parameters():
            p.data = np.zeros(p.shape)
        assert ours.load_state_dict(state) == ([], [])
        np.testing.assert_allclose(ours(tokens).detach(), expected, rtol=1e-5, atol=1e-6)

    ours, theirs = both_nets(torch)
    theirs.eval()
    expected = ours.eval()(tokens).detach().numpy()
    save(ours.state_dict(), tmp_path / "ours.safetensors")
    for state in (
        {name: torch.from_numpy(a) for name, a in ours.state_dict().items()},
        load_file(tmp_path / "ours.safetensors"),
    ):
        for p in theirs.parameters():
            p.data.zero_()
        theirs.load_state_dict(state)
        np.testing.assert_allclose(theirs(torch.tensor(tokens)).detach(), expected, rtol=1e-5, atol=1e-6)


def test_buffers_of_torch_and_back(torch, tmp_path):
    from safetensors.torch import load_file, save_file

    theirs = torch.nn.BatchNorm1d(3)
    theirs(torch.randn(5, 3))
    theirs(torch.randn(5, 3))
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours = nn.BatchNorm1d(3)
    for state in (theirs.state_dict(), tmp_path / "theirs.safetensors"):
        ours.load_state_dict(state)
        assert ours.num_batches_tracked.item() == 2
        np.testing.assert_array_equal(ours.running_mean, theirs.running_mean.numpy())
    ours.num_batches_tracked = np.int64(5)
    save(ours.state_dict(), tmp_path / "ours.safetensors")
    for state in (
        {name: torch.from_numpy(a) for name, a in ours.state_dict().items()},
        load_file(tmp_path / "ours.safetensors"),
    ):
        theirs = torch.nn.BatchNorm1d(3)
        theirs.load_state_dict(state)
        assert theirs.num_batches_tracked.dtype == torch.int64
        assert theirs.num_batches_tracked.item() == 5
    # Files of before torch 0.4.1 have no such count: neither library asks for one.
    old = {name: a for name, a in ours.state_dict().items() if name != "num_batches_tracked"}
    theirs.load_state_dict({name: torch.from_numpy(a) for name, a in old.items()})
    assert ours.load_state_dict(old) == ([], [])
    assert ours.num_batches_tracked.item() == 5
    with pytest.raises(KeyError, match=r"missing \['running_mean'\]"):
        ours.load_state_dict({name: a for name, a in old.items() if name != "running_mean"})


def test_tied_parameters(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            self.embedding = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x):
            return self.head(self.embedding(x))

    one, two = Tied(), Tied()
    saved = one.state_dict()
    assert list(saved) == ["embedding.weight", "head.weight"]
    assert [name for name, _ in one.named_parameters()] == ["embedding.weight"]
    save(saved, tmp_path / "tied.safetensors")
    two.load_state_dict(tmp_path / "tied.safetensors")
    assert two.head.weight is two.embedding.weight
    np.testing.assert_array_equal(two([1, 2]).detach(), one([1, 2]).detach())
    for name in saved:  # either name will do
        assert Tied().load_state_dict({name: saved[name]}) == ([], [])
    with pytest.raises(KeyError, match=r"missing \['embedding.weight', 'head.weight'\]"):
        two.load_state_dict({})
    optimizer = mg.optim.SGD(two.parameters(), lr=0.1)
    before = two.state_dict()["head.weight"]
    two([1, 2]).sum().backward()
    gradient = two.head.weight.grad.numpy()
    optimizer.step()
    np.testing.assert_allclose(two.embedding.weight.detach(), before - 0.1 * gradient, atol=1e-6)
    assert two.to(mg.float64).head.weight is two.embedding.weight
    assert copy.deepcopy(two).head.weight is not two.head.weight
    other = copy.deepcopy(two)
    assert other.head.weight is other.embedding.weight


# --- forward hooks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["minigrad", "torch"])
def test_hooks_are_called_as_in_torch(library):
    if library == "torch":
        torch = torch_or_skip()
        base, one = torch.nn.Module, torch.ones(1)
    else:
        base, one = nn.Module, mg.ones(1)

    class Sum(base):  # pyright: ignore[reportGeneralTypeIssues]
        def forward(self, x, y=0):
            return x + y

    calls: list[str] = []

    def note(name, result=None):
        def hook(module, *rest):
            assert isinstance(module, Sum)
            calls.append(name)
            return result(*rest) if result else None

        return hook

    layer: Any = Sum()
    handles = [
        layer.register_forward_hook(note("a", lambda args, out: out * 10)),
        layer.register_forward_hook(note("b", lambda args, out: out + args[0])),
        layer.register_forward_hook(note("first"), prepend=True),
        layer.register_forward_hook(
            note("keywords", lambda args, kwargs, out: out + kwargs["y"]), with_kwargs=True
        ),
        layer.register_forward_pre_hook(note("before", lambda args: args[0] * 2)),
        layer.register_forward_pre_hook(note("pair", lambda args: (args[0] + 1,))),
        layer.register_forward_pre_hook(
            note("both", lambda args, kwargs: (args, {"y": kwargs["y"] + 100})), with_kwargs=True
        ),
        layer.register_forward_pre_hook(note("start"), prepend=True),
    ]
    # (2 + 1) + 105 = 108, times 10, plus 3, plus 105
    assert layer(one, y=5).tolist() == [1188.0]
    assert calls == ["start", "before", "pair", "both", "first", "a", "b", "keywords"]
    for handle in handles:
        handle.remove()
        handle.remove()
    calls.clear()
    assert (layer(one, y=5).tolist(), calls) == ([6.0], [])


def test_hooks_end_with_their_block_and_with_errors():
    layer = nn.Linear(2, 2)
    x = mg.ones((1, 2))
    with layer.register_forward_hook(lambda *_: 1 / 0), pytest.raises(ZeroDivisionError):
        layer(x)
    assert layer(x).shape == (1, 2)
    calls = []
    handle: Any = layer.register_forward_pre_hook(lambda *_: (calls.append(1), handle.remove())[2:] or None)
    layer(x)
    layer(x)
    assert calls == [1]
    with layer.register_forward_pre_hook(lambda *_: 3, with_kwargs=True):  # noqa: SIM117 - the hook stays outside
        with pytest.raises(TypeError, match=r"must return None or a pair \(args, kwargs\), got int"):
            layer(x)
    with pytest.raises(TypeError, match="must be a function, got int"):
        layer.register_forward_hook(3)  # pyright: ignore[reportArgumentType]


def test_hooks_see_gradients_and_are_no_modules():
    class Double(nn.Module):  # a module is a function, too
        def forward(self, module, args, output):
            return output * 2

    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    seen = []
    net[0].register_forward_hook(Double())
    net[1].register_forward_hook(lambda module, args, output: seen.append(output))
    assert len(list(net.modules())) == 3
    net(mg.ones((1, 2))).sum().backward()
    (gradient,) = mg.autograd.grad(net(mg.ones((1, 2))).sum(), net[0].weight)
    assert seen[0].requires_grad
    np.testing.assert_array_equal(gradient, net[0].weight.grad)


# --- what is inside ----------------------------------------------------------------------------------


def test_submodules_by_name():
    class Net(nn.Module):
        def __init__(self):
            self.blocks = [nn.Linear(1, 1), nn.Sequential(nn.Tanh())]

    net = Net()
    assert net.get_submodule("") is net
    assert net.get_submodule("blocks.0") is net.blocks[0]
    assert net.get_submodule("blocks.1.0") is net.blocks[1][0]
    for name in ("blocks", "blocks.2", "blocks.0.weight"):
        with pytest.raises(AttributeError, match="has no module"):
            net.get_submodule(name)
    net.add_module("extra", nn.Tanh())
    assert isinstance(net.get_submodule("extra"), nn.Tanh)
    with pytest.raises(KeyError, match="add_module: Net has an attribute 'extra' already"):
        net.add_module("extra", nn.Tanh())
    with pytest.raises(TypeError, match="'other' must be a module, got int"):
        net.add_module("other", 3)  # pyright: ignore[reportArgumentType]


def test_apply_initializes():
    shared = nn.Linear(2, 2)
    net = nn.Sequential(shared, nn.Sequential(shared, nn.Linear(2, 1)))
    seen = []

    def fill(module):
        seen.append(module)
        if isinstance(module, nn.Linear):
            nn.init.ones_(module.weight)

    assert net.apply(fill) is net
    assert len(seen) == len(set(seen)) == 4
    assert shared.weight.tolist() == [[1.0, 1.0], [1.0, 1.0]]


# --- containers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["minigrad", "torch"])
@pytest.mark.parametrize("kind", ["ModuleList", "Sequential"])
def test_containers_are_lists_as_in_torch(kind, library):
    space = nn if library == "minigrad" else torch_or_skip().nn
    layers = [space.Linear(i, i + 1) for i in range(1, 6)]
    make = getattr(space, kind)
    row = make(layers[:3]) if kind == "ModuleList" else make(*layers[:3])

    def names():
        return [name for name, _ in row.named_children()], [m.in_features for m in row]

    assert names() == (["0", "1", "2"], [1, 2, 3])
    assert row.append(layers[3]) is row
    assert row.extend([layers[4]]) is row
    assert names() == (["0", "1", "2", "3", "4"], [1, 2, 3, 4, 5])
    assert (len(row), row[-1] is layers[4], layers[2] in row) == (5, True, True)
    part = row[1:4:2]
    assert (type(part), list(part)) == (make, [layers[1], layers[3]])
    row.insert(1, layers[4])
    assert names()[1] == [1, 5, 2, 3, 4, 5]
    del row[1]
    assert names() == (["0", "1", "2", "3", "4"], [1, 2, 3, 4, 5])
    row[0] = layers[2]
    assert names()[1] == [3, 2, 3, 4, 5]
    del row[1:3]
    assert names() == (["0", "1", "2"], [3, 4, 5])
    assert row.pop(1) is layers[3]
    assert names() == (["0", "1"], [3, 5])
    row += [layers[0]] if kind == "ModuleList" else make(layers[0])
    assert names() == (["0", "1", "2"], [3, 5, 1])
    both = row + (make([layers[1]]) if kind == "ModuleList" else make(layers[1]))
    assert (type(both), len(both), len(row)) == (make, 4, 3)
    assert len(list(both.state_dict())) == 8
    with pytest.raises(IndexError):
        row[3]
    with pytest.raises(TypeError):
        row.append(3)


def test_slices_of_sequential_keep_names():
    net = nn.Sequential({"in": nn.Linear(2, 3), "middle": nn.Tanh(), "out": nn.Linear(3, 1)})
    assert list(net[1:].state_dict()) == ["out.weight", "out.bias"]
    assert net[:1][0] is net[0]
    assert list(nn.Sequential()) == []
    assert nn.Sequential()(3) == 3  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"ModuleList: layer 1 must be a module .* got the class Tanh"):
        nn.ModuleList([nn.Tanh(), nn.Tanh])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("library", ["minigrad", "torch"])
def test_dicts_of_modules_as_in_torch(library):
    space = nn if library == "minigrad" else torch_or_skip().nn
    one, two, three = space.Linear(1, 1), space.Linear(2, 1), space.Linear(3, 1)
    heads = space.ModuleDict({"a": one})
    heads["b"] = two
    heads.update({"a": three, "c": one})
    assert (list(heads), list(heads.keys()), len(heads)) == (["a", "b", "c"], ["a", "b", "c"], 3)
    assert list(heads.values()) == [three, two, one]
    assert dict(heads.items())["b"] is two
    assert "c" in heads
    assert heads.pop("c") is one
    del heads["b"]
    assert list(heads.state_dict()) == ["a.weight", "a.bias"]
    assert space.ModuleDict([("x", one)])["x"] is one
    heads.clear()
    assert (len(heads), "a" in heads) == (0, False)
    with pytest.raises(KeyError):
        heads["a"]
    with pytest.raises(KeyError):
        del heads["a"]
    with pytest.raises(KeyError, match="keys"):
        heads["keys"] = one
    with pytest.raises(TypeError):
        heads["a"] = 3  # pyright: ignore[reportArgumentType]
    assert heads == heads
    assert heads != space.ModuleDict()
    assert len({heads, space.ModuleDict()}) == 2


# --- summaries ---------------------------------------------------------------------------------------


def test_summary_of_a_net():
    class Net(nn.Module):
        def __init__(self):
            self.embedding = nn.Embedding(10, 4)
            self.mean = Mean(4)
            self.head = nn.Linear(4, 10, bias=False)
            self.head.weight = self.embedding.weight
            self.unused = nn.Linear(2, 2)

        def forward(self, x):
            hidden = self.mean(nn.functional.dropout(self.embedding(x), 0.5, self.training)[0])
            mg.random.normal(3)
            return {"scores": self.head(hidden), "more": (hidden, [hidden[0], 3])}

    net = Net()
    net.unused.requires_grad_(False)
    net.mean.eval()
    modes = [m.training for m in net.modules()]
    state, before = mg.random.get_state(), net.state_dict()
    summary = net.summary(np.zeros((2, 7), int))
    assert [(r.name, r.kind, r.output, r.parameters, r.bytes) for r in summary.rows] == [
        ("", "Net", [(7, 10), [(7, 4), [(4,)]]], 0, 0),
        ("embedding", "Embedding", (2, 7, 4), 40, 160),
        ("mean", "Mean", (7, 4), 4, 16 + 16 + 8 + 3),
        ("head", "Linear", (7, 10), 0, 0),
        ("unused", "Linear", None, 6, 24),
    ]
    assert (summary.trainable, summary.frozen, summary.buffers) == (44, 6, 4 + 1 + 3)
    assert summary.bytes == sum(row.bytes for row in summary.rows)
    assert repr(summary).splitlines()[-1] == (
        "50 parameters (44 trainable, 6 frozen), 8 in buffers, 227 bytes"
    )
    assert mg.random.get_state() == state
    assert [m.training for m in net.modules()] == modes
    assert all(np.array_equal(a, before[name]) for name, a in net.state_dict().items())
    assert net.mean.calls.item() == 0
    assert net.summary().rows[1].output is None
    assert all(p.grad is None for p in net.parameters())


def test_summary_changes_nothing_when_it_fails():
    class Net(nn.Sequential):
        def forward(self, x):
            self[0].mean = 7.0
            self[0].training = True
            mg.random.normal(3)
            return super().forward(x).reshape(-1, 1000)

    net = Net(Mean(3), nn.Linear(3, 2))
    net.eval()
    state, before = mg.random.get_state(), net.state_dict()
    with pytest.raises(ValueError, match="reshape"):
        net.summary((5, 3))
    assert not any(m.training for m in net.modules())
    assert mg.random.get_state() == state
    assert all(np.array_equal(a, before[name]) for name, a in net.state_dict().items())
    seen = []
    net[1].register_forward_hook(lambda *_: seen.append(1))
    nn.Sequential.forward(net, mg.ones((5, 3)))
    assert seen == [1]


# --- functional_call ---------------------------------------------------------------------------------


def test_functional_call_against_torch(torch):
    random = np.random.default_rng(0)
    a, x = random.normal(size=(5, 6)), random.normal(size=(4, 6))
    ours, theirs = nn.Linear(6, 5).to(mg.float64), torch.nn.Linear(6, 5, dtype=torch.float64)
    theirs.load_state_dict({name: torch.from_numpy(v) for name, v in ours.state_dict().items()})
    w, v = mg.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
    before = ours.weight.node, ours.weight._data
    y = nn.functional_call(ours, {"weight": w * 2}, (mg.tensor(x),))
    u = torch.func.functional_call(theirs, {"weight": v * 2}, (torch.tensor(x),))
    np.testing.assert_allclose(y.detach(), u.detach().numpy())
    (y * y).sum().backward()
    (u * u).sum().backward()
    np.testing.assert_allclose(w.grad, v.grad.numpy())
    np.testing.assert_allclose(ours.bias.grad, theirs.bias.grad.numpy())
    assert ours.weight.grad is None
    assert (ours.weight.node, ours.weight._data) == before


def test_functional_call_is_differentiated_and_batched():
    def fill(module):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight)

    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).to(mg.float64)
    x = mg.random.normal((4, 2), dtype=mg.float64)
    tensors = {name: p.detach() for name, p in net.named_parameters()}

    def loss(tensors):
        return (nn.functional_call(net, tensors, x) ** 2).mean()

    gradient = mg.grad(loss)(tensors)
    expected = mg.grad(lambda net: (net(x) ** 2).mean())(net)
    assert gradient.keys() == expected.keys()
    for name in gradient:
        np.testing.assert_allclose(gradient[name], expected[name])
    weight = mg.tensor(tensors["0.weight"].numpy(), requires_grad=True)
    assert mg.testing.gradcheck(lambda w: loss({"0.weight": w}), weight, order=2)

    nets = [copy.deepcopy(net).apply(fill) for _ in range(3)]
    states = [one.state_dict() for one in nets]
    stacked = {name: mg.tensor(np.stack([state[name] for state in states])) for name in tensors}
    together = mg.vmap(lambda t: nn.functional_call(net, t, x))(stacked)
    for one, result in zip(nets, together, strict=True):
        np.testing.assert_allclose(result.detach(), one(x).detach())
    # inside a transform by the module itself
    inner = mg.grad(lambda net: (nn.functional_call(net, {"0.weight": weight}, x) ** 2).mean())(net)
    assert (inner["0.weight"] == 0).all()
    outer = mg.grad(loss)({**tensors, "0.weight": weight.detach()})
    np.testing.assert_allclose(inner["2.weight"].detach(), outer["2.weight"])


def test_functional_call_restores():
    model = Mean()
    weight, mean = model.weight._data, model.mean._data
    other = mg.full(3, 5.0)
    y = nn.functional_call(model, {"mean": other, "weight": np.array([1.0, 2.0, 3.0])}, mg.ones((2, 3)))
    assert y.tolist() == [[-2.0, -4.0, -6.0]] * 2  # 1 less the mean of 5 and 1
    assert (model.mean._data is mean, model.weight._data is weight, other.tolist()) == (True, True, [5.0] * 3)
    assert model.calls.item() == 1  # a buffer that was not given is updated as always
    with pytest.raises(ValueError, match="aligned"):
        nn.functional_call(model, {"weight": mg.ones(4), "mean": other}, (mg.ones((2, 3)),))
    assert (model.mean._data is mean, model.weight._data is weight) == (True, True)
    with pytest.raises(KeyError, match=r"Mean has no \['bias'\]"):
        nn.functional_call(model, {"bias": other}, (mg.ones((2, 3)),))
    scaled = nn.functional_call(model.eval(), {"mask": mg.ones(3)}, kwargs={"x": mg.ones((2, 3))})
    assert scaled.shape == (2, 3)


def test_functional_call_with_tied_parameters():
    one = nn.Linear(2, 2, bias=False)
    net = nn.Sequential(one, one)
    double = mg.tensor([[2.0, 0.0], [0.0, 2.0]])
    for tensors in ({"0.weight": double}, {"1.weight": double}, {"0.weight": double, "1.weight": double}):
        assert nn.functional_call(net, tensors, mg.ones(2)).tolist() == [4.0, 4.0]
    with pytest.raises(ValueError, match=r"'1.weight' is another name of what is given already"):
        nn.functional_call(net, {"0.weight": double, "1.weight": mg.ones((2, 2))}, mg.ones(2))


def test_the_example_goes_to_torch_and_back(torch, capsys):
    there, back = example("torch_model").main(["--steps", "60"])
    assert max(there, back) < 1e-4
    printed = capsys.readouterr().out
    assert "in torch\n  step    0" in printed
    losses = [float(line.split()[-1]) for line in printed.splitlines() if line.startswith("  step")]
    assert losses[2] < losses[0] - 0.5  # what minigrad began with is what torch had learned


def test_the_example_says_that_it_needs_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(SystemExit, match="pip install torch"):
        example("torch_model").main([])
