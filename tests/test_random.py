"""Random numbers: the stream and its state, threads, distributions, and the way taken on a GPU."""

import contextlib
import json
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import in_threads, python
from test_stand_in import Array, cupy  # noqa: F401 - a fixture, used by its name

import minigrad as mg
from minigrad.backend import of

FLOATS = [mg.float16, mg.float32, mg.float64]


@pytest.fixture(autouse=True)
def _own_stream():
    """What other tests draw is not changed by the seeds here, nor the other way round."""
    with mg.random.fork(12345):
        yield


def some() -> list[np.ndarray]:
    """Numbers of every kind, an odd count of 32-bit ones among them: NumPy keeps half a word for later."""
    return [
        mg.random.uniform(3).numpy(),
        mg.random.normal((2, 2), dtype=mg.float64).numpy(),
        mg.random.integers(-5, 5, 4).numpy(),
        mg.random.bernoulli(5).numpy(),
        mg.random.permutation(6).numpy(),
    ]


def assert_equal(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    assert [x.tobytes() for x in a] == [x.tobytes() for x in b]


# --- the stream and its state ------------------------------------------------------------------------


def test_a_seed_repeats():
    mg.random.seed(7)
    first, second = some(), some()
    assert first[0].tolist() != second[0].tolist()
    mg.random.seed(7)
    assert_equal(some() + some(), first + second)
    mg.random.seed(8)
    assert some()[0].tolist() != first[0].tolist()
    mg.random.seed(7)
    assert mg.random.generator().random() == np.random.default_rng(7).random()


def test_a_bad_seed_changes_nothing():
    state = mg.random.get_state()
    with pytest.raises(ValueError, match="non-negative"):
        mg.random.seed(-1)
    with pytest.raises(TypeError, match="ints"):
        mg.random.seed(1.5)  # pyright: ignore[reportArgumentType]
    assert mg.random.get_state() == state


def test_the_state_goes_through_json_and_safetensors(tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    mg.random.uniform(3)
    state = mg.random.get_state()
    assert state["has_uint32"] == "1"  # three numbers of 32 bits are one word and a half
    save_file({"x": np.zeros(1)}, tmp_path / "x.safetensors", metadata=state)
    with safe_open(tmp_path / "x.safetensors", framework="np") as file:
        stored = file.metadata()
    expected = some()
    for its in (state, json.loads(json.dumps(state)), stored):
        mg.random.set_state(its)
        assert_equal(some(), expected)


def test_a_state_goes_on_in_a_fresh_process():
    mg.random.normal(5)
    state = mg.random.get_state()
    program = (
        "import sys, json, minigrad as mg\n"
        "mg.random.set_state(json.loads(sys.argv[1]))\n"
        "draws = [mg.random.uniform(3), mg.random.normal((2, 2), dtype=mg.float64),\n"
        "         mg.random.integers(-5, 5, 4), mg.random.bernoulli(5), mg.random.permutation(6)]\n"
        "print([x.numpy().tobytes().hex() for x in draws])"
    )
    assert python(program, json.dumps(state)) == str([x.tobytes().hex() for x in some()])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bit_generator": "MT19937"}, "one of PCG64, got 'MT19937'"),
        ({"state": 5}, "'state' must be the digits"),
        ({"state": "-5"}, "'state' must be the digits"),
        ({"state": "٣"}, "'state' must be the digits"),
        ({"state": str(1 << 128)}, "'state' must be the digits"),
        ({"state": "0" * 5000}, "'state' must be the digits"),
        ({"inc": "2"}, "'inc' must be odd"),
        ({"has_uint32": "2"}, "'has_uint32' must be the digits of an integer from 0 to 1"),
        ({"uinteger": str(1 << 32)}, "'uinteger' must be the digits"),
        ({"more": "1"}, "what get_state"),
        (None, "what get_state"),
    ],
)
def test_a_bad_state_changes_nothing(change, message):
    before = mg.random.get_state()
    state: Any = None if change is None else before | change
    with pytest.raises(ValueError, match="set_state: .*" + message):
        mg.random.set_state(state)
    if isinstance(state, dict):
        with pytest.raises(ValueError, match="fork: .*" + message), mg.random.fork(state):
            pass
    assert mg.random.get_state() == before
    del before["inc"]
    with pytest.raises(ValueError, match="what get_state"):
        mg.random.set_state(before)


