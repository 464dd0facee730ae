"""Compiling kernels and keeping them: errors in texts, attacks on the cache, accidents, bad compilers."""

import ctypes
import os
import platform
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import needs_compiler, python

from minigrad.kernels import ElementwiseKernel, compiler


@needs_compiler
def test_a_wrong_text_is_an_error_with_the_words_of_the_compiler():
    kernel = ElementwiseKernel("T x", "T y", "y = x +", "broken", reference=lambda x: x)
    with pytest.raises(RuntimeError, match=r"broken: its text cannot be compiled[\s\S]*error"):
        kernel(np.ones(2))


@needs_compiler
def test_an_error_says_which_line_of_the_text():
    kernel = ElementwiseKernel("T x", "T y", "T z = x;\nz += 1;\ny = zz", "lines")
    with pytest.raises(RuntimeError, match=r"lines, operation:3:\d+: error: 'zz'"):
        kernel(np.ones(2))


@needs_compiler
def test_names_and_texts_that_could_be_in_the_way():
    """Of the parameters, of the kernel, and what stands at the end of a text."""
    for name in ("sqrt", "class", "probe", "run"):
        kernel = ElementwiseKernel(
            "raw T data, T size, T x_size, raw T x",
            "T count",
            "count = data[i] + size + x[i] + x_size // sum",
            name,
        )
        assert kernel(np.ones(2), np.ones(2), 1.0, np.ones(2)).tolist() == [4, 4]


@needs_compiler
def test_nothing_else_changes_in_the_process():
    """Floating-point mode, signal handlers, BLAS's threads: a library that is loaded could change them."""
    code = """
    import ctypes, faulthandler, signal, sys, threading
    import numpy as np
    import minigrad
    from minigrad.kernels import ElementwiseKernel, compiler
    from threadpoolctl import threadpool_info
    blas = threadpool_info()
    handlers = {s: signal.getsignal(s) for s in signal.valid_signals()}
    libm = ctypes.CDLL(None)
    rounding = libm.fegetround()
    tiny = np.array([5e-324, 2e-310])
    threads = threading.active_count(), len(__import__("os").listdir("/proc/self/task"))
    kernel = ElementwiseKernel("T x", "T y", "y = x * T(0.5) + x", "halves", reference=lambda x: x)
    assert kernel.plan(kernel.kinds([tiny, tiny])).function is not None
    big = np.full(3_000_000, 2e-310)
    assert (kernel(big) > 0).all(), "the kernel itself keeps subnormal numbers"
    assert (tiny * 0.5)[1] > 0 and float(tiny[1]) / 2 > 0, "and so does all else"
    assert np.float32(1e-45) * np.float32(1) > 0
    assert libm.fegetround() == rounding
    assert threadpool_info() == blas, "neither BLAS's threads, nor a library of OpenMP"
    assert {s: signal.getsignal(s) for s in signal.valid_signals()} == handlers
    for _ in range(100):  # a thread that came too late to help may still be about to end
        if len(__import__("os").listdir("/proc/self/task")) == threads[1]:
            break
        __import__("time").sleep(0.05)
    assert (threading.active_count(), len(__import__("os").listdir("/proc/self/task"))) == threads
    """
    run_python(code)


def run_python(code: str, check: bool = True, **environment: Any) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0 or not check, result.stderr
    return result


USE = """
import numpy as np
from minigrad.kernels import ElementwiseKernel, cache, compiler, plan
kernel = ElementwiseKernel("T x", "T y", "y = 3 * x", "triple", reference=lambda x: 3 * x)
for _ in range(2):
    assert kernel(np.array([1.0, 2.0])).tolist() == [3, 6]
again = ElementwiseKernel("T x", "T y", "y = 4 * x", "four", reference=lambda x: 4 * x)
assert again(np.array([1.0, 2.0])).tolist() == [4, 8]
function = plan.enabled and kernel.plan(kernel.kinds([np.ones(1), np.ones(1)])).function
print("compiled" if function else "reference", len(cache.contents()))
"""


def use(folder: Path, **environment: Any) -> tuple[str, str]:
    """What a process says that uses two kernels with this cache folder, and what it warns of."""
    result = run_python(USE, MINIGRAD_CACHE=str(folder), MINIGRAD_KERNELS="on", **environment)
    return result.stdout.strip(), result.stderr


@needs_compiler
def test_kernels_are_kept_for_the_next_process(tmp_path):
    folder = tmp_path / "a" / "cache"
    assert use(folder) == ("compiled 2", "")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert use(folder) == ("compiled 2", "")
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in before)


