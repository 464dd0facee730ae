"""Convolution on the CPU: kernels that are compiled for one shape of image.

All three maps work on images laid out anew, in a buffer, so that whatever stride, padding and dilation are,
a tap is a constant distance:

- a plane for each phase of the stride: of stride 2 one of the even columns and one of the odd ones;
- in it all rows one behind the other, `PITCH` apart, with zeros for the padding. The zeros at the right of a
  row are those at the left of the next where that is possible.

Place p of a result is then the sum over channels and taps of weight times buffer[p + distance of the tap],
for all p in one long row: vectors run along it, across the ends of rows, and what they compute in the few
columns between is not used. So the inner loop is a matrix product that is read out of place: a tile of
registers holds some channels times some vectors of the result, each weight is broadcast to one vector.

The transposed map is the same with the roles swapped: the phases are those of the result, each with taps of
its own. The gradient of the weight sums products along p: a tile of channels times taps.
"""

import functools
import math
from typing import Any

import numpy

from ..kernels import ElementwiseKernel
from ..kernels.vectors import VECTORS
from . import convolution_layout as layout
from .windows import Windows

_COMMON = (
    VECTORS
    + """
// Read once, into a register: a compiler may prefer to read again for each use, which takes longer by far
// where the vector lies across two lines of the cache.
typedef T Unaligned __attribute__((vector_size(sizeof(V)), aligned(sizeof(T)), may_alias));
static inline V load_once(const T* p) { return *reinterpret_cast<const volatile Unaligned*>(p); }

// Accumulators in a tile: what is left of the registers is for what they are made of.
constexpr ptrdiff_t TALL = ROWS, TILE = ROWS * WIDE;

constexpr ptrdiff_t up(ptrdiff_t n, ptrdiff_t parts) { return (n + parts - 1) / parts; }

// A size of tiles, at most `largest`, such that `n` is cut into the fewest, and these are most even.
constexpr ptrdiff_t even(ptrdiff_t n, ptrdiff_t largest) { return up(n, up(n, largest)); }

// Memory for one part of the work, all zeros.
struct Buffer {
    std::unique_ptr<T[]> memory;
    T* data;
    explicit Buffer(ptrdiff_t size) : memory(new T[size + L]()) {
        data = memory.get() + (L - reinterpret_cast<uintptr_t>(memory.get()) / sizeof(T) % L) % L;
    }
};

// From a channel of a plane to the next: room for its rows, and for the last vectors to read on behind them.
// An odd number of vectors, so that equal places of channels do not meet in one set of a cache.
constexpr ptrdiff_t LENGTH = (up((STRIP + REACH - 1) * PITCH + WIDTH + L, L) | 1) * L;

// The rows of plane q from `first` on that lie in the image: what `work` gets is the row of the plane, the
// row of the image, and the columns of the plane, and where in the image the first of these lies.
template <class Layout, class Work>
static inline void each_row(int q, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t columns, Work work) {
    const ptrdiff_t across = Layout::left - Layout::b[q], along = Layout::top - Layout::a[q];
    const ptrdiff_t k0 = across > 0 ? up(across, Layout::right) : 0;
    const ptrdiff_t k1 = std::min(columns, up(Layout::width + across, Layout::right));
    for (ptrdiff_t j = 0; j < rows; ++j) {
        const ptrdiff_t r = (first + j) * Layout::down - along;
        if (r >= 0 && r < Layout::height) work(j, r * Layout::width + k0 * Layout::right - across, k0, k1);
    }
}

// `rows` rows from `first` on, of one channel, to the planes of that channel, which are `apart`.
template <class Layout>
static inline void lay_out(
    const T* x, T* out, ptrdiff_t apart, ptrdiff_t first, ptrdiff_t rows, ptrdiff_t columns
) {
    for (int q = 0; q < Layout::planes; ++q)
        each_row<Layout>(q, first, rows, columns, [&](ptrdiff_t j, ptrdiff_t at, ptrdiff_t k0, ptrdiff_t k1) {
            for (ptrdiff_t k = k0; k < k1; ++k)
                out[q * apart + j * PITCH + k] = x[at + (k - k0) * Layout::right];
        });
}
"""
)