def test_a_fork_leaves_the_stream_outside():
    state = mg.random.get_state()
    expected = some()
    mg.random.set_state(state)
    with mg.random.fork(1):
        first = some()
        with mg.random.fork(state):  # as when a forward pass is run again
            assert_equal(some(), expected)
        mg.random.seed(3)
        assert_equal([mg.random.uniform(2).numpy()], [_after(3)])
    assert_equal(some(), expected)
    with mg.random.fork(1):
        assert_equal(some(), first)
    mg.random.set_state(state)
    with contextlib.suppress(KeyError), mg.random.fork(1):
        raise KeyError
    assert_equal(some(), expected)


def _after(seed: int) -> np.ndarray:
    with mg.random.fork(seed):
        return mg.random.uniform(2).numpy()


# --- threads -----------------------------------------------------------------------------------------


@pytest.fixture
def shared(monkeypatch):
    """The stream that all threads share, not yet made."""
    monkeypatch.setattr(mg.random, "_shared", None)
    token = mg.random._own.set(None)
    yield
    mg.random._own.reset(token)


def test_threads_share_the_stream_and_lose_nothing(shared):
    def draw(_):
        return np.concatenate([mg.random.integers(0, 1 << 62, 50).numpy() for _ in range(200)])

    mg.random.seed(5)
    alone = np.concatenate([draw(0) for _ in range(8)])
    mg.random.seed(5)
    together = np.concatenate(in_threads(8, draw))
    assert len(set(together.tolist())) == 8 * 200 * 50
    np.testing.assert_array_equal(np.sort(together), np.sort(alone))


def test_threads_make_one_stream(shared):
    for _ in range(20):
        mg.random._shared = None
        assert len(set(map(id, in_threads(8, lambda i: mg.random.generator())))) == 1


def test_seeds_and_states_while_others_draw(shared):
    """Each word of the state is whole: what it gives is found in the stream of one of the seeds."""
    mg.random.seed(0)
    known = set()
    for seed in range(3):
        with mg.random.fork(seed):
            known.update(mg.random.integers(0, 1 << 62, 8 * 3000).tolist())

    def work(i: int) -> list[int]:
        drawn = []
        for k in range(300):
            if i == 0:
                mg.random.seed(k % 3)
            elif i == 1:
                mg.random.set_state(mg.random.get_state())
            drawn += mg.random.integers(0, 1 << 62, 10).tolist()
        return drawn

    for drawn in in_threads(8, work):
        assert len(drawn) == 3000
        assert known.issuperset(drawn)


@pytest.mark.parametrize(
    "touch", [mg.random.get_state, lambda: mg.random.seed(1), lambda: mg.random.permutation(3)]
)
def test_the_stream_is_touched_under_its_lock(shared, touch):
    before = mg.random.generator().random()
    thread = threading.Thread(target=touch)
    with mg.random.generator().bit_generator.lock:
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
    thread.join(10)
    assert not thread.is_alive()
    assert mg.random.generator().random() != before


def test_threads_that_fork_repeat(shared):
    def work(i: int) -> list[np.ndarray]:
        with mg.random.fork(i):
            return [x for _ in range(50) for x in some()]

    first = in_threads(8, work)
    for i, drawn in enumerate(in_threads(8, work)):
        assert_equal(drawn, first[i])
    assert len({its[0].tobytes() for its in first}) == 8


