"""Kernels: the compiled text against the reference, and what arguments may be."""

import copy
import time
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
from helpers import COMPILES, needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad.kernels import ElementwiseKernel, plan, threads

REAL = [np.float16, np.float32, np.float64]


def new_axpy() -> ElementwiseKernel:
    return ElementwiseKernel(
        "T x, T y, float32 a", "T z", "z = a * x + y", "axpy", reference=lambda x, y, a: a * x + y
    )


def new_moving_mean() -> ElementwiseKernel:
    """In place, with two outputs that read each other."""
    return ElementwiseKernel(
        "P g, T rest",
        "P p, T m",
        "T mean = m + rest * (g - m); m = mean; p = p - mean",
        "moving_mean",
        reference=lambda g, rest, p, m: (p - (m + rest * (g - m)), m + rest * (g - m)),
    )


axpy, moving_mean = new_axpy(), new_moving_mean()
gather = ElementwiseKernel(
    "raw T table, int64 step", "T y", "y = table[i * step % n] + n", "gather",
    reference=lambda table, step: table[np.arange(len(table)) * step % len(table)] + len(table),
)  # fmt: skip


def by_reference(kernel, *args):
    """What the reference gives for copies of `args`."""
    copies = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    before, plan.enabled = plan.enabled, False
    try:
        return copy.deepcopy(kernel)(*copies)  # which has plans of its own
    finally:
        plan.enabled = before


def assert_compiled(kernel):
    """Or else the reference would have been compared with itself."""
    assert not COMPILES or all(ready.function for ready in kernel._plans.values())


def tolerance(dtype) -> dict:
    return {"rtol": 4 * float(np.finfo(dtype).eps), "atol": 4 * float(np.finfo(dtype).eps)}


# --- against the reference ---------------------------------------------------------------------------


@st.composite
def layouts(draw, shape: tuple[int, ...], dtype):
    """An array of this shape in some layout: reversed, strided, transposed, offset, unaligned or plain."""
    steps = [draw(st.sampled_from([1, 2, -1, -2])) for _ in shape]
    order = draw(st.permutations(range(len(shape))))
    stretched = [shape[axis] * abs(steps[axis]) for axis in order]
    size = int(np.prod(stretched, dtype=int))
    values = draw(hnp.arrays(np.int8, size, elements=st.integers(-20, 20))).astype(dtype) / dtype(8)
    if draw(st.booleans()):
        raw = np.empty(size * values.itemsize + 1, np.uint8)[1:]  # at an odd address
        unaligned = raw.view(dtype)
        unaligned[...] = values
        values = unaligned
    base = values.reshape(stretched)
    back = np.argsort(order) if order else ()
    return base.transpose(*back)[(*(slice(None, None, step) for step in steps), ...)]


@given(data=st.data())
@settings(max_examples=150)
def test_kernel_against_reference_for_any_layout(data):
    dtype = data.draw(st.sampled_from(REAL))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    x = data.draw(layouts(shape, dtype))
    stretched = data.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    narrow = tuple(1 if s else size for s, size in zip(stretched, shape, strict=True))
    y = data.draw(layouts(narrow[data.draw(st.integers(0, len(shape))) :], dtype))
    a = data.draw(st.sampled_from([0.0, 1.5, -2.0]))
    expected = (np.float32(a) * x.astype(np.float64) + y).astype(dtype)
    for result in (axpy(x, y, a), by_reference(axpy, x, y, a)):
        assert (result.shape, result.dtype) == (shape, dtype)
        np.testing.assert_allclose(result, expected, **tolerance(dtype))
    assert_compiled(axpy)


@given(data=st.data())
@settings(max_examples=100)
def test_kernel_in_place_for_any_layout(data):
    kind = data.draw(st.sampled_from([(np.float16, np.float32), (np.float32,) * 2, (np.float64,) * 2]))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6))
    g, p = data.draw(layouts(shape, kind[0])), data.draw(layouts(shape, kind[0]))
    m = data.draw(layouts(shape, kind[1]))
    expected = by_reference(moving_mean, g, 0.25, p, m)
    p_result, m_result = moving_mean(g, 0.25, p, m)
    assert p_result is p
    assert m_result is m
    np.testing.assert_allclose(p, expected[0], **tolerance(kind[0]))
    np.testing.assert_allclose(m, expected[1], **tolerance(kind[1]))
    assert_compiled(moving_mean)


