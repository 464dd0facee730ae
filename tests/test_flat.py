"""Optimizers over flat storage: one launch for many parameters, and all that the rows must survive."""

import copy
import math
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import use_kernels

import minigrad as mg
from minigrad import nn
from minigrad.kernels import plan
from minigrad.optim import SGD, Adam, AdamW, Optimizer, RAdam

Make = Callable[[Any], Optimizer]

RULES: dict[str, Make] = {
    "sgd": lambda p: SGD(p, lr=0.05, weight_decay=0.1),
    "sgd, maximize": lambda p: SGD(p, lr=1e-3, maximize=True),
    "momentum": lambda p: SGD(p, lr=0.05, momentum=0.9, dampening=0.2),
    "nesterov": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: Adam(p, lr=0.02, weight_decay=0.1),
    "amsgrad": lambda p: Adam(p, lr=0.02, amsgrad=True),
    "adamw": lambda p: AdamW(p, lr=0.02),
    "radam": lambda p: RAdam(p, lr=0.02),
    "radam, decay": lambda p: RAdam(p, lr=0.02, weight_decay=0.1, decoupled_weight_decay=True),
    "radam, adam": lambda p: RAdam(p, lr=0.02, unrectified="adam"),
    "radam, skip": lambda p: RAdam(p, lr=0.02, unrectified="skip"),
}
SHAPES = [(3, 2), (0,), (), (5,), (2, 0, 3), (1, 1)]


def parameters(dtype: Any = np.float64, seed: int = 0) -> list[mg.Tensor]:
    random = np.random.default_rng(seed)
    return [mg.tensor(np.asarray(random.normal(size=s), dtype), requires_grad=True) for s in SHAPES]


def give_gradients(params: list[mg.Tensor], t: int, missing: tuple[int, ...] = ()) -> None:
    for i, p in enumerate(params):
        g = (p.detach() - 0.5) * (1 + 0.5 * math.sin(t)) + 0.1 * math.cos(3 * t + i)
        p.grad = None if i in missing else g.to(p.dtype)


def values(params: list[mg.Tensor]) -> list[np.ndarray]:
    return [p.detach().numpy() for p in params]


