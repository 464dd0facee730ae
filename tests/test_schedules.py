"""Learning-rate schedules: against torch, against the formulas written out here, and their state."""

import itertools
import json
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import torch_or_skip

import minigrad as mg
from minigrad.optim import annealing, plateau, schedules
from minigrad.optim.annealing import CosineAnnealingLR, CosineAnnealingWarmRestarts, OneCycleLR
from minigrad.optim.plateau import ReduceLROnPlateau
from minigrad.optim.scheduler import LRScheduler
from minigrad.optim.schedules import ExponentialLR, LambdaLR, LinearLR, MultiStepLR, SequentialLR, StepLR

KINDS: dict[str, Any] = {
    name: value
    for module in (schedules, annealing, plateau)
    for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, LRScheduler) and value.__module__ == module.__name__
}
OURS = SimpleNamespace(
    optim=mg.optim, schedules=SimpleNamespace(**KINDS), leaf=lambda: mg.zeros(1, requires_grad=True)
)
LRS = [0.1, 0.003, 2.0]


def theirs() -> Any:
    torch = torch_or_skip()
    return SimpleNamespace(
        optim=torch.optim,
        schedules=torch.optim.lr_scheduler,
        leaf=lambda: torch.zeros(1, requires_grad=True),
    )


def optimizer_of(library: Any, kind: str = "SGD", lrs: Any = LRS, **settings: Any) -> Any:
    groups = [{"params": [library.leaf()], "lr": lr} for lr in lrs]
    return getattr(library.optim, kind)(groups, **settings)


def rates(optimizer: Any) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def momenta(optimizer: Any) -> list[float]:
    return [g["betas"][0] if "betas" in g else g["momentum"] for g in optimizer.param_groups]


def follow(optimizer: Any, made: list[Any], steps: int, step: Callable | None = None) -> np.ndarray:
    """The rates of all groups before each of the steps, and after the last."""
    rows = [rates(optimizer)]
    for t in range(steps):
        optimizer.step()
        for schedule in made:
            step(schedule, t) if step else schedule.step()
        rows.append(rates(optimizer))
    return np.array(rows)


def trajectory(library: Any, make: Callable, steps: int, step: Callable | None = None, **kwargs: Any):
    """As `follow`, of the schedules that `make(library.schedules, optimizer)` gives."""
    optimizer = optimizer_of(library, **kwargs)
    made = make(library.schedules, optimizer)
    return follow(optimizer, made if isinstance(made, list) else [made], steps, step)


def close(ours: Any, expected: Any, *, rtol: float = 1e-12) -> None:
    """Equal but for rounding; of a difference of two rates, to the digits of the larger."""
    np.testing.assert_allclose(ours, expected, rtol=rtol, atol=1e-15 * np.max(np.abs(expected)))


def grid(**choices: list) -> list[dict]:
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


# --- each kind, against torch and by its formula -----------------------------------------------------


