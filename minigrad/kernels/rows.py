"""`RowKernel`: one text of C++ for a row of numbers, such as a softmax, on the CPU and on the GPU."""

import math
from collections.abc import Sequence
from typing import Any

import numpy

from ..backend import namespace
from .elementwise import ElementwiseKernel
from .source import Param, parse
from .vectors import FUNCTIONS

GROUPS = 64
"""How many groups of rows there are on a CPU: not one for each thread, so that sums depend on no machine."""

BLOCKS, THREADS = 1024, 128
"""How many groups there are on a GPU, and how many threads share a row there."""

_CPU = """
// A sum in 32 parts, which are summed side by side.
template <typename _T, typename _F> static inline _T _sum(ptrdiff_t m, _F f) {
    _T parts[32] = {};
    ptrdiff_t j = 0;
    for (; j + 32 <= m; j += 32) for (int k = 0; k < 32; ++k) parts[k] += f(j + k);
    for (int k = 0; j < m; ++j, ++k) parts[k] += f(j);
    for (int half = 16; half; half /= 2) for (int k = 0; k < half; ++k) parts[k] += parts[k + half];
    return parts[0];
}

template <typename _T> static inline _T _larger(_T a, _T b) { return a < b ? b : a; }

// The largest; NaN if there is one.
template <typename _T, typename _F> static inline _T _max(ptrdiff_t m, _F f) {
    _T parts[32], q[8];
    int nan = 0;
    for (_T& part : parts) part = -std::numeric_limits<_T>::infinity();
    ptrdiff_t j = 0;
    for (; j + 32 <= m; j += 32) for (int k = 0; k < 32; ++k) {
        const _T x = f(j + k);
        parts[k] = _larger(parts[k], x);
        nan |= x != x;
    }
    for (int k = 0; j < m; ++j, ++k) {
        const _T x = f(j);
        parts[k] = _larger(parts[k], x);
        nan |= x != x;
    }
    for (int k = 0; k < 8; ++k)
        q[k] = _larger(_larger(parts[k], parts[k + 8]), _larger(parts[k + 16], parts[k + 24]));
    for (int k = 0; k < 2; ++k) q[k] = _larger(_larger(q[k], q[k + 2]), _larger(q[k + 4], q[k + 6]));
    return nan ? std::numeric_limits<_T>::quiet_NaN() : _larger(q[0], q[1]);
}
"""

# Each thread of a block has every THREADS-th element of a row; what it adds up goes to the others through
# the registers of its warp of 32, and then through shared memory.
_GPU = """
typedef long long int64_t;
typedef int int32_t;
template <typename _T> struct _Add { static __device__ _T of(_T a, _T b) { return a + b; } };
template <typename _T> struct _Larger {
    static __device__ _T of(_T a, _T b) { return (a < b) | (b != b) ? b : a; }
};
template <typename _Op, typename _T> static __device__ _T _of_all(_T x) {
    __shared__ _T parts[32];
    for (int step = 16; step; step /= 2) x = _Op::of(x, __shfl_xor_sync(0xffffffff, x, step));
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = parts[0];
    for (int k = 1; k < blockDim.x / 32; ++k) x = _Op::of(x, parts[k]);
    return x;
}
template <typename _T, typename _F> static __device__ _T _sum(ptrdiff_t m, _F f) {
    _T x = 0;
    for (ptrdiff_t j = threadIdx.x; j < m; j += blockDim.x) x += f(j);
    return _of_all<_Add<_T>>(x);
}
template <typename _T, typename _F> static __device__ _T _max(ptrdiff_t m, _F f) {
    _T x = f(threadIdx.x < m ? threadIdx.x : 0);  // a thread that has none begins with the first
    for (ptrdiff_t j = threadIdx.x; j < m; j += blockDim.x) x = _Larger<_T>::of(x, f(j));
    return _of_all<_Larger<_T>>(x);
}
"""

_MACROS = """
#define SUM(...) _sum<T>(m, [&](ptrdiff_t j) -> T { return __VA_ARGS__; })
#define MAX(...) _max<T>(m, [&](ptrdiff_t j) -> T { return __VA_ARGS__; })
"""

