"""A long training: memory and speed over 200,000 steps, and whether one grows or the other sinks.

    python tests/benchmarks/long_run.py [steps]

prints for each tenth of them the time of a step, the memory of the process that is in use, and how many
blocks of memory Python has handed out, which a single object that each step leaves behind would show.
"""

import gc
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import minigrad as mg
from minigrad import nn, optim

STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of memory in use by this process; only where Linux says so."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if STATM.exists() else 0


def small() -> Callable[[], object]:
    """A step of a small net: what a step costs that computes next to nothing."""
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = optim.RAdam(net.parameters())
    x = mg.random.normal((16, 4))
    y = x.sum(axis=1, keepdims=True)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()

    return step


def whole() -> Callable[[], object]:
    """A step with all that belongs to a training, its state saved and loaded now and then."""
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 1))
    optimizer = optim.AdamW(net.parameters(), amsgrad=True)
    schedule = optim.CosineAnnealingWarmRestarts(optimizer, 1000)
    x = mg.random.normal((256, 4))
    batches = mg.data.batches(x, x.sum(axis=1, keepdims=True), size=16)
    stream = itertools.chain.from_iterable(batches for _ in itertools.count())
    count = itertools.count(1)

    def step() -> None:
        a, b = next(stream)
        optimizer.zero_grad()
        nn.functional.huber_loss(net(a), b).backward()
        optim.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step(skip_nonfinite=True)
        schedule.step()
        if next(count) % 500 == 0:
            for part in (net, optimizer, schedule):
                part.load_state_dict(part.state_dict())
            mg.random.set_state(mg.random.get_state())

    return step


VARIANTS = {"small": small, "whole": whole}


class Tenth(NamedTuple):
    """What was measured after a tenth of the steps."""

    microseconds: float
    resident: int
    blocks: int


def tenths(step: Callable[[], object], steps: int) -> Iterator[Tenth]:
    """Make so many steps, and say how each tenth of them went."""
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(steps // 10):
            step()
        taken = time.perf_counter() - start
        gc.collect()  # Python keeps thousands of freed tuples for later; this lets them go
        yield Tenth(taken / (steps // 10) * 1e6, resident(), sys.getallocatedblocks())


def main() -> None:
    """Print the figures of both trainings."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    for name, make in VARIANTS.items():
        mg.random.seed(0)
        print(f"{name}: {make.__doc__} {steps:,} of them\n  tenth   µs a step   MB in use   blocks")
        for k, tenth in enumerate(tenths(make(), steps), 1):
            size = f"{tenth.resident / 2**20:9.2f}"
            print(f"  {k:5} {tenth.microseconds:11.1f} {size:>11} {tenth.blocks:8,}", flush=True)


if __name__ == "__main__":
    main()
