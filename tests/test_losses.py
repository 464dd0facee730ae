"""Losses, as functions and as layers, against torch over their arguments, and at extreme inputs."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.kernels import plan
from minigrad.nn import functional as F  # noqa: N812

REDUCTIONS = ["mean", "sum", "none"]
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
DTYPES = list(TOLERANCE)


def compare(
    torch,
    name: str,
    input,
    target,
    arguments: dict[str, Any],
    target_grad: bool = False,
    tolerance: float | None = None,
) -> None:
    """Value and gradients of a loss function and of torch's; the layer gives the same."""
    tolerance = tolerance or TOLERANCE[str(input.dtype)]
    x, t = mg.tensor(input, requires_grad=True), torch.tensor(input, requires_grad=True)
    y, u = mg.tensor(target, requires_grad=target_grad), torch.tensor(target, requires_grad=target_grad)
    arrays = {k: v for k, v in arguments.items() if isinstance(v, np.ndarray)}
    ours = getattr(F, name)(x, y, **arguments)
    theirs = getattr(torch.nn.functional, name)(
        t, u, **{**arguments, **{k: torch.tensor(v) for k, v in arrays.items()}}
    )
    assert (ours.shape, str(ours.dtype)) == (tuple(theirs.shape), str(input.dtype))
    np.testing.assert_allclose(ours.detach(), theirs.detach().numpy(), rtol=tolerance, atol=tolerance)
    g = np.asarray(np.random.default_rng(1).normal(size=ours.shape), input.dtype)
    ours.backward(g)
    theirs.backward(torch.tensor(g))
    pairs = [(x, t), (y, u)] if target_grad else [(x, t)]
    for a, b in pairs:
        np.testing.assert_allclose(a.grad, b.grad.numpy(), rtol=tolerance, atol=tolerance)
    layer = getattr(nn, LAYERS[name])(**arguments)
    np.testing.assert_array_equal(layer(mg.tensor(input), target).numpy(), ours.detach().numpy())


@pytest.fixture(autouse=True, params=[0, plan.MANY], ids=["kernels", "array code"])
def _many(request, monkeypatch):
    """By kernels, as large arrays are computed, and by array code, as small ones are."""
    monkeypatch.setattr(plan, "MANY", request.param)


LAYERS = {
    "mse_loss": "MSELoss",
    "l1_loss": "L1Loss",
    "smooth_l1_loss": "SmoothL1Loss",
    "huber_loss": "HuberLoss",
    "binary_cross_entropy": "BCELoss",
    "binary_cross_entropy_with_logits": "BCEWithLogitsLoss",
    "kl_div": "KLDivLoss",
    "nll_loss": "NLLLoss",
    "cross_entropy": "CrossEntropyLoss",
}


# --- differences of numbers --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mse_loss", {}),
        ("l1_loss", {}),
        ("smooth_l1_loss", {}),
        ("smooth_l1_loss", {"beta": 0.3}),
        ("smooth_l1_loss", {"beta": 0.0}),
        ("huber_loss", {}),
        ("huber_loss", {"delta": 0.4}),
    ],
)
@pytest.mark.parametrize("shape", [(), (7,), (4, 3, 2)])
def test_differences_against_torch(torch, name, arguments, reduction, dtype, shape):
    random = np.random.default_rng(0)
    input, target = (np.asarray(random.normal(size=shape) * 2, dtype) for _ in range(2))
    compare(torch, name, input, target, {**arguments, "reduction": reduction}, target_grad=True)


def test_differences_at_corners(torch):
    x = np.array([0.0, 1.0, -1.0, 2.0, np.inf, -np.inf, 1e-300])
    for name in ("l1_loss", "mse_loss", "huber_loss", "smooth_l1_loss"):
        compare(torch, name, x, np.zeros_like(x), {"reduction": "none"}, target_grad=True)


def test_second_derivatives_of_differences():
    x = mg.tensor([0.3, -0.2, 1.7, -3.0], dtype=mg.float64, requires_grad=True)
    y = mg.tensor([0.1, 0.1, 0.2, 0.3], dtype=mg.float64, requires_grad=True)
    for name in ("mse_loss", "huber_loss", "smooth_l1_loss", "l1_loss"):
        assert mg.testing.gradcheck(lambda x, y, name=name: getattr(F, name)(x, y, "sum"), x, y, order=2)


