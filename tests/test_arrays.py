"""Corners of elementwise, cumulative, joining and repeating functions, and of operators in place."""

import math
import operator
from typing import Any

import numpy as np
import pytest
from helpers import take_grad, torch_or_skip
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad.testing import gradcheck

fast = settings(max_examples=60)
SPECIAL = np.array([-math.inf, -1.0, -5e-324, -0.0, 0.0, 5e-324, 1.0, 1e308, math.inf, math.nan])

# --- elementwise -----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["numpy", "strict"])
@pytest.mark.parametrize("name", ["copysign", "nextafter"])
def test_special_values_against_numpy(name, device):
    x, y = np.repeat(SPECIAL, len(SPECIAL)), np.tile(SPECIAL, len(SPECIAL))
    ours = getattr(mg, name)(mg.tensor(x, device=device), mg.tensor(y, device=device)).to("numpy").numpy()
    theirs = getattr(np, name)(x, y)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(np.signbit(ours), np.signbit(theirs))
    np.testing.assert_array_equal(mg.signbit(mg.tensor(x, device=device)).to("numpy").numpy(), np.signbit(x))


def test_the_derivative_of_copysign():
    x = mg.tensor([-2.0, 0.0, -0.0, 3.0, 3.0], requires_grad=True)
    y = mg.tensor([1.0, -1.0, 1.0, -0.0, 0.0], requires_grad=True)
    mg.copysign(x, y).sum().backward()
    assert x.grad.tolist() == [-1, 0, 0, -1, 1]
    assert y.grad.tolist() == [0, 0, 0, 0, 0]


FLOATS = ["add", "subtract", "multiply", "divide", "pow", "remainder", "floor_divide", "maximum", "minimum"]
FLOATS += ["atan2", "hypot", "logaddexp", "copysign", "nextafter", "less", "greater_equal", "equal"]
INTEGERS = ["bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift"]


@pytest.mark.parametrize("device", ["numpy", "strict"])
@pytest.mark.parametrize("name", [*FLOATS, *INTEGERS, "logical_and", "logical_or", "logical_xor"])
def test_a_number_in_either_place(name, device):
    number, array = (1.5, np.array([0.5, 2.0], np.float32)) if name in FLOATS else (3, np.array([1, 2]))
    if name.startswith("logical"):
        number, array = True, np.array([True, False])
    floats = name in FLOATS[:14]
    x = mg.tensor(array, requires_grad=floats, device=device)
    other = np.full_like(array, number)
    op, oracle = getattr(mg, name), getattr(np, name)
    full = mg.tensor(other, device=device)
    for result, same, expected in (
        (op(x, number), op(x, full), oracle(array, other)),
        (op(number, x), op(full, x), oracle(other, array)),
    ):
        found = result.detach().to("numpy").numpy()
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        if floats:
            result.sum().backward()
            gradient = take_grad(x)
            same.sum().backward()
            np.testing.assert_allclose(
                gradient.to("numpy").numpy(), take_grad(x).to("numpy").numpy(), rtol=1e-6
            )


# --- reductions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("correction", [0.0, 1.0])
def test_the_gradient_of_std_is_0_where_all_are_equal(correction):
    x = mg.tensor([[1.0, 2.0, 4.0], [3.0, 3.0, 3.0]], dtype=mg.float64, requires_grad=True)
    spread = mg.std(x, axis=1, correction=correction)
    (spread * spread).sum().backward(create_graph=True)
    slope = take_grad(x)
    assert slope.detach()[1].tolist() == [0, 0, 0]
    (slope * slope).sum().backward()
    assert np.isfinite(x.grad.numpy()).all()
    single = mg.tensor([2.0], requires_grad=True)
    mg.std(single).backward()
    assert single.grad.tolist() == [0]


