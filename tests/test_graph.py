"""The graph of a tensor to be looked at: what the text says, what it says is kept, and how it is drawn."""

import gc
import importlib
import inspect
import itertools
import re
import tracemalloc
import weakref
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case

import minigrad as mg
from minigrad.autograd import Node
from minigrad.graph import MOST_DRAWN, Graph
from minigrad.rules import Plan

ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"


def leaf(*shape: int) -> mg.Tensor:
    return mg.ones(shape, requires_grad=True)


# --- some graphs -------------------------------------------------------------------------------------


NET = """
hidden = mg.linear(x, w, b)
hidden = hidden + mg.tanh(hidden)
loss = mg.linear(hidden, out_w, out_b).mean()
"""


def net() -> tuple[mg.Tensor, Any]:
    """The loss of a small net with a shortcut; its picture is in the README."""
    names = {"w": leaf(4, 4), "b": leaf(4), "out_w": leaf(2, 4), "out_b": leaf(2)}
    scope = {"mg": mg, "x": mg.ones((8, 4)), **names}
    exec(compile(NET.strip(), "some/where/net.py", "exec"), scope)
    return scope["loss"], {**names, "loss": scope["loss"]}


def diamond() -> mg.Tensor:
    x = mg.exp(leaf(2))
    return (mg.sin(x) * mg.cos(x) + x).sum()


def recurrent(steps: int = 8) -> mg.Tensor:
    w, u, h = leaf(3, 3), leaf(3, 3), mg.ones(3)
    for _ in range(steps):
        h = mg.tanh(w @ h + u @ mg.ones(3))
    return h.sum()


def random_dag(seed: int) -> mg.Tensor:
    """Any node may be used anywhere later, several times or twice at once."""
    random = np.random.default_rng(seed)
    made = [leaf(2) for _ in range(4)]
    for _ in range(60):
        i, j = random.integers(0, len(made), 2)
        made.append(made[i] * made[j] if random.random() < 0.6 else mg.sin(made[i]))
    total = made[-1]
    for x in made[-8:-1]:
        total = total + x
    return total


def wide() -> mg.Tensor:
    return mg.concat([mg.exp(leaf(1)) for _ in range(40)]).sum()


GRAPHS = {
    "net": lambda: mg.graph(*net()),
    "diamond": lambda: mg.graph(diamond()),
    "recurrent": lambda: mg.graph(recurrent()),
    "part": lambda: mg.graph(recurrent(), depth=6),
    "end": lambda: mg.graph(recurrent(), depth=1),
    "wide": lambda: mg.graph(wide()),
    "leaf": lambda: mg.graph(leaf(2)),
    "none": lambda: mg.graph(mg.ones(2)),
    **{f"random {i}": lambda i=i: mg.graph(random_dag(i)) for i in range(6)},
}


@pytest.fixture(params=GRAPHS)
def graph(request) -> Graph:
    return GRAPHS[request.param]()


def text(g: Graph) -> str:
    """What it prints, without the lines of this file that made it."""
    return re.sub(r" +test_\w+\.py:\d+$", "", str(g), flags=re.MULTILINE)


# --- the text ----------------------------------------------------------------------------------------


def test_the_function_hides_the_module():
    importlib.import_module("minigrad.graph")
    assert mg.graph.__module__ == "minigrad.graph"
    assert "graph" in mg.__all__


def test_text():
    g = mg.graph(*net())
    assert str(g) == repr(g) == g.text()
    assert str(g).splitlines() == [
        "1  leaf w                    (4, 4)  float32",
        "2  leaf b                    (4,)    float32",
        "3  leaf out_w                (2, 4)  float32",
        "4  leaf out_b                (2,)    float32",
        "5  linear(weight=1, bias=2)  (8, 4)  float32  keeps x 128 B                      net.py:1",
        "6  tanh(5)                   (8, 4)  float32  keeps out 128 B                    net.py:2",
        "7  add(5, 6)                 (8, 4)  float32                                     net.py:2",
        "8  linear(7, 3, 4)           (8, 2)  float32  keeps x 128 B, weight 32 B (leaf)  net.py:3",
        "9  loss = mean(8)            ()      float32                                     net.py:3",
        "kept in all: 416 B, 32 B of it in leaves",
    ]


