"""State dicts of optimizers: to torch and back, by name, and all that must be refused; and clipping."""

import copy
import math
from typing import Any

import numpy as np
import pytest
from helpers import torch_or_skip

import minigrad as mg
from minigrad import optim

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1}),
    "momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1}),
    "adam": ("Adam", {"lr": 0.05, "weight_decay": 0.1}),
    "amsgrad": ("Adam", {"lr": 0.05, "amsgrad": True}),
    "adamw": ("AdamW", {"lr": 0.05}),
    "radam": ("RAdam", {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True}),
}


def gradients(t: int) -> list[np.ndarray]:
    return [np.cos(np.arange(6.0).reshape(2, 3) + t), np.array([math.sin(t), 0.5, -t / 10])]


def start() -> list[np.ndarray]:
    return [np.linspace(-1, 1, 6).reshape(2, 3), np.array([0.5, -0.5, 2.0])]


class Ours:
    """Two parameters in two groups, and an optimizer of minigrad's."""

    def __init__(self, kind: str, values: list[np.ndarray], named: bool = False):
        name, settings = KINDS[kind]
        self.params = [mg.tensor(v, requires_grad=True) for v in values]
        pairs = [("w", self.params[0]), ("b", self.params[1])] if named else self.params
        groups = [{"params": [pairs[0]]}, {"params": [pairs[1]], "lr": 0.01}]
        self.optimizer = getattr(optim, name)(groups, **settings)

    def step(self, t: int) -> None:
        for p, g in zip(self.params, gradients(t), strict=True):
            p.grad = mg.tensor(g)
        self.optimizer.step()

    def values(self) -> list[np.ndarray]:
        return [p.detach().numpy() for p in self.params]


class Theirs:
    """The same in torch."""

    def __init__(self, kind: str, values: list[np.ndarray], named: bool = False):
        self.torch = torch_or_skip()
        name, settings = KINDS[kind]
        self.params = [self.torch.tensor(v, requires_grad=True) for v in values]
        pairs = [("w", self.params[0]), ("b", self.params[1])] if named else self.params
        groups = [{"params": [pairs[0]]}, {"params": [pairs[1]], "lr": 0.01}]
        self.optimizer = getattr(self.torch.optim, name)(groups, **settings)

    def step(self, t: int) -> None:
        for p, g in zip(self.params, gradients(t), strict=True):
            p.grad = self.torch.tensor(g)
        self.optimizer.step()

    def values(self) -> list[np.ndarray]:
        return [p.detach().numpy().copy() for p in self.params]