def half_wave(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def restarts(t: float, T_0: int, T_mult: int = 1) -> tuple[float, int]:  # noqa: N803
    """(T_cur, T_i): the annealing that t lies in, found by going through all of them."""
    start, length = 0, T_0
    while t >= start + length:
        start, length = start + length, length * T_mult
    return t - start, length


def halving(t: int) -> float:
    return 0.5**t if t < 3 else 1 / (1 + t)


# For each kind: settings, and the rate after t steps, from the initial one.
CASES: dict[str, tuple[list[dict], Callable[..., float]]] = {
    "LambdaLR": (
        [{"lr_lambda": halving}, {"lr_lambda": [halving, math.cos, lambda t: 0.9**t]}],
        lambda lr, t, i, lr_lambda: lr * (lr_lambda[i] if isinstance(lr_lambda, list) else lr_lambda)(t),
    ),
    "StepLR": (
        [{"step_size": 30}, *grid(step_size=[1, 7, 100, 1000], gamma=[0.95, 1.0, 1.02])],
        lambda lr, t, i, step_size, gamma=0.1: lr * gamma ** (t // step_size),
    ),
    "MultiStepLR": (
        [
            {"milestones": [3, 150]},
            *grid(milestones=[[], [0, 1, 2], [5, 5, 20], [30, 80, 290]], gamma=[0.3, 0.0]),
        ],
        lambda lr, t, i, milestones, gamma=0.1: lr * gamma ** sum(m <= t for m in milestones),
    ),
    "ExponentialLR": (
        [{"gamma": g} for g in (0.9, 0.999, 1.0, 1.01, 0.0)],
        lambda lr, t, i, gamma: lr * gamma**t,
    ),
    "LinearLR": (
        [
            {},
            *grid(start_factor=[1e-3, 0.5, 1.0], end_factor=[0.0, 0.2, 1.0], total_iters=[1, 10, 300, 1000]),
        ],
        lambda lr, t, i, start_factor=1 / 3, end_factor=1.0, total_iters=5: (
            lr * (start_factor + (end_factor - start_factor) * min(t, total_iters) / total_iters)
        ),
    ),
    "CosineAnnealingLR": (
        grid(T_max=[1, 2, 17, 100, 300, 1000], eta_min=[0.0, 1e-3, 0.05]),
        lambda lr, t, i, **s: half_wave(lr, s["eta_min"], t / s["T_max"]),
    ),
    "CosineAnnealingWarmRestarts": (
        [{"T_0": 50}, *grid(T_0=[1, 7, 20], T_mult=[1, 2, 3], eta_min=[0.0, 0.01])],
        lambda lr, t, i, eta_min=0.0, **s: half_wave(lr, eta_min, np.divide(*restarts(t, **s))),
    ),
}
EACH = [pytest.param(name, s, id=f"{name}-{i}") for name, (g, _) in CASES.items() for i, s in enumerate(g)]


@pytest.mark.parametrize(("name", "settings"), EACH)
def test_trajectories_against_torch(name, settings):
    def make(library, optimizer):
        return getattr(library, name)(optimizer, **settings)

    close(trajectory(OURS, make, 350), trajectory(theirs(), make, 350))


@pytest.mark.parametrize(("name", "settings"), EACH)
def test_trajectories_by_the_formulas(name, settings):
    optimizer = optimizer_of(OURS)
    ours = follow(optimizer, [KINDS[name](optimizer, **settings)], 350)
    formula = CASES[name][1]
    expected = [[formula(lr, t, i, **settings) for i, lr in enumerate(LRS)] for t in range(351)]
    # A product of cosines near 0 keeps fewer digits than the formula.
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_get_last_lr_and_initial_lr(name):
    optimizer = optimizer_of(OURS)
    schedule = KINDS[name](optimizer, **CASES[name][0][-1])
    assert [group["initial_lr"] for group in optimizer.param_groups] == LRS
    assert schedule.get_last_lr() == rates(optimizer)
    for _ in range(5):
        schedule.step()
        assert schedule.get_last_lr() == rates(optimizer)
    optimizer.param_groups[0]["lr"] = 7.0
    schedule.get_last_lr()[1] = 7.0
    assert 7.0 not in schedule.get_last_lr()
    assert schedule.last_epoch == 5


# --- going on from last_epoch ------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 6, 13, 20, 41])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("LambdaLR", {"lr_lambda": halving}),
        ("StepLR", {"step_size": 7}),
        ("MultiStepLR", {"milestones": [7, 14, 14, 30]}),
        ("ExponentialLR", {"gamma": 0.9}),
        ("LinearLR", {"start_factor": 0.1, "total_iters": 30}),
        ("CosineAnnealingLR", {"T_max": 14, "eta_min": 0.001}),
        ("CosineAnnealingWarmRestarts", {"T_0": 7}),
        ("OneCycleLR", {"max_lr": [1.0, 0.1, 0.5], "total_steps": 100, "div_factor": 10.0}),
    ],
)
def test_going_on_from_last_epoch_against_torch(name, settings, k):
    torch = theirs()

    def make(library, optimizer):
        return getattr(library, name)(optimizer, **settings)

    first = optimizer_of(torch, momentum=0.9)
    follow(first, [make(torch.schedules, first)], k)
    results = []
    for library in (OURS, torch):
        optimizer = optimizer_of(library, momentum=0.9)
        for group, saved in zip(optimizer.param_groups, first.param_groups, strict=True):
            group.update({key: value for key, value in saved.items() if key != "params"})
        schedule = getattr(library.schedules, name)(optimizer, **settings, last_epoch=k - 1)
        assert schedule.last_epoch == k
        results.append(np.hstack([follow(optimizer, [schedule], 50), [momenta(optimizer)] * 51]))
    close(results[0], results[1])


def test_going_on_from_last_epoch_keeps_what_is_right():
    """Where a rate is already that after last_epoch + 1 steps, the trajectory is the uninterrupted one."""
    for name, settings in (
        ("LambdaLR", {"lr_lambda": halving}),
        ("StepLR", {"step_size": 4}),
        ("ExponentialLR", {"gamma": 0.9}),
        ("LinearLR", {"total_iters": 10}),
        ("CosineAnnealingLR", {"T_max": 14}),
        ("CosineAnnealingWarmRestarts", {"T_0": 2, "T_mult": 2}),  # where torch takes T_i to be T_0 still
        ("CosineAnnealingWarmRestarts", {"T_0": 1, "T_mult": 3}),
    ):
        whole = trajectory(OURS, lambda s, o, n=name, kw=settings: getattr(s, n)(o, **kw), 40)
        optimizer = optimizer_of(OURS)
        for i, group in enumerate(optimizer.param_groups):
            group.update(initial_lr=LRS[i], lr=whole[9][i])
        schedule = KINDS[name](optimizer, **settings, last_epoch=8)
        close(follow(optimizer, [schedule], 31), whole[9:])


# --- several schedules, and changes by hand ----------------------------------------------------------

PAIRS: list[Callable] = [
    lambda s, o: [s.ExponentialLR(o, 0.99), s.StepLR(o, 20, 0.5)],
    lambda s, o: [s.LinearLR(o, 0.1, total_iters=10), s.CosineAnnealingLR(o, 50)],
    lambda s, o: [s.LinearLR(o, 0.1), s.MultiStepLR(o, [10, 100], 0.2), s.ExponentialLR(o, 0.98)],
    lambda s, o: [s.CosineAnnealingLR(o, 40, 0.01), s.LinearLR(o, 1.0, 0.5, 100)],
    lambda s, o: [s.LambdaLR(o, halving), s.ExponentialLR(o, 0.9)],
    lambda s, o: [s.ExponentialLR(o, 0.9), s.CosineAnnealingWarmRestarts(o, 10)],
]


@pytest.mark.parametrize("make", PAIRS)
def test_several_on_one_optimizer_against_torch(make):
    close(trajectory(OURS, make, 200), trajectory(theirs(), make, 200))


def test_effects_multiply():
    ours = trajectory(OURS, PAIRS[2], 200)
    for t, i in itertools.product(range(201), range(3)):
        warm_up = 0.1 + 0.9 * min(t, 5) / 5
        assert ours[t, i] == pytest.approx(LRS[i] * warm_up * 0.2 ** ((t >= 10) + (t >= 100)) * 0.98**t)


