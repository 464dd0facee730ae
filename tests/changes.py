"""What changes a model or its optimizer, to be interrupted: for tests of all or nothing.

Each case makes a small world of its own, always the same, and gives the change to make in it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg
from minigrad import nn
from minigrad.autograd import Leaf
from minigrad.autograd.mode import watcher
from minigrad.backend import vmap_depth
from minigrad.nn.functional import cross_entropy


class World(NamedTuple):
    """A net that has been trained for two steps, and gradients for the third."""

    model: nn.Module
    optimizer: mg.optim.Optimizer
    schedule: mg.optim.SequentialLR
    plateau: mg.optim.ReduceLROnPlateau
    x: mg.Tensor
    y: mg.Tensor

    def state(self) -> dict[str, Any]:
        """All that a step changes, as bytes and numbers; and the places of the parameters in graphs."""
        saved = self.optimizer.state_dict(array=lambda a: np.asarray(a).tobytes())
        parameters = dict(self.model.named_parameters())
        return {
            "values": {name: (a.dtype, a.tobytes()) for name, a in self.model.state_dict().items()},
            "grads": {
                name: None if p.grad is None else (p.grad.dtype, p.grad.detach().numpy().tobytes())
                for name, p in parameters.items()
            },
            "leaves": {name: type(p.node) is Leaf and p.home is not None for name, p in parameters.items()},
            "optimizer": saved,
            "schedules": (self.schedule.state_dict(), self.plateau.state_dict()),
        }

    def loss(self) -> mg.Tensor:
        return cross_entropy(self.model(self.x), self.y)

    def train(self) -> None:
        """One step of training."""
        self.optimizer.zero_grad()
        self.loss().backward()
        mg.optim.clip_grad_norm_(self.model.parameters(), 0.1)
        self.optimizer.step()
        self.schedule.step()
        self.plateau.step(1.0)


def world(seed: int = 0, trained: bool = True, norm: bool = True) -> World:
    with mg.random.fork(seed):
        middle = nn.BatchNorm1d(32) if norm else nn.LayerNorm(32)
        model = nn.Sequential(
            nn.Linear(4, 32), middle, nn.GELU(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3)
        )
        x = mg.random.normal((8, 4))
    first, *others = model.parameters()
    groups = [{"params": [first, *others[2:]]}, {"params": others[:2], "lr": 0.02}]
    optimizer = mg.optim.RAdam(groups, lr=0.01, betas=(0.8, 0.9))
    parts = [mg.optim.StepLR(optimizer, 2), mg.optim.CosineAnnealingWarmRestarts(optimizer, 2)]
    schedule = mg.optim.SequentialLR(optimizer, parts, [2])
    plateau = mg.optim.ReduceLROnPlateau(optimizer, patience=2)
    result = World(model, optimizer, schedule, plateau, x, mg.tensor(np.arange(8) % 3))
    if trained:
        result.train()
        result.train()
        result.loss().backward()  # upon the gradients of the last step
    return result


def modes() -> tuple[Any, ...]:
    """What must be as it was after an error: the modes of this thread."""
    return mg.is_grad_enabled(), mg.backend(), watcher.get(), vmap_depth.get(), mg.ops.default_dtype()


def _loading(w: World) -> Callable[[], Any]:
    other = world(1)
    states = other.model.state_dict(), other.optimizer.state_dict()
    return lambda: (w.model.load_state_dict(states[0]), w.optimizer.load_state_dict(states[1]))


def _backward(w: World) -> Callable[[], Any]:
    loss = w.loss()
    return loss.backward


def _second_order(w: World) -> Callable[[], Any]:
    loss = w.loss()
    return lambda: loss.backward(create_graph=True)


def _step_after_loading(w: World) -> Callable[[], Any]:
    w.optimizer.load_state_dict(w.optimizer.state_dict())
    return w.optimizer.step


def _step_with_a_gap(w: World) -> Callable[[], Any]:
    """Several launches, of parameters with different numbers of steps behind them."""
    parameters = list(w.model.parameters())
    grad, parameters[4].grad = parameters[4].grad, None
    w.optimizer.step()
    parameters[4].grad = grad
    parameters[0].data = parameters[0].data * 2
    return w.optimizer.step


def _evaluation(w: World) -> Callable[[], Any]:
    def evaluate() -> None:
        w.model.eval()
        try:
            with mg.no_grad(), mg.use_backend("numpy"):
                w.loss().item()
        finally:
            w.model.train()

    return evaluate


def _derivatives(w: World) -> Callable[[], Any]:
    """Which put others in the places of parameters for a while."""
    w.model.eval()
    of_each = mg.vmap(mg.grad(lambda model, x: mg.square(model(x[None])).sum()), in_axes=(None, 0))
    values = {name: p * 2 for name, p in w.model.named_parameters()}

    def derive() -> None:
        of_each(w.model, w.x)
        mg.hvp(lambda x: mg.square(w.model(x)).sum(), (w.x,), (w.x,))
        nn.functional_call(w.model, values, w.x).sum().backward()
        with mg.detect_anomaly():
            mg.checkpoint(w.model)(w.x)

    return derive


CHANGES: dict[str, Callable[[World], Callable[[], Any]]] = {
    "step": lambda w: w.optimizer.step,
    "step, skip_nonfinite": lambda w: lambda: w.optimizer.step(skip_nonfinite=True),
    "step after loading": _step_after_loading,
    "step with a gap": _step_with_a_gap,
    "backward": _backward,
    "backward, create_graph": _second_order,
    "clip_grad_norm_": lambda w: lambda: mg.optim.clip_grad_norm_(w.model.parameters(), 0.01),
    "clip_grad_value_": lambda w: lambda: mg.optim.clip_grad_value_(w.model.parameters(), 0.01),
    "schedule": lambda w: w.schedule.step,
    "plateau": lambda w: lambda: w.plateau.step(2.0),
    "one cycle": lambda w: mg.optim.OneCycleLR(w.optimizer, 0.1, 10).step,
    "schedule.load_state_dict": lambda w: lambda: w.schedule.load_state_dict(SCHEDULE_STATE),
    "load_state_dict": lambda w: lambda: w.model.load_state_dict(STATE),
    "optimizer.load_state_dict": lambda w: lambda: w.optimizer.load_state_dict(OPTIMIZER_STATE),
    "to": lambda w: lambda: w.model.to(mg.float64),
    "evaluation": _evaluation,
    "derivatives": _derivatives,
    "forward": lambda w: w.loss,
}

_other = world(1)
STATE, OPTIMIZER_STATE = _other.model.state_dict(), _other.optimizer.state_dict()
_other.schedule.step()
SCHEDULE_STATE = _other.schedule.state_dict()


def check(name: str, fails: Callable[[Callable[[], Any]], BaseException | None]) -> bool:
    """Make the change of that name with `fails`, which calls it and gives the error that it provoked.

    After an error all is as before the change, or as after it; and then training goes on as it does from
    there. Returns whether there was an error.
    """
    before = _after(name, change=False)
    after = _after(name, change=True)
    w = world()
    change = CHANGES[name](w)
    was = modes()
    error = fails(change)
    assert modes() == was, (name, modes())
    del change
    found = w.state()
    assert found in (before[0], after[0]), (name, _differences(found, before[0], after[0]), repr(error))
    assert error is not None or found == after[0], name
    w.model.train()
    w.train()
    w.train()
    wanted = after[1] if found == after[0] else before[1]
    assert w.state() == wanted, (name, "training on", _differences(w.state(), wanted))
    return error is not None


_known: dict[tuple[str, bool], tuple[Any, Any]] = {}


def _after(name: str, change: bool) -> tuple[Any, Any]:
    """The state with or without the change; and that after two more steps."""
    if (name, change) not in _known:
        w = world()
        make = CHANGES[name](w)
        if change:
            make()
        del make
        state = w.state()
        w.model.train()
        w.train()
        w.train()
        _known[name, change] = state, w.state()
    return _known[name, change]


def _differences(found: Any, *wanted: Any) -> Any:
    return [[key for key in found if found[key] != other[key]] for other in wanted]