_CONVOLVE = (
    _COMMON
    + """
constexpr ptrdiff_t M = even(OUTS, TALL), N = std::min<ptrdiff_t>(8, std::max<ptrdiff_t>(1, TILE / M));

// m channels times n vectors of a result.
template <ptrdiff_t m, ptrdiff_t n>
static inline void tile(
    const T* x, const T* w, T* out, const ptrdiff_t* distances, const int* weights, int taps
) {
    V sums[m][n] = {};
    for (ptrdiff_t c = 0; c < INS; ++c) {
        for (int t = 0; t < taps; ++t) {
            V v[n];
            for (ptrdiff_t b = 0; b < n; ++b) v[b] = load(x + distances[t] + b * L);
            for (ptrdiff_t a = 0; a < m; ++a)
                for (ptrdiff_t b = 0; b < n; ++b) sums[a][b] += w[weights[t] + a * WEIGHT_OUT] * v[b];
        }
        x += LENGTH;
        w += WEIGHT_IN;
    }
    for (ptrdiff_t a = 0; a < m; ++a)
        for (ptrdiff_t b = 0; b < n; ++b) store(out + a * LENGTH + b * L, sums[a][b]);
}

template <ptrdiff_t m>
static inline void some_channels(
    const T* x, const T* w, T* out, ptrdiff_t places, const ptrdiff_t* distances, int phase
) {
    const int start = START[phase], taps = START[phase + 1] - start;
    distances += start;
    const int* weights = TAP_WEIGHT + start;
    ptrdiff_t p = 0, left = up(places, L);
    for (; left >= N; left -= N, p += N * L) tile<m, N>(x + p, w, out + p, distances, weights, taps);
    if constexpr (N > 2)
        for (; left >= 2; left -= 2, p += 2 * L) tile<m, 2>(x + p, w, out + p, distances, weights, taps);
    if constexpr (N > 1)
        for (; left; --left, p += L) tile<m, 1>(x + p, w, out + p, distances, weights, taps);
}

// Some rows of one image.
static void part(const T* x, const T* w, const T* bias, T* y, ptrdiff_t i, ptrdiff_t strip) {
    const ptrdiff_t strips = up(LINES, strip), first = i % strips * strip;
    const ptrdiff_t rows = std::min(strip, LINES - first), places = (rows - 1) * PITCH + COLUMNS;
    Buffer planes(Read::planes * INS * LENGTH), results(M * LENGTH);
    ptrdiff_t distances[TAPS + 1];
    for (int t = 0; t < TAPS; ++t)
        distances[t] = TAP_PLANE[t] * INS * LENGTH + TAP_DOWN[t] * PITCH + TAP_RIGHT[t];
    x += i / strips * GROUPS * INS * Read::height * Read::width;
    y += i / strips * GROUPS * OUTS * Write::height * Write::width;
    for (ptrdiff_t group = 0; group < GROUPS; ++group) {
        for (ptrdiff_t c = 0; c < INS; ++c, x += Read::height * Read::width)
            lay_out<Read>(x, planes.data + c * LENGTH, INS * LENGTH, first, rows + REACH, WIDTH);
        for (ptrdiff_t o = 0; o < OUTS; o += M) {
            const T* from = w + group * WEIGHT_GROUP + o * WEIGHT_OUT;
            const ptrdiff_t m = std::min(M, OUTS - o);
            for (int q = 0; q < Write::planes; ++q) {
                if (m == M)
                    some_channels<M>(planes.data, from, results.data, places, distances, q);
                else if constexpr (OUTS % M != 0)
                    some_channels<OUTS % M>(planes.data, from, results.data, places, distances, q);
                for (ptrdiff_t a = 0; a < m; ++a) {
                    T* out = y + (o + a) * Write::height * Write::width;
                    const T* in = results.data + a * LENGTH;
                    const T shift = BIAS ? bias[group * OUTS + o + a] : T(0);
                    each_row<Write>(
                        q, first, rows, COLUMNS,
                        [&](ptrdiff_t j, ptrdiff_t at, ptrdiff_t k0, ptrdiff_t k1) {
                            for (ptrdiff_t k = k0; k < k1; ++k)
                                out[at + (k - k0) * Write::right] = in[j * PITCH + k] + shift;
                        }
                    );
                }
            }
        }
        y += OUTS * Write::height * Write::width;
    }
}
"""
)


