"""Threads and tasks: what each computes is what it computes alone, to the last bit.

Trainings that share nothing of the user's may run at the same time. A net may be read while it is trained.
What two threads write to at once (one net trained by both, one optimizer) is not promised, as in torch.
"""

import asyncio
import contextlib
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from helpers import in_threads, needs_compiler, python, use_kernels
from trainings import NETS, Training, trained

import minigrad as mg
from minigrad import nn, optim
from minigrad.kernels import threads


@pytest.fixture(autouse=True)
def _restless():
    """Python goes from thread to thread as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=["array code", "kernels", "kernels with threads of their own"])
def mode(request, monkeypatch):
    """How everything is computed. (Arrays of these sizes get no threads, unless told so.)"""
    use_kernels(monkeypatch, request.param != "array code")
    if request.param == "kernels with threads of their own":
        monkeypatch.setattr(threads, "WORTH_A_HAND", 64)
        monkeypatch.setattr(threads, "WORTH_A_START", 128)


TRAININGS = [(kind, seed) for seed in (1, 2) for kind in NETS]


# --- each with what is its own -------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 8])
def test_trainings_at_once_give_what_they_give_alone(count, mode):
    alone = [trained(*each) for each in TRAININGS]
    assert len(set(alone)) == len(alone)
    for _ in range(2):
        with ThreadPoolExecutor(count) as pool:
            assert list(pool.map(lambda each: trained(*each), TRAININGS)) == alone


def test_each_of_many_threads_trains_the_same(mode):
    """Nets of one kind meet in the same kernels, with arrays of the same shapes."""
    for kind in NETS:
        assert set(in_threads(6, lambda i, kind=kind: trained(kind, 5))) == {trained(kind, 5)}


def test_tasks_of_asyncio_take_turns_in_the_middle_of_steps():
    async def task(kind: str, seed: int) -> bytes:
        with mg.random.fork(seed):
            training = Training(kind)
            for _ in range(4):
                for _ in training.steps():
                    with mg.no_grad():  # which the others are not to see
                        await asyncio.sleep(0)
                    assert mg.is_grad_enabled()
            return training.result()

    async def everything() -> list[bytes]:
        return await asyncio.gather(*[task(*each) for each in TRAININGS])

    assert asyncio.run(everything()) == [trained(*each) for each in TRAININGS]


def test_threads_that_asyncio_starts_have_the_modes_of_the_task():
    """They are given a copy of its context: so, too, the stream that it draws from."""

    async def drawn() -> list[Any]:
        with mg.random.fork(3), mg.no_grad():
            inside = await asyncio.to_thread(lambda: (mg.is_grad_enabled(), mg.random.uniform(4).tolist()))
            return [inside, mg.random.uniform(4).tolist()]

    (recording, first), second = asyncio.run(drawn())
    assert not recording
    with mg.random.fork(3):
        assert (mg.random.uniform(4).tolist(), mg.random.uniform(4).tolist()) == (first, second)


# --- one net for all -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETS)
def test_one_net_serves_many_threads_while_another_is_trained(kind, mode):
    with mg.random.fork(0):
        shared = Training(kind).net.eval()
        inputs = [Training(kind).batches.arrays[0] for _ in range(4)]
    want = [shared(x).detach().numpy().tobytes() for x in inputs]
    alone = trained(kind, 1)

    def work(i: int) -> Any:
        if i == 0:
            return [trained(kind, 1) for _ in range(3)]
        with mg.no_grad():
            outs = [shared(x) for _ in range(15) for x in inputs]
        assert not any(y.requires_grad for y in outs)
        return [y.numpy().tobytes() for y in outs]

    trainer, *servers = in_threads(4, work)
    assert trainer == [alone] * 3
    assert all(outs == want * 15 for outs in servers)


def test_gradients_of_one_net_that_several_threads_ask_for():
    """`autograd.grad` writes to nothing; to `.grad` one thread at a time may add."""
    net = Training("attention").net.eval()
    params = list(net.parameters())

    def gradients(i: int) -> list[bytes]:
        with mg.random.fork(i):
            x = mg.random.normal((4, 5, 16))
        return [g.numpy().tobytes() for g in mg.autograd.grad((net(x) ** 2).sum(), params)]

    alone = [gradients(i) for i in range(6)]
    assert in_threads(6, lambda i: [gradients(i) for _ in range(5)]) == [[g] * 5 for g in alone]
    assert all(p.grad is None for p in params)


@pytest.mark.parametrize("shape", [(3,), (1 << 18,)])
def test_a_net_that_is_read_while_it_is_trained(shape, mode):
    """Each element that a forward pass reads is that of some step, and elements may be of different ones.

    Training is not disturbed. After each step all parameters are equal to the number of the step.
    """
    net = nn.Linear(1, *shape, bias=False)
    net.weight.data = mg.zeros_like(net.weight)
    optimizer = optim.SGD(net.parameters(), lr=1.0)
    x, gradient = mg.ones((1, 1)), -mg.ones_like(net.weight).detach()
    began = done = 0
    stop = threading.Event()

    def train() -> None:
        nonlocal began, done
        for _ in range(60 if shape == (3,) else 20):
            net.weight.grad = gradient
            began += 1
            optimizer.step()
            done += 1
        stop.set()

    def read() -> int:
        reads = 0
        while not (stop.is_set() and reads > 3):
            first = done
            with mg.no_grad():
                values = net(x).numpy()
            assert first <= values.min() <= values.max() <= began
            assert (values == np.round(values)).all()
            reads += 1
        return reads

    def work(i: int) -> Any:
        return read() if i else train()

    in_threads(4, work)
    assert (net.weight.detach().numpy() == done).all()


def test_running_statistics_are_whole_whoever_writes_them_last():
    """A net in training mode that several threads call: updates get lost, but none is half done."""
    norm = nn.BatchNorm1d(1 << 12, momentum=1.0)
    inputs = [mg.full((2, 1 << 12), float(i)) for i in range(4)]

    def work(i: int) -> bool:
        seen = []
        with mg.no_grad():
            for _ in range(20):
                norm(inputs[i])
                seen.append(np.unique(norm.running_mean.numpy()).tolist())
        return all(len(values) == 1 and values[0] in (0, 1, 2, 3) for values in seen)

    assert all(in_threads(4, work))


def test_a_net_that_several_threads_train_breaks_nothing(mode):
    """What comes of it is up to chance, and steps may be refused; but it can be trained on."""
    with mg.random.fork(0):
        training = Training("images")
        net, optimizer = training.net, training.optimizer
        x, y = training.batches.arrays

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optim.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()

    def work(i: int) -> int:
        done = 0
        for k in range(40):
            # A gradient or a value that another thread has taken away.
            with contextlib.suppress(RuntimeError, AttributeError):
                step()
                done += 1
            if k % 10 == i:
                for part in (net, optimizer):
                    part.load_state_dict(part.state_dict())
        return done

    assert sum(in_threads(4, work)) > 0
    assert mg.is_grad_enabled()
    before = net.state_dict()
    step()
    for name, array in net.state_dict().items():
        assert np.isfinite(array).all()
        assert array.shape == before[name].shape
    assert net.state_dict()["0.weight"].tobytes() != before["0.weight"].tobytes()


# --- transforms ----------------------------------------------------------------------------------------


def test_transforms_in_threads():
    """Which put other tensors in the places of a net's parameters: threads take turns at that."""
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    nodes = [p.node for p in net.parameters()]
    own = {name: p.detach() for name, p in net.named_parameters()}

    def loss(params: Any, x: mg.Tensor) -> mg.Tensor:
        return (nn.functional_call(net, params, x) ** 2).sum()

    def work(i: int) -> list[bytes]:
        with mg.random.fork(i):
            x = mg.random.normal((5, 4))
            params = {name: p * (1 + i) for name, p in own.items()}
        found = [
            mg.grad(loss)(params, x),
            mg.vmap(mg.grad(loss), (None, 0))(params, x),
            mg.grad(lambda params: mg.checkpoint(lambda x: loss(params, x))(x))(params),
            mg.grad(lambda net: (mg.checkpoint(net)(x) ** 2).sum())(net),
        ]
        return [g.detach().numpy().tobytes() for tree in found for g in tree.values()]

    alone = [work(i) for i in range(6)]
    assert in_threads(6, lambda i: [work(i) for _ in range(3)]) == [[each] * 3 for each in alone]
    assert [p.node for p in net.parameters()] == nodes