# --- what is drawn -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(), 0, 3, (2, 0), (2, 3, 4), [5]])
def test_shapes_and_dtypes(dtype, shape):
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    for x in (
        mg.random.uniform(shape, dtype=dtype),
        mg.random.normal(shape, dtype=dtype),
        mg.random.bernoulli(shape, dtype=dtype),
    ):
        assert (x.shape, x.dtype, x.device, x.requires_grad) == (sizes, dtype, "numpy", False)
        assert type(x._data) is np.ndarray
    assert mg.random.integers(0, 3, shape).shape == sizes


def test_defaults_and_options():
    assert {x.dtype for x in (mg.random.uniform(1), mg.random.normal(1), mg.random.bernoulli(1))} == {
        np.dtype("float32")
    }
    assert mg.random.integers(0, 9, 1).dtype == mg.random.permutation(3).dtype == np.int64
    assert mg.random.bernoulli(3, dtype=mg.bool).dtype == np.bool_
    leaf = mg.random.normal(2, requires_grad=True)
    (leaf * 2).sum().backward()
    assert leaf.grad.tolist() == [2, 2]
    assert mg.random.uniform(2, requires_grad=True).requires_grad
    for dtype in ("int8", "uint8", "int32", "uint64"):
        limits = np.iinfo(dtype)
        x = mg.random.integers(limits.min, int(limits.max) + 1, 1000, dtype=dtype)
        assert x.dtype == dtype
        assert x.max().item() - x.min().item() > 0.9 * (int(limits.max) - int(limits.min))


def test_other_backends_get_what_numpy_draws():
    state = mg.random.get_state()
    expected = some()
    mg.random.set_state(state)
    with mg.use_backend("strict"):
        found = [
            mg.random.uniform(3),
            mg.random.normal((2, 2), dtype=mg.float64),
            mg.random.integers(-5, 5, 4),
            mg.random.bernoulli(5),
            mg.random.permutation(6),
        ]
    assert {x.device for x in found} == {"strict"}
    assert_equal([x.to("numpy").numpy() for x in found], expected)
    x = mg.ones(100, device="strict", requires_grad=True)
    assert sorted(set(mg.nn.functional.dropout(x, 0.5).tolist())) == [0, 2]
    assert mg.nn.init.normal_(mg.zeros(3, device="strict")).device == "strict"  # by its own dtypes


@pytest.mark.parametrize("dtype", FLOATS)
def test_uniform_never_gives_its_upper_bound(dtype):
    for low, high in ((0, 1), (0.5, 0.5 + 2.0**-10), (1000, 1001), (-1, 1)):
        x = mg.random.uniform(200_000, low, high, dtype=dtype).numpy()
        assert low <= x.min()
        assert x.max() < high
    assert mg.random.uniform(3, 0.25, 0.25, dtype=dtype).tolist() == [0.25] * 3
    assert mg.random.uniform(3, -0.0, 0.0, dtype=dtype).tolist() == [0] * 3


@pytest.mark.parametrize("dtype", FLOATS)
def test_distributions(dtype):
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    n = 200_000
    bound = 4 / np.sqrt(n)  # four standard deviations of a mean of what has the variance 1
    for draw, its in (
        (lambda: mg.random.uniform(n, -1, 3, dtype=dtype), stats.uniform(-1, 4)),
        (lambda: mg.random.normal(n, 0.5, 2, dtype=dtype), stats.norm(0.5, 2)),
    ):
        x = draw().numpy().astype(np.float64)
        assert abs(x.mean() - its.mean()) < bound * its.std()
        kurtosis = float(its.stats("k")) + 3
        assert abs(x.var() / its.var() - 1) < bound * np.sqrt(kurtosis - 1)
        # float16 has steps: as a distance of distributions, up to half of the widest, 2^-9 of 4.
        assert stats.kstest(x, its.cdf).statistic < 1.95 / np.sqrt(n) + (2**-10 if dtype == mg.float16 else 0)
        assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < bound


