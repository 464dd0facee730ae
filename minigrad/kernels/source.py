"""The C++ around a kernel's text: what CuPy generates for a GPU, for the cores of a CPU.

The text is put into a loop over the elements. The loop is compiled for one set of dtypes, and called
with one packed block of bytes: how many elements and threads there are, where the arrays lie, and the
scalars. A Python call with twenty arguments would cost more than the loop over a small net.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy

from .threads import SHARING


class Param(NamedTuple):
    """A parameter as declared in `in_params` or `out_params`: `"raw T x"`, `"float32 lr"`, `"T y"`."""

    name: str
    type: str
    raw: bool
    out: bool

    @property
    def placeholder(self) -> bool:
        """Whether its type is one letter, which stands for the dtype of the array that it meets."""
        return len(self.type) == 1


def parse(declarations: str, out: bool, kernel: str) -> list[Param]:
    """The parameters in a text like `"T x, raw float32 y"`. Raises `ValueError` for what is none."""
    params = []
    for text in filter(str.strip, declarations.split(",")):
        words = text.split()
        raw = words[0] == "raw"
        known = len(words) == 2 + raw and (len(words[-2]) == 1 or words[-2] in TYPES)
        known = known and words[-2].isalpha() | (words[-2] in TYPES) and words[-2] not in ("i", "n")
        if not known or not words[-1].isidentifier() or words[-1] in ("i", "n") or words[-1][0] == "_":
            raise ValueError(
                f"{kernel}: cannot read the parameter {text.strip()!r}: expected '[raw] type name', the type "
                f"one letter or one of {', '.join(TYPES)}, and the name not i, n or one that begins with _"
            )
        params.append(Param(words[-1], words[-2], raw, out))
    return params


class Type(NamedTuple):
    """A dtype in C++, and in Python's `struct` module."""

    cpp: str
    code: str


TYPES = {
    "bool": Type("bool", "?"),
    "int8": Type("int8_t", "b"),
    "uint8": Type("uint8_t", "B"),
    "int16": Type("int16_t", "h"),
    "uint16": Type("uint16_t", "H"),
    "int32": Type("int32_t", "i"),
    "uint32": Type("uint32_t", "I"),
    "int64": Type("int64_t", "q"),
    "uint64": Type("uint64_t", "Q"),
    "float16": Type("float16", "f"),  # as a scalar it comes in float32
    "float32": Type("float", "f"),
    "float64": Type("double", "d"),
}

FIELDS = {"scalar": "", "array": "P", "raw": "Pn"}
"""The order in which arguments of these forms stand in a call's block, and their codes in `struct`."""

SOUND, WRITABLE = 0x101, 0x501
"""NumPy's flags for an array that is in C order (1) and aligned (0x100); and also writable (0x400)."""

BLOCK = 1 << 14
"""How many elements are done at a time, by a thread or by the reference: so that all stays in a cache."""

DTYPES = {numpy.dtype(name): name for name in TYPES}


class Kind(NamedTuple):
    """What was given for a parameter in a call: `form` is 'scalar', 'array', 'raw' or 'pieces'."""

    form: str
    dtype: Any  # a NumPy dtype


# Not all of std: a text may have a `data` or a `clamp` of its own.
_MATH = "\n".join(
    f"using std::{name};"
    for name in [
        "abs",
        "acos",
        "acosh",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "cbrt",
        "ceil",
        "copysign",
        "cos",
        "cosh",
        "erf",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "fabs",
        "floor",
        "fma",
        "fmax",
        "fmin",
        "fmod",
        "hypot",
        "isfinite",
        "isinf",
        "isnan",
        "ldexp",
        "lgamma",
        "log",
        "log10",
        "log1p",
        "log2",
        "max",
        "min",
        "nearbyint",
        "pow",
        "remainder",
        "rint",
        "round",
        "sin",
        "sinh",
        "sqrt",
        "tan",
        "tanh",
        "tgamma",
        "trunc",
    ]
)

