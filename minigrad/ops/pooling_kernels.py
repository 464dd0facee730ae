"""Pooling on the CPU: kernels that are compiled for one size of image.

An image is laid out in a buffer, its columns sorted by the phases of the stride: of stride 2 the even ones
and then the odd ones, of all rows. So the columns that one tap reads for a row of windows lie side by side,
and vectors run along them, with padding where there is some. What they hold beyond the end of a row is not
used, or is 0.
"""

import functools
from typing import Any

import numpy

from ..kernels import ElementwiseKernel
from ..kernels.vectors import VECTORS
from .windows import Windows

_COMMON = (
    VECTORS
    + """
// An integer as wide as T, and vectors of these.
typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Whole;
typedef Whole Wholes __attribute__((vector_size(L * sizeof(T))));

template <class A> struct Buffer {
    std::unique_ptr<A[]> memory;
    Buffer(ptrdiff_t size, A value) : memory(new A[size + L]) {
        std::fill(memory.get(), memory.get() + size + L, value);
    }
    operator A*() const { return memory.get(); }
};
"""
)

_FORWARD = (
    _COMMON
    + """
constexpr ptrdiff_t PLANE = HEIGHT * LINE + L;

static inline void lay_out(const T* x, T* planes) {
    for (ptrdiff_t b = 0; b < RIGHT; ++b) {
        T* out = planes + b * PLANE;
        if (BEFORE == 0 && LINE * RIGHT == WIDTH)  // there is no padding
            for (ptrdiff_t k = 0; k < HEIGHT * LINE; ++k) out[k] = x[k * RIGHT + b];
        else
            for (ptrdiff_t r = 0; r < HEIGHT; ++r)
                for (ptrdiff_t k = 0; k < (WIDTH - b + RIGHT - 1) / RIGHT; ++k)
                    out[r * LINE + BEFORE + k] = x[r * WIDTH + k * RIGHT + b];
    }
}

// For the vector of windows of line o from column c on: the taps, where in the planes they lie, and their
// numbers.
template <class Work> static inline void each_tap(ptrdiff_t o, ptrdiff_t c, Work work) {
    for (ptrdiff_t i = 0; i < KERNEL_LINES; ++i) {
        const ptrdiff_t row = o * DOWN + i * DILATION_LINES - TOP;
        if (row < 0 || row >= HEIGHT) continue;
#pragma GCC unroll 8
        for (ptrdiff_t j = 0; j < KERNEL_COLUMNS; ++j) {
            const ptrdiff_t column = BEFORE * RIGHT + j * DILATION_COLUMNS - LEFT;
            work(column % RIGHT * PLANE + row * LINE + column / RIGHT + c, i * KERNEL_COLUMNS + j);
        }
    }
}

// What goes beyond the end of a line is overwritten when the next one comes.
template <class Lanes, class A> static inline void put(A* out, ptrdiff_t o, ptrdiff_t c, Lanes v) {
    const ptrdiff_t at = o * COLUMNS + c;
    if (at + L <= LINES * COLUMNS) __builtin_memcpy(out + at, &v, sizeof v);
    else for (ptrdiff_t l = 0; l < std::min<ptrdiff_t>(L, COLUMNS - c); ++l) out[at + l] = v[l];
}
"""
)

_LARGEST = (
    _FORWARD
    + """
typedef P Places __attribute__((vector_size(L * sizeof(P))));

static void part(const T* x, T* y, P* places, T* planes, ptrdiff_t i) {
    constexpr Whole columns[] = {FIRST_COLUMNS};  // the first taps that lie in the image
    constexpr Whole lines[] = {FIRST_LINES};
    lay_out(x + i * HEIGHT * WIDTH, planes);
    y += i * LINES * COLUMNS;
    places += i * LINES * COLUMNS;
    for (ptrdiff_t o = 0; o < LINES; ++o)
        for (ptrdiff_t c = 0; c < COLUMNS; c += L) {
            V best = V{} - std::numeric_limits<T>::infinity();
            Wholes found;
            __builtin_memcpy(&found, columns + c, sizeof found);
            found += Whole(lines[o] * KERNEL_COLUMNS);
            each_tap(o, c, [&](ptrdiff_t at, ptrdiff_t tap) {
                const V value = load(planes + at);
                const auto taken = (value > best) | (value != value);
                best = taken ? value : best;
                found = taken ? Wholes{} + Whole(tap) : found;
            });
            put(y, o, c, best);
            put(places, o, c, __builtin_convertvector(found, Places));
        }
}
"""
)

