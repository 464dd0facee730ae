"""Recurrent nets over whole sequences, on a CPU: loops in C++ in which threads share the batch.

The sequences of a batch know nothing of each other, so a part is a few of them, taken through all steps:
for each step the products with both weights, and the gates of what they give. The way back is the same loop
from the end, which leaves the gradients of the gates; those of the weights are then two products over all
steps.
"""

import functools
from typing import Any

import numpy

from ..kernels import ElementwiseKernel
from ..kernels.vectors import VECTORS

GATES = {"tanh": 1, "relu": 1, "gru": 3, "lstm": 4}
"""The cells, and how many gates each has: so many times as long as a state are its products."""

ROWS = 8
"""How many sequences of a batch are taken through the steps together."""

_WEIGHT_PARTS = 4
"""In how many parts the weights' gradients are computed."""

# --- the cells -----------------------------------------------------------------------------------------

# Each pointer of its own, and so free of overlap, is what the compiler needs to make vectors of the loops.
_CELLS = """
#define ROW static inline void
#define IN const T* __restrict
#define OUT T* __restrict

ROW tanh_row(ptrdiff_t n, IN z, IN bias, OUT h) {
    for (ptrdiff_t j = 0; j < n; ++j) h[j] = fast_tanh(z[j] + bias[j]);
}

ROW relu_row(ptrdiff_t n, IN z, IN bias, OUT h) {
    for (ptrdiff_t j = 0; j < n; ++j) { const T y = z[j] + bias[j]; h[j] = y < 0 ? T(0) : y; }
}

ROW gru_row(ptrdiff_t n, OUT r, OUT z, OUT u, IN from_r, IN from_z, IN from_u, IN bias_r, IN bias_z,
            IN bias_u, IN bias_v, IN before, OUT v, OUT h) {
    for (ptrdiff_t j = 0; j < n; ++j) {
        r[j] = sigmoid(r[j] + from_r[j] + bias_r[j]);
        z[j] = sigmoid(z[j] + from_z[j] + bias_z[j]);
        v[j] = from_u[j] + bias_v[j];
        u[j] = fast_tanh(u[j] + bias_u[j] + r[j] * v[j]);
        h[j] = u[j] + z[j] * (before[j] - u[j]);
    }
}

ROW lstm_row(ptrdiff_t n, OUT i, OUT f, OUT g, OUT o, IN bias_i, IN bias_f, IN bias_g, IN bias_o,
             IN before, OUT c, OUT h) {
    for (ptrdiff_t j = 0; j < n; ++j) {
        i[j] = sigmoid(i[j] + bias_i[j]);
        f[j] = sigmoid(f[j] + bias_f[j]);
        g[j] = fast_tanh(g[j] + bias_g[j]);
        o[j] = sigmoid(o[j] + bias_o[j]);
        c[j] = f[j] * before[j] + i[j] * g[j];
        h[j] = o[j] * fast_tanh(c[j]);
    }
}

// On the way back dh is the gradient of the state that comes from the step behind this one.

ROW tanh_back(ptrdiff_t n, IN out, IN g, IN dh, OUT d) {
    for (ptrdiff_t j = 0; j < n; ++j) d[j] = (g[j] + dh[j]) * (1 - out[j] * out[j]);
}

ROW relu_back(ptrdiff_t n, IN out, IN g, IN dh, OUT d) {
    for (ptrdiff_t j = 0; j < n; ++j) d[j] = out[j] <= 0 ? T(0) : g[j] + dh[j];
}

ROW gru_back(ptrdiff_t n, IN r, IN z, IN u, IN v, IN before, IN g, OUT dh, OUT dr, OUT dz, OUT du,
             OUT er, OUT ez, OUT ev) {
    for (ptrdiff_t j = 0; j < n; ++j) {
        const T e = g[j] + dh[j], a = e * (1 - z[j]) * (1 - u[j] * u[j]);
        du[j] = a;
        ev[j] = a * r[j];
        dr[j] = er[j] = a * v[j] * r[j] * (1 - r[j]);
        dz[j] = ez[j] = e * (before[j] - u[j]) * z[j] * (1 - z[j]);
        dh[j] = e * z[j];
    }
}

ROW lstm_back(ptrdiff_t n, IN i, IN f, IN g, IN o, IN before, IN c, IN dout, IN dh, OUT dc,
              OUT di, OUT df, OUT dg, OUT do_) {
    for (ptrdiff_t j = 0; j < n; ++j) {
        const T y = fast_tanh(c[j]), e = dout[j] + dh[j], a = dc[j] + e * o[j] * (1 - y * y);
        di[j] = a * g[j] * i[j] * (1 - i[j]);
        df[j] = a * before[j] * f[j] * (1 - f[j]);
        dg[j] = a * i[j] * (1 - g[j] * g[j]);
        do_[j] = e * y * o[j] * (1 - o[j]);
        dc[j] = a * f[j];
    }
}

ROW add_row(ptrdiff_t n, IN x, OUT sum) {
    for (ptrdiff_t j = 0; j < n; ++j) sum[j] += x[j];
}
"""