def test_settings_are_shown_unless_they_are_the_default():
    def calls(x: mg.Tensor) -> list[str]:
        return [vertex.call for vertex in mg.graph(x).vertices[1:]]

    assert calls(mg.max(leaf(2, 3), axis=1)) == ["max(1, axis=1)"]
    assert calls(mg.max(leaf(2, 3))) == ["max(1)"]
    assert calls(leaf(2) * 3.0) == ["multiply(1, y=3.0)"]
    assert calls(1 / leaf(2)) == ["divide(y=1)"]  # whose rule needs the result and y
    assert calls(mg.concat([mg.ones(1), leaf(2)])) == ["concat(1, axis=0, ends=(1, 3))"]


def test_lines_of_the_program():
    line = inspect.currentframe().f_lineno  # pyright: ignore[reportOptionalMemberAccess]
    x = leaf(2)
    y = mg.exp(x)
    with mg.detect_anomaly():  # which has elementwise ops, too, look beyond minigrad's own functions
        z = mg.nn.functional.mse_loss(
            y,
            mg.ones(2),
        )
    g = mg.graph(z)
    assert [v.where for v in g.vertices[:2]] == ["", f"test_graph.py:{line + 2}"]
    assert {v.where for v in g.vertices[2:]} == {f"test_graph.py:{line + 4}"}
    typed_in: Any = {"mg": mg, "x": x}
    exec("y = mg.exp(x)", typed_in)
    assert [v.where for v in mg.graph(typed_in["y"]).vertices] == ["", ""]


def test_tensors_without_a_graph_and_leaves():
    assert str(mg.graph(mg.ones((2, 3)))) == "1  no graph  (2, 3)  float32\nkept in all: 0 B"
    with mg.no_grad():
        assert "no graph" in str(mg.graph(leaf(2) * 2))
    x = leaf(2)
    assert str(mg.graph(x, {"x": x})) == "1  leaf x  (2,)  float32\nkept in all: 0 B"