@pytest.mark.parametrize(("name", "settings"), [(n, g[-1]) for n, (g, _) in CASES.items()])
def test_rates_changed_by_hand_against_torch(name, settings):
    def step(schedule, t):
        if t in (3, 10, 17, 60):
            for group in schedule.optimizer.param_groups:
                group["lr"] *= 0.3
        schedule.step()

    def make(library, optimizer):
        return getattr(library, name)(optimizer, **settings)

    close(trajectory(OURS, make, 100, step), trajectory(theirs(), make, 100, step))


def test_what_is_changed_by_hand_stays_or_not():
    for name, stays in (("ExponentialLR", True), ("LambdaLR", False)):
        optimizer = optimizer_of(OURS, lrs=[1.0])
        schedule = KINDS[name](optimizer, 0.5 if name == "ExponentialLR" else lambda t: 0.5**t)
        schedule.step()
        optimizer.param_groups[0]["lr"] = 100.0
        schedule.step()
        assert rates(optimizer) == [50.0 if stays else 0.25]


# --- warm restarts at given epochs -------------------------------------------------------------------


@pytest.mark.parametrize("settings", grid(T_0=[1, 5, 10], T_mult=[1, 2, 4], eta_min=[0.0, 0.001]))
def test_warm_restarts_at_fractions(settings):
    def make(library, optimizer):
        return library.CosineAnnealingWarmRestarts(optimizer, **settings)

    def step(schedule, t):
        schedule.step((t + 1) / 7 + 0.01)

    ours = trajectory(OURS, make, 400, step)
    formula = CASES["CosineAnnealingWarmRestarts"][1]
    expected = [
        [formula(lr, (t + 1) / 7 + 0.01, i, **settings) for i, lr in enumerate(LRS)] for t in range(400)
    ]
    close(ours[1:], expected, rtol=1e-10)
    close(ours, trajectory(theirs(), make, 400, step), rtol=1e-10)


def test_warm_restarts_with_and_without_epochs_in_turn():
    def make(library, optimizer):
        return library.CosineAnnealingWarmRestarts(optimizer, 5, 2, 0.001)

    def step(schedule, t):
        schedule.step({5: 26, 11: 3.5, 12: 0, 30: 70.25}.get(t))

    close(trajectory(OURS, make, 80, step), trajectory(theirs(), make, 80, step), rtol=1e-11)


def test_warm_restarts_count_whole_steps():
    schedule = CosineAnnealingWarmRestarts(optimizer_of(OURS), 5)
    for epoch, count in ((3.75, 3), (None, 4), (np.float64(11.5), 11), (12, 12)):
        schedule.step(epoch)
        assert schedule.last_epoch == count
    assert json.dumps(schedule.state_dict()["T_cur"]) == "2.0"


def test_warm_restarts_exactly_at_restarts():
    """There a logarithm may round to the annealing before, and give the lowest rate for the highest."""
    for T_0, T_mult, n in itertools.product((1, 3, 10), (1, 2, 3, 5, 10), range(12)):  # noqa: N806
        epoch = T_0 * sum(T_mult**k for k in range(n))
        optimizer = optimizer_of(OURS)
        schedule = CosineAnnealingWarmRestarts(optimizer, T_0, T_mult)
        schedule.step(epoch)
        assert rates(optimizer) == LRS, (T_0, T_mult, n)
        assert schedule.last_epoch == epoch


# --- one cycle ---------------------------------------------------------------------------------------

CYCLES = grid(
    total_steps=[50, 231],
    pct_start=[0.0, 0.25, 0.5, 0.9],
    anneal_strategy=["cos", "linear"],
    three_phase=[False, True],
)
CYCLES += [
    {"epochs": 10, "steps_per_epoch": 7, "div_factor": 5.0, "final_div_factor": 3.0},
    {"total_steps": 30, "base_momentum": [0.5, 0.6, 0.7], "max_momentum": 0.8},
    {"total_steps": 3},
    {"total_steps": 40, "cycle_momentum": False},
]
HIGHEST = [1.0, 0.02, 0.3]


def one_cycle(library: Any, kind: str, steps: int, **settings: Any) -> np.ndarray:
    """Rates and momenta of a cycle."""
    optimizer = optimizer_of(library, kind, **({"momentum": 0.9} if kind == "SGD" else {}))
    schedule = library.schedules.OneCycleLR(optimizer, **settings)
    rows = []
    for t in range(steps):
        rows.append([*rates(optimizer), *momenta(optimizer)])
        optimizer.step()
        if t < steps - 1:
            schedule.step()
    return np.array(rows)


def total(settings: dict) -> int:
    return settings.get("total_steps") or settings["epochs"] * settings["steps_per_epoch"]


@pytest.mark.parametrize("kind", ["SGD", "Adam", "RAdam"])
@pytest.mark.parametrize("settings", CYCLES)
@pytest.mark.parametrize("max_lr", [0.7, HIGHEST])
def test_one_cycle_against_torch(kind, settings, max_lr):
    ours, torchs = (
        one_cycle(library, kind, total(settings), max_lr=max_lr, **settings) for library in (OURS, theirs())
    )
    close(ours, torchs)