_FORWARD = {
    "plain": """
matmul_packed<true>(count, W, H, h, H, 1, weight_hh, z, W);
for (ptrdiff_t r = 0; r < count; ++r) CELL_row(H, z + r * H, bias, now + r * H);
""",
    "gru": """
matmul_packed<false>(count, W, H, h, H, 1, weight_hh, from_h.data(), W);
for (ptrdiff_t r = 0; r < count; ++r) {
    T* a = z + r * W;
    const T* b = from_h.data() + r * W;
    gru_row(H, a, a + H, a + 2 * H, b, b + H, b + 2 * H, bias, bias + H, bias + 2 * H, bias + 3 * H,
            h + r * H, kept + (row + r) * H, now + r * H);
}
""",
    "lstm": """
matmul_packed<true>(count, W, H, h, H, 1, weight_hh, z, W);
const T* c = s ? kept + behind * H : begin_c + first * H;
for (ptrdiff_t r = 0; r < count; ++r) {
    T* a = z + r * W;
    lstm_row(H, a, a + H, a + 2 * H, a + 3 * H, bias, bias + H, bias + 2 * H, bias + 3 * H,
             c + r * H, kept + (row + r) * H, now + r * H);
}
if (s == steps - 1) std::copy_n(kept + row * H, count * H, out + (steps * batch + first) * H);
""",
}

_BACKWARD = {
    "plain": """
for (ptrdiff_t r = 0; r < count; ++r)
    CELL_back(H, now + r * H, g_now + r * H, dh + r * H, d + r * H);
""",
    "gru": """
for (ptrdiff_t r = 0; r < count; ++r) {
    const T* a = gates + (row + r) * W;
    T *to = d + r * W, *too = e + r * W;
    gru_back(H, a, a + H, a + 2 * H, kept + (row + r) * H, h + r * H, g_now + r * H, dh + r * H,
             to, to + H, to + 2 * H, too, too + H, too + 2 * H);
}
""",
    "lstm": """
const T* c = s ? kept + behind * H : begin_c + first * H;
for (ptrdiff_t r = 0; r < count; ++r) {
    const T* a = gates + (row + r) * W;
    T* to = d + r * W;
    lstm_back(H, a, a + H, a + 2 * H, a + 3 * H, c + r * H, kept + (row + r) * H, g_now + r * H,
              dh + r * H, dc + (first + r) * H, to, to + H, to + 2 * H, to + 3 * H);
}
""",
}

for _name in ("tanh", "relu"):
    for _texts in (_FORWARD, _BACKWARD):
        _texts[_name] = _texts["plain"].replace("CELL", _name)

_SIZES = "int64 steps, int64 batch, int64 inputs, int64 H, int64 rows, bool reverse"

# Of a part: its first sequence and how many; of step s: which time it is, where its rows begin, and where
# those of the time before it do, by the direction.
_PART = "const ptrdiff_t W = {gates} * H, first = i * rows, count = min<ptrdiff_t>(rows, batch - first);"
_STEP = """
const ptrdiff_t t = reverse ? steps - 1 - s : s, row = t * batch + first;
const ptrdiff_t behind = row + (reverse ? batch : -batch);
const T* h = s ? out + behind * H : begin + first * H;
"""