@needs_compiler
@pytest.mark.parametrize("count", [1, 4])
def test_a_text_that_gets_no_memory(count, monkeypatch):
    """In whichever thread: it is an error, and not the end of the process."""
    kernel = ElementwiseKernel(
        "raw T x",
        "raw T y",
        "if (x[i] < 0) throw std::bad_alloc(); y[i] = x[i];",
        "hungry",
        cost=1e9,
        block=1,
        reference=lambda x: x,
    )
    monkeypatch.setattr(threads, "count", lambda: count)
    x, y = np.arange(1000.0), np.zeros(1000)
    kernel(x, y, size=1000)
    assert (y == x).all()
    for bad in ([0], [999], range(0, 1000, 7)):
        x[:] = 1
        x[list(bad)] = -1
        with pytest.raises(MemoryError, match="hungry"):
            kernel(x, y, size=1000)


@needs_compiler
def test_a_thread_that_has_helped_helps_the_next_kernel(monkeypatch):
    """Without a new one being started; and when there is nothing more to do it ends."""

    def noting(name: str, count: int, starts: bool) -> Callable[[], set[int]]:
        """A kernel of ten blocks that notes which threads they had."""
        kernel = ElementwiseKernel(
            "raw int64 x",
            "raw uint64 who",
            """
            const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(100);
            while (std::chrono::steady_clock::now() < end) {}
            who[i] = std::hash<std::thread::id>()(std::this_thread::get_id());
            """,
            name,
            cost=1e9,
            block=1,
            reference=lambda x: x,
        )

        def run() -> set[int]:
            monkeypatch.setattr(threads, "count", lambda: count)
            monkeypatch.setattr(threads, "WORTH_A_START", 1 if starts else 1 << 62)
            return set(kernel(np.zeros(10, np.int64), np.zeros(10, np.uint64), size=10).tolist())

        return run

    alone, first, second = noting("alone", 1, False), noting("first", 2, True), noting("second", 2, False)
    own = alone()
    assert len(own) == 1
    attempts = 0
    while not (shared := first() & (second() - own)):
        attempts += 1
        assert attempts < 10_000
    assert len(shared) == 1
    while second() != own:
        time.sleep(0.001)
        attempts += 1
        assert attempts < 20_000


@pytest.mark.parametrize("n", [1, 7, 1 << 14, (1 << 14) + 1, 3_000_001])
def test_large_arrays_on_several_threads(n, monkeypatch):
    monkeypatch.setattr(threads, "WORTH_A_HAND", 1000)
    monkeypatch.setattr(threads, "WORTH_A_START", 1000)
    kernel = new_moving_mean()
    random = np.random.default_rng(0)
    g, p, m = (random.normal(size=n).astype(np.float32) for _ in range(3))
    for others in (0, 1, 7):
        got_p, got_m = p.copy(), m.copy()
        ready = kernel.plan(kernel.kinds([g, 0.1, got_p, got_m]))
        monkeypatch.setattr(ready, "_others", others)
        ready.run(n, [g, 0.1, got_p, got_m])
        mean = m + np.float32(0.1) * (g - m)
        np.testing.assert_allclose(got_m, mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got_p, p - mean, rtol=1e-5, atol=1e-6)


