"""The page of all functions, made from the table of cases and the docstrings.

    python tests/functions_page.py

writes minigrad/ops/README.md. `tests/test_project.py` checks that it is up to date.
"""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from cases import CASES

import minigrad as mg

PAGE = Path(__file__).parent.parent / "minigrad" / "ops" / "README.md"

HEAD = """\
# The functions

*Made by `python tests/functions_page.py` from the table of cases (`tests/cases.py`) and the docstrings.*

For each function of `minigrad` (and of `minigrad.linalg`): the inputs by which it is differentiable, the
orders of its derivatives that are checked against finite differences, and what its docstring says of ties
and corners.
A dash means that it has no derivative: its result is of integers or bools, or does not depend on the values.
"""

CORNERS = re.compile(
    r"deriv|gradient|\bNaN\b|\btie|\bequal\b|infinit|overflow|\bzero\b|singular|repeated|stable"
)


def sentences(doc: str) -> list[str]:
    """The sentences before the first section of a docstring."""
    text = re.split(r"\n\s*(?:Args|Returns|Raises|>>>)", inspect.cleandoc(doc))[0]
    text = " ".join(text.split())
    return re.split(r"(?<=\.)\s+(?=[A-Z`(])|(?<=\.\))\s+(?=[A-Z`(])", text)


def names() -> dict[str, dict[str, Any]]:
    """The functions of each file, under their first names."""
    found: dict[str, dict[str, Any]] = {}
    spaces = [("", mg.ops, mg.ops.__all__), ("linalg.", mg.linalg, mg.linalg.__all__)]
    seen = set()
    for prefix, space, every in spaces:
        for name in sorted(every):
            function = getattr(space, name)
            if not inspect.isfunction(function) or function in seen:
                continue
            if function.__name__.lstrip("_") != name and hasattr(space, function.__name__):
                continue  # another name of a function that comes under its own
            seen.add(function)
            found.setdefault(function.__module__.rpartition(".")[2], {})[prefix + name] = function
    return found


SLOTS = {
    **dict.fromkeys(("concat", "stack", "meshgrid", "broadcast_arrays"), ("arrays",)),
    "einsum": ("operands",),
    "diff": ("x", "prepend", "append"),
    "setitem": ("x", "value"),
}
"""The inputs of a row, by name, where they are not the first parameters of the function."""


def line(name: str, function: Any) -> str:
    cases = [case for case in CASES if case.op in (name, function.__name__)]
    parameters = SLOTS.get(name) or list(inspect.signature(function).parameters)
    smooth = sorted({i for case in cases for i in case.smooth()})
    by = ", ".join(dict.fromkeys(parameters[min(i, len(parameters) - 1)] for i in smooth)) or "-"
    checked = str(max((case.orders for case in cases), default=0) or "-")
    first, *rest = sentences(function.__doc__)
    corners = " ".join(text for text in rest if CORNERS.search(text))
    space = mg.linalg if name.startswith("linalg.") else mg.ops
    others = [n for n in space.__all__ if getattr(space, n) is function and n != name.rpartition(".")[2]]
    also = f" (also {', '.join(f'`{n}`' for n in others)})" if others else ""
    return f"| `{name}`{also} | {first} | {by} | {checked} | {corners} |".replace("  ", " ")


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for file, functions in sorted(names().items()):
        parts.append(f"\n## [{file}.py]({file}.py)\n")
        parts.append(
            "| function | | differentiable by | orders | ties and corners |\n| --- | --- | --- | --- | --- |"
        )
        parts += [line(name, function) for name, function in functions.items()]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"{PAGE}: {sum(map(len, names().values()))} functions")