_MEAN = (
    _FORWARD
    + """
static void part(const T* x, const T* rows, const T* columns, T* y, T* planes, ptrdiff_t i) {
    lay_out(x + i * HEIGHT * WIDTH, planes);
    y += i * LINES * COLUMNS;
    for (ptrdiff_t o = 0; o < LINES; ++o)
        for (ptrdiff_t c = 0; c < COLUMNS; c += L) {
            V sum = {};
            each_tap(o, c, [&](ptrdiff_t at, ptrdiff_t) { sum += load(planes + at); });
            put(y, o, c, sum / (rows[o] * load(columns + c)));
        }
}
"""
)

_BACKWARD = (
    _COMMON
    + """
constexpr ptrdiff_t PLANE = HEIGHT * SPAN + L;

// `term` gives what a tap of windows adds to a vector of one phase of an image: it gets where these windows
// lie in their buffer, and the number of the tap.
template <class Term> static inline void gather(T* x, T* planes, Term term) {
    for (ptrdiff_t r = 0; r < HEIGHT; ++r)
#pragma GCC unroll 8
        for (ptrdiff_t b = 0; b < RIGHT; ++b)
            for (ptrdiff_t k = 0; k < SPAN; k += L) {
                V sum = {};
                for (ptrdiff_t i = 0; i < KERNEL_LINES; ++i) {
                    const ptrdiff_t from = r + TOP - i * DILATION_LINES, o = from / DOWN;
                    if (from < 0 || from % DOWN || o >= LINES) continue;
#pragma GCC unroll 8
                    for (ptrdiff_t j = 0; j < KERNEL_COLUMNS; ++j)
                        if (j * DILATION_COLUMNS % RIGHT == b)
                            sum += term(
                                o * LINE + BEFORE + FIRST + k - j * DILATION_COLUMNS / RIGHT,
                                i * KERNEL_COLUMNS + j
                            );
                }
                // What goes beyond the end of a row is overwritten when the next one comes.
                store(planes + b * PLANE + r * SPAN + k, sum);
            }
    if (SHIFT == 0 && SPAN * RIGHT == WIDTH)
        for (ptrdiff_t k = 0; k < HEIGHT * SPAN; ++k)
            for (ptrdiff_t b = 0; b < RIGHT; ++b) x[k * RIGHT + b] = planes[b * PLANE + k];
    else
        for (ptrdiff_t r = 0; r < HEIGHT; ++r)
            for (ptrdiff_t c = 0; c < WIDTH; ++c)
                x[r * WIDTH + c] = planes[(c + SHIFT) % RIGHT * PLANE + r * SPAN + (c + SHIFT) / RIGHT];
}
"""
)

_TO_PLACES = (
    _BACKWARD
    + """
static void part(const T* y, const P* places, T* x, T* planes, T* values, Whole* taps, ptrdiff_t i) {
    y += i * LINES * COLUMNS;
    places += i * LINES * COLUMNS;
    for (ptrdiff_t o = 0; o < LINES; ++o)
        for (ptrdiff_t c = 0; c < COLUMNS; ++c) {
            values[o * LINE + BEFORE + c] = y[o * COLUMNS + c];
            taps[o * LINE + BEFORE + c] = places[o * COLUMNS + c];
        }
    gather(x + i * HEIGHT * WIDTH, planes, [&](ptrdiff_t at, ptrdiff_t tap) {
        Wholes found;
        __builtin_memcpy(&found, taps + at, sizeof found);
        return found == Whole(tap) ? load(values + at) : V{};
    });
}
"""
)

_SPREAD = (
    _BACKWARD
    + """
static void part(const T* y, const T* rows, const T* columns, T* x, T* planes, T* values, ptrdiff_t i) {
    y += i * LINES * COLUMNS;
    for (ptrdiff_t o = 0; o < LINES; ++o)
        for (ptrdiff_t c = 0; c < COLUMNS; ++c)
            values[o * LINE + BEFORE + c] = y[o * COLUMNS + c] / (rows[o] * columns[c]);
    gather(x + i * HEIGHT * WIDTH, planes, [&](ptrdiff_t at, ptrdiff_t) { return load(values + at); });
}
"""
)

_SPARE = 16
"""How many elements a vector may read beyond the end of a table: as many as the widest has."""


