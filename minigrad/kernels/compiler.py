"""From C++ source to a function: which compiler, with which flags, and when to do without."""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from ..backend import warn
from . import cache

TIMEOUT = 60.0
"""Seconds that a compiler may take; a kernel takes it about half of one."""

# No -ffast-math: linked with it, a library makes the whole process flush subnormal numbers to zero when
# it is loaded, and the compiler takes NaN to be impossible. These three are what vectors need of it.
_MATH = ("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
_SHARED = ("-std=c++17", "-shared", "-fPIC", "-x", "c++")
_SYSTEM = {"win32": ("-static",), "darwin": ()}.get(sys.platform, ("-pthread", "-s"))
FLAGS = (
    ("-O3", "-march=native", *_MATH, *_SHARED, *_SYSTEM),
    ("-O3", "-mcpu=native", *_MATH, *_SHARED, *_SYSTEM),
    ("-O2", *_SHARED),
)
"""Sets of flags, the best first; the first one that the compiler takes is used."""


class Compiler(NamedTuple):
    """A C++ compiler on this machine."""

    command: tuple[str, ...]
    identity: str
    """What a kernel compiled by it depends on besides source and flags: the compiler, and the CPU."""


class CompileError(RuntimeError):
    """A kernel's own text is wrong: the message is the compiler's."""


class UnavailableError(Exception):
    """No kernel can be compiled on this machine; the message says why."""


@functools.cache
def find() -> Compiler | None:
    """The compiler that `CXX` names, perhaps with arguments; or the first of c++, g++ and clang++."""
    own = os.environ.get("CXX")
    for words in [shlex.split(own)] if own else (["c++"], ["g++"], ["clang++"]):
        path = shutil.which(words[0])
        if path:
            files = [os.path.realpath(path) for path in map(shutil.which, words) if path]
            dates = [f"{file} {os.stat(file).st_size} {os.stat(file).st_mtime_ns}" for file in files]
            return Compiler((os.path.abspath(path), *words[1:]), " ".join([*words, *dates, about_cpu()]))
    return None


def about_cpu() -> str:
    """This CPU's model and instruction sets: what was compiled for it may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kinds = ("model name", "flags", "Features", "CPU part")
    return " ".join(sorted({line for line in lines if line.startswith(kinds)}))


def compile_source(compiler: Compiler, flags: tuple[str, ...], source: str, library: Path) -> None:
    """Compile `source` to the shared `library`.

    Raises:
        CompileError: the compiler says that something is wrong with it.
        UnavailableError: the compiler could not be run, or did not come to an end in time.
        OSError: there is no room for the result.
    """
    # From a pipe, so that no file name gets into the result: it depends on the source alone.
    command = [*compiler.command, *flags, "-o", str(library), "-"]
    try:
        # In a session of its own, so that the programs that the compiler starts can be stopped with it.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=library.parent,
            env={**os.environ, "LC_ALL": "C", "TMPDIR": str(library.parent)},
        )
    except OSError as error:
        raise UnavailableError(f"{compiler.command[0]} cannot be run: {error}") from error
    with process:
        try:
            output, _ = process.communicate(source.encode(), timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise UnavailableError(
                f"{compiler.command[0]} did not come to an end within {TIMEOUT:g} s"
            ) from None
        finally:
            if process.poll() is None:
                if hasattr(os, "killpg"):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                process.kill()
    message = output.decode(errors="replace").strip()
    if "No space left" in message or "Disk quota" in message or "Read-only file system" in message:
        raise OSError(message)
    if process.returncode or not library.exists():
        lines = message.splitlines()
        shown = "\n".join([*lines[:20], *(["…"] if len(lines) > 20 else [])]) or "it said nothing"
        raise CompileError(f"{compiler.command[0]} ended with {process.returncode}: {shown}")


_lock = threading.Lock()


def _new_lock() -> None:
    """In a fork, which would wait for ever for a lock that another thread of its parent had."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)

_libraries: dict[str, tuple[ctypes.CDLL, tuple[str, ...]]] = {}  # by their source; with the flags
_unavailable: list[str] = []  # the reason, once it is known: a compiler that hangs is not asked twice


def function(name: str, source: str) -> Any:
    """The compiled function `run_name` of `source`: from this process, the cache folder, or the compiler.

    Raises:
        CompileError: the text is wrong.
        UnavailableError: there is no compiler that works.
    """
    with _lock:
        if _unavailable:
            raise UnavailableError(*_unavailable)
        if source not in _libraries:
            try:
                _libraries[source] = _library(name, source)
            except UnavailableError as error:
                _unavailable.append(str(error))
                raise
        found = getattr(_libraries[source][0], f"run_{name}")
    found.restype = ctypes.c_int  # and no argtypes: to convert arguments, ctypes would need memory
    return found


@functools.cache
def keep_freed_memory() -> None:
    """Have the C library keep what arrays leave behind for those of the next training step.

    glibc gives it back to the system, which then has to hand out the same pages again, zeroed, at every
    step: a third of the time of a small transformer. Up to 256 MB are kept; who has set a threshold of
    malloc's in the environment is left alone.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    with contextlib.suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 256 << 20)


def _library(name: str, source: str) -> tuple[ctypes.CDLL, tuple[str, ...]]:
    compiler = find()
    if compiler is None:
        own = os.environ.get("CXX")
        raise UnavailableError(
            f"the compiler that CXX names, {own!r}, is not there"
            if own
            else "there is no C++ compiler on the PATH"
        )
    _check_layout()
    keep_freed_memory()
    keys = [
        hashlib.sha256("\n".join((compiler.identity, *flags, source)).encode()).hexdigest()[:32]
        for flags in FLAGS
    ]
    for flags, key in zip(FLAGS, keys, strict=True):
        found = cache.load(f"{name[:40]}-{key}")
        if found is not None:
            return found, flags
    problem: Exception | None = None
    for flags, key in zip(FLAGS, keys, strict=True):
        try:
            write = functools.partial(compile_source, compiler, flags, source)
            return cache.make(f"{name[:40]}-{key}", write), flags
        except CompileError as error:
            problem = problem or error
        except cache.LoadError as error:
            raise CompileError(str(error)) from error
        except OSError as error:
            raise UnavailableError(f"the compiled kernel could not be written: {error}") from error
    assert problem is not None
    raise problem


_PROBE = 'extern "C" int run_probe(const char*) { return 0; }'


def works() -> str | None:
    """None if the compiler makes working functions; otherwise what is wrong. Tries the smallest one."""
    try:
        function("probe", _PROBE)
    except (CompileError, UnavailableError) as error:
        return str(error)
    return None


def flags() -> tuple[str, ...]:
    """The flags with which the compiler works, once `works` has found that it does."""
    return _libraries[_PROBE][1]


def _check_layout() -> None:
    """Raise `UnavailableError` on a Python whose arrays do not lie in memory as CPython's and NumPy's do."""
    probe = numpy.zeros(1)
    at = ctypes.c_void_p.from_address(id(probe) + object.__basicsize__).value
    if sys.implementation.name != "cpython" or at != probe.ctypes.data:
        raise UnavailableError("arrays are laid out in another way than in CPython")


_warned = False


def warn_once(why: str) -> None:
    """Say once that kernels are not compiled here, and what to do."""
    global _warned
    if not _warned:
        _warned = True
        warn(
            f"minigrad: kernels are not compiled: {why}. Results are the same, but training is "
            "slower. Install a C++ compiler (g++ or clang++), or name it in the environment variable CXX; "
            "MINIGRAD_KERNELS=off turns this message off",
            RuntimeWarning,
        )
