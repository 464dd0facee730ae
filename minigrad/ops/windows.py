"""Windows that slide over the last two axes: where they stand, for convolution and pooling alike."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..backend import create, integers, is_floating

Pair = tuple[int, ...]
"""A number of rows, and one of columns."""


class Windows(NamedTuple):
    """Where the windows stand, in rows and columns.

    Tap t of window o reads place `o * stride + t * dilation - padding` of the input: nothing where that is
    outside.

    Attributes:
        input: how many rows and columns the input has.
        kernel: those of a window, which are its taps.
        stride: how far one window stands from the next.
        padding: how far the first one begins before the input.
        dilation: how far one tap is from the next.
        output: how many windows there are.
    """

    input: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    output: Pair

    @property
    def spans(self) -> Pair:
        """How many places the windows cover from the first to the last, in rows and in columns."""
        rows, columns = (
            (o - 1) * s + (k - 1) * d + 1
            for o, s, k, d in zip(self.output, self.stride, self.kernel, self.dilation, strict=True)
        )
        return rows, columns

    def taps(self) -> Iterator[tuple[Any, ...]]:
        """For each tap the key of what it reads of what `covered` gives: an array of the output's shape."""
        (kernel_h, kernel_w), (s, t), (d, e), (rows, columns) = (
            self.kernel,
            self.stride,
            self.dilation,
            self.output,
        )
        for i in range(kernel_h):
            for j in range(kernel_w):
                yield (
                    ...,
                    slice(i * d, i * d + (rows - 1) * s + 1, s),
                    slice(j * e, j * e + (columns - 1) * t + 1, t),
                )

    def first_taps(self) -> tuple[list[int], list[int]]:
        """For each row and each column of windows the first tap that reads inside the input."""
        rows, columns = (
            [max(0, -(-(p - o * s) // d)) for o in range(count)]
            for _, _, s, p, d, count in zip(*self, strict=True)
        )
        return rows, columns

    def covered(self, xp, x, value: float = 0.0) -> Any:
        """The places of x that the windows cover, from the first to the last: `value` where x has none."""
        return _shifted(xp, x, self.spans, self.padding, value)

    def uncovered(self, xp, x) -> Any:
        """What lies in the input of an array such as `covered` gives; 0 where that does not reach."""
        return _shifted(xp, x, self.input, (-self.padding[0], -self.padding[1]), 0.0)


def _shifted(xp, x, sizes, shifts, value):
    """x with last axes of these sizes, each element moved on by `shifts`."""
    if x.shape[-2:] == sizes and shifts == (0, 0):
        return x
    out = create(xp, "full", (*x.shape[:-2], *sizes), value, dtype=x.dtype, like=x)
    to, of = [], []
    for size, own, shift in zip(sizes, x.shape[-2:], shifts, strict=True):
        first = max(shift, 0)
        last = max(first, min(size, own + shift))
        to.append(slice(first, last))
        of.append(slice(first - shift, last - shift))
    out[(..., *to)] = x[(..., *of)]
    return out


# --- arguments -------------------------------------------------------------------------------------


def sizes(op: str, name: str, value: Any, least: int, axes: int = 2) -> tuple[int, ...]:
    """A setting as an integer for each of the axes, each at least `least`; one alone stands for all.

    Raises:
        TypeError: it is no integer and no tuple or list of them.
        ValueError: it is too small, or there are more or fewer of them.
    """
    given = integers(op, name, value)
    given = given * axes if len(given) == 1 else given
    if len(given) != axes or min(given) < least:
        raise ValueError(
            f"{op}: {name} must be an integer of at least {least}"
            f"{', or a pair of them' if axes == 2 else ''}, got {value!r}"
        )
    return given


def expect_floats(op: str, **arrays: Any) -> None:
    """Raise `TypeError` unless these are arrays of floating-point numbers."""
    for name, array in arrays.items():
        if not is_floating(array.dtype):
            raise TypeError(f"{op}: {name} must hold floating-point numbers, got {array.dtype}")
