"""The optimizers: against torch over a thousand steps, against formulas written out here, and state."""

import itertools
import math
import warnings
from decimal import Decimal, getcontext
from typing import Any

import numpy as np
import pytest
from helpers import torch_or_skip

import minigrad as mg
from minigrad.optim import SGD, Adam, AdamW, Optimizer, RAdam
from minigrad.optim.radam import rectification, rho, rho_infinity


def problem(seed: int = 0, dtype: Any = np.float64) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Parameters, and targets that pull at them through a fixed quadratic with noise in its gradients."""
    random = np.random.default_rng(seed)
    shapes = [(3, 2), (4,), ()]
    start, targets = ([np.asarray(random.normal(size=s), dtype) for s in shapes] for _ in range(2))
    return start, targets


def slope(p: Any, target: Any, t: int, i: int) -> Any:
    """The gradient of parameter i in step t, in whichever library p is of."""
    return (p - target) * (1 + 0.5 * math.sin(t)) + 0.1 * math.cos(3 * t + i)


def run(
    make, steps: int, seed: int = 0, skip: int | None = None, dtype: Any = np.float64
) -> list[np.ndarray]:
    """Parameters after `steps`; the gradients depend on the parameters, and change from step to step."""
    start, targets = problem(seed, dtype)
    params = [mg.tensor(p, requires_grad=True) for p in start]
    optimizer = make(params)
    for t in range(steps):
        for i, (p, target) in enumerate(zip(params, targets, strict=True)):
            g = slope(p.detach(), mg.tensor(target), t, i)
            p.grad = None if skip == i and t % 3 == 0 else g
        optimizer.step()
    return [p.detach().numpy() for p in params]


def run_torch(make, steps: int, skip: int | None = None, dtype: Any = np.float64) -> list[np.ndarray]:
    torch = torch_or_skip()
    start, targets = problem(dtype=dtype)
    params = [torch.tensor(p, requires_grad=True) for p in start]
    optimizer = make(torch.optim, params)
    for t in range(steps):
        for i, (p, target) in enumerate(zip(params, targets, strict=True)):
            g = slope(p.detach(), torch.tensor(target), t, i)
            p.grad = None if skip == i and t % 3 == 0 else g
        optimizer.step()
    return [p.detach().numpy() for p in params]


def grid(**choices) -> list[dict]:
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


SGD_GRID = [
    settings
    for settings in grid(
        lr=[0.01, 0.1],
        momentum=[0.0, 0.9],
        dampening=[0.0, 0.3],
        weight_decay=[0.0, 0.1],
        nesterov=[False, True],
        maximize=[False, True],
    )
    if not (settings["nesterov"] and (not settings["momentum"] or settings["dampening"]))
    and not (settings["maximize"] and not settings["weight_decay"] and settings["lr"] == 0.1)
]
CLIMBING = [{"maximize": True}, {"maximize": True, "weight_decay": 0.1, "decoupled_weight_decay": True}]
ADAM_GRID = [
    *grid(
        lr=[1e-3, 0.1],
        betas=[(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)],
        eps=[1e-8, 1e-3],
        weight_decay=[0.0, 0.1],
        amsgrad=[False, True],
        decoupled_weight_decay=[False, True],
    ),
    *CLIMBING,
]
RADAM_GRID = [
    *grid(
        lr=[1e-3, 0.1],
        betas=[(0.9, 0.999), (0.5, 0.9), (0.9, 0.6), (0.9, 0.7), (0.9, 0.99), (0.9, 0.99999)],
        eps=[1e-8, 1e-3],
        weight_decay=[0.0, 0.1],
        decoupled_weight_decay=[False, True],
    ),
    *CLIMBING,
]


@pytest.mark.filterwarnings("ignore:RAdam. with beta2")
@pytest.mark.parametrize(
    ("name", "settings"),
    [(n, s) for n, g in (("SGD", SGD_GRID), ("Adam", ADAM_GRID), ("RAdam", RADAM_GRID)) for s in g],
    ids=lambda v: v if isinstance(v, str) else ",".join(f"{k}={x}" for k, x in v.items()),
)
def test_a_thousand_steps_against_torch(name, settings):
    steps = 50 if settings.get("maximize") and name == "SGD" else 1000  # a climb has no top
    theirs = run_torch(lambda optim, params: getattr(optim, name)(params, **settings), steps)
    ours = run(lambda params: getattr(mg.optim, name)(params, **settings), steps)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


@pytest.mark.filterwarnings("ignore:RAdam. with beta2")
@pytest.mark.parametrize(
    ("name", "settings"),
    [(n, s) for n, g in (("SGD", SGD_GRID), ("Adam", ADAM_GRID), ("RAdam", RADAM_GRID)) for s in g],
    ids=lambda v: v if isinstance(v, str) else ",".join(f"{k}={x}" for k, x in v.items()),
)
def test_ten_steps_in_float32_against_torch(name, settings):
    theirs = run_torch(lambda optim, params: getattr(optim, name)(params, **settings), 10, dtype=np.float32)
    ours = run(lambda params: getattr(mg.optim, name)(params, **settings), 10, dtype=np.float32)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["SGD", "Adam", "RAdam"])
def test_parameters_without_gradients_are_skipped_as_in_torch(name):
    settings = {"lr": 0.05, "weight_decay": 0.1} | ({"momentum": 0.9} if name == "SGD" else {})
    theirs = run_torch(lambda optim, params: getattr(optim, name)(params, **settings), 100, skip=1)
    ours = run(lambda params: getattr(mg.optim, name)(params, **settings), 100, skip=1)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


# --- RAdam by the formulas ---------------------------------------------------------------------------


def radam_written_out(steps: int, unrectified: str, lr=0.05, betas=(0.9, 0.999), eps=1e-8, threshold=5.0):
    """The rules as their texts give them, one number at a time; see RAdam for where they come from."""
    b1, b2 = betas
    results = []
    start, targets = problem()
    for i, (p0, target) in enumerate(zip(start, targets, strict=True)):
        theta, m, v = p0.astype(float), np.zeros_like(p0), np.zeros_like(p0)
        for t in range(1, steps + 1):
            g = slope(theta, target, t - 1, i)
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g**2
            m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
            rho_inf = 2 / (1 - b2) - 1
            rho_t = rho_inf - 2 * t * b2**t / (1 - b2**t)
            if rho_t > threshold:
                r = math.sqrt((rho_t - 4) * (rho_t - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho_t))
            else:
                r = None
            if unrectified == "adam":
                theta = theta - lr * (1.0 if r is None else r) * m_hat / (np.sqrt(v_hat) + eps)
            elif r is not None:  # the authors' package: eps is added before the bias is corrected
                theta = theta - lr * r * m_hat * math.sqrt(1 - b2**t) / (np.sqrt(v) + eps)
            elif unrectified == "momentum":
                theta = theta - lr * m_hat
        results.append(theta)
    return results


@pytest.mark.parametrize("unrectified", ["momentum", "adam", "skip"])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.9), (0.5, 0.99), (0.9, 0.7)])
@pytest.mark.parametrize("steps", [1, 4, 5, 6, 7, 300])  # both sides of the switch
@pytest.mark.parametrize("eps", [1e-8, 1e-2])
@pytest.mark.parametrize("threshold", [4.0, 5.0])
def test_radam_by_its_formulas(unrectified, betas, steps, eps, threshold):
    settings = {"lr": 0.05, "betas": betas, "eps": eps, "threshold": threshold}
    expected = radam_written_out(steps, unrectified, **settings)
    ours = run(lambda params: RAdam(params, unrectified=unrectified, **settings), steps)
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_the_switch_is_where_the_papers_have_it():
    """With β2 = 0.999 the first rectified step is the 6th for a threshold of 5, the 5th for 4."""
    assert next(t for t in range(1, 9) if rho(t, 0.999) > 5) == 6
    assert next(t for t in range(1, 9) if rho(t, 0.999) > 4) == 5
    np.testing.assert_allclose(rectification(6, 0.999), 0.026, atol=5e-4)


def test_skipped_steps_change_nothing_but_the_moments():
    p = mg.ones(2, dtype=mg.float64, requires_grad=True)
    optimizer = RAdam([p], unrectified="skip", weight_decay=0.5, decoupled_weight_decay=True)
    for _ in range(5):
        p.grad = mg.ones_like(p)
        optimizer.step()
    assert p.tolist() == [1, 1]
    assert optimizer.state[p]["step"] == 5
    p.grad = mg.ones_like(p)
    optimizer.step()
    assert p.tolist() != [1, 1]


def exact_rho(t: int, beta2: float) -> Decimal:
    b = Decimal(beta2)
    return 2 / (1 - b) - 1 - 2 * t * b**t / (1 - b**t)


@pytest.mark.parametrize(
    "beta2", [0.0, 0.1, 0.5, 0.6, 2 / 3, 0.7, 0.9, 0.99, 0.999, 0.99999, 1 - 1e-8, 1 - 1e-10, 1 - 1e-13]
)
def test_rho_to_many_digits(beta2):
    getcontext().prec = 80
    for t in (1, 2, 3, 5, 6, 7, 10, 100, 1000, 12345, 10**6):
        if beta2 < 0.9 and t > 1000:
            continue
        assert math.isclose(rho(t, beta2), float(exact_rho(t, beta2)), rel_tol=1e-12), t
        limit = rho_infinity(beta2)
        assert rho(t, beta2) <= limit * (1 + 1e-15)
        if rho(t, beta2) > 5:
            p = exact_rho(t, beta2)
            top = 2 / (1 - Decimal(beta2)) - 1
            r = ((p - 4) * (p - 2) * top / ((top - 4) * (top - 2) * p)).sqrt()
            assert math.isclose(rectification(t, beta2), float(r), rel_tol=1e-9), t


def test_rho_grows_to_its_limit():
    for beta2 in (0.9, 0.999, 1 - 1e-8):
        values = [rho(t, beta2) for t in (1, 2, 3, 6, 10, 100, 10**4, 10**7, 10**12)]
        assert values == sorted(values)
        assert values[0] == pytest.approx(1)
    assert rho(10**12, 0.999) == pytest.approx(rho_infinity(0.999))


@pytest.mark.parametrize("beta2", [0.0, 0.3, 0.6, 2 / 3])
def test_radam_warns_once_where_it_can_never_rectify(beta2):
    p = mg.ones(2, dtype=mg.float64, requires_grad=True)
    with pytest.warns(UserWarning, match="no step will be rectified") as caught:
        optimizer = RAdam([p], betas=(0.9, beta2))
    assert len(caught) == 1
    for _ in range(20):  # where a second warning would be an error
        p.grad = mg.ones_like(p)
        optimizer.step()
    assert np.isfinite(p.detach().numpy()).all()


@pytest.mark.parametrize("beta2", [0.7, 0.999, 1 - 1e-10])
def test_radam_does_not_warn_otherwise(beta2):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RAdam([mg.ones(2, requires_grad=True)], betas=(0.9, beta2))


def test_radam_with_beta2_near_one_rectifies_nothing_wrongly():
    """There v is the plain mean of the squares, ρ_t is about t, and r_t about √((t-4)(t-2)/t / ρ_∞)."""
    for t in (6, 10, 50):
        r = rectification(t, 1 - 1e-10)
        np.testing.assert_allclose(r, math.sqrt((t - 4) * (t - 2) / t / rho_infinity(1 - 1e-10)), rtol=1e-6)


# --- dtypes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda p: SGD(p, lr=0.1, momentum=0.9), Adam, RAdam])
def test_float32_stays_float32(make):
    p = mg.ones((2, 2), requires_grad=True)
    optimizer = make([p])
    for _ in range(10):
        p.grad = mg.full((2, 2), 0.5)
        optimizer.step()
    assert p.dtype == np.float32
    assert all(v.dtype == np.float32 for v in optimizer.state[p].values() if hasattr(v, "dtype"))


@pytest.mark.parametrize(
    "make", [lambda p: SGD(p, lr=0.1, momentum=0.9), lambda p: Adam(p, lr=0.1), lambda p: RAdam(p, lr=0.1)]
)
def test_float16_has_float32_state(make):
    """A gradient of 1e-4 squares to 0 in float16."""
    half, single = (mg.ones(3, dtype=d, requires_grad=True) for d in (mg.float16, mg.float32))
    one, two = make([half]), make([single])
    for _ in range(20):
        for p, optimizer in ((half, one), (single, two)):
            p.grad = mg.full(3, 1e-4, dtype=p.dtype)
            optimizer.step()
    assert half.dtype == np.float16
    assert all(v.dtype == np.float32 for v in one.state[half].values() if hasattr(v, "dtype"))
    np.testing.assert_allclose(half.detach().numpy(), single.detach().numpy(), rtol=1e-2)


# --- groups and state --------------------------------------------------------------------------------


def test_groups_have_settings_of_their_own():
    a, b = mg.ones(1, requires_grad=True), mg.ones(1, requires_grad=True)
    optimizer = SGD([{"params": [a]}, {"params": b, "lr": 0.5, "name": "head"}], lr=0.1)
    a.grad, b.grad = mg.ones(1), mg.ones(1)
    optimizer.step()
    np.testing.assert_allclose([a.item(), b.item()], [0.9, 0.5])
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    np.testing.assert_allclose([a.item(), b.item()], [0.9, 0.0], atol=1e-7)
    optimizer.zero_grad()
    assert a.grad is None
    assert "group 1 head (1 parameters): lr=0.5" in repr(optimizer)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: Adam(p, lr=0.1, amsgrad=True),
        lambda p: RAdam(p, lr=0.1, unrectified="adam"),
    ],
)
def test_state_goes_round_exactly(make):
    def steps(params, optimizer, times):
        for t in times:
            for p in params:
                p.grad = mg.tensor(p.detach() * math.cos(t) + 0.1)
            optimizer.step()

    start, _ = problem()
    one = [mg.tensor(p, requires_grad=True) for p in start]
    first = make(one)
    steps(one, first, range(7))
    two = [mg.tensor(p.detach(), requires_grad=True) for p in one]
    saved = first.state_dict()
    second = make(two)
    second.load_state_dict(saved)
    steps(one, first, range(7, 20))
    steps(two, second, range(7, 20))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
    assert list(saved["state"]) == [0, 1, 2]
    assert saved["param_groups"][0]["params"] == [0, 1, 2]
    assert saved["state"][0].get("step", 7) == 7


def test_loading_checks_all_before_it_changes_anything():
    p = mg.ones(2, requires_grad=True)
    optimizer = Adam([p])
    p.grad = mg.ones(2)
    optimizer.step()
    good = optimizer.state_dict()

    def changed(f):
        state = optimizer.state_dict()
        f(state)
        return state

    for bad, message in (
        (changed(lambda s: s["param_groups"][0]["params"].append(1)), "have"),
        (changed(lambda s: s["param_groups"].append(s["param_groups"][0])), r"\[1, 1\] parameters"),
        (changed(lambda s: s["param_groups"][0].update(lr=-1.0)), "lr must"),
        (changed(lambda s: s["param_groups"][0].update(momentum=1.0)), "unknown settings"),
        (changed(lambda s: s["state"][0].update(exp_avg=mg.ones(3))), r"'exp_avg'.*\(3,\)"),
        (changed(lambda s: s["state"].update({7: {}})), "parameter 7"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(bad)
        now = optimizer.state_dict()
        assert now["param_groups"] == good["param_groups"]
        np.testing.assert_array_equal(now["state"][0]["exp_avg"], good["state"][0]["exp_avg"])


def test_step_checks_all_before_it_changes_anything():
    a, b = mg.ones(2, requires_grad=True), mg.ones(2, requires_grad=True)
    optimizer = SGD([a, b], lr=0.1)
    a.grad = mg.ones(2)
    b.node.grad = mg.ones(3)
    with pytest.raises(ValueError, match=r"SGD: a gradient \(3,\).*\(2,\)"):
        optimizer.step()
    assert a.tolist() == [1, 1]


def test_closure():
    x = mg.tensor([3.0], requires_grad=True)
    optimizer = SGD([x], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = mg.square(x).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9
    np.testing.assert_allclose(x.item(), 2.4, rtol=1e-6)


WRONG: dict[str, Any] = {
    "params": mg.nn.Linear(1, 1).parameters,
    "betas": (0.9,),
    "beta": 0.9,
    "lr": "a",
    "tensor": mg.tensor(0.1),
}


def leaf() -> mg.Tensor:
    return mg.ones(2, requires_grad=True)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SGD(leaf()), TypeError, "ordered iterable.*Tensor"),
        (lambda: SGD({leaf()}), TypeError, "set"),
        (lambda: SGD([]), ValueError, "no parameters"),
        (lambda: SGD([1.0]), TypeError, "not a tensor but float"),
        (lambda: SGD([leaf() * 2]), ValueError, "result of an operation"),
        (lambda: SGD([mg.tensor([1])]), TypeError, "int64"),
        (lambda: SGD([x := leaf(), x]), ValueError, r"\(2,\), is given twice"),
        (lambda: SGD([{"params": [x := leaf()]}, {"params": [x]}]), ValueError, "given twice"),
        (lambda: SGD([{"params": {leaf()}}]), TypeError, "no order"),
        (lambda: SGD([{"lr": 1.0}]), ValueError, "no 'params'"),
        (lambda: SGD([{"params": [leaf()], "rate": 1.0}]), ValueError, r"unknown settings \['rate'\]"),
        (lambda: SGD([leaf()], lr=-1), ValueError, "lr must be a number from 0 up, got -1"),
        (lambda: SGD([leaf()], lr=math.nan), ValueError, "lr"),
        (lambda: SGD([leaf()], momentum=-1), ValueError, "momentum"),
        (lambda: SGD([leaf()], nesterov=True), ValueError, "nesterov needs"),
        (lambda: Adam([leaf()], betas=(1.0, 0.9)), ValueError, r"betas must .* without 1, got \(1.0, 0.9\)"),
        (lambda: SGD([leaf()], lr=WRONG["lr"]), ValueError, "lr must be a number"),
        (lambda: SGD([leaf()], lr=WRONG["tensor"]), ValueError, "lr must be a number"),
        (lambda: SGD(WRONG["params"]), TypeError, r"model.parameters\(\), got method"),
        (lambda: Adam([leaf()], betas=WRONG["betas"]), ValueError, "two numbers"),
        (lambda: Adam([leaf()], betas=WRONG["beta"]), ValueError, "two numbers"),
        (lambda: Adam([leaf()], eps=-1e-8), ValueError, "eps"),
        (lambda: Adam([leaf()], weight_decay=-1), ValueError, "weight_decay"),
        (lambda: RAdam([leaf()], unrectified="none"), ValueError, "unrectified must be one of"),
        (lambda: RAdam([leaf()], threshold=3), ValueError, "threshold must be at least 4"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_every_optimizer_is_compared():
    made = {v for v in vars(mg.optim).values() if isinstance(v, type) and issubclass(v, Optimizer)}
    assert made - {Optimizer} == {SGD, Adam, AdamW, RAdam}