def test_names_from_a_module_or_a_dict():
    model = mg.nn.Sequential(mg.nn.Linear(2, 3), mg.nn.ReLU(), mg.nn.Linear(3, 1))
    y = model(mg.ones((1, 2)))
    for names in (model, dict(model.named_parameters())):
        found = mg.graph(y, names=names).vertices
        assert [v.name for v in found if v.op == "leaf"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert [v.name for v in mg.graph(y).vertices] == [""] * 7
    # Names that belong elsewhere, or to what has no node, do no harm; a line stays one line.
    found = mg.graph(y, names={"a\nb": y, "other": leaf(2), "plain": mg.ones(2)}).vertices
    assert [v.name for v in found if v.name] == ["a\ufffdb"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mg.graph(np.ones(2)), TypeError, "graph: expected a tensor, got ndarray"),
        (lambda: mg.graph(leaf(2), names=["x"]), TypeError, "graph: names must be a module, or a dict"),
        (lambda: mg.graph(leaf(2), names={"x": 1}), TypeError, "graph: names must be a module, or a dict"),
        (lambda: mg.graph(leaf(2), depth=-1), ValueError, "graph: depth must not be negative, got -1"),
        (lambda: mg.graph(leaf(2)).save("x.png"), ValueError, r"one of \.txt, \.mmd, \.svg, got 'x\.png'"),
        (lambda: mg.graph(leaf(2)).save(Path("txt")), ValueError, "the suffix must be one of"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_part():
    y = recurrent()
    whole = mg.graph(y)
    for depth in (0, 1, 5, 1000):
        g = mg.graph(y, depth=depth)
        assert len(g.vertices) <= len(whole.vertices)
        assert g.vertices[-1].op == "sum"
    assert str(g) == str(whole)
    assert text(mg.graph(y, depth=0)).splitlines()[0] == "1  sum(…)  ()  float32"
    assert [v.call for v in mg.graph(y, depth=2).vertices] == ["add(…, …)", "tanh(1)", "sum(2)"]


def test_freed_graphs():
    x = leaf(3)
    trunk = mg.exp(x)
    one, two = trunk.sum(), (trunk * trunk).sum()
    before = mg.graph(two, {"x": x})
    written = str(before)
    one.backward()
    assert text(mg.graph(one)) == "1  sum(…)  ()  float32  freed\nkept in all: 0 B"
    after = mg.graph(two, {"x": x})
    assert [v.freed for v in after.vertices] == [True, False, False]
    assert after.vertices[0].call == "exp(…)"
    assert str(before) == written  # it says what was


def test_graphs_of_gradients():
    x = leaf(3)
    y = mg.sin(x).sum()
    y.backward(create_graph=True)
    g = mg.graph(x.grad, {"x": x})
    assert [v.call for v in g.vertices] == ["leaf x", "cos(1)", "multiply(y=2)"]


def test_a_graph_of_a_hundred_thousand_nodes(tmp_path):
    x = leaf(2)
    y = x
    for _ in range(99_999):
        y = y + 1
    g = mg.graph(y)
    lines = g.text().splitlines()
    assert len(lines) == 100_001
    assert re.fullmatch(r"100000  add\(99999\) +\(2,\)  float32  test_graph.py:\d+", lines[-2])
    cut = str(g).splitlines()
    assert len(cut) == 202
    assert cut[100] == "… 99,800 nodes are left out; .text() lists them all"
    assert [line.split()[0] for line in cut[98:103:2] + cut[-2:-1]] == ["99", "…", "99902", "100000"]
    for form in (g.svg, g.mermaid, lambda: g.save(tmp_path / "x.svg")):
        with pytest.raises(ValueError, match=r"100,000 nodes are too many to draw \(at most 500\).*depth=20"):
            form()
    assert g._repr_svg_() is None
    g.save(tmp_path / "x.txt")
    assert (tmp_path / "x.txt").read_text().count("\n") == 100_001
    assert len(mg.graph(y, depth=20).svg()) < 20_000
    assert mg.graph(y, depth=MOST_DRAWN - 1)._repr_svg_() is not None


# --- what is kept ------------------------------------------------------------------------------------


def test_the_forward_pass_of_a_net_keeps_these_arrays():
    model = mg.nn.Sequential(mg.nn.Linear(64, 32), mg.nn.ReLU(), mg.nn.Linear(32, 10))
    x = mg.ones((16, 64))
    g = mg.graph(mg.nn.functional.cross_entropy(model(x), mg.zeros(16, dtype=mg.int64)), model)
    activations = 16 * 32 * 4  # what relu gave, which the second layer keeps, too
    entropy = 16 * 10 * 4 + 2 * 16 * 8  # the logarithms of the probabilities, and where the classes are
    assert g.leaf_nbytes == 10 * 32 * 4  # the second layer's weight; the first has no gradient to pass on
    assert g.nbytes == 16 * 64 * 4 + activations + entropy + g.leaf_nbytes
    assert g.total == "kept in all: 8.32 kB, 1.28 kB of it in leaves"


def test_one_memory_is_counted_once():
    x = leaf(1000)
    y = mg.reshape(x, (10, 100))
    z = (mg.exp(y) * y + x[:500].sum() * y).sum()
    g = mg.graph(z)
    assert g.leaf_nbytes == 4000  # kept as y twice: a view
    assert g.nbytes == 4000 + 4000 + 4  # exp's result, and the sum
    big = mg.ones(1_000_000)
    g = mg.graph(leaf(3) * big[:3])
    assert g.nbytes == 4_000_000  # the view keeps all of it
    assert mg.graph(leaf(3) * leaf(3)).vertices[-1].memory == "keeps x 12 B (leaf), y 12 B (leaf)"
    x = leaf(3)
    assert mg.graph(x * x).vertices[-1].memory == "keeps x 12 B (leaf), y (in 2)"


def test_keeping_is_what_python_measures():
    """The arrays are so large that all else that is kept does not count."""
    w = mg.ones((500, 500), requires_grad=True)
    x = mg.ones((1000, 500))

    def forward() -> mg.Tensor:
        h = mg.tanh(mg.linear(x, w))  # x is there before
        h = mg.exp(h) * h + h
        return mg.softmax(h, axis=1).sum()

    forward()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        loss = forward()
        measured = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    g = mg.graph(loss)
    assert measured == pytest.approx(g.nbytes - x._data.nbytes - g.leaf_nbytes, rel=0.01)
    assert measured > 6e6


def owners(node: Node) -> dict[int, int]:
    """The memories that Python's garbage collector can reach from a node: address and size."""
    found: dict[int, int] = {}
    seen: set[int] = set()
    pending: list[Any] = [node]
    while pending:
        value = pending.pop()
        if isinstance(value, np.ndarray):
            while isinstance(value.base, np.ndarray):
                value = value.base
            found[value.__array_interface__["data"][0] if value.nbytes else -id(value)] = value.nbytes
        elif isinstance(value, (Node, tuple, list)) and id(value) not in seen:
            seen.add(id(value))
            pending += [v for v in gc.get_referents(value) if not isinstance(v, (Plan, type))]
    return found


ROWS = [case for case in CASES if case.differentiable]


@pytest.mark.parametrize("case", ROWS, ids=[f"{i}-{case}" for i, case in enumerate(ROWS)])
def test_every_op_keeps_what_the_garbage_collector_finds(case: Case):
    smooth = case.smooth()
    xs = [mg.tensor(a, requires_grad=i in smooth) for i, a in enumerate(case.inputs())]
    y = case.compute(*xs)
    if y.node is None:
        pytest.skip("it has no gradient")
    g = mg.graph(y, {f"x{i}": x for i, x in enumerate(xs)})
    assert g.nbytes == sum(owners(y.node).values())
    assert {v.name for v in g.vertices if v.op == "leaf"} <= {f"x{i}" for i in smooth}
    assert [v.freed for v in g.vertices] == [False] * len(g.vertices)
    g.svg()


def test_a_checkpoint_keeps_its_arguments():
    w, x = leaf(4, 4), mg.ones((8, 4)) * leaf(8, 1)
    y = mg.checkpoint(lambda x, pair: mg.tanh(mg.exp(x @ pair["w"])))(x, {"w": w}).sum()
    g = mg.graph(y, {"w": w})
    (segment,) = (v for v in g.vertices if v.op == "checkpoint" and v.kept)
    assert segment.memory == "keeps segment[0] 128 B, segment[1] 64 B (leaf), segment[2] 128 B"
    assert segment.dtype == ""
    assert g.vertices[segment.arguments[0][1] - 1].name == "w"
    g.svg()


def test_other_backends():
    x = mg.ones((2, 3), device="strict", requires_grad=True)
    assert text(mg.graph((mg.exp(x) * x).sum(), {"x": x})).splitlines() == [
        "1  leaf x          (2, 3)  float32",
        "2  exp(1)          (2, 3)  float32  keeps out 24 B",
        "3  multiply(2, 1)  (2, 3)  float32  keeps x (in 2), y 24 B (leaf)",
        "4  sum(3)          ()      float32",
        "kept in all: 48 B, 24 B of it in leaves",
    ]


def test_hooks_and_settings_that_are_arrays_by_name():
    y = mg.exp(leaf(3))
    before = str(mg.graph(y))
    y.register_hook(lambda g: g)
    assert str(mg.graph(y)) == before
    x = leaf(4, 4)
    rows = np.array([0, 2])
    g = mg.graph(x[rows, rows[::-1]])
    assert [k.name for k in g.vertices[1].kept] == ["key[0]", "key[1]"]
    assert g.nbytes == 2 * rows.nbytes  # the tensor's own copies


def test_it_keeps_nothing_itself():
    y = mg.exp(leaf(100))
    array = weakref.ref(y._data)
    g = mg.graph(y.sum())
    del y
    assert array() is None
    assert "exp(1)" in str(g)


@pytest.mark.parametrize(
    ("count", "amount"),
    [
        (1, "4 B"), (249, "996 B"), (250, "1.00 kB"), (25_000, "100 kB"), (249_999, "1.00 MB"),
        (3_086_420, "12.3 MB"),
    ],
)  # fmt: skip
def test_amounts_have_three_digits(count, amount):
    assert mg.graph(mg.exp(leaf(count))).total == f"kept in all: {amount}"


# --- Mermaid -----------------------------------------------------------------------------------------


def test_mermaid():
    x = leaf(2)
    assert mg.graph((mg.exp(x) * x).sum(), {"x": x}).mermaid().splitlines() == [
        "flowchart TD",
        '    n1(["1 x<br>(2,) float32"]):::leaf',
        '    n2["2 exp<br>(2,) float32<br>keeps out 8 B"]:::op',
        '    n3["3 multiply<br>(2,) float32<br>keeps x (in 2)<br>keeps y 8 B (leaf)"]:::op',
        '    n4["4 sum<br>() float32"]:::result',
        "    n1 --> n2",
        "    n2 --> n3",
        "    n1 --> n3",
        "    n3 --> n4",
        "    classDef leaf fill:#dbeafe,stroke:#3b82f6,color:#0f172a",
        "    classDef op fill:#f8fafc,stroke:#94a3b8,color:#0f172a",
        "    classDef result fill:#dcfce7,stroke:#22c55e,color:#0f172a",
    ]


def test_mermaid_has_a_line_for_each_node_and_arrow(graph):
    lines = graph.mermaid().splitlines()
    boxes = [line for line in lines if re.match(r"    n\d+[\[(]", line)]
    arrows = re.findall(r"^    (n\d+) --> (n\d+)$", "\n".join(lines), re.MULTILINE)
    cut = [line for line in lines if "-.->" in line]
    assert len(boxes) == len(graph.vertices)
    assert arrows == [
        (f"n{n}", f"n{i}") for i, v in enumerate(graph.vertices, start=1) for _, n in v.arguments if n
    ]
    assert len(cut) == sum(n == 0 for v in graph.vertices for _, n in v.arguments)
    assert len(lines) == 1 + len(boxes) + len(arrows) + len(cut) + 3


ODD = 'a "b" <c> & #d; `e` [f] %% ü\x00'


def test_odd_names_are_escaped():
    x = leaf(2)
    g = mg.graph(mg.exp(x), {ODD: x})
    assert '"1 a #34;b#34; #60;c#62; #38; #35;d; #96;e#96; [f] %% ü\ufffd<br>(2,)' in g.mermaid()
    texts = [t.text for t in ET.fromstring(g.svg()).iter(f"{SVG}text")]
    assert ODD.replace("\0", "\ufffd") in texts


# --- SVG ---------------------------------------------------------------------------------------------


def boxes(svg: ET.Element) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of each box."""
    found = []
    for group in svg.iter(f"{SVG}g"):
        (rect,) = group.iter(f"{SVG}rect")
        x, y, width, height = (float(rect.attrib[k]) for k in ("x", "y", "width", "height"))
        found.append((x, y, x + width, y + height))
    return found


def points(path: str) -> list[tuple[float, float]]:
    """Points along a path of M, V and C: each curve and line in 20 steps."""
    found: list[tuple[float, float]] = []
    for letter, numbers in re.findall(r"([MVC])([^MVC]*)", path):
        n = [float(v) for v in numbers.split()]
        if letter == "M":
            found.append((n[0], n[1]))
            continue
        x, y = found[-1]
        a, b, end = ((n[0], n[1]), (n[2], n[3]), (n[4], n[5])) if letter == "C" else [(x, n[0])] * 3
        for t in np.linspace(0.05, 1, 20):
            weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
            found.append(
                (
                    sum(w * p[0] for w, p in zip(weights, ((x, y), a, b, end), strict=True)),
                    sum(w * p[1] for w, p in zip(weights, ((x, y), a, b, end), strict=True)),
                )
            )
    return found


def test_svg_draws_each_node_once_and_legibly(graph):
    svg = ET.fromstring(graph.svg())
    assert svg.tag == f"{SVG}svg"
    left, top, right, bottom = map(float, svg.attrib["viewBox"].split())
    found = boxes(svg)
    assert len(found) == len(graph.vertices)
    for a, b, c, d in found:
        assert left < a < c < right
        assert top < b < d < bottom
    for (a, b, c, d), (e, f, g, h) in itertools.combinations(found, 2):
        assert c < e or g < a or d < f or h < b
    titles = [t.text for t in svg.iter(f"{SVG}title")]
    assert titles == [v.call + (f" at {v.where}" if v.where else "") for v in graph.vertices]
    for group, (a, b, c, d) in zip(svg.iter(f"{SVG}g"), found, strict=True):
        number, *texts = group.iter(f"{SVG}text")
        for text in texts:  # centred, in letters 0.6 times as wide as high
            half = 0.3 * len(text.text or "") * float(text.get("font-size", 11))
            x, y = float(text.attrib["x"]), float(text.attrib["y"])
            assert a <= x - half
            assert x + half <= c
            assert b < y - 8
            assert y < d
            if text is texts[0]:
                assert float(number.attrib["x"]) + 0.6 * 11 * len(number.text or "") <= x - half
    assert [t.text for t in svg.iter(f"{SVG}text")][-1] == graph.total


def test_svg_lines_lead_to_the_boxes_and_through_none(graph):
    svg = ET.fromstring(graph.svg())
    found = boxes(svg)
    _, _, right, bottom = map(float, svg.attrib["viewBox"].split())
    heads, starts, start = [], [], 0.0
    for path in svg.iter(f"{SVG}path"):
        d = path.attrib["d"]
        for start, end in re.findall(r"V(\S+)C\S+ \S+ \S+ \S+ \S+ ([^V]+)", d):
            assert float(end) - float(start) < 38.2  # it bends between two rows alone
        if head := re.fullmatch(r"M(\S+) (\S+)l-3.5 -7h7z", d):
            heads.append((float(head[1]), float(head[2])))
            starts.append(start)
            continue
        start = points(d)[0][0]
        for x, y in points(d):
            assert 0 <= x <= right
            assert 0 <= y <= bottom
            assert not any(a + 0.2 < x < c - 0.2 and b + 0.2 < y < d - 0.2 for a, b, c, d in found)
    for vertex, (a, b, c, _) in zip(graph.vertices, found, strict=True):
        ports = [x for x, y in heads if abs(y - b) < 0.2 and a < x < c]
        its = [start for start, (x, y) in zip(starts, heads, strict=True) if x in ports and abs(y - b) < 0.2]
        assert 0 in [n for _, n in vertex.arguments] or its == sorted(its)  # arrows to one box do not cross
        assert len(set(ports)) == len(ports) == len(vertex.arguments)
    assert len(heads) == sum(len(vertex.arguments) for vertex in graph.vertices)


def test_svg_stays_small_where_one_weight_is_used_everywhere():
    g = mg.graph(recurrent(120))
    assert 400 < len(g.vertices) <= MOST_DRAWN
    assert len(g.svg()) < 1000 * len(g.vertices)


def test_notebooks_and_files(tmp_path):
    g = mg.graph(diamond())
    assert g._repr_svg_() == g.svg()
    for suffix, written in ((".svg", g.svg()), (".mmd", g.mermaid()), (".txt", str(g))):
        path = tmp_path / f"graph{suffix}"
        g.save(path)
        assert path.read_text(encoding="utf-8") == written + "\n"
        g.save(str(path))


def test_the_picture_in_the_readme_is_what_is_drawn():
    """If not, save it anew: `mg.graph(*net()).save("examples/graph.svg")`."""
    assert (ROOT / "examples" / "graph.svg").read_text(encoding="utf-8") == mg.graph(*net()).svg() + "\n"
