"""Attention on the CPU, compiled: never more than a block of the scores of all pairs is in memory.

The scores of all pairs of a query and a key are a matrix whose size is the length of a text squared. The
compiled kernels never hold more than a block of it: the softmax of a row is put together from the parts of
the row, for which its largest score and its sum so far are enough (Milakov and Gimelshein, 2018; Rabe and
Staats, 2021); and for the gradients the probabilities are computed again, from the logarithm of that sum,
the one number per row that is kept (Dao et al., "FlashAttention", 2022).
"""

import functools
import math
from typing import Any

import numpy
from numpy.lib.stride_tricks import as_strided

from ..kernels import ElementwiseKernel
from ..kernels.vectors import VECTORS


def forward(query, key, value, mask, causal, scale):
    """The result, and the logarithm of the sum of e^score of each row."""
    query, key, value, mask = _rows(query), _rows(key), _rows(value), _forwards(mask)
    batch = numpy.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    queries = query.shape[-2]
    out = _empty_like(query, (*batch, queries, value.shape[-1]))
    logs = numpy.empty((*batch, queries), query.dtype)
    pieces = _pieces(batch, queries)
    layout = _layout(causal, pieces, batch, *map(_places, (query, key, value, mask, out)))
    kernel = _kernel(_FORWARD, _cost(query, key))
    kernel(
        *_inputs(query, key, value, mask), layout, scale, _memory(out), logs, size=math.prod(batch) * pieces
    )
    return out, logs


def backward(g, query, key, value, mask, causal, scale, out, logs) -> dict[str, Any]:
    """The gradients by name; `logs` is what `forward` gave beside the result."""
    query, key, value, mask, out, g = *map(_rows, (query, key, value)), _forwards(mask), _rows(out), _rows(g)
    batch = logs.shape[:-1]
    pieces = _pieces(batch, key.shape[-2])
    dq, dk, dv = (_empty_like(x, (*batch, *x.shape[-2:])) for x in (query, key, value))
    if pieces > 1:  # each of which adds to that of all queries
        dq = numpy.empty((pieces, *dq.shape), dq.dtype)
    arrays = query, key, value, mask, out, g, dq[0] if pieces > 1 else dq, dk, dv
    layout = _layout(causal, pieces, batch, *map(_places, arrays))
    _kernel(_BACKWARD, _cost(query, key))(
        *(*_inputs(query, key, value, mask), layout, scale, _memory(out), logs, _memory(g)),
        *map(_memory, (dq, dk, dv)),
        size=math.prod(batch) * pieces,
    )
    return {"query": dq.sum(axis=0) if pieces > 1 else dq, "key": dk, "value": dv}


