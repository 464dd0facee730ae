"""The way that optimizers and kernels take on a GPU, gone with a stand-in for CuPy on the CPU.

Its arrays are NumPy's under another name, so it shows nothing of CuPy's arithmetic; but it does show
which arrays get where, in which order, and what is done with a verdict that arrives later.
"""

import contextlib
import math
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_flat import RULES, assert_same, give_gradients, parameters

import minigrad as mg
from minigrad.backend import Backend, _by_type, _loaded
from minigrad.kernels import ElementwiseKernel, plan

pytestmark = pytest.mark.skipif(
    not plan.enabled, reason="MINIGRAD_KERNELS=off: the stand-in has no reference"
)


class Array(np.ndarray):
    """An array that is said to be on a GPU."""

    @property
    def device(self) -> Any:
        return contextlib.nullcontext()

    def get(self, out: Any = None, blocking: bool = True) -> Any:
        host = self.view(np.ndarray)
        if out is None:
            return host.copy()
        if blocking:
            out[...] = host
        else:  # it is on its way until somebody waits for an event
            Event.pending.append((out, host.copy()))
        return out


class Event:
    """Until it has been waited for, nothing has arrived."""

    pending: list[tuple[np.ndarray, np.ndarray]] = []  # noqa: RUF012 - that of all of them
    waited = 0

    def __init__(self, disable_timing: bool = False):
        self.mine: list[tuple[np.ndarray, np.ndarray]] = []

    def record(self) -> None:
        self.mine, Event.pending = Event.pending, []

    def synchronize(self) -> None:
        Event.waited += 1
        for out, host in self.mine:
            out[...] = host


class Kernel:
    """CuPy's ElementwiseKernel: no lists, and arrays of the GPU alone."""

    launches: list[str] = []  # noqa: RUF012 - those of all of them

    def __init__(self, in_params: str, out_params: str, operation: str, name: str, **kwargs: Any):
        self.kernel = ElementwiseKernel(in_params, out_params, operation, name, **kwargs)

    def __call__(self, *args: Any) -> Any:
        assert all(type(a) is Array or not isinstance(a, (np.ndarray, list)) for a in args)
        Kernel.launches.append(self.kernel.name)
        out = self.kernel(*[a.view(np.ndarray) if isinstance(a, Array) else a for a in args])
        return out.view(Array) if isinstance(out, np.ndarray) else tuple(a.view(Array) for a in out)


def as_array(function: Any) -> Any:
    return lambda *args, **kwargs: np.asarray(function(*args, **kwargs)).view(Array)


@pytest.fixture
def cupy(monkeypatch):
    fake: Any = SimpleNamespace(**{name: value for name, value in vars(np).items() if name[0] != "_"})
    for name in ("empty", "zeros", "ones", "full", "asarray", "concatenate", "concat", "logical_and"):
        setattr(fake, name, as_array(getattr(np, name)))
    fake.all = lambda x: np.asarray(np.all(x)).view(Array)
    fake.ndarray, fake.ElementwiseKernel = Array, Kernel
    fake.cuda = SimpleNamespace(Event=Event, is_available=lambda: True)
    its = Backend("cupy", fake, Array, as_array(np.array), lambda a: a.get())
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setitem(
        sys.modules, "cupyx", SimpleNamespace(empty_pinned=lambda shape, dtype: np.ones(shape, dtype))
    )
    monkeypatch.setitem(_loaded, "cupy", its)
    monkeypatch.setitem(_by_type, Array, its)
    Kernel.launches.clear()
    Event.pending, Event.waited = [], 0
    return fake


def on_gpu(params: list[mg.Tensor]) -> list[mg.Tensor]:
    return [p.detach().to("cupy").requires_grad_() for p in params]


@pytest.mark.parametrize("rule", RULES)
def test_steps_are_those_of_the_cpu(rule, cupy):
    here, there = parameters(), on_gpu(parameters())
    one, two = RULES[rule](here), RULES[rule](there)
    for t in range(8):
        missing = (2,) if t % 3 == 1 else ()
        give_gradients(here, t, missing)
        give_gradients(there, t, missing)
        one.step()
        Kernel.launches.clear()
        two.step()
        # By one launch: or two, around one that is missing; or three, where that is a step behind.
        assert len(Kernel.launches) <= (3 if t else 1)
    assert {p.device for p in there} == {"cupy"}
    assert_same(here, there)


