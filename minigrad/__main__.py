"""`python -m minigrad`: what this machine offers, to be read, or pasted into a bug report."""

import ctypes
import importlib
import os
import platform
import subprocess
from collections.abc import Iterator

import numpy

import minigrad

from .kernels import cache, compiler, plan, threads


def facts() -> Iterator[tuple[str, str]]:
    """Names and values, a line each."""
    yield "minigrad", minigrad.__version__
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "system", f"{platform.platform()}, {os.cpu_count()} cores"
    yield "NumPy", f"{numpy.__version__}, {_blas()}"
    yield "backend", minigrad.backend()
    yield from _kernels()
    yield "CuPy", _cupy()


def _blas() -> str:
    try:
        about = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]  # pyright: ignore[reportOptionalSubscript]
        known = f"BLAS: {about['name']} {about['version']}"
    except (KeyError, TypeError):
        return "BLAS: unknown"
    core = _openblas_core()
    if core in ("Haswell", "Zen") and "avx512f" in compiler.about_cpu():
        core += " (of AVX2; for this CPU's AVX-512 set OPENBLAS_CORETYPE=SKYLAKEX: products are faster)"
    return f"{known}, for {core}" if core else known


def _openblas_core() -> str:
    """What NumPy's OpenBLAS takes this CPU for: it does not know those that are younger than itself."""
    try:
        library = ctypes.CDLL(importlib.import_module("numpy._core._multiarray_umath").__file__)
        name = library.scipy_openblas_get_corename64_
    except (ImportError, OSError, AttributeError):
        return ""
    name.restype = ctypes.c_char_p
    return name().decode()


def _kernels() -> Iterator[tuple[str, str]]:
    if not plan.enabled:
        yield "kernels", "off, by MINIGRAD_KERNELS; the reference computes"
        return
    found = compiler.find()
    problem = compiler.works()
    if found is not None:
        yield "compiler", f"{' '.join(found.command)}: {_version(found.command)}"
    if problem is not None:
        yield "kernels", f"not compiled, the reference computes: {problem}"
        return
    yield "flags", " ".join(compiler.flags())
    yield "kernels", f"compiled, up to {threads.count()} threads"
    kept = cache.contents()
    size = sum(path.stat().st_size for path in kept)
    yield "cache", f"{len(kept)} libraries, {size / 1024:.0f} KiB, in {cache.location()}"


def _version(command: tuple[str, ...]) -> str:
    try:
        said = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return said.partition("\n")[0]


def _cupy() -> str:
    try:
        import cupy  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        return f"not installed ({error}); pip install 'minigrad[cuda13x]' or 'minigrad[cuda12x]'"
    if not cupy.cuda.is_available():
        return f"{cupy.__version__}, but it finds no GPU or no driver"
    runtime = cupy.cuda.runtime
    device = runtime.getDeviceProperties(0)
    memory = device["totalGlobalMem"] / 2**30
    return (
        f"{cupy.__version__}, {runtime.getDeviceCount()} x {device['name'].decode()} ({memory:.0f} GiB), "
        f"CUDA runtime {runtime.runtimeGetVersion()}, driver {runtime.driverGetVersion()}"
    )


def main() -> None:
    """Print them."""
    for name, value in facts():
        print(f"{name:10s}{value}")


if __name__ == "__main__":
    main()