@needs_compiler
def test_a_damaged_file_is_compiled_anew(tmp_path):
    use(tmp_path / "cache")
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said, warned = use(tmp_path / "cache")
    assert said == "compiled 2"
    assert "damaged" in warned
    assert use(tmp_path / "cache") == ("compiled 2", "")


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "chmod"), reason="no permissions on this system")
def test_files_that_others_can_write_to_are_not_loaded(tmp_path):
    folder = tmp_path / "cache"
    use(folder)
    evil = 'extern "C" int run_triple(void*) { __builtin_trap(); }'
    for path in folder.glob("triple-*"):
        found = compiler.find()
        assert found is not None
        planted = tmp_path / "planted.so"
        compiler.compile_source(found, compiler.FLAGS[0], evil, planted)
        from minigrad.kernels.cache import _checksum

        name = folder / f"{path.stem.rpartition('-')[0]}-{_checksum(planted)}.so"
        path.unlink()
        planted.rename(name)
        name.chmod(0o777)
    said, warned = use(folder)
    assert said == "compiled 2"
    assert "somebody else can write" in warned


@needs_compiler
@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root can give files away")
def test_files_of_another_owner_are_not_loaded(tmp_path):
    use(tmp_path / "cache")
    for path in (tmp_path / "cache").iterdir():
        os.chown(path, 12345, 12345)
    said, warned = use(tmp_path / "cache")
    assert said == "compiled 2"
    assert "somebody else can write" in warned
    os.chown(tmp_path / "cache", 12345, 12345)
    said, warned = use(tmp_path / "cache")
    assert said == "compiled 0"
    assert "must be a folder of yours" in warned


@needs_compiler
def test_a_folder_that_others_can_write_to_is_not_used(tmp_path):
    tmp_path.chmod(0o777)
    said, warned = use(tmp_path)
    assert said == "compiled 0"
    assert "must be a folder of yours" in warned
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert "must be a folder of yours" in use(link)[1]


@needs_compiler
def test_a_folder_that_cannot_be_had_costs_only_the_speed(tmp_path):
    (tmp_path / "file").write_text("")
    said, warned = use(tmp_path / "file" / "cache")
    assert said == "compiled 0"
    assert "MINIGRAD_CACHE names another folder" in warned


@needs_compiler
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_full_disk_costs_only_the_speed(tmp_path, everywhere):
    """No space in the cache folder: temporary files are used; nor there: the reference."""
    full = f"""
    import errno, os
    replace = os.replace
    def full(source, target):
        if {everywhere} or str(target).startswith({str(tmp_path)!r}):
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(source, target)
    os.replace = full
    """
    result = run_python(
        textwrap.dedent(full) + USE, MINIGRAD_CACHE=str(tmp_path / "c"), MINIGRAD_KERNELS="on"
    )
    assert result.stdout.strip() == ("reference 0" if everywhere else "compiled 0")
    assert "No space left" in result.stderr


@needs_compiler
def test_processes_that_compile_the_same_at_once(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", USE],
            env={**os.environ, "MINIGRAD_CACHE": str(tmp_path / "c"), "MINIGRAD_KERNELS": "on"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.startswith("compiled")
    assert len(list((tmp_path / "c").iterdir())) == 2


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(os.name != "posix", reason="the compiler is a shell script here")
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo cannot find crt1.o; exit 1", "cannot find crt1.o"),
        ("exit 0", "ended with 0"),
        ("kill -9 $$", "ended with -9"),
        ('while [ "$1" != -o ]; do shift; done; echo nonsense > "$2"', "cannot be loaded"),
    ],
)
def test_a_failing_compiler_is_warned_of_once(tmp_path, text, why):
    said, warned = use(tmp_path / "cache", CXX=script(tmp_path / "cxx", text))
    assert said == "reference 0"
    assert warned.count("kernels are not compiled") == 1
    assert why in warned
    assert "MINIGRAD_KERNELS=off" in warned


@pytest.mark.skipif(os.name != "posix", reason="the compiler is a shell script here")
def test_a_compiler_that_hangs_is_stopped_with_what_it_started(tmp_path):
    marker = tmp_path / "alive"
    hang = script(tmp_path / "cxx", f"(sleep 3; touch {marker}) & wait; sleep 100")
    shorter = "import minigrad.kernels.compiler as c; c.TIMEOUT = 0.5\n"
    result = run_python(shorter + USE, CXX=hang, MINIGRAD_CACHE=str(tmp_path / "c"), MINIGRAD_KERNELS="on")
    assert result.stdout.strip() == "reference 0"
    assert result.stderr.count("did not come to an end within 0.5 s") == 1
    run_python("import time; time.sleep(3.2)")
    assert not marker.exists()


