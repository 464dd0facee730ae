"""The table of op cases, which every suite walks: for each op its inputs, and what others compute.

A row names an op of minigrad, as "linalg.inv", inputs for it, and settings. `numpy` and `torch` say how
those compute the same; by default it is their function of the same name. Inputs are drawn in float64 from
ranges in which the op is smooth, so that finite differences apply; corners have tests of their own.
"""

import importlib
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.nn import functional as F  # noqa: N812
from minigrad.nn.functional import cross_entropy, scaled_dot_product_attention
from minigrad.ops.dropout import keep_scaled
from minigrad.ops.penalties import logit_loss, probability_loss


@dataclass(frozen=True)
class Draw:
    """How to draw one input: `kind` is 'float', 'int' or 'bool'."""

    shape: tuple[int, ...]
    low: float = -2.0
    high: float = 2.0
    kind: str = "float"
    apart: float = 0.0  # how far to stay from whole numbers, where steps and kinks are
    diagonal: float = 0.0  # added to that of matrices, so that they are far from singular

    def __call__(self, random: np.random.Generator, shape: tuple[int, ...] | None = None) -> np.ndarray:
        shape = self.shape if shape is None else shape
        if self.kind == "bool":
            return random.random(shape) < 0.5
        if self.kind == "int":
            return random.integers(int(self.low), int(self.high), shape)
        values = random.uniform(self.low, self.high, shape)
        if self.apart:
            whole = np.floor(values)
            values = whole + self.apart + (values - whole) * (1 - 2 * self.apart)
        if self.diagonal:
            values = values + self.diagonal * np.eye(shape[-2], shape[-1])
        return values


def real(
    *shape: int, low: float = -2.0, high: float = 2.0, apart: float = 0.0, diagonal: float = 0.0
) -> Draw:
    return Draw(shape, low, high, "float", apart, diagonal)


def ints(*shape: int, low: int = 0, high: int = 2) -> Draw:
    return Draw(shape, low, high, "int")


def bools(*shape: int) -> Draw:
    return Draw(shape, kind="bool")


@dataclass(frozen=True)
class Case:
    op: str
    draws: tuple[Draw, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    minigrad: Callable[..., Any] | None = None
    numpy: Callable[..., Any] | None = None
    torch: Callable[..., Any] | str | None = ""
    elementwise: bool = False
    differentiable: bool = True
    dtypes: tuple[Any, ...] = (np.float16, np.float32, np.float64)  # those of floats that it computes in
    ulps: int = 8  # how far from torch it may be in float32

    def __str__(self) -> str:
        shapes = ",".join("x".join(map(str, d.shape)) or "0d" for d in self.draws)
        return f"{self.op}({shapes}{''.join(f' {k}={v}' for k, v in self.settings.items())})"

    @property
    def name(self) -> str:
        """Of the op, without its namespace."""
        return self.op.rpartition(".")[2]

    def inputs(self, dtype: Any = np.float64, seed: int = 0) -> list[np.ndarray]:
        random = np.random.default_rng(seed)
        return [np.asarray(d(random), dtype if d.kind == "float" else None) for d in self.draws]

    def compute(self, *inputs: Any) -> Any:
        """The op on tensors."""
        return (self.minigrad or operator.attrgetter(self.op)(mg))(*inputs, **self.settings)

    def expected(self, *inputs: np.ndarray) -> np.ndarray:
        """What NumPy makes of it."""
        return np.asarray((self.numpy or operator.attrgetter(self.op)(np))(*inputs, **self.settings))

    @property
    def orders(self) -> int:
        """How many orders of derivatives are checked against finite differences."""
        return 0 if not self.smooth() else 3 if self.elementwise else 2

    def smooth(self) -> list[int]:
        """Which inputs have gradients."""
        return [i for i, d in enumerate(self.draws) if d.kind == "float"] if self.differentiable else []


def torch() -> Any:
    """torch, which the rows that name it need only when they are compared with it."""
    return importlib.import_module("torch")


CASES: list[Case] = []


def row(op: str, *draws: Draw, settings: dict[str, Any] | None = None, **how: Any) -> None:
    CASES.append(Case(op, draws, settings or {}, **how))


def unary(op: str, low: float = -2.0, high: float = 2.0, apart: float = 0.0, **how: Any) -> None:
    for shape in ((3,), (2, 3), ()):
        row(op, real(*shape, low=low, high=high, apart=apart), elementwise=True, **how)


def binary(op: str, x: Draw | None = None, y: Draw | None = None, **how: Any) -> None:
    x, y = x or real(), y or real()
    for a, b in (((3,), (3,)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((), (2,))):
        row(
            op,
            Draw(a, x.low, x.high, x.kind, x.apart),
            Draw(b, y.low, y.high, y.kind, y.apart),
            elementwise=True,
            **how,
        )


def math_function(f: Callable[[float], float]) -> Callable[..., np.ndarray]:
    return lambda x: np.vectorize(f, otypes=[float])(x)


# --- arithmetic ------------------------------------------------------------------------------------

positive = real(low=0.3, high=2.0)
binary("add")
binary("subtract")
binary("multiply")
binary("divide", y=positive)
binary("pow", x=positive, torch="pow")
binary("remainder", x=real(low=0.1, high=0.9), y=real(low=1.1, high=1.9))
binary("floor_divide", x=real(low=0.1, high=0.9), y=real(low=1.1, high=1.9), torch=None)
binary("maximum", y=real(low=0.0))
binary("minimum", y=real(low=0.0))
binary("atan2", x=positive)
binary("hypot", x=positive)
binary("copysign", x=positive, y=real(low=0.2))
binary("copysign", x=real(low=-2.0, high=-0.3), y=real(low=0.2))
binary("copysign", x=positive, y=real(high=-0.2))
binary("nextafter", torch=None)
binary("logaddexp")
for name in ("negative", "positive", "square", "exp", "expm1", "sin", "cos"):
    unary(name)
for name in ("sinh", "cosh", "tanh", "atan", "asinh"):
    unary(name)
unary("abs", low=0.2)
unary("abs", low=-2.0, high=-0.2)
for name in ("sign", "floor", "ceil", "round", "trunc"):
    unary(name, apart=0.2)
for name in ("sqrt", "log", "log1p", "log2", "log10", "reciprocal"):
    unary(name, low=0.3)
unary("tan", low=-1.0, high=1.0)
for name in ("asin", "acos", "atanh"):
    unary(name, low=-0.8, high=0.8)
unary("acosh", low=1.3, high=3.0)

clip = {"numpy": lambda x, min, max: np.minimum(np.maximum(x, min), max), "torch": "clamp"}
row("clip", real(3, 4), settings={"min": -0.5, "max": 0.7}, elementwise=True, **clip)
row("clip", real(3, 4), settings={"min": 0.1}, numpy=lambda x, min: np.maximum(x, min), torch="clamp")
row("clip", real(3, 4), settings={"max": 0.1}, numpy=lambda x, max: np.minimum(x, max), torch="clamp")
row("clip", real(3, 4), real(4, low=-1.0, high=-0.1), real(3, 1, low=0.1, high=1.0), **clip)
for name in ("conj", "real"):
    unary(name)
    row(name, ints(2, 3), differentiable=False)
unary("imag", differentiable=False, torch=None)
row("where", bools(2, 3), real(2, 3), real(2, 3))
row("where", bools(2, 1), real(3), real(2, 3))
row(
    "astype",
    real(2, 3),
    settings={"dtype": np.float64},
    numpy=lambda x, dtype: x.astype(dtype),
    torch=None,
)

# --- comparisons -----------------------------------------------------------------------------------

for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"):
    torch_name = {
        "equal": "eq",
        "not_equal": "ne",
        "less": "lt",
        "less_equal": "le",
        "greater": "gt",
        "greater_equal": "ge",
    }
    binary(name, x=ints(), y=ints(), differentiable=False, torch=torch_name[name])
    row(name, real(2, 3), real(3), differentiable=False, torch=torch_name[name])
for name in ("isnan", "isinf", "isfinite", "signbit"):
    row(name, real(2, 3), differentiable=False)
row("logical_not", bools(2, 3), differentiable=False)
row("bitwise_invert", bools(2, 3), differentiable=False, torch="bitwise_not")
for name in ("logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor"):
    row(name, bools(2, 3), bools(3), differentiable=False)
row("bitwise_left_shift", ints(2, 3, high=9), ints(3, high=3), differentiable=False)
row("bitwise_right_shift", ints(2, 3, high=9), ints(3, high=3), differentiable=False)

# --- activations -----------------------------------------------------------------------------------

normal_cdf = math_function(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)))
unary("relu", apart=0.1, numpy=lambda x: np.maximum(x, 0))
unary("sigmoid", numpy=lambda x: 1 / (1 + np.exp(-x)))
unary("softplus", numpy=lambda x: np.log(1 + np.exp(x)), torch="nn.functional.softplus")
unary("silu", numpy=lambda x: x / (1 + np.exp(-x)), torch="nn.functional.silu")
# In gelu 1 + erf(x) cancels for negative x, in torch, too.
unary("gelu", numpy=lambda x: x * normal_cdf(x), torch="nn.functional.gelu", ulps=16)
unary("erf", numpy=math_function(math.erf))
unary(
    "leaky_relu",
    apart=0.1,
    settings={"negative_slope": 0.2},
    minigrad=F.leaky_relu,
    numpy=lambda x, negative_slope: np.where(x > 0, x, negative_slope * x),
    torch="nn.functional.leaky_relu",
)
unary(
    "elu",
    apart=0.1,
    settings={"alpha": 0.7},
    minigrad=F.elu,
    numpy=lambda x, alpha: np.where(x > 0, x, alpha * (np.exp(x) - 1)),
    torch="nn.functional.elu",
)
unary(
    "hardtanh",
    apart=0.1,
    settings={"min_val": -1.0, "max_val": 1.0},
    minigrad=F.hardtanh,
    numpy=lambda x, min_val, max_val: np.minimum(np.maximum(x, min_val), max_val),
    torch="nn.functional.hardtanh",
)
unary(
    "gelu_tanh",
    settings={"approximate": "tanh"},
    minigrad=F.gelu,
    numpy=lambda x, approximate: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    torch="nn.functional.gelu",
    ulps=16,
)
# Losses of single elements: the rest of a loss is made of other ops, see test_losses.py.
unary(
    "huber",
    apart=0.1,
    minigrad=lambda x: F.huber_loss(x, mg.zeros_like(x), "none"),
    numpy=lambda x: np.where(np.abs(x) < 1, x * x / 2, np.abs(x) - 0.5),
    torch=lambda x: torch().nn.functional.huber_loss(x, 0 * x, reduction="none"),
)
binary(
    "logit_loss",
    y=real(low=0.0, high=1.0),
    minigrad=logit_loss,
    numpy=lambda x, y: np.log(1 + np.exp(x)) - x * y,
    torch=lambda x, y: torch().nn.functional.binary_cross_entropy_with_logits(
        *torch().broadcast_tensors(x, y), reduction="none"
    ),
)
for a, b in (((2, 3), (3,)), ((2, 1), (1, 3)), ((), (2,))):
    row(
        "probability_loss",
        real(*a, low=0.1, high=0.9),
        real(*b, low=0.0, high=1.0),
        minigrad=probability_loss,
        numpy=lambda x, y: -y * np.log(x) - (1 - y) * np.log(1 - x),
        torch=lambda x, y: torch().nn.functional.binary_cross_entropy(
            *torch().broadcast_tensors(x, y), reduction="none"
        ),
        elementwise=True,
    )