@pytest.mark.parametrize("settings", [s for s in CYCLES if s.get("pct_start") != 0.0])
def test_one_cycle_by_its_formula(settings):
    """Up, down, and further down, as piecewise interpolation between the corners of the cycle."""
    ours = one_cycle(OURS, "Adam", total(settings), max_lr=HIGHEST, **settings)
    n = total(settings)
    low, least = settings.get("div_factor", 25.0), settings.get("final_div_factor", 1e4)
    top = settings.get("pct_start", 0.3) * n - 1
    for i, high in enumerate(HIGHEST):
        corners = [(0.0, high / low, 1.0), (top, high, 0.0)]
        if settings.get("three_phase"):
            corners.append((2 * top, high / low, 1.0))
        corners.append((n - 1, high / low / least, 1.0))
        bottom = settings.get("base_momentum", [0.85] * 3)[i]
        swing = settings.get("max_momentum", 0.95) - bottom
        for t in range(n):
            k = next((k for k in range(1, len(corners)) if t <= corners[k][0]), len(corners) - 1)
            (t0, lr0, m0), (t1, lr1, m1) = corners[k - 1 : k + 1]
            part = (t - t0) / (t1 - t0)
            if settings.get("anneal_strategy") != "linear":
                part = math.sin(math.pi / 2 * part) ** 2
            momentum = bottom + swing * (m0 + (m1 - m0) * part)
            assert ours[t, i] == pytest.approx(lr0 + (lr1 - lr0) * part, rel=1e-9, abs=1e-13)
            assert ours[t, 3 + i] == pytest.approx(0.9 if "cycle_momentum" in settings else momentum)


def test_one_cycle_ends():
    """The step() that follows the last step of the optimizer changes nothing; where torch goes on."""
    for strategy in ("cos", "linear"):
        optimizer = optimizer_of(OURS, "Adam")
        schedule = OneCycleLR(optimizer, 1.0, 20, anneal_strategy=strategy)
        follow(optimizer, [schedule], 19)
        np.testing.assert_allclose(rates(optimizer), [1 / 25e4] * 3)
        schedule.step()
        np.testing.assert_allclose(rates(optimizer), [1 / 25e4] * 3)
        before = schedule.state_dict()
        with pytest.raises(ValueError, match="OneCycleLR: this is step 21 of a cycle of 20"):
            schedule.step()
        assert schedule.state_dict() == before


def test_one_cycle_may_begin_at_the_top():
    """With one step for the way up, where a division by its length would fail."""
    optimizer = optimizer_of(OURS)
    OneCycleLR(optimizer, HIGHEST, 10, pct_start=0.1)
    assert rates(optimizer) == HIGHEST


# --- one after another -------------------------------------------------------------------------------

SEQUENCES: list[Callable] = [
    lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.1, total_iters=10), s.CosineAnnealingLR(o, 50)], [10]),
    lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.01), s.CosineAnnealingLR(o, 40, 0.001), s.ExponentialLR(o, 0.9)], [20, 70]
    ),
    lambda s, o: s.SequentialLR(
        o, [s.ExponentialLR(o, 0.9), s.StepLR(o, 10), s.CosineAnnealingWarmRestarts(o, 7, 2)], [5, 33]
    ),
    lambda s, o: s.SequentialLR(
        o, [s.CosineAnnealingWarmRestarts(o, 7, 2), s.LambdaLR(o, halving), s.MultiStepLR(o, [0, 5])], [9, 50]
    ),
    lambda s, o: s.SequentialLR(o, [s.LinearLR(o), s.OneCycleLR(o, 0.5, 200, cycle_momentum=False)], [8]),
    lambda s, o: s.SequentialLR(o, [s.LinearLR(o), s.ExponentialLR(o, 0.99)], [0]),
    lambda s, o: s.SequentialLR(o, [s.CosineAnnealingLR(o, 11)], []),
]


@pytest.mark.parametrize("make", SEQUENCES)
def test_sequences_against_torch(make):
    close(trajectory(OURS, make, 150), trajectory(theirs(), make, 150))


def test_warm_up_then_cosine_by_its_formula():
    ours = trajectory(OURS, SEQUENCES[0], 60)
    for t, i in itertools.product(range(61), range(3)):
        factor = 0.1 + 0.09 * t if t < 10 else half_wave(1, 0, (t - 10) / 50)
        assert ours[t, i] == pytest.approx(LRS[i] * factor, rel=1e-10, abs=1e-13)


