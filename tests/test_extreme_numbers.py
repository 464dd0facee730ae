"""NaN, infinities, subnormal and huge numbers through the optimizers: what the formulas make of them.

Each element of a parameter is stepped by itself: so one parameter tries all combinations at once. Oracles are
torch, where it computes the same, and else the formulas, written out here in NumPy.
"""

import contextlib
import itertools
import math
from typing import Any

import numpy as np
import pytest
from helpers import torch_or_skip, use_kernels

import minigrad as mg
from minigrad.optim import SGD, Adam, AdamW, Optimizer, RAdam, clip_grad_norm_, clip_grad_value_


@pytest.fixture(params=["array code", "kernels"], autouse=True)
def _mode(request, monkeypatch):
    """Computed both ways. NumPy warns of what it meets here; kernels do not."""
    use_kernels(monkeypatch, request.param == "kernels")
    with np.errstate(all="ignore"):
        yield


def specials(dtype: Any) -> np.ndarray:
    """The ends of the range of numbers, and of those whose squares are in it."""
    about = np.finfo(dtype)
    large, tiny = (math.sqrt(float(x)) for x in (about.max, about.tiny))
    some = [0.0, 1.0, math.inf, about.max, about.tiny, about.smallest_subnormal, large * 0.9, large * 40,
            tiny * 0.1, tiny * 1e-3]  # fmt: skip
    return np.array([math.nan, *some, *(-x for x in some)]).astype(dtype)