# --- probabilities -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, (3,), (4, 1)])
@pytest.mark.parametrize("pos_weight", [None, (3,)])
def test_two_classes_against_torch(torch, weight, pos_weight, reduction, dtype):
    random = np.random.default_rng(0)
    target = random.uniform(size=(4, 3)).astype(dtype)
    arguments: dict[str, Any] = {"reduction": reduction}
    if weight:
        arguments["weight"] = random.uniform(0.5, 2, weight).astype(dtype)
    if pos_weight is None:
        compare(torch, "binary_cross_entropy", random.uniform(size=(4, 3)).astype(dtype), target, arguments)
        compare(
            torch, "binary_cross_entropy", random.uniform(size=(4, 3)).astype(dtype), target, arguments, True
        )
    else:
        arguments["pos_weight"] = random.uniform(0.5, 2, pos_weight).astype(dtype)
    scores = (random.normal(size=(4, 3)) * 3).astype(dtype)
    compare(torch, "binary_cross_entropy_with_logits", scores, target, arguments, target_grad=True)


def test_two_classes_at_extremes(torch):
    grid = np.array(list(itertools.product([0.0, 1e-40, 1e-10, 0.5, 1 - 1e-10, 1.0], [0.0, 0.3, 1.0])))
    # torch's 1e-12, by which it divides, is a float32.
    compare(torch, "binary_cross_entropy", grid[:, 0], grid[:, 1], {"reduction": "none"}, tolerance=1e-8)
    scores = np.array(list(itertools.product([-1e4, -700.0, -30.0, 0.0, 30.0, 700.0, 1e4], [0.0, 0.3, 1.0])))
    for arguments in ({}, {"pos_weight": np.array(3.0)}):
        compare(
            torch,
            "binary_cross_entropy_with_logits",
            scores[:, 0],
            scores[:, 1],
            {"reduction": "none", **arguments},
        )
    far, target = mg.tensor([50.0, -50.0]), mg.tensor([1.0, 0.0])
    losses = F.binary_cross_entropy_with_logits(far, target, reduction="none")
    np.testing.assert_allclose(losses.numpy(), [math.exp(-50)] * 2, rtol=1e-6)  # where torch has 0 for one


@pytest.mark.filterwarnings("ignore:reduction:UserWarning")  # torch's
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("shape", [(5,), (4, 3)])
def test_divergence_against_torch(torch, shape, log_target, reduction, dtype):
    random = np.random.default_rng(0)
    input, target = (mg.softmax(mg.tensor(random.normal(size=shape))).numpy().astype(dtype) for _ in range(2))
    target[..., 0] = 0 if not log_target else 0.1
    target = np.log(target) if log_target else target
    arguments = {"reduction": reduction, "log_target": log_target}
    compare(torch, "kl_div", np.log(input), target, arguments)
    inside = np.where(target == 0, 0.5, target).astype(dtype)
    compare(torch, "kl_div", np.log(input), inside, arguments, target_grad=True)


def test_second_derivatives_of_probabilities():
    random = np.random.default_rng(0)
    p, q = (mg.tensor(random.uniform(0.1, 0.9, (2, 3)), requires_grad=True) for _ in range(2))
    for name, arguments in (
        ("binary_cross_entropy", {}),
        ("binary_cross_entropy_with_logits", {}),
        ("binary_cross_entropy_with_logits", {"pos_weight": np.array([0.5, 2.0, 3.0])}),
        ("kl_div", {"reduction": "batchmean"}),
        ("kl_div", {"log_target": True}),
    ):
        assert mg.testing.gradcheck(
            lambda x, y, name=name, arguments=arguments: getattr(F, name)(x, y, **arguments), p, q, order=2
        )


# --- classes -----------------------------------------------------------------------------------------