def test_each_part_of_a_sequence_begins_anew():
    ours = trajectory(OURS, SEQUENCES[2], 60)
    for t, i in itertools.product(range(61), range(3)):
        if t < 33:
            factor = 0.9**t if t < 5 else 0.1 ** ((t - 5) // 10)
        else:
            factor = half_wave(1, 0, np.divide(*restarts(t - 33, 7, 2)))
        assert ours[t, i] == pytest.approx(LRS[i] * factor, rel=1e-10)


@pytest.mark.parametrize("make", SEQUENCES)
def test_a_sequence_begins_as_its_first_schedule_alone(make):
    optimizer = optimizer_of(OURS)
    schedule = make(OURS.schedules, optimizer)
    initial = [group["initial_lr"] for group in optimizer.param_groups]
    factor = {2: 1.0, 3: 1.0, 5: 1.0, 6: 1.0, 0: 0.1, 1: 0.01, 4: 1 / 3}[SEQUENCES.index(make)]
    np.testing.assert_allclose(rates(optimizer), np.array(initial) * factor)
    assert schedule.get_last_lr() == rates(optimizer)


# --- the plateau -------------------------------------------------------------------------------------

PLATEAUS = [
    *grid(mode=["min", "max"], threshold_mode=["rel", "abs"], threshold=[1e-4, 0.05], cooldown=[0, 3]),
    *grid(patience=[0, 1, 5], factor=[0.0, 0.5, 0.9], min_lr=[0, 1e-3, [0.05, 0.0, 1e-2]]),
    {"patience": 0, "factor": 0.9, "eps": 0.01, "mode": "max"},
    {},
]


@pytest.mark.parametrize("settings", PLATEAUS)
@pytest.mark.parametrize("sign", [1, -1])
def test_plateau_against_torch(settings, sign):
    settings = {"patience": 2, **settings}
    random = np.random.default_rng(3)
    metrics = sign * (np.exp(-np.arange(300) / 60) + 0.2 * random.normal(size=300) + 0.3)
    metrics[[50, 51, 52, 120]] = np.nan

    def step(schedule, t):
        schedule.step(metrics[t])

    def make(library, optimizer):
        return library.ReduceLROnPlateau(optimizer, **settings)

    ours = trajectory(OURS, make, 300, step)
    close(ours, trajectory(theirs(), make, 300, step))
    assert not (ours[0] == ours[-1]).all()


@pytest.mark.parametrize(
    ("settings", "metrics", "expected"),
    [
        ({"patience": 1}, [5, 4, 4, 4, 4, 4], [1, 1, 1, 0.5, 0.5, 0.25]),  # the same is no better
        ({"patience": 1, "mode": "max"}, [5, 6, 4, 4, 7, 6], [1, 1, 1, 0.5, 0.5, 0.5]),
        ({"patience": 0, "cooldown": 2}, [1, 1, 1, 1, 1, 1], [1, 0.5, 0.5, 0.5, 0.25, 0.25]),
        ({"patience": 0, "threshold": 0.1}, [10, 9.1, 8.99, 8.5], [1, 0.5, 0.5, 0.25]),
        ({"patience": 0, "threshold": 0.1, "threshold_mode": "abs"}, [10, 9.95, 9.8], [1, 0.5, 0.5]),
        ({"patience": 0, "mode": "max", "threshold": 0.5}, [-10, -14, -22], [1, 1, 0.5]),  # -15, then -21
        ({"patience": 0, "min_lr": 0.4}, [1, 1, 1, 1], [1, 0.5, 0.4, 0.4]),
        ({"patience": 0, "eps": 0.3}, [1, 1, 1, 1], [1, 0.5, 0.5, 0.5]),
        ({"patience": 0, "eps": 0.5}, [1, 1], [1, 1]),
        ({"patience": 1}, [math.nan, math.nan, 1, 1], [1, 0.5, 0.5, 0.5]),
    ],
)
def test_plateau_step_by_step(settings, metrics, expected):
    optimizer = optimizer_of(OURS, lrs=[1.0])
    schedule = ReduceLROnPlateau(optimizer, factor=0.5, **settings)
    seen = []
    for metric in metrics:
        schedule.step(mg.tensor(float(metric)))
        seen += rates(optimizer)
    assert seen == expected


# --- state -------------------------------------------------------------------------------------------


class Warm:
    """A function with attributes, which are its state."""

    def __init__(self, over: int):
        self.over = over

    def __call__(self, t: int) -> float:
        return min(1.0, (t + 1) / self.over)


# Of each kind: one to save, and another way to make it, which loading must set right.
SAVED: dict[str, tuple[Callable, Callable]] = {
    "LambdaLR": (
        lambda s, o: s.LambdaLR(o, [halving, Warm(20), lambda t: 0.9**t]),
        lambda s, o: s.LambdaLR(o, [halving, Warm(5), lambda t: 0.9**t]),
    ),
    "StepLR": (lambda s, o: s.StepLR(o, 4), lambda s, o: s.StepLR(o, 9, 0.7)),
    "MultiStepLR": (
        lambda s, o: s.MultiStepLR(o, [3, 9, 11, 11, 25]),
        lambda s, o: s.MultiStepLR(o, (1, 2), gamma=2.0),
    ),
    "ExponentialLR": (lambda s, o: s.ExponentialLR(o, 0.9), lambda s, o: s.ExponentialLR(o, 0.3)),
    "LinearLR": (lambda s, o: s.LinearLR(o, 0.1, 0.9, 20), lambda s, o: s.LinearLR(o)),
    "CosineAnnealingLR": (
        lambda s, o: s.CosineAnnealingLR(o, 17, 0.001),
        lambda s, o: s.CosineAnnealingLR(o, 5),
    ),
    "CosineAnnealingWarmRestarts": (
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 2, 0.001),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 7),
    ),
    "OneCycleLR": (
        lambda s, o: s.OneCycleLR(o, HIGHEST, 60, three_phase=True, anneal_strategy="linear"),
        lambda s, o: s.OneCycleLR(o, 9.0, epochs=3, steps_per_epoch=7, div_factor=2.0),
    ),
    "SequentialLR": (
        lambda s, o: s.SequentialLR(
            o, [s.LinearLR(o, 0.1), s.StepLR(o, 3), s.ExponentialLR(o, 0.9)], [10, 20]
        ),
        lambda s, o: s.SequentialLR(o, [s.LinearLR(o), s.StepLR(o, 1), s.ExponentialLR(o, 0.5)], [1, 4]),
    ),
    "ReduceLROnPlateau": (
        lambda s, o: s.ReduceLROnPlateau(o, "max", 0.5, 1, cooldown=2, min_lr=[0.001, 0, 0], eps=0),
        lambda s, o: s.ReduceLROnPlateau(o),
    ),
}


def with_metric(schedule: Any, t: int) -> None:
    if type(schedule).__name__ == "ReduceLROnPlateau":
        schedule.step(3 + math.sin(t / 3))
    else:
        schedule.step()