# --- convolution and pooling -----------------------------------------------------------------------


def seen(
    x: np.ndarray, kernel: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, value: float = 0.0
) -> np.ndarray:
    """What windows over the last two axes see: two axes of windows, two of taps."""
    (k, m), (s, t), (p, q), (d, e) = (
        v if isinstance(v, tuple) else (v, v) for v in (kernel, stride, padding, dilation)
    )
    around = [(0, 0)] * (x.ndim - 2) + [(p, p), (q, q)]
    x = np.pad(x, around, constant_values=value)
    spans = (k - 1) * d + 1, (m - 1) * e + 1
    views = np.lib.stride_tricks.sliding_window_view(x, spans, axis=(-2, -1))  # pyright: ignore
    return views[..., ::s, ::t, ::d, ::e]


def conv2d(
    x: Any, w: Any, b: Any = 0.0, stride: Any = 1, padding: Any = 0, dilation=1, groups=1
) -> np.ndarray:
    views = seen(x, w.shape[-2:], stride, padding, dilation)
    parts = zip(np.split(views, groups, axis=1), np.split(w, groups), strict=True)
    out = np.concatenate([np.einsum("nchwij,ocij->nohw", v, u) for v, u in parts], axis=1)
    return out + np.reshape(b, (-1, 1, 1))


def conv1d(x: Any, w: Any, b: Any = 0.0, stride=1, padding=0, **more: Any) -> np.ndarray:
    return conv2d(x[:, :, None], w[:, :, None], b, (1, stride), (0, padding), **more)[:, :, 0]