def test_a_transform_never_takes_what_another_thread_lends_to_a_net():
    """By `functional_call`, tensors of another shape, and without a gradient."""
    net = nn.Linear(3, 1, bias=False)
    x, wide = mg.ones((2, 3)), mg.ones((5, 3))

    class Slow(nn.Module):
        def __init__(self):
            self.inner = net

        def forward(self, x: mg.Tensor) -> mg.Tensor:
            y = self.inner(x)
            time.sleep(0.001)  # so that others come in between
            return y

    slow = Slow()

    def work(i: int) -> Any:
        if i % 2:
            return [nn.functional_call(slow, {"inner.weight": wide}, x).shape for _ in range(30)]
        return [mg.grad(lambda net: net(x).sum())(net) for _ in range(30)]

    found, shapes, *more = in_threads(4, work)
    assert set(shapes) == set(more[1]) == {(2, 5)}
    for gradients in (*found, *more[0]):
        assert not gradients["weight"].requires_grad
        assert gradients["weight"].tolist() == [[2.0, 2.0, 2.0]]


def test_checkpoints_with_dropout_in_threads():
    """The second run draws again what the first one drew: so each thread needs a stream of its own."""
    x = mg.ones((4, 64))

    def gradient(i: int) -> bytes:
        with mg.random.fork(i):
            w = mg.ones(64, requires_grad=True)
            mg.checkpoint(lambda w: nn.functional.dropout(x * w, 0.5))(w).sum().backward()
            return w.grad.numpy().tobytes()

    alone = [gradient(i) for i in range(6)]
    assert len(set(alone)) == 6
    assert in_threads(6, lambda i: [gradient(i) for _ in range(20)]) == [[each] * 20 for each in alone]


# --- kernels -------------------------------------------------------------------------------------------


@needs_compiler
def test_kernels_that_several_threads_use_first(tmp_path):
    """In a fresh process with an empty cache folder: each is compiled once, and serves all."""
    code = """
import sys
sys.setswitchinterval(1e-6)
from minigrad.kernels import compiler
made, compile_source = [], compiler.compile_source
def noted(compiler, flags, source, library):
    made.append(source)
    compile_source(compiler, flags, source, library)
compiler.compile_source = noted
from helpers import in_threads
from trainings import trained
together = in_threads(8, lambda i: trained("perceptron", i % 2, epochs=1))
assert together == [trained("perceptron", i % 2, epochs=1) for i in range(8)]
print(len(made), len(set(made)))
"""
    printed = python(code, MINIGRAD_CACHE=str(tmp_path), MINIGRAD_KERNELS="on")
    compiled, different = map(int, printed.split())
    assert compiled == different == len(list(tmp_path.glob("*.so"))) > 3