def test_every_kind_is_saved():
    assert set(SAVED) == set(KINDS) == {*CASES, "OneCycleLR", "SequentialLR", "ReduceLROnPlateau"}


@pytest.mark.parametrize("k", [0, 1, 8, 10, 12, 23])
@pytest.mark.parametrize("name", SAVED)
def test_state_goes_round_exactly(name, k):
    make, make_other = SAVED[name]
    first = optimizer_of(OURS, "Adam")
    schedule = make(OURS.schedules, first)
    follow(first, [schedule], k, with_metric)
    state = json.loads(json.dumps(schedule.state_dict(), allow_nan=False))
    assert state == schedule.state_dict()
    second = optimizer_of(OURS, "Adam", lrs=[0.7, 0.8, 0.9])
    other = make_other(OURS.schedules, second)
    other.load_state_dict(state)
    second.load_state_dict(first.state_dict())
    assert other.get_last_lr() == schedule.get_last_lr()
    for t in range(k, k + 30):
        assert rates(first) == rates(second)
        assert momenta(first) == momenta(second)
        with_metric(schedule, t)
        with_metric(other, t)
    assert other.state_dict() == schedule.state_dict()
    assert state["last_epoch"] == k  # a copy


@pytest.mark.parametrize("k", [0, 1, 8, 10, 12])
@pytest.mark.parametrize("name", [name for name in SAVED if name != "OneCycleLR"])
def test_states_of_torch_are_loaded(name, k):
    torch = theirs()
    make, make_other = SAVED[name]
    first = optimizer_of(torch)
    schedule = make(torch.schedules, first)
    follow(first, [schedule], k, with_metric)
    second = optimizer_of(OURS)
    other = make_other(OURS.schedules, second)
    other.load_state_dict(schedule.state_dict())
    for a, b in zip(second.param_groups, first.param_groups, strict=True):
        a["lr"] = b["lr"]

    def step(schedule, t):
        with_metric(schedule, t + k)

    close(follow(second, [other], 40, step), follow(first, [schedule], 40, step))


def test_one_cycles_of_torch_are_refused():
    torch = theirs()
    schedule = torch.schedules.OneCycleLR(optimizer_of(torch), 1.0, 10)
    with pytest.raises(ValueError, match=r"OneCycleLR: the saved state has .*wanted is .*'max_lr'"):
        OneCycleLR(optimizer_of(OURS), 1.0, 10).load_state_dict(schedule.state_dict())


def test_functions_keep_what_they_are():
    """The attributes of an object go into the object that the schedule was made with."""
    warm = Warm(3)
    schedule = LambdaLR(optimizer_of(OURS), [warm, halving, lambda t: 1.0])
    state = schedule.state_dict()
    assert state["lr_lambdas"] == [{"over": 3}, None, None]
    state["lr_lambdas"][0]["over"] = 8
    assert warm.over == 3
    schedule.load_state_dict(state)
    assert warm.over == 8
    assert schedule.lr_lambdas[0] is warm


def test_parts_of_a_sequence_keep_their_identity():
    optimizer = optimizer_of(OURS)
    parts = [LinearLR(optimizer), StepLR(optimizer, 3)]
    schedule = SequentialLR(optimizer, parts, [5])
    saved = schedule.state_dict()
    for _ in range(7):
        schedule.step()
    assert parts[1].last_epoch == 2
    schedule.load_state_dict(saved)
    assert parts[1].last_epoch == 0
    assert schedule._schedulers == parts


def changed(**changes: Any) -> Callable[[dict], dict]:
    """The state with these changes; without what is changed to None."""
    return lambda state: {key: value for key, value in {**state, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("StepLR", changed(gamma=None), r"StepLR: the saved state has \['step_size', .*wanted is .*'gamma'"),
        ("StepLR", changed(T_max=3), "StepLR: the saved state has .*'T_max'.* another kind"),
        ("StepLR", changed(gamma="a"), "StepLR: gamma must be a number from 0 up, got 'a'"),
        ("StepLR", changed(gamma=math.nan), "gamma"),
        ("StepLR", changed(step_size=0), "StepLR: step_size must be a whole number from 1 up, got 0"),
        ("StepLR", changed(last_epoch=1.5), "last_epoch must be a whole number"),
        (
            "StepLR",
            changed(base_lrs=[0.1]),
            r"base_lrs must be .*each of the 3 parameter groups, got \[0.1\]",
        ),
        ("StepLR", changed(_last_lr=[0.1, "b", 0.2]), "StepLR: last_lr must be"),
        ("StepLR", lambda state: [state], "StepLR: the saved state must be a dict, got list"),
        ("MultiStepLR", changed(milestones=[3, 1]), "milestones must be .* in rising order"),
        ("CosineAnnealingWarmRestarts", changed(T_cur=99), "T_cur must be .*, got 99"),
        ("OneCycleLR", changed(max_lr=[1.0]), r"max_lr must be .* 3 parameter groups, got \[1.0\]"),
        ("LambdaLR", changed(lr_lambdas=[]), r"lr_lambdas must be .*3 groups, got \[\]"),
        ("LambdaLR", changed(lr_lambdas=[{"over": 1}, {"over": 2}, {}]), "lr_lambdas must be"),
        ("ReduceLROnPlateau", changed(mode="mid"), r"mode must be one of \('min', 'max'\), got 'mid'"),
        ("ReduceLROnPlateau", changed(best=math.nan), "best must be"),
        ("ReduceLROnPlateau", changed(min_lrs=[0.0]), r"min_lrs must be .*3 parameter groups, got \[0.0\]"),
        ("SequentialLR", changed(_schedulers=3), "schedulers must be a list"),
        ("SequentialLR", changed(_milestones=[10]), r"milestones must be one for each .*, got \[10\]"),
        ("SequentialLR", changed(_milestones=[], _schedulers=[{}]), "schedulers must be the states of 3"),
        ("SequentialLR", changed(_schedulers=[{}, {}, {}]), "LinearLR: the saved state has"),
    ],
)
def test_loading_checks_all_before_it_changes_anything(name, change, message):
    optimizer = optimizer_of(OURS, "Adam")
    schedule = SAVED[name][0](OURS.schedules, optimizer)
    other = SAVED[name][0](OURS.schedules, optimizer_of(OURS, "Adam"))
    follow(other.optimizer, [other], 12, with_metric)
    before = schedule.state_dict(), rates(optimizer)
    with pytest.raises(ValueError, match=message):
        schedule.load_state_dict(change(other.state_dict()))
    assert (schedule.state_dict(), rates(optimizer)) == before


