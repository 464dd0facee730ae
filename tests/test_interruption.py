"""Ctrl-C and errors anywhere: nothing is left half done, no mode stays switched, no graph is kept."""

import dis
import gc
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import changes
import numpy as np
import pytest
from helpers import garbage, python

import minigrad as mg
from minigrad import nn
from minigrad.autograd import Leaf, Node

EVERYWHERE = bool(os.environ.get("MINIGRAD_EVERYWHERE"))  # at each instruction, and not at some of them
PACKAGE = str(Path(mg.__file__).parent)


class Interruption:
    """Raises KeyboardInterrupt in a call of a function, at its n-th place where Python looks for signals.

    That is where a function begins or goes on, after each call, and before each round of a loop. Places in
    this package count, and those in what it calls of Python's own, such as `contextlib`.
    """

    def __init__(self, n: int):
        self.n, self.seen = n, 0
        self.last: dict[FrameType, str] = {}  # the instruction that each frame was last seen at
        self.inside = 0

    def __call__(self, function: Callable[[], Any]) -> BaseException | None:
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            function()
        except KeyboardInterrupt as error:
            return error.with_traceback(None)
        finally:
            sys.settrace(before)
            self.last.clear()
        return None

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGE) and not name.endswith("contextlib.py"):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "call":
            if (
                frame.f_code.co_name != "<genexpr>"
            ):  # which may be about to be closed, and then looks for none
                self.place()
        elif event == "opcode":
            before = self.last.get(frame, "")
            self.last[frame] = _names(frame.f_code)[frame.f_lasti]
            if before.startswith(("CALL", "JUMP_BACKWARD")):
                self.place()
        elif event == "return":
            self.last.pop(frame, None)
        return self.trace

    def place(self) -> None:
        self.seen += 1
        if self.seen == self.n:
            raise KeyboardInterrupt


_cache: dict[CodeType, dict[int, str]] = {}


def _names(code: CodeType) -> dict[int, str]:
    if code not in _cache:
        _cache[code] = {i.offset: i.opname for i in dis.get_instructions(code)}
    return _cache[code]


@pytest.mark.parametrize("name", changes.CHANGES)
def test_ctrl_c_at_any_place(name, record_property):
    counting = Interruption(0)
    changes.check(name, counting)
    count = counting.seen
    assert count > 5
    stride = 1 if EVERYWHERE else max(1, count // 25)
    tried = range(1, count + 1, stride)
    interrupted = sum(changes.check(name, Interruption(n)) for n in tried)
    record_property("interruptions", interrupted)
    assert interrupted == len(tried)


def interrupt_training(steps: int) -> int:
    """Have a clock interrupt training at random times; how often it did.

    What is left is each time what one step or the next has left.
    """

    def learned(w: changes.World) -> list[bytes]:
        state = w.optimizer.state_dict(array=lambda a: np.asarray(a).tobytes())["state"]
        return [*(p.detach().numpy().tobytes() for p in w.model.parameters()), str(state).encode()]

    w = changes.world(trained=False, norm=False)
    states = [learned(w)]
    taken = []
    for _ in range(steps):
        begin = time.perf_counter()
        w.train()
        taken.append(time.perf_counter() - begin)
        states.append(learned(w))
    step = statistics.median(taken)  # most of them compile nothing
    rng, done, interrupted, armed = random.Random(0), 0, 0, False
    w = changes.world(trained=False, norm=False)

    def interrupt(*_: Any) -> None:
        nonlocal armed
        if armed:  # and not in what is done here between two trainings, however late a signal is seen
            armed = False
            raise KeyboardInterrupt

    def train() -> None:
        """Until it is interrupted. (Python 3.13 lets a signal escape at the end of a `while` in a `try`.)"""
        nonlocal armed, done
        armed = True
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 4 * step))
        while armed and done < steps:
            w.train()
            done += 1
        armed = False

    signal.signal(signal.SIGALRM, interrupt)
    while done < steps:
        try:
            train()
        except KeyboardInterrupt:
            interrupted += 1
        assert changes.modes() == (True, "numpy", None, 0, np.float32)
        done = states.index(learned(w), max(0, done - 1), done + 2)
        while w.schedule.last_epoch < done:  # it came between the optimizer and the schedule
            w.schedule.step()
        while w.plateau.last_epoch < done:
            w.plateau.step(1.0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return interrupted


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="signals as Unix has them")
def test_signals_at_any_time(record_property):
    """In a process of its own: here a signal may come in what pytest and its plugins do meanwhile."""
    steps = 3000 if EVERYWHERE else 200
    interrupted = int(python(f"import test_interruption as t; print(t.interrupt_training({steps}))"))
    record_property("interruptions", interrupted)
    assert interrupted > steps / 10