def conv_transpose2d(
    x: Any, w: Any, b: Any = 0.0, stride=1, padding=0, output_padding=0, groups=1
) -> np.ndarray:
    n, c, height, width = x.shape
    k, m = w.shape[-2:]
    rows, columns = (height - 1) * stride + k + output_padding, (width - 1) * stride + m + output_padding
    out = np.zeros((n, groups, w.shape[1], rows, columns))
    parts = x.reshape(n, groups, c // groups, height, width), w.reshape(groups, c // groups, *w.shape[1:])
    for y in range(height):
        for z in range(width):
            place = (..., slice(y * stride, y * stride + k), slice(z * stride, z * stride + m))
            out[place] += np.einsum("ngc,gcoij->ngoij", parts[0][..., y, z], parts[1])
    inside = out[..., padding : rows - padding, padding : columns - padding]
    return inside.reshape(n, -1, *inside.shape[-2:]) + np.reshape(b, (-1, 1, 1))


for inputs, settings in (
    ((real(2, 3, 7), real(4, 3, 3), real(4)), {"stride": 2, "padding": 1}),
    ((real(1, 4, 6), real(2, 2, 2)), {"groups": 2, "dilation": 2}),
    ((real(2, 1, 5), real(3, 1, 5)), {}),
):
    row("conv1d", *inputs, settings=settings, numpy=conv1d, torch="nn.functional.conv1d", ulps=32)
for inputs, settings in (
    ((real(2, 3, 5, 6), real(4, 3, 3, 3), real(4)), {"padding": 1}),
    ((real(2, 4, 5, 4), real(6, 2, 2, 3), real(6)), {"stride": (1, 2), "groups": 2, "dilation": (2, 1)}),
    ((real(1, 1, 4, 4), real(1, 1, 1, 1)), {}),
):
    row("conv2d", *inputs, settings=settings, numpy=conv2d, torch="nn.functional.conv2d", ulps=32)
for inputs, settings in (
    ((real(2, 3, 3, 4), real(3, 4, 3, 3), real(4)), {"stride": 2, "padding": 1, "output_padding": 1}),
    ((real(2, 4, 3, 2), real(4, 3, 2, 3), real(6)), {"groups": 2}),
    ((real(1, 2, 2, 2), real(2, 1, 1, 1)), {"stride": 2}),
):
    how = {"numpy": conv_transpose2d, "torch": "nn.functional.conv_transpose2d", "ulps": 32}
    row("conv_transpose2d", *inputs, settings=settings, **how)


def max_pool2d(x: np.ndarray, kernel_size: Any, stride=None, padding=0, dilation=1) -> np.ndarray:
    stride = kernel_size if stride is None else stride
    return seen(x, kernel_size, stride, padding, dilation, -np.inf).max(axis=(-2, -1))


def avg_pool2d(x: np.ndarray, kernel_size: Any, stride=None, padding=0) -> np.ndarray:
    return seen(x, kernel_size, kernel_size if stride is None else stride, padding).mean(axis=(-2, -1))


def adaptive_avg_pool2d(x: np.ndarray, output_size: tuple[int, int]) -> np.ndarray:
    out = np.empty((*x.shape[:-2], *output_size))
    (height, width), (rows, columns) = x.shape[-2:], output_size
    for o in range(rows):
        for q in range(columns):
            ends = -(-(o + 1) * height // rows), -(-(q + 1) * width // columns)
            part = x[..., o * height // rows : ends[0], q * width // columns : ends[1]]
            out[..., o, q] = part.mean(axis=(-2, -1))
    return out


for shape, settings in (
    ((2, 3, 4, 6), {"kernel_size": 2}),
    ((2, 2, 5, 5), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((2, 5, 6), {"kernel_size": (2, 3), "stride": (2, 1), "dilation": (1, 2)}),
):
    row("max_pool2d", real(*shape), settings=settings, numpy=max_pool2d, torch="nn.functional.max_pool2d")
for shape, settings in (
    ((2, 3, 4, 6), {"kernel_size": 2}),
    ((2, 2, 5, 5), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((2, 5, 6), {"kernel_size": (2, 3), "stride": (2, 1)}),
):
    row("avg_pool2d", real(*shape), settings=settings, numpy=avg_pool2d, torch="nn.functional.avg_pool2d")
for shape, size in (((2, 3, 4, 6), (2, 3)), ((2, 2, 5, 5), (2, 3)), ((2, 4, 3), (1, 1))):
    row(
        "adaptive_avg_pool2d",
        real(*shape),
        settings={"output_size": size},
        numpy=adaptive_avg_pool2d,
        torch="nn.functional.adaptive_avg_pool2d",
    )

# --- reductions ------------------------------------------------------------------------------------

AXES: tuple[dict[str, Any], ...] = ({}, {"axis": 0}, {"axis": -1, "keepdims": True}, {"axis": (0, 2)})


def torch_reduction(name: str) -> Callable[..., Any]:
    def call(x: Any, axis: Any = None, keepdims: bool = False, **more: Any) -> Any:
        axis = tuple(range(x.ndim)) if axis is None else axis
        if name == "prod":
            for a in sorted((a % x.ndim for a in ((axis,) if isinstance(axis, int) else axis)), reverse=True):
                x = torch().prod(x, a, keepdim=keepdims)
            return x
        return getattr(torch(), name)(x, axis, keepdim=keepdims, **more)

    return call


def logsumexp(x: np.ndarray, axis: Any = None, keepdims: bool = False) -> np.ndarray:
    return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


for name, how in (
    ("sum", {}),
    ("mean", {}),
    ("prod", {}),
    ("max", {"torch": torch_reduction("amax")}),
    ("min", {"torch": torch_reduction("amin")}),
    ("logsumexp", {"numpy": logsumexp}),
):
    for settings in AXES:
        row(name, real(2, 3, 2), settings=settings, **{"torch": torch_reduction(name), **how})
    row(name, real(), **{"torch": torch_reduction(name), **how})
for name in ("sum", "prod"):
    for shape in ((3,), (2, 3), ()):
        row(name, real(*shape), settings={"dtype": np.float64}, minigrad=getattr(mg, name), torch=None)
    row(
        name,
        ints(2, 3, low=1, high=4),
        settings={"axis": 1, "dtype": np.float32},
        differentiable=False,
        torch=None,
    )
    row(name, bools(2, 3), settings={"axis": 0, "dtype": np.int32}, differentiable=False, torch=None)
for settings in AXES:
    row("count_nonzero", ints(2, 3, 2), settings=settings, differentiable=False, torch=None)
row("count_nonzero", real(3), differentiable=False)
row("count_nonzero", bools(2, 3), differentiable=False)
for name in ("var", "std"):
    for settings in ({}, {"axis": 0, "correction": 1.0}, {"axis": (0, 2), "keepdims": True}):
        row(
            name,
            real(2, 3, 2),
            settings=settings,
            numpy=lambda x, correction=0.0, name=name, **more: getattr(np, name)(x, ddof=correction, **more),
            torch=lambda x, name=name, **more: torch_reduction(name)(x, **{"correction": 0.0, **more}),
        )


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    return np.exp(x) / np.sum(np.exp(x), axis=axis, keepdims=True)


for axis in (0, -1):
    row("softmax", real(3, 4), settings={"axis": axis}, numpy=softmax, ulps=16)
    row("log_softmax", real(3, 4), settings={"axis": axis}, numpy=lambda x, axis: np.log(softmax(x, axis)))


def running(f: Callable[..., np.ndarray], initial: float) -> Callable[..., np.ndarray]:
    """NumPy's cumsum or cumprod with the standard's settings."""

    def compute(x: np.ndarray, axis: int = 0, dtype: Any = None, include_initial: bool = False) -> np.ndarray:
        if include_initial:
            first = np.full_like(np.take(x, [0], axis=axis), initial)
            x = np.concatenate([first, x], axis=axis)
        return f(x, axis=axis, dtype=dtype)

    return compute


def torch_running(name: str) -> Callable[..., Any]:
    return lambda x, axis=0: getattr(torch(), name)(x, axis)


for name, f, initial in (("cumulative_sum", np.cumsum, 0.0), ("cumulative_prod", np.cumprod, 1.0)):
    how: dict[str, Any] = {"numpy": running(f, initial)}
    for shape, axis in (((3, 4), 0), ((3, 4), -1), ((2, 3, 2), 1), ((1, 5), 1)):
        row(name, real(*shape), settings={"axis": axis}, torch=torch_running(f.__name__), **how)
    row(name, real(4), torch=torch_running(f.__name__), **how)
    row(name, real(4), settings={"include_initial": True}, minigrad=getattr(mg, name), torch=None, **how)
    row(
        name,
        real(2, 3),
        settings={"axis": 1, "include_initial": True},
        minigrad=getattr(mg, name),
        torch=None,
        **how,
    )
    row(
        name,
        real(2, 3),
        settings={"axis": 0, "dtype": np.float64},
        minigrad=getattr(mg, name),
        torch=None,
        **how,
    )
    row(name, bools(2, 3), settings={"axis": 1, "dtype": np.int32}, differentiable=False, torch=None, **how)
for shape, settings in (
    ((4,), {}),
    ((3, 4), {"axis": 0}),
    ((2, 5, 2), {"n": 2, "axis": 1}),
    ((2, 3), {"n": 0}),
    ((2, 3), {"prepend": 0.5, "append": 1.5}),
):
    row("diff", real(*shape), settings=settings, torch=None if "append" in settings else "")
row(
    "diff",
    real(2, 3),
    real(2, 1),
    real(2, 2),
    minigrad=lambda x, a, b: mg.diff(x, prepend=a, append=b),
    numpy=lambda x, a, b: np.diff(x, prepend=a, append=b),
    torch=lambda x, a, b: torch().diff(x, prepend=a, append=b),
)
row("diff", bools(2, 4), differentiable=False)
for name in ("argmax", "argmin"):
    for settings in ({}, {"axis": 1}, {"axis": 0, "keepdims": True}):
        row(name, real(3, 4), settings=settings, differentiable=False, torch=None)
for name in ("all", "any"):
    for settings in AXES:
        row(name, bools(2, 3, 2), settings=settings, differentiable=False, torch=None)

# --- shaping ---------------------------------------------------------------------------------------

row("reshape", real(2, 6), settings={"shape": (3, -1)}, numpy=lambda x, shape: x.reshape(shape))
row("reshape", real(2, 3), settings={"shape": (6,)}, numpy=lambda x, shape: x.reshape(shape))
row(
    "permute_dims",
    real(2, 3, 4),
    settings={"axes": (2, 0, 1)},
    numpy=np.transpose,
    torch=lambda x, axes: x.permute(axes),
)
row("transpose", real(2, 3, 4), torch=lambda x: x.permute(2, 1, 0))
row("transpose", real(2, 3, 4), settings={"axes": (1, 0, 2)}, torch=lambda x, axes: x.permute(axes))
row("matrix_transpose", real(2, 3, 4), numpy=lambda x: x.swapaxes(-1, -2), torch=lambda x: x.mT)
row(
    "swapaxes",
    real(2, 3, 4),
    settings={"axis1": 0, "axis2": -1},
    numpy=lambda x, axis1, axis2: np.swapaxes(x, axis1, axis2),
    torch=lambda x, axis1, axis2: x.swapaxes(axis1, axis2),
)
row("swapaxes", real(2, 3), settings={"axis1": 1, "axis2": 1}, numpy=lambda x, axis1, axis2: x, torch=None)
row("swapaxes", real(2, 3), settings={"axis1": 1, "axis2": 0}, numpy=lambda x, axis1, axis2: x.T, torch=None)
for shape in ((2, 3), (3,), ()):
    row("ravel", real(*shape))
row("moveaxis", real(2, 3, 4), settings={"source": 0, "destination": -1})
row("moveaxis", real(2, 3, 4), settings={"source": (0, 1), "destination": (-1, 0)})
row("expand_dims", real(2, 3), settings={"axis": 1}, torch=lambda x, axis: x.unsqueeze(axis))
row("squeeze", real(2, 1, 3, 1), settings={"axis": 1})
row("squeeze", real(2, 1, 3, 1))
row("flatten", real(2, 3, 2), settings={"start_dim": 1}, numpy=lambda x, start_dim: x.reshape(2, 6))
row("flatten", real(), numpy=lambda x: x.reshape(1))
row("broadcast_to", real(3, 1), settings={"shape": (2, 3, 4)}, torch=lambda x, shape: x.expand(shape))
for shapes in (((2, 1), (3,)), ((), (2,)), ((2, 3), (1, 3))):
    row(
        "broadcast_arrays",
        *(real(*shape) for shape in shapes),
        minigrad=lambda *x: mg.stack(mg.broadcast_arrays(*x)),
        numpy=lambda *x: np.stack(np.broadcast_arrays(*x)),
        torch=lambda *x: torch().stack(torch().broadcast_tensors(*x)),
    )
for sizes, settings in (((2, 3), {}), ((2, 3), {"indexing": "ij"}), ((2, 3, 1), {}), ((3,), {})):
    row(
        "meshgrid",
        *(real(size) for size in sizes),
        settings=settings,
        minigrad=lambda *x, **s: mg.stack(mg.meshgrid(*x, **s)),
        numpy=lambda *x, **s: np.stack(np.meshgrid(*x, **s)),
        torch=lambda *x, indexing="xy": torch().stack(torch().meshgrid(*x, indexing=indexing)),
    )
for settings in ({}, {"axis": 1}, {"axis": -1}, {"axis": None}):
    row(
        "concat",
        real(2, 3),
        real(2, 3),
        real(2, 3),
        settings=settings,
        minigrad=lambda *x, **s: mg.concat(x, **s),
        numpy=lambda *x, **s: np.concatenate(x, **s),
        torch=lambda *x, axis=0: torch().cat([v.flatten() for v in x] if axis is None else x, axis or 0),
    )
row(
    "concat",
    real(1, 3),
    real(4, 3),
    minigrad=lambda *x: mg.concat(x),
    numpy=lambda *x: np.concatenate(x),
    torch=lambda *x: torch().cat(x),
)
for settings in ({}, {"axis": 1}, {"axis": -1}):
    row(
        "stack",
        real(2, 3),
        real(2, 3),
        settings=settings,
        minigrad=lambda *x, **s: mg.stack(x, **s),
        numpy=lambda *x, **s: np.stack(x, **s),
        torch=lambda *x, axis=0: torch().stack(x, axis),
    )
for shape, axis in (((3,), 0), ((2, 3), 1), ((2, 3, 2), -2)):
    row(
        "unstack",
        real(*shape),
        settings={"axis": axis},
        minigrad=lambda x, axis: mg.stack([v * (i + 1) for i, v in enumerate(mg.unstack(x, axis))]),
        numpy=lambda x, axis: np.stack([v * (i + 1) for i, v in enumerate(np.moveaxis(x, axis, 0))]),
        torch=lambda x, axis: torch().stack([v * (i + 1) for i, v in enumerate(x.unbind(axis))]),
    )
for shape, cuts, axis in (((6,), 3, 0), ((2, 4), 2, 1), ((3, 2), [1], 0), ((2, 5), [1, 1, 4], -1)):
    row(
        "split",
        real(*shape),
        settings={"indices_or_sections": cuts, "axis": axis},
        minigrad=lambda x, **s: mg.concat([v * (i + 1) for i, v in enumerate(mg.split(x, **s))], s["axis"]),
        numpy=lambda x, **s: np.concatenate([v * (i + 1) for i, v in enumerate(np.split(x, **s))], s["axis"]),
        torch=lambda x, **s: torch().cat(
            [v * (i + 1) for i, v in enumerate(torch().tensor_split(x, *s.values()))], s["axis"]
        ),
    )
repeating = {"torch": lambda x, repeats, axis=None: x.repeat_interleave(torch().tensor(repeats), axis)}
for shape, settings in (
    ((3,), {"repeats": 2}),
    ((2, 3), {"repeats": 3, "axis": 0}),
    ((2, 3), {"repeats": 2}),
    ((2, 3), {"repeats": [1, 0, 2], "axis": -1}),
    ((2, 2, 2), {"repeats": (2, 1), "axis": 1}),
    ((3,), {"repeats": [2]}),
):
    row("repeat", real(*shape), settings=settings, **repeating)
row(
    "repeat",
    real(2, 3),
    ints(2, high=3),
    settings={"axis": 0},
    torch=lambda x, n, axis: x.repeat_interleave(n, axis),
)
for shape, repetitions in (
    ((3,), (2,)),
    ((2, 3), (2, 1)),
    ((2, 1), (2, 1, 3)),
    ((2, 1, 2), (3,)),
    ((), (2,)),
):
    row(
        "tile",
        real(*shape),
        settings={"repetitions": repetitions},
        numpy=lambda x, repetitions: np.tile(x, repetitions),
        torch=lambda x, repetitions: x.tile(repetitions),
    )
row("flip", real(2, 3), torch=lambda x: x.flip((0, 1)))
row("flip", real(2, 3), settings={"axis": 1}, torch=lambda x, axis: x.flip(axis))
row("flip", real(2, 3, 2), settings={"axis": (0, 2)}, torch=lambda x, axis: x.flip(axis))
row("roll", real(2, 3), settings={"shift": 2}, torch=lambda x, shift: x.roll(shift))
row("roll", real(2, 3), settings={"shift": 1, "axis": 1}, torch=lambda x, shift, axis: x.roll(shift, axis))
row(
    "roll",
    real(2, 3),
    settings={"shift": (1, -1), "axis": (0, 1)},
    torch=lambda x, shift, axis: x.roll(shift, axis),
)
for name in ("tril", "triu"):
    row(name, real(3, 4))
    row(name, real(2, 3, 3), settings={"k": 1}, torch=lambda x, k, name=name: getattr(x, name)(k))
    row(name, real(3, 3), settings={"k": -1}, torch=lambda x, k, name=name: getattr(x, name)(k))
row(
    "pad",
    real(2, 3),
    settings={"pad_width": ((1, 0), (2, 1)), "value": 0.5},
    numpy=lambda x, pad_width, value: np.pad(x, pad_width, constant_values=value),
    torch=lambda x, pad_width, value: torch().nn.functional.pad(x, (2, 1, 1, 0), value=value),
)
row(
    "pad", real(2), settings={"pad_width": 2}, torch=lambda x, pad_width: torch().nn.functional.pad(x, (2, 2))
)


# --- indexing --------------------------------------------------------------------------------------


def key_for(x: mg.Tensor, key: Any) -> Any:
    """The key with its arrays as tensors where x lives."""
    if isinstance(key, tuple):
        return tuple(key_for(x, k) for k in key)
    return mg.tensor(key, device=x.device) if isinstance(key, np.ndarray) else key


def torch_key(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(torch_key(k) for k in key)
    return torch().from_numpy(key) if isinstance(key, np.ndarray) else key


KEYS: tuple[Any, ...] = (
    1,
    (1, ...),
    (slice(None), -1),
    (slice(0, 3, 2), None, slice(None, None, -1)),
    (slice(0, 3, 2), slice(None, None, -1)),
    (..., slice(1, 3)),
    np.array([[True, False, True, True]] * 3),
    np.array([2, 0, 2, 2]),
    (np.array([0, 1, 1]), np.array([3, 0, 0])),
    (slice(None), (1, 1)),
    (slice(None), [1, 1]),
    [0, 0],
    (slice(None), np.array([1, 1, 3])),
    (np.array([[0], [2]]), slice(1, None)),
    (np.array([True, False, True]), 2),
)
for key in KEYS:
    row(
        "getitem",
        real(3, 4),
        minigrad=lambda x, key=key: x[key_for(x, key)],
        numpy=lambda x, key=key: x[key],
        torch=None if "-1)" in str(key) else lambda x, key=key: x[torch_key(key)],
    )


def numpy_setitem(x: np.ndarray, value: np.ndarray, key: Any) -> np.ndarray:
    out = x.copy()
    out[key] = value
    return out


def torch_setitem(x: Any, value: Any, key: Any) -> Any:
    out = x.clone()
    out[torch_key(key)] = value
    return out


def numpy_scatter(x: np.ndarray, key: Any, sizes: tuple[int, ...]) -> np.ndarray:
    out = np.zeros(sizes, x.dtype)
    np.add.at(out, key, x)
    return out


for key, value in (
    (1, real(4)),
    (1, real(1, 4)),
    ((1, ...), real(4)),
    ((np.array([0, 1]), 2), real(1, 1, 2)),
    ((slice(None), 2), real()),
    ((..., slice(1, 3)), real(3, 2)),
    (np.array([[True, False, True, True]] * 3), real()),
    (np.array([2, 0, 2]), real(3, 4)),  # writes a row twice, which torch's gradient gets wrong
    ((np.array([0, 1]), np.array([3, 0])), real(2)),
    ((0, (1, 1)), real(2)),  # the same
):
    row(
        "setitem",
        real(3, 4),
        value,
        minigrad=lambda x, v, key=key: mg.ops.setitem(x, key_for(x, key), v),
        numpy=lambda x, v, key=key: numpy_setitem(x, v, key),
        torch=None
        if "[2 0 2]" in str(key) or "(1, 1)" in str(key)
        else lambda x, v, key=key: torch_setitem(x, v, key),
    )
for key in (np.array([2, 0, 2]), np.array([1, 1, 1])):
    row(
        "scatter",
        real(3, 4),
        minigrad=lambda x, key=key: mg.ops.scatter(x, key_for(x, key)._data, (5, 4)),
        numpy=lambda x, key=key: numpy_scatter(x, key, (5, 4)),
        torch=None,
    )
by_axis = {"torch": lambda x, i, axis: x.index_select(axis, i)}
row("take", real(3, 4), ints(5, high=3), settings={"axis": 0}, **by_axis)
row("take", real(3, 4), ints(5, high=4), settings={"axis": 1}, **by_axis)
row("take", real(3, 4), ints(2, 2, high=12), torch="take")
row("take_along_axis", real(3, 4), ints(3, 2, high=4), settings={"axis": 1}, torch=None)
row("take_along_axis", real(3, 4), ints(1, 4, high=3), settings={"axis": 0}, torch=None)
row("take_along_axis", real(3, 4), ints(1, 2, high=4), settings={"axis": 1}, torch=None)

# --- sorting and searching -------------------------------------------------------------------------


def numpy_sort(x: np.ndarray, axis: int = -1, descending: bool = False, stable: bool = True) -> np.ndarray:
    return -np.sort(-x, axis=axis) if descending else np.sort(x, axis=axis)


def numpy_argsort(x: np.ndarray, axis: int = -1, descending: bool = False, stable: bool = True) -> np.ndarray:
    return np.argsort(-x if descending else x, axis=axis, kind="stable")


def torch_sort(x: Any, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    return torch().sort(x, dim=axis, descending=descending, stable=stable).values


for shape, settings in (
    ((5,), {}),
    ((3, 4), {"axis": 0}),
    ((2, 3, 4), {"axis": 1, "descending": True}),
    ((2, 4), {"descending": True, "stable": False}),
    ((1,), {}),
):
    row("sort", real(*shape), settings=settings, numpy=numpy_sort, torch=torch_sort)
    for draw in (real(*shape), ints(*shape, high=3)):
        row(
            "argsort",
            draw,
            settings=settings,
            numpy=numpy_argsort,
            torch=lambda x, axis=-1, descending=False, stable=True: (
                torch().sort(x, dim=axis, descending=descending, stable=True).indices
            ),
            differentiable=False,
        )
for shape, settings in (
    ((5,), {"k": 2}),
    ((3, 4), {"k": 3, "axis": 0}),
    ((2, 3, 4), {"k": 1, "axis": 1, "largest": False}),
    ((2, 3), {"k": 3}),
):
    for part, found in (("values", numpy_sort), ("indices", numpy_argsort)):
        row(
            "topk",
            real(*shape),
            settings=settings,
            minigrad=lambda x, part=part, **s: getattr(mg.topk(x, **s), part),
            numpy=lambda x, k, axis=-1, largest=True, found=found: np.take(
                found(x, axis, largest), np.arange(k), axis=axis
            ),
            torch=lambda x, k, axis=-1, largest=True, part=part: getattr(
                torch().topk(x, k, axis, largest), part
            ),
            differentiable=part == "values",
        )
for shape in ((5,), (4,), ()):
    row("median", real(*shape), torch=None)
for settings in ({"axis": 0}, {"axis": -1, "keepdims": True}, {"axis": (0, 2)}, {"keepdims": True}):
    row("median", real(2, 3, 4), settings=settings, torch=None)
row("median", ints(2, 5, high=9), settings={"axis": 1}, differentiable=False, torch=None)


def torch_quantile(x: Any, q: Any, axis: Any = None, keepdims: bool = False) -> Any:
    return torch().quantile(x, torch().tensor(q, dtype=x.dtype), dim=axis, keepdim=keepdims)


for shape, settings in (
    ((5,), {"q": 0.3}),
    ((2, 3), {"q": 1.0}),
    ((2, 4), {"q": [0.1, 0.5, 0.0], "axis": 1}),
    ((2, 3, 4), {"q": 0.7, "axis": 0, "keepdims": True}),
):
    row("quantile", real(*shape), settings=settings, torch=torch_quantile)
row("quantile", real(2, 3, 4), settings={"q": [0.4], "axis": (0, 2), "keepdims": True}, torch=None)
row(
    "searchsorted",
    ints(1, low=1, high=2),
    ints(2, 3, high=3),
    minigrad=lambda x, y: mg.searchsorted(x, y),
    torch=lambda x, y: torch().searchsorted(x, y),
    differentiable=False,
)
side: Any
for side in ("left", "right"):
    for shape in ((4,), (2, 3), ()):
        row(
            "searchsorted",
            ints(5, high=4),
            ints(*shape, low=-1, high=5),
            minigrad=lambda x, y, side=side: mg.searchsorted(x, y, side=side, sorter=mg.argsort(x)),
            numpy=lambda x, y, side=side: np.searchsorted(np.sort(x), y, side=side),
            torch=lambda x, y, side=side: torch().searchsorted(torch().sort(x).values, y, side=side),
            differentiable=False,
        )
for draw in (real(3), ints(2, 3), bools(2, 2, 2)):
    row(
        "nonzero",
        draw,
        minigrad=lambda x: mg.stack(mg.nonzero(x)),
        numpy=lambda x: np.stack(np.nonzero(x)),
        torch=lambda x: torch().stack(torch().nonzero(x, as_tuple=True)),
        differentiable=False,
    )
for shape, values in (((3,), (2,)), ((2, 3), (2, 2)), ((), (4,))):
    row("isin", ints(*shape, high=5), ints(*values, high=5), differentiable=False)
row("isin", ints(2, 3, high=5), ints(3, high=5), settings={"invert": True}, differentiable=False)
for shape in ((4,), (2, 3), ()):
    row("unique_values", real(*shape), numpy=np.unique, torch=None)
    row(
        "unique_counts",
        real(*shape),
        minigrad=lambda x: mg.unique_counts(x).values,
        numpy=np.unique,
        torch=None,
    )
    row(
        "unique_inverse",
        real(*shape),
        minigrad=lambda x: mg.unique_inverse(x).values,
        numpy=np.unique,
        torch=None,
    )
    row("unique_all", real(*shape), minigrad=lambda x: mg.unique_all(x).values, numpy=np.unique, torch=None)

# --- products --------------------------------------------------------------------------------------

for a, b in (
    ((2, 3), (3, 4)),
    ((3,), (3,)),
    ((3,), (3, 2)),
    ((2, 3), (3,)),
    ((2, 2, 3), (3, 2)),
    ((2, 2, 3), (2, 3, 2)),
    ((2, 1, 2, 3), (3, 3, 2)),
    ((2, 2, 3), (3,)),
    ((3,), (2, 3, 2)),
):
    row("matmul", real(*a), real(*b))
for x in (real(4, 3), real(3), real(2, 2, 3)):
    row("linear", x, real(2, 3), real(2), numpy=lambda x, w, b: x @ w.T + b, torch="nn.functional.linear")
row("linear", real(4, 3), real(2, 3), numpy=lambda x, w: x @ w.T, torch="nn.functional.linear")
row("outer", real(3), real(4))
for a, b, axes in (
    ((2, 3, 4), (3, 4, 2), 2),
    ((2, 3), (4, 2), ((0,), (1,))),
    ((2, 3), (4, 5), 0),
    ((2, 3, 4), (4, 3, 2), ((2, 1), (0, 1))),
):
    row(
        "tensordot",
        real(*a),
        real(*b),
        settings={"axes": axes},
        torch=lambda x, y, axes: torch().tensordot(x, y, dims=axes),
    )
for subscripts, shapes in (
    ("ij,jk->ik", ((2, 3), (3, 4))),
    ("ij,jk", ((2, 3), (3, 4))),
    ("ii->i", ((3, 3),)),
    ("ii", ((3, 3),)),
    ("iij->j", ((2, 2, 3),)),
    ("iii->i", ((2, 2, 2),)),
    ("ij->", ((2, 3),)),
    ("ij->ji", ((2, 3),)),
    ("i,j->ij", ((2,), (3,))),
    ("ij,jk,kl->il", ((2, 3), (3, 2), (2, 2))),
    ("...ij,...jk->...ik", ((2, 2, 3), (3, 2))),
    ("b...i,bi->b...", ((2, 3, 2), (2, 2))),
    ("ij,kj->i", ((2, 3), (4, 3))),
    ("i,i->", ((3,), (1,))),
    (",ij->ij", ((), (2, 3))),
):
    row(
        "einsum",
        *(real(*shape) for shape in shapes),
        minigrad=lambda *x, subscripts=subscripts: mg.einsum(subscripts, *x),
        numpy=lambda *x, subscripts=subscripts: np.einsum(subscripts, *x),
        torch=lambda *x, subscripts=subscripts: torch().einsum(subscripts, *x),
    )
row(
    "einsum",
    real(2, 3, 4),
    minigrad=lambda x: mg.einsum("...i->i", x),
    numpy=lambda x: np.sum(x, axis=(0, 1)),
    torch=lambda x: torch().einsum("...i->i", x),
)


def torch_cross(x: Any, y: Any, axis: int = -1) -> Any:
    return torch().linalg.cross(*torch().broadcast_tensors(x, y), dim=axis)


for a, b in (((3,), (3,)), ((2, 3), (3,)), ((2, 1, 3), (4, 3))):
    row("vecdot", real(*a), real(*b), torch="linalg.vecdot")
    row("cross", real(*a), real(*b), torch=torch_cross)
row("vecdot", real(3, 2), real(3, 2), settings={"axis": 0}, torch="linalg.vecdot")
row("cross", real(2, 3, 4), real(3, 4), settings={"axis": -2}, torch=torch_cross)
for a, b in (((2, 3), (2, 2)), ((2,), (3,)), ((2, 1, 2), (3, 2)), ((), (2,))):
    row("kron", real(*a), real(*b))
for name in ("diagonal", "trace"):
    for shape, settings in (((3, 4), {}), ((4, 3), {"offset": -2}), ((3, 3), {"offset": 1}), ((1, 1), {})):
        row(name, real(*shape), settings=settings, torch=None if name == "trace" and settings else "")
    row(
        name,
        real(2, 3, 4),
        settings={"axis1": 2, "axis2": 0},
        torch=None if name == "trace" else lambda x, axis1, axis2: x.diagonal(0, axis1, axis2),
    )
    for shape, settings in (((2, 3, 4), {}), ((2, 2, 3), {"offset": 1}), ((3, 2), {"offset": -1})):
        row(f"linalg.{name}", real(*shape), settings=settings, torch=None if name == "trace" else "")
row("trace", real(2, 3, 4), torch=None)
row("trace", real(2, 2), settings={"dtype": np.float64}, torch=None, dtypes=(np.float64,))

# --- linear algebra --------------------------------------------------------------------------------

LAPACK = {"dtypes": (np.float32, np.float64), "ulps": 40}


def generic(op: str, function: Callable[..., Any], *draws: Draw, **how: Any) -> None:
    """A row whose computation is written once, for minigrad, numpy and torch as its first argument."""
    row(
        op,
        *draws,
        minigrad=lambda *x, **s: function(mg, *x, **s),
        numpy=lambda *x, **s: function(np, *x, **s),
        **{"torch": lambda *x, **s: function(torch(), *x, **s), **how},
    )


def joined(xp: Any, *parts: Any) -> Any:
    return xp.concat([xp.reshape(part, (-1,)) for part in parts])


def well(*shape: int) -> Draw:
    """Well-conditioned matrices."""
    return real(*shape, low=-1.0, high=1.0, diagonal=3.0)


for shape in ((3, 3), (2, 2, 2), (1, 1), (2, 1, 3, 3)):
    row("linalg.inv", well(*shape), **LAPACK)
    row("linalg.det", well(*shape), **LAPACK)
    generic("linalg.slogdet", lambda xp, x: joined(xp, *xp.linalg.slogdet(x)), well(*shape), **LAPACK)
    for upper in (False, True):
        generic(
            "linalg.cholesky",
            lambda xp, x, upper: xp.linalg.cholesky(x @ x.mT, upper=upper),
            well(*shape),
            settings={"upper": upper},
            **LAPACK,
        )
    for n in (-2, -1, 1, 2, 3, 5):
        row("linalg.matrix_power", well(*shape), settings={"n": n}, **LAPACK)
for a, b in (
    ((3, 3), (3,)),
    ((3, 3), (3, 2)),
    ((2, 3, 3), (3,)),
    ((2, 2, 2), (2, 2, 3)),
    ((3, 1, 2, 2), (2, 2, 1)),
    ((2, 2), (3, 2, 2)),
):
    row("linalg.solve", well(*a), real(*b), torch=None if a == (2, 3, 3) else "", **LAPACK)


def eigh(xp: Any, x: Any) -> Any:
    w, v = xp.linalg.eigh(x + x.mT)
    return joined(xp, w, v * xp.sign(v[..., :1, :]))  # of eigenvectors only the direction is defined


def svd(xp: Any, x: Any, full_matrices: bool) -> Any:
    u, s, vh = xp.linalg.svd(x, full_matrices=full_matrices)
    k = min(x.shape[-2:])
    sign = xp.sign(u[..., :1, :k])
    rest_u, rest_v = u[..., k:], vh[..., k:, :].mT  # of these only the space that they span is defined
    parts = [u[..., :k] * sign, s, vh[..., :k, :] * sign.mT, rest_u @ rest_u.mT, rest_v @ rest_v.mT]
    return joined(xp, *(parts if full_matrices else parts[:3]))


def qr(xp: Any, x: Any, mode: str) -> Any:
    q, r = xp.linalg.qr(x, mode=mode)
    k = min(x.shape[-2:])
    sign = xp.sign(xp.linalg.diagonal(r))
    sign = xp.reshape(sign, (*sign.shape[:-1], 1, k))
    rest = q[..., k:]
    parts = [q[..., :k] * sign, r[..., :k, :] * sign.mT, rest @ rest.mT]
    return joined(xp, *(parts if mode == "complete" else parts[:2]))


for shape in ((3, 3), (2, 2, 2), (4, 4), (1, 1)):
    generic("linalg.eigh", eigh, real(*shape), **LAPACK)
    generic("linalg.eigvalsh", lambda xp, x: xp.linalg.eigvalsh(x + x.mT), real(*shape), **LAPACK)
for shape in ((3, 3), (4, 3), (2, 2, 3), (1, 3), (2, 1)):
    tall = shape[-2] > shape[-1]
    row("linalg.svdvals", well(*shape), **LAPACK)
    row("linalg.pinv", well(*shape), **LAPACK)
    row("linalg.matrix_rank", well(*shape), differentiable=False)
    for full in (True, False):
        how = {"torch": None} if full and shape[-2] != shape[-1] else {}
        generic("linalg.svd", svd, well(*shape), settings={"full_matrices": full}, **LAPACK, **how)
    for mode in ("reduced", "complete"):
        how = {"torch": None} if tall and mode == "complete" else {}
        generic("linalg.qr", qr, well(*shape), settings={"mode": mode}, **LAPACK, **how)


def torch_norm(name: str) -> Callable[..., Any]:
    def call(x: Any, axis: Any = None, keepdims: bool = False, ord: Any = None) -> Any:
        settings = {} if axis is None else {"dim": axis}
        ord = (
            (2 if name == "vector_norm" else "fro" if name == "matrix_norm" else None) if ord is None else ord
        )
        return getattr(torch().linalg, name)(x, ord, keepdim=keepdims, **settings)

    return call


for order in (0, 1, 2, math.inf, -math.inf, 3, 0.5, -1.5):
    for settings in ({}, {"axis": 1}, {"axis": (0, 2), "keepdims": True}):
        row(
            "linalg.vector_norm",
            real(2, 3, 2, apart=0.1),
            settings={"ord": order, **settings},
            torch=torch_norm("vector_norm"),
            ulps=40,
        )
for order in ("fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf):
    for shape, settings in (((3, 4), {}), ((2, 3, 2), {"keepdims": True}), ((2, 2), {})):
        row(
            "linalg.matrix_norm",
            real(*shape),
            settings={"ord": order, **settings},
            torch=torch_norm("matrix_norm"),
            **LAPACK,
        )
for shape, settings in (
    ((3,), {}),
    ((2, 3), {}),
    ((2, 3, 2), {}),
    ((3,), {"ord": 3}),
    ((2, 3), {"ord": 1}),
    ((2, 3), {"ord": 1, "axis": -1}),
    ((2, 3, 2), {"axis": (2, 0), "keepdims": True}),
    ((2, 3, 2), {"ord": "nuc", "axis": (2, 0), "keepdims": True}),
    ((2, 3, 2), {"ord": 2, "axis": (0, 1)}),
):
    row("linalg.norm", real(*shape), settings=settings, torch=torch_norm("norm"), **LAPACK)


def numpy_cross_entropy(x: np.ndarray, reduction: str, smoothing: float) -> np.ndarray:
    target = np.eye(4)[TARGET] * (1 - smoothing) + smoothing / 4
    losses = -np.sum(np.log(softmax(x, 1)) * target, axis=1)
    return {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction](losses)


# --- losses, creation, moving ----------------------------------------------------------------------

TARGET = np.array([2, 0, 1])
for reduction, smoothing in (("mean", 0.0), ("sum", 0.1), ("none", 0.3)):
    row(
        "cross_entropy_rows",
        real(3, 4),
        minigrad=lambda x, r=reduction, s=smoothing: cross_entropy(
            x, mg.tensor(TARGET, device=x.device), reduction=r, label_smoothing=s
        ),
        numpy=lambda x, r=reduction, s=smoothing: numpy_cross_entropy(x, r, s),
        torch=None,  # see test_nn.py
    )
for name in ("zeros_like", "ones_like"):
    row(name, real(2, 3), differentiable=False)
row("full_like", real(2, 3), settings={"fill_value": 0.5}, differentiable=False)
row(
    "empty_like",
    real(2, 3),
    minigrad=lambda x: mg.full_like(mg.empty_like(x), 1.0),
    numpy=np.ones_like,
    torch=None,
    differentiable=False,
)
row("to", real(2, 3), minigrad=lambda x: x.to("numpy").to(x.device), numpy=lambda x: x, torch=None)

# --- other shapes: every differentiable op has rows of three or more -------------------------------


def from_list(name: str) -> dict[str, Any]:
    """How libraries call what joins a list of arrays."""
    theirs = {"stack": "stack", "concat": "cat"}[name]
    return {
        "minigrad": lambda *x: getattr(mg, name)(x),
        "numpy": lambda *x: getattr(np, "concatenate" if name == "concat" else name)(x),
        "torch": lambda *x: getattr(torch(), theirs)(x),
    }


def scattered(key: np.ndarray, sizes: tuple[int, ...]) -> dict[str, Any]:
    return {
        "minigrad": lambda x: mg.ops.scatter(x, key_for(x, key)._data, sizes),
        "numpy": lambda x: numpy_scatter(x, key, sizes),
        "torch": None,
    }


def padded(x: np.ndarray, pad_width: int, value: float) -> np.ndarray:
    return np.pad(x, pad_width, constant_values=value)


def swapped_axes(x: Any, axis1: int, axis2: int) -> Any:
    return x.swapaxes(axis1, axis2)


def last(x: Any) -> Any:
    return x[..., -1]


for shape in ((5,), (3, 2, 2)):
    row("clip", real(*shape), settings={"min": -0.5, "max": 0.7}, elementwise=True, **clip)
    row("astype", real(*shape), settings={"dtype": np.float64}, numpy=np.ndarray.astype, torch=None)
    row("to", real(*shape), minigrad=lambda x: x.to("numpy").to(x.device), numpy=lambda x: x, torch=None)
    row("flip", real(*shape), settings={"axis": 0}, torch=lambda x, axis: x.flip(axis))
    row("roll", real(*shape), settings={"shift": -1}, torch=lambda x, shift: x.roll(shift))
    row("squeeze", real(1, *shape), settings={"axis": 0})
    row("expand_dims", real(*shape), settings={"axis": -1}, torch=lambda x, axis: x.unsqueeze(axis))
    row("pad", real(*shape), settings={"pad_width": 1, "value": 0.5}, numpy=padded, torch=None)
    row("stack", real(*shape), real(*shape), **from_list("stack"))
    row("concat", real(*shape), real(*shape), **from_list("concat"))
    row("transpose", real(*shape), torch=lambda x: x.permute(*reversed(range(x.ndim))))
    row("moveaxis", real(*shape), settings={"source": -1, "destination": 0})
    row("scatter", real(*shape), **scattered(np.arange(shape[0])[::-1].copy(), (6, *shape[1:])))
    row("linalg.vector_norm", real(*shape, low=0.3), torch=torch_norm("vector_norm"), ulps=40)
    for name in ("softmax", "log_softmax"):
        log = np.log if name == "log_softmax" else np.asarray
        by_numpy = lambda x, axis, log=log: log(softmax(x, axis))  # noqa: E731
        row(name, real(*shape), settings={"axis": 0}, numpy=by_numpy, ulps=16)
    for name in ("var", "std"):
        row(
            name,
            real(*shape),
            settings={"axis": 0},
            torch=lambda x, axis, name=name: torch_reduction(name)(x, axis, correction=0.0),
        )
    for name in ("mean", "max", "min", "logsumexp"):
        how = {"numpy": logsumexp} if name == "logsumexp" else {}
        theirs = torch_reduction({"max": "amax", "min": "amin"}.get(name, name))
        row(name, real(*shape), settings={"axis": -1}, torch=theirs, **how)
for shape in ((3, 2), (2, 1, 3, 2)):
    swapped = tuple(range(len(shape)))[::-1]
    row(
        "permute_dims",
        real(*shape),
        settings={"axes": swapped},
        numpy=np.transpose,
        torch=lambda x, axes: x.permute(axes),
    )
    row("matrix_transpose", real(*shape), numpy=lambda x: x.swapaxes(-1, -2), torch=lambda x: x.mT)
    row("swapaxes", real(*shape), settings={"axis1": 0, "axis2": -1}, numpy=swapped_axes, torch=swapped_axes)
    row("reshape", real(*shape), settings={"shape": (-1, 2)}, numpy=lambda x, shape: x.reshape(shape))
    row("flatten", real(*shape), numpy=lambda x: x.reshape(-1))
    row("getitem", real(*shape), minigrad=last, numpy=last, torch=last)
    row("take", real(*shape), ints(3, high=2), settings={"axis": -1}, **by_axis)
for a, b in (((), (2, 3)), ((2, 1, 3), (2, 4, 3))):
    row("broadcast_to", real(*a), settings={"shape": b}, torch=lambda x, shape: x.expand(shape))
    row("where", bools(*b), real(*a), real(*b))
    row("outer", real(*b[:1]), real(*b[1:2]))
for shape, axis in (((4,), 0), ((2, 4, 2), 1), ((3, 4, 1), 1), ((5, 4), 1), ((1, 4), 1)):
    target = np.arange(int(np.prod(shape)) // 4).reshape(shape[:axis] + shape[axis + 1 :]) % 4
    row(
        "cross_entropy_rows" if len(shape) == 2 else "cross_entropy_of",
        real(*shape),
        minigrad=lambda x, t=target: cross_entropy(x, mg.tensor(t, device=x.device), reduction="sum"),
        numpy=lambda x, t=target, a=axis: (
            -np.sum(np.take_along_axis(np.log(softmax(x, a)), np.expand_dims(t, a), a))
        ),
        torch=None,
    )


# --- normalization -----------------------------------------------------------------------------------


def numpy_norm(axes: Callable[[np.ndarray], Any], centred: bool = True) -> Callable[..., np.ndarray]:
    """Normalization over the axes that are chosen for x, with a weight and a bias that broadcast."""

    def normalized(x: np.ndarray, weight: np.ndarray, bias: Any = 0.0) -> np.ndarray:
        x = x - x.mean(axes(x), keepdims=True) if centred else x
        along = (-1, *[1] * (x.ndim - 2)) if axes(x) != -1 else (-1,)
        x = x / np.sqrt(np.mean(x**2, axes(x), keepdims=True) + 1e-5)
        return x * weight.reshape(along) + (bias.reshape(along) if isinstance(bias, np.ndarray) else bias)

    return normalized


for shape in ((3, 5), (2, 3, 4), (6,)):
    m = shape[-1]
    row(
        "layer_norm",
        real(*shape),
        real(m),
        real(m),
        minigrad=lambda x, w, b: F.layer_norm(x, x.shape[-1], w, b),
        numpy=numpy_norm(lambda x: -1),
        torch=None,  # see test_normalization.py
    )
    row(
        "rms_norm",
        real(*shape),
        real(m),
        minigrad=lambda x, w: F.rms_norm(x, x.shape[-1], w, 1e-5),
        numpy=numpy_norm(lambda x: -1, centred=False),
        torch=None,
    )
for shape in ((3, 2, 4), (2, 3, 2, 2), (4, 1, 3)):
    row(
        "batch_norm",
        real(*shape),
        real(shape[1]),
        real(shape[1]),
        minigrad=lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        numpy=numpy_norm(lambda x: (0, *range(2, x.ndim))),
        torch=None,
    )


# --- dropout -----------------------------------------------------------------------------------------


def numpy_kept(x: np.ndarray, keep: np.ndarray) -> np.ndarray:
    return np.where(keep, x * 1.25, 0)


for shape, of_mask in (((5,), (5,)), ((2, 3), (2, 3)), ((2, 3, 2), (2, 3, 1))):
    row(
        "keep_scaled",
        real(*shape),
        bools(*of_mask),
        minigrad=lambda x, keep: keep_scaled(x, keep, 1.25),
        numpy=numpy_kept,
        torch=None,  # a dropout whose mask is known
    )


# --- attention ---------------------------------------------------------------------------------------


def numpy_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, visible: Any = True) -> np.ndarray:
    scores = q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])
    e = np.where(visible, np.exp(scores), 0.0)
    total = e.sum(axis=-1, keepdims=True)
    return e / np.where(total == 0, 1.0, total) @ v


def torch_attention(*inputs: Any, **settings: Any) -> Any:
    """By formulas: torch's own kernel has no second derivatives."""
    attention = importlib.import_module("torch.nn.attention")
    with attention.sdpa_kernel(attention.SDPBackend.MATH):
        return torch().nn.functional.scaled_dot_product_attention(*inputs, **settings)


def masked(visible: np.ndarray) -> dict[str, Any]:
    """The functions of a row with this mask."""
    return {
        "minigrad": lambda q, k, v: scaled_dot_product_attention(
            q, k, v, mg.tensor(visible, device=q.device)
        ),
        "numpy": lambda q, k, v: numpy_attention(q, k, v, visible),
        "torch": lambda q, k, v: torch_attention(q, k, v, torch().from_numpy(visible)),
        "ulps": 16,
    }


some = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 1]], bool)
for q, k, v, visible in (
    ((2, 3, 4), (2, 5, 4), (2, 5, 3), some),
    ((3, 4), (5, 4), (5, 2), some[:, :1]),
    ((2, 1, 3, 4), (2, 5, 4), (5, 6), np.ones((2, 1, 5), bool)),
):
    row("scaled_dot_product_attention", real(*q), real(*k), real(*v), **masked(visible))
row(
    "scaled_dot_product_attention",
    real(2, 2, 5, 3),
    real(2, 2, 5, 3),
    real(2, 2, 5, 3),
    minigrad=lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True),
    numpy=lambda q, k, v: numpy_attention(q, k, v, np.tri(5, dtype=bool)),
    torch=lambda q, k, v: torch_attention(q, k, v, is_causal=True),
    ulps=16,
)
