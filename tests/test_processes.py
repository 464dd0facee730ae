"""Forks, spawned processes and pools: they compute what their parent does, and none waits for ever.

Everything runs in processes of their own, which are killed if they take too long: a fork of the process of
these tests would have its threads, and the state that the tests before have left.
"""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import COMPILES, needs_compiler
from trainings import NETS, Training

import minigrad as mg
from minigrad import nn, optim

TIMEOUT = 120
"""Seconds after which a process counts as one that waits for ever."""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@pytest.fixture(params=["off", "on"])
def kernels(request):
    """What MINIGRAD_KERNELS is set to."""
    if request.param == "on" and not COMPILES:
        pytest.skip("no C++ compiler, or MINIGRAD_KERNELS=off")
    return request.param


def run(code: str, tmp_path: Path, kernels: str = "on", **environment: str) -> str:
    """What a fresh Python prints that runs `code`, a program in a file."""
    (tmp_path / "program.py").write_text(code)
    # BLAS has threads of its own there, as programs of users do.
    own = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    own |= {"PYTHONPATH": os.pathsep.join(sys.path), "MINIGRAD_KERNELS": kernels, **environment}
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "program.py"],
        cwd=tmp_path,
        env=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, problems = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # and whatever it has started
        pytest.fail(f"it did not come to an end: {process.communicate()}")
    assert process.returncode == 0, problems
    return out


# What the programs begin with. A fork that cannot go on is ended by the alarm.
BEGIN = """
import os, signal, sys, threading, time, warnings
warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
import numpy as np
import minigrad as mg
from trainings import NETS, trained

def forked(work):
    "What `work()` gives in a fork of this process."
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(60)
            os.close(receive)
            with os.fdopen(send, "wb") as pipe:
                pipe.write(work())
            code = 0
        finally:
            os._exit(code)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        result = pipe.read()
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"the fork ended with {status}"
    return result

def heavy():
    "What starts threads: of kernels, with large arrays, and of BLAS."
    with mg.random.fork(9):
        x = mg.random.normal((700, 700))
        w = mg.random.normal((700, 700), requires_grad=True)
    loss = mg.nn.functional.gelu(x @ w).mean()
    loss.backward()
    big = mg.ones(1 << 22, requires_grad=True)
    big.grad = mg.ones(1 << 22)
    optimizer = mg.optim.RAdam([big])
    for _ in range(7):
        optimizer.step()
    return w.grad.numpy().tobytes() + big.detach().numpy()[::100000].tobytes()
"""


# --- forks ---------------------------------------------------------------------------------------------


@needs_fork
def test_a_fork_computes_what_its_parent_does(tmp_path, kernels):
    """Right after the import; after threads were started; and a fork of a fork."""
    code = """
early = {kind: forked(lambda: trained(kind, 1)) for kind in NETS}
first = forked(heavy)
assert heavy() == first == forked(heavy)
for kind in NETS:
    assert trained(kind, 1) == early[kind] == forked(lambda: trained(kind, 1))
assert forked(lambda: forked(lambda: trained("images", 1))) == early["images"]
assert forked(lambda: forked(heavy)) == first
print("done")
"""
    assert run(BEGIN + code, tmp_path, kernels) == "done\n"


@needs_fork
@needs_compiler
def test_threads_end_before_a_fork(tmp_path):
    """Those that help with kernels: the new process does not have them, and Python warns of them."""
    code = """
import os, sys
seen = []
def look():
    seen.append(list(threads._pools[0]))
os.register_at_fork(before=look)                            # which comes after what is registered later
import numpy as np
from minigrad.kernels import ElementwiseKernel, threads
kernel = ElementwiseKernel("T x", "T y", "y = x + 1", "plus_one", cost=1e6, reference=lambda x: x + 1)
threads.count = lambda: 3
x = np.zeros(100_000)
kernel(x)
pool, alive = threads._pools[0], 0
for _ in range(20):
    kernel(x)
    alive += pool[2]
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
    else:
        os._exit(not (not any(pool[1:]) and (kernel(x) == 1).all()))
assert alive, "no thread came to help"
assert len(seen) == 20
for _, closed, alive, *boxes in seen:
    assert closed and not alive and not any(boxes), seen
pool[1:] = [1] * len(pool[1:])
threads._begin()
assert not any(pool[1:])
print("done")
"""
    assert run(code, tmp_path) == "done\n"


@needs_fork
@needs_compiler
def test_threads_take_no_signals(tmp_path):
    """A signal that a program blocks in its own threads waits, as it must, and does not end the process."""
    code = """
import os, signal
import numpy as np
from minigrad.kernels import ElementwiseKernel, threads
kernel = ElementwiseKernel("T x", "T y", "y = x + 1", "plus_one", cost=1e6, reference=lambda x: x + 1)
threads.count = lambda: 3
x = np.zeros(100_000)
kernel(x)
for _ in range(50):
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
    else:
        for _ in range(5):
            kernel(x)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        os.kill(os.getpid(), signal.SIGUSR1)
        os._exit(signal.sigtimedwait({signal.SIGUSR1}, 10) is None)
print("done")
"""
    assert run(code, tmp_path) == "done\n"