@pytest.mark.parametrize("name", ["sum", "prod", "cumulative_sum", "cumulative_prod"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("device", ["numpy", "strict"])
def test_dtype_of_sums_and_products(name, dtype, device):
    for given_ in (np.array([1, 2, 3], np.int8), np.array([1.9, 2.5, 2.0]), np.array([True, False])):
        result = getattr(mg, name)(mg.tensor(given_, device=device), axis=0, dtype=dtype)
        oracle = getattr(np, name.replace("cumulative_", "cum"))
        expected = oracle(given_.astype(dtype), axis=0, dtype=dtype)
        np.testing.assert_array_equal(result.to("numpy").numpy(), expected, strict=True)


def test_no_gradient_flows_through_a_sum_of_integers():
    x = mg.tensor([1.5, 2.5], requires_grad=True)
    assert not mg.sum(x, dtype=mg.int64).requires_grad
    assert not mg.cumulative_prod(x, dtype=mg.int64).requires_grad
    mg.sum(x, dtype=mg.float64).backward()
    assert x.grad.dtype == np.float32


# --- cumulative functions ----------------------------------------------------------------------------


@pytest.mark.parametrize("zeros", [[], [0], [2], [5], [1, 3], [0, 1, 5], [0, 1, 2, 3, 4, 5]])
@pytest.mark.parametrize("include_initial", [False, True])
def test_cumulative_prod_where_elements_are_0(zeros, include_initial):
    values = np.random.default_rng(0).uniform(0.5, 1.5, (2, 6))
    values[0, zeros] = 0.0
    x = mg.tensor(values, requires_grad=True)
    assert gradcheck(lambda x: mg.cumulative_prod(x, axis=1, include_initial=include_initial), x, order=2)


def test_cumulative_prod_against_torch_where_elements_are_0():
    torch: Any = torch_or_skip()
    theirs: Any
    values = np.array([[2.0, 0.0, 3.0, 0.5], [0.0, 1.0, 0.0, 2.0], [1.0, 2.0, -1.0, 0.0]])
    ours, theirs = mg.tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    for power in (1, 2):
        (mg.cumulative_prod(ours, axis=1) ** power).sum().backward()
        (torch.cumprod(theirs, 1) ** power).sum().backward()
        np.testing.assert_allclose(take_grad(ours).numpy(), theirs.grad.numpy(), rtol=1e-14)
        theirs.grad.zero_()


@pytest.mark.parametrize("name", ["cumulative_sum", "cumulative_prod"])
@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)])
def test_cumulative_functions_of_no_elements(name, shape):
    x = mg.zeros(shape, dtype=mg.float64, requires_grad=True)
    result = getattr(mg, name)(x, axis=-1)
    assert result.shape == shape
    result.sum().backward()
    assert x.grad.shape == shape
    longer = getattr(mg, name)(x, axis=-1, include_initial=True)
    assert longer.shape == (*shape[:-1], shape[-1] + 1)
    assert (longer.detach().numpy()[..., 0] == (name == "cumulative_prod")).all()


@given(
    x=hnp.arrays(np.int64, hnp.array_shapes(max_dims=3, max_side=5), elements=st.integers(-9, 9)),
    n=st.integers(0, 6),
    data=st.data(),
)
@fast
def test_diff_is_that_of_numpy(x, n, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    ends = {key: data.draw(st.sampled_from([None, 3, x])) for key in ("prepend", "append")}
    theirs = np.diff(x, n, axis, **{k: v for k, v in ends.items() if v is not None})
    ours = mg.diff(mg.tensor(x), n, axis, **{k: mg.tensor(v) if v is x else v for k, v in ends.items()})
    np.testing.assert_array_equal(ours.numpy(), theirs, strict=True)


# --- joining, splitting, repeating -------------------------------------------------------------------


@given(
    x=hnp.arrays(np.int64, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)),
    times=st.lists(st.integers(0, 3), max_size=4).map(tuple),
    data=st.data(),
)
@fast
def test_tile_and_repeat_are_those_of_numpy(x, times, data):
    np.testing.assert_array_equal(mg.tile(mg.tensor(x), times).numpy(), np.tile(x, times), strict=True)
    axis = data.draw(st.none() | st.integers(-x.ndim, x.ndim - 1)) if x.ndim else None
    size = x.size if axis is None else x.shape[axis]
    counts = data.draw(st.integers(0, 3) | st.lists(st.integers(0, 3), min_size=size, max_size=size))
    expected = np.repeat(x, np.asarray(counts, int), axis)
    np.testing.assert_array_equal(mg.repeat(mg.tensor(x), counts, axis).numpy(), expected, strict=True)
    if isinstance(counts, list):
        found = mg.repeat(mg.tensor(x), mg.tensor(np.array(counts, np.int32)), axis)
        np.testing.assert_array_equal(found.numpy(), expected, strict=True)


