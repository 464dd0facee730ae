"""The repository keeps what it promises: import order, docstrings, the README, the examples."""

import ast
import doctest
import gzip
import importlib.util
import inspect
import pkgutil
import re
import struct
from pathlib import Path

import functions_page
import numpy
import pytest
from helpers import python

import minigrad as mg

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minigrad"

# Each module imports only from those before it; those in one line know nothing of each other.
ORDER = [
    ["atomic"],
    ["backend"],
    ["kernels"],
    ["autograd"],
    ["rules"],
    ["primitive"],
    ["ops"],
    ["batched"],
    ["operators"],
    ["tensor"],
    ["random", "drawing", "testing", "io"],
    ["data"],
    ["nn", "optim"],
    ["transforms"],
    ["graph"],
    ["checkpoints"],
    ["__init__"],
    ["__main__"],
]


def test_import_arrows_run_one_way():
    rank = {name: i for i, names in enumerate(ORDER) for name in names}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        importer = parts[0]
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            package = parts[: len(parts) - node.level]  # what the leading dots stand for
            targets = (
                [(*package, *node.module.split("."))]
                if node.module
                else [(*package, a.name) for a in node.names]
            )
            for target in targets:
                imported = target[0]
                same = imported == importer
                assert same or rank[imported] < rank[importer], f"{path.name} imports {'.'.join(target)}"


def public_objects():
    for info in pkgutil.walk_packages(mg.__path__, "minigrad."):
        module = importlib.import_module(info.name)
        yield info.name, module
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != info.name:
                continue
            if inspect.isfunction(value) or inspect.isclass(value):
                yield f"{info.name}.{name}", value
            if inspect.isclass(value):
                for member, method in vars(value).items():
                    function = method.fget if isinstance(method, property) else method
                    if not member.startswith("_") and inspect.isfunction(function):
                        yield f"{info.name}.{name}.{member}", function


def test_everything_public_has_a_docstring():
    inherited = {"check", "kernel", "scalars", "extra_repr"}  # documented where they are first defined
    bare = [
        name for name, value in public_objects() if not value.__doc__ and name.split(".")[-1] not in inherited
    ]
    assert bare == []


def test_signatures_are_those_of_the_functions():
    assert str(inspect.signature(mg.sum)) == "(x, axis=None, keepdims=False, dtype=None) -> Any"
    assert list(inspect.signature(mg.where).parameters) == ["condition", "x", "y"]
    assert str(inspect.signature(mg.linear)) == "(x, weight, bias=None) -> Any"
    assert (mg.sin.__name__, mg.sin.__doc__, mg.sin.__module__) == (
        "sin",
        "The sine.",
        "minigrad.ops.elementwise",
    )


# --- the README --------------------------------------------------------------------------------------

README = (ROOT / "README.md").read_text()