def assert_they_stay_together(ours: Ours, theirs: Theirs) -> None:
    for t in range(8, 20):
        theirs.step(t)
        ours.step(t)
    for a, b in zip(ours.values(), theirs.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_from_torch(kind, named):
    theirs = Theirs(kind, start(), named)
    for t in range(8):
        theirs.step(t)
    ours = Ours(kind, theirs.values(), named)
    ours.optimizer.load_state_dict(theirs.optimizer.state_dict())
    assert_they_stay_together(ours, theirs)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_to_torch(kind, named):
    ours = Ours(kind, start(), named)
    for t in range(8):
        ours.step(t)
    theirs = Theirs(kind, ours.values(), named)
    saved = ours.optimizer.state_dict(array=theirs.torch.as_tensor)
    theirs.optimizer.load_state_dict(saved)
    assert_they_stay_together(ours, theirs)


def test_what_torchs_schedules_leave_in_groups_is_kept():
    theirs = Theirs("adam", start())
    theirs.torch.optim.lr_scheduler.OneCycleLR(theirs.optimizer, 0.1, 20)
    ours = Ours("adam", start())
    ours.optimizer.load_state_dict(theirs.optimizer.state_dict())
    assert [group["max_lr"] for group in ours.optimizer.param_groups] == [0.1, 0.1]
    ours.optimizer.param_groups[0]["note"] = "my own"
    ours.optimizer.load_state_dict(ours.optimizer.state_dict())


def test_torchs_schedules_leave_a_key_that_is_kept():
    theirs = Theirs("adam", start())
    theirs.torch.optim.lr_scheduler.StepLR(theirs.optimizer, 2)
    ours = Ours("adam", start())
    ours.optimizer.load_state_dict(theirs.optimizer.state_dict())
    assert [group["initial_lr"] for group in ours.optimizer.param_groups] == [0.05, 0.01]
    assert "foreach" not in ours.optimizer.param_groups[0]


def named(order: str, steps: int = 3) -> tuple[dict[str, mg.Tensor], optim.Optimizer]:
    params = {name: mg.full(2, float(i), requires_grad=True) for i, name in enumerate("abc")}
    optimizer = optim.RAdam([(name, params[name]) for name in order])
    for _ in range(steps):
        for i, p in enumerate(params.values()):
            p.grad = mg.full(2, i + 1.0)
        optimizer.step()
    return params, optimizer


def test_names_decide_which_parameter_is_which():
    params, optimizer = named("abc")
    others, other = named("cab", steps=0)
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["param_names"] == ["a", "b", "c"]
    other.load_state_dict(saved)
    for name in "abc":
        np.testing.assert_array_equal(
            other.state[others[name]]["exp_avg"], optimizer.state[params[name]]["exp_avg"]
        )
    assert other.param_groups[0]["param_names"] == ["c", "a", "b"]
    saved["param_groups"][0]["param_names"] = ["a", "b", "x"]
    with pytest.raises(ValueError, match=r"lacks the parameters \['c'\], and has \['x'\]"):
        other.load_state_dict(saved)


def test_without_names_the_order_decides():
    params, optimizer = named("abc")
    saved = optimizer.state_dict()
    del saved["param_groups"][0]["param_names"]
    others, other = named("cab", steps=0)
    other.load_state_dict(saved)
    np.testing.assert_array_equal(
        other.state[others["c"]]["exp_avg"], optimizer.state[params["a"]]["exp_avg"]
    )


WRONG: dict[str, tuple[Any, str]] = {
    "missing state": (lambda s: s["state"][0].pop("exp_avg_sq"), r"parameter 0 lacks \['exp_avg_sq'\]"),
    "missing step": (lambda s: s["state"][0].pop("step"), "has no 'step'"),
    "unknown state": (lambda s: s["state"][0].update(trace=np.ones(2)), r"unknown \['trace'\]"),
    "shape": (lambda s: s["state"][0].update(exp_avg=np.ones((2, 1), np.float32)), r"\(2, 1\).*\(2,\)"),
    "dtype": (lambda s: s["state"][0].update(exp_avg=np.ones(2)), "float64, and cannot be kept as float32"),
    "integers": (lambda s: s["state"][0].update(exp_avg=np.ones(2, int)), "int64, and cannot"),
    "negative step": (lambda s: s["state"][0].update(step=-3), "is -3.0, and not a count"),
    "no step at all": (lambda s: s["state"][0].update(step=math.nan), "is nan, and not a count"),
    "no state dict": (lambda s: s.pop("param_groups"), r"'param_groups', got \['state'\]"),
    "a parameter": (lambda s: s["state"].update({9: {}}), "parameter 9"),
    "groups": (lambda s: s["param_groups"].append({"params": []}), r"groups have \[3, 0\]"),
    "settings": (lambda s: s["param_groups"][0].update(momentum=0.9), r"unknown settings \['momentum'\]"),
    "out of range": (lambda s: s["param_groups"][0].update(eps=-1), "eps must"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_and_nothing_changes(case):
    change, message = WRONG[case]
    _, optimizer = named("abc")
    before = optimizer.state_dict()
    saved = copy.deepcopy(before)
    change(saved)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for n, values in before["state"].items():
        for key, value in values.items():
            np.testing.assert_array_equal(after["state"][n][key], value)


def test_adamw_takes_no_state_of_adam_with_the_other_decay():
    p = mg.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="AdamW: decoupled_weight_decay must be True"):
        optim.AdamW([p]).load_state_dict(optim.Adam([p]).state_dict())
    optim.Adam([p]).load_state_dict(optim.AdamW([p]).state_dict())


def test_float16_state_is_widened():
    p = mg.ones(2, dtype=mg.float16, requires_grad=True)
    optimizer = optim.Adam([p])
    p.grad = mg.ones(2, dtype=mg.float16)
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"][0]["exp_avg"] = saved["state"][0]["exp_avg"].astype(np.float16)
    optimizer.load_state_dict(saved)
    assert optimizer.state[p]["exp_avg"].dtype == np.float32


def test_the_state_is_to_be_read():
    p = mg.ones(2, requires_grad=True)
    optimizer = optim.Adam([p])
    assert p not in optimizer.state
    p.grad = mg.ones(2)
    optimizer.step()
    state: Any = optimizer.state
    assert set(state[p]) == {"step", "exp_avg", "exp_avg_sq"}
    with pytest.raises(AttributeError):
        state.clear()
    with pytest.raises(TypeError):
        state[p]["step"] = 77
    state[p]["exp_avg"][...] = 0  # the optimizer's own array
    assert not optimizer.state[p]["exp_avg"].any()


# --- clipping ------------------------------------------------------------------------------------------


def with_gradients(dtype: Any = np.float32) -> list[mg.Tensor]:
    random = np.random.default_rng(0)
    params = [mg.ones(s, dtype=dtype, requires_grad=True) for s in [(3, 2), (), (0,), (4,)]]
    for p in params[:3]:
        p.grad = mg.tensor(np.asarray(random.normal(size=p.shape), dtype))
    return params


def grads(params: list[Any]) -> list[np.ndarray]:
    return [p.grad.numpy() for p in params if p.grad is not None]


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.5, math.inf])
@pytest.mark.parametrize("max_norm", [0.0, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clip_grad_norm(norm_type, max_norm, dtype):
    params = with_gradients(dtype)
    before = grads(params)
    norm = optim.clip_grad_norm_(params, max_norm, norm_type)
    flat = np.concatenate([g.ravel() for g in before]).astype(np.float64)
    expected = np.linalg.norm(flat, norm_type)
    np.testing.assert_allclose(norm.item(), expected, rtol=1e-6)
    assert (norm.shape, norm.dtype) == ((), dtype)
    for g, old in zip(grads(params), before, strict=True):
        np.testing.assert_allclose(g, old * min(1, max_norm / (expected + 1e-6)), rtol=1e-6, atol=1e-12)
        assert g.dtype == dtype
    assert params[3].grad is None


def test_clip_grad_norm_against_torch():
    torch = torch_or_skip()
    ours = with_gradients()
    del ours[2]  # an empty one, of which torch has no largest element
    theirs = [torch.ones(p.shape, requires_grad=True) for p in ours]
    for p, q in zip(ours, theirs, strict=True):
        q.grad = None if p.grad is None else torch.tensor(p.grad.numpy())
    for max_norm, norm_type in ((2.0, 2.0), (0.5, math.inf), (0.1, 1.0)):
        norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
        np.testing.assert_allclose(
            optim.clip_grad_norm_(ours, max_norm, norm_type).item(), norm.item(), rtol=1e-6
        )
        for p, q in zip(ours[:2], theirs, strict=False):
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-5)
    torch.nn.utils.clip_grad_value_(theirs, 0.01)
    optim.clip_grad_value_(ours, 0.01)
    for p, q in zip(ours[:2], theirs, strict=False):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-6)