def assert_same(one: list[mg.Tensor], two: list[mg.Tensor], rtol: float = 1e-12, atol: float = 0) -> None:
    for a, b in zip(values(one), values(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


# --- the kernel and its reference ----------------------------------------------------------------------


@pytest.mark.skipif(not plan.enabled, reason="MINIGRAD_KERNELS=off")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("rule", RULES)
def test_kernel_and_reference_over_a_thousand_steps(rule, dtype, monkeypatch):
    """Each goes its own way: gradients depend on the parameters."""
    compiled, referred = parameters(dtype), parameters(dtype)
    one, two = RULES[rule](compiled), RULES[rule](referred)
    for t in range(1000):
        give_gradients(compiled, t)
        one.step()
        with monkeypatch.context() as off:
            off.setattr(plan, "enabled", False)
            give_gradients(referred, t)
            two.step()
    assert all(
        ready.function for _, flats in one._flats.values() for f in flats for ready in f._plans.values()
    )
    tolerance = {np.float16: 5e-3, np.float32: 2e-5, np.float64: 1e-11}[dtype]
    assert_same(compiled, referred, rtol=tolerance, atol=tolerance)


# --- what a row must survive ---------------------------------------------------------------------------


class Apart:
    """The same rule with an optimizer for each parameter: whatever befalls one, the others do not share."""

    def __init__(self, make: Make, params: list[mg.Tensor]):
        self.optimizers = [make([p]) for p in params]

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "missing",
    [
        lambda t: (),
        lambda t: (t % 6,),
        lambda t: (0, 1, 2) if t % 4 else (3,),
        lambda t: tuple(range(6)) if t % 3 else (),
    ],
)
def test_parameters_without_gradients(rule, missing):
    """They are passed over, with their decay and their state."""
    one, two = parameters(), parameters()
    together, apart = RULES[rule](one), Apart(RULES[rule], two)
    for t in range(30):
        give_gradients(one, t, missing(t))
        give_gradients(two, t, missing(t))
        together.step()
        apart.step()
    assert_same(one, two)


def change_nothing(params, optimizer):
    return optimizer


def rebind_data(params, optimizer):
    params[0].data = np.full((3, 2), 0.25)
    params[3].data = params[3].detach() * 2
    return optimizer


def add_in_place(params, optimizer):
    with mg.no_grad():
        params[0] += 1.0
        params[3][1:3] = 0.0
    return optimizer


def freeze_and_thaw(params, optimizer):
    params[3].requires_grad_(False)
    params[3].requires_grad_(True)
    return optimizer


def adopt_elsewhere(params, optimizer):
    """Another optimizer takes the parameters into its own rows, and changes them."""
    other = SGD(params[::-1], lr=0.1)
    give_gradients(params, 99)
    other.step()
    return optimizer


def go_round_by_state(params, optimizer):
    saved = optimizer.state_dict()
    optimizer.load_state_dict(saved)
    return optimizer


def reorder_groups(params, optimizer):
    """The same parameters in a new list and a new dict."""
    optimizer.param_groups[:] = [
        {**group, "params": list(group["params"])} for group in optimizer.param_groups
    ]
    return optimizer


@pytest.mark.parametrize("rule", ["momentum", "amsgrad", "radam"])
@pytest.mark.parametrize(
    "event",
    [
        change_nothing,
        rebind_data,
        add_in_place,
        freeze_and_thaw,
        adopt_elsewhere,
        go_round_by_state,
        reorder_groups,
    ],
)
def test_rows_survive(rule, event):
    """Against parameters that are each a plain array, stepped by the rule's reference alone."""
    one, two = parameters(), parameters()
    together, apart = RULES[rule](one), Apart(RULES[rule], two)
    for t in range(20):
        if t in (3, 11):
            together = event(one, together)
            for p, other in zip(two, one, strict=True):
                if event not in (change_nothing, go_round_by_state, reorder_groups):
                    p.data = other.detach().numpy()
        give_gradients(one, t)
        give_gradients(two, t)
        together.step()
        apart.step()
        assert_same(one, two)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("rule", ["nesterov", "adam", "radam"])
def test_copies_and_pickles_go_on_by_themselves(rule, clone):
    params = parameters()
    optimizer = globals()["RULES"][rule](params)
    for t in range(5):
        give_gradients(params, t)
        optimizer.step()
    others, other = clone((params, optimizer))
    assert other.param_groups[0]["params"][0] is others[0]
    for t in range(5, 10):
        give_gradients(params, t)
        optimizer.step()
    before = values(params)
    for t in range(5, 10):
        give_gradients(others, t)
        other.step()
    assert_same(others, params)
    for a, b in zip(before, values(params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_module_that_is_converted_takes_its_state_along():
    """To float64 midway: as if the state had been converted by hand."""
    model = nn.Linear(3, 2)
    optimizer = Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        mg.square(model(mg.ones((4, 3)))).sum().backward()
        optimizer.step()
    state = optimizer.state[model.weight]["exp_avg"].copy()
    model.to(mg.float64)
    optimizer.zero_grad()
    mg.square(model(mg.ones((4, 3), dtype=mg.float64))).sum().backward()
    g = model.weight.grad.numpy()
    optimizer.step()
    now = optimizer.state[model.weight]
    assert now["exp_avg"].dtype == np.float64
    assert now["step"] == 4
    np.testing.assert_allclose(now["exp_avg"], state + (1 - 0.9) * (g - state), rtol=1e-12)


def test_a_parameter_of_another_shape_is_an_error_that_names_both():
    p = mg.ones(3, requires_grad=True)
    optimizer = Adam([p])
    p.grad = mg.ones(3)
    optimizer.step()
    p.data = np.ones(5, np.float32)
    p.grad = mg.ones(5)
    with pytest.raises(ValueError, match=r"\(5,\), and its 'exp_avg' \(3,\)"):
        optimizer.step()


def test_dtypes_and_backends_in_one_group():
    params = [
        mg.ones(3, requires_grad=True),
        mg.ones(3, dtype=mg.float64, requires_grad=True),
        mg.ones(3, dtype=mg.float16, requires_grad=True),
        mg.ones(3, requires_grad=True).to("strict").detach().requires_grad_(),
        mg.ones(3, requires_grad=True),
    ]
    optimizer = RAdam(params, lr=0.1)
    for _ in range(10):
        for p in params:
            p.grad = mg.full(3, 0.5, dtype=p.dtype, device=p.device)
        optimizer.step()
    for p in params[1:]:
        np.testing.assert_allclose(p.detach().numpy(), params[1].detach().numpy(), rtol=2e-3)
    assert params[3].device == "strict"


def test_gradients_in_any_layout():
    one, two = mg.ones((3, 4), requires_grad=True), mg.ones((3, 4), requires_grad=True)
    first, second = RAdam([one], lr=0.1), RAdam([two], lr=0.1)
    g = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    for _ in range(8):
        one.grad = mg.tensor(g).T
        two.grad = mg.tensor(np.ascontiguousarray(g.T))
        first.step()
        second.step()
    np.testing.assert_array_equal(one.detach().numpy(), two.detach().numpy())
    one.grad = mg.broadcast_to(mg.tensor(1.0), (3, 4))  # read-only, and all in one place
    two.grad = mg.ones((3, 4))
    first.step()
    second.step()
    np.testing.assert_array_equal(one.detach().numpy(), two.detach().numpy())


def test_a_gradient_that_is_the_parameter():
    """Decay towards 0: the kernel reads and writes the same memory."""
    p = mg.full(4, 2.0, requires_grad=True)
    optimizer = SGD([p], lr=0.25)
    p.grad = p.detach()
    optimizer.step()
    assert p.tolist() == [1.5] * 4


def exchange_data(p: mg.Tensor) -> None:
    p.data = np.full(p.shape, 50.0)


def exchange_in_place(p: mg.Tensor) -> None:
    with mg.no_grad():
        p *= 10


def exchange_by_thawing(p: mg.Tensor) -> None:
    p.requires_grad_(False)
    p.requires_grad_(True)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("exchange", [exchange_data, exchange_in_place, exchange_by_thawing])
def test_old_values_that_a_graph_or_somebody_holds_do_not_change(exchange, frozen):
    """A parameter that is given another array gets other memory: its old one is not written to."""
    p, q, r = parameters()[:1] + parameters()[3:5]
    optimizer = SGD([p, q, r], lr=1.0)
    give_gradients([p, q, r], 0)
    optimizer.step()
    if frozen:
        p.requires_grad_(False)
    kept, expected = p.detach(), p.detach().numpy()
    factor = mg.tensor(1.0, dtype=mg.float64, requires_grad=True)
    loss = (p.detach() * factor).sum()
    with_graph = (p * factor).sum()
    exchange(p)
    give_gradients([p, q, r][1:] if not p.requires_grad else [p, q, r], 1)
    optimizer.step()
    np.testing.assert_array_equal(kept.numpy(), expected)
    for result in (loss, with_graph):
        factor.grad = None
        refused = ""
        try:
            result.backward()
        except RuntimeError as error:
            refused = str(error)
        if refused:
            assert "overwritten" in refused
        else:
            gradient: Any = factor.grad
            np.testing.assert_allclose(gradient.item(), expected.sum(), rtol=1e-12)


def test_gradients_that_somebody_holds_do_not_change():
    p = mg.ones(3, requires_grad=True)
    optimizer = SGD([p], lr=0.1, momentum=0.9)
    kept = []
    for k in range(3):
        optimizer.zero_grad()
        (p * float(k + 1)).sum().backward()
        kept.append(p.grad)
        optimizer.step()
    assert [g.tolist() for g in kept] == [[1.0] * 3, [2.0] * 3, [3.0] * 3]


def test_wrong_gradients_change_nothing():
    a, b = mg.ones(2, requires_grad=True), mg.ones((2, 3), requires_grad=True)
    optimizer = RAdam([a, b], lr=0.1)
    a.grad, b.grad = mg.ones(2), mg.ones((2, 3))
    b.grad.data = np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(2, 3\)"):
        optimizer.step()
    b.grad.data = np.ones((2, 3), np.float64)
    with pytest.raises(ValueError, match="float64"):
        optimizer.step()
    assert a.tolist() == [1, 1]
    assert not optimizer.state


# --- launches ------------------------------------------------------------------------------------------


def test_one_launch_for_a_group(monkeypatch):
    launches = []
    changes = plan.Plan.changes

    def counted(self: plan.Plan, n: int, *args: Any) -> Any:
        launches.append(n)
        return changes(self, n, *args)

    monkeypatch.setattr(plan.Plan, "changes", counted)
    params = [mg.ones(n, requires_grad=True) for n in range(1, 21)]
    optimizer = RAdam([{"params": params[:15]}, {"params": params[15:], "lr": 0.1}])
    for p in params:
        p.grad = mg.ones_like(p)
    optimizer.step()
    assert launches == [120, 90]
    params[7].grad = None
    launches.clear()
    optimizer.step()
    assert launches == [28, 84, 90]  # around the one that is missing
    params[7].grad = mg.ones_like(params[7])
    launches.clear()
    optimizer.step()
    assert launches == [28, 8, 84, 90]  # which is now a step behind


def test_parameters_are_views_into_one_row():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    optimizer = Adam(model.parameters())
    mg.square(model(mg.ones((2, 4)))).sum().backward()
    optimizer.step()
    rows = {id(p._data.base) for p in model.parameters()}
    assert len(rows) == 1
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias", "1.weight", "1.bias"]


# --- steps that are skipped ----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", RULES)
def test_a_step_with_a_bad_gradient_is_as_if_it_had_not_been(rule, bad):
    one, two = parameters(), parameters()
    first, second = RULES[rule](one), RULES[rule](two)
    for t in range(12):
        give_gradients(one, t)
        if t in (2, 3, 7):
            g = one[3].grad.numpy()
            g[4] = bad
            one[3].grad = mg.tensor(g)
            first.step(skip_nonfinite=True)
            continue
        give_gradients(two, t)
        first.step(skip_nonfinite=True)
        second.step()
    assert_same(one, two)
    assert first.skipped == 3
    assert second.skipped == 0


def test_without_the_switch_a_bad_gradient_goes_through():
    p = mg.ones(2, requires_grad=True)
    optimizer = SGD([p], lr=0.1)
    p.grad = mg.tensor([1.0, math.nan])
    optimizer.step()
    assert np.isnan(p.detach().numpy()).tolist() == [False, True]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("go", [True, False])
def test_the_guarded_kernel_of_the_gpu_on_the_cpu(rule, go, monkeypatch):
    """There it is given the verdict as an array; the same text is run here."""
    from minigrad.optim import optimizer, skipping

    class Arrived(skipping.Verdict):
        def positive(self):
            return go

    monkeypatch.setattr(optimizer, "judged", lambda due: (due, Arrived(np.array([go]), [], None, None)))
    one, two = parameters(), parameters()
    first, second = RULES[rule](one), RULES[rule](two)
    for t in range(8):
        for params in (one, two):
            give_gradients(params, t)
        first.step(skip_nonfinite=True)
        if go:
            second.step()
    assert first.skipped == (0 if go else 8)
    assert_same(one, two)
    assert all(state["step"] == 8 for state in first.state.values() if go)
    assert go or not first.state


# --- groups --------------------------------------------------------------------------------------------


def test_groups_may_be_added_between_steps():
    one, two = parameters(), parameters()
    together, apart = RAdam(one[:3], lr=0.1), Apart(lambda p: RAdam(p, lr=0.1), two)
    for t in range(12):
        if t == 4:
            together.add_param_group({"params": one[3:], "name": "late", "lr": 0.05})
            for optimizer in apart.optimizers[3:]:
                optimizer.param_groups[0]["lr"] = 0.05
        give_gradients(one, t)
        give_gradients(two, t, () if t >= 4 else (3, 4, 5))
        if t < 4:
            for p in one[3:]:
                p.grad = None
        together.step()
        apart.step()
    assert_same(one, two)
    assert "group 1 late (3 parameters): lr=0.05" in repr(together)
    with pytest.raises(ValueError, match="given twice"):
        together.add_param_group({"params": [one[0]]})
    with pytest.raises(ValueError, match="unknown settings"):
        together.add_param_group({"params": [mg.ones(1, requires_grad=True)], "momentum": 0.9})
    assert len(together.param_groups) == 2


def test_lr_may_change_every_step():
    one, two = parameters(), parameters()
    optimizer = SGD(one, lr=0.1)
    for t in range(5):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + t)
        give_gradients(one, t)
        give_gradients(two, t)
        optimizer.step()
        for p in two:
            p.data = p.detach() - 0.1 / (1 + t) * p.grad
    assert_same(one, two)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", None),
        ("lr", "0.1"),
        ("lr", np.linspace(0.1, 0.5, 6)),
        ("betas", (1.0, 0.999)),
        ("eps", None),
        ("weight_decay", "x"),
    ],
)
def test_a_wrong_setting_changes_nothing(key, value):
    params = parameters()
    optimizer = Adam([{"params": params[:2]}, {"params": params[2:]}], lr=0.1)
    for t in range(2):
        give_gradients(params, t)
        optimizer.step()
    give_gradients(params, 2)
    before = values(params)
    optimizer.param_groups[1][key] = value
    with pytest.raises((TypeError, ValueError, ZeroDivisionError)):
        optimizer.step()
    for a, b in zip(before, values(params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rule", RULES)
def test_settings_of_numpy_or_in_tensors_are_numbers_like_others(rule):
    """Scalars are computed in float64, whatever they came in."""
    one, two = parameters(), parameters()
    first, second = RULES[rule](one), RULES[rule](two)
    for t, make in enumerate((float, np.float64, np.array, lambda x: mg.tensor(x, dtype=mg.float64)) * 2):
        give_gradients(one, t)
        give_gradients(two, t)
        first.param_groups[0]["lr"] = 0.015625
        second.param_groups[0]["lr"] = make(0.015625)
        first.step()
        second.step()
    assert_same(one, two, rtol=0)
    narrow = AdamW([p := mg.ones(1, dtype=mg.float64, requires_grad=True)], lr=1e-4)
    narrow.param_groups[0]["lr"] = np.float32(1e-4)
    p.grad = mg.zeros(1, dtype=mg.float64)
    narrow.step()
    np.testing.assert_allclose(1 - p.item(), 1e-6, rtol=1e-7)


@pytest.mark.parametrize("rule", ["sgd, maximize", "momentum", "amsgrad", "radam, skip"])
def test_infinite_parameters_stay(rule):
    """0 times infinity is NaN: without decay nothing is multiplied by it."""
    p = mg.tensor([-math.inf, 1.0], requires_grad=True)
    optimizer = RULES[rule]([p])
    optimizer.param_groups[0].update(lr=0.1, weight_decay=0.0)
    for _ in range(7):
        p.grad = mg.tensor([0.0, 1.0])
        optimizer.step()
    assert p.tolist()[0] == -math.inf


def test_empty_parameters_without_gradients():
    for order in ([0, 1], [1, 0]):
        pair = [mg.ones(2, requires_grad=True), mg.ones((0, 3), requires_grad=True)]
        optimizer = RAdam([pair[k] for k in order], lr=0.1)
        for _ in range(2):
            pair[0].grad = mg.ones(2)
            optimizer.step()
        assert pair[0].tolist() != [1, 1]


def test_groups_that_are_taken_away_take_their_state_along():
    params = parameters()
    optimizer = Adam([{"params": params[:3]}, {"params": params[3:]}])
    give_gradients(params, 0)
    optimizer.step()
    group = optimizer.param_groups.pop()
    saved = optimizer.state_dict()
    assert list(saved["state"]) == [0, 1, 2]
    optimizer.load_state_dict(saved)
    optimizer.step()
    optimizer.add_param_group(group)
    optimizer.step()
    assert optimizer.state[params[0]]["step"] == 3
    assert optimizer.state[params[3]]["step"] == 1  # anew
    assert len(optimizer._flats) == 2


def test_closures_see_gradients_under_no_grad():
    p = mg.ones(2, requires_grad=True)
    optimizer = SGD([p], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = mg.square(p).sum()
        loss.backward()
        return loss

    with mg.no_grad():
        assert optimizer.step(closure).item() == 2
    np.testing.assert_allclose(p.detach().numpy(), 0.8, rtol=1e-6)


def test_betas_are_not_shared():
    betas = [0.9, 0.99]
    optimizer = Adam([{"params": parameters()[:1]}, {"params": parameters()[1:]}], betas=betas)  # pyright: ignore[reportArgumentType]
    assert [group["betas"] for group in optimizer.param_groups] == [(0.9, 0.99)] * 2


def test_a_skipped_verdict_holds_no_gradients():
    p = mg.ones(2, requires_grad=True)
    optimizer = SGD([p], lr=0.1)
    p.grad = mg.ones(2)
    seen = weakref.ref(p.grad)
    optimizer.step(skip_nonfinite=True)
    optimizer.zero_grad()
    assert seen() is None


@pytest.mark.parametrize("lr", [math.nan, math.inf])
def test_a_bad_lr_is_refused_before_anything_is_changed(lr):
    params = parameters()
    optimizer = SGD([{"params": params[:2]}, {"params": params[2:]}], lr=0.1)
    give_gradients(params, 0)
    before = values(params)
    optimizer.param_groups[1]["lr"] = lr
    with pytest.raises(ValueError, match=r"SGD: lr is (nan|inf), and nothing was changed"):
        optimizer.step()
    for a, b in zip(before, values(params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_zero_grad_with_zeros():
    params = parameters()
    optimizer = SGD(params, lr=0.1)
    give_gradients(params, 0, missing=(3,))
    optimizer.zero_grad(set_to_none=False)
    assert params[3].grad is None
    assert all(not p.grad.numpy().any() and p.grad.shape == p.shape for p in params if p.grad is not None)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


@pytest.mark.parametrize("on", [True, False])
def test_a_gradient_that_is_a_parameter_of_another_group(on, monkeypatch):
    """It counts as it was before the step, whichever group comes first."""
    use_kernels(monkeypatch, on)
    p, q = mg.tensor([1.0, 2.0], requires_grad=True), mg.tensor([4.0, 8.0], requires_grad=True)
    optimizer = mg.optim.SGD([{"params": [p]}, {"params": [q]}], lr=0.5)
    p.grad, q.grad = mg.zeros(2), mg.zeros(2)
    optimizer.step()
    p.grad, q.grad = q.detach(), p.detach()
    optimizer.step()
    assert p.tolist() == [-1, -2]
    assert q.tolist() == [3.5, 7]
