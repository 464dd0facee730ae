"""Convolution, as neural nets understand it: windows over an image, multiplied with a weight and summed.

Three maps, each linear in both of its inputs: the convolution, the transposed one, which leads back from
its result to its input, and the gradient of its weight. Each one's gradients are the other two, so there
are gradients of every order. Over NumPy's arrays each is a compiled kernel, where there is a compiler.
"""

from typing import Any

from ..backend import create, integer
from ..kernels import compiles
from ..primitive import expect_arrays, primitive
from . import convolution_kernels as compiled
from .shaping import expand_dims, squeeze
from .windows import Windows, expect_floats, sizes

# --- the three maps --------------------------------------------------------------------------------


def _columns(xp, x, windows, groups):
    """What the windows see: for each image and group a matrix of (channels and taps, windows)."""
    n, channels = x.shape[:2]
    x = windows.covered(xp, x)
    seen = xp.stack([x[key] for key in windows.taps()], axis=2)
    rows, columns = windows.output
    return xp.reshape(seen, (n, groups, channels // groups * seen.shape[2], rows * columns))


def _grouped(xp, weight, groups):
    """The weight as a matrix of (outputs, channels and taps) for each group."""
    outs, *rest = weight.shape
    return xp.reshape(weight, (groups, outs // groups, rest[0] * rest[1] * rest[2]))


def _sum_of_channels(xp, g):
    """The sum of each channel over images, rows and columns: by a matrix product, which is fast."""
    n, channels, rows, columns = g.shape
    ones = create(xp, "ones", rows * columns, dtype=g.dtype, like=g)
    return xp.sum(xp.reshape(xp.reshape(g, (n * channels, rows * columns)) @ ones, (n, channels)), axis=0)


def _conv2d_dinput(g, weight, windows, groups) -> Any:
    return _conv_transpose2d(g, weight, None, windows, groups)


def _conv2d_dweight(g, input, windows, groups) -> Any:
    return _conv2d_weight(input, g, windows, groups)


@primitive(
    input=_conv2d_dinput,
    weight=_conv2d_dweight,
    bias=_sum_of_channels,
)
def _conv2d(xp, input, weight, bias=None, windows: Any = None, groups=1) -> Any:
    """input (N, C, H, W), weight (outputs, C / groups, kernel), bias (outputs,)."""
    if compiles(input, weight, *([] if bias is None else [bias])):
        return compiled.convolve(input, weight, bias, windows, groups, transposed=False)
    out = _grouped(xp, weight, groups) @ _columns(xp, input, windows, groups)
    out = xp.reshape(out, (input.shape[0], weight.shape[0], *windows.output))
    return out if bias is None else out + xp.reshape(bias, (-1, 1, 1))


def _conv_transpose2d_dweight(g, input, windows, groups) -> Any:
    return _conv2d_weight(g, input, windows, groups)


@primitive(
    input=lambda g, weight, windows, groups: _conv2d(g, weight, None, windows, groups),
    weight=_conv_transpose2d_dweight,
    bias=_sum_of_channels,
)
def _conv_transpose2d(xp, input, weight, bias=None, windows: Any = None, groups=1) -> Any:
    """input (N, outputs, *windows.output), weight as in `_conv2d`: the result is (N, C, *windows.input)."""
    if compiles(input, weight, *([] if bias is None else [bias])):
        return compiled.convolve(input, weight, bias, windows, groups, transposed=True)
    n, outs = input.shape[:2]
    rows, columns = windows.output
    g = xp.reshape(input, (n, groups, outs // groups, rows * columns))
    seen = _grouped(xp, weight, groups).mT @ g
    channels = weight.shape[1] * groups
    seen = xp.reshape(seen, (n, channels, windows.kernel[0] * windows.kernel[1], rows, columns))
    out = create(xp, "zeros", (n, channels, *windows.spans), dtype=seen.dtype, like=seen)
    for i, key in enumerate(windows.taps()):
        out[key] += seen[:, :, i, :, :]
    out = windows.uncovered(xp, out)
    return out if bias is None else out + xp.reshape(bias, (-1, 1, 1))


@primitive(
    input=lambda g, y, windows, groups: _conv_transpose2d(y, g, None, windows, groups),
    y=lambda g, input, windows, groups: _conv2d(input, g, None, windows, groups),
)
def _conv2d_weight(xp, input, y, windows, groups) -> Any:
    """The gradient of the weight of `_conv2d`, where y is that of its result."""
    if compiles(input, y):
        return compiled.weight_gradient(input, y, windows, groups)
    (n, channels), outs = input.shape[:2], y.shape[1]
    rows, columns = windows.output
    seen = _columns(xp, input, windows, groups)
    seen = xp.reshape(xp.permute_dims(seen, (1, 2, 0, 3)), (groups, seen.shape[2], n * rows * columns))
    y = xp.reshape(y, (n, groups, outs // groups, rows * columns))
    y = xp.reshape(xp.permute_dims(y, (1, 2, 0, 3)), (groups, outs // groups, n * rows * columns))
    return xp.reshape(y @ seen.mT, (outs, channels // groups, *windows.kernel))


# --- the public functions --------------------------------------------------------------------------


def conv2d(input, weight, bias=None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups=1) -> Any:
    """The cross-correlation of images with a weight, which nets call convolution (`torch`'s conv2d).

    Element (o, y, x) of a result is bias[o] plus the sum over channels c and taps i, j of
    weight[o, c, i, j] * input[c, y * stride + i * dilation - padding, x * stride + j * dilation - padding],
    where the input is 0 outside.

    Args:
        input: images of shape (N, C, H, W), or one, (C, H, W).
        weight: of shape (outputs, C / groups, kernel height, kernel width).
        bias: of shape (outputs,), or None.
        stride, dilation: an integer, or one for rows and one for columns.
        padding: likewise; or 'valid' for none, or 'same' for as much as leaves the size of the image: of an
            odd number the larger half below and at the right.
        groups: the channels of the input and those of the output are cut into that many groups, each of
            which sees its own alone. With C groups each channel has weights of its own (depthwise).

    Raises:
        TypeError: an input is no array of floating-point numbers, or a setting no integer.
        ValueError: shapes, settings and groups do not fit.

    >>> import minigrad as mg
    >>> mg.conv2d(mg.ones((1, 1, 3, 3)), mg.ones((1, 1, 2, 2)), padding=1)[0, 0].tolist()
    [[1.0, 2.0, 2.0, 1.0], [2.0, 4.0, 4.0, 2.0], [2.0, 4.0, 4.0, 2.0], [1.0, 2.0, 2.0, 1.0]]
    """
    return _convolution("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


def conv1d(input, weight, bias=None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups=1) -> Any:
    """`conv2d` in one dimension: input (N, C, L) or (C, L), weight (outputs, C / groups, kernel)."""
    return _convolution("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


def _convolution(op, axes, input, weight, bias, stride, padding, dilation, groups):
    """conv1d and conv2d: the former as images of one row."""
    groups = _checked(op, axes, input, weight, bias, groups)
    one = (1,) * (2 - axes)  # for the rows that there are not
    size, kernel = ((*one, *a.shape[-axes:]) for a in (input, weight))
    stride = (*one, *sizes(op, "stride", stride, 1, axes))
    dilation = (*one, *sizes(op, "dilation", dilation, 1, axes))
    channels, outs = input.shape[-1 - axes], weight.shape[0]
    if channels != weight.shape[1] * groups or outs % groups:
        needed = f"{groups} times {weight.shape[1]} channels, and outputs for {groups} groups"
        raise _misfit(op, input, weight, bias, needed)
    if bias is not None and tuple(bias.shape) != (outs,):
        raise _misfit(op, input, weight, bias, f"a bias of shape {(outs,)}")
    reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    if isinstance(padding, str):
        if padding not in ("same", "valid") or (padding == "same" and stride != (1, 1)):
            raise ValueError(
                f"{op}: padding must be integers, 'valid', or, with a stride of 1, 'same'; got {padding!r} "
                f"with a stride of {stride[-axes:]}"
            )
        around = reach if padding == "same" else [0, 0]
        before = [a // 2 for a in around]
    else:
        before = [*[0] * (2 - axes), *sizes(op, "padding", padding, 0, axes)]
        around = [2 * b for b in before]
    room = [n + a - r for n, a, r in zip(size, around, reach, strict=True)]  # for the first tap
    if min(room) < 1:
        raise _misfit(op, input, weight, bias, "windows that are no larger than the padded input")
    output = [(r - 1) // s + 1 for r, s in zip(room, stride, strict=True)]
    windows = Windows(*map(tuple, (size, kernel, stride, before, dilation, output)))
    return _as_images(axes, _conv2d, input, weight, bias, windows, groups)


def conv_transpose2d(
    input,
    weight,
    bias=None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups=1,
    dilation: Any = 1,
) -> Any:
    """The transposed map of `conv2d`, which takes images to larger ones (`torch`'s conv_transpose2d).

    Each element of the input is multiplied with the weight and added to a window of the result: to rows
    y * stride + i * dilation - padding, as far as there are such.

    Args:
        input: images of shape (N, C, H, W), or one, (C, H, W).
        weight: of shape (C, outputs / groups, kernel height, kernel width).
        bias: of shape (outputs,), or None.
        stride, padding, dilation, groups: those of the convolution that this is the transposed map of.
        output_padding: how many more rows and columns the result has, at its end: with a stride above 1
            several sizes lead to one. It must be less than stride or dilation.

    Raises:
        TypeError: an input is no array of floating-point numbers, or a setting no integer.
        ValueError: shapes, settings and groups do not fit.
    """
    op = "conv_transpose2d"
    groups = _checked(op, 2, input, weight, bias, groups)
    stride, dilation = (sizes(op, n, v, 1) for n, v in (("stride", stride), ("dilation", dilation)))
    before, more = (sizes(op, n, v, 0) for n, v in (("padding", padding), ("output_padding", output_padding)))
    if any(m >= max(s, d) for m, s, d in zip(more, stride, dilation, strict=True)):
        raise ValueError(
            f"{op}: output_padding must be less than stride or dilation, got {more}, {stride} and {dilation}"
        )
    channels, outs = input.shape[-3], weight.shape[1] * groups
    if channels != weight.shape[0] or channels % groups:
        raise _misfit(op, input, weight, bias, f"{weight.shape[0]} channels in {groups} groups")
    if bias is not None and tuple(bias.shape) != (outs,):
        raise _misfit(op, input, weight, bias, f"a bias of shape {(outs,)}")
    output, kernel = tuple(input.shape[-2:]), tuple(weight.shape[-2:])
    size = tuple(
        (n - 1) * s + (k - 1) * d + 1 - 2 * b + m
        for n, s, k, d, b, m in zip(output, stride, kernel, dilation, before, more, strict=True)
    )
    if min(size) < 1:
        raise _misfit(op, input, weight, bias, f"a result that is not empty: it would be of size {size}")
    windows = Windows(size, kernel, stride, before, dilation, output)
    return _as_images(2, _conv_transpose2d, input, weight, bias, windows, groups)


def _as_images(axes, function, input, weight, bias, windows, groups):
    """`function` of input and weight as batches of images: in one dimension, images of one row."""
    single = len(input.shape) == axes + 1
    if single:
        input = expand_dims(input, 0)
    if axes == 1:
        input, weight = expand_dims(input, -2), expand_dims(weight, -2)
    out = function(input, weight, bias, windows, groups)
    taken = (*([0] if single else []), *([-2] if axes == 1 else []))
    return squeeze(out, taken) if taken else out


def _checked(op, axes, input, weight, bias, groups):
    """`groups` as an integer, if inputs are arrays of floats with as many axes as they must have."""
    expect_arrays(op, input, weight, *([] if bias is None else [bias]))
    expect_floats(op, input=input, weight=weight, **({} if bias is None else {"bias": bias}))
    groups = integer(op, "groups", groups)
    if groups < 1:
        raise ValueError(f"{op}: groups must be at least 1, got {groups}")
    if len(input.shape) not in (axes + 1, axes + 2) or len(weight.shape) != axes + 2 or not all(weight.shape):
        needed = f"an input of {axes + 2} axes (or {axes + 1}, without a batch) and a weight of {axes + 2}"
        raise _misfit(op, input, weight, bias, f"{needed}, which is not empty")
    if not all(input.shape[-1 - axes :]):
        raise _misfit(op, input, weight, bias, "images that are not empty")
    return groups


def _misfit(op, input, weight, bias, needed):
    shapes = f"input {tuple(input.shape)}, weight {tuple(weight.shape)}"
    shapes += "" if bias is None else f", bias {tuple(bias.shape)}"
    return ValueError(f"{op}: got {shapes}; expected {needed}")