_WEIGHT_GRADIENT = (
    _COMMON
    + """
constexpr ptrdiff_t APART = UNITS * LENGTH;  // from a channel to the next
constexpr ptrdiff_t PAIRS = INS * TAPS, M = even(OUTS, TILE / 6);
constexpr ptrdiff_t N = even(PAIRS, std::min<ptrdiff_t>(12, TILE / M));

// The sum of what is in a vector of so many bytes, by adding its halves.
template <size_t bytes, class W> static inline T total(W v) {
    if constexpr (bytes == 2 * sizeof(T)) return v[0] + v[1];
    else {
        typedef T Half __attribute__((vector_size(bytes / 2)));
        Half low, high;
        __builtin_memcpy(&low, &v, bytes / 2);
        __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + bytes / 2, bytes / 2);
        return total<bytes / 2>(low + high);
    }
}

// Of m channels of g and n pairs of a channel of x and a tap: the sums of products over all places.
template <ptrdiff_t m, ptrdiff_t n>
static inline void tile(
    const T* g, const T* x, ptrdiff_t pair, T* out, ptrdiff_t units, ptrdiff_t places
) {
    const T* at[n];
    for (ptrdiff_t b = 0; b < n; ++b) {
        const ptrdiff_t c = (pair + b) / TAPS, t = (pair + b) % TAPS;
        at[b] = x + (TAP_PLANE[t] * INS + c) * APART + TAP_DOWN[t] * PITCH + TAP_RIGHT[t];
    }
    V sums[m][n] = {};
    for (ptrdiff_t u = 0; u < units; ++u) {
        for (ptrdiff_t p = u * LENGTH; p < u * LENGTH + places; p += L) {
            V v[m];
            for (ptrdiff_t a = 0; a < m; ++a) v[a] = load(g + a * APART + p);
            for (ptrdiff_t b = 0; b < n; ++b) {
                const V w = load_once(at[b] + p);
                for (ptrdiff_t a = 0; a < m; ++a) sums[a][b] += v[a] * w;
            }
        }
    }
    for (ptrdiff_t a = 0; a < m; ++a)
        for (ptrdiff_t b = 0; b < n; ++b) out[a * PAIRS + b] += total<sizeof(V)>(sums[a][b]);
}

template <ptrdiff_t m>
static inline void some_channels(const T* g, const T* x, T* out, ptrdiff_t units, ptrdiff_t places) {
    ptrdiff_t pair = 0;
    for (; pair + N <= PAIRS; pair += N) tile<m, N>(g, x, pair, out + pair, units, places);
    if constexpr (PAIRS % N != 0) tile<m, PAIRS % N>(g, x, pair, out + pair, units, places);
}

// Part i of `parts` of the images; a unit is some rows of one. Several of them are laid out at a time.
static void part(
    const T* x, const T* g, T* out, ptrdiff_t i, ptrdiff_t images, ptrdiff_t parts, ptrdiff_t strip
) {
    const ptrdiff_t strips = up(LINES, strip);
    const ptrdiff_t end = images * strips * (i + 1) / parts;
    const ptrdiff_t places = (strip - 1) * PITCH + COLUMNS;
    Buffer planes(Read::planes * INS * APART), gradients(OUTS * APART);
    out += i * GROUPS * OUTS * PAIRS;
    std::fill(out, out + GROUPS * OUTS * PAIRS, T(0));
    for (ptrdiff_t group = 0; group < GROUPS; ++group, out += OUTS * PAIRS) {
        for (ptrdiff_t begin = images * strips * i / parts; begin < end; begin += UNITS) {
            const ptrdiff_t units = std::min<ptrdiff_t>(UNITS, end - begin);
            if (strips > 1) {  // there is padding in other rows
                std::fill(planes.data, planes.data + Read::planes * INS * APART, T(0));
                std::fill(gradients.data, gradients.data + OUTS * APART, T(0));
            }
            for (ptrdiff_t u = 0; u < units; ++u) {
                const ptrdiff_t image = (begin + u) / strips * GROUPS + group;
                const ptrdiff_t first = (begin + u) % strips * strip;
                const T* from = x + image * INS * Read::height * Read::width;
                for (ptrdiff_t c = 0; c < INS; ++c, from += Read::height * Read::width)
                    lay_out<Read>(
                        from, planes.data + c * APART + u * LENGTH, INS * APART, first, strip + REACH, WIDTH
                    );
                from = g + image * OUTS * Write::height * Write::width;
                for (ptrdiff_t o = 0; o < OUTS; ++o, from += Write::height * Write::width)
                    lay_out<Write>(from, gradients.data + o * APART + u * LENGTH, 0, first, strip, COLUMNS);
            }
            ptrdiff_t o = 0;
            for (; o + M <= OUTS; o += M)
                some_channels<M>(gradients.data + o * APART, planes.data, out + o * PAIRS, units, places);
            if constexpr (OUTS % M != 0)
                some_channels<OUTS % M>(
                    gradients.data + o * APART, planes.data, out + o * PAIRS, units, places
                );
        }
    }
}
"""
)


