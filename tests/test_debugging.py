"""Hooks, anomaly detection, the lines that errors name, and ops of the user's own."""

import gc
import math
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from helpers import take_grad

import minigrad as mg
from minigrad.testing import gradcheck


def leaf(*values: float) -> mg.Tensor:
    return mg.tensor(list(values), dtype=mg.float64, requires_grad=True)


# --- hooks -----------------------------------------------------------------------------------------


def test_hook_sees_the_whole_gradient_once():
    x = leaf(1.0, 2.0)
    y = x * 3
    seen = []
    y.register_hook(lambda g: seen.append(g.tolist()))
    (y * y + y).sum().backward()
    assert seen == [[7.0, 13.0]]  # of both uses
    assert x.grad.tolist() == [21.0, 39.0]


def test_hook_changes_what_flows_on_wherever_it_was_registered():
    x = leaf(1.0, 2.0)
    y = x * 3
    z = (y * 2).sum()
    y.register_hook(lambda g: g * 10)  # after y was used, as in torch
    z.backward()
    assert x.grad.tolist() == [60.0, 60.0]


def test_hooks_on_leaves_come_before_the_sum():
    x = leaf(1.0, 2.0)
    hook = x.register_hook(lambda g: -g)
    x.sum().backward()
    assert x.grad.tolist() == [-1.0, -1.0]
    hook.remove()
    hook.remove()
    x.sum().backward()
    assert x.grad.tolist() == [0.0, 0.0]
    with x.register_hook(lambda g: g * 5):
        (g,) = mg.autograd.grad(x.sum(), x)
    assert g.tolist() == [5.0, 5.0]
    assert mg.autograd.grad(x.sum(), x)[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("first", [0, 1])
def test_backward_in_a_hook_adds_to_gradients_that_are_there_by_then(first):
    leaves = leaf(1.0), leaf(1.0)

    def also(g):
        hook.remove()
        with mg.enable_grad():
            (leaves[0] * 100 + leaves[1] * 100).sum().backward()

    hook = leaves[first].register_hook(also)
    (leaves[0] * 2 + leaves[1] * 3).sum().backward()
    assert [x.grad.tolist() for x in leaves] == [[102.0], [103.0]]


def test_hooks_run_in_order_and_on_one_tensor_alone():
    x = leaf(1.0)
    y, other = x * 2, x * 3
    y.register_hook(lambda g: g + 1)
    y.register_hook(lambda g: g * 10)
    (y + other).backward()
    assert x.grad.tolist() == [2 * 20 + 3]


def test_hooks_are_differentiated():
    x = leaf(3.0)
    y = x * x
    y.register_hook(lambda g: g * x)
    (g,) = mg.autograd.grad(y.sum(), x, create_graph=True)
    assert g.tolist() == [2 * 9.0]
    assert mg.autograd.grad(g.sum(), x)[0].tolist() == [4 * 3.0]


def test_hooks_keep_nothing_alive():
    x = leaf(1.0)
    y = x * 2
    ref = weakref.ref(y)
    hook = y.register_hook(lambda g: None)
    gc.disable()
    try:
        del y
        assert ref() is None
    finally:
        gc.enable()
    hook.remove()


def test_a_gradient_keeps_its_dtype_through_hooks():
    x = mg.tensor([1.0, 2.0], dtype=mg.float32, requires_grad=True)
    x.register_hook(lambda g: g.to(mg.float64) * 2)
    (x * x).sum().backward()
    assert (x.grad.dtype, x.grad.tolist()) == (mg.float32, [4, 8])


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (lambda g: g.sum(), r"\(2,\).*; got \(\(\), "),
        (lambda g: 3.0, "got float"),
        (lambda g: g.to("strict"), "got .*strict"),
    ],
)
def test_hooks_that_give_something_else(hook, message):
    x = leaf(1.0, 2.0)
    y = x * 2
    y.register_hook(hook)
    with pytest.raises(ValueError, match=message):
        y.sum().backward()
    with pytest.raises(RuntimeError, match=r"register_hook: .*no gradients"):
        x.detach().register_hook(hook)


# --- anomalies -------------------------------------------------------------------------------------