# A float16 is stored in 2 bytes and computed with as a float, as CuPy's is.
# An array comes as the address of its array object, which is read as NumPy's ABI lays it down
# (PyArrayObject_fields): Python's own ways to ask for the address of its data take as long as the loop
# over a thousand elements.
PRELUDE = (
    """
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <pthread.h>
#include <thread>
#include <vector>

MATH
#define __device__
#define __host__
#define __forceinline__ inline

#ifdef __FLT16_MANT_DIG__
struct float16 {
    _Float16 value;
    float16() = default;
    float16(float x) : value(static_cast<_Float16>(x)) {}
    operator float() const { return static_cast<float>(value); }
    float16& operator+=(float x) { return *this = float16(*this + x); }
    float16& operator-=(float x) { return *this = float16(*this - x); }
    float16& operator*=(float x) { return *this = float16(*this * x); }
    float16& operator/=(float x) { return *this = float16(*this / x); }
};
#endif

static inline float rsqrt(float x) { return 1 / sqrt(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }

struct _Array {
    char header[OFFSET];
    char* data;
    int axes;
    const ptrdiff_t *shape, *strides;
    const void *base, *dtype;
    int flags;
};

static inline const _Array& _array(const void* object) { return *static_cast<const _Array*>(object); }

template <typename _T> static inline _T* _data(const void* object) {
    return reinterpret_cast<_T*>(_array(object).data);
}

// Whether it is as it must be: of this dtype and size, in C order, aligned.
static inline bool _plain(const void* object, const void* dtype, ptrdiff_t size) {
    const _Array& array = _array(object);
    ptrdiff_t elements = 1;
    for (int axis = 0; axis < array.axes; ++axis) elements *= array.shape[axis];
    return array.dtype == dtype && (array.flags & SOUND) == SOUND && elements == size;
}

struct _Range { const char *begin, *end; };

template <typename _T> static inline _Range _memory(const void* object, ptrdiff_t size) {
    const char* data = _data<const char>(object);
    return {data, data + size * sizeof(_T)};
}

static inline bool _overlap(_Range a, _Range b) { return a.begin < b.end && b.begin < a.end; }
""".replace("OFFSET", str(object.__basicsize__))
    .replace("SOUND", str(SOUND))
    .replace("MATH", _MATH)
)

HALF = PRELUDE + 'extern "C" int run_half(const char*) { return float16(0) != 0; }'
"""A source that shows whether the compiler has a 16-bit type."""

TEMPLATE = """
namespace {{

struct _Call {{
    ptrdiff_t _n, _threads, _starts;
    _Pool* _pool;
    {dtypes}
    {fields}
    ptrdiff_t _count;  // of pieces; their addresses and where each one stops come behind this block
}};

void _range(const _Call& _call, ptrdiff_t _begin, ptrdiff_t _end) {{
    const ptrdiff_t n = _call._n;
    const void* const* _tables = reinterpret_cast<const void* const*>(&_call + 1);
    const ptrdiff_t* _stops = reinterpret_cast<const ptrdiff_t*>(_tables + {lists} * _call._count);
    (void)n, (void)_stops;
    {unpack}
#line 1 "{name}, loop_prep"
{loop_prep}
    ;
    {open_pieces}
        for (ptrdiff_t i = _begin; i < _stop; ++i) {{
            {bind}
            // In a function, for `return`, and in a loop of one round, for `continue`.
            [&] {{ for (bool _once = true; _once; _once = false) {{
#line 1 "{name}, operation"
{operation}
            ;}} }}();
        }}
    {close_pieces}
#line 1 "{name}, after_loop"
{after_loop}
    ;
}}

// 1 where an input overlaps an output, 2 where two outputs overlap, 3 where an array is not plain.
int _problem(const _Call& _call) {{
    const void* const* _tables = reinterpret_cast<const void* const*>(&_call + 1);
    const ptrdiff_t* _stops = reinterpret_cast<const ptrdiff_t*>(_tables + {lists} * _call._count);
    (void)_stops;
    std::vector<_Range> _ins, _outs;
    {checks}
    for (size_t a = 0; a < _outs.size(); ++a) {{
        for (size_t b = 0; b < a; ++b) if (_overlap(_outs[a], _outs[b])) return 2;
        for (_Range in : _ins) if (_overlap(_outs[a], in)) return 1;
    }}
    return 0;
}}

void _block(const void* call, ptrdiff_t block) {{
    const _Call& _call = *static_cast<const _Call*>(call);
    _range(_call, block * {block}, std::min(_call._n, (block + 1) * {block}));
}}

}}

// With `only` 1 it looks for problems and does nothing; with 2 it runs, and does not look.
extern "C" int run_{name}(const _Call* call, int only) noexcept try {{
    if (only < 2) if (int problem = _problem(*call)) return problem;
    if (only == 1) return 0;
    const ptrdiff_t blocks = (call->_n + {block} - 1) / {block};
    if (call->_threads > 1 && blocks > 1) {{
        _together(call, _block, blocks, call->_threads, call->_starts, call->_pool);
    }} else {{
        _range(*call, 0, call->_n);
    }}
    return 0;
}} catch (...) {{
    return 4;  // no memory
}}
"""