def test_a_later_part_that_does_not_fit_leaves_the_earlier_ones_as_they_are():
    schedule = SAVED["SequentialLR"][0](OURS.schedules, optimizer_of(OURS))
    before = schedule.state_dict()
    state = schedule.state_dict()
    state["_schedulers"][0]["total_iters"] = 77
    state["_schedulers"][2]["gamma"] = -1
    with pytest.raises(ValueError, match="ExponentialLR: gamma"):
        schedule.load_state_dict(state)
    assert schedule.state_dict() == before


def test_states_of_other_kinds_are_refused():
    made = {name: make(OURS.schedules, optimizer_of(OURS, "Adam")) for name, (make, _) in SAVED.items()}
    for (a, one), (b, other) in itertools.permutations(made.items(), 2):
        with pytest.raises(ValueError, match=f"{a}: the saved state has .*another kind"):
            one.load_state_dict(other.state_dict())
        assert a != b


# --- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAVED)
def test_groups_added_later_are_refused(name):
    optimizer = optimizer_of(OURS, "Adam")
    schedule = SAVED[name][0](OURS.schedules, optimizer)
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": []})
    before = schedule.state_dict(), rates(optimizer)
    with pytest.raises(ValueError, match=r"has 4 parameter groups, and had 3 when .* make a new schedule"):
        with_metric(schedule, 0)
    assert (schedule.state_dict(), rates(optimizer)) == before


WRONG: dict[str, Any] = {
    "text": "a",
    "none": None,
    "module": mg.nn.Linear(1, 1),
    "fraction": 2.5,
    "list": [1],
}