# What a compiler cannot know of several outputs: that no element is read that another one has written.
_EACH_CPU = """
#define EACH(...) _Pragma("GCC ivdep") for (ptrdiff_t j = 0; j < m; ++j) { __VA_ARGS__; }
"""
_EACH_GPU = "#define EACH(...) for (ptrdiff_t j = threadIdx.x; j < m; j += blockDim.x) { __VA_ARGS__; }\n"


class RowKernel:
    """A function of arrays, given by what it does to one row, the elements along the last axis, in C++.

    In the text `i` is the number of the row, and `m` its length. `EACH(y[j] = 2 * x[j])` does something to
    each element; `SUM(x[j])` and `MAX(x[j])` are of what the expression gives for each. On a CPU they are
    loops that vectorise; on a GPU the threads of a block share a row, and what stands outside of them is
    done by each. Element j of a row is read only where j is, and after an `EACH` that wrote it.

    It runs on NumPy's arrays where there is a compiler (see `kernels.available`) and on CuPy's, in float32
    and float64: `kernels.fits` says whether it does. Beside a call there must be array code
    for the rest.

    Args:
        in_params: inputs, as in `"T x, raw T weight, raw int64 target, float64 eps"`. A plain array has
            rows: all that do have one shape. A `raw` one is indexed by the text. `T` is their dtype.
        out_params: outputs, likewise; a raw one has an element for each row.
        text: what is done to a row.
        name: a name for the compiled function.
        sums: outputs of one row, to which each row adds: `"T bias"` with `EACH(bias[j] += x[j])`.
        cost: how many times as long as reading and writing its arrays the text takes.

    >>> import numpy as np
    >>> from minigrad.kernels import fits
    >>> centred = RowKernel("T x", "T y", "const T mean = SUM(x[j]) / m; EACH(y[j] = x[j] - mean)", "centred")
    >>> x = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 3.0]])
    >>> centred(x) if fits(x) else x - x.mean(axis=1, keepdims=True)
    array([[-1.,  0.,  1.],
           [-1., -1.,  2.]])
    """

    def __init__(
        self, in_params: str, out_params: str, text: str, name: str, *, sums: str = "", cost: float = 2.0
    ):
        self.name, self.text = name, text
        self.inputs = parse(in_params, False, name)
        self.outputs = parse(out_params, True, name)
        self.sums = parse(sums, True, name)
        self._on_cupy: dict[str, Any] = {}
        self._arrays = [(k, p) for k, p in enumerate(self.inputs) if p.raw or p.type == "T"]
        in_rows = [k for k, p in self._arrays if not p.raw]
        if not in_rows:
            raise ValueError(f"{name}: no input has rows: one must be 'T name', and not raw")
        self._first = in_rows[0]
        self._dtypes = {p.type: numpy.dtype(p.type) for p in [*self.inputs, *self.outputs] if p.type != "T"}
        self._cpu = ElementwiseKernel(
            ", ".join([*map(_raw, self.inputs), "int64 rows", "int64 groups", "int64 m"]),
            ", ".join(map(_raw, [*self.outputs, *self.sums])),
            "const ptrdiff_t group = i;\n" + self._loop("const ptrdiff_t first = rows * group / groups"),
            name,
            preamble=FUNCTIONS + _CPU + _MACROS + _EACH_CPU,
            cost=cost,
            block=1,
        )

    def _loop(self, first: str) -> str:
        """C++ that does the rows of a group."""
        in_rows = [p for p in [*self.inputs, *self.outputs] if p.type == "T" and not p.raw]
        starts = [
            f"{'' if p.out else 'const '}T* __restrict {p.name} = all_{p.name} + i * m;" for p in in_rows
        ]
        sums = [f"T* __restrict {p.name} = all_{p.name} + group * m;" for p in self.sums]
        clear = [f"{p.name}[j] = 0;" for p in self.sums]
        return "\n".join(
            [
                f"{first}, last = rows * (group + 1) / groups;",
                *sums,
                *([f"EACH({' '.join(clear)})"] if clear else []),
                "for (ptrdiff_t i = first; i < last; ++i) {",
                *starts,
                self.text,
                ";}",
            ]
        )

    def __call__(self, *args: Any) -> Any:
        """Compute: its one output, or a tuple of all, with the sums at the end.

        Raises:
            TypeError: wrong number of arguments, or arrays of other dtypes than declared, or than the others
                of type T.
            ValueError: arrays with rows differ in shape, or devices differ.
        """
        if len(args) != len(self.inputs):
            raise TypeError(f"{self.name}: takes {len(self.inputs)} inputs, got {len(args)} arguments")
        like = args[self._first]
        shape, dtype, dtypes = like.shape, like.dtype, self._dtypes
        rows, m = math.prod(shape[:-1]), shape[-1]
        on_cpu = type(like) is numpy.ndarray
        xp = numpy if on_cpu else namespace(self.name, list(args))
        ready = list(args)
        for k, p in self._arrays:
            a, wanted = args[k], dtypes.get(p.type, dtype)
            if type(a) is not type(like) or a.dtype != wanted:
                raise TypeError(f"{self.name}: {p.name!r} must be an array of {wanted} like the first")
            if not p.raw and a.shape != shape:
                raise ValueError(f"{self.name}: {p.name!r} has shape {a.shape}, the first array {shape}")
            if not a.flags.c_contiguous:
                ready[k] = xp.array(a, order="C")
        groups = min(rows, GROUPS if on_cpu else BLOCKS)
        outs = [xp.empty(shape[:-1] if p.raw else shape, dtypes.get(p.type, dtype)) for p in self.outputs]
        parts = [xp.empty((groups, m), like.dtype) for _ in self.sums]
        if on_cpu:
            self._cpu(*ready, rows, groups, m, *outs, *parts, size=groups)
        else:
            self._on_gpu(like, [*ready, *outs, *parts], rows, groups, m)
        results = outs + [xp.sum(part, axis=0) for part in parts]
        return results[0] if len(results) == 1 else tuple(results)

    # --- CuPy --------------------------------------------------------------------------------------

    def source(self, cpp: str) -> str:
        """The CUDA source for a `T` of that type, `float` or `double`."""
        types = {"T": cpp, "int64": "int64_t", "float64": "double", "float32": "float", "int32": "int32_t"}
        declared = []
        for p, array in [
            *((p, p.raw or p.type == "T") for p in self.inputs),
            *((p, True) for p in [*self.outputs, *self.sums]),
        ]:
            const = "" if p.out else "const "
            declared.append(f"{const}{types[p.type]}{'*' if array else ''} {_all(p) if array else p.name}")
        return "\n".join(
            [
                _GPU,
                f"typedef {cpp} T;",
                FUNCTIONS,
                _MACROS,
                _EACH_GPU,
                f'extern "C" __global__ void {self.name}({", ".join(declared)}, int64_t rows, int64_t m) {{',
                "const ptrdiff_t group = blockIdx.x, groups = gridDim.x;",
                self._loop("const ptrdiff_t first = rows * group / groups"),
                "}",
            ]
        )

    def _on_gpu(self, like: Any, arrays: Sequence[Any], rows: int, groups: int, m: int) -> None:
        with like.device:
            args = [*arrays, numpy.int64(rows), numpy.int64(m)]
            for k, p in enumerate(self.inputs):
                if not hasattr(args[k], "shape"):
                    args[k] = numpy.dtype(p.type).type(args[k])
            self._compiled("float" if like.dtype.char == "f" else "double")(
                (groups,), (THREADS,), tuple(args)
            )

    def _compiled(self, cpp: str) -> Any:
        import cupy  # pyright: ignore[reportMissingImports]

        if cpp not in self._on_cupy:
            self._on_cupy[cpp] = cupy.RawKernel(self.source(cpp), self.name, options=("--std=c++17",))
        return self._on_cupy[cpp]


def _all(p: Param) -> str:
    return p.name if p.raw else f"all_{p.name}"


def _raw(p: Param) -> str:
    """The declaration of a parameter for a kernel that is given whole arrays."""
    is_array = p.raw or p.out or p.type == "T"
    return f"raw {p.type} {_all(p)}" if is_array else f"{p.type} {p.name}"