def generate(kernel: Any, kinds: Sequence[Kind]) -> str:
    """The C++ source of `kernel` for arguments of these kinds, one for each of its parameters."""
    types = [TYPES[DTYPES[kind.dtype]].cpp for kind in kinds]
    typedefs = {p.type: cpp for p, cpp in zip(kernel.params, types, strict=True) if p.placeholder}
    unpack, pieces, bind, checks = [], [], [], []
    fields: dict[str, list[str]] = {form: [] for form in FIELDS}
    for p, kind, cpp in zip(kernel.params, kinds, types, strict=True):
        t = cpp if p.out else f"const {cpp}"
        if kind.form == "scalar":
            fields["scalar"].append(f"{'float' if cpp == 'float16' else cpp} {p.name};")
            unpack.append(f"{t} {p.name} = _call.{p.name};")
            continue
        lookup = f"_data<{cpp}>(_call.{p.name})"
        check = f"if (!_plain({{0}}, _call._{p.type}, {{1}})) return 3; "
        check += f"{'_outs' if p.out else '_ins'}.push_back(_memory<{cpp}>({{0}}, {{1}}));"
        if kind.form == "raw":
            fields["raw"].append(f"const void* {p.name}; ptrdiff_t _size_{p.name};")
            unpack.append(f"{t}* __restrict {p.name} = {lookup};")
            checks.append(check.format(f"_call.{p.name}", f"_call._size_{p.name}"))
        elif kind.form == "array":
            fields["array"].append(f"const void* {p.name};")
            unpack.append(f"{t}* __restrict _at_{p.name} = {lookup};")
            bind.append(f"{t}& {p.name} = _at_{p.name}[i];")
            checks.append(check.format(f"_call.{p.name}", "_call._n"))
        else:
            table = f"_tables[{len(pieces)} * _call._count + _k]"
            pieces.append(f"{t}* __restrict _at_{p.name} = _data<{cpp}>({table});")
            bind.append(f"{t}& {p.name} = _at_{p.name}[i - _start];")
            check = check.format(table, "_stops[_k] - (_k ? _stops[_k - 1] : 0)")
            checks.append(f"for (ptrdiff_t _k = 0; _k < _call._count; ++_k) {{ {check} }}")
    if pieces:
        open_pieces = [
            "ptrdiff_t _k = std::upper_bound(_stops, _stops + _call._count, _begin) - _stops;",
            "for (; _begin < _end; ++_k) {",
            "const ptrdiff_t _start = _k ? _stops[_k - 1] : 0, _stop = std::min(_end, _stops[_k]);",
            *pieces,
        ]
        close_pieces = "_begin = _stop; }"
    else:
        open_pieces, close_pieces = ["{ const ptrdiff_t _stop = _end;"], "}"
    return "\n".join(
        [
            PRELUDE,
            SHARING,
            *(f"typedef {cpp} {letter};" for letter, cpp in typedefs.items()),
            f'#line 1 "{kernel.name}, preamble"',
            kernel.preamble,
            TEMPLATE.format(
                name=kernel.name,
                dtypes="".join(f"const void* _{t}; " for t in array_types(kernel.params, kinds)),
                fields="\n    ".join(line for lines in fields.values() for line in lines),
                lists=len(pieces),
                unpack="\n    ".join(unpack),
                loop_prep=kernel.loop_prep,
                open_pieces="\n    ".join(open_pieces),
                bind="\n            ".join(bind),
                operation=kernel.operation,
                close_pieces=close_pieces,
                after_loop=kernel.after_loop,
                checks="\n    ".join(checks),
                block=kernel.block,
            ),
        ]
    )


def array_types(params: Sequence[Param], kinds: Sequence[Kind]) -> dict[str, Any]:
    """The types of the arrays as declared, each once, with their dtypes: they head a call's block."""
    return {p.type: kind.dtype for p, kind in zip(params, kinds, strict=True) if kind.form != "scalar"}


def layout(params: Sequence[Param], kinds: Sequence[Kind]) -> str:
    """The fixed fields of `_Call` for Python's `struct`, which aligns them as C does."""
    codes: dict[str, str] = dict.fromkeys(FIELDS, "")
    for kind in kinds:
        if kind.form in codes:
            codes[kind.form] += FIELDS[kind.form] or TYPES[DTYPES[kind.dtype]].code
    return "nnnP" + "P" * len(array_types(params, kinds)) + "".join(codes.values()) + "n"