def test_anomaly_in_a_result_names_the_op_and_the_line():
    x = leaf(1.0, -2.0)
    with mg.detect_anomaly(), pytest.raises(FloatingPointError) as caught:
        mg.log(x)
    message = str(caught.value)
    assert message.startswith("log: the result (2,) float64 holds NaN, from finite inputs; computed at ")
    assert "test_debugging.py" in message
    assert message.endswith("mg.log(x)")


def test_anomaly_in_a_gradient_names_the_line_of_the_forward_pass():
    x = leaf(0.0, 1.0)
    with mg.detect_anomaly():
        root = mg.sqrt(x)  # here
        with pytest.raises(FloatingPointError, match="gradient of 'sqrt' holds an infinity") as caught:
            root.sum().backward()
    assert caught.value.__notes__[0].endswith("root = mg.sqrt(x)  # here")
    assert x.grad is None


def test_the_first_of_several_anomalies_is_named():
    x = leaf(1.0, 2.0)
    with mg.detect_anomaly(), pytest.raises(FloatingPointError, match=r"^exp: .*infinity"):
        mg.log(mg.exp(x * 1000) - mg.exp(x * 2000))


def test_infinities_that_were_put_in_are_none():
    x = leaf(1.0, 2.0)
    mask = mg.tensor([True, False])
    with mg.detect_anomaly():
        mg.softmax(mg.where(mask, x, -math.inf)).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0]


def test_nan_in_the_data_is_found_and_said_to_be_there():
    x = leaf(1.0, 2.0)
    with mg.detect_anomaly(), pytest.raises(FloatingPointError, match=r"multiply: .*NaN in input 1 already"):
        x * mg.tensor([math.nan, 1.0], dtype=mg.float64)


def test_anomalies_inside_modules_name_the_users_line():
    layer = mg.nn.Linear(2, 2)
    layer.weight.data = mg.full((2, 2), 3e38)
    with mg.detect_anomaly(), pytest.raises(FloatingPointError) as caught:
        layer(mg.full((1, 2), 100.0))
    assert str(caught.value).endswith("layer(mg.full((1, 2), 100.0))")


def test_anomaly_mode_is_left_again_and_stays_in_its_thread():
    x = leaf(-1.0)
    quiet = []

    def other_thread() -> None:
        with np.errstate(all="ignore"):
            quiet.append(mg.log(leaf(-1.0)).tolist())

    with mg.detect_anomaly():
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
        with mg.no_grad(), np.errstate(all="ignore"):
            mg.log(x)  # not recorded
        with mg.no_grad(), mg.enable_grad(), pytest.raises(FloatingPointError):
            mg.log(x)
    assert len(quiet) == 1
    with np.errstate(all="ignore"):
        assert math.isnan(mg.log(x).item())


def test_anomalies_in_second_order():
    x = leaf(0.0)
    with mg.detect_anomaly():
        (g,) = mg.autograd.grad((x**1.5).sum(), x, create_graph=True)
        with pytest.raises(FloatingPointError, match="gradient of 'pow'"):
            g.backward()


# --- lines -----------------------------------------------------------------------------------------


def test_errors_of_the_engine_name_the_line_of_the_forward_pass():
    x = leaf(1.0, 2.0)
    y = mg.exp(x)  # the line
    y.sum().backward()
    with pytest.raises(RuntimeError, match=r"freed by .*y = mg\.exp\(x\)  # the line"):
        y.sum().backward()
    optimizer = mg.optim.SGD([x], lr=0.1)
    z = mg.sin(x)  # another
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"overwritten it since.*z = mg\.sin\(x\)  # another"):
        z.sum().backward()


def test_lines_of_methods_operators_and_what_is_made_of_other_ops():
    x = leaf(1.0, 2.0)
    with mg.detect_anomaly():
        square = mg.nn.functional.mse_loss(x, x.detach(), reduction="none")  # an elementwise op inside
    for y in (
        x.sum(),
        x + 1,
        -x,
        mg.std(x),
        mg.nn.functional.mse_loss(x, x.detach()),
        square,
        mg.concat([x, x]),
    ):
        line = mg.autograd.made_at(y.node)  # pyright: ignore[reportArgumentType]
        assert "test_debugging.py" in line
        assert "in test_lines_of_methods_operators_and_what_is_made_of_other_ops" in line