@needs_compiler
def test_a_compiler_with_arguments(tmp_path):
    """As in CXX="ccache g++"."""
    found = compiler.find()
    assert found is not None
    assert use(tmp_path / "cache", CXX=f"env {found.command[0]} -DSOMETHING=1") == ("compiled 2", "")
    said, warned = use(tmp_path / "cache", CXX="/nowhere/g++ -O2")
    assert said == "reference 2"
    assert "CXX names, '/nowhere/g++ -O2', is not there" in warned


def test_no_compiler(tmp_path):
    said, warned = use(tmp_path / "cache", PATH=str(tmp_path), CXX="")
    assert said == "reference 0"
    assert warned.count("there is no C++ compiler on the PATH") == 1


@needs_compiler
def test_flags_that_a_compiler_does_not_know_are_left_out(tmp_path):
    found = compiler.find()
    assert found is not None
    old = script(
        tmp_path / "cxx",
        f'case "$*" in *=native*) echo unknown option; exit 1;; esac; exec {found.command[0]} "$@"',
    )
    assert use(tmp_path / "cache", CXX=old) == ("compiled 2", "")
    assert use(tmp_path / "cache", CXX=old) == ("compiled 2", "")


def test_off_means_the_reference(tmp_path):
    code = USE.replace("len(cache.contents())", '"-"')
    result = run_python(code, MINIGRAD_KERNELS="off", MINIGRAD_CACHE=str(tmp_path / "c"), PATH="")
    assert (result.stdout.strip(), result.stderr) == ("reference -", "")
    assert not (tmp_path / "c").exists()
    wrong = run_python("import minigrad", check=False, MINIGRAD_KERNELS="fast")
    assert "MINIGRAD_KERNELS must be 'on' or 'off', got 'fast'" in wrong.stderr


def test_without_compiler_and_reference_there_is_an_error():
    code = """
    import numpy as np
    from minigrad.kernels import ElementwiseKernel
    try:
        ElementwiseKernel("T x", "T y", "y = x")(np.ones(2))
    except RuntimeError as error:
        print(error)
    """
    assert "install a C++ compiler" in run_python(code, MINIGRAD_KERNELS="off").stdout


def test_import_starts_nothing(tmp_path):
    """`import minigrad` neither looks for a compiler nor makes a folder."""
    code = "import sys, minigrad; assert 'minigrad.kernels.compiler' not in sys.modules"
    run_python(code, MINIGRAD_CACHE=str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()


def test_the_array_struct_is_numpys():
    """What the compiled loop reads of an array, read here: dtype and flags lie where it takes them to."""
    array = np.zeros((3, 4), np.float32)
    start = id(array) + object.__basicsize__
    word = ctypes.sizeof(ctypes.c_void_p)
    assert ctypes.c_void_p.from_address(start).value == array.ctypes.data
    assert ctypes.c_int.from_address(start + word).value == 2
    assert ctypes.c_void_p.from_address(start + 5 * word).value == id(array.dtype)
    assert ctypes.c_int.from_address(start + 6 * word).value == array.flags.num
    assert signal.getsignal(signal.SIGINT) is not None


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forks(tmp_path):
    """While another thread compiles; and where libraries lie in temporary files, which the parent needs."""
    code = (
        USE
        + """
import os, sys, threading
compiler._lock.acquire()
if os.fork() == 0:
    five = ElementwiseKernel("T x", "T y", "y = 5 * x", "five", reference=lambda x: 5 * x)
    assert five(np.array([1.0])).tolist() == [5]
    sys.exit(0)
assert os.wait()[1] == 0
compiler._lock.release()
six = ElementwiseKernel("T x", "T y", "y = 6 * x", "six", reference=lambda x: 6 * x)
assert six.plan(six.kinds([np.ones(1), np.ones(1)])).function is not None
"""
    )
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "cache", tmp_path / "file" / "no_folder"):
        run_python(code, MINIGRAD_CACHE=str(folder), MINIGRAD_KERNELS="on")


@needs_compiler
def test_a_home_that_is_not_known_costs_only_the_speed():
    result = run_python(USE, MINIGRAD_CACHE="~nobody_of_that_name/x", MINIGRAD_KERNELS="on")
    assert result.stdout.strip() == "compiled 0"
    assert "there is no cache folder" in result.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told to")
@needs_compiler
def test_memory_of_one_step_serves_the_next(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    code = """
import resource, numpy, minigrad
assert minigrad.kernels.available()
def step():
    arrays = [numpy.ones(1 << 18) for _ in range(8)]
step(); step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    assert int(python(code)) < 1000  # of 40,960 pages
