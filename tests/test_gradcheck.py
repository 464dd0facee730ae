"""gradcheck must find what is wrong, and nothing else."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.primitive import OPS, primitive
from minigrad.testing import gradcheck


@pytest.fixture
def plant():
    """Make an op with rules of one's own, which is forgotten after the test."""
    made = []

    def make(forward, **rules):
        op = primitive(**rules)(forward)
        made.append(forward.__name__)
        return op

    yield make
    for name in made:
        OPS.pop(name.lstrip("_"), None)


def cube(xp, x):
    return x * x * x


def point(*shape: int) -> mg.Tensor:
    return mg.tensor(np.random.default_rng(0).uniform(0.5, 1.5, shape), requires_grad=True)


@pytest.mark.parametrize("shape", [(3,), (), (20, 30)])
def test_right_rule_passes(plant, shape):
    right = plant(cube, x=lambda g, x: 3 * g * x * x)
    assert gradcheck(right, point(*shape), order=3)


@pytest.mark.parametrize("shape", [(3,), (), (20, 30)])
@pytest.mark.parametrize(
    "rule",
    [
        lambda g, x: 2 * g * x * x,
        lambda g, x: 3 * g * x * x * 1.0001,
        lambda g, x: 3 * g * x * x + 1e-4,
        lambda g, x: -3 * g * x * x,
        lambda g, x: 3 * x * x,  # forgets g
        lambda xp, g: xp.zeros_like(g),
        lambda xp, g, x: 3 * g * x * x * xp.asarray(np.nan),
    ],
)
def test_wrong_rules_are_found(plant, rule, shape):
    wrong = plant(cube, x=rule)
    with pytest.raises(AssertionError, match="derivatives are wrong"):
        gradcheck(lambda x: wrong(x) * 2, point(*shape))


def test_one_wrong_element_is_found(plant):
    def rule(xp, g, x):
        factor = np.ones(x.shape)
        factor[1] = 1.01
        return 3 * g * x * x * factor

    with pytest.raises(AssertionError, match=r"1 of 9 .*output element 1 by input element 1"):
        gradcheck(plant(cube, x=rule), point(3))


def test_wrong_second_derivative_is_found(plant):
    def detached(g, x):
        # The right values, but a rule that drops the graph: wrong from the second order on.
        return 3 * g * (x.detach() if isinstance(x, mg.Tensor) else x) ** 2

    wrong = plant(cube, x=detached)
    assert gradcheck(wrong, point(3))
    with pytest.raises(AssertionError, match="derivatives are wrong"):
        gradcheck(wrong, point(3), order=2)


def test_swapped_rules_are_found(plant):
    def product(xp, x, y):
        return x * y

    wrong = plant(product, x=lambda g, x: g * x, y=lambda g, y: g * y)
    with pytest.raises(AssertionError, match="derivatives are wrong"):
        gradcheck(wrong, point(3), mg.tensor([4.0, 5.0, 6.0], dtype=mg.float64, requires_grad=True))


def test_several_outputs_and_constants():
    x, y = point(2, 3), mg.tensor([1.0, 2.0, 3.0], dtype=mg.float64)
    assert gradcheck(lambda x, y: (mg.sin(x) * y, x.sum(axis=0), y * 2), x, y, order=2)


def test_inputs_that_do_not_matter():
    assert gradcheck(lambda x, y: x * 2, point(2), point(3), order=2)


def test_refusals():
    with pytest.raises(TypeError, match="float32"):
        gradcheck(mg.sin, mg.ones(2, requires_grad=True))
    with pytest.raises(ValueError, match="no input requires gradients"):
        gradcheck(mg.sin, mg.ones(2))


def test_leaves_no_gradients_behind():
    x = point(3)
    gradcheck(mg.sin, x, order=2)
    assert x.grad is None
