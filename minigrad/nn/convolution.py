"""Layers that convolve: torch's names, arguments, defaults and parameter layouts."""

import math
from typing import Any

from .. import ops
from ..backend import integer
from ..ops.windows import sizes
from ..tensor import Tensor
from . import init
from .module import Module
from .parameter import Parameter

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Convolution(Module):
    """What the layers of this file share: settings, parameters and their initial values."""

    axes = 2
    modes = PADDING_MODES
    output_padding: tuple[int, ...] = ()

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        bias: bool,
        padding_mode: str,
        weight_channels: tuple[int, int],
        dtype: Any,
        device: str | None,
    ):
        name, axes = type(self).__name__, self.axes
        for what, value in (
            ("in_channels", in_channels),
            ("out_channels", out_channels),
            ("groups", groups),
        ):
            if integer(name, what, value) < 1:
                raise ValueError(f"{name}: {what} must be at least 1, got {value}")
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{name}: {in_channels} and {out_channels} channels cannot be cut into {groups} groups"
            )
        if padding_mode not in self.modes:
            raise ValueError(f"{name}: padding_mode must be one of {self.modes}, got {padding_mode!r}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = sizes(name, "kernel_size", kernel_size, 1, axes)
        self.stride = sizes(name, "stride", stride, 1, axes)
        self.dilation = sizes(name, "dilation", dilation, 1, axes)
        if not isinstance(padding, str):
            self.padding: Any = sizes(name, "padding", padding, 0, axes)
        elif padding == "valid" or (padding == "same" and set(self.stride) == {1}):
            self.padding = padding
        else:
            raise ValueError(
                f"{name}: padding must be integers, 'valid', or, with a stride of 1, 'same'; got {padding!r} "
                f"with a stride of {self.stride}"
            )
        self.groups = groups
        self.padding_mode = padding_mode
        shape = (weight_channels[0], weight_channels[1] // groups, *self.kernel_size)
        self.weight = Parameter(ops.empty(shape, dtype=dtype, device=device))
        self.bias: Any = Parameter(ops.empty(out_channels, dtype=dtype, device=device)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(math.prod(self.weight.shape[1:]))
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        shown = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        shown.append(f"stride={self.stride}")
        if self.padding != (0,) * self.axes:
            shown.append(f"padding={self.padding}")
        if self.dilation != (1,) * self.axes:
            shown.append(f"dilation={self.dilation}")
        if any(self.output_padding):
            shown.append(f"output_padding={self.output_padding}")
        if self.groups != 1:
            shown.append(f"groups={self.groups}")
        if self.bias is None:
            shown.append("bias=False")
        if self.padding_mode != "zeros":
            shown.append(f"padding_mode={self.padding_mode}")
        return ", ".join(shown)

    def _padded(self, x: Tensor) -> tuple[Tensor, Any]:
        """x with the padding of a mode other than 'zeros', and what is left to pad."""
        if self.padding_mode == "zeros" or self.padding == "valid":
            return x, self.padding
        for a in range(self.axes):
            if self.padding == "same":
                around = (self.kernel_size[a] - 1) * self.dilation[a]
                before, after = around // 2, around - around // 2
            else:
                before = after = self.padding[a]
            if before or after:
                x = self._extended(x, a - self.axes, before, after)
        return x, 0

    def _extended(self, x: Tensor, axis: int, before: int, after: int) -> Tensor:
        """x with more places along an axis, which repeat others by `padding_mode`."""
        n = x.shape[axis]
        most = {"reflect": n - 1, "circular": n, "replicate": max(before, after) if n else 0}
        if max(before, after) > most[self.padding_mode]:
            raise ValueError(
                f"{type(self).__name__}: padding_mode {self.padding_mode!r} cannot pad an axis of {n} by "
                f"{max(before, after)}, got input {x.shape}"
            )
        places: Any = range(-before, n + after)
        if self.padding_mode == "circular":
            places = [i % n for i in places]
        elif self.padding_mode == "replicate":
            places = [min(max(i, 0), n - 1) for i in places]
        else:
            places = [n - 1 - abs(n - 1 - abs(i)) for i in places]
        return ops.take(x, ops.asarray(places, device=x.device), axis=axis)


class Conv2d(_Convolution):
    """A convolution of images of shape (N, C, H, W), or of one, (C, H, W): see `functional.conv2d`.

    The parameters, `weight` of shape (out_channels, in_channels / groups, kernel height, kernel width) and
    `bias` of shape (out_channels,), begin spread evenly over ±1/sqrt(fan_in), as in torch.

    Args:
        in_channels, out_channels: how many channels images have, and how many the result.
        kernel_size, stride, dilation: an integer, or one for rows and one for columns.
        padding: likewise, or 'same' or 'valid'.
        groups: into how many groups of channels, each of which sees its own alone.
        bias: whether there is one.
        padding_mode: what is in the padding: 'zeros', or elements of the image: 'reflect' for those beside
            its edge in reverse, 'replicate' for those at the edge, 'circular' for those of the other side.

    Raises:
        TypeError: a setting is no integer.
        ValueError: settings are too small, unknown, or do not fit each other.

    >>> import minigrad as mg
    >>> layer = mg.nn.Conv2d(1, 4, 3, stride=2, padding=1)
    >>> layer
    Conv2d(1, 4, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
    >>> layer(mg.ones((2, 1, 28, 28))).shape
    (2, 4, 14, 14)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        dtype: Any = None,
        device: str | None = None,
    ):
        settings = (kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        channels = out_channels, in_channels
        super().__init__(in_channels, out_channels, *settings, channels, dtype, device)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of x with `weight`, plus `bias`."""
        x, padding = self._padded(x)
        function = ops.conv1d if self.axes == 1 else ops.conv2d
        return function(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv1d(Conv2d):
    """`Conv2d` in one dimension: of series of shape (N, C, L), or of one, (C, L).

    `weight` is of shape (out_channels, in_channels / groups, kernel_size).
    """

    axes = 1


class ConvTranspose2d(_Convolution):
    """The transposed map of a convolution, to larger images: see `functional.conv_transpose2d`.

    The parameters, `weight` of shape (in_channels, out_channels / groups, kernel height, kernel width) and
    `bias` of shape (out_channels,), begin as in torch: spread evenly over ±1/sqrt(n), where n is the number
    of elements of weight[0].

    Args:
        in_channels, out_channels: how many channels images have, and how many the result.
        kernel_size, stride, padding, dilation, groups: those of the convolution; integers, or pairs.
        output_padding: how many more rows and columns the result has at its end.
        bias: whether there is one.
        padding_mode: 'zeros', the only one.

    Raises:
        TypeError: a setting is no integer.
        ValueError: settings are too small, unknown, or do not fit each other.
    """

    modes = ("zeros",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        dtype: Any = None,
        device: str | None = None,
    ):
        name = type(self).__name__
        padding = sizes(name, "padding", padding, 0)  # neither 'same' nor 'valid'
        self.output_padding = sizes(name, "output_padding", output_padding, 0)
        settings = (kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        channels = in_channels, out_channels
        super().__init__(in_channels, out_channels, *settings, channels, dtype, device)

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        """The transposed convolution of x with `weight`, plus `bias`.

        `output_size` says how many rows and columns the result is to have, instead of `output_padding`.

        Raises:
            ValueError: no convolution of these settings leads from that size to that of x.
        """
        more = self.output_padding
        if output_size is not None:
            given = sizes("ConvTranspose2d", "output_size", output_size, 1)
            settings = zip(
                x.shape[-2:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True
            )
            least = [(n - 1) * s - 2 * p + (k - 1) * d + 1 for n, k, s, p, d in settings]
            more = tuple(g - n for g, n in zip(given, least, strict=True))
            if any(not 0 <= m < s for m, s in zip(more, self.stride, strict=True)):
                largest = [n + s - 1 for n, s in zip(least, self.stride, strict=True)]
                raise ValueError(
                    f"ConvTranspose2d: output_size must be from {least} to {largest} for input {x.shape}, "
                    f"got {output_size}"
                )
        settings = self.stride, self.padding, more, self.groups, self.dilation
        return ops.conv_transpose2d(x, self.weight, self.bias, *settings)