def test_clipping_makes_new_gradients():
    """a + b hands both the same array: to write into it would clip twice."""
    a, b = mg.ones(2, requires_grad=True), mg.ones(2, requires_grad=True)
    ((a + b) * 3.0).sum().backward()
    held = a.grad
    optim.clip_grad_norm_([a, b], 3.0)
    np.testing.assert_allclose(a.grad.numpy(), 1.5, rtol=1e-6)
    np.testing.assert_allclose(b.grad.numpy(), 1.5, rtol=1e-6)
    assert held.tolist() == [3, 3]


def test_clipping_of_several_dtypes_and_devices():
    params = [
        mg.ones(1, requires_grad=True),
        mg.ones(1, dtype=mg.float64, requires_grad=True),
        mg.ones(1, requires_grad=True).to("strict").detach().requires_grad_(),
    ]
    for p, g in zip(params, (2.0, 3.0, 6.0), strict=True):
        p.grad = mg.full(1, g, dtype=p.dtype, device=p.device)
    assert optim.clip_grad_norm_(params, 3.5).item() == 7.0
    np.testing.assert_allclose([p.grad.item() for p in params], [1.0, 1.5, 3.0], rtol=1e-6)
    optim.clip_grad_value_(params, 2.0)
    np.testing.assert_allclose([p.grad.item() for p in params], [1.0, 1.5, 2.0], rtol=1e-6)


