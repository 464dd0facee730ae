"""Normalization: layer, RMS, group and batch norm, as torch.nn.functional has them.

Each is composed of other ops; for NumPy's and CuPy's floats kernels do the same in one or two passes over
memory, forward and backward.
"""

import math
from typing import Any

from ..atomic import at_once
from ..autograd import Variable, wrap
from ..backend import cast, integer, integers, is_floating, namespace, plain
from ..kernels import RowKernel, fits
from ..primitive import expect_arrays, primitive, through_reference
from .dtypes import finfo
from .elementwise import sqrt, square
from .reductions import mean
from .shaping import reshape

# --- over rows: layer norm and RMS norm --------------------------------------------------------------

_LAYER = RowKernel(
    "T x, raw T weight, raw T bias, float64 eps",
    "T y",
    """
    const T middle = SUM(x[j]) / m;
    const T scale = 1 / sqrt(SUM((x[j] - middle) * (x[j] - middle)) / m + T(eps));
    EACH(y[j] = (x[j] - middle) * scale * weight[j] + bias[j])
    """,
    "layer_norm",
)

_LAYER_BACKWARD = RowKernel(
    "T g, T x, raw T weight, float64 eps",
    "T dx",
    """
    const T middle = SUM(x[j]) / m;
    const T scale = 1 / sqrt(SUM((x[j] - middle) * (x[j] - middle)) / m + T(eps));
    const T level = SUM(g[j] * weight[j]) / m;
    const T slope = SUM(g[j] * weight[j] * (x[j] - middle)) / m * scale * scale;
    EACH(
        const T centred = x[j] - middle;
        dx[j] = scale * (g[j] * weight[j] - level - centred * slope);
        dweight[j] += g[j] * centred * scale;
        dbias[j] += g[j]
    )
    """,
    "layer_norm_backward",
    sums="T dweight, T dbias",
    cost=3,
)

_RMS = RowKernel(
    "T x, raw T weight, float64 eps",
    "T y",
    "const T scale = 1 / sqrt(SUM(x[j] * x[j]) / m + T(eps)); EACH(y[j] = x[j] * scale * weight[j])",
    "rms_norm",
)

_RMS_BACKWARD = RowKernel(
    "T g, T x, raw T weight, float64 eps",
    "T dx",
    """
    const T scale = 1 / sqrt(SUM(x[j] * x[j]) / m + T(eps));
    const T slope = SUM(g[j] * weight[j] * x[j]) / m * scale * scale;
    EACH(
        dx[j] = scale * (g[j] * weight[j] - x[j] * slope);
        dweight[j] += g[j] * x[j] * scale
    )
    """,
    "rms_norm_backward",
    sums="T dweight",
    cost=3,
)


