"""The PTX that CuPy would have a GPU run, on a machine that need not have one.

CuPy generates the source of an elementwise kernel when it is first called, and has NVRTC compile it for
the device at hand. Here CuPy's own steps are taken one by one, with a compute capability in place of the
device. They are not part of its public interface: should a new CuPy have other ones, mend this file.
"""

import os
import re
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np


class UnavailableError(RuntimeError):
    """CuPy or NVRTC is not installed."""


def require() -> None:
    """Raise `UnavailableError` where nothing can be compiled."""
    try:
        import cupy  # noqa: F401  # pyright: ignore[reportMissingImports]
        from cupy_backends.cuda.libs import nvrtc  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UnavailableError(f"CuPy cannot be imported ({error})") from error
    try:
        nvrtc.getVersion()
    except RuntimeError as error:
        raise UnavailableError("CuPy finds no NVRTC, which the extras cuda12x and cuda13x install") from error


def placeholders(kernel: Any) -> set[str]:
    """The letters that stand for types in the declarations of `kernel`."""
    return set(re.findall(r"\b([A-Za-z])\s+\w+", f"{kernel.in_params}, {kernel.out_params}"))


def ptx(kernel: Any, types: dict[str, Any], arch: int, arrays: Collection[str] | None = None) -> str:
    """The PTX of `kernel` for contiguous 1-d arrays.

    Args:
        kernel: has the attributes `in_params`, `out_params`, `operation`, `name`, `preamble`, `loop_prep`,
            `after_loop` and `options`, which mean what `cupy.ElementwiseKernel` means by them.
        types: the dtype that each placeholder stands for.
        arch: the compute capability, such as 90.
        arrays: the names of the inputs that are arrays; the others are scalars. By default the inputs of
            type P are arrays, or of any placeholder where there is no P, and those that are `raw`.

    Raises:
        UnavailableError: CuPy or NVRTC is not installed.
        cupy.cuda.compiler.CompileException: NVRTC refuses the source; the message has its log.
        KeyError: a placeholder has no dtype, or is one of scalars alone, so that CuPy could not know it.
    """
    require()
    import cupy  # pyright: ignore[reportMissingImports]
    from cupy._core import _carray, _kernel, _scalar, core  # pyright: ignore[reportMissingImports]
    from cupy.cuda import compiler, function  # pyright: ignore[reportMissingImports]

    k = cupy.ElementwiseKernel(
        kernel.in_params,
        kernel.out_params,
        kernel.operation,
        kernel.name,
        preamble=kernel.preamble,
        loop_prep=kernel.loop_prep,
        after_loop=kernel.after_loop,
        options=tuple(kernel.options),
    )

    def is_array(p: Any) -> bool:
        if arrays is not None:
            return p.name in arrays
        return p.raw or (p.dtype is None and (p.ctype == "P" or "P" not in placeholders(kernel)))

    def given(p: Any) -> np.dtype:
        return np.dtype(types[p.ctype] if p.dtype is None else p.dtype)

    # What `ElementwiseKernel.__call__` finds out about its arguments…
    in_types, out_types, type_map = k._decide_params_type(
        tuple(given(p) if is_array(p) else None for p in k.in_params),
        tuple(given(p) for p in k.out_params),
    )
    array, indexer, scalar = 1, 2, 3  # `_ArgKind`, an enum of C
    infos = [
        _kernel._ArgInfo(array, cupy.ndarray, np.dtype(dtype), 1, True, True)
        if p in k.out_params or is_array(p)
        else _kernel._ArgInfo(scalar, _scalar.CScalar, np.dtype(dtype), 0, True, True)
        for p, dtype in zip(k.params, in_types + out_types, strict=False)
    ]
    infos.append(_kernel._ArgInfo(indexer, _carray.Indexer, None, 1, True, True))
    # … and what it goes on to do.
    source = _kernel._get_elementwise_kernel_code(
        tuple(infos), type_map, k.params, k.operation, k.name, k.preamble, **k.kwargs
    )

    class Module(function.Module):
        """Keeps the program that CuPy would load onto the device."""

        def load(self, program: bytes) -> None:
            self.program = program

    with (
        mock.patch.dict(os.environ, CUPY_CACHE_IN_MEMORY="1"),  # so that nothing is read from the disk
        # `sm_` as CuPy has it: NVRTC then makes the machine code as well, with all that may fail there.
        mock.patch.object(
            compiler, "_get_arch_for_options_for_nvrtc", lambda arch=None: (f"-arch=sm_{arch}", "ptx")
        ),
        mock.patch.object(compiler, "function", SimpleNamespace(Module=Module)),
    ):
        return core.compile_with_cache(source, tuple(kernel.options), arch=str(arch)).program.decode()


def compiled(source: str, name: str, arch: int) -> str:
    """The PTX of CUDA source as `cupy.RawKernel` would have it compiled."""
    require()
    from cupy.cuda import compiler  # pyright: ignore[reportMissingImports]

    options = ("--std=c++17", f"-arch=compute_{arch}")
    program, _ = compiler._NVRTCProgram(source, f"{name}.cu").compile(options)
    return program.decode()


def traffic(program: str) -> tuple[int, int]:
    """How many numbers `program` (PTX) loads from global memory and stores to it, per element.

    NVRTC may make two loops of one, each for one value of a condition that does not change. So counted is
    along the path that has the most; a path through a loop passes it once.
    """
    arriving: dict[str, tuple[int, int]] = {}  # the counts at branches forward, by the label they go to
    passed: set[str] = set()
    here: tuple[int, int] | None = (0, 0)  # None behind what is never passed: `bra`, `ret`
    most = (0, 0)
    for line in _instructions(program):
        if label := re.match(r"([$\w]+):", line):
            passed.add(label[1])
            here = _larger(here or (0, 0), arriving.get(label[1], (0, 0)))
        if here is None:
            continue
        for kind, modifiers in re.findall(r"(?<![\w.])(ld|ldu|st)((?:[.:]+\w+)+)", line):
            words = set(re.split(r"[.:]+", modifiers))
            if not words & {"param", "local", "shared", "const"}:  # global or of unknown space
                numbers = next((n for n in (2, 4, 8) if f"v{n}" in words), 1)
                here = (here[0] + numbers * (kind != "st"), here[1] + numbers * (kind == "st"))
        most = _larger(most, here)
        if branch := re.search(r"\bbra(?:\.uni)?\s+([$\w]+)", line):
            if branch[1] not in passed:
                arriving[branch[1]] = _larger(here, arriving.get(branch[1], here))
            here = here if line.startswith("@") else None
        elif re.match(r"(ret|exit)\b", line):
            here = None
    return most


def doubles(program: str) -> list[str]:
    """The lines of `program` (PTX) that compute in float64, or have a constant of it."""
    return [
        line for line in _instructions(program) if re.search(r"\.f64\b|%fd\d|\b0[dD][0-9A-Fa-f]{16}\b", line)
    ]


def _instructions(program: str) -> list[str]:
    lines = (line.partition("//")[0].strip() for line in program.splitlines())
    return [line for line in lines if line]


def _larger(*counts: tuple[int, int]) -> tuple[int, int]:
    return max(n for n, _ in counts), max(n for _, n in counts)