SHAPES = [((4,), ()), ((5, 4), (5,)), ((3, 4, 2), (3, 2)), ((2, 4, 2, 2), (2, 2, 2))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("ignore_index", [-100, 2, -1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("shape", "target_shape"), SHAPES)
def test_classes_against_torch(
    torch, shape, target_shape, weighted, ignore_index, label_smoothing, reduction, dtype
):
    random = np.random.default_rng(0)
    scores = (random.normal(size=shape) * 3).astype(dtype)
    target = np.asarray(random.integers(0, 4, target_shape))
    if target.ndim:
        target[0] = ignore_index if ignore_index != -100 else 2
        target.flat[-1] = 1  # so that not all are ignored
    else:
        target[...] = 1
    arguments: dict[str, Any] = {"reduction": reduction, "ignore_index": ignore_index}
    if weighted:
        arguments["weight"] = random.uniform(0.5, 2, 4).astype(dtype)
    compare(torch, "cross_entropy", scores, target, {**arguments, "label_smoothing": label_smoothing})
    if not label_smoothing:
        axis = 0 if len(shape) == 1 else 1
        compare(torch, "nll_loss", mg.log_softmax(mg.tensor(scores), axis).numpy(), target, arguments)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("shape", "target_shape"), SHAPES)
def test_class_probabilities_with_weights_against_torch(
    torch, shape, target_shape, label_smoothing, reduction
):
    random = np.random.default_rng(0)
    axis = 0 if len(shape) == 1 else 1
    target = mg.softmax(mg.tensor(random.normal(size=shape)), axis).numpy()
    arguments = {
        "weight": random.uniform(0.5, 2, 4),
        "reduction": reduction,
        "label_smoothing": label_smoothing,
    }
    compare(torch, "cross_entropy", random.normal(size=shape), target, arguments, target_grad=True)


def test_what_is_ignored_counts_nothing():
    x = mg.tensor([[0.0, 1.0], [np.inf, 0.0], [5.0, 5.0]], requires_grad=True)
    target = mg.tensor([0, -100, 1])
    with np.errstate(invalid="ignore"):
        losses = F.cross_entropy(x, target, reduction="none")
    assert losses[1].item() == 0
    assert F.nll_loss(mg.tensor([[-np.inf, 0.0]]), mg.tensor([-100]), reduction="sum").item() == 0
    with np.errstate(invalid="ignore"):
        assert math.isnan(F.cross_entropy(mg.zeros((2, 3)), mg.tensor([-100, -100])).item())
    x = mg.tensor([[0.0, 1.0], [5.0, 5.0]], requires_grad=True)
    F.cross_entropy(x, mg.tensor([7, 1]), ignore_index=7).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[0, 0], [0.5, -0.5]])


def test_extreme_scores(torch):
    scores = np.array([[1e4, 0.0, -1e4], [-700.0, 700.0, 0.0], [1e300, 0.0, 0.0]])
    for arguments in ({}, {"weight": np.array([1.0, 2.0, 3.0])}, {"ignore_index": 1}):
        compare(torch, "cross_entropy", scores, np.array([2, 1, 0]), {"reduction": "none", **arguments})


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_second_derivatives_of_classes(label_smoothing):
    random = np.random.default_rng(0)
    x = mg.tensor(random.normal(size=(3, 4, 2)), requires_grad=True)
    target = np.array([[0, -100], [1, 3], [2, 2]])
    weight = mg.tensor([0.5, 1.0, 2.0, 3.0], dtype=mg.float64)
    for reduction in REDUCTIONS:
        assert mg.testing.gradcheck(
            lambda x, r=reduction: F.cross_entropy(
                x, target, weight, reduction=r, label_smoothing=label_smoothing
            ),
            x,
            order=2,
        )
    assert mg.testing.gradcheck(lambda x: F.nll_loss(x, target, weight), x, order=2)


def test_losses_of_examples():
    random = np.random.default_rng(0)
    scores, targets = mg.tensor(random.normal(size=(5, 4, 3))), mg.tensor(random.integers(0, 3, (5, 4)))
    weight = mg.tensor([1.0, 2.0, 3.0], dtype=mg.float64)

    def loss(x, y):
        return F.cross_entropy(x, y, weight, ignore_index=1, reduction="sum")

    each = [loss(scores[i], targets[i]).item() for i in range(5)]
    np.testing.assert_allclose(mg.vmap(loss)(scores, targets).numpy(), each)
    shared = [loss(scores[0], targets[i]).item() for i in range(5)]
    np.testing.assert_allclose(mg.vmap(loss, in_axes=(None, 0))(scores[0], targets).numpy(), shared)


@pytest.mark.parametrize("weighted", [False, True])
def test_losses_where_nothing_is_numpy(weighted):
    """On arrays that NumPy cannot read, as on a GPU."""
    random = np.random.default_rng(0)
    scores, other = random.normal(size=(5, 3)), random.uniform(0.1, 0.9, (5, 3))
    target, weight = random.integers(0, 3, 5), np.array([1.0, 2.0, 3.0])
    for run in (
        lambda x, y, t, w: F.cross_entropy(x, t, w, ignore_index=1, label_smoothing=0.1),
        lambda x, y, t, w: F.cross_entropy(x, y, w),
        lambda x, y, t, w: F.nll_loss(x, t, w),
        lambda x, y, t, w: F.binary_cross_entropy(y, y, w),
        lambda x, y, t, w: F.binary_cross_entropy_with_logits(x, y, pos_weight=w),
        lambda x, y, t, w: F.kl_div(x, y, "batchmean"),
        lambda x, y, t, w: F.huber_loss(x, y) + F.smooth_l1_loss(x, y) + F.l1_loss(x, y) + F.mse_loss(x, y),
    ):
        found = []
        for device in ("numpy", "strict"):
            x = mg.tensor(scores, requires_grad=True, device=device)
            y = mg.tensor(other, requires_grad=True, device=device)
            w = mg.tensor(weight, device=device) if weighted else None
            loss = run(x, y, mg.tensor(target, device=device), w)
            loss.backward()
            found.append([loss.item(), *(a.grad.numpy() for a in (x, y) if a.grad is not None)])
        for ours, strict in zip(*found, strict=True):
            np.testing.assert_allclose(ours, strict, rtol=1e-12)