class PlantedError(Exception):
    """An error of the user's."""


def failing(*_: Any) -> Any:
    raise PlantedError


@mg.primitive(x=failing)
def fails_in_backward(xp, x):
    """x, with a rule that fails."""
    return x + 0


@mg.primitive(x=lambda g: g)
def fails_in_forward(xp, x):
    """Nothing."""
    raise PlantedError


class Layer(nn.Module):
    """A layer that fails."""

    def __init__(self, function: Callable[[Any], Any]):
        self.function = function

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return self.function(x)


def hooked(x: mg.Tensor) -> mg.Tensor:
    x.register_hook(failing)
    return x


PLACES: dict[str, Callable[[Any], Any]] = {
    "a layer": failing,
    "a forward function": fails_in_forward,
    "a rule": fails_in_backward,
    "a hook": hooked,
    "a checkpoint": lambda x: mg.checkpoint(fails_in_backward)(x),
    "a function in vmap": lambda x: mg.vmap(failing)(x),
    "a function to differentiate": lambda x: mg.grad(lambda y: failing(y).sum())(x),
    "a function in no_grad": lambda x: mg.no_grad()(failing)(x),
    "a function on another backend": lambda x: mg.use_backend("numpy")(failing)(x),
    "a function under detect_anomaly": lambda x: mg.detect_anomaly()(failing)(x),
    "a function with other parameters": lambda x: nn.functional_call(Layer(failing), {}, x),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_error_in(place):
    """Nothing that is learned changes, no mode stays, no graph is kept, and training goes on."""
    w, plain = changes.world(norm=False), changes.world(norm=False)
    w.optimizer.zero_grad()
    plain.train()
    x = w.loss()
    before = w.state()
    del x
    layers = list(w.model.children())
    broken = nn.Sequential(*layers[:2], Layer(PLACES[place]), *layers[2:])

    def fail() -> None:
        with pytest.raises(PlantedError):
            mg.nn.functional.cross_entropy(broken(w.x), w.y).backward()

    fail()
    assert w.state() == before
    assert changes.modes() == (True, "numpy", None, 0, np.float32)
    assert garbage(fail) == 0
    gc.collect()
    nodes = sum(type(x) is Node for x in gc.get_objects())
    fail()
    assert sum(type(x) is Node for x in gc.get_objects()) == nodes
    w.train()
    assert w.state() == plain.state()


def test_an_error_in_a_closure():
    w = changes.world()
    before = w.state()
    with pytest.raises(PlantedError):
        w.optimizer.step(failing)
    assert w.state() == before
    assert changes.modes() == (True, "numpy", None, 0, np.float32)


def test_blocks_that_are_left_late():
    """A block whose end was missed gives nothing back when outer ones have ended, else what was before."""
    was = changes.modes()
    outer, inner = mg.no_grad(), mg.enable_grad()
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert changes.modes() == was
    del inner  # which would give back what was inside of `outer`
    gc.collect()
    assert changes.modes() == was
    other, alone = mg.use_backend("numpy"), mg.no_grad()
    other.__enter__()
    alone.__enter__()
    other.__exit__(None, None, None)  # which is about something else
    del alone
    gc.collect()
    assert changes.modes() == was


@pytest.mark.parametrize("switch", [mg.no_grad, lambda: mg.use_backend("numpy"), mg.detect_anomaly])
def test_generators_in_modes(switch):
    """One that is left in a mode gives the mode back when it is closed."""

    def values() -> Any:
        with switch():
            yield 1

    was = changes.modes()
    generator = values()
    next(generator)
    generator.close()
    assert changes.modes() == was


def test_what_is_a_leaf_stays_one():
    """The data of a leaf cannot be exchanged for integers, and then it is what it was."""
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(TypeError, match="floating-point"):
        x.data = np.array([1, 2])
    assert x.tolist() == [1, 2]
    assert x.dtype == np.float32
    assert isinstance(x.node, Leaf)