@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=9), others=st.sampled_from([0, 3]))
@settings(max_examples=60)
def test_a_list_stands_for_its_elements_in_a_row(sizes, others):
    if not sum(sizes):
        return
    random = np.random.default_rng(sum(sizes))
    pieces = [random.normal(size=s) for s in sizes]
    p, m = random.normal(size=(2, sum(sizes)))
    expected = moving_mean(np.concatenate(pieces), 0.1, p.copy(), m.copy())
    pieces = [np.asfortranarray(a.reshape(2, -1)) if a.size % 2 == 0 and a.size else a for a in pieces]
    reference = by_reference(moving_mean, [a.copy() for a in pieces], 0.1, p, m)
    ready = moving_mean.plan(moving_mean.kinds([pieces, 0.1, p, m]))
    before, ready._others = ready._others, others
    try:
        with mock.patch.multiple(threads, WORTH_A_HAND=8, WORTH_A_START=8):
            got = moving_mean(pieces, 0.1, p, m)
    finally:
        ready._others = before
    for a, b, c in zip(expected, got, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
        np.testing.assert_allclose(a, c, rtol=1e-12)


def test_lists_that_do_not_fit():
    p, m = np.zeros((2, 5))
    with pytest.raises(ValueError, match="do not fit"):
        moving_mean([np.zeros(2), np.zeros(2)], 0.1, p, m)
    with pytest.raises(TypeError, match="float32"):
        moving_mean([np.zeros(2), np.zeros(3, np.float32)], 0.1, p, m)
    with pytest.raises(TypeError, match="an empty list"):
        moving_mean([], 0.1, p, m)
    ready = moving_mean.plan(moving_mean.kinds([[p], 0.1, p, m]))
    for wrong in (np.zeros(4), np.zeros(5, np.float32), np.zeros(6)):
        if ready.function is not None:
            with pytest.raises(ValueError, match="expected 5 elements of float64"):
                ready.run(5, [[wrong], 0.1, p, m], [5])
    assert not p.any()


# --- arguments ---------------------------------------------------------------------------------------


def test_raw_arrays_and_the_index():
    table = np.arange(5.0)
    assert gather(table, 2, np.empty(5)).tolist() == [5, 7, 9, 6, 8]
    assert gather(np.arange(10.0)[::2], 1, np.empty(5)).tolist() == [5, 7, 9, 11, 13]
    assert by_reference(gather, table, 2, np.empty(5)).tolist() == [5, 7, 9, 6, 8]


@needs_compiler
def test_all_raw_needs_a_size():
    count = ElementwiseKernel("raw T x", "raw T y", "y[i] = x[i % 2] * i", "count")
    y = np.zeros(4)
    count(np.array([1.0, 2.0]), y, size=4)
    assert y.tolist() == [0, 2, 2, 6]
    with pytest.raises(ValueError, match="size="):
        count(np.zeros(2), y)
    with pytest.raises(TypeError, match="'y' must be given"):
        count(np.zeros(2), size=2)


@needs_compiler
def test_preamble_loop_prep_and_after_loop():
    kernel = ElementwiseKernel(
        "T x", "T y", "y = half(x) + offset", "prepared",
        preamble="__device__ T half(T x) { return x / 2; }",
        loop_prep="T offset = T(10)",
        after_loop="(void)offset",
    )  # fmt: skip
    assert kernel(np.array([2.0, 4.0])).tolist() == [11, 12]
    assert kernel(np.array([2.0, 4.0], np.float32)).dtype == np.float32


def test_scalars_are_cast_to_their_type():
    """As in CuPy: a Python or NumPy scalar takes the declared type, whatever it was."""
    x = np.ones(2, np.float32)
    assert axpy(x, 1, np.float64(2.5)).dtype == np.float32
    assert axpy(x, np.int64(3), True).tolist() == [4, 4]
    assert axpy(x, 1, 2.5).tolist() == [3.5, 3.5]
    divide = ElementwiseKernel("T x, int32 k", "T y", "y = x / k", "divide", reference=lambda x, k: x / k)
    assert divide(np.array([4.0]), 2).tolist() == [2]
    assert divide(np.array([4.0]), 2.9).tolist() == [2]
    with np.errstate(over="ignore"):
        assert np.isinf(axpy(x, 1, 1e300)).all()


def test_integers_and_bools():
    kernel = ElementwiseKernel(
        "T x, bool flip, S y", "S z", "z = flip ? y - S(x) : y + S(x)", "integers",
        reference=lambda x, flip, y: y - x.astype(y.dtype) if flip else y + x.astype(y.dtype),
    )  # fmt: skip
    for small in (np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32):
        for wide in (np.int64, np.uint64, np.int32):
            x, y = np.array([0, 1, 1]).astype(small), np.array([7, 8, 9], wide)
            assert kernel(x, False, y).tolist() == [7, 9, 10]
            assert kernel(x, True, y).tolist() == [7, 7, 8]


def test_arrays_of_a_subclass_are_looked_at_each_time(tmp_path):
    """What was seen once is done at once, but not with types that may be anything."""
    mapped = np.memmap(tmp_path / "x", dtype="f8", shape=(2, 3), mode="w+")
    mapped[...] = np.arange(6.0).reshape(2, 3)
    for _ in range(2):
        assert axpy(mapped, 1.0, 2.0).tolist() == [[1, 3, 5], [7, 9, 11]]
        assert axpy(mapped, np.ones((2, 3)), 1.0).tolist() == [[1, 2, 3], [4, 5, 6]]
        with pytest.raises(ValueError, match="do not fit"):
            axpy(mapped, np.ones((3, 2)), 1.0)
    out = np.memmap(tmp_path / "y", dtype="f8", shape=(2, 3), mode="w+")
    assert axpy(mapped, 1.0, 2.0, out) is out
    assert out[1, 2] == 11


@needs_compiler
def test_return_and_continue_end_the_work_on_an_element():
    for word in ("return", "continue"):
        text = f"if (x < 0) {{ y = 0; {word}; }} y = sqrt(x)"
        kernel = ElementwiseKernel("T x", "T y", text, f"with_{word}")
        x = np.ones(50_000)
        x[10] = -1
        assert kernel(x).sum() == 49_999


@needs_compiler
def test_float16_has_the_operators_of_a_number():
    kernel = ElementwiseKernel("T x", "T y", "y = x; y += x; y *= x; y -= 1; y /= 2", "operators")
    assert kernel(np.array([2.0, 3.0], np.float16)).tolist() == [3.5, 8.5]
    broken = ElementwiseKernel("T x", "T y", "y = xx", "broken_half", reference=lambda x: x)
    with pytest.raises(RuntimeError, match="its text cannot be compiled"):
        broken(np.ones(2, np.float16))


@needs_compiler
def test_one_bad_kernel_leaves_the_others_alone():
    bad = ElementwiseKernel(
        "T x", "T y", "y = nowhere(x)", "bad", preamble='extern "C" double nowhere(double);'
    )
    with pytest.raises(RuntimeError, match="cannot be loaded"):
        bad(np.ones(2))
    good = ElementwiseKernel("T x", "T y", "y = x + 7", "good" * 70)
    assert good(np.ones(2)).tolist() == [8, 8]


def test_references_may_hand_out_their_arguments():
    swap = ElementwiseKernel("", "T x, T y", "T t = x; x = y; y = t", "swap", reference=lambda x, y: (y, x))
    for result in (swap(np.ones(2), np.zeros(2)), by_reference(swap, np.ones(2), np.zeros(2))):
        assert [a.tolist() for a in result] == [[0, 0], [1, 1]]
    scaled = ElementwiseKernel("T x", "T y", "y = x", "scaled", reference=lambda x, scale=1.0: x * scale)
    assert by_reference(scaled, np.ones(2)).tolist() == [1, 1]


def test_kernels_can_be_copied_after_they_ran():
    axpy(np.ones(2), 1.0, 1.0)
    assert copy.deepcopy(axpy)(np.ones(2), 1.0, 1.0).tolist() == [2, 2]


def test_zero_d_and_empty():
    assert axpy(np.array(2.0), np.array(3.0), 2.0).tolist() == 7
    assert axpy(np.empty((0, 3)), np.ones(3), 2.0).shape == (0, 3)
    x = np.empty((2, 0), np.float32)
    assert axpy(x, 1.0, 1.0, x) is x


def test_inputs_are_broadcast_to_outputs():
    assert axpy(np.arange(2.0), 1.0, 1.0, np.empty((2, 2))).tolist() == [[1, 2], [1, 2]]


WRONG = {
    "too few": (lambda: axpy(np.ones(2)), TypeError, "takes 3 inputs"),
    "dtypes differ": (lambda: axpy(np.ones(2), np.ones(2, np.float32), 1.0), TypeError, "'y' is float32"),
    "0-d is an array": (lambda: axpy(np.ones(2, np.float32), np.array(1.0), 1.0), TypeError, "is float64"),
    "declared": (lambda: axpy(np.ones(2), np.ones(2), np.ones(2)), TypeError, "'a' is float64"),
    "no array": (lambda: axpy(1.0, 2.0, 3.0), TypeError, "needs arrays of NumPy or CuPy"),
    "None": (lambda: axpy(None, np.ones(2), 1.0), TypeError, "None or masked"),
    "masked": (lambda: axpy(np.ma.masked_array([1.0], [True]), 1.0, 1.0), TypeError, "None or masked"),
    "complex": (lambda: axpy(np.ones(2, complex), 1.0, 1.0), TypeError, "cannot be of dtype complex128"),
    "byte order": (lambda: axpy(np.ones(2, ">f8"), 1.0, 1.0), TypeError, "cannot be of dtype >f8"),
    "objects": (lambda: axpy(np.array([None, 1]), 1.0, 1.0), TypeError, "object"),
    "shapes": (lambda: axpy(np.ones(2), np.ones(3), 1.0), ValueError, r"\(2,\), \(3,\)"),
    "outputs are not broadcast": (lambda: axpy(np.ones((2, 2)), 1.0, 1.0, np.ones(2)), ValueError, "fit"),
    "output no array": (lambda: axpy(np.ones(2), 1.0, 1.0, 3.0), TypeError, "'z' must be an array"),
    "output read-only": (
        lambda: axpy(np.ones(2), 1.0, 1.0, np.broadcast_to(np.ones(1), 2)),
        ValueError,
        "'z' is read-only",
    ),
    "a tensor": (lambda: axpy(mg.ones(2), mg.ones(2), 1.0), TypeError, "of tensors, give x.data"),
    "a Python list": (lambda: axpy(np.ones(2), [1.0, 2.0], 1.0), TypeError, "'y' is raw, or an empty list"),
    "a number too large": (
        lambda: ElementwiseKernel("T x, int8 k", "T y", "y = k", "k", reference=lambda x, k: k)(
            np.ones(2), 300
        ),
        ValueError,
        "'k' cannot be 300 as int8",
    ),
    "a size": (lambda: axpy(np.ones(2), 1.0, 1.0, size=2), ValueError, "size="),
    "a string": (lambda: axpy(np.ones(2), "1", 1.0), TypeError, "'y' must be an array or a number, got str"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_errors(case):
    call, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize(
    "declaration",
    [
        "T",
        "x",
        "TT x",
        "T i",
        "T n",
        "T _x",
        "raw",
        "T x y",
        "float x",
        "T 1x",
        "rawT x y",
        "1 x",
        "n x",
        "? x",
    ],
)
def test_declarations_that_cannot_be_read(declaration):
    with pytest.raises(ValueError, match="cannot read"):
        ElementwiseKernel(declaration, "T z", "z = 1")


def test_other_wrong_declarations():
    for args in (("T x", "", "x"), ("T x, T x", "T z", "z = x"), ("T x", "T z", "z = x", "not a name")):
        with pytest.raises(ValueError, match="name"):
            ElementwiseKernel(*args)


def overlapping(kernel, shift: int):
    base = np.arange(12.0)
    x = base[:8]
    z = base[shift : shift + 8]
    kernel(x, 1.0, 2.0, z)
    return z


@pytest.mark.parametrize("shift", [-0, 1, 3, 8 - 4])
def test_an_input_that_overlaps_an_output_is_copied(shift):
    expected = np.arange(8.0) * 2 + 1
    assert overlapping(axpy, shift).tolist() == expected.tolist()
    assert by_reference(axpy, np.arange(8.0), 1.0, 2.0).tolist() == expected.tolist()
    square = np.arange(9.0).reshape(3, 3)
    axpy(square.T, 0.0, 1.0, square)
    assert square.tolist() == np.arange(9.0).reshape(3, 3).T.tolist()


def test_an_input_that_is_an_output():
    """Its own text would read what it has just written."""
    kernel = ElementwiseKernel(
        "T x", "T y, T z", "y = 2 * x; z = x + 1", "twice", reference=lambda x: (2 * x, x + 1)
    )
    x, z = np.array([1.0, 2.0]), np.empty(2)
    kernel(x, x, z)
    assert (x.tolist(), z.tolist()) == ([2, 4], [2, 3])


def test_overlapping_outputs_are_refused():
    base = np.zeros(6)
    square = np.zeros((4, 4))
    for p, m in ((base[:4], base[2:]), (base, base), (square.T, square), (base[::2], base[1::2])):
        apart = p is not base and p.base is base and p.strides == (16,)
        if apart:
            moving_mean(np.ones(3), 0.5, p, m)  # neighbours that share no element
            continue
        with pytest.raises(ValueError, match="overlap"):
            moving_mean(np.ones(p.shape), 0.5, p, m)


def test_raw_inputs_that_overlap_are_copied():
    x = np.arange(5.0)
    gather(x, 1, x)
    assert x.tolist() == [5, 6, 7, 8, 9]