def test_numbers_take_the_dtype_of_what_they_meet():
    mask = mg.tensor([True, False])
    assert mg.where(mask, 1.0, 0).dtype == mg.float32
    assert mg.where(mask, 1, 0).dtype == mg.int64
    assert mg.where(mask, 1.0, np.float64(0)).dtype == mg.float64
    assert mg.vmap(lambda m: mg.where(m, 1.0, 0.0))(mask).tolist() == [1.0, 0.0]
    # As a float32, 0.1 is larger than it is as a float64.
    assert mg.searchsorted(mg.tensor([0.1]), 0.1, side="right").item() == 1
    assert mg.searchsorted(mg.tensor([1, 2]), 1.5).item() == 1


@pytest.mark.parametrize("device", ["numpy", "strict"])
def test_an_array_beside_a_tensor_may_change_before_backward(device):
    x = mg.tensor([[1.0, 2.0]], requires_grad=True, device=device)
    y = mg.tensor([[3.0], [4.0]], device=device).data
    y = y.copy() if device == "numpy" else y
    product = x @ y
    y[0, 0] = 100.0
    product.sum().backward()
    assert take_grad(x).to("numpy").tolist() == [[3.0, 4.0]]


def test_a_list_of_settings_may_change_before_backward():
    x, shift = mg.tensor([[1.0, 2.0, 3.0]], requires_grad=True), [0, 1]
    y = mg.roll(x, shift, axis=(0, 1))
    shift[1] = 0
    (y * mg.tensor([[1.0, 10.0, 100.0]])).sum().backward()
    assert x.grad.tolist() == [[10.0, 100.0, 1.0]]


def test_a_list_of_indices_may_change_before_backward():
    for read in (lambda x, key: mg.take(x, key, axis=0), lambda x, key: x[key]):
        x, key = mg.tensor([1.0, 2.0, 3.0], requires_grad=True), [0, 1]
        y = read(x, key)
        key[0] = 2
        y.sum().backward()
        assert x.grad.tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("indices", [1, [0, 0], np.array([[1], [0]]), mg.tensor([[1], [0]])])
def test_take_takes_all_kinds_of_indices(indices):
    x = mg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    plain = indices.numpy() if isinstance(indices, mg.Tensor) else indices
    result = mg.take(x, indices, axis=1)
    np.testing.assert_array_equal(result.detach().numpy(), np.take(x.detach().numpy(), plain, axis=1))
    (result * result).sum().backward(create_graph=True)
    times = np.bincount(np.ravel(plain), minlength=2)
    np.testing.assert_array_equal(take_grad(x).detach().numpy(), 2 * x.detach().numpy() * times)


def test_unstack_and_stack_are_reverses():
    x = mg.tensor(np.arange(6.0).reshape(2, 3))
    assert isinstance(mg.unstack(x), tuple)
    for axis in (0, 1, -1):
        np.testing.assert_array_equal(mg.stack(mg.unstack(x, axis=axis), axis=axis).numpy(), x.numpy())
    assert mg.unstack(x[:0]) == ()


def test_broadcast_shapes_and_meshgrid():
    assert mg.broadcast_shapes((2, 1), (3,), ()) == (2, 3)
    assert mg.meshgrid() == []
    grids = mg.meshgrid(mg.tensor(1.0), mg.arange(3))
    assert [g.shape for g in grids] == [(3, 1), (3, 1)]
    assert isinstance(mg.broadcast_arrays(mg.ones(2)), list)


