"""Modules: buffers, state dicts, hooks, and what looks inside; torch is the oracle where it is installed."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest

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