def test_empty_batches(torch):
    none = np.zeros((0, 3))
    for name, target, reduction in itertools.product(
        ("mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "kl_div", "binary_cross_entropy_with_logits"),
        [none],
        ["sum", "none"],
    ):
        compare(torch, name, none, target, {"reduction": reduction})
    for name in ("cross_entropy", "nll_loss"):
        for reduction in ("sum", "none"):
            compare(torch, name, none, np.zeros(0, np.int64), {"reduction": reduction})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: F.mse_loss(mg.ones(2), mg.ones((2, 1))), ValueError, r"mse_loss: .*\(2,\) and \(2, 1\)"),
        (lambda: F.kl_div(mg.ones(2), mg.ones(3)), ValueError, r"kl_div: .*\(2,\) and \(3,\)"),
        (lambda: F.l1_loss(mg.ones(2), mg.ones(2), "max"), ValueError, "l1_loss: reduction .*'max'"),
        (lambda: F.kl_div(mg.ones(2), mg.ones(2), "max"), ValueError, "kl_div: reduction .*batchmean.*'max'"),
        (lambda: F.huber_loss(mg.ones(2), mg.ones(2), delta=0), ValueError, "delta must be positive, got 0"),
        (lambda: F.smooth_l1_loss(mg.ones(2), mg.ones(2), beta=-1), ValueError, "beta .*got -1"),
        (lambda: F.binary_cross_entropy(mg.full(2, 1.5), mg.ones(2)), ValueError, "from 0 to 1"),
        (
            lambda: F.binary_cross_entropy(mg.ones(2), mg.ones(2), mg.ones((3, 2))),
            ValueError,
            r"weight must broadcast to the input's shape \(2,\), got \(3, 2\)",
        ),
        (lambda: F.cross_entropy(mg.ones((2, 3)), [0, 3]), IndexError, "from 0 to 2, got 0 to 3"),
        (lambda: F.cross_entropy(mg.ones((2, 3)), [-1, 3], ignore_index=-1), IndexError, "got 0 to 3"),
        (lambda: F.nll_loss(mg.ones((2, 3)), [0, -1]), IndexError, "nll_loss: class indices .*got -1 to 0"),
        (lambda: F.nll_loss(mg.ones((2, 3)), [0.0, 1.0]), TypeError, "must be integers, got float32"),
        (lambda: F.nll_loss(mg.ones((2, 3)), [[0], [1]]), ValueError, r"got \(2, 1\) for input \(2, 3\)"),
        (lambda: F.nll_loss(mg.ones(()), 0), ValueError, r"nll_loss: got input of shape \(\)"),
        (
            lambda: F.cross_entropy(mg.ones((2, 3)), [0, 1], weight=mg.ones(2)),
            ValueError,
            r"weight must have shape \(3,\), got \(2,\)",
        ),
        (
            lambda: F.cross_entropy(mg.ones((2, 3)), mg.ones((2, 3)), ignore_index=1),
            ValueError,
            "ignore_index is for class indices",
        ),
        (lambda: nn.CrossEntropyLoss(reduction="max"), ValueError, "CrossEntropyLoss: reduction"),
        (lambda: nn.KLDivLoss(reduction="max"), ValueError, "KLDivLoss: reduction"),
    ],
)
def test_losses_refuse(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_weights_of_losses_are_buffers():
    loss = nn.CrossEntropyLoss(mg.tensor([1.0, 2.0]), label_smoothing=0.1)
    assert list(loss.state_dict()) == ["weight"]
    assert repr(loss) == "CrossEntropyLoss(reduction='mean', ignore_index=-100, label_smoothing=0.1)"
    assert loss.to(mg.float64).weight.dtype == np.float64
    assert list(nn.BCEWithLogitsLoss(pos_weight=[2.0]).state_dict()) == ["pos_weight"]
    assert nn.NLLLoss().state_dict() == {}
