"""The fallbacks for what other array libraries lack, against NumPy's own."""

from typing import Any

import array_api_strict as strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minigrad.backend import get
from minigrad.ops import beyond

DEVICE = get("strict")
there, here = DEVICE.from_numpy, DEVICE.to_numpy
fast = settings(max_examples=300)


@st.composite
def array_and_key(draw) -> tuple[np.ndarray, Any]:
    """An array, and a key of integers, slices, None, `...` and integer arrays, or a mask."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4))
    x = np.arange(np.prod(shape)).reshape(shape)
    if draw(st.booleans()):
        n = draw(st.integers(1, x.ndim))
        mask = draw(hnp.arrays(bool, shape[:n]))
        return x, draw(st.sampled_from([mask, (mask, ...), (mask, *[slice(None, None, -1)] * (x.ndim - n))]))
    common = draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=1, max_side=3))

    def part(size: int) -> Any:
        kind = draw(st.sampled_from(["integer", "slice", "array"]))
        if kind == "integer":
            return draw(st.integers(-size, size - 1))
        if kind == "slice":
            return draw(st.slices(size))
        its = tuple(n if draw(st.booleans()) else 1 for n in common[draw(st.integers(0, len(common))) :])
        dtype = draw(st.sampled_from([np.int8, np.int64]))
        return draw(hnp.arrays(dtype, its, elements=st.integers(-size, size - 1)))

    start = draw(st.integers(0, x.ndim))
    key = [part(size) for size in shape[:start]]
    if draw(st.booleans()):
        key += [..., *(part(size) for size in shape[draw(st.integers(start, x.ndim)) :])]
    if draw(st.booleans()):
        key.insert(draw(st.integers(0, len(key))), None)
    return x, tuple(key)


def moved(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(map(moved, key))
    return there(key) if isinstance(key, np.ndarray) else key


@given(array_and_key())
@fast
def test_read(given):
    x, key = given
    np.testing.assert_array_equal(here(beyond.read(DEVICE.xp, there(x), moved(key))), x[key], strict=True)


@given(array_and_key(), st.booleans())
@fast
def test_write_and_add_at(given, scalar):
    x, key = given
    value = np.asarray(7) if scalar else np.arange(100, 100 + x[key].size).reshape(x[key].shape)
    for ours, theirs in ((beyond.write, np.ndarray.__setitem__), (beyond.add_at, np.add.at)):
        out, expected = there(x.copy()), x.copy()
        ours(DEVICE.xp, out, moved(key), 7 if scalar else there(value))
        theirs(expected, key, value)
        np.testing.assert_array_equal(here(out), expected)


def test_an_ellipsis_for_no_axes_parts_the_indices():
    x, key = np.arange(12).reshape(2, 3, 2), (slice(None), 1, ..., np.array([1]))
    assert x[key].shape == (1, 2)
    np.testing.assert_array_equal(here(beyond.read(DEVICE.xp, there(x), moved(key))), x[key], strict=True)


@pytest.mark.parametrize("key", [4, -5, (0, 0, 0), (np.array([0, 4]),), (slice(None), np.array([-4]))])
def test_an_index_that_is_out_of_bounds_is_refused(key):
    with pytest.raises(IndexError):
        beyond.read(DEVICE.xp, there(np.zeros((4, 3))), moved(key))


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("iij->ji", [(2, 2, 3)]),
        ("iii->", [(3, 3, 3)]),
        (",a,ba->b", [(), (2,), (3, 2)]),
        ("ab,bc,cd->da", [(2, 3), (3, 0), (0, 4)]),
        ("i,i->i", [(3,), (1,)]),
        ("->", [()]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_einsum(subscripts, shapes, dtype):
    random = np.random.default_rng(0)
    operands = [random.integers(-9, 9, shape).astype(dtype) for shape in shapes]
    ours = beyond.einsum(DEVICE.xp, subscripts, *map(there, operands))
    np.testing.assert_array_equal(here(ours), np.einsum(subscripts, *operands), strict=True)


def test_the_fallbacks_are_what_is_tested_here():
    assert not hasattr(strict.add, "at")
    assert not hasattr(DEVICE.xp, "einsum")
    assert not hasattr(DEVICE.xp, "cumsum")
