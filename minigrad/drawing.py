"""Boxes and arrows as a drawing in SVG, in layers, as Sugiyama and others do it.

1. Each box has a row: below those of its inputs.
2. An arrow that passes rows bends at a place of its own in each; all that leave one box share these.
3. The order in a row is by the mean of the neighbours' places.
4. From left to right, each place is near the mean of its neighbours.
"""

from collections.abc import Sequence
from typing import NamedTuple

_GAP, _ROW_GAP, _MARGIN = 20, 38, 8
_TITLE, _LINE = 13, 11  # sizes of letters, whose widths in such fonts are 0.6 of that
_FONT = "ui-monospace,SFMono-Regular,Menlo,Consolas,DejaVu Sans Mono,monospace"


class Box(NamedTuple):
    """A box to be drawn.

    Attributes:
        title: its first line.
        lines: the lines below it, each with its colour.
        tip: what is shown where the mouse rests on it.
        inputs: where its arrows come from: boxes by number, from 1; 0 stands for what is not drawn.
        fill, stroke: colours of the box and its border.
        rounding: of its corners.
    """

    title: str
    lines: list[tuple[str, str]]
    tip: str
    inputs: list[int]
    fill: str
    stroke: str
    rounding: int


class _Place:
    """A box in its row, or the bend of an arrow that passes."""

    def __init__(self, width: float = 0.0, height: float = 0.0):
        self.width = width
        self.height = height
        self.above: list[_Place] = []
        self.below: list[_Place] = []
        self.row = 0
        self.x = self.y = 0.0  # of its centre
        self.floor = 0.0  # the lower end of its row


def draw(boxes: Sequence[Box], caption: str) -> str:
    """The drawing of those boxes, each of which comes after its inputs, as an SVG element."""
    places = []
    for i, box in enumerate(boxes):
        title_width = 0.6 * _TITLE * len(box.title) + 2 * (8 + 0.6 * _LINE * len(str(i + 1)))
        width = max(title_width, *(0.6 * _LINE * len(line) for line, _ in box.lines)) + 18
        places.append(_Place(round(width), 26 + 15 * len(box.lines)))
    rows, trunks = _ranked(boxes, places)
    for sweep in range(8):
        _order(rows, downwards=sweep % 2 == 0)
    for sweep in range(12):
        _move(rows, downwards=sweep % 2 == 0)
    left = min(p.x - p.width / 2 for row in rows for p in row) - _MARGIN
    top = _MARGIN + 20.0 * any(0 in box.inputs for box in boxes)
    for row in rows:
        height = max(p.height for p in row)
        for place in row:
            place.x, place.y, place.floor = place.x - left, top + height / 2, top + height
        top += height + _ROW_GAP
    right = max(p.x + p.width / 2 for row in rows for p in row)
    width = round(max(right, 0.6 * _LINE * len(caption) + _MARGIN) + _MARGIN)
    height = round(top - _ROW_GAP + 20 + _MARGIN)
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="{_FONT}" font-size="{_LINE}">'
    ]
    drawn += [_line(_start(trunk[0]) + "".join(map(_bend, trunk, trunk[1:]))) for trunk in trunks]
    for box, place in zip(boxes, places, strict=True):
        above = sorted(place.above, key=lambda p: p.x)
        for port in range(len(box.inputs)):
            x = place.x + place.width * ((port + 1) / (len(box.inputs) + 1) - 0.5)
            drawn.append(_arrow(above[port] if port < len(above) else None, place, x))
    drawn += [_group(i, *both) for i, both in enumerate(zip(boxes, places, strict=True), start=1)]
    drawn += [_written(caption, _MARGIN, height - _MARGIN, "#7c8798"), "</svg>"]
    return "\n".join(drawn)


def _ranked(boxes: Sequence[Box], places: list[_Place]) -> tuple[list[list[_Place]], list[list[_Place]]]:
    """The rows; and for each box what its long arrows share: itself and its bends, one in each row."""
    users: list[list[_Place]] = [[] for _ in places]
    for box, place in zip(boxes, places, strict=True):
        for n in filter(None, box.inputs):
            users[n - 1].append(place)
            place.row = max(place.row, places[n - 1].row + 1)
    for place, its in zip(reversed(places), reversed(users), strict=True):
        if its:  # down to what uses it first: so the arrows that lead to it may share a trunk
            place.row = min(user.row for user in its) - 1
    rows: list[list[_Place]] = [[] for _ in range(max(place.row for place in places) + 1)]
    trunks = []
    for place, its in zip(places, users, strict=True):
        rows[place.row].append(place)
        trunk = [place]
        for row in rows[place.row + 1 : max((user.row for user in its), default=0)]:
            row.append(_Place())
            _link(trunk[-1], row[-1])
            trunk.append(row[-1])
        trunks.append(trunk)
    for box, place in zip(boxes, places, strict=True):
        for n in filter(None, box.inputs):
            _link(trunks[n - 1][place.row - places[n - 1].row - 1], place)
    return rows, [trunk for trunk in trunks if len(trunk) > 1]