@functools.cache
def _forward(cell: str) -> ElementwiseKernel:
    """The loop over the steps: it leaves the gates, what else the cell keeps, and the states."""
    part = _PART.format(gates=GATES[cell])
    return ElementwiseKernel(
        f"raw T x, raw T begin, raw T begin_c, raw T weight_ih, raw T weight_hh, raw T bias, {_SIZES}",
        "raw T gates, raw T kept, raw T out",
        f"""{part}
        std::vector<T> from_h({"count * W" if cell == "gru" else 0});
        for (ptrdiff_t s = 0; s < steps; ++s) {{
            {_STEP}
            T *z = gates + row * W, *now = out + row * H;
            matmul_packed<false>(count, W, inputs, x + row * inputs, inputs, 1, weight_ih, z, W);
            {_FORWARD[cell]}
        }}""",
        f"{cell}_forward",
        preamble=VECTORS + _CELLS,
        cost=16,
        block=1,
    )


@functools.cache
def _backward(cell: str) -> ElementwiseKernel:
    """The way back: it leaves the gradients of the products, and those of what came in."""
    part = _PART.format(gates=GATES[cell])
    gru = cell == "gru"
    return ElementwiseKernel(
        "raw T g, raw T begin, raw T begin_c, raw T weight_ih, raw T weight_hh, raw T gates, raw T kept, "
        f"raw T out, {_SIZES}, bool by_input",
        "raw T dx, raw T dh0, raw T dc, raw T dgates, raw T dhidden, raw T dbias",
        f"""{part}
        T* dh = dh0 + first * H;
        T* db = dbias + i * W * {1 + gru};
        for (ptrdiff_t s = steps - 1; s >= 0; --s) {{
            {_STEP}
            const T *now = out + row * H, *g_now = g + row * H;
            T *d = dgates + row * W, *e = {"dhidden + row * W" if gru else "d"};
            (void)now, (void)h;
            {_BACKWARD[cell]}
            for (ptrdiff_t r = 0; r < count; ++r) {{
                add_row(W, d + r * W, db);
                {"add_row(W, e + r * W, db + W);" if gru else ""}
            }}
            matmul_packed<{"true" if gru else "false"}>(count, H, W, e, W, 1, weight_hh, dh, H);
            if (by_input)
                matmul_packed<false>(count, inputs, W, d, W, 1, weight_ih, dx + row * inputs, inputs);
        }}""",
        f"{cell}_backward",
        preamble=VECTORS + _CELLS,
        cost=16,
        block=1,
    )


@functools.cache
def _packing() -> ElementwiseKernel:
    """A matrix [k][n] in the order in which products read it; a part is a panel of it."""
    return ElementwiseKernel(
        "raw T b, int64 columns, int64 k, int64 row, int64 column",
        "raw T packed",
        """const ptrdiff_t j = i * PANEL;
        if (j < columns)
            pack(min<ptrdiff_t>(PANEL, columns - j), k, b + j * column, row, column, packed + j * k);""",
        "pack_matrix",
        preamble=VECTORS,
        cost=32,
        block=1,
    )


@functools.cache
def _by_weights() -> ElementwiseKernel:
    """The gradients of both weights; a part is some of their rows."""
    return ElementwiseKernel(
        "raw T x, raw T begin, raw T out, raw T dgates, raw T dhidden, int64 W, " + _SIZES,
        "raw T dweight_ih, raw T dweight_hh",
        """const ptrdiff_t first = i * rows, count = min<ptrdiff_t>(rows, W - first);
        const ptrdiff_t all = steps * batch, later = all - batch;
        const T* d = dgates + first;
        const T* e = dhidden + first;
        matmul<false>(count, inputs, all, d, 1, W, x, inputs, 1, dweight_ih + first * inputs, inputs);
        // That of a step's gates goes with the state before it: but for the first step's these are in `out`.
        T* to = dweight_hh + first * H;
        const T* states = out + (reverse ? batch * H : 0);
        matmul<false>(count, H, batch, e + (reverse ? later * W : 0), 1, W, begin, H, 1, to, H);
        matmul<true>(count, H, later, e + (reverse ? 0 : batch * W), 1, W, states, H, 1, to, H);""",
        "recurrence_by_weights",
        preamble=VECTORS,
        cost=32,
        block=1,
    )


# --- both ways -----------------------------------------------------------------------------------------


def _aligned(size: int, dtype: Any) -> Any:
    """Memory that begins where a vector does: a load across that border takes twice as long."""
    memory = numpy.empty(size + 64, dtype)
    start = -memory.ctypes.data % 64 // memory.itemsize
    return memory[start : start + size]