def test_discrete_distributions():
    n = 90_000
    counts = np.bincount(mg.random.integers(3, 12, n).numpy() - 3, minlength=9)
    assert counts.sum() == n
    chi = ((counts - 10_000) ** 2 / 10_000).sum()
    assert chi < 26.1  # which 8 degrees of freedom exceed once in 1000
    for p in (0, 0.1, 0.5, 1):
        x = mg.random.bernoulli(n, p).numpy()
        assert set(x) <= {0, 1}
        assert abs(x.mean() - p) <= 4 * np.sqrt(p * (1 - p) / n)
    orders = np.array([mg.random.permutation(3).numpy() for _ in range(6000)])
    assert (np.sort(orders, axis=1) == np.arange(3)).all()
    counts = np.unique(orders @ [9, 3, 1], return_counts=True)[1]
    assert len(counts) == 6
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # 5 degrees of freedom


def test_probabilities_of_0_and_1_are_sure(monkeypatch):
    for u in (0.0, np.nextafter(np.float32(1), np.float32(0))):
        rng = SimpleNamespace(random=lambda size, dtype, u=u: np.full(size, u, dtype))
        monkeypatch.setattr(mg.random, "generator", lambda rng=rng: rng)
        assert (mg.random.bernoulli(1, 0).item(), mg.random.bernoulli(1, 1).item()) == (0, 1)


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda: mg.random.uniform(2, 1, 0), ValueError, "uniform: needs low <= high.*low=1, high=0"),
        (lambda: mg.random.uniform(2, float("nan")), ValueError, "uniform: needs low"),
        (lambda: mg.random.uniform(2, 0, float("inf")), ValueError, "uniform: needs low"),
        (lambda: mg.random.uniform(2, -3e38, 3e38), ValueError, "float32 can hold"),
        (lambda: mg.random.uniform(2, 0, 1e5, dtype=mg.float16), ValueError, "float16 can hold"),
        (lambda: mg.random.uniform(2, dtype=mg.int32), TypeError, "uniform: the dtype.*int32"),
        (lambda: mg.random.uniform((2, -1)), ValueError, r"uniform: .*negative sizes, got \(2, -1\)"),
        (lambda: mg.random.normal(2, 0, -1), ValueError, "normal: std must not be negative, got -1"),
        (lambda: mg.random.normal(2, 0, float("nan")), ValueError, "normal: std"),
        (lambda: mg.random.normal(2, dtype=mg.bool), TypeError, "normal: the dtype.*bool"),
        (lambda: mg.random.normal(2.5), TypeError, r"normal: a shape is.*got 2\.5"),
        (lambda: mg.random.normal("2"), TypeError, "normal: a shape is"),
        (lambda: mg.random.normal(2, dtype="no such"), TypeError, "no such"),
        (lambda: mg.random.integers(3, 3, 2), ValueError, "integers: needs low < high.*got 3 and 3"),
        (lambda: mg.random.integers(0, 129, 2, dtype=mg.int8), ValueError, "int8"),
        (lambda: mg.random.integers(-1, 2, 2, dtype=mg.uint8), ValueError, "uint8"),
        (lambda: mg.random.integers(0, 2, 2, dtype=mg.float32), TypeError, "integers: .*float32"),
        (lambda: mg.random.bernoulli(2, 1.5), ValueError, r"bernoulli: p must be from 0 to 1, got 1\.5"),
        (lambda: mg.random.bernoulli(2, dtype=complex), TypeError, "bernoulli: cannot hold complex128"),
        (lambda: mg.random.permutation(-1), ValueError, "permutation: n must not be negative, got -1"),
    ],
)
def test_errors(draw, error, message):
    state = mg.random.get_state()
    with pytest.raises(error, match=message):
        draw()
    assert mg.random.get_state() == state


