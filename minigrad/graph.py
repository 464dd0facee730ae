"""The graph of a tensor to be looked at: as text, as Mermaid, and as a drawing in SVG.

`graph` copies what there is to say about each node into a `Vertex`, so that what it gives keeps nothing
of the graph alive, and says the same after backward has freed it. Everything else here is layout.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

from .autograd import FREED, Node, Variable
from .autograd.node import line_of
from .backend import of


class Kept(NamedTuple):
    """A value that a node keeps in memory, because a gradient rule names it.

    Attributes:
        name: what the rule calls it: a parameter of the op, or `out` for the result.
        nbytes: the size of the memory that it lies in, which is all of it even where the value is a view
            of a part; 0 if another node, listed earlier, keeps the same.
        holder: the number of that node, else 0.
        in_leaf: whether that is the memory of a leaf.
    """

    name: str
    nbytes: int
    holder: int
    in_leaf: bool

    def __str__(self) -> str:
        """`x 12 B`, `x 12 B (leaf)`, or `x (in 3)`."""
        if self.holder:
            return f"{self.name} (in {self.holder})"
        return f"{self.name} {_amount(self.nbytes)}" + " (leaf)" * self.in_leaf


class Vertex(NamedTuple):
    """What there is to say of a node.

    Attributes:
        op: its name; `leaf`, or `no graph` in place of a tensor without one.
        name: that of the tensor, if it was given one.
        shape, dtype: of the result.
        arguments: the arguments that are nodes, by name, with their numbers; 0 for those left out.
        settings: other arguments that the rules need and that are not the default, by name, as text.
        kept: the arrays that it keeps.
        freed: whether backward has passed and freed it.
        where: the file and line of the program that made it, as `train.py:12`; empty in a leaf, and for what
            was typed in.
    """

    op: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    arguments: tuple[tuple[str, int], ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    kept: tuple[Kept, ...] = ()
    freed: bool = False
    where: str = ""

    @property
    def call(self) -> str:
        """How it came about: `leaf weight`, `sum(3, axis=1)`; `y` if it was given that name, `y = …`."""
        if not self.arguments and not self.settings and not self.freed:
            return f"{self.op} {self.name}".rstrip()
        written = [f"{name}={n or '…'}" if name else str(n or "…") for name, n in self.arguments]
        written += [f"{name}={value}" for name, value in self.settings]
        return (f"{self.name} = " if self.name else "") + f"{self.op}({', '.join(written)})"

    @property
    def memory(self) -> str:
        """What it keeps, in words."""
        return "freed" if self.freed else f"keeps {', '.join(map(str, self.kept))}" if self.kept else ""


def graph(tensor: Any, names: Any = None, depth: int | None = None) -> "Graph":
    """The graph behind a tensor, to be printed, drawn or saved.

    Args:
        tensor: what was computed. What computed it is listed in the order of computation: each node
            with its op, shape and dtype, and what it keeps in memory for its gradient rules. `(in 3)`
            says that node 3 keeps the same memory: it is counted once. `(leaf)` says that it is the
            memory of a leaf, which is there anyway.
        names: a dict of tensors by name, or a module, whose parameters have names.
        depth: go back from the tensor by no more than so many steps, to see a part of a large graph;
            `…` stands for what is left out. By default all of it.

    Raises:
        TypeError: `tensor` is none, or `names` neither a module nor a dict of tensors.
        ValueError: `depth` is negative.

    >>> import minigrad as mg
    >>> x = mg.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    >>> y = (mg.exp(x) * x).sum(axis=1)
    >>> mg.graph(y, names={"x": x, "y": y})
    1  leaf x              (1, 3)  float32
    2  exp(1)              (1, 3)  float32  keeps out 12 B
    3  multiply(2, 1)      (1, 3)  float32  keeps x (in 2), y 12 B (leaf)
    4  y = sum(3, axis=1)  (1,)    float32
    kept in all: 24 B, 12 B of it in leaves
    """
    if not isinstance(tensor, Variable):
        raise TypeError(f"graph: expected a tensor, got {type(tensor).__name__}")
    if depth is not None and depth < 0:
        raise ValueError(f"graph: depth must not be negative, got {depth}")
    if tensor.node is None:
        return Graph([Vertex("no graph", "", tensor._data.shape, _dtype(tensor._data))])
    nodes = _oldest_first(tensor.node, depth)
    numbers = {node: i for i, node in enumerate(nodes, start=1)}
    known = _names(names)
    holders: dict[int, int] = {}
    where = functools.cache(_where)
    return Graph([_vertex(node, numbers, known.get(node, ""), holders, where) for node in nodes])


def _oldest_first(root: Node, depth: int | None) -> list[Node]:
    steps = {root: 0}
    found = [root]
    for node in found:  # which grows meanwhile
        if steps[node] != depth:
            for parent in node.parents:
                if parent not in steps:
                    steps[parent] = steps[node] + 1
                    found.append(parent)
    return sorted(found, key=lambda node: node.number)


def _names(names: Any) -> dict[Node, str]:
    """The names that were given, by node."""
    if hasattr(names, "named_parameters"):
        names = dict(names.named_parameters())
    if names is None:
        return {}
    if not isinstance(names, Mapping) or not all(isinstance(x, Variable) for x in names.values()):
        raise TypeError("graph: names must be a module, or a dict of tensors by name")
    return {x.node: _printable(str(name)) for name, x in names.items() if x.node is not None}


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _where(code: CodeType, instruction: int) -> str:
    """The file, without its folder, and the line of an instruction."""
    name = Path(code.co_filename).name
    return "" if name.startswith("<") else f"{name}:{line_of(code, instruction)}"


def _vertex(
    node: Node, numbers: dict[Node, int], name: str, holders: dict[int, int], where: Callable[..., str]
) -> Vertex:
    """All that there is to say of `node`. `holders`: which node keeps a memory, by its id."""
    plan = node.plan
    vertex = Vertex("leaf" if plan is None else plan.name, name, tuple(node.shape), _dtype(node))
    if plan is None:
        return vertex
    vertex = vertex._replace(where=where(node.code, node.instruction))
    if node.saved is FREED:
        return vertex._replace(arguments=(("", 0),), freed=True)
    op = plan.op
    arguments = []
    for place, (slot, parent) in enumerate(zip(plan.slots, node.parents, strict=True)):
        in_order = slot == place or slot >= len(op.parameters) - op.variadic
        arguments.append(("" if in_order else op.parameters[slot], numbers.get(parent, 0)))
    given = op.forward.__defaults__ or ()
    defaults = dict(zip(op.parameters[len(op.parameters) - len(given) :], map(repr, given), strict=True))
    leaves = {slot for slot, _, _ in node.stamps}
    settings, kept = [], []
    for slot, place in plan.places.items():
        last = len(op.parameters) - 1
        its = "out" if slot < 0 else op.parameters[min(slot, last)]
        if op.variadic and slot >= last:
            its += f"[{slot - last}]"
        value = node.saved if plan.single else node.saved[place]
        arrays = list(_arrays(value))
        if not arrays and repr(value) != defaults.get(its):
            settings.append((its, _setting(value)))
        for k, array in enumerate(map(_owner, arrays)):
            holder = holders.get(id(array), 0)
            part = f"{its}[{k}]" if len(arrays) > 1 else its
            kept.append(Kept(part, 0 if holder else _nbytes(array), holder, slot in leaves))
            holders.setdefault(id(array), numbers[node])
    return vertex._replace(arguments=tuple(arguments), settings=tuple(settings), kept=tuple(kept))


def _setting(value: Any) -> str:
    has_repr = type(value).__repr__ is not object.__repr__
    return _short(_printable(repr(value)), 30) if has_repr else type(value).__name__


def _arrays(value: Any) -> Iterator[Any]:
    """The arrays in a saved value: it may be a key like those of `x[key]`."""
    if of(value) is not None:
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _arrays(part)


def _owner(array: Any) -> Any:
    """The array whose memory `array` is a view of, or itself."""
    while of(getattr(array, "base", None)) is not None:
        array = array.base
    return array


def _nbytes(array: Any) -> int:
    if hasattr(array, "nbytes"):
        return array.nbytes
    backend = of(array)  # the standard has no such attribute
    assert backend is not None
    return array.size * backend.to_numpy(backend.xp.empty(0, dtype=array.dtype)).itemsize


def _dtype(result: Any) -> str:
    return str(result.dtype).rpartition(".")[2]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _amount(nbytes: int) -> str:
    """A number of bytes, to be read: in three digits."""
    if nbytes < 1000:
        return f"{nbytes} B"
    size, unit = float(nbytes), 0
    while size >= 999.5:
        size, unit = size / 1000, unit + 1
    return f"{size:.{max(0, 3 - len(str(int(size))))}f} {' kMGTPE'[unit]}B"


# --- what is made of it ------------------------------------------------------------------------------

MOST_LISTED = 200
MOST_DRAWN = 500
_COLOURS = {"leaf": ("#dbeafe", "#3b82f6"), "op": ("#f8fafc", "#94a3b8"), "result": ("#dcfce7", "#22c55e")}


class Graph:
    """What `graph` gives: printed it is a list, in a notebook a drawing.

    Attributes:
        vertices: the nodes in the order of computation; they are numbered from 1.
        nbytes: the memory that they keep in all, in bytes; what several keep is counted once.
        leaf_nbytes: how much of that is the memory of leaves.
    """

    def __init__(self, vertices: list[Vertex]):
        self.vertices = vertices
        kept = [k for vertex in vertices for k in vertex.kept]
        self.nbytes = sum(k.nbytes for k in kept)
        self.leaf_nbytes = sum(k.nbytes for k in kept if k.in_leaf)

    @property
    def total(self) -> str:
        """The memory kept in all, in words."""
        leaves = f", {_amount(self.leaf_nbytes)} of it in leaves" if self.leaf_nbytes else ""
        return f"kept in all: {_amount(self.nbytes)}{leaves}"

    def text(self, most: int | None = None) -> str:
        """The nodes, a line each; with more than `most`, the first and the last of them.

        `str` and `repr` are this with `most=200`.
        """
        count = len(self.vertices)
        most = count if most is None else most
        first, last = (count, 0) if count <= most else ((most + 1) // 2, most // 2)
        listed = [*range(first), *range(count - last, count)]
        rows = []
        for i in listed:
            v = self.vertices[i]
            rows.append((f"{i + 1:>{len(str(count))}}", v.call, str(v.shape), v.dtype, v.memory, v.where))
        widths = [min(60, max(map(len, column))) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(f"{cell:<{n}}" for cell, n in zip(row, widths, strict=True) if n).rstrip()
            for row in rows
        ]
        if count > most:
            lines.insert(first, f"… {count - most:,} nodes are left out; .text() lists them all")
        return "\n".join([*lines, self.total])

    def __str__(self) -> str:
        return self.text(MOST_LISTED)

    __repr__ = __str__

    def save(self, path: Any) -> None:
        """Write it to a file, as what its suffix says: `.txt`, `.mmd` (Mermaid) or `.svg`.

        Raises `ValueError` for another suffix, or if there are too many nodes to be drawn.
        """
        forms = {".txt": self.text, ".mmd": self.mermaid, ".svg": self.svg}
        form = forms.get(Path(path).suffix)
        if form is None:
            raise ValueError(f"graph: the suffix must be one of {', '.join(forms)}, got {str(path)!r}")
        Path(path).write_text(form() + "\n", encoding="utf-8")

    def _check_drawable(self) -> None:
        if len(self.vertices) > MOST_DRAWN:
            raise ValueError(
                f"graph: {len(self.vertices):,} nodes are too many to draw (at most {MOST_DRAWN}); draw a "
                "part: mg.graph(x, depth=20) goes 20 steps back from x, which may be any tensor on the way"
            )

    def label(self, i: int) -> tuple[str, list[str]]:
        """What is written on the box of a node: its title, and the lines below it."""
        vertex = self.vertices[i]
        title = vertex.name if vertex.op == "leaf" and vertex.name else vertex.op
        if vertex.op != "leaf" and vertex.name:
            title = f"{vertex.name} = {title}"
        memory = ["freed"] if vertex.freed else [f"keeps {k}" for k in vertex.kept]
        settings = ", ".join(f"{name}={value}" for name, value in vertex.settings)
        return _short(title, 40), [
            *filter(None, [_short(settings, 40)]),
            f"{vertex.shape} {vertex.dtype}",
            *memory,
        ]

    def kind(self, i: int) -> str:
        """Whether a node is a `leaf`, the `result`, or another `op`."""
        if self.vertices[i].op == "leaf":
            return "leaf"
        return "result" if i == len(self.vertices) - 1 else "op"

    def mermaid(self) -> str:
        """The source of a Mermaid flowchart, which GitHub and many editors draw: a line a node or arrow.

        Raises `ValueError` if there are more than 500 nodes.
        """
        self._check_drawable()
        boxes, arrows = [], []
        for i, vertex in enumerate(self.vertices):
            title, lines = self.label(i)
            text = "<br>".join(_escape(line, "#{};") for line in (f"{i + 1} {title}", *lines))
            before, after = ("([", "])") if vertex.op == "leaf" else ("[", "]")
            boxes.append(f'    n{i + 1}{before}"{text}"{after}:::{self.kind(i)}')
            for _, n in vertex.arguments:
                arrows.append(f"    n{n} --> n{i + 1}" if n else f"    o{i + 1}[…] -.-> n{i + 1}")
        styles = [
            f"    classDef {kind} fill:{fill},stroke:{stroke},color:#0f172a"
            for kind, (fill, stroke) in _COLOURS.items()
        ]
        return "\n".join(["flowchart TD", *boxes, *arrows, *styles])

    def svg(self) -> str:
        """The drawing: one SVG element, which needs no other file, on whatever background.

        Raises `ValueError` if there are more than 500 nodes.
        """
        self._check_drawable()
        return _drawing(self)

    def _repr_svg_(self) -> str | None:
        return self.svg() if len(self.vertices) <= MOST_DRAWN else None


def _escape(text: str, form: str) -> str:
    """`text` with what Mermaid or XML would read as its own as character references of that form."""
    return "".join(form.format(ord(c)) if c in '"#&<>`' else c for c in text)


# --- the drawing -------------------------------------------------------------------------------------
#
# In layers, as Sugiyama and others do it: (1) each node has a rank, below those of its inputs; (2) an arrow
# that passes ranks bends at a place of its own in each, and all that leave one node share these; (3) the
# order in a rank is by the mean of the neighbours' places; (4) x is near the mean of the neighbours' x.

_GAP, _ROW_GAP, _MARGIN = 20, 38, 8
_TITLE, _LINE = 13, 11  # sizes of letters, whose widths in such fonts are 0.6 of that
_FONT = "ui-monospace,SFMono-Regular,Menlo,Consolas,DejaVu Sans Mono,monospace"


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


def _drawing(graph: Graph) -> str:
    labels = [graph.label(i) for i in range(len(graph.vertices))]
    boxes = []
    for i, (title, lines) in enumerate(labels):
        title_width = 0.6 * _TITLE * len(title) + 2 * (8 + 0.6 * _LINE * len(str(i + 1)))
        width = max(title_width, *(0.6 * _LINE * len(line) for line in lines)) + 18
        boxes.append(_Place(round(width), 26 + 15 * len(lines)))
    rows, trunks = _ranked(graph.vertices, boxes)
    for sweep in range(8):
        _order(rows, downwards=sweep % 2 == 0)
    for sweep in range(12):
        _move(rows, downwards=sweep % 2 == 0)
    left = min(p.x - p.width / 2 for row in rows for p in row) - _MARGIN
    top = _MARGIN + 20.0 * any(n == 0 for vertex in graph.vertices for _, n in vertex.arguments)
    for row in rows:
        height = max(p.height for p in row)
        for place in row:
            place.x, place.y, place.floor = place.x - left, top + height / 2, top + height
        top += height + _ROW_GAP
    right = max(p.x + p.width / 2 for row in rows for p in row)
    width = round(max(right, 0.6 * _LINE * len(graph.total) + _MARGIN) + _MARGIN)
    height = round(top - _ROW_GAP + 20 + _MARGIN)
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="{_FONT}" font-size="{_LINE}">'
    ]
    drawn += [_line(_start(trunk[0]) + "".join(map(_bend, trunk, trunk[1:]))) for trunk in trunks]
    for vertex, box in zip(graph.vertices, boxes, strict=True):
        ports = len(vertex.arguments)
        for port in range(ports):
            x = box.x + box.width * ((port + 1) / (ports + 1) - 0.5)
            above = sorted(box.above, key=lambda place: place.x)
            drawn.append(_arrow(above[port] if port < len(above) else None, box, x))
    drawn += [_box(graph, i, box, *label) for i, (box, label) in enumerate(zip(boxes, labels, strict=True))]
    drawn += [_written(graph.total, _MARGIN, height - _MARGIN, "#7c8798"), "</svg>"]
    return "\n".join(drawn)


def _ranked(vertices: list[Vertex], boxes: list[_Place]) -> tuple[list[list[_Place]], list[list[_Place]]]:
    """The rows; and for each box what its long arrows share: itself and its bends, one in each row."""
    users: list[list[int]] = [[] for _ in vertices]
    for i, (vertex, box) in enumerate(zip(vertices, boxes, strict=True)):
        for _, n in vertex.arguments:
            if n:
                users[n - 1].append(i)
                box.row = max(box.row, boxes[n - 1].row + 1)
    for i in reversed(range(len(boxes))):  # down to what uses it first: the arrows to it may share a trunk
        if users[i]:
            boxes[i].row = min(boxes[j].row for j in users[i]) - 1
    rows: list[list[_Place]] = [[] for _ in range(max(box.row for box in boxes) + 1)]
    trunks = []
    for i, box in enumerate(boxes):
        rows[box.row].append(box)
        trunk = [box]
        for row in rows[box.row + 1 : max((boxes[j].row for j in users[i]), default=0)]:
            row.append(_Place())
            _link(trunk[-1], row[-1])
            trunk.append(row[-1])
        trunks.append(trunk)
    for vertex, box in zip(vertices, boxes, strict=True):
        for _, n in vertex.arguments:
            if n:
                _link(trunks[n - 1][box.row - boxes[n - 1].row - 1], box)
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


def _arrow(above: _Place | None, box: _Place, x: float) -> str:
    """An arrow to `x` on top of the box: from the row above, or, dashed, from what is left out."""
    y = box.y - box.height / 2
    if above is None:
        line = _line(f"M{x:.1f} {y - 20:.1f}V{y - 6:.1f}", ' stroke-dasharray="3 3"')
    else:
        start = _start(above) if above.width else f"M{above.x:.1f} {above.floor:.1f}"
        line = _line(f"{start}{_curve(above, x, min(y - 6, above.floor + _ROW_GAP))}V{y - 6:.1f}")
    return f'{line}<path d="M{x:.1f} {y:.1f}l-3.5 -7h7z" fill="#8b95a5"/>'


def _box(graph: Graph, i: int, box: _Place, title: str, lines: list[str]) -> str:
    vertex, kind = graph.vertices[i], graph.kind(i)
    fill, stroke = _COLOURS[kind]
    tip = vertex.call + f" at {vertex.where}" * bool(vertex.where)
    x, y = box.x - box.width / 2, box.y - box.height / 2
    memory = len(vertex.kept) + vertex.freed
    colours = ["#475569"] * (len(lines) - memory) + ["#b45309"] * memory
    middle = ' text-anchor="middle"'
    text = [
        _written(str(i + 1), x + 8, y + 16, "#94a3b8"),
        _written(title, box.x, y + 18, "#0f172a", f'{middle} font-size="{_TITLE}" font-weight="bold"'),
    ]
    for k, (line, colour) in enumerate(zip(lines, colours, strict=True), start=1):
        text.append(_written(line, box.x, y + 18 + 15 * k, colour, middle))
    return (
        f'<g class="node {kind}"><title>{_escape(tip, "&#{};")}</title>'
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{box.width}" height="{box.height}" '
        f'rx="{13 if kind == "leaf" else 4}" fill="{fill}" stroke="{stroke}"/>{"".join(text)}</g>'
    )


def _written(text: str, x: float, y: float, colour: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}"{more}>{_escape(text, "&#{};")}</text>'