def _kernel(
    windows: Windows, name: str, inputs: str, outputs: str, text: str, buffers: str, back: bool = False
) -> Any:
    """A kernel of which each part is an image: one channel of one of the batch."""
    (height, width), kernel, (_, stride), (_, left), (_, dilation), (_, columns) = windows
    reach = (kernel[1] - 1) * dilation
    names = ("HEIGHT WIDTH", "KERNEL_LINES KERNEL_COLUMNS", "DOWN RIGHT", "TOP LEFT")
    names += ("DILATION_LINES DILATION_COLUMNS", "LINES COLUMNS")
    constants = {
        constant: value
        for pair, values in zip(names, windows, strict=True)
        for constant, value in zip(pair.split(), values, strict=True)
    }
    if back:
        # Column c of the image is of phase (c + SHIFT) % RIGHT, of which SPAN columns lie in the image: the
        # first of them gets the first tap of window FIRST.
        first = left // stride
        span = (left + width - 1) // stride - first + 1
        before = max(0, reach // stride - first)
        line = before + max(columns, first + span)
        constants |= {"FIRST": first, "SPAN": span, "SHIFT": left - first * stride}
    else:
        before = -(-left // stride)
        line = before + max(-(-width // stride), (reach - left) // stride + columns)
    constants |= {"BEFORE": before, "LINE": line}
    header = "".join(f"constexpr ptrdiff_t {constant} = {value};\n" for constant, value in constants.items())
    for table, values in zip(("FIRST_LINES", "FIRST_COLUMNS"), windows.first_taps(), strict=True):
        header += f"#define {table} {', '.join(map(str, values + [0] * _SPARE))}\n"
    arrays = [declaration.split()[-1] for declaration in f"{inputs}, {outputs}".split(",")]
    arrays += [buffer.partition("(")[0].split()[-1] for buffer in buffers.split(";")]
    return ElementwiseKernel(
        inputs,
        outputs,
        f"part({', '.join(arrays)}, i)",
        name,
        preamble=f"namespace {{\n{header}{text}\n}}\n",
        loop_prep=buffers,
        cost=1 + kernel[0] * kernel[1] / (windows.stride[0] * stride),
        block=max(1, 4096 // (height * width)),
    )


_PLANES = "const Buffer<T> planes(RIGHT * PLANE, {})"
_VALUES = "const Buffer<T> values(LINES * LINE, 0)"


@functools.lru_cache(maxsize=256)
def _largest(windows: Windows) -> Any:
    buffers = _PLANES.format("-std::numeric_limits<T>::infinity()")
    return _kernel(windows, "max_pool2d", "raw T x", "raw T y, raw P places", _LARGEST, buffers)


@functools.lru_cache(maxsize=256)
def _to_places(windows: Windows) -> Any:
    buffers = f"{_PLANES.format(0)}; {_VALUES}; const Buffer<Whole> taps(LINES * LINE, 0)"
    return _kernel(windows, "to_places", "raw T y, raw P places", "raw T x", _TO_PLACES, buffers, back=True)


@functools.lru_cache(maxsize=256)
def _mean(windows: Windows) -> Any:
    inputs = "raw T x, raw T rows, raw T columns"
    return _kernel(windows, "avg_pool2d", inputs, "raw T y", _MEAN, _PLANES.format(0))


@functools.lru_cache(maxsize=256)
def _spread(windows: Windows) -> Any:
    inputs, buffers = "raw T y, raw T rows, raw T columns", f"{_PLANES.format(0)}; {_VALUES}"
    return _kernel(windows, "spread", inputs, "raw T x", _SPREAD, buffers, back=True)


def largest(x: numpy.ndarray, windows: Windows) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The largest element of each window, and the number of the tap that found it."""
    y = numpy.empty((*x.shape[:-2], *windows.output), x.dtype)
    places = numpy.empty(
        y.shape, numpy.uint8 if windows.kernel[0] * windows.kernel[1] <= 256 else numpy.int32
    )
    _largest(windows)(numpy.ascontiguousarray(x), y, places, size=_images(x))
    return y, places


def to_places(y: numpy.ndarray, places: numpy.ndarray, windows: Windows) -> numpy.ndarray:
    """An input that has the elements of y at the taps of these numbers, added up, and 0 elsewhere."""
    x = numpy.empty((*y.shape[:-2], *windows.input), y.dtype)
    arrays = numpy.ascontiguousarray(y), numpy.ascontiguousarray(places)
    _to_places(windows)(*arrays, x, size=_images(y))
    return x


def mean(x: numpy.ndarray, windows: Windows, rows: list[int], columns: list[int]) -> numpy.ndarray:
    """The sum of each window, divided by the product of the numbers for its row and its column."""
    y = numpy.empty((*x.shape[:-2], *windows.output), x.dtype)
    divisors = numpy.array(rows, x.dtype), numpy.array(columns + [1] * _SPARE, x.dtype)
    _mean(windows)(numpy.ascontiguousarray(x), *divisors, y, size=_images(x))
    return y


def spread(y: numpy.ndarray, windows: Windows, rows: list[int], columns: list[int]) -> numpy.ndarray:
    """An input each of whose elements is the sum of those of y in whose windows it lies, each divided."""
    x = numpy.empty((*y.shape[:-2], *windows.input), y.dtype)
    divisors = numpy.array(rows, y.dtype), numpy.array(columns + [1] * _SPARE, y.dtype)
    _spread(windows)(numpy.ascontiguousarray(y), *divisors, x, size=_images(y))
    return x


def _images(x: numpy.ndarray) -> int:
    return x.size // (x.shape[-2] * x.shape[-1])
