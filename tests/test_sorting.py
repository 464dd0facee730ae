"""Sorting, ranks, searching and sets at their corners: ties, NaN, -0.0, no elements, every dtype."""

import inspect
import math
from typing import Any

import array_api_strict as strict
import numpy as np
import pytest
from helpers import take_grad
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad.testing import gradcheck

FEW = [-math.inf, -1.5, -0.0, 0.0, 1.0, 2.0, math.inf, math.nan]
DTYPES = [np.bool_, np.int8, np.int64, np.uint8, np.uint64, np.float16, np.float32, np.float64]
fast = settings(max_examples=60)


@st.composite
def arrays(draw, min_dims: int = 1, max_dims: int = 3, min_side: int = 0) -> np.ndarray:
    """Arrays with many equal elements, of any dtype."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    floats = FEW if dtype.kind == "f" else [0, 1] if dtype.kind == "b" else [0, 1, 2, 100]
    shape = draw(hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=6))
    return draw(hnp.arrays(dtype, shape, elements=st.sampled_from(np.array(floats, dtype).tolist())))


def stable_order(row: np.ndarray, descending: bool) -> list[int]:
    """Python's own stable sort, with NaN as the largest."""
    key = [(bool(v != v), 0 if v != v else v) for v in row.tolist()]
    return sorted(range(len(key)), key=key.__getitem__, reverse=descending)


def on(x: np.ndarray, device: str) -> mg.Tensor:
    assume(device == "numpy" or x.dtype != np.float16)  # which the standard lacks
    return mg.tensor(x, device=device)


def same(ours: Any, expected: Any) -> None:
    """Equal values, signs of zeros, shapes and dtypes."""
    found, expected = ours.detach().to("numpy").numpy(), np.asarray(expected)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(found, expected)
    if found.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(found[found == 0]), np.signbit(expected[expected == 0]))


# --- order -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["numpy", "strict"])
@given(x=arrays(), descending=st.booleans(), data=st.data())
@fast
def test_sort_is_stable_with_nan_as_the_largest(device, x, descending, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    order = np.apply_along_axis(stable_order, axis, x, descending).astype(np.int64) if x.size else x
    order = order if x.size else np.zeros(x.shape, np.int64)
    t = on(x, device)
    same(mg.argsort(t, axis, descending), order)
    same(mg.sort(t, axis, descending), np.take_along_axis(x, order, axis))
    k = data.draw(st.integers(0, x.shape[axis]))
    top = mg.topk(t, k, axis, largest=descending)
    same(top.indices, np.take(order, np.arange(k), axis))
    same(top.values, np.take(np.take_along_axis(x, order, axis), np.arange(k), axis))


@given(x=arrays())
@fast
def test_sort_is_that_of_numpy(x):
    same(mg.sort(mg.tensor(x)), np.sort(x, kind="stable"))
    same(mg.argsort(mg.tensor(x)), np.argsort(x, kind="stable"))
    for descending in (False, True):
        fast, slow = (mg.sort(mg.tensor(x), descending=descending, stable=s) for s in (False, True))
        np.testing.assert_array_equal(fast.numpy(), slow.numpy(), strict=True)


@given(
    x=hnp.arrays(np.float64, (3, 4), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])),
    descending=st.booleans(),
)
@fast
def test_gradients_at_ties_go_to_where_the_value_was_taken(x, descending):
    w = np.arange(1.0, 13.0).reshape(3, 4)
    t = mg.tensor(x, requires_grad=True)
    loss = (mg.sort(t, descending=descending) ** 2 * mg.tensor(w)).sum()
    order = np.apply_along_axis(stable_order, -1, x, descending)
    of_rank = np.zeros_like(w)
    np.put_along_axis(of_rank, order, w, -1)
    loss.backward(create_graph=True)
    slope = take_grad(t)
    np.testing.assert_array_equal(slope.detach().numpy(), 2 * x * of_rank)
    slope.sum().backward()
    np.testing.assert_array_equal(t.grad.numpy(), 2 * of_rank)