def sequence(make: Callable) -> Callable:
    return lambda o: SequentialLR(o, make(o), [3])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda o: StepLR(WRONG["module"], 3), TypeError, "StepLR: the optimizer must be .*, got Linear"),
        (lambda o: LambdaLR(WRONG["none"], halving), TypeError, "LambdaLR: the optimizer .* NoneType"),
        (lambda o: ReduceLROnPlateau(WRONG["list"]), TypeError, "ReduceLROnPlateau: the optimizer .* list"),
        (lambda o: LambdaLR(o, WRONG["none"]), TypeError, "lr_lambda must be a function, .* got None"),
        (lambda o: LambdaLR(o, [halving]), TypeError, "a list of one for each of the 3 parameter groups"),
        (lambda o: LambdaLR(o, lambda t: WRONG["none"]), TypeError, "function of group 0 .* got None"),
        (lambda o: StepLR(o, 0), ValueError, "StepLR: step_size must be a whole number from 1 up, got 0"),
        (lambda o: StepLR(o, WRONG["fraction"]), ValueError, "step_size must be a whole number"),
        (
            lambda o: StepLR(o, 3, gamma=WRONG["text"]),
            ValueError,
            "gamma must be a number from 0 up, got 'a'",
        ),
        (lambda o: StepLR(o, 3, last_epoch=-2), ValueError, "last_epoch must be a whole number from -1"),
        (
            lambda o: StepLR(o, 3, last_epoch=4),
            ValueError,
            r"last_epoch=4 .* groups \[0, 1, 2\] need an 'init",
        ),
        (lambda o: MultiStepLR(o, [5, 3]), ValueError, r"milestones must .* rising order, got \[5, 3\]"),
        (lambda o: MultiStepLR(o, [-1, 3]), ValueError, "from 0 up"),
        (lambda o: MultiStepLR(o, WRONG["fraction"]), ValueError, "milestones must be a list"),
        (lambda o: MultiStepLR(o, [WRONG["fraction"]]), ValueError, "whole numbers"),
        (lambda o: MultiStepLR(o, [1], -0.1), ValueError, "gamma"),
        (lambda o: ExponentialLR(o, math.inf), ValueError, "ExponentialLR: gamma"),
        (lambda o: LinearLR(o, 0), ValueError, "start_factor must be a number above 0 and at most 1, got 0"),
        (lambda o: LinearLR(o, end_factor=1.5), ValueError, "end_factor must be a number from 0 to 1"),
        (lambda o: LinearLR(o, total_iters=0), ValueError, "total_iters must be a whole number from 1 up"),
        (lambda o: CosineAnnealingLR(o, 0), ValueError, "CosineAnnealingLR: T_max must .* from 1 up, got 0"),
        (lambda o: CosineAnnealingLR(o, 3, -1), ValueError, "eta_min must be a number from 0 up, got -1"),
        (lambda o: CosineAnnealingWarmRestarts(o, 0), ValueError, "CosineAnnealingWarmRestarts: T_0"),
        (lambda o: CosineAnnealingWarmRestarts(o, 3, WRONG["fraction"]), ValueError, "T_mult .* got 2.5"),
        (lambda o: CosineAnnealingWarmRestarts(o, 3).step(-1), ValueError, "epoch must be .* got -1"),
        (lambda o: CosineAnnealingWarmRestarts(o, 3).step(math.nan), ValueError, "epoch must be .* got nan"),
        (lambda o: OneCycleLR(o, 1.0), ValueError, "total_steps, or both epochs and steps_per_epoch"),
        (lambda o: OneCycleLR(o, 1.0, epochs=3), ValueError, "total_steps, or both"),
        (lambda o: OneCycleLR(o, 1.0, 0), ValueError, "total_steps must be a whole number from 1 up, got 0"),
        (lambda o: OneCycleLR(o, [1.0], 5), ValueError, "max_lr must be .*each of the 3 parameter groups"),
        (
            lambda o: OneCycleLR(o, 1.0, 5, pct_start=1.1),
            ValueError,
            "pct_start must be a number from 0 to 1",
        ),
        (lambda o: OneCycleLR(o, 1.0, 5, anneal_strategy="sin"), ValueError, "one of .* got 'sin'"),
        (lambda o: OneCycleLR(o, 1.0, 5, max_momentum=1.0), ValueError, "max_momentum must .* without 1"),
        (lambda o: OneCycleLR(o, 1.0, 5, div_factor=0), ValueError, "div_factor must be a number above 0"),
        (lambda o: ReduceLROnPlateau(o, "best"), ValueError, "mode must be one of"),
        (lambda o: ReduceLROnPlateau(o, factor=1.0), ValueError, "factor must be .* without 1, got 1.0"),
        (lambda o: ReduceLROnPlateau(o, patience=-1), ValueError, "patience must be a whole number from 0"),
        (lambda o: ReduceLROnPlateau(o, threshold_mode="no"), ValueError, "threshold_mode must be one of"),
        (lambda o: ReduceLROnPlateau(o, min_lr=[0.0]), ValueError, "min_lrs must be .*3 parameter groups"),
        (lambda o: ReduceLROnPlateau(o, eps=-1), ValueError, "eps"),
        (lambda o: ReduceLROnPlateau(o).step("a"), TypeError, "metrics must be a number, got 'a'"),
        (lambda o: ReduceLROnPlateau(o).step(None), TypeError, "metrics must be a number, got None"),
        (lambda o: SequentialLR(o, [], []), ValueError, r"milestones must be one for each of 0 schedulers"),
        (lambda o: SequentialLR(o, [StepLR(o, 1)], [3]), ValueError, r"each of 1 schedulers .*, got \[3\]"),
        (
            lambda o: SequentialLR(o, [StepLR(o, 1)] * 3, [3, 3]),
            ValueError,
            r"milestones must be .* rising order, got \[3, 3\]",
        ),
        (lambda o: SequentialLR(o, [StepLR(o, 1)], [], 5), ValueError, "last_epoch must be -1, got 5"),
        (
            sequence(lambda o: [StepLR(o, 1), ReduceLROnPlateau(o)]),
            TypeError,
            r"SequentialLR: schedulers\[1\] is ReduceLROnPlateau",
        ),
        (
            sequence(lambda o: [SequentialLR(o, [StepLR(o, 1)], []), StepLR(o, 1)]),
            TypeError,
            r"schedulers\[0\] is SequentialLR; .* its parts",
        ),
        (
            sequence(lambda o: [StepLR(o, 1), StepLR(optimizer_of(OURS), 1)]),
            ValueError,
            r"schedulers\[1\] is of another optimizer",
        ),
    ],
)
def test_bad_arguments(make, error, message):
    optimizer = optimizer_of(OURS)
    with pytest.raises(error, match=message):
        make(optimizer)


def test_bad_arguments_leave_the_optimizer_as_it_is():
    optimizer = optimizer_of(OURS)
    before = [dict(group) for group in optimizer.param_groups]
    for make in (lambda: OneCycleLR(optimizer, 1.0, 0), lambda: LinearLR(optimizer, 5.0)):
        with pytest.raises(ValueError, match="must be"):
            make()
    assert optimizer.param_groups == before


def test_one_cycle_needs_a_momentum_to_cycle():
    class Plain(mg.optim.Optimizer):
        """A rule without one."""

        def __init__(self):
            super().__init__([mg.zeros(1, requires_grad=True)], {"lr": 1.0})

    with pytest.raises(ValueError, match=r"OneCycleLR: the optimizer has no momentum.*cycle_momentum=False"):
        OneCycleLR(Plain(), 1.0, 10)
    OneCycleLR(Plain(), 1.0, 10, cycle_momentum=False).step()


def test_numbers_of_numpy_become_plain():
    numbers: list[Any] = [np.int64(2), np.float32(0.5)]
    optimizer = optimizer_of(OURS, lrs=[np.float32(0.5), np.float64(0.25)])
    schedule = StepLR(optimizer, *numbers)
    schedule.step()
    schedule.step()
    assert json.loads(json.dumps(schedule.state_dict()))["_last_lr"] == [0.25, 0.125]
    assert all(type(lr) is float for lr in rates(optimizer))


def test_milestones_may_be_any_whole_numbers_in_a_row():
    for milestones in (range(2, 5, 2), (2, 4), np.array([2, 4])):
        values: Any = milestones
        assert MultiStepLR(optimizer_of(OURS), values).state_dict()["milestones"] == [2, 4]
