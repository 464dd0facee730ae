"""Pooling: the largest element or the mean of each window that slides over an image."""

from typing import Any

from ..backend import create, integer
from ..kernels import compiles
from ..primitive import expect_arrays, primitive
from . import pooling_kernels as compiled
from .products import matmul
from .shaping import matrix_transpose
from .windows import Windows, expect_floats, sizes

# --- the largest -----------------------------------------------------------------------------------


def _places(xp, x, windows):
    """The largest element of each window, and which tap found it: the first, or the last NaN, as in torch."""
    dtype = xp.uint8 if windows.kernel[0] * windows.kernel[1] <= 256 else xp.int32
    rows, columns = windows.first_taps()
    first = [[i * windows.kernel[1] + j for j in columns] for i in rows]
    shape = (*x.shape[:-2], *windows.output)
    place = xp.broadcast_to(create(xp, "asarray", first, dtype=dtype, like=x), shape)
    out = create(xp, "full", shape, -float("inf"), dtype=x.dtype, like=x)
    x = windows.covered(xp, x, -float("inf"))
    for tap, key in enumerate(windows.taps()):
        taken = (x[key] > out) | xp.isnan(x[key])
        out = xp.where(taken, x[key], out)
        place = xp.where(taken, create(xp, "asarray", tap, dtype=dtype, like=place), place)
    return out, place


def _max_pool2d_dinput(g, kept, windows) -> Any:
    return _to_places(g, kept, windows)


@primitive(input=_max_pool2d_dinput)
def _max_pool2d(xp, input, windows) -> Any:
    """The largest element of each window of the last two axes."""
    if compiles(input):
        return compiled.largest(input, windows)
    return _places(xp, input, windows)


def _to_places_dy(g, places, windows) -> Any:
    return _from_places(g, places, windows)


@primitive(y=_to_places_dy)
def _to_places(xp, y, places, windows) -> Any:
    """The gradient of `_max_pool2d`, where y is that of its result: to the taps that found the largest."""
    if compiles(y) and type(places) is type(y):
        return compiled.to_places(y, places, windows)
    out = create(xp, "zeros", (*y.shape[:-2], *windows.spans), dtype=y.dtype, like=y)
    for tap, key in enumerate(windows.taps()):
        out[key] += xp.where(places == tap, y, 0.0)
    return windows.uncovered(xp, out)


@primitive(input=lambda g, places, windows: _to_places(g, places, windows))
def _from_places(xp, input, places, windows) -> Any:
    """The other way round: what the input has where the largest elements were found."""
    x = windows.covered(xp, input)
    out = create(xp, "zeros", places.shape, dtype=x.dtype, like=x)
    for tap, key in enumerate(windows.taps()):
        out = xp.where(places == tap, x[key], out)
    return out