def test_reshape_copies_if_asked():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    for copy, shared in ((None, True), (False, True), (True, False)):
        result = mg.reshape(x, (2, 1), copy=copy)
        assert np.shares_memory(result.data, x.data) is shared
        result.sum().backward()
        assert take_grad(x).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: mg.repeat(x, -1), ValueError, "repeat: cannot repeat -1 times"),
        (lambda x: mg.flatten(x, 1, 0), ValueError, "flatten: start_dim=1 comes after end_dim=0"),
        (lambda x: mg.repeat(x, [1, -1], axis=0), ValueError, "negative"),
        (lambda x: mg.repeat(x, [1, 2, 3], axis=0), ValueError, r"integers of shape \(2,\), got \(3,\)"),
        (lambda x: mg.repeat(x, [1.0, 2.0], axis=0), ValueError, "integers.*float64"),
        (lambda x: mg.split(x, 2, axis=1), ValueError, "split: 3 elements along axis 1 .* 2 equal parts"),
        (lambda x: mg.split(x, 0), ValueError, "split"),
        (lambda x: mg.unstack(x, axis=2), IndexError, "unstack"),
        (lambda x: mg.swapaxes(x, 0, 2), IndexError, "swapaxes"),
        (lambda x: mg.broadcast_arrays(x, mg.ones(2)), ValueError, r"\(2, 3\) and \(2,\)"),
        (lambda x: mg.meshgrid(x[0], indexing="ab"), ValueError, "'ab'"),
        (lambda x: mg.meshgrid(x), ValueError, "one axis"),
        (lambda x: mg.cumulative_prod(x), ValueError, "cumulative_prod.* needs an axis"),
        (lambda x: mg.cumulative_sum(x, axis=2), IndexError, "cumulative_sum"),
        (lambda x: mg.diff(x, n=-1), ValueError, "diff: n must not be negative"),
        (lambda x: mg.diff(mg.tensor([1, 2]), prepend=0.5), TypeError, "int64 cannot hold 0.5"),
        (lambda x: mg.diff(mg.tensor(1.0)), IndexError, "diff"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call(mg.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))


# --- operators in place ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "x", "y"),
    [
        (operator.ifloordiv, 7.5, 2.0),
        (operator.imod, 7.5, 2.0),
        (operator.ifloordiv, 7, 2),
        (operator.imod, 7, 2),
        (operator.iand, 6, 3),
        (operator.ior, 6, 3),
        (operator.ixor, 6, 3),
        (operator.ilshift, 6, 3),
        (operator.irshift, 6, 1),
        (operator.imatmul, np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.0, 1.0], [2.0, 0.0]])),
    ],
)
def test_operators_in_place(op, x, y):
    tensor = before = mg.tensor(x)
    old = before.detach()
    tensor = op(tensor, mg.tensor(y) if isinstance(y, np.ndarray) else y)
    assert tensor is before
    np.testing.assert_array_equal(tensor.numpy(), op(np.array(x), y))
    np.testing.assert_array_equal(old.numpy(), x)  # what shared its memory keeps the value


def test_gradients_flow_through_operators_in_place():
    weight = mg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    x = mg.tensor([[1.0, 1.0], [0.0, 1.0]])
    x @= weight
    x %= 3.0
    (x * x).sum().backward()
    expected = mg.tensor([[1.0, 1.0], [0.0, 1.0]]).mT @ (2 * x.detach())
    np.testing.assert_array_equal(weight.grad.numpy(), expected.numpy())
    with pytest.raises(RuntimeError, match="x @= y: x is a leaf"):
        weight @= x
    with pytest.raises(ValueError, match=r"x @= y: x of shape \(2, 2\)"):
        x @= mg.ones((2, 3))
    n = mg.tensor([1, 2])
    with pytest.raises(TypeError, match="x //= y: x is int64"):
        n //= 2.0