def gradients(dtype: Any, starts: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """For each element where it starts, and nine gradients: two of them, at three times, are special."""
    about = np.finfo(dtype)
    start = np.array([1.0, 0.0, about.max, 3 * about.smallest_subnormal, math.inf, math.nan][:starts], dtype)
    s = specials(dtype)
    p, one, two = (a.ravel() for a in np.meshgrid(start, s, s, indexing="ij"))
    usual = np.full_like(p, 0.5)
    return p, [usual, one, two, usual, usual, usual, usual, two, usual]


def stepped(optimizer: Optimizer, p: mg.Tensor, gs: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The parameter and its state after steps with these gradients."""
    for g in gs:
        p.grad = mg.tensor(g)
        optimizer.step()
    state = {name: np.asarray(a) for name, a in optimizer.state.get(p, {}).items() if name != "step"}
    return {"p": p.detach().numpy(), **state}


def assert_alike(got: np.ndarray, want: np.ndarray, rtol: float, scale: float = 0.0) -> None:
    """NaN where it is NaN, the same infinities, and the rest within rounding: of numbers as large as `scale`,
    or else of their own."""
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(got) * got, np.isinf(want) * want)
    finite = np.isfinite(want)
    a, b = got[finite].astype(np.longdouble), want[finite].astype(np.longdouble)
    wrong = np.abs(a - b) > rtol * np.maximum(np.abs(b), max(scale, np.finfo(got.dtype).tiny))
    assert not wrong.any(), (a[wrong], b[wrong])


RULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (SGD, {"lr": 0.1}),
    "sgd, decay": (SGD, {"lr": 0.1, "weight_decay": 0.1}),
    "momentum": (SGD, {"lr": 0.1, "momentum": 0.9}),
    "dampening": (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.2}),
    "nesterov": (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "maximize": (SGD, {"lr": 0.1, "momentum": 0.9, "maximize": True}),
    "adam": (Adam, {"lr": 0.01}),
    "adam, decay": (Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "adam, no eps": (Adam, {"lr": 0.01, "eps": 0.0}),
    "amsgrad": (Adam, {"lr": 0.01, "amsgrad": True}),
    "adamw": (AdamW, {"lr": 0.01}),
    "adamw, amsgrad": (AdamW, {"lr": 0.01, "amsgrad": True}),
    "radam": (RAdam, {"lr": 0.01}),
    "radam, decay": (RAdam, {"lr": 0.01, "weight_decay": 0.1}),
    "radam, decoupled": (RAdam, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
}


# --- all of them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES)
def test_what_torch_makes_of_them(rule, dtype):
    torch = torch_or_skip()
    make, settings = RULES[rule]
    start, gs = gradients(dtype, 6)
    p = mg.tensor(start, requires_grad=True)
    got = stepped(make([p], **settings), p, gs)
    q = torch.tensor(start, requires_grad=True)
    theirs = getattr(torch.optim, make.__name__)([q], foreach=False, **settings)
    for g in gs:
        q.grad = torch.tensor(g)
        theirs.step()
    state = {k: a.numpy() for k, a in theirs.state[q].items() if k != "step" and a is not None}
    want = {"p": q.detach().numpy(), **state}
    assert got.keys() == want.keys()
    for name, array in got.items():
        assert_alike(array, want[name], 1e-5 if dtype == np.float32 else 1e-13)


def formulas(rule: str, start: np.ndarray, gs: list[np.ndarray], unrectified: str = "") -> np.ndarray:
    """The parameter after steps of 0.01, by Adam or RAdam as in the papers, in float32 for float16."""
    wide = np.float32 if start.dtype == np.float16 else start.dtype.type
    b1, b2, lr, eps = 0.9, 0.999, 0.01, 1e-8
    limit = 2 / (1 - b2) - 1
    p = start
    m, v = np.zeros_like(start, wide), np.zeros_like(start, wide)
    for t, given in enumerate(gs, 1):
        g, old = given.astype(wide), p.astype(wide)
        m = m + wide(1 - b1) * (g - m)
        v = wide(b2) * v + wide(1 - b2) * g * g
        mean, root = m / wide(1 - b1**t), np.sqrt(v / wide(1 - b2**t))
        rho = limit - 2 * t * b2**t / (1 - b2**t)
        if rule == "radam" and rho > 5:
            r = math.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
            added = eps if unrectified == "adam" else eps / math.sqrt(1 - b2**t)
            step = wide(lr * r) * mean / (root + wide(added))
        elif unrectified == "skip":
            step = wide(0) * mean
        elif rule == "radam" and unrectified == "momentum":
            step = wide(lr) * mean
        else:
            step = wide(lr) * mean / (root + wide(eps))
        p = (old - step).astype(start.dtype)
    return p


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("rule", "unrectified"), [("adam", ""), ("radam", "momentum"), ("radam", "adam"), ("radam", "skip")]
)
def test_what_the_formulas_make_of_them(rule, unrectified, dtype):
    """float16 has its state in float32: its squares neither overflow nor vanish."""
    start, gs = gradients(dtype, 2)
    p = mg.tensor(start, requires_grad=True)
    optimizer = RAdam([p], 0.01, unrectified=unrectified) if unrectified else Adam([p], 0.01)
    got = stepped(optimizer, p, gs)
    want = formulas(rule, start, gs, unrectified)
    # v̂ may overflow where v does not: kernels and torch divide by its root in two steps.
    same = np.isfinite(got["exp_avg_sq"]) | ~np.isfinite(want)
    assert same.mean() > 0.9 or dtype != np.float16
    rtol = {np.float16: 1e-3, np.float32: 1e-6, np.float64: 1e-14}[dtype]
    assert_alike(got["p"][same], want[same], rtol, scale=1.0)
    if dtype == np.float16:
        finite = np.isfinite(gs[1]) & np.isfinite(gs[2])
        assert np.isfinite(got["exp_avg_sq"][finite]).all()


# --- what the docstrings say -----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", RULES)
def test_one_bad_gradient_spoils_its_element_alone(rule, bad):
    """There for ever, in all that it has come to; all others have the bytes that they would have."""
    make, settings = RULES[rule]
    gs = [np.full(5, 0.5 + 0.1 * t, np.float32) for t in range(12)]
    p, q = mg.ones(5, requires_grad=True), mg.ones(5, requires_grad=True)
    good = stepped(make([q], **settings), q, gs)
    gs[2] = np.array([0.7, 0.7, bad, 0.7, 0.7], np.float32)
    spoilt = stepped(make([p], **settings), p, gs)
    others = [0, 1, 3, 4]
    for name, array in spoilt.items():
        assert array[others].tobytes() == good[name][others].tobytes()
        assert not np.isfinite(array[2]), name
    if math.isnan(bad) or make is not SGD:
        assert math.isnan(spoilt["p"][2])


def test_a_square_that_overflows_stops_its_element_for_ever():
    """(1 - β2) g² is infinite in float32 from |g| = 5.8e20 on: m / √v is 0. (No finite g is skipped.)"""
    for dtype, root in ((np.float32, 2.0**64), (np.float64, 2.0**512)):
        limit = root / math.sqrt(1 - 0.999)
        for make in (Adam, AdamW, RAdam):
            p = mg.ones(3, dtype=dtype, requires_grad=True)
            optimizer = make([p], lr=0.1, weight_decay=0.0)
            usual = np.ones(3, dtype)
            stepped(optimizer, p, [usual] * 6)
            p.grad = mg.tensor(np.array([1.0, limit * 0.99, limit * 1.01], dtype))
            optimizer.step(skip_nonfinite=True)
            assert optimizer.skipped == 0
            v = optimizer.state[p]["exp_avg_sq"]
            assert np.isfinite(v).tolist() == [True, True, False]
            before = p.tolist()
            after = stepped(optimizer, p, [usual] * 20)["p"].tolist()
            assert after[2] == before[2]
            assert after[0] != before[0]


def test_a_square_that_vanishes_leaves_eps_alone_in_the_root():
    """(1 - β2) g² is 0 in float32 from |g| = 8e-22 down: the step is lr m̂ / ε; without ε infinite."""
    g = np.array([1e-21, 7e-22, 0.0], np.float32)
    p = mg.zeros(3, requires_grad=True)
    optimizer = Adam([p], lr=1e10)
    got = stepped(optimizer, p, [g])["p"]
    np.testing.assert_allclose(got, [-1e10 * 1e-21 / 1e-8, -1e10 * 7e-22 / 1e-8, 0], rtol=1e-5)
    assert (np.asarray(optimizer.state[p]["exp_avg_sq"]) > 0).tolist() == [True, False, False]
    q = mg.zeros(3, requires_grad=True)
    got = stepped(Adam([q], lr=0.1, eps=0.0), q, [g])["p"]
    assert (np.isfinite(got).tolist(), got[1]) == ([True, False, False], -math.inf)
    assert math.isnan(got[2])  # 0 / 0


@pytest.mark.parametrize("make", [SGD, Adam, RAdam])
def test_float16_overflows_beyond_65504_and_stays_there(make):
    p = mg.tensor(np.array([-65504, -1, 1], np.float16), requires_grad=True)
    optimizer = make([p], lr=40.0)
    for _ in range(20):
        p.grad = mg.ones(3, dtype=np.float16)
        optimizer.step()
    assert p.tolist()[0] == -math.inf
    assert np.isfinite(p.tolist()[1:]).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [3, 1 << 22])
def test_subnormal_numbers_are_numbers(dtype, size):
    """No kernel flushes them to zero, on any of its threads; a GPU does."""
    one = np.finfo(dtype).smallest_subnormal
    for make, want in ((lambda p: SGD(p, lr=0.5), 5), (lambda p: SGD(p, lr=0.25, momentum=0.5), 5.5)):
        p = mg.tensor(np.full(size, 6 * one, dtype), requires_grad=True)
        got = stepped(make([p]), p, [np.full(size, 2 * one, dtype)])["p"]
        np.testing.assert_array_equal(got, np.round(want) * one)


def test_decay_of_what_is_huge():
    """Coupled decay makes a gradient of it, whose square overflows; the decoupled one only shrinks it."""
    huge = [3e38, math.inf]
    p, q, r = (mg.tensor(huge, requires_grad=True) for _ in range(3))
    zero = [np.zeros(2, np.float32)] * 3
    coupled = stepped(Adam([p], lr=0.1, weight_decay=0.1), p, zero)["p"]
    assert coupled[0] == np.float32(3e38)  # m / √v is 0: it does not decay at all
    assert math.isnan(coupled[1])
    decoupled = stepped(AdamW([q], lr=0.1, weight_decay=0.1), q, zero)["p"]
    np.testing.assert_allclose(decoupled, [3e38 * 0.99**3, math.inf], rtol=1e-6)
    plain = stepped(SGD([r], lr=0.1, weight_decay=0.1), r, zero)["p"]
    np.testing.assert_allclose(plain[0], 3e38 * 0.99**3, rtol=1e-6)
    assert math.isnan(plain[1])  # infinity less infinity


# --- clipping --------------------------------------------------------------------------------------------


def given(values: Any, dtype: Any) -> mg.Tensor:
    """A parameter with these gradients."""
    p = mg.zeros(len(values), dtype=dtype, requires_grad=True)
    p.grad = mg.tensor(np.array(values, dtype))
    return p


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.0, 1.0, math.inf])
def test_clipping_by_the_norm_against_torch(max_norm, norm_type):
    torch = torch_or_skip()
    about = np.finfo(np.float64)
    values = [
        math.nan,
        math.inf,
        -math.inf,
        0.0,
        1.0,
        about.max,
        about.tiny,
        about.smallest_subnormal,
        1e-200,
    ]
    for pair in itertools.product(values, repeat=2):
        p, q = given(pair, np.float64), torch.zeros(2, dtype=torch.float64, requires_grad=True)
        q.grad = torch.tensor(pair, dtype=torch.float64)
        norm = clip_grad_norm_([p], max_norm, norm_type).item()
        want = torch.nn.utils.clip_grad_norm_([q], max_norm, norm_type, foreach=False).item()
        assert norm == pytest.approx(want, rel=1e-12, nan_ok=True), pair
        assert_alike(p.grad.numpy(), q.grad.numpy(), 1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_norms_of_narrow_numbers_neither_overflow_nor_vanish(dtype):
    """They are summed up in float64. (torch's overflow, and clipping makes zeros of such gradients.)"""
    about = np.finfo(dtype)
    for size in (about.max, about.tiny, about.smallest_subnormal):
        p = given([size, size], dtype)
        norm = clip_grad_norm_([p], 1.0).item()
        with contextlib.suppress(OverflowError):
            assert norm == pytest.approx(float(np.float32(math.sqrt(2) * float(size))), rel=1e-6)
        want = np.array([size, size], np.float64)
        want = want * min(1.0, 1.0 / (math.sqrt(2) * float(size) + 1e-6))
        assert_alike(p.grad.numpy(), want.astype(dtype), 1e-3 if dtype == np.float16 else 1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bound", [0.0, 1e-30, 1.0, math.inf])
def test_clipping_by_value(bound, dtype):
    """As minimum and maximum do it: NaN stays."""
    p = given(specials(dtype), dtype)
    clip_grad_value_([p], bound)
    want = np.maximum(np.minimum(specials(dtype), dtype(bound)), dtype(-bound))
    np.testing.assert_array_equal(p.grad.numpy(), want)