@functools.lru_cache(maxsize=256)
def _convolve(windows: Windows, transposed: bool, ins: int, outs: int, groups: int, bias: bool) -> Any:
    """The kernel of a convolution or of the transposed map, and how to cut images into strips."""
    taps = math.prod(windows.kernel)
    plan = layout.transposed(windows) if transposed else layout.forward(windows)
    # A strip of an image should stay in a cache of half a megabyte.
    row = layout.pitch(plan) * (ins * len(plan.read.planes) + min(outs, 8))
    strip = max(1, min(plan.rows, (1 << 16) // row))
    header = layout.header(
        plan,
        STRIP=strip,
        INS=ins,
        OUTS=outs,
        GROUPS=groups,
        BIAS=bias,
        WEIGHT_IN=outs * taps if transposed else taps,
        WEIGHT_OUT=taps if transposed else ins * taps,
        WEIGHT_GROUP=ins * outs * taps,
    )
    products = 2 * ins * outs * taps * math.prod(windows.output)
    values = ins * math.prod(plan.read.size) + outs * math.prod(plan.write.size)
    kernel = ElementwiseKernel(
        "raw T x, raw T w, raw T bias, int64 strip",
        "raw T y",
        "part(x, w, bias, y, i, strip)",
        "conv_transpose2d" if transposed else "conv2d",
        preamble=_text(header + _CONVOLVE),
        cost=_cost(products / values),
        block=1,
    )
    return kernel, plan.rows, strip


def _text(text: str) -> str:
    """In a namespace of its own: static members of classes would be one for all libraries of a process."""
    return f"namespace {{\n{text}\n}}\n"


def _cost(operations: float) -> float:
    """The cost of a kernel that does so many operations for each value that it reads or writes."""
    return 1 + 0.2 * operations


def convolve(
    x: numpy.ndarray,
    weight: numpy.ndarray,
    bias: numpy.ndarray | None,
    windows: Windows,
    groups: int,
    transposed: bool,
) -> numpy.ndarray:
    """The convolution of x, or the transposed map, by a compiled kernel."""
    n = x.shape[0]
    outs = weight.shape[1] if transposed else weight.shape[0] // groups
    kernel, rows, strip = _convolve(windows, transposed, x.shape[1] // groups, outs, groups, bias is not None)
    y = numpy.empty((n, outs * groups, *(windows.input if transposed else windows.output)), x.dtype)
    if n < 4:  # so that there is work for several threads
        strip = min(strip, max(1, -(-rows * n // 4)))
    arrays = [numpy.ascontiguousarray(a) for a in (x, weight, weight if bias is None else bias)]
    return kernel(*arrays, strip, y, size=n * -(-rows // strip))


_PARTS = 8
"""How many sums the gradient of a weight is made of: a fixed number, whatever threads there are."""


@functools.lru_cache(maxsize=256)
def _weight_gradient(windows: Windows, ins: int, outs: int, groups: int) -> Any:
    """The kernel of the gradient of a weight, and how to cut images into strips."""
    plan = layout.forward(windows)
    taps = math.prod(windows.kernel)
    row = layout.pitch(plan) * (ins * len(plan.read.planes) + outs)
    strip = max(1, min(plan.rows, (1 << 17) // row))
    # Several small images at a time, since it takes long to sum up what is in the registers.
    units = (
        max(1, min((1 << 17) // (row * plan.rows), 4096 // (plan.rows * plan.columns)))
        if strip == plan.rows
        else 1
    )
    header = layout.header(plan, STRIP=strip, INS=ins, OUTS=outs, GROUPS=groups, UNITS=units)
    products = 2 * ins * outs * taps * math.prod(windows.output)
    values = ins * math.prod(windows.input) + outs * math.prod(windows.output)
    kernel = ElementwiseKernel(
        "raw T x, raw T g, int64 images, int64 parts, int64 strip",
        "raw T out",
        "part(x, g, out, i, images, parts, strip)",
        "conv2d_weight",
        preamble=_text(header + _WEIGHT_GRADIENT),
        cost=_cost(products / values),
        block=1,
    )
    return kernel, plan.rows, strip


def weight_gradient(x: numpy.ndarray, g: numpy.ndarray, windows: Windows, groups: int) -> numpy.ndarray:
    """The gradient of the weight of a convolution of x, of which g is that of the result."""
    n, ins, outs = x.shape[0], x.shape[1] // groups, g.shape[1] // groups
    kernel, rows, strip = _weight_gradient(windows, ins, outs, groups)
    if n < 4:  # so that there is work for several threads
        strip = min(strip, max(1, -(-rows * n // 4)))
    parts = min(n * -(-rows // strip), _PARTS)
    out = numpy.empty((parts, outs * groups, ins, *windows.kernel), x.dtype)
    kernel(numpy.ascontiguousarray(x), numpy.ascontiguousarray(g), n, parts, strip, out, size=parts)
    return out.sum(axis=0) if parts > 1 else out[0]
