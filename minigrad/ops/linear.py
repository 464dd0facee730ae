"""The layer that most nets are made of: rows times a weight, plus a bias.

On NumPy's arrays larger products are a kernel: NumPy's own library does not know every processor, and its
threads go on spinning for a while, which takes the second core from the kernel that comes next.
"""

import functools
import math
from typing import Any

import numpy

from ..kernels import ElementwiseKernel, compiles
from ..kernels.vectors import VECTORS
from ..primitive import primitive

_WORTH_A_KERNEL = 1 << 18  # multiplications: below, the call takes longer than what it gains


@functools.cache
def _product() -> ElementwiseKernel:
    """C = A B, or with a bias in each row C = A B + bias. A part is a block of C: `down` times `across`."""
    return ElementwiseKernel(
        "raw T a, raw T b, raw T bias, int64 rows, int64 columns, int64 depth, int64 a_row, int64 a_column, "
        "int64 b_row, int64 b_column, bool biased, int64 down, int64 across",
        "raw T c",
        """
        const ptrdiff_t panels = (columns + PANEL - 1) / PANEL;
        const ptrdiff_t top = rows * (i / across) / down, end = rows * (i / across + 1) / down;
        const ptrdiff_t left = panels * (i % across) / across * PANEL;
        const ptrdiff_t right = std::min(columns, panels * (i % across + 1) / across * PANEL);
        const ptrdiff_t m = end - top, width = right - left;
        T* to = c + top * columns + left;
        const T* x = a + top * a_row;
        const T* y = b + left * b_column;
        if (m <= 0 || width <= 0) return;
        if (biased) {
            for (ptrdiff_t r = 0; r < m; ++r) std::copy(bias + left, bias + right, to + r * columns);
            matmul<true>(m, width, depth, x, a_row, a_column, y, b_row, b_column, to, columns);
        } else {
            matmul<false>(m, width, depth, x, a_row, a_column, y, b_row, b_column, to, columns);
        }
        """,
        "product",
        preamble=VECTORS,
        cost=16,
        block=1,
    )


def _strides(x):
    """Of a matrix in C order, or of one that is such a matrix transposed; else None."""
    if x.flags.c_contiguous:
        return x, x.shape[1], 1
    if x.flags.f_contiguous:
        return x.T, 1, x.shape[0]
    return numpy.ascontiguousarray(x), x.shape[1], 1


def _matmul(x, y, bias=None):
    """x @ y, plus a bias, of two matrices: by the kernel where there is one and it pays."""
    (m, k), n = x.shape, y.shape[1]
    arrays = (x, y) if bias is None else (x, y, bias)
    if m * n * k < _WORTH_A_KERNEL or not compiles(*arrays):
        return x @ y if bias is None else _plus(x @ y, bias)
    a, a_row, a_column = _strides(x)
    b, b_row, b_column = _strides(y)
    c = numpy.empty((m, n), x.dtype)
    # Blocks of 256 rows, so that B is not packed too often; and columns cut, for some parts for each thread.
    down = -(-m // 256)
    across = min(-(-n // 32), -(-8 // down))
    row = a if bias is None else numpy.ascontiguousarray(bias)  # a, where there is none, is not looked at
    strides = (a_row, a_column, b_row, b_column, bias is not None, down, across)
    return _product()(a, b, row, m, n, k, *strides, c, size=down * across)


def _plus(x, bias):
    if type(x) is not numpy.ndarray or x.dtype != bias.dtype:
        return x + bias
    x += bias  # which nobody else has
    return x


def _rows(xp, x):
    """x as a matrix: all axes but the last made into one."""
    return x if x.ndim == 2 else xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


def _times(xp, x, y, bias=None):
    """x @ y + bias as one product of two matrices: a stack of small ones is slower."""
    product = _matmul(_rows(xp, x), y, bias)
    return product if x.ndim == 2 else xp.reshape(product, (*x.shape[:-1], y.shape[-1]))


@primitive(
    "weight is [out, in]: its last axis must be as long as that of x",
    x=lambda xp, g, weight: _times(xp, g, weight),
    weight=lambda xp, g, x: _matmul(_rows(xp, g).mT, _rows(xp, x)),
    bias=lambda xp, g: _rows(xp, g),
)
def linear(xp, x, weight, bias=None) -> Any:
    """x @ weight.T + bias, in one step: x is (..., in), `weight` (out, in), `bias` (out,) or None."""
    if getattr(weight, "ndim", 0) != 2 or (
        bias is not None and getattr(bias, "shape", ()) != weight.shape[:1]
    ):
        raise ValueError("weight must have 2 axes, and bias the first of them")
    if getattr(x, "ndim", 0) == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"weight takes {weight.shape[1]} values in the last axis of x")
    return _times(xp, x, weight.mT, bias)