def _layer_composed(x, weight, bias, eps):
    centred = x - mean(x, -1, keepdims=True)
    y = centred / sqrt(mean(square(centred), -1, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _layer_rule(xp, g, x, weight, bias, eps, wanted):
    if not fits(g):
        return through_reference(_layer_composed, g, wanted, x=x, weight=weight, bias=bias, eps=eps)
    w = _or_constant(xp, weight, x, 1)
    return dict(zip(("x", "weight", "bias"), _LAYER_BACKWARD(g, x, w, eps), strict=True))


@primitive(x=_layer_rule, weight=_layer_rule, bias=_layer_rule)
def _layer_norm(xp, x, weight=None, bias=None, eps=1e-5):
    return _LAYER(x, _or_constant(xp, weight, x, 1), _or_constant(xp, bias, x, 0), eps)


def _rms_composed(x, weight, eps):
    y = x / sqrt(mean(square(x), -1, keepdims=True) + eps)
    return y if weight is None else y * weight


def _rms_rule(xp, g, x, weight, eps, wanted):
    if not fits(g):
        return through_reference(_rms_composed, g, wanted, x=x, weight=weight, eps=eps)
    gradients = _RMS_BACKWARD(g, x, _or_constant(xp, weight, x, 1), eps)
    return dict(zip(("x", "weight"), gradients, strict=True))


@primitive(x=_rms_rule, weight=_rms_rule)
def _rms_norm(xp, x, weight=None, eps=1e-5):
    return _RMS(x, _or_constant(xp, weight, x, 1), eps)


def _or_constant(xp, array, x, value):
    """`array`, or if there is none a row of `value`."""
    return xp.full(x.shape[-1:], value, dtype=x.dtype) if array is None else array


def _fused(x, *others) -> bool:
    """Whether kernels can take the tensors or arrays x and `others`, each of which may be None."""
    arrays = [v._data if isinstance(v, Variable) else v for v in (x, *others) if v is not None]
    return fits(*arrays)


def _as_rows(op, input, normalized_shape, **parameters):
    """The input with the normalized axes made into one, and the parameters with them flattened."""
    sizes = integers(op, "normalized_shape", normalized_shape)
    expect_arrays(op, input, *[p for p in parameters.values() if p is not None])
    shape = tuple(input.shape)
    if not sizes or shape[-len(sizes) :] != sizes:
        raise ValueError(f"{op}: the input must end in the axes {sizes}, got shape {shape}")
    if not is_floating(input.dtype):
        raise TypeError(f"{op}: the input must be of floats, got {input.dtype}")
    for name, p in parameters.items():
        if p is not None and tuple(p.shape) != sizes:
            raise ValueError(f"{op}: {name} must have the shape {sizes}, got {tuple(p.shape)}")
    if len(sizes) == 1:
        return input, *parameters.values()
    m = math.prod(sizes)
    rows = reshape(input, (*shape[: -len(sizes)], m))
    return rows, *(None if p is None else reshape(p, (m,)) for p in parameters.values())


def layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5) -> Any:
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last axes (Ba, Kiros and Hinton, 2016).

    Args:
        input: floats of shape (…, *normalized_shape). The variance is that of all, divided by their number.
        normalized_shape: an integer or a tuple: the lengths of the last axes.
        weight, bias: of shape `normalized_shape`, or None.
        eps: added to the variance.

    Raises:
        ValueError: the shapes do not fit.
        TypeError: the input is not of floats.
    """
    x, weight, bias = _as_rows("layer_norm", input, normalized_shape, weight=weight, bias=bias)
    norm = _layer_norm if _fused(x, weight, bias) else _layer_composed
    return _shaped(norm(x, weight, bias, eps), input)


def rms_norm(input, normalized_shape, weight=None, eps=None) -> Any:
    """x / sqrt(mean of x² + eps) * weight, over the last axes (Zhang and Sennrich, 2019).

    As `layer_norm`, without mean and bias. `eps` is by default the distance from 1 to the next number of the
    input's dtype, as in torch.
    """
    x, weight = _as_rows("rms_norm", input, normalized_shape, weight=weight)
    if eps is None:
        eps = finfo(x.dtype).eps
    norm = _rms_norm if _fused(x, weight) else _rms_composed
    return _shaped(norm(x, weight, eps), input)


def _shaped(y, input):
    return y if y.shape == input.shape else reshape(y, input.shape)


def group_norm(input, num_groups, weight=None, bias=None, eps=1e-5) -> Any:
    """Channels normalized in `num_groups` groups, each with all its places (Wu and He, 2018).

    Args:
        input: floats of shape (N, C, …).
        num_groups: by which C must be divisible.
        weight, bias: of shape (C,), or None.
        eps: added to the variance.

    Raises:
        ValueError: the shapes do not fit.
    """
    num_groups = integer("group_norm", "num_groups", num_groups)
    shape = _checked_channels("group_norm", input, weight=weight, bias=bias)
    if num_groups < 1 or shape[1] % num_groups:
        raise ValueError(f"group_norm: {shape[1]} channels cannot be cut into {num_groups} groups")
    m = math.prod(shape[1:]) // num_groups
    y = reshape(layer_norm(reshape(input, (shape[0], num_groups, m)), m, eps=eps), shape)
    along = (1, shape[1], *[1] * (len(shape) - 2))
    y = y if weight is None else y * reshape(weight, along)
    return y if bias is None else y + reshape(bias, along)


def _checked_channels(op, input, **parameters) -> tuple[int, ...]:
    """The shape of the input, (N, C, …), if the parameters have the shape (C,)."""
    expect_arrays(op, input, *[p for p in parameters.values() if p is not None])
    shape = tuple(input.shape)
    if len(shape) < 2:
        raise ValueError(f"{op}: the input must have the axes (N, C, …), got shape {shape}")
    if not is_floating(input.dtype):
        raise TypeError(f"{op}: the input must be of floats, got {input.dtype}")
    for name, p in parameters.items():
        if p is not None and tuple(p.shape) != shape[1:2]:
            raise ValueError(f"{op}: {name} must have the shape {shape[1:2]}, got {tuple(p.shape)}")
    return shape


# --- over batches -----------------------------------------------------------------------------------

# A row is one channel of one example: c is its channel.
_ROW_SUMS = RowKernel("T x", "raw T total", "total[i] = SUM(x[j])", "row_sums")

_ROW_SQUARES = RowKernel(
    "T x, raw T middle, int64 channels",
    "raw T total",
    "const T c = middle[i % channels]; total[i] = SUM((x[j] - c) * (x[j] - c))",
    "row_squares",
)

_BATCH = RowKernel(
    "T x, raw T middle, raw T scale, raw T weight, raw T bias, int64 channels",
    "T y",
    """
    const int64_t c = i % channels;
    const T factor = scale[c] * weight[c];
    EACH(y[j] = (x[j] - middle[c]) * factor + bias[c])
    """,
    "batch_norm",
)

_BATCH_SUMS = RowKernel(
    "T g, T x, raw T middle, int64 channels",
    "raw T total, raw T product",
    """
    const T c = middle[i % channels];
    total[i] = SUM(g[j]);
    product[i] = SUM(g[j] * (x[j] - c));
    """,
    "batch_norm_sums",
)

_BATCH_DX = RowKernel(
    "T g, T x, raw T middle, raw T factor, raw T level, raw T slope, int64 channels",
    "T dx",
    """
    const int64_t c = i % channels;
    EACH(dx[j] = factor[c] * (g[j] - level[c] - (x[j] - middle[c]) * slope[c]))
    """,
    "batch_norm_dx",
)


def _batch_composed(x, weight, bias, eps):
    axes = (0, *range(2, len(x.shape)))
    centred = x - mean(x, axes, keepdims=True)
    return _affine(centred / sqrt(mean(square(centred), axes, keepdims=True) + eps), weight, bias)


def _affine(x, weight, bias):
    along = (-1, *[1] * (len(x.shape) - 2))
    x = x if weight is None else x * reshape(weight, along)
    return x if bias is None else x + reshape(bias, along)


def _batch_rule(xp, g, x, weight, bias, eps, kept, wanted):
    if not fits(g):
        return through_reference(_batch_composed, g, wanted, x=x, weight=weight, bias=bias, eps=eps)
    middle, scale = kept
    n, channels, *places = x.shape
    count = n * math.prod(places)
    g_rows, x_rows = xp.reshape(g, (n, channels, -1)), xp.reshape(x, (n, channels, -1))
    total, product = (xp.sum(s, axis=0) for s in _BATCH_SUMS(g_rows, x_rows, middle, channels))
    gradients = {"weight": product * scale, "bias": total}
    if "x" in wanted:
        factor = scale if weight is None else scale * weight
        slope = product * scale * scale / count
        dx = _BATCH_DX(g_rows, x_rows, middle, factor, total / count, slope, channels)
        gradients["x"] = xp.reshape(dx, x.shape)
    return gradients


@primitive(x=_batch_rule, weight=_batch_rule, bias=_batch_rule)
def _batch_norm(xp, x, weight=None, bias=None, eps=1e-5, statistics: Any = None):
    n, channels = x.shape[:2]
    middle, variance = statistics
    scale = 1 / xp.sqrt(variance + eps)
    w = xp.ones_like(middle) if weight is None else weight
    b = xp.zeros_like(middle) if bias is None else bias
    y = _BATCH(xp.reshape(x, (n, channels, -1)), middle, scale, w, b, channels)
    return xp.reshape(y, x.shape), (middle, scale)


def _statistics(x, axes, fused):
    """The mean and the variance of each channel of the array x, over the other `axes`."""
    if not fused:
        xp = namespace("batch_norm", [x])
        return xp.mean(x, axis=axes), xp.var(x, axis=axes)
    n, channels, *places = x.shape
    rows, count = x.reshape(n, channels, -1), n * math.prod(places)
    middle = _ROW_SUMS(rows).sum(axis=0) / count
    return middle, _ROW_SQUARES(rows, middle, channels).sum(axis=0) / count


def batch_norm(
    input,
    running_mean,
    running_var,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
) -> Any:
    """Each channel normalized over the batch (Ioffe and Szegedy, 2015).

    Args:
        input: floats of shape (N, C, …).
        running_mean, running_var: tensors of shape (C,). In training they get a new value, (1 - momentum)
            times the old one and `momentum` times that of the batch, where the variance is the unbiased one;
            otherwise they are what is normalized by. Both None: always by the batch.
        weight, bias: of shape (C,), or None.
        training: normalize by the batch.
        momentum: see above.
        eps: added to the variance.

    Raises:
        ValueError: shapes do not fit; or in training there are not two values for each channel.
    """
    out, changes = batch_norm_and_changes(
        input, running_mean, running_var, weight, bias, training, momentum, eps
    )
    at_once(changes)
    return out


def batch_norm_and_changes(
    input, running_mean, running_var, weight, bias, training, momentum, eps
) -> tuple[Any, list[tuple[Any, ...]]]:
    """The result of `batch_norm`, and what makes the running statistics follow (see `atomic.py`)."""
    shape = _checked_channels(
        "batch_norm", input, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var
    )
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("batch_norm: outside of training it needs running_mean and running_var")
        along = (-1, *[1] * (len(shape) - 2))
        scale = 1 / sqrt(running_var + eps)
        shift = -running_mean * scale
        scale, shift = (scale, shift) if weight is None else (scale * weight, shift * weight)
        shift = shift if bias is None else shift + bias
        return input * reshape(scale, along) + reshape(shift, along), []
    count = math.prod(shape) // shape[1] if shape[1] else 0
    if count < 2:
        raise ValueError(
            f"batch_norm: training needs more than one value for each channel, got shape {shape}"
        )
    array = input._data if isinstance(input, Variable) else input
    if running_mean is not None and plain(array) is not array:
        raise ValueError("batch_norm: running statistics cannot follow the examples of vmap; use eval()")
    fused = len(shape) > 2 and _fused(input, weight, bias)
    statistics: Any = None
    if fused or running_mean is not None:
        statistics = _statistics(array, (0, *range(2, len(shape))), fused)
    if fused:
        out = _batch_norm(input, weight, bias, eps, statistics)
    else:
        out = _batch_composed(input, weight, bias, eps)
    changes: list[tuple[Any, ...]] = []
    if running_mean is not None:
        middle, variance = statistics
        for running, value in ((running_mean, middle), (running_var, variance * (count / (count - 1)))):
            value = running._data * (1 - momentum) + value * momentum
            changes += running._taking(wrap(cast(namespace("batch_norm", [value]), value, running.dtype)))
    return out, changes
