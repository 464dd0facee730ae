"""Small things that several test files use."""

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

import minigrad as mg
from minigrad.kernels import compiler, plan


def take_grad(x: mg.Tensor) -> mg.Tensor:
    """The gradient of x, which has none afterwards."""
    g = x.grad
    x.grad = None
    return g


def torch_or_skip() -> Any:
    """torch, the oracle, with its random numbers begun anew in each test; where it is missing, a skip."""
    if "torch" in sys.modules:
        return sys.modules["torch"]  # which the fixture `_same_random_numbers` has seeded
    torch = pytest.importorskip("torch", reason="the oracle torch is not installed")
    torch.manual_seed(0)
    return torch


def garbage(use: Callable[[], object]) -> int:
    """How many objects `use` leaves in cycles, each time: the garbage of others comes up once at most."""
    counts = []
    for _ in range(4):
        gc.collect()
        gc.disable()
        try:
            use()
            counts.append(gc.collect())
        finally:
            gc.enable()
    return min(counts)


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work(i)` gave in each of `count` threads that began together."""
    start = threading.Barrier(count)

    def run(i: int) -> Any:
        start.wait(60)
        return work(i)

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(run, i) for i in range(count)]]


def python(code: str, *arguments: str, **environment: str) -> str:
    """What a fresh Python prints that runs `code`, with these modules to be imported; it must not fail."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout.strip()


def use_kernels(monkeypatch: pytest.MonkeyPatch, on: bool) -> None:
    """Compute with kernels or without, until the test is over; skip it where there are none to be had."""
    if on and not COMPILES:
        pytest.skip("no C++ compiler, or MINIGRAD_KERNELS=off")
    monkeypatch.setattr(plan, "enabled", on)


@contextmanager
def ctrl_c_as_usual() -> Iterator[None]:
    """SIGINT interrupts, here and in processes started inside, even if these tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


COMPILES = plan.enabled and compiler.works() is None
needs_compiler = pytest.mark.skipif(not COMPILES, reason="no C++ compiler, or MINIGRAD_KERNELS=off")