def _link(above: _Place, below: _Place) -> None:
    above.below.append(below)
    below.above.append(above)


def _order(rows: list[list[_Place]], downwards: bool) -> None:
    """Sort each row by the mean of its neighbours' places (from 0 to 1) in the row that it follows."""
    for row in rows if downwards else rows[::-1]:
        for i, place in enumerate(row):
            near = place.above if downwards else place.below
            place.x = sum(p.x for p in near) / len(near) if near else (i + 0.5) / len(row)
        row.sort(key=lambda place: place.x)
        for i, place in enumerate(row):
            place.x = (i + 0.5) / len(row)


def _move(rows: list[list[_Place]], downwards: bool) -> None:
    """Move each row as near as can be to the mean x of its neighbours in the row that it follows."""
    for row in rows if downwards else rows[::-1]:
        # How far each would have to move from where it stands if all stand close. They do not overlap as long
        # as none moves less than the one before it: the nearest such numbers (in squares) are the wanted
        # ones, with the mean in place of each group that is out of order.
        close, groups, x = [], [], 0.0
        for place in row:
            near = place.above if downwards else place.below
            wanted = sum(p.x for p in near) / len(near) if near else place.x
            close.append(x + place.width / 2)
            x += place.width + _GAP
            groups.append((wanted - close[-1], 1))
            while len(groups) > 1 and groups[-2][0] > groups[-1][0]:
                (a, m), (b, n) = groups[-2:]
                groups[-2:] = [((a * m + b * n) / (m + n), m + n)]
        shifts = [shift for shift, count in groups for _ in range(count)]
        for place, x, shift in zip(row, close, shifts, strict=True):
            place.x = x + shift


def _start(place: _Place) -> str:
    return f"M{place.x:.1f} {place.y + place.height / 2:.1f}V{place.floor:.1f}"


def _bend(here: _Place, there: _Place) -> str:
    """The curve from the end of one row to the bend in the next, and through that row."""
    return f"{_curve(here, there.x, here.floor + _ROW_GAP)}V{there.floor:.1f}"


def _curve(here: _Place, x: float, y: float) -> str:
    middle = (here.floor + y) / 2
    return f"C{here.x:.1f} {middle:.1f} {x:.1f} {middle:.1f} {x:.1f} {y:.1f}"


def _line(path: str, more: str = "") -> str:
    return f'<path d="{path}" fill="none" stroke="#8b95a5" stroke-width="1.3"{more}/>'


def _arrow(above: _Place | None, place: _Place, x: float) -> str:
    """An arrow to `x` on top of the box: from the row above, or, dashed, from what is left out."""
    y = place.y - place.height / 2
    if above is None:
        line = _line(f"M{x:.1f} {y - 20:.1f}V{y - 6:.1f}", ' stroke-dasharray="3 3"')
    else:
        start = _start(above) if above.width else f"M{above.x:.1f} {above.floor:.1f}"
        line = _line(f"{start}{_curve(above, x, min(y - 6, above.floor + _ROW_GAP))}V{y - 6:.1f}")
    return f'{line}<path d="M{x:.1f} {y:.1f}l-3.5 -7h7z" fill="#8b95a5"/>'


def _group(number: int, box: Box, place: _Place) -> str:
    x, y = place.x - place.width / 2, place.y - place.height / 2
    middle = ' text-anchor="middle"'
    text = [
        _written(str(number), x + 8, y + 16, "#94a3b8"),
        _written(box.title, place.x, y + 18, "#0f172a", f'{middle} font-size="{_TITLE}" font-weight="bold"'),
    ]
    for k, (line, colour) in enumerate(box.lines, start=1):
        text.append(_written(line, place.x, y + 18 + 15 * k, colour, middle))
    return (
        f"<g><title>{escape(box.tip, '&#{};')}</title>"
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{place.width}" height="{place.height}" '
        f'rx="{box.rounding}" fill="{box.fill}" stroke="{box.stroke}"/>{"".join(text)}</g>'
    )


def _written(text: str, x: float, y: float, colour: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}"{more}>{escape(text, "&#{};")}</text>'


def escape(text: str, form: str) -> str:
    """`text` with what XML, or Mermaid, would read as its own as character references of that form."""
    return "".join(form.format(ord(c)) if c in '"#&<>`' else c for c in text)
