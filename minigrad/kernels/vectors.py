"""C++ for the preambles of kernels: elementary functions that vectorise, and a product of matrices.

`FUNCTIONS` is for both machines. On a CPU a loop over the library's `exp` is done one element at a time; one
over `fast_exp`, which has no branches and no calls, sixteen at a time where the processor has AVX-512. They
are for float within 2 ulps (`normal_cdf` within 2 ulps of 1), and for double the library's own. The
coefficients are minimax polynomials, fitted by Lawson's algorithm.

`VECTORS` is for CPUs alone, and for kernels whose type is `T`: vectors `V` of `L` elements, with which
arithmetic is done as with numbers (an extension of GCC and clang, for any processor), and `matmul`.
"""

FUNCTIONS = """
#ifdef __CUDACC__
#define fast_exp exp
#define fast_tanh tanh
#define normal_cdf(x, bell) normcdf(x)
#else

static inline float _from_bits(int32_t bits) { float x; __builtin_memcpy(&x, &bits, 4); return x; }

// 2^n e^r for |r| <= log(2)/2. The scale is applied in two steps: 2^128 and 2^-149 are no normal floats.
static inline float fast_exp(float x) {
    float y = x < -104.0f ? -104.0f : x;
    y = y > 89.0f ? 89.0f : y;
    const float n = nearbyint(y * 1.44269504088896341f);
    const float r = (y - n * 0.693145751953125f) - n * 1.42860677e-6f;
    float p = 1.381459878757596e-3f;
    p = p * r + 8.368716575205326e-3f;
    p = p * r + 4.166838899254799e-2f;
    p = p * r + 1.666652113199234e-1f;
    p = p * r + 0.4999999403953552f;
    p = p * r * r + r + 1.0f;
    const int32_t whole = static_cast<int32_t>(n), half = whole >> 1;
    return p * _from_bits((half + 127) << 23) * _from_bits((whole - half + 127) << 23);
}

static inline float fast_tanh(float x) {
    const float size = fabs(x), s = x * x;
    float p = -5.439410451799631e-3f;
    p = p * s + 2.0397938787937164e-2f;
    p = p * s - 5.366504192352295e-2f;
    p = p * s + 1.3330543041229248e-1f;
    p = p * s - 3.3333247900009155e-1f;
    const float near = size + size * s * p;
    const float far = 1.0f - 2.0f / (fast_exp(size + size) + 1.0f);
    return copysign(size < 0.65f ? near : far, x);
}

// The normal distribution function of x, given e^(-x²/2): times that, a polynomial in 1 / (1 + 0.27 |x|) is
// the part of the distribution that lies beyond |x|.
static inline float normal_cdf(float x, float bell) {
    const float t = 1.0f / (1.0f + fabs(x) * 0.2651650309562683f);
    float p = 0.030769191682338715f;
    p = p * t - 0.14366459846496582f;
    p = p * t + 0.21619842946529388f;
    p = p * t - 0.11470571160316467f;
    p = p * t + 0.13686171174049377f;
    p = p * t + 0.06075273081660271f;
    p = p * t + 0.10265668481588364f;
    p = p * t + 0.10532483458518982f;
    p = p * t + 0.10580673813819885f;
    const float beyond = p * t * bell;
    return x < 0 ? beyond : 1.0f - beyond;
}

static inline double fast_exp(double x) { return exp(x); }
static inline double fast_tanh(double x) { return tanh(x); }
static inline double normal_cdf(double x, double) { return 0.5 * erfc(x * -0.70710678118654752440); }
#endif

template <typename A> static __forceinline__ __device__ A sigmoid(A x) {
    const A e = fast_exp(x < 0 ? x : -x);  // which cannot overflow
    return (x < 0 ? e : A(1)) / (A(1) + e);
}
"""

