"""A table of a module's layers: what they give out, and what they hold."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import random
from ..autograd import no_grad
from ..ops import asarray, zeros
from ..tensor import Tensor

if TYPE_CHECKING:
    from .module import Module


class Row(NamedTuple):
    """A module in a summary: its own parameters and bytes, without those of modules inside.

    `output` is the shape that it gave when it was first called: a tuple, or a list of them for several
    tensors; None if it was not called.
    """

    name: str
    kind: str
    output: Any
    parameters: int
    bytes: int


class Summary:
    """What `Module.summary` gives: print it.

    Attributes:
        rows: one for each module, see `Row`.
        trainable, frozen: how many elements the parameters have that require gradients, and the others.
        buffers: how many the buffers have.
        bytes: of them all. What is shared is counted once, where it comes up first.
    """

    def __init__(self, module: "Module", inputs: Sequence[Any]):
        outputs = _outputs(module, inputs) if inputs else {}
        seen: set[Tensor] = set()
        self.rows: list[Row] = []
        self.trainable = self.frozen = self.buffers = self.bytes = 0
        for name, part in module.named_modules():
            parameters = [p for p in part.parameters(recurse=False) if p not in seen]
            buffers = [b for b in part.buffers(recurse=False) if b not in seen]
            seen.update(parameters, buffers)
            count = sum(p.size for p in parameters)
            size = sum(_bytes(x) for x in (*parameters, *buffers))
            self.rows.append(Row(name, type(part).__name__, outputs.get(part), count, size))
            self.trainable += sum(p.size for p in parameters if p.requires_grad)
            self.frozen += sum(p.size for p in parameters if not p.requires_grad)
            self.buffers += sum(b.size for b in buffers)
            self.bytes += size

    def __repr__(self) -> str:
        head = ("name", "layer", "output shape", "parameters", "bytes")
        table = [
            (row.name, row.kind, _text(row.output), f"{row.parameters:,}", f"{row.bytes:,}")
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(head, *table, strict=True)]
        lines = [_line(head, widths), "  ".join("-" * width for width in widths)]
        lines += [_line(row, widths) for row in table]
        total = (
            f"{self.trainable + self.frozen:,} parameters ({self.trainable:,} trainable, {self.frozen:,} "
            f"frozen), {self.buffers:,} in buffers, {self.bytes:,} bytes"
        )
        return "\n".join([*lines, "", total])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    left = [cell.ljust(width) for cell, width in zip(cells[:3], widths[:3], strict=True)]
    return "  ".join([*left, *(c.rjust(width) for c, width in zip(cells[3:], widths[3:], strict=True))])


def _bytes(x: Tensor) -> int:
    return x.size * x.data.dtype.itemsize


def _text(output: Any) -> str:
    if isinstance(output, list):
        return ", ".join(map(_text, output))
    return "-" if output is None else str(output)


def _outputs(module: "Module", inputs: Sequence[Any]) -> "dict[Module, Any]":
    """The shapes of what each module gives when `module` is called, with no trace that it was."""
    like = next(module.parameters(), None)
    dtype, device = (None, None) if like is None else (like.dtype, like.device)
    shapes: dict[Module, Any] = {}

    def note(part: "Module", args: Any, output: Any) -> None:
        shapes.setdefault(part, _shapes(output))

    with ExitStack() as stack:
        stack.enter_context(_unchanged(module))
        for part in module.modules():
            stack.enter_context(part.register_forward_hook(note))
        module(*(zeros(x, dtype, device=device) if _is_shape(x) else asarray(x) for x in inputs))
    return shapes


@contextmanager
def _unchanged(module: "Module") -> Iterator[None]:
    """Evaluation mode without gradients; afterwards modes, buffers and random numbers are what they were."""
    modes = {part: part.training for part in module.modules()}
    values = {buffer: buffer._data for buffer in module.buffers()}
    state = random.get_state()
    try:
        module.eval()
        with no_grad():
            yield
    finally:
        random.set_state(state)
        for buffer, value in values.items():
            buffer._data = value
        for part, mode in modes.items():
            part.training = mode


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple) and all(isinstance(size, int) for size in x)


def _shapes(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.shape
    if isinstance(output, dict):
        output = list(output.values())
    if not isinstance(output, (list, tuple)):
        return None
    return [shape for shape in map(_shapes, output) if shape is not None]
