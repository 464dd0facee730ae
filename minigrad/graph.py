"""The graph of a tensor to be looked at: as text, as Mermaid, and as a drawing in SVG.

`graph` copies what there is to say about each node into a `Vertex`, so that what it gives keeps nothing
of the graph alive, and says the same after backward has freed it.
"""

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from types import CodeType
from typing import Any, NamedTuple

from .autograd import FREED, Node, Variable
from .autograd.node import line_of
from .backend import of
from .drawing import Box, draw, escape
from .transforms.checkpoint import Segment
from .transforms.trees import leaves


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
            was typed in. An elementwise op that one of minigrad's functions calls shows that function's
            line, unless it was recorded under `detect_anomaly`.
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
    name = os.path.basename(code.co_filename)
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
    stamped = {slot for slot, _, _ in node.stamps}
    settings, kept = [], []
    for slot, place in plan.places.items():
        last = len(op.parameters) - 1
        its = {-1: "out", -2: "kept"}.get(slot) or op.parameters[min(slot, last)]
        if op.variadic and slot >= last:
            its += f"[{slot - last}]"
        value = node.saved if plan.single else node.saved[place]
        arrays = list(_arrays(value, slot in stamped))
        if not arrays and repr(value) != defaults.get(its):
            settings.append((its, _setting(value)))
        for k, (array, in_leaf) in enumerate(arrays):
            array = _owner(array)
            holder = holders.get(id(array), 0)
            part = f"{its}[{k}]" if len(arrays) > 1 else its
            kept.append(Kept(part, 0 if holder else _nbytes(array), holder, in_leaf))
            holders.setdefault(id(array), numbers[node])
    return vertex._replace(arguments=tuple(arguments), settings=tuple(settings), kept=tuple(kept))


def _setting(value: Any) -> str:
    has_repr = type(value).__repr__ is not object.__repr__
    return _short(_printable(repr(value)), 30) if has_repr else type(value).__name__


def _arrays(value: Any, in_leaf: bool) -> Iterator[tuple[Any, bool]]:
    """The arrays in a saved value, each with whether its memory is that of a leaf."""
    if of(value) is not None:
        yield value, in_leaf
    elif isinstance(value, Variable):
        yield value._data, value.home is not None
    elif isinstance(value, (tuple, list)):  # a key like those of `x[key]`
        for part in value:
            yield from _arrays(part, in_leaf)
    elif isinstance(value, Segment):
        yield from _arrays([*leaves(value.inputs), *value.results], in_leaf)


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
    return "" if result.dtype is None else str(result.dtype).rpartition(".")[2]


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
_DARK, _MEMORY = "#475569", "#b45309"  # of what is written on them


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
        form = forms.get(os.path.splitext(path)[1])
        if form is None:
            raise ValueError(f"graph: the suffix must be one of {', '.join(forms)}, got {str(path)!r}")
        with open(path, "w", encoding="utf-8") as file:
            file.write(form() + "\n")

    def _check_drawable(self) -> None:
        if len(self.vertices) > MOST_DRAWN:
            raise ValueError(
                f"graph: {len(self.vertices):,} nodes are too many to draw (at most {MOST_DRAWN}); draw a "
                "part: mg.graph(x, depth=20) goes 20 steps back from x, which may be any tensor on the way"
            )

    def label(self, i: int) -> tuple[str, list[str], list[str]]:
        """What is written on the box of a node: a title, what it is, and what it keeps."""
        vertex = self.vertices[i]
        title = " = ".join(filter(None, [vertex.name, vertex.op]))
        if vertex.op == "leaf":
            title = vertex.name or "leaf"
        settings = ", ".join(f"{name}={value}" for name, value in vertex.settings)
        lines = [_short(settings, 40), f"{vertex.shape} {vertex.dtype}".rstrip()]
        memory = ["freed"] if vertex.freed else [f"keeps {k}" for k in vertex.kept]
        return _short(title, 40), lines if settings else lines[1:], memory

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
            title, lines, memory = self.label(i)
            text = "<br>".join(escape(line, "#{};") for line in (f"{i + 1} {title}", *lines, *memory))
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
        boxes = []
        for i, vertex in enumerate(self.vertices):
            title, lines, memory = self.label(i)
            written = [(line, _DARK) for line in lines] + [(line, _MEMORY) for line in memory]
            tip = vertex.call + f" at {vertex.where}" * bool(vertex.where)
            inputs = [n for _, n in vertex.arguments]
            kind = self.kind(i)
            boxes.append(Box(title, written, tip, inputs, *_COLOURS[kind], 13 if kind == "leaf" else 4))
        return draw(boxes, self.total)

    def _repr_svg_(self) -> str | None:
        return self.svg() if len(self.vertices) <= MOST_DRAWN else None