VECTORS = (
    FUNCTIONS
    + """
#if defined(__AVX512F__)
enum { BYTES = 64, ROWS = 8, WIDE = 3 };  // what the registers hold of a result: 8 rows of 3 vectors
#elif defined(__AVX__)
enum { BYTES = 32, ROWS = 6, WIDE = 2 };
#else
enum { BYTES = 16, ROWS = 4, WIDE = 2 };
#endif
typedef T V __attribute__((vector_size(BYTES)));
enum { L = BYTES / sizeof(T), PANEL = WIDE * L, DEPTH = 256 };  // a panel of B stays in the nearest cache

static inline V load(const T* p) { V v; __builtin_memcpy(&v, p, sizeof v); return v; }
static inline void store(T* p, V v) { __builtin_memcpy(p, &v, sizeof v); }

// B[k][n] in the order in which `matmul_packed` reads it: panels of WIDE vectors, and a last one of as many
// as it takes, the last of which is filled up with 0.
static inline ptrdiff_t packed_size(ptrdiff_t n, ptrdiff_t k) { return (n + L - 1) / L * L * k; }

static inline ptrdiff_t panel_vectors(ptrdiff_t n) {
    return std::min<ptrdiff_t>(WIDE, (n + L - 1) / L);
}

static inline void pack(ptrdiff_t n, ptrdiff_t k, const T* b, ptrdiff_t b_row, ptrdiff_t b_column, T* out) {
    for (ptrdiff_t j = 0, panel; j < n; j += panel) {
        panel = panel_vectors(n - j) * L;
        const ptrdiff_t width = std::min(panel, n - j);
        const T* from = b + j * b_column;
        if (b_column == 1)
            for (ptrdiff_t p = 0; p < k; ++p) for (ptrdiff_t c = 0; c < width; ++c)
                out[p * panel + c] = from[p * b_row + c];
        else  // along the columns, which may lie in one piece
            for (ptrdiff_t c = 0; c < width; ++c) for (ptrdiff_t p = 0; p < k; ++p)
                out[p * panel + c] = from[p * b_row + c * b_column];
        for (ptrdiff_t p = 0; p < k; ++p, out += panel)
            for (ptrdiff_t c = width; c < panel; ++c) out[c] = 0;
    }
}

template <bool add, int M, int W>
static inline void _tile(ptrdiff_t k, const T* a, ptrdiff_t a_row, ptrdiff_t a_column, const T* b,
                         T* c, ptrdiff_t c_row, ptrdiff_t width) {
    V sum[M][W] = {};
    for (ptrdiff_t p = 0; p < k; ++p) {
        V line[W];
#pragma GCC unroll 8
        for (int w = 0; w < W; ++w) line[w] = load(b + (p * W + w) * L);
#pragma GCC unroll 8
        for (int r = 0; r < M; ++r) {
            const T x = a[r * a_row + p * a_column];
#pragma GCC unroll 8
            for (int w = 0; w < W; ++w) sum[r][w] += x * line[w];
        }
    }
    const bool full = width == W * L;
    for (int r = 0; r < M; ++r, c += c_row) {
        T rest[W * L];
        T* to = full ? c : rest;
        if (add && !full) for (ptrdiff_t j = 0; j < width; ++j) rest[j] = c[j];
#pragma GCC unroll 8
        for (int w = 0; w < W; ++w) store(to + w * L, add ? load(to + w * L) + sum[r][w] : sum[r][w]);
        if (!full) for (ptrdiff_t j = 0; j < width; ++j) c[j] = rest[j];
    }
}

template <bool add, int M, int W>
static inline void _tiles(ptrdiff_t m, ptrdiff_t k, const T* a, ptrdiff_t a_row, ptrdiff_t a_column,
                          const T* b, T* c, ptrdiff_t c_row, ptrdiff_t width) {
    for (; m >= M; m -= M, a += M * a_row, c += M * c_row)
        _tile<add, M, W>(k, a, a_row, a_column, b, c, c_row, width);
    if constexpr (M > 1) if (m) _tiles<add, M - 1, W>(m, k, a, a_row, a_column, b, c, c_row, width);
}

// The columns of C that belong to one panel, of W vectors or fewer.
template <bool add, int W = WIDE>
static inline void _panel(ptrdiff_t vectors, ptrdiff_t m, ptrdiff_t k, const T* a, ptrdiff_t a_row,
                          ptrdiff_t a_column, const T* b, T* c, ptrdiff_t c_row, ptrdiff_t width) {
    if constexpr (W > 1) if (vectors < W) {
        _panel<add, W - 1>(vectors, m, k, a, a_row, a_column, b, c, c_row, width);
        return;
    }
    _tiles<add, ROWS, W>(m, k, a, a_row, a_column, b, c, c_row, width);
}

// C[m][n] = A[m][k] B[k][n], or with `add` C += A B, on one thread; A has any strides, the rows of C lie
// c_row apart, and B is packed; it may be the upper left part of what was packed, of so many rows and
// columns.
template <bool add>
static inline void matmul_packed(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const T* a, ptrdiff_t a_row,
                                 ptrdiff_t a_column, const T* b, T* c, ptrdiff_t c_row,
                                 ptrdiff_t packed_k = 0, ptrdiff_t packed_n = 0) {
    for (ptrdiff_t j = 0; j < n;) {
        const ptrdiff_t vectors = panel_vectors(std::max(n, packed_n) - j);
        _panel<add>(vectors, m, k, a, a_row, a_column, b, c + j, c_row, std::min(vectors * L, n - j));
        b += std::max(k, packed_k) * vectors * L;
        j += vectors * L;
    }
}

// The same for a B of any strides, which is packed piece by piece.
template <bool add>
static inline void matmul(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const T* a, ptrdiff_t a_row,
                          ptrdiff_t a_column, const T* b, ptrdiff_t b_row, ptrdiff_t b_column, T* c,
                          ptrdiff_t c_row) {
    alignas(BYTES) T packed[DEPTH * PANEL];
    for (ptrdiff_t j = 0, vectors; j < n; j += vectors * L) {
        vectors = panel_vectors(n - j);
        const ptrdiff_t width = std::min(vectors * L, n - j);
        ptrdiff_t p = 0;
        do {
            const ptrdiff_t depth = std::min<ptrdiff_t>(DEPTH, k - p);
            pack(width, depth, b + p * b_row + j * b_column, b_row, b_column, packed);
            const T* from = a + p * a_column;
            if (add || p) _panel<true>(vectors, m, depth, from, a_row, a_column, packed, c + j, c_row, width);
            else _panel<false>(vectors, m, depth, from, a_row, a_column, packed, c + j, c_row, width);
            p += DEPTH;
        } while (p < k);
    }
}
"""
)