def test_readme_examples_print_what_it_says():
    results = doctest.testfile(str(ROOT / "README.md"), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 5
    assert results.failed == 0


def test_readme_lists_files_with_their_length():
    listed = re.findall(r"^\| \[`(minigrad/[\w/.]+)`\]\(\1\) \| (\d+) \|", README, re.MULTILINE)
    assert len(listed) > 10
    for name, lines in listed:
        assert len((ROOT / name).read_text().splitlines()) == int(lines), (
            f"{name}: correct its length in README.md"
        )
    every = {str(p.relative_to(ROOT)) for p in PACKAGE.rglob("*.py") if p.name != "__init__.py"}
    assert {name for name, _ in listed} == every


def test_the_page_of_functions_is_up_to_date():
    assert functions_page.PAGE.read_text() == functions_page.page(), "run python tests/functions_page.py"


def test_readme_points_each_promise_to_tests_that_exist():
    rows = re.findall(r"^\| (\d+)\. .*?\| (\[test_.*) \|$", README, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= 14
    for _, cell in rows:
        for part in cell.split("; "):
            file, names = re.fullmatch(r"\[[\w.]+\]\((tests/[\w.]+)\): (.*)", part).groups()  # pyright: ignore[reportOptionalMemberAccess]
            for name in names.split(", "):
                text = (ROOT / file).read_text()
                assert re.search(rf"^(def {name[1:-1]}\(|{name[1:-1]} = )", text, re.MULTILINE), name


def test_readme_names_the_two_commands():
    for command in (
        "pip install -e '.[examples]' && python examples/digits.py",
        "pip install -e '.[test]' && pytest",
    ):
        assert command in README


# --- the examples ------------------------------------------------------------------------------------


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "radam"])
def test_digits(optimizer, tmp_path, capsys):
    picture = tmp_path / "digits.png"
    accuracy = example("digits").main(["--optimizer", optimizer, "--epochs", "20", "--out", str(picture)])
    assert accuracy >= 0.97
    assert capsys.readouterr().out.splitlines()[-1] == f"test accuracy {accuracy:.4f}"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_digits_cnn(tmp_path, capsys):
    picture = tmp_path / "digits_cnn.png"
    accuracy = example("digits_cnn").main(["--epochs", "10", "--out", str(picture)])
    assert accuracy >= 0.97
    assert capsys.readouterr().out.splitlines()[-1] == f"test accuracy {accuracy:.4f}"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_digits_cnn_reads_files_of_mnist(tmp_path):
    """Two files gzipped, two not; images of 8 by 8 with a bright line, whose height is the class."""
    random = numpy.random.default_rng(0)
    for part, size in (("train", 240), ("t10k", 60)):
        labels = random.integers(0, 3, size, numpy.uint8)
        images = random.integers(0, 100, (size, 8, 8), numpy.uint8)
        images[numpy.arange(size), 3 * labels] = 255
        header = struct.pack(">4B3i", 0, 0, 8, 3, *images.shape)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        header = struct.pack(">4Bi", 0, 0, 8, 1, size)
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    settings = ["--data", str(tmp_path), "--batch", "16", "--out", str(tmp_path / "picture.png")]
    assert example("digits_cnn").main(settings) >= 0.95
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(SystemExit, match="there is no t10k-labels-idx1-ubyte nor"):
        example("digits_cnn").main(settings)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_series_lstm(cell, tmp_path, capsys):
    picture = tmp_path / "series.png"
    accuracy = example("series_lstm").main(["--cell", cell, "--epochs", "20", "--out", str(picture)])
    assert accuracy >= 0.9
    assert capsys.readouterr().out.splitlines()[-1] == f"test accuracy {accuracy:.4f}"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_two_moons(capsys):
    assert example("two_moons").main() > 0.98
    lines = capsys.readouterr().out.splitlines()
    assert sum("o" in line and "x" in line for line in lines) > 5
    assert len((ROOT / "examples" / "two_moons.py").read_text().splitlines()) <= 60


def test_char_gpt(tmp_path, monkeypatch, capsys):
    """It learns a short text, saves, and goes on from there as if it had not stopped."""
    text, saved, picture = (tmp_path / name for name in ("text", "run", "gpt.png"))
    text.write_text("the quick brown fox jumps over the lazy dog. " * 60)
    module = example("char_gpt")
    monkeypatch.setattr(
        module, "rate", lambda step, steps: 2e-3
    )  # the same, however many steps there will be
    begin = ["--text", str(text), "--every", "10", "--out", str(picture)]
    resume = ["--resume", str(saved), "--out", str(picture)]
    first = module.main([*begin, "--steps", "10", "--save", str(saved)])
    assert picture.read_bytes().startswith(b"\x89PNG")
    second = module.main([*resume, "--steps", "25"])
    assert second < first - 0.1
    assert capsys.readouterr().out.splitlines()[-1] == f"held-out text: {second:.3f} bits per character"
    assert module.main([*begin, "--steps", "25"]) == second
    curves = mg.load(saved / "step-25.safetensors")["curves"]
    assert [step for step, _ in curves["training"]] == [*range(1, 26)]
    assert [step for step, _ in curves["held out"]] == [10, 20, 25]
    with pytest.raises(ValueError, match=r"'settings' does not fit: .*'seed', 5.*'seed', 0"):
        module.main([*resume, "--seed", "5", "--steps", "30"])
    with pytest.raises(FileExistsError):
        module.main([*begin, "--save", str(saved)])


def test_completion_shows_what_is_imported_late():
    """In a process of its own: in this one it may have been imported."""
    code = "import minigrad as mg; print({*mg.__all__} - {*dir(mg)})"
    assert python(code) == "set()"