def test_topk_gives_all_of_the_gradient_to_the_first_of_equals():
    x = mg.tensor([1.0, 3.0, 3.0, 3.0], requires_grad=True)
    top = mg.topk(x, 2)
    assert top.indices.tolist() == [1, 2]
    top.values.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: mg.sort(mg.tensor(1.0)), IndexError, "sort: there is no axis -1"),
        (lambda x: mg.argsort(x, axis=2), IndexError, "argsort"),
        (lambda x: mg.topk(x, 4), ValueError, "topk: there are 3 elements"),
        (lambda x: mg.topk(x, -1), ValueError, "topk"),
        (lambda x: mg.median(mg.zeros((0, 2)), axis=0), ValueError, "median.*of no elements"),
        (lambda x: mg.quantile(x, 1.5), ValueError, "quantile: q must be from 0 to 1, got 1.5"),
        (lambda x: mg.nonzero(mg.tensor(1.0)), ValueError, "nonzero: a 0-d input"),
        (lambda x: mg.searchsorted(x, x, side="middle"), ValueError, "'middle'"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call(mg.tensor([1.0, 2.0, 3.0]))


# --- ranks -----------------------------------------------------------------------------------------


@given(x=arrays(min_dims=0, min_side=1), data=st.data())
@fast
def test_median_is_that_of_numpy(x, data):
    axis = data.draw(st.none() | st.integers(-x.ndim, x.ndim - 1)) if x.ndim else None
    keepdims = data.draw(st.booleans())
    x = x.astype(np.float64) if x.dtype.kind in "bf" else x
    with np.errstate(invalid="ignore"):  # the mean of -inf and inf
        ours = mg.median(mg.tensor(x), axis, keepdims)
        same(abs(ours), np.abs(np.median(x, axis=axis, keepdims=keepdims)))


@given(
    x=hnp.arrays(np.float64, (4, 5), elements=st.sampled_from([-2.0, 0.0, 0.1, 3.0, math.nan])),
    q=st.floats(0, 1),
)
@fast
def test_quantile_is_that_of_numpy(x, q):
    ours = mg.quantile(mg.tensor(x), [q, 0.5], axis=1)
    np.testing.assert_allclose(ours.numpy(), np.quantile(x, [q, 0.5], axis=1), rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(ours[1].numpy(), mg.median(mg.tensor(x), axis=1).numpy())


def test_the_gradient_of_a_median_is_shared_by_the_middle_two():
    x = mg.tensor([4.0, 1.0, 2.0, 9.0], requires_grad=True)
    mg.median(x).backward()
    assert take_grad(x).tolist() == [0.5, 0, 0.5, 0]
    mg.median(x[:3]).backward()
    assert take_grad(x).tolist() == [0, 0, 1, 0]
    mg.quantile(x, 0.25).backward()  # a quarter of the way from 1 to 2, and three from 2
    assert take_grad(x).tolist() == [0, 0.25, 0.75, 0]


@pytest.mark.parametrize("q", [0.25, [0.25], (0.25, 1), np.array([0.25, 1]), mg.tensor([0.25])])
def test_quantile_takes_its_fractions_in_any_form(q):
    x = np.array([4.0, 1.0, 2.0, 9.0])
    plain = q.numpy() if isinstance(q, mg.Tensor) else q
    np.testing.assert_allclose(mg.quantile(mg.tensor(x), q).numpy(), np.quantile(x, plain), strict=True)


def test_ranks_of_infinities_are_no_nan():
    x = mg.tensor([math.inf, math.inf, 1.0, -math.inf])
    assert mg.median(x[:2]).item() == math.inf
    assert mg.quantile(x, [0.0, 1.0, 0.9]).tolist() == [-math.inf, math.inf, math.inf]


# --- searching ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["numpy", "strict"])
@given(x=arrays(max_dims=1), seed=st.integers(0, 9), side=st.sampled_from(["left", "right"]))
@fast
def test_searchsorted_is_that_of_numpy(device, x, seed, side):
    y = np.random.default_rng(seed).permutation(np.repeat(x, 2)).reshape(2, -1)
    row, other = on(x, device), on(y, device)
    same(mg.searchsorted(mg.sort(row), other, side), np.searchsorted(np.sort(x), y, side))
    found = mg.searchsorted(row, other, side=side, sorter=mg.argsort(row))
    same(found, np.searchsorted(x, y, side, np.argsort(x, kind="stable")))


def test_searchsorted_takes_a_number():
    assert mg.searchsorted(mg.tensor([1.0, 2.0, 3.0]), 2.5).item() == 2
    assert mg.searchsorted(mg.tensor([1, 2, 3]), 2.5).item() == 2


@pytest.mark.parametrize("device", ["numpy", "strict"])
@given(x=arrays(), invert=st.booleans(), data=st.data())
@fast
def test_isin_is_that_of_numpy(device, x, invert, data):
    values = np.array(data.draw(st.lists(st.sampled_from(x.ravel().tolist() or [0]), max_size=3)), x.dtype)
    ours = mg.isin(on(x, device), on(values, device), invert=invert)
    same(ours, np.isin(x, values, invert=invert))


@pytest.mark.parametrize("device", ["numpy", "strict"])
@given(x=arrays())
@fast
def test_nonzero_is_that_of_numpy(device, x):
    t = on(x, device)
    for ours, theirs in zip(mg.nonzero(t), np.nonzero(x), strict=True):
        same(ours, theirs)
    same(t[mg.nonzero(t)], x[np.nonzero(x)])
    same(mg.count_nonzero(t), np.asarray(np.count_nonzero(x)))


# --- sets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["numpy", "strict"])
@given(x=arrays(min_dims=0))
@fast
def test_unique_is_that_of_numpy(device, x):
    t = on(x, device)
    theirs = np.unique(x, return_index=True, return_inverse=True, return_counts=True, equal_nan=False)
    ours = mg.unique_all(t)
    assert ours._fields == ("values", "indices", "inverse_indices", "counts")
    for mine, its in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine.to("numpy").numpy(), its.reshape(mine.shape))
    same(mg.unique_values(t), x.reshape(-1)[theirs[1]])
    assert mg.unique_counts(t)._fields == ("values", "counts")
    assert mg.unique_inverse(t)._fields == ("values", "inverse_indices")
    same(mg.unique_counts(t).counts, theirs[3])
    assert ours.inverse_indices.shape == x.shape
    np.testing.assert_array_equal(
        mg.take(ours.values, ours.inverse_indices.reshape(-1)).to("numpy").numpy(), x.ravel()
    )


def test_the_gradient_of_distinct_values_goes_to_the_first_of_equals():
    x = mg.tensor([2.0, 1.0, 2.0], requires_grad=True)
    values, counts = mg.unique_counts(x)
    (values * mg.tensor([10.0, 1.0])).sum().backward()
    assert x.grad.tolist() == [1, 10, 0]
    assert counts.tolist() == [1, 2]
    assert not counts.requires_grad


# --- plain arrays, and the standard's signatures -----------------------------------------------------


def test_plain_arrays_give_plain_arrays():
    x = np.array([2.0, 1.0, 2.0])
    for result in (
        mg.sort(x),
        mg.argsort(x),
        mg.topk(x, 2).values,
        mg.median(x),
        *mg.nonzero(x),
        mg.isin(x, x),
        *mg.unique_all(x),
        mg.repeat(x, [1, 2, 0]),
        mg.tile(x, 2),
        mg.cumulative_prod(x, include_initial=True),
        mg.diff(x, prepend=1.0),
        *mg.unstack(x),
        *mg.meshgrid(x, x),
    ):
        assert isinstance(result, (np.ndarray, np.generic))


NAMES = [
    *("copysign", "nextafter", "signbit", "conj", "real", "imag", "broadcast_arrays", "broadcast_shapes"),
    *(
        "repeat",
        "tile",
        "unstack",
        "squeeze",
        "expand_dims",
        "flip",
        "roll",
        "permute_dims",
        "stack",
        "concat",
    ),
    *("moveaxis", "broadcast_to", "reshape", "argmax", "argmin", "count_nonzero", "nonzero", "searchsorted"),
    *("isin", "unique_all", "unique_counts", "unique_inverse", "unique_values", "argsort", "sort"),
    *("cumulative_sum", "cumulative_prod", "sum", "prod", "max", "min", "mean", "std", "var"),
    *("diff", "all", "any", "meshgrid", "take", "take_along_axis", "where", "clip"),
]


@pytest.mark.parametrize("name", NAMES)
def test_signatures_take_what_the_standard_gives(name):
    parameters = inspect.signature(getattr(strict, name)).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    ours = inspect.signature(getattr(mg, name))
    bound = ours.bind(*[None] * len(positional), **keywords)
    for key, default in keywords.items():
        if default is not inspect.Parameter.empty and key in ours.parameters:
            assert ours.parameters[key].default == default, key
    assert bound


def test_constants():
    assert (mg.e, mg.pi, mg.inf, mg.newaxis) == (math.e, math.pi, math.inf, None)
    assert math.isnan(mg.nan)
    assert mg.ones(2)[:, mg.newaxis].shape == (2, 1)


def test_gradcheck_of_a_program_that_sorts():
    """Quantile normalisation and a trimmed mean, twice differentiated."""
    x = mg.tensor(np.random.default_rng(0).normal(size=(4, 5)), requires_grad=True)

    def program(x: mg.Tensor) -> mg.Tensor:
        rows = mg.sort(x, axis=1)
        target = mg.mean(rows, axis=0)
        normal = mg.take(target, mg.argsort(mg.argsort(x[0])))
        return mg.cumulative_prod(rows[:, 1:-1].mean(axis=1)) + mg.median(normal * normal)

    assert gradcheck(program, x, order=2)