# --- ops of the user's own -------------------------------------------------------------------------


def test_straight_through_estimator():
    @mg.primitive(x=lambda g: g)
    def round_through(xp: Any, x: Any) -> Any:
        """The nearest integer, with the derivative of x itself."""
        return xp.round(x)

    x = leaf(0.4, 1.6)
    y = round_through(x) * mg.tensor([2.0, 3.0])
    y.sum().backward()
    assert y.tolist() == [0.0, 6.0]
    assert x.grad.tolist() == [2.0, 3.0]
    assert round_through.__doc__ == "The nearest integer, with the derivative of x itself."


def test_clipped_gradient():
    @mg.primitive(x=lambda xp, g, limit: xp.clip(g, -limit, limit))
    def clip_gradient(xp: Any, x: Any, limit: float = 1.0) -> Any:
        return x

    x: Any = leaf(1.0, 2.0)
    (clip_gradient(x, 0.5) * mg.tensor([10.0, 0.1])).sum().backward()
    assert take_grad(x).tolist() == pytest.approx([0.5, 0.1])
    (clip_gradient(x) * 10).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


def test_own_op_at_all_orders_and_on_other_backends():
    @mg.primitive(x=lambda xp, g, x, k: g * k * xp.cos(k * x), k=lambda xp, g, x, k: g * x * xp.cos(k * x))
    def wave(xp: Any, x: Any, k: Any) -> Any:
        return xp.sin(k * x)

    x, k = leaf(0.3, 0.7), mg.tensor(2.0, dtype=mg.float64, requires_grad=True)
    assert gradcheck(wave, x, k, order=3)
    there = mg.tensor(np.array([0.3, 0.7]), requires_grad=True, device="strict")
    wave(there, 2.0).sum().backward()
    np.testing.assert_allclose(there.grad.to("numpy").numpy(), 2 * np.cos([0.6, 1.4]))
    with pytest.raises(ValueError, match=r"wave: got \(2,\) float64 and \(3,\) float64"):
        wave(x, leaf(1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"y": lambda g: g}, r"rule of 'y' names unknown \['y'\]"),
        ({"x": lambda g, z: g}, r"rule of 'x' names unknown \['z'\]"),
        ({"x": 3}, "rule of 'x' must be a function, got int"),
    ],
)
def test_rules_that_do_not_match(rules, message):
    with pytest.raises(TypeError, match=message):

        @mg.primitive(**rules)
        def square(xp: Any, x: Any) -> Any:
            return x * x


def test_forward_functions_that_cannot_be():
    with pytest.raises(TypeError, match="keyword-only"):

        @mg.primitive()
        def scaled(xp: Any, x: Any, *, by: float) -> Any:
            return x * by

    with pytest.raises(TypeError, match="first parameter"):
        mg.primitive(x=lambda g: g)(lambda x: x)

    @mg.primitive(x=lambda g: g)
    def two(xp: Any, x: Any) -> Any:
        return x, x

    with pytest.raises(TypeError, match="two: the forward function must give one array, got tuple"):
        two(leaf(1.0))


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        (lambda g: g[:1, ...].reshape((1, 1, 1)), None, ""),  # summed, as for any broadcast
        (lambda xp, g: xp.concat([g, g]), ValueError, r"gradient of shape \(4,\)"),
        (lambda g: None, TypeError, "gave None"),
    ],
)
def test_rules_that_give_something_else(rule, error, message):
    @mg.primitive(x=rule)
    def odd(xp: Any, x: Any) -> Any:
        return x + 0

    x = leaf(1.0) if error is None else leaf(1.0, 2.0)
    y = odd(x).sum()
    if error is None:
        y.backward()
        return
    with pytest.raises(error, match=message) as caught:
        y.backward()
    assert "in the gradient of 'odd'" in caught.value.__notes__[0]
    assert caught.value.__notes__[0].endswith("y = odd(x).sum()")