def _packed(matrix: Any) -> Any:
    k, n = matrix.shape
    out = _aligned(k * (n + 64), matrix.dtype)  # a panel is no wider than that
    row, column = (stride // matrix.itemsize for stride in matrix.strides)
    base = matrix if matrix.flags.c_contiguous else matrix.T
    _packing()(base, n, k, row, column, out, size=n)
    return out


def forward(
    cell: str,
    x: Any,
    h: Any,
    c: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any,
    bias_hh: Any,
    reverse: bool,
) -> tuple[Any, tuple[Any, Any]]:
    """The states, with the last c of an LSTM behind them; and what `backward` needs beside them.

    The arrays are NumPy's, all float32 or all float64; see `minigrad.ops.recurrence.recurrence`.
    """
    x, h, weight_ih, weight_hh = map(numpy.ascontiguousarray, (x, h, weight_ih, weight_hh))
    steps, batch, inputs = x.shape
    hidden = h.shape[1]
    width = GATES[cell] * hidden
    bias_ih, bias_hh = (numpy.zeros(width, x.dtype) if b is None else b for b in (bias_ih, bias_hh))
    bias = bias_ih + bias_hh
    if cell == "gru":  # of whose last gate the two are apart
        bias = numpy.concatenate([bias[: 2 * hidden], bias_ih[2 * hidden :], bias_hh[2 * hidden :]])
    gates = numpy.empty((steps, batch, width), x.dtype)
    kept = numpy.empty((steps, batch, hidden) if cell in ("gru", "lstm") else 0, x.dtype)
    out = numpy.empty((steps + (cell == "lstm"), batch, hidden), x.dtype)
    given = x, h, h if c is None else numpy.ascontiguousarray(c)
    weights = _packed(weight_ih.T), _packed(weight_hh.T), bias
    sizes = steps, batch, inputs, hidden, ROWS, reverse
    _forward(cell)(*given, *weights, *sizes, gates, kept, out, size=-(-batch // ROWS))
    return out, (gates if cell in ("gru", "lstm") else kept, kept)


def backward(
    cell: str, g: Any, inputs: dict[str, Any], reverse: bool, out: Any, kept: Any, wanted: tuple[str, ...]
) -> dict[str, Any]:
    """The gradients of the `inputs` that are `wanted`, by name; g is that of the states and the last c."""
    g, x, h, weight_ih, weight_hh = map(
        numpy.ascontiguousarray, (g, *(inputs[name] for name in ("x", "h", "weight_ih", "weight_hh")))
    )
    begin = h, h if inputs["c"] is None else numpy.ascontiguousarray(inputs["c"])
    steps, batch, size = x.shape
    hidden = h.shape[1]
    width, parts = GATES[cell] * hidden, -(-batch // ROWS)
    gru, by_input = cell == "gru", "x" in wanted
    none = numpy.empty(0, x.dtype)
    dx = numpy.empty_like(x) if by_input else none
    dh = numpy.zeros_like(h)
    dc = g[steps].copy() if cell == "lstm" else none
    dgates = numpy.empty((steps, batch, width), x.dtype)
    dhidden = numpy.empty_like(dgates) if gru else none
    dbias = numpy.zeros((parts, 1 + gru, width), x.dtype)
    weights = _packed(weight_ih) if by_input else none, _packed(weight_hh)
    sizes = steps, batch, size, hidden
    results = dx, dh, dc, dgates, dhidden, dbias
    _backward(cell)(g, *begin, *weights, *kept, out, *sizes, ROWS, reverse, by_input, *results, size=parts)
    gradients = {"x": dx, "h": dh, "c": dc}
    if "weight_ih" in wanted or "weight_hh" in wanted:
        by_weights = numpy.empty_like(weight_ih), numpy.empty_like(weight_hh)
        products = dgates, dhidden if gru else dgates
        rows = -(-width // _WEIGHT_PARTS)
        _by_weights()(x, h, out, *products, width, *sizes, rows, reverse, *by_weights, size=_WEIGHT_PARTS)
        gradients |= zip(("weight_ih", "weight_hh"), by_weights, strict=True)
    sums = dbias.sum(axis=0)
    gradients |= {"bias_ih": sums[0], "bias_hh": sums[-1]}
    return {name: gradients[name] for name in wanted}
