"""Kernels over rows: their macros, their sums, and the text that a GPU would run, run here by one thread."""

import ctypes
import importlib
import pkgutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import minigrad
from minigrad.kernels import RowKernel, available, compiler, fits, threads
from minigrad.kernels.rows import GROUPS

pytestmark = pytest.mark.skipif(not available(), reason="needs a C++ compiler")


def row_kernels() -> dict[str, RowKernel]:
    """All that the package has in its modules."""
    package = str(Path(minigrad.__file__).parent)
    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages([package], "minigrad.")]
    return {k.name: k for m in modules for k in vars(m).values() if isinstance(k, RowKernel)}


LENGTHS = [1, 2, 5, 31, 32, 33, 64, 100, 1000]

probe = RowKernel(
    "T x, raw T table, raw int64 place, float64 factor",
    "T y, raw T largest",
    """
    const T top = MAX(x[j]);
    const T total = SUM(x[j] * x[j]);
    largest[i] = top;
    EACH(
        y[j] = T(factor) * (x[j] - top) / total + table[j] + (j == place[i] ? T(1) : T(0));
        column[j] += x[j]
    )
    """,
    "probe",
    sums="T column",
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 3, GROUPS, 1000])
@pytest.mark.parametrize("m", LENGTHS)
def test_rows_of_all_lengths(dtype, rows, m):
    random = np.random.default_rng(m)
    x, table = random.normal(size=(rows, m)).astype(dtype), random.normal(size=m).astype(dtype)
    place = random.integers(0, m, rows)
    y, largest, column = probe(x, table, place, 0.5)
    wide = x.astype(np.float64)
    top = wide.max(axis=1, keepdims=True)
    expected = 0.5 * (wide - top) / (wide**2).sum(axis=1, keepdims=True) + table
    expected[np.arange(rows), place] += 1
    ulp = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(y, expected, rtol=ulp, atol=ulp)
    np.testing.assert_allclose(column, wide.sum(axis=0), rtol=ulp, atol=ulp * rows)
    np.testing.assert_array_equal(largest, x.max(axis=1))
    assert y.dtype == largest.dtype == column.dtype == dtype


def test_shapes_layouts_and_special_values():
    x = np.random.default_rng(0).normal(size=(2, 3, 40))
    place = np.zeros((2, 3), np.int64)
    y, largest, column = probe(x, np.zeros(40), place, 1.0)
    assert (y.shape, largest.shape, column.shape) == ((2, 3, 40), (2, 3), (40,))
    for other in (np.asfortranarray(x), np.repeat(x, 2, axis=2)[..., ::2], x[::-1][::-1]):
        np.testing.assert_array_equal(probe(other, np.zeros(40), place, 1.0)[0], y)
    one, most, _ = probe(x[0, 0], np.zeros(40), np.zeros((), np.int64), 1.0)
    np.testing.assert_array_equal(one, y[0, 0])
    assert most.shape == ()
    for at in (0, 7, 33, 39):
        x[0, 0, at] = np.nan
        _, most, _ = probe(x, np.zeros(40), place, 1.0)
        assert np.isnan(most[0, 0])
        assert not np.isnan(most[1]).any()
        x[0, 0, at] = 1.0
    assert fits(x)
    assert not fits(x.astype(np.float16))
    assert not fits(np.zeros((0, 3)))
    assert not fits(x.astype(x.dtype.newbyteorder()))
    assert not fits([1.0])


def test_sums_do_not_depend_on_the_number_of_threads(monkeypatch):
    x = np.random.default_rng(0).normal(size=(50000, 64)).astype(np.float32)
    results = []
    for count in (1, 2, 5):
        monkeypatch.setattr(threads, "count", lambda n=count: n)
        kernel = RowKernel("T x", "T y", "EACH(y[j] = x[j]; s[j] += x[j])", "summing", sums="T s", cost=50)
        results.append(kernel(x)[1])
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    np.testing.assert_allclose(results[0], x.sum(axis=0), atol=0.1)


# CUDA's words, as one thread of one block would have them.
SHIM = """
#include <cmath>
#include <cstdint>
#include <cstddef>
#define __device__
#define __forceinline__ inline
#define __global__
#define __shared__ static
#define __CUDACC__ 1
#define __shfl_xor_sync(mask, x, step) (x)
#define __syncthreads()
using std::exp; using std::tanh; using std::erf; using std::sqrt; using std::log;
struct Dim { int x; };
static Dim threadIdx{0}, blockIdx{0}, blockDim{1}, gridDim{1};
"""

CALL = """
extern "C" void block(int group, int groups, const T* x, const T* table, const int64_t* place, double factor,
                      T* y, T* largest, T* column, int64_t rows, int64_t m) {
    blockIdx.x = group; gridDim.x = groups;
    probe(x, table, place, factor, y, largest, column, rows, m);
}
"""


@pytest.mark.parametrize(("cpp", "dtype"), [("float", np.float32), ("double", np.float64)])
def test_the_text_for_a_gpu_computes_the_same(tmp_path, cpp: str, dtype: type):
    source = probe.source(cpp).replace("typedef long long", "//").replace("typedef int int32_t", "//")
    # The one thread has no others to add to what it has itself.
    source = source.replace("for (int step = 16; step; step /= 2)", "for (int step = 0; step;)")
    (tmp_path / "block.cpp").write_text(SHIM + source + CALL)
    found = compiler.find()
    assert found is not None
    command = [*found.command, "-std=c++17", "-O1", "-shared", "-fPIC", "block.cpp", "-o", "block.so"]
    subprocess.run(command, cwd=tmp_path, check=True)
    block = ctypes.CDLL(str(tmp_path / "block.so")).block
    rows, m, groups = 10, 37, 4
    random = np.random.default_rng(0)
    x, table = random.normal(size=(rows, m)).astype(dtype), random.normal(size=m).astype(dtype)
    place = random.integers(0, m, rows)
    y, largest, parts = np.empty_like(x), np.empty(rows, dtype), np.empty((groups, m), dtype)
    at = [ctypes.c_void_p(a.ctypes.data) for a in (x, table, place, y, largest, parts)]
    for group in range(groups):
        row = ctypes.c_void_p(parts.ctypes.data)
        block(
            group,
            groups,
            *at[:3],
            ctypes.c_double(0.5),
            *at[3:5],
            row,
            ctypes.c_int64(rows),
            ctypes.c_int64(m),
        )
    expected = probe(x, table, place, 0.5)
    for got, wanted in zip((y, largest, parts.sum(axis=0)), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_the_package_has_row_kernels():
    assert {"softmax", "log_softmax", "layer_norm", "batch_norm"} <= set(row_kernels())


def test_bad_declarations_and_arguments():
    with pytest.raises(ValueError, match="cannot read the parameter"):
        RowKernel("Tx", "T y", "", "bad")
    double = RowKernel("T x, T z", "T y", "EACH(y[j] = x[j] + z[j])", "adding")
    with pytest.raises(ValueError, match="adding"):
        double(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(TypeError, match="z"):
        double(np.ones((2, 3)), np.ones((2, 3), np.float32))