@pytest.mark.parametrize("rule", RULES)
def test_a_verdict_that_arrives_later(rule, cupy):
    here, there = parameters(), on_gpu(parameters())
    one, two = RULES[rule](here), RULES[rule](there)
    for t in range(10):
        give_gradients(here, t)
        give_gradients(there, t)
        if t in (2, 3, 6):
            there[0].grad = there[0].grad * math.nan
        else:
            one.step()
        waited = Event.waited
        two.step(skip_nonfinite=True)
        assert Event.waited - waited <= 1  # for the last step's, which is there
    assert two.skipped == 3
    assert_same(here, there)
    assert all(name.endswith("_guarded") for name in Kernel.launches)


@pytest.mark.parametrize("bad", [0, 1])
def test_rows_of_several_dtypes_have_one_verdict(cupy, bad):
    params = [p.to("cupy").detach().requires_grad_() for p in (mg.ones(3), mg.ones(3, dtype=mg.float64))]
    optimizer = RULES["radam"](params)
    for t in range(4):
        for k, p in enumerate(params):
            p.grad = mg.full(3, math.nan if t == 2 and k == bad else 1.0, dtype=p.dtype, device="cupy")
        optimizer.step(skip_nonfinite=True)
    assert optimizer.skipped == 1
    assert [s["step"] for s in optimizer.state.values()] == [3, 3]
    assert all(np.isfinite(p.detach().numpy()).all() for p in params)


def test_parameters_on_both(cupy):
    """The CPU must know before it steps its own."""
    here, there = parameters(), on_gpu(parameters())
    optimizer = RULES["radam"](here[:3] + there[3:])
    for t, bad in enumerate((False, True, False)):
        give_gradients(here, t)
        give_gradients(there, t)
        if bad:
            there[3].grad = there[3].grad * math.inf
        before = [p.detach().numpy() for p in here[:3] + there[3:]]
        optimizer.step(skip_nonfinite=True)
        after = [p.detach().numpy() for p in here[:3] + there[3:]]
        assert all((a == b).all() for a, b in zip(before, after, strict=True)) is bad
    assert optimizer.skipped == 1
    assert {s["step"] for s in optimizer.state.values()} == {2}


def test_a_module_that_moves_takes_its_state_along(cupy):
    model = mg.nn.Linear(3, 2)
    optimizer = RULES["adam"](model.parameters())
    for device in ("numpy", "cupy", "numpy", "cupy"):
        model.to(device)
        for p in model.parameters():
            p.grad = mg.ones_like(p)
        optimizer.step()
        state = optimizer.state[model.weight]
        assert type(state["exp_avg"]) is (Array if device == "cupy" else np.ndarray)
    assert state["step"] == 4
    np.testing.assert_allclose(np.asarray(state["exp_avg"]), 1 - 0.9**4, rtol=0.2)  # but for the decay
    saved = optimizer.state_dict()
    assert type(saved["state"][0]["exp_avg"]) is np.ndarray
    optimizer.load_state_dict(saved)
    for p in model.parameters():
        p.grad = mg.ones_like(p)
    optimizer.step()
    assert optimizer.state[model.weight]["step"] == 5


def test_kernels_copy_what_overlaps_and_take_lists(cupy):
    double = ElementwiseKernel("T x", "T y", "y = 2 * x", "double", reference=lambda x: 2 * x)
    base = np.arange(6.0).view(Array)
    double(base[:5], base[1:])
    assert base.tolist() == [0, 0, 2, 4, 6, 8]
    y = cupy.zeros(5)
    double([base[:2], base[3:6].reshape(1, 3)], y)
    assert y.tolist() == [0, 0, 8, 12, 16]
    with pytest.raises(ValueError, match="different devices"):
        double(base, np.zeros(6))
    two = ElementwiseKernel("T x", "T y, T z", "y = x; z = x", "two")
    with pytest.raises(ValueError, match="overlap"):
        two(y[:3], base[:3], base[1:4])