def test_batches_follow_the_stream():
    def orders():
        mg.random.seed(4)
        batches = mg.data.batches(np.arange(20), size=20)
        return [b.tolist() for _ in range(2) for b in batches]

    first = orders()
    assert first[0] != first[1]
    assert orders() == first


# --- the way taken on a GPU, with a stand-in for CuPy --------------------------------------------------


class Philox:
    """CuPy's: keyword-only `size`; here it notes what was asked for."""

    made: list["Philox"] = []  # noqa: RUF012 - all of them

    def __init__(self, seed: int, *, size: int):
        assert type(seed) is int
        self.seed, self.size = seed, size
        Philox.made.append(self)


class Generator:
    """CuPy's: no more methods than these, and no other dtypes."""

    def __init__(self, bits: Philox):
        self.rng = np.random.default_rng(bits.seed)

    def random(self, size=None, dtype=np.float64):
        assert dtype in (np.float32, np.float64)
        return np.asarray(self.rng.random(size, dtype)).view(Array)

    def standard_normal(self, size=None, dtype=np.float64):
        assert dtype in (np.float32, np.float64)
        return np.asarray(self.rng.standard_normal(size, dtype)).view(Array)

    def integers(self, low, high=None, size=None, dtype=np.int64):
        return np.asarray(self.rng.integers(low, high, size, dtype)).view(Array)


@pytest.fixture
def gpu(cupy):  # noqa: F811
    cupy.random = SimpleNamespace(Generator=Generator, Philox4x3210=Philox)
    Philox.made.clear()
    with mg.use_backend("cupy"):
        yield


def test_cupy_draws_on_the_gpu_from_seeds_of_the_stream(gpu):
    def draws():
        return [
            mg.random.uniform((3, 4), -1, 2),
            mg.random.normal(5, 1, 2, dtype=mg.float64, requires_grad=True),
            mg.random.normal(300, dtype=mg.float16),
            mg.random.integers(0, 9, 1000),
            mg.random.bernoulli((2, 3), 0.3),
            mg.random.uniform(()),
            mg.random.uniform(0),
        ]

    state = mg.random.get_state()
    first = draws()
    assert {type(x._data) for x in first} == {Array}
    assert {x.device for x in first} == {"cupy"}
    assert [x.shape for x in first] == [(3, 4), (5,), (300,), (1000,), (2, 3), (), (0,)]
    assert [x.requires_grad for x in first] == [False, True] + [False] * 5
    assert [x.dtype.name for x in first[:4]] == ["float32", "float64", "float16", "int64"]
    # A state for each thread, of which CuPy starts blocks of 256.
    assert [p.size for p in Philox.made] == [256, 256, 512, 1024, 256, 256, 256]
    assert len({p.seed for p in Philox.made}) == 7
    mg.random.set_state(state)
    again = draws()
    assert_equal([x.detach().numpy() for x in again], [x.detach().numpy() for x in first])
    assert [p.seed for p in Philox.made[:7]] == [p.seed for p in Philox.made[7:]]
    mg.random.uniform(10**6)
    assert Philox.made[-1].size == 1 << 17


def test_dropout_and_init_draw_on_the_gpu(gpu):
    x = mg.ones(1000, requires_grad=True)
    y = mg.nn.functional.dropout(x, 0.25)
    assert type(y._data) is Array
    assert len(Philox.made) == 1
    assert abs(y.mean().item() - 1) < 0.1
    mg.nn.Linear(3, 2)
    assert [p.size for p in Philox.made[1:]] == [256, 256]


def test_orders_are_those_of_the_host(gpu):
    with mg.random.fork(3):
        order = mg.random.permutation(10)
    assert order.device == "cupy"
    assert not Philox.made
    with mg.random.fork(3), mg.use_backend("numpy"):
        assert mg.random.permutation(10).tolist() == order.tolist()
    backend = of(order._data)
    assert backend is not None
    assert backend.name == "cupy"
