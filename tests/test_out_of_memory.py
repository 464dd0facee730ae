"""Out of memory at any request: nothing is left half done, and the next step works."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import changes
import numpy as np
import pytest
from helpers import python

import minigrad as mg

HERE = Path(__file__).parent
EVERYWHERE = bool(os.environ.get("MINIGRAD_EVERYWHERE"))  # at each request, and not at some of them
COMPILER = shutil.which("gcc") or shutil.which("cc")


def lacking(n: int, bytes: int, counts: list[int]) -> Any:
    """For `changes.check`: a call in which the n-th request for so many bytes or more fails."""
    library = ctypes.CDLL(None)
    library.fail_at.argtypes = [ctypes.c_long, ctypes.c_size_t]
    library.fail_no_more.restype = None

    def fails(change: Any) -> BaseException | None:
        found = None
        try:
            library.fail_at(n, bytes)
            change()
            library.fail_no_more()
        except (MemoryError, SystemError) as error:  # NumPy does not always say what was missing
            library.fail_no_more()
            found = MemoryError(str(error))  # without the frames that the error itself would keep
        counts.append(library.requests())
        return found

    return fails


# To leave a `with` block, and be it one of Python's own, takes some memory: of requests in such blocks only
# those for arrays fail. And newer Pythons crash themselves where they get no memory for small things.
ARRAYS = 1024
SMALLEST = dict.fromkeys(["evaluation", "derivatives"], ARRAYS)
DEFAULT = 1 if sys.version_info < (3, 12) else ARRAYS


def check(stride: int) -> None:
    """In each change let every request fail in turn, or one in `stride`; print how many of how many did."""
    for name in changes.CHANGES:
        bytes, counts = SMALLEST.get(name, DEFAULT), []
        changes.check(name, lacking(0, bytes, counts))
        tried = range(1, counts[0] + 1, stride if bytes < ARRAYS else 1)
        errors = sum(changes.check(name, lacking(n, bytes, counts)) for n in tried)
        print(json.dumps([name, len(tried), errors]), flush=True)


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    if not sys.platform.startswith("linux") or COMPILER is None:
        pytest.skip("needs Linux, and a C compiler")
    path = tmp_path_factory.mktemp("malloc") / "failing_malloc.so"
    command = [COMPILER, "-O1", "-shared", "-fPIC", str(HERE / "failing_malloc.c"), "-o", str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.mark.parametrize("kernels", ["on", "off"])
def test_any_request_may_fail(library, kernels, record_property):
    """Whatever Python, NumPy or a kernel asks for."""
    code = f"import test_out_of_memory; test_out_of_memory.check({1 if EVERYWHERE else 16})"
    settings = {"LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc", "MINIGRAD_KERNELS": kernels}
    tallies = [json.loads(line) for line in python(code, **settings).splitlines()]
    assert [name for name, *_ in tallies] == list(changes.CHANGES)
    for name, tried, errors in tallies:
        record_property(name, f"{errors} of {tried}")
        assert errors > tried / 4 or not tried, name


def test_a_limit_of_a_gpu():
    """With less memory than a step needs on a GPU, and then with enough."""
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("CuPy finds no GPU")
    pool = cupy.get_default_memory_pool()
    model = mg.nn.Sequential(*(mg.nn.Linear(256, 256) for _ in range(8))).to("cupy")
    optimizer = mg.optim.RAdam(model.parameters())
    x = mg.ones((4096, 256), device="cupy")

    def state() -> tuple[Any, Any]:
        saved = optimizer.state_dict(array=lambda a: np.asarray(a).tobytes())["state"]
        return {name: a.tobytes() for name, a in model.state_dict().items()}, saved

    def train() -> None:
        optimizer.zero_grad()
        mg.square(model(x)).mean().backward()
        optimizer.step()

    train()
    failed = 0
    try:
        for share in range(1, 32):
            optimizer.zero_grad()
            pool.free_all_blocks()
            before = state()
            pool.set_limit(pool.used_bytes() + share * (2 << 20))
            try:
                train()
            except MemoryError:
                failed += 1
                assert state() == before
            pool.set_limit(0)
            train()
            assert state() != before
    finally:
        pool.set_limit(0)
    assert failed