@needs_fork
def test_forks_while_other_threads_compute(tmp_path, kernels):
    """In kernels, products, draws, transforms, the optimizer: of these threads the fork has none.

    OpenBLAS has one thread: with several, NumPy alone hangs if a process forks in the middle of a product.
    """
    code = """
net = mg.nn.Sequential(mg.nn.Linear(4, 8), mg.nn.Dropout(0.5), mg.nn.Linear(8, 1))
own = {name: p.detach().numpy() for name, p in net.named_parameters()}
x, stop = mg.ones((3, 4)), threading.Event()
lent = {name: 0 * mg.tensor(a) for name, a in own.items()}

def again(work):
    while not stop.is_set():
        work()

def train():
    trained("perceptron", 2)

def transform():
    mg.grad(lambda net: net(x).sum())(net)
    mg.nn.functional_call(net, lent, x)

threads = [
    threading.Thread(target=again, args=(work,))
    for work in (heavy, train, transform, lambda: mg.random.normal(1 << 16))
]
alone = trained("perceptron", 1)

def child():
    "Everything that takes a lock, with the net as it was."
    mg.random.normal(5)
    mg.random.seed(3)
    mg.grad(lambda net: net(x).sum())(net)
    for name, p in net.named_parameters():
        assert p.requires_grad and np.array_equal(p.detach().numpy(), own[name]), name
    return trained("perceptron", 1)

for thread in threads:
    thread.start()
try:
    for _ in range(25):
        assert forked(child) == alone
        time.sleep(0.005)
finally:
    stop.set()
print("done")
"""
    assert run(BEGIN + code, tmp_path, kernels, OPENBLAS_NUM_THREADS="1") == "done\n"


@needs_fork
def test_a_fork_has_the_stream_of_its_parent(tmp_path):
    """As NumPy's: all forks draw the same numbers, unless each takes a seed of its own."""
    code = """
mg.random.seed(0)
mg.random.normal(3)
drawn = lambda: mg.random.normal(4).numpy().tobytes()
one, two = forked(drawn), forked(drawn)
assert one == two == drawn()
def seeded(n):
    mg.random.seed(n)
    return drawn()
assert len({forked(lambda: seeded(n)) for n in range(5)}) == 5
assert forked(lambda: seeded(3)) == forked(lambda: seeded(3))
with mg.random.fork(7):
    inside = forked(drawn)
    assert inside == drawn() != one
print("done")
"""
    assert run(BEGIN + code, tmp_path) == "done\n"


# --- multiprocessing -----------------------------------------------------------------------------------

STARTS = [
    pytest.param("fork", marks=needs_fork),
    pytest.param("forkserver", marks=needs_fork),
    "spawn",
]


@pytest.mark.parametrize("start", STARTS)
def test_pools_and_processes(start, tmp_path):
    """Nets, optimizers, batches and tensors go there and back, and go on as if they had stayed."""
    code = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from trainings import Training

def go_on(training):
    with mg.random.fork(4):
        for _ in training.steps():
            pass
    return training

def double(x):
    return x * 2

def seeded(n):
    mg.random.seed(n)
    return mg.random.uniform(3)

if __name__ == "__main__":
    heavy()
    context = multiprocessing.get_context(START)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        sent = {}
        for kind in NETS:
            with mg.random.fork(1):
                sent[kind] = Training(kind)
                for _ in sent[kind].steps():
                    pass
        back = dict(zip(sent, pool.map(go_on, sent.values(), timeout=100)))
        for kind, training in sent.items():
            before = training.result()
            assert back[kind].result() != before
            assert go_on(training).result() == back[kind].result(), kind
            assert go_on(training).result() == go_on(back[kind]).result(), kind
        x = mg.reshape(mg.arange(6, dtype=mg.float64), (2, 3)).mT
        y = pool.submit(double, x).result(100)
        assert (y.tolist(), y.dtype, y.shape) == ((x * 2).tolist(), x.dtype, x.shape)
        tables = list(pool.map(seeded, range(6), timeout=100))
        assert len({tuple(t.tolist()) for t in tables}) == 6
        assert list(map(mg.Tensor.tolist, pool.map(seeded, range(6), timeout=100))) == [
            t.tolist() for t in tables
        ]
    print("done")
"""
    code = BEGIN.replace("\nimport os,", f"\nSTART = {start!r}\nimport os,") + code
    assert run(code, tmp_path, "on" if COMPILES else "off") == "done\n"


# --- pickle --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETS)
def test_a_pickled_training_goes_on_by_itself(kind):
    """Net and optimizer in one pickle are still tied to each other, and to nothing here."""
    with mg.random.fork(0):
        training = Training(kind)
        for _ in training.steps():
            pass
    before = training.result()
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        twin = pickle.loads(pickle.dumps(training, protocol))
        assert twin.result() == before
        with mg.random.fork(1):
            for _ in twin.steps():
                pass
        assert training.result() == before != twin.result()


def test_what_cannot_be_pickled_says_so():
    """A graph stays where it is: it may have hooks and rules that are functions."""
    x = mg.ones(2, requires_grad=True)
    y = x * 2
    with pytest.raises(RuntimeError, match="detach"):
        pickle.dumps(y)
    again = pickle.loads(pickle.dumps(x))
    assert again.requires_grad
    assert again.tolist() == [1, 1]


def test_pickles_share_no_memory_with_the_rows_of_an_optimizer():
    net = nn.Linear(3, 2)
    optimizer = optim.Adam(net.parameters())
    net(mg.ones((1, 3))).sum().backward()
    optimizer.step()
    other = pickle.loads(pickle.dumps(net.weight))
    assert other.grad is None or other.grad is not net.weight.grad
    before = other.detach().numpy()
    optimizer.step()
    np.testing.assert_array_equal(other.detach().numpy(), before)
    assert len(pickle.dumps(net.weight)) < 1000  # and not the whole row