def test_clipping_float16():
    p = mg.ones(1000, dtype=mg.float16, requires_grad=True)
    p.grad = mg.full(1000, 30000.0, dtype=mg.float16)
    norm = optim.clip_grad_norm_(p, 1.0)
    np.testing.assert_allclose(norm.item(), 30000 * math.sqrt(1000), rtol=1e-3)
    np.testing.assert_allclose(p.grad.numpy(), math.sqrt(1e-3), rtol=1e-3)


def test_large_gradients_do_not_overflow():
    p = mg.ones(2, requires_grad=True)
    p.grad = mg.full(2, 1e30)
    np.testing.assert_allclose(optim.clip_grad_norm_([p], 1.0).item(), math.sqrt(2) * 1e30, rtol=1e-6)
    np.testing.assert_allclose(p.grad.numpy(), math.sqrt(0.5), rtol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_error_if_nonfinite(bad):
    p = mg.ones(2, requires_grad=True)
    p.grad = mg.tensor([1.0, bad])
    with pytest.raises(RuntimeError, match=r"clip_grad_norm_: the norm.*not finite.*skip_nonfinite"):
        optim.clip_grad_norm_(p, 1.0, error_if_nonfinite=True)
    with pytest.raises(RuntimeError, match="clip_grad_value_: an element"):
        optim.clip_grad_value_(p, 1.0, error_if_nonfinite=True)
    np.testing.assert_array_equal(p.grad.numpy(), [1.0, bad])
    with np.errstate(invalid="ignore"):  # inf * 0
        assert not math.isfinite(optim.clip_grad_norm_(p, 1.0).item())


def test_clipping_nothing_and_clipping_wrongly():
    assert optim.clip_grad_norm_([], 1.0).item() == 0
    assert optim.clip_grad_norm_(mg.ones(2, requires_grad=True), 1.0).item() == 0
    empty = mg.ones(0, requires_grad=True)
    empty.grad = mg.ones(0)
    assert [optim.clip_grad_norm_(empty, 1.0, p).item() for p in (1, 2, math.inf)] == [0, 0, 0]
    with pytest.raises(ValueError, match="max_norm"):
        optim.clip_grad_norm_([], -1.0)
    with pytest.raises(ValueError, match="norm_type"):
        optim.clip_grad_norm_([], 1.0, 0.0)
    with pytest.raises(ValueError, match="clip_value"):
        optim.clip_grad_value_([], math.nan)
    with pytest.raises(TypeError, match="float"):
        optim.clip_grad_norm_([1.0], 1.0)  # pyright: ignore[reportArgumentType]
