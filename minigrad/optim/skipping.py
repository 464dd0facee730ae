"""Steps that are skipped where a gradient is not finite; on a GPU without waiting for it."""

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..backend import Array, in_a_row, of
from ..kernels import ElementwiseKernel

if TYPE_CHECKING:
    from .flat import Run


@functools.cache
def guarded(kernel: ElementwiseKernel) -> ElementwiseKernel:
    """`kernel` with one more input, an array of one bool, that says whether to do anything."""
    assert kernel.reference is not None
    reference, nin = kernel.reference, kernel.nin

    def guarded_reference(*args: Any) -> Any:
        go, outs = args[nin], args[nin + 1 :]
        return reference(*args[:nin], *outs) if go[0] else outs

    return ElementwiseKernel(
        f"{kernel.in_params}, raw bool go",
        kernel.out_params,
        kernel.operation,
        f"{kernel.name}_guarded",
        preamble=kernel.preamble,
        loop_prep=f"if (!go[0]) return; {kernel.loop_prep}",
        after_loop=kernel.after_loop,
        options=kernel.options,
        reference=guarded_reference,
    )


class Verdict(NamedTuple):
    """Whether a step may be made: known to the GPU, and on its way to the CPU.

    Attributes:
        flag: an array of one bool on the GPU.
        counted: what had a step added to its count, to be taken back if it was not made.
        host: page-locked memory that the answer is copied to.
        arrived: the event after that copy.
    """

    flag: Array
    counted: "list[Run]"
    host: Any
    arrived: Any

    def positive(self) -> bool:
        """The answer; by the next step it has long arrived."""
        self.arrived.synchronize()
        return bool(self.host[0])


def judged(due: "list[tuple[Any, Run]]") -> "tuple[list[tuple[Any, Run]], Verdict | None] | None":
    """What to step, with a verdict if that is still to come; None if it is known that one is not finite."""
    flags, ready = [], []
    for group, run in due:
        xp = run.flat.xp
        backend = of(run.flat.row)
        if backend is None or backend.name != "cupy":
            if not all(bool(xp.all(xp.isfinite(g))) for g in run.grads):
                return None
        else:
            row = in_a_row("optim", run.grads)
            flags.append(xp.isfinite(row).all().reshape(1))
            run = replace(run, grads=[row])
        ready.append((group, run))
    if not flags:
        return due, None
    import cupy  # pyright: ignore[reportMissingImports]
    import cupyx  # pyright: ignore[reportMissingImports]

    flag = functools.reduce(cupy.logical_and, flags)
    if len(flags) < len(due) and not flag[0]:  # the CPU has parameters, too, and must know now
        return None
    host = cupyx.empty_pinned((1,), dtype=bool)
    flag.get(out=host, blocking=False)
    arrived = cupy.cuda.Event(disable_timing=True)
    arrived.record()
    return ready, Verdict(flag, [], host, arrived)