@primitive()
def _max_places(xp, input, windows) -> Any:
    """Where in each image the largest element of a window is, as a number of rows and columns."""
    (_, width), (_, kernel_w), (s, t), (top, left), (d, e), (rows, columns) = windows
    tap = xp.astype(_places(xp, input, windows)[1], xp.int64)
    row = create(xp, "arange", rows, dtype=xp.int64, like=tap) * s - top
    column = create(xp, "arange", columns, dtype=xp.int64, like=tap) * t - left
    return (tap // kernel_w * d + xp.expand_dims(row, axis=-1)) * width + tap % kernel_w * e + column


def max_pool2d(
    input,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode=False,
    return_indices=False,
) -> Any:
    """The largest element of each window (`torch`'s max_pool2d).

    A window with a NaN gives NaN. Of equal elements the first, in the order of rows, gets the gradient; of
    several NaN the last. Both as in torch.

    Args:
        input: images of shape (N, C, H, W), or one, (C, H, W).
        kernel_size, stride, padding, dilation: an integer, or one for rows and one for columns. The stride
            is that of the kernel's size by default. In the padding nothing is found.
        ceil_mode: whether a last window may reach beyond the image and its padding, if it begins inside.
        return_indices: whether to return a pair: the result, and where each was found, as
            row * W + column.

    Raises:
        TypeError: the input is no array of floating-point numbers, or a setting no integer.
        ValueError: the input has other axes, or the settings do not fit.

    >>> import minigrad as mg
    >>> mg.max_pool2d(mg.reshape(mg.arange(16.0), (1, 4, 4)), 2).tolist()
    [[[5.0, 7.0], [13.0, 15.0]]]
    """
    windows = _windows("max_pool2d", input, kernel_size, stride, padding, dilation, ceil_mode)
    out = _max_pool2d(input, windows)
    return (out, _max_places(input, windows)) if return_indices else out


# --- the mean --------------------------------------------------------------------------------------


def _avg_pool2d_dinput(g, windows, counted) -> Any:
    return _spread(g, windows, counted)


@primitive(input=_avg_pool2d_dinput)
def _avg_pool2d(xp, input, windows, counted) -> Any:
    """The sum of each window of the last two axes, divided as `_divisors` says."""
    if compiles(input):
        return compiled.mean(input, windows, *_divisors(windows, counted))
    x = windows.covered(xp, input)
    out = create(xp, "zeros", (*x.shape[:-2], *windows.output), dtype=x.dtype, like=x)
    for key in windows.taps():
        out = out + x[key]
    return out / _divisor(xp, out, windows, counted)


@primitive(y=lambda g, windows, counted: _avg_pool2d(g, windows, counted))
def _spread(xp, y, windows, counted) -> Any:
    """The gradient of `_avg_pool2d`, where y is that of its result: to each tap its part."""
    if compiles(y):
        return compiled.spread(y, windows, *_divisors(windows, counted))
    y = y / _divisor(xp, y, windows, counted)
    out = create(xp, "zeros", (*y.shape[:-2], *windows.spans), dtype=y.dtype, like=y)
    for key in windows.taps():
        out[key] += y
    return windows.uncovered(xp, out)


def _divisors(windows, counted):
    """By what the sum of a window is divided: the product of a number for its row and one for its column.

    What is `counted` are the places in the image, those in the image and its padding, or a number.
    """
    if counted not in ("image", "padding"):
        return [counted] * windows.output[0], [1] * windows.output[1]
    rows, columns = (
        [
            min(o * s - p + k, n + (p if counted == "padding" else 0))
            - max(o * s - p, -p if counted == "padding" else 0)
            for o in range(count)
        ]
        for n, k, s, p, _, count in zip(*windows, strict=True)
    )
    return rows, columns


def _divisor(xp, x, windows, counted):
    rows, columns = (create(xp, "asarray", d, dtype=x.dtype, like=x) for d in _divisors(windows, counted))
    return xp.expand_dims(rows, axis=-1) * columns


def avg_pool2d(
    input,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
) -> Any:
    """The mean of each window (`torch`'s avg_pool2d).

    Args:
        input: images of shape (N, C, H, W), or one, (C, H, W).
        kernel_size, stride, padding: an integer, or one for rows and one for columns. The stride is that of
            the kernel's size by default. The padding is of zeros.
        ceil_mode: whether a last window may reach beyond the image and its padding, if it begins inside.
            What is beyond does not count.
        count_include_pad: whether the zeros of the padding count.
        divisor_override: divide by this, and not by how many elements count.

    Raises:
        TypeError: the input is no array of floating-point numbers, or a setting no integer.
        ValueError: the input has other axes, or the settings do not fit.
    """
    op = "avg_pool2d"
    windows = _windows(op, input, kernel_size, stride, padding, 1, ceil_mode)
    counted: Any = "padding" if count_include_pad else "image"
    if divisor_override is not None:
        counted = integer(op, "divisor_override", divisor_override)
        if counted == 0:
            raise ValueError(f"{op}: divisor_override must not be 0")
    return _avg_pool2d(input, windows, counted)


def adaptive_avg_pool2d(input, output_size: Any) -> Any:
    """The means of windows that cover the image, as many of them as are asked for.

    Window o of n goes from row floor(o * H / n) to row ceil((o + 1) * H / n): all rows are in some window,
    and where n does not divide H windows overlap. (`torch`'s adaptive_avg_pool2d.)

    Args:
        input: images of shape (N, C, H, W), or one, (C, H, W).
        output_size: how many rows and columns of windows: an integer, or a pair; None in it stands for the
            size of the image.

    Raises:
        TypeError: the input is no array of floating-point numbers, or a size no integer.
        ValueError: the input has other axes, or a size is negative.
    """
    op = "adaptive_avg_pool2d"
    size = _checked(op, input)
    if isinstance(output_size, (tuple, list)):
        if len(output_size) != 2:
            raise ValueError(f"{op}: output_size must be an integer or a pair, got {output_size!r}")
        output_size = tuple(n if o is None else o for o, n in zip(output_size, size, strict=True))
    count = sizes(op, "output_size", size if output_size is None else output_size, 0)
    if all(count) and all(n % o == 0 for n, o in zip(size, count, strict=True)):
        kernel = (size[0] // count[0], size[1] // count[1])
        return _avg_pool2d(input, Windows(size, kernel, kernel, (0, 0), (1, 1), count), "image")
    return matmul(matmul(_means(input, -2, count[0]), input), matrix_transpose(_means(input, -1, count[1])))


@primitive()
def _means(xp, input, axis, count) -> Any:
    """The matrix that takes what lies along an axis of the input to the means of `count` windows."""
    size = input.shape[axis]
    matrix = []
    for o in range(count):
        first, end = o * size // count, -(-(o + 1) * size // count)
        matrix.append([(first <= k < end) / (end - first) for k in range(size)])
    return xp.reshape(create(xp, "asarray", matrix, dtype=input.dtype, like=input), (count, size))


# --- arguments -------------------------------------------------------------------------------------


def _checked(op, input):
    """The size of the images, if the input is an array of them."""
    expect_arrays(op, input)
    expect_floats(op, input=input)
    shape = tuple(input.shape)
    if len(shape) not in (3, 4) or not all(shape[-3:]):
        raise ValueError(f"{op}: expected images of shape (N, C, H, W) or (C, H, W), got {shape}")
    return shape[-2], shape[-1]


def _windows(op, input, kernel_size, stride, padding, dilation, ceil_mode):
    """Where the windows of a pooling function stand."""
    size = _checked(op, input)
    kernel = sizes(op, "kernel_size", kernel_size, 1)
    stride = kernel if stride is None else sizes(op, "stride", stride, 1)
    padding, dilation = sizes(op, "padding", padding, 0), sizes(op, "dilation", dilation, 1)
    output = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        if 2 * p > k:
            raise ValueError(f"{op}: padding must be at most half of kernel_size, got {padding} and {kernel}")
        room = n + 2 * p - (k - 1) * d - 1
        count = room // s + 1
        if ceil_mode and room % s and count * s < n + p:
            count += 1
        output.append(count)
    if min(output) < 1:
        raise ValueError(
            f"{op}: windows of {kernel} are larger than the padded images of an input {tuple(input.shape)}"
        )
    return Windows(size, kernel, stride, padding, dilation, (output[0], output[1]))