def _pieces(batch, rows):
    """Into how many pieces of its rows to cut the work of each head: where heads are few, for threads."""
    return max(1, min(16 // max(math.prod(batch), 1), rows // 64))


def _cost(query, key):
    """How much work there is for each number, by which threads are chosen: it grows with the length."""
    return 1 << (min(query.shape[-2], key.shape[-2]) // 2).bit_length()


def _inputs(query, key, value, mask):
    """What kernels are given first: the mask as bools, as numbers, and which of the two it is."""
    nothing = numpy.empty(1, bool), numpy.empty(1, query.dtype)
    keep = mask is not None and mask.dtype == bool
    bias = mask is not None and not keep
    masks = _memory(mask) if keep else nothing[0], _memory(mask) if bias else nothing[1]
    return *map(_memory, (query, key, value)), *masks, keep, bias


def _forwards(x) -> Any:
    """x, or a copy of it where it goes through its memory backwards, or by parts of a number."""
    if x is None or all(stride >= 0 and stride % x.itemsize == 0 for stride in x.strides):
        return x
    return numpy.ascontiguousarray(x)


def _rows(x) -> Any:
    """x, or a copy of it where also the numbers of a row are not beside each other."""
    adjacent = x.shape[-1] < 2 or x.strides[-1] == x.itemsize
    return _forwards(x) if adjacent else numpy.ascontiguousarray(x)


def _empty_like(x, shape):
    """An empty array of this shape whose axes lie in memory in the order of those of x, if they are as many.

    So heads that were cut out of a row for each token are put together to such a row with no copy.
    """
    out = numpy.empty_like(x, shape=shape)
    return out if _rows(out) is out else numpy.empty(shape, x.dtype)


def _memory(x) -> Any:
    """The memory of x, from its first number to its last, as one row."""
    if x.flags.c_contiguous:
        return x
    last = sum((n - 1) * stride for n, stride in zip(x.shape, x.strides, strict=True)) // x.itemsize
    return as_strided(x, (last + 1 if x.size else 0,), (x.itemsize,))


def _places(x):
    """Shape and strides of x, counted in numbers."""
    return None if x is None else (x.shape, tuple([stride // x.itemsize for stride in x.strides]))


@functools.lru_cache(maxsize=256)
def _layout(causal, pieces, batch, *places):
    """What `Layout` of the kernels is: sizes, and where the matrices of each head lie."""
    rows, starts, columns = [], [], []
    for shape, strides in (place or ((), ()) for place in places):
        steps = [0] * (len(batch) + 2 - len(shape))  # where it is broadcast
        steps += [0 if n == 1 else stride for n, stride in zip(shape, strides, strict=True)]
        start = numpy.zeros(1, numpy.int64)
        for n, step in zip(batch, steps[:-2], strict=True):
            start = (start[:, None] + numpy.arange(n) * step).reshape(-1)
        rows.append(steps[-2])
        columns.append(steps[-1])
        starts.append(start)
    none = _ARRAYS - len(places)
    (queries, width), (keys, value_width) = places[0][0][-2:], places[2][0][-2:]
    head = [queries, keys, width, value_width, causal, pieces, columns[3], *rows, *[0] * none]
    starts += [starts[0]] * none
    return numpy.concatenate([head, numpy.stack(starts, axis=-1).reshape(-1)]).astype(numpy.int64)


_ARRAYS = 9
"""How many arrays `Layout` tells of."""

_PREAMBLE = (
    VECTORS
    + """
// A block of scores is HEIGHT queries by LENGTH keys.
enum { HEIGHT = 32, LENGTH = 96 };
enum { QUERY, KEY, VALUE, MASK, OUT, GRAD, QUERY_GRAD, KEY_GRAD, VALUE_GRAD, ARRAYS };

// Where the arrays lie, counted in elements: see `_layout`.
struct Layout {
    int64_t queries, keys, width, value_width, causal, pieces, mask_column;
    int64_t row[ARRAYS];  // how far apart the rows of each array are
    int64_t at[1][ARRAYS];  // where each array begins for each head
};

// Memory for one head, in parts that begin with a cache line.
struct Workspace {
    std::unique_ptr<T[]> memory;
    T* next;

    Workspace(ptrdiff_t size) : memory(new T[size + 64]), next(memory.get()) {
        while (reinterpret_cast<uintptr_t>(next) % 64) ++next;
    }
    T* take(ptrdiff_t size) { T* part = next; next += (size + 15) / 16 * 16; return part; }
};

struct Scores {
    const Layout& its;
    const T *query, *bias;
    const bool* keep;

    // How many of the keys from `j` on, up to a block of them, the queries before `end` may look at.
    ptrdiff_t reach(ptrdiff_t end, ptrdiff_t j) const {
        const ptrdiff_t keys = its.causal ? std::min(its.keys, end) : its.keys;
        return std::min<ptrdiff_t>(LENGTH, keys - j);
    }

    // The scores of the queries from `i` on and the keys from `j` on, `all` of which are packed: -inf where a
    // query may not look at a key, and up to a whole number of vectors.
    void compute(ptrdiff_t i, ptrdiff_t rows, ptrdiff_t j, ptrdiff_t columns, const T* packed, ptrdiff_t all,
                 T* to) const {
        const ptrdiff_t apart = its.row[QUERY], step = its.mask_column;
        V lanes;
        for (int k = 0; k < L; ++k) lanes[k] = k;
        matmul_packed<false>(rows, columns, its.width, query + i * apart, apart, 1, packed, to, LENGTH,
                             its.width, all);
        for (ptrdiff_t r = i; r < i + rows; ++r, to += LENGTH) {
            const ptrdiff_t masked = r * its.row[MASK] + j * step;
            if (bias) for (ptrdiff_t c = 0; c < columns; ++c) to[c] += bias[masked + c * step];
            if (keep) for (ptrdiff_t c = 0; c < columns; ++c) if (!keep[masked + c * step]) to[c] = -INFINITY;
            const ptrdiff_t before = std::min(columns, std::max<ptrdiff_t>(0, r + 1 - j));
            const ptrdiff_t seen = its.causal ? before : columns;
            for (ptrdiff_t c = seen / L * L; c < columns; c += L)
                store(to + c, lanes < T(seen - c) ? load(to + c) : V{} - INFINITY);
        }
    }
};

static inline T sum_of(V v) {
    T x[L];
    store(x, v);
#pragma GCC unroll 8
    for (int half = L / 2; half; half /= 2)
        for (int k = 0; k < half; ++k) x[k] += x[k + half];
    return x[0];
}

static inline T largest_of(V v) {
    T x[L];
    store(x, v);
#pragma GCC unroll 8
    for (int half = L / 2; half; half /= 2)
        for (int k = 0; k < half; ++k) x[k] = x[k] > x[k + half] ? x[k] : x[k + half];
    return x[0];
}

static inline T dot(ptrdiff_t n, const T* a, const T* b) {
    V sums = {};
    ptrdiff_t k = 0;
    for (; k + L <= n; k += L) sums += load(a + k) * load(b + k);
    T sum = sum_of(sums);
    for (; k < n; ++k) sum += a[k] * b[k];
    return sum;
}

static inline void pack_scaled(ptrdiff_t n, ptrdiff_t k, const T* b, ptrdiff_t b_column, T scale, T* to) {
    pack(n, k, b, 1, b_column, to);
    for (ptrdiff_t p = 0; p < packed_size(n, k); ++p) to[p] *= scale;
}
"""
)

_FORWARD = """
const Layout& its = *reinterpret_cast<const Layout*>(layout);
const ptrdiff_t head = i / its.pieces, piece = i % its.pieces, width = its.value_width;
const ptrdiff_t first = its.queries * piece / its.pieces, last = its.queries * (piece + 1) / its.pieces;
const int64_t* at = its.at[head];
const Scores scores{its, query + at[QUERY], has_bias ? bias + at[MASK] : nullptr,
                    has_keep ? keep + at[MASK] : nullptr};
const ptrdiff_t across = packed_size(LENGTH, its.width), along = packed_size(width, LENGTH);
Workspace space(across + along + its.queries + HEIGHT * LENGTH + 64);
T *const keys = space.take(across), *const values = space.take(along);
T* const p = space.take(HEIGHT * LENGTH);
T* const sums = space.take(its.queries);  // of each row so far, relative to its largest score
T* const top = logs + head * its.queries;  // which is here; at the end the logarithm of the whole sum
T* const to = out + at[OUT];

for (ptrdiff_t j = 0, all; (all = scores.reach(last, j)) > 0; j += LENGTH) {
    pack_scaled(all, its.width, key + at[KEY] + j * its.row[KEY], its.row[KEY], scale, keys);
    pack(width, all, value + at[VALUE] + j * its.row[VALUE], its.row[VALUE], 1, values);
    for (ptrdiff_t start = first; start < last; start += HEIGHT) {
        const ptrdiff_t rows = std::min<ptrdiff_t>(HEIGHT, last - start);
        const ptrdiff_t columns = scores.reach(start + rows, j);
        if (columns <= 0) continue;
        scores.compute(start, rows, j, columns, keys, all, p);
        for (ptrdiff_t r = start; r < start + rows; ++r) {
            T* const row = p + (r - start) * LENGTH;
            V most = load(row);
            for (ptrdiff_t c = L; c < columns; c += L) most = load(row + c) > most ? load(row + c) : most;
            T largest = largest_of(most);
            if (j && top[r] > largest) largest = top[r];
            const T base = largest == T(-INFINITY) ? T(0) : largest;
            V total = {};
            for (ptrdiff_t c = 0; c < columns; c += L) {
                for (int k = 0; k < L; ++k) row[c + k] = fast_exp(row[c + k] - base);
                total += load(row + c);
            }
            T sum = sum_of(total);
            if (j) {
                const T shrink = fast_exp(top[r] - base);
                sum += sums[r] * shrink;
                for (ptrdiff_t c = 0; c < width; ++c) to[r * its.row[OUT] + c] *= shrink;
            }
            top[r] = largest;
            sums[r] = sum;
        }
        T* const here = to + start * its.row[OUT];
        if (j) matmul_packed<true>(rows, width, columns, p, LENGTH, 1, values, here, its.row[OUT], all);
        else matmul_packed<false>(rows, width, columns, p, LENGTH, 1, values, here, its.row[OUT], all);
    }
}
for (ptrdiff_t r = first; r < last; ++r) {
    T* const row = to + r * its.row[OUT];
    const bool blind = its.keys == 0 || sums[r] == 0;
    const T factor = T(1) / sums[r];
    for (ptrdiff_t c = 0; c < width; ++c) row[c] = blind ? T(0) : row[c] * factor;
    top[r] = blind ? T(0) : top[r] + log(sums[r]);
}
"""

_BACKWARD = """
const Layout& its = *reinterpret_cast<const Layout*>(layout);
const ptrdiff_t head = i / its.pieces, piece = i % its.pieces;
const ptrdiff_t first = its.keys * piece / its.pieces, last = its.keys * (piece + 1) / its.pieces;
const ptrdiff_t queries = its.queries, width = its.width, value_width = its.value_width;
const int64_t *at = its.at[head], *row = its.row;
const Scores scores{its, query + at[QUERY], has_bias ? bias + at[MASK] : nullptr,
                    has_keep ? keep + at[MASK] : nullptr};
const T *const q = query + at[QUERY], *const g = grad + at[GRAD], *const log_sums = logs + head * queries;
T* const dq = query_grad + at[QUERY_GRAD] + piece * (n / its.pieces) * queries * width;
T *const dk = key_grad + at[KEY_GRAD], *const dv = value_grad + at[VALUE_GRAD];
const ptrdiff_t across = packed_size(LENGTH, width), along = packed_size(width, LENGTH);
Workspace space(across + along + packed_size(LENGTH, value_width) + queries + 2 * HEIGHT * LENGTH + 96);
T *const keys_across = space.take(across), *const keys_along = space.take(along);
T* const values = space.take(packed_size(LENGTH, value_width));
T *const p = space.take(HEIGHT * LENGTH), *const dp = space.take(HEIGHT * LENGTH);
T* const along_out = space.take(queries);  // of each row of g, times that of the result

for (ptrdiff_t r = 0; r < queries; ++r) {
    along_out[r] = dot(value_width, g + r * row[GRAD], out + at[OUT] + r * row[OUT]);
    std::fill_n(dq + r * row[QUERY_GRAD], width, T(0));
}
for (ptrdiff_t r = first; r < last; ++r) {
    std::fill_n(dk + r * row[KEY_GRAD], width, T(0));
    std::fill_n(dv + r * row[VALUE_GRAD], value_width, T(0));
}
for (ptrdiff_t j = first; j < last; j += LENGTH) {
    const ptrdiff_t all = std::min<ptrdiff_t>(LENGTH, last - j);
    const T* const k = key + at[KEY] + j * row[KEY];
    pack_scaled(all, width, k, row[KEY], scale, keys_across);
    pack(width, all, k, row[KEY], 1, keys_along);
    pack(all, value_width, value + at[VALUE] + j * row[VALUE], 1, row[VALUE], values);
    for (ptrdiff_t start = 0; start < queries; start += HEIGHT) {
        const ptrdiff_t rows = std::min<ptrdiff_t>(HEIGHT, queries - start);
        const ptrdiff_t columns = std::min(all, scores.reach(start + rows, j));
        if (columns <= 0) continue;
        const T *const gs = g + start * row[GRAD], *const qs = q + start * row[QUERY];
        scores.compute(start, rows, j, columns, keys_across, all, p);
        matmul_packed<false>(rows, columns, value_width, gs, row[GRAD], 1, values, dp, LENGTH,
                             value_width, all);
        for (ptrdiff_t r = 0; r < rows; ++r) {
            const T log_sum = log_sums[start + r], less = along_out[start + r];
            for (ptrdiff_t c = r * LENGTH; c < r * LENGTH + columns; ++c) {
                p[c] = fast_exp(p[c] - log_sum);
                dp[c] = p[c] * (dp[c] - less) * scale;
            }
        }
        matmul<true>(columns, value_width, rows, p, 1, LENGTH, gs, row[GRAD], 1, dv + j * row[VALUE_GRAD],
                     row[VALUE_GRAD]);
        matmul<true>(columns, width, rows, dp, 1, LENGTH, qs, row[QUERY], 1, dk + j * row[KEY_GRAD],
                     row[KEY_GRAD]);
        matmul_packed<true>(rows, width, columns, dp, LENGTH, 1, keys_along, dq + start * row[QUERY_GRAD],
                            row[QUERY_GRAD], all);
    }
}
"""


@functools.lru_cache(maxsize=64)
def _kernel(text: str, cost: int) -> ElementwiseKernel:
    shared = "raw T query, raw T key, raw T value, raw bool keep, raw T bias, bool has_keep, bool has_bias, "
    shared += "raw int64 layout, T scale"
    ins, outs = {
        _FORWARD: ("", "raw T out, raw T logs"),
        _BACKWARD: (
            ", raw T out, raw T logs, raw T grad",
            "raw T query_grad, raw T key_grad, raw T value_grad",
        ),
    }[text]
    name = "attention" if text is _FORWARD else "attention_gradients"
    return ElementwiseKernel(shared + ins, outs, text, name, preamble=_PREAMBLE, cost=cost, block=1)
