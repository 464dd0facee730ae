"""How convolution kernels lay out images: in planes by the phase of the stride, with the padding as zeros.

See `convolution_kernels.py` for what they do with them.
"""

from collections.abc import Sequence
from typing import NamedTuple

from .windows import Pair, Windows


class Tap(NamedTuple):
    """A tap of one phase of the result: in which plane it reads, how far on, and which weight is its."""

    plane: int
    down: int
    right: int
    weight: int


class Layout(NamedTuple):
    """How images are read from an array into planes, or written to one from planes: `Read` in the text.

    Place (j, k) of the plane that begins at (a, b) is row `j * stride[0] + a - offset[0]` of the image, and
    column `k * stride[1] + b - offset[1]`.
    """

    size: Pair
    stride: Pair
    offset: Pair
    planes: list[Pair]


class Plan(NamedTuple):
    """What a map does to one group of channels of an image."""

    read: Layout
    write: Layout
    rows: int  # of each plane of the result
    columns: int
    taps: list[list[Tap]]  # by planes of the result


def forward(windows: Windows) -> Plan:
    """The plan of a convolution, or, as to its planes, of the gradient of its weight."""
    (height, width), (kernel_h, kernel_w), (s, t), padding, (d, e), (rows, columns) = windows
    planes = sorted({(i * d % s, j * e % t) for i in range(kernel_h) for j in range(kernel_w)})
    taps = [
        Tap(planes.index((i * d % s, j * e % t)), i * d // s, j * e // t, i * kernel_w + j)
        for i in range(kernel_h)
        for j in range(kernel_w)
    ]
    read = Layout((height, width), (s, t), padding, planes)
    return Plan(read, Layout((rows, columns), (1, 1), (0, 0), [(0, 0)]), rows, columns, [taps])


def transposed(windows: Windows) -> Plan:
    """The plan of the transposed map: from what the windows give to what they look at."""
    (height, width), (kernel_h, kernel_w), (s, t), (top, left), (d, e), (rows, columns) = windows
    # Place r of the image, padding included, gets tap i from result (r - i * d) / s, if that is whole.
    first = top // s, left // t  # the first row of a phase that reaches into the image
    reach = (kernel_h - 1) * d // s, (kernel_w - 1) * e // t
    planes = [(a, b) for a in range(s) for b in range(t)]
    taps = [
        [
            Tap(0, reach[0] - i * d // s, reach[1] - j * e // t, i * kernel_w + j)
            for i in range(kernel_h)
            for j in range(kernel_w)
            if (i * d % s, j * e % t) == plane
        ]
        for plane in planes
    ]
    read = Layout((rows, columns), (1, 1), (reach[0] - first[0], reach[1] - first[1]), [(0, 0)])
    write = Layout((height, width), (s, t), (top - first[0] * s, left - first[1] * t), planes)
    return Plan(
        read, write, (top + height - 1) // s - first[0] + 1, (left + width - 1) // t - first[1] + 1, taps
    )


def _inside(layout: Layout, plane: Pair, axis: int) -> Pair:
    """The first of the rows or columns of a plane that lie in the image, and the one after the last."""
    shift = layout.offset[axis] - plane[axis]
    return max(0, -(-shift // layout.stride[axis])), (layout.size[axis] - 1 + shift) // layout.stride[
        axis
    ] + 1


def _numbers(name: str, values: Sequence[int]) -> str:
    return f"constexpr int {name}[] = {{{', '.join(map(str, values or [0]))}}};"


def _layout_text(name: str, layout: Layout) -> str:
    """The layout as a type of C++."""
    starts = {k: ", ".join(str(plane[axis]) for plane in layout.planes) for axis, k in enumerate("ab")}
    return (
        f"struct {name} {{ static constexpr ptrdiff_t height = {layout.size[0]}, width = {layout.size[1]}, "
        f"down = {layout.stride[0]}, right = {layout.stride[1]}, top = {layout.offset[0]}, "
        f"left = {layout.offset[1]}; static constexpr int planes = {len(layout.planes)}, "
        f"a[] = {{{starts['a']}}}, b[] = {{{starts['b']}}}; }};"
    )


def _width(plan: Plan) -> int:
    """How many columns of a plane are read."""
    return plan.columns + max(tap.right for phase in plan.taps for tap in phase)


def pitch(plan: Plan) -> int:
    """How far apart the rows of a plane lie: zeros at the end of one serve the next."""
    width = _width(plan)
    shared = width
    for plane in plan.read.planes:
        first, end = _inside(plan.read, plane, 1)
        shared = min(shared, first, max(0, width - end))
    return max(plan.columns, width - shared)


def header(plan: Plan, **constants: int) -> str:
    """The constants of a kernel."""
    taps = [tap for phase in plan.taps for tap in phase]
    starts = [0]
    for phase in plan.taps:
        starts.append(starts[-1] + len(phase))
    constants |= {
        "PITCH": pitch(plan),
        "WIDTH": _width(plan),
        "REACH": max(tap.down for tap in taps),
        "LINES": plan.rows,
        "COLUMNS": plan.columns,
        "TAPS": len(taps),
    }
    lines = [f"constexpr ptrdiff_t {name} = {int(value)};" for name, value in constants.items()]
    lines += [_layout_text("Read", plan.read), _layout_text("Write", plan.write), _numbers("START", starts)]
    for name in ("plane", "down", "right", "weight"):
        lines.append(_numbers(f"TAP_{name.upper()}", [getattr(tap, name) for tap in taps]))
    return "\n".join(lines) + "\n"
