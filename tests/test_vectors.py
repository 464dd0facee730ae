"""The C++ that kernels share: elementary functions within 2 ulps, and the product of matrices."""

import math

import numpy as np
import pytest

from minigrad.kernels import ElementwiseKernel, available
from minigrad.kernels.vectors import FUNCTIONS, VECTORS

pytestmark = pytest.mark.skipif(not available(), reason="needs a C++ compiler")

EXACT = {
    "fast_exp": lambda x: math.exp(x) if x < 700 else math.inf,
    "fast_tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)) if x > -700 else 0.0,
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_are_within_3_ulps(name, dtype):
    kernel = ElementwiseKernel("T x", "T y", f"y = {name}(x)", name, preamble=FUNCTIONS)
    x = np.concatenate([np.linspace(-110, 100, 20001), np.linspace(-5, 5, 20001), [1e-20, -1e-20]]).astype(
        dtype
    )
    exact = np.array([EXACT[name](v) for v in x.tolist()])
    with np.errstate(over="ignore"):
        rounded = exact.astype(dtype)
    finite = np.isfinite(rounded)
    ulp = np.spacing(np.abs(rounded[finite])) + np.finfo(dtype).tiny  # of a subnormal result less is known
    assert (np.abs(kernel(x)[finite] - exact[finite]) <= 3 * ulp).all()
    np.testing.assert_array_equal(kernel(x)[~finite], rounded[~finite])


NORMAL = ElementwiseKernel(
    "T x", "T y", "y = normal_cdf(x, fast_exp(T(-0.5) * x * x))", "normal", preamble=FUNCTIONS
)


@pytest.mark.parametrize(("dtype", "relative"), [(np.float32, 1e-5), (np.float64, 1e-13)])
def test_the_normal_distribution(dtype, relative):
    """Within 2 ulps of 1; and where it is small it loses no more than x²/2 does that was rounded."""
    x = np.concatenate([np.linspace(-12, 9, 200001), [1e-20, -1e-20, 1e10, -1e10]]).astype(dtype)
    exact = np.array([math.erfc(-v * math.sqrt(0.5)) / 2 for v in x.tolist()])
    assert np.abs(NORMAL(x) - exact).max() <= 2 * np.finfo(dtype).eps
    np.testing.assert_allclose(NORMAL(x), exact, rtol=relative, atol=np.finfo(dtype).tiny)
    special = np.repeat(np.array([math.inf, -math.inf, 0.0, math.nan], dtype), 16)
    np.testing.assert_array_equal(NORMAL(special)[::16], [1, 0, 0.5, math.nan])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_at_special_values(dtype):
    special = np.array([math.nan, math.inf, -math.inf, 0.0, -0.0], dtype)
    for name, expected in {
        "fast_exp": [math.nan, math.inf, 0, 1, 1],
        "fast_tanh": [math.nan, 1, -1, 0.0, -0.0],
        "sigmoid": [math.nan, 1, 0, 0.5, 0.5],
    }.items():
        kernel = ElementwiseKernel("T x", "T y", f"y = {name}(x)", name, preamble=FUNCTIONS)
        for array in (special, np.repeat(special, 16)):  # alone, and in whole vectors
            got = kernel(array)[:: len(array) // 5]
            np.testing.assert_array_equal(got, np.array(expected, dtype))
            np.testing.assert_array_equal(np.signbit(got[3:]), np.signbit(np.array(expected[3:])))


PRODUCT = """
    const ptrdiff_t k = columns_a, stride = across ? rows_a : 1, row = across ? 1 : columns_a;
    if (packed) {
        std::vector<T> room(packed_size(columns_b, k));
        pack(columns_b, k, b, columns_b, 1, room.data());
        if (add) matmul_packed<true>(rows_a, columns_b, k, a, row, stride, room.data(), c, columns_b);
        else matmul_packed<false>(rows_a, columns_b, k, a, row, stride, room.data(), c, columns_b);
    } else if (add) matmul<true>(rows_a, columns_b, k, a, row, stride, b, columns_b, 1, c, columns_b);
    else matmul<false>(rows_a, columns_b, k, a, row, stride, b, columns_b, 1, c, columns_b);
"""


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("across", [False, True], ids=["", "transposed"])
@pytest.mark.parametrize("add", [False, True], ids=["", "add"])
def test_products_of_matrices(dtype, packed, across, add):
    kernel = ElementwiseKernel(
        "raw T a, raw T b, int64 rows_a, int64 columns_a, int64 columns_b, bool packed, bool across, "
        "bool add",
        "raw T c",
        PRODUCT,
        "product",
        preamble=VECTORS,
        block=1,
    )
    random = np.random.default_rng(0)
    for m, k, n in [(1, 1, 1), (5, 3, 7), (8, 128, 48), (17, 300, 100), (64, 600, 33), (3, 0, 4), (7, 2, 49)]:
        a, b = (
            random.integers(-4, 5, shape).astype(dtype) for shape in ((m, k), (k, n))
        )  # exact in any order
        c = np.full((m, n), 3, dtype)
        kernel(np.array(a.T) if across else a, b, m, k, n, packed, across, add, c, size=1)
        np.testing.assert_array_equal(c, a @ b + 3 * add)
