"""A long training: memory and speed over 200,000 steps, and whether one grows or the other sinks.

    python tests/benchmarks/long_run.py [steps]

prints for each tenth of them the time of a step, the memory of the process that is in use, and how many
blocks of memory Python has handed out, which a single object that each step leaves behind would show.

A machine that others use, too, gets faster and slower by itself. So at the end the process takes turns with
some that have only begun, a hundred steps each: shown are the shares of a step's median time in theirs.
"""

import gc
import itertools
import os
import statistics
import subprocess
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


def seconds(step: Callable[[], object], count: int = 100) -> float:
    """The time that so many steps take."""
    start = time.perf_counter()
    for _ in range(count):
        step()
    return time.perf_counter() - start


def beside_a_fresh_process(step: Callable[[], object], name: str, turns: int = 100) -> float:
    """A step's time as a share of what it takes in a process that begins now."""
    command = [sys.executable, __file__, "--fresh", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        here, there = [], []
        for turn in range(turns + 10):
            here.append(seconds(step))
            process.stdin.write("go on\n")
            process.stdin.flush()
            there.append(float(process.stdout.readline()))
            if turn == 9:  # now both are warm
                here, there = [], []
        process.stdin.close()
    return statistics.median(here) / statistics.median(there)


def main() -> None:
    """Print the figures of both trainings; or be the fresh process."""
    mg.random.seed(0)
    if sys.argv[1:2] == ["--fresh"]:
        step = VARIANTS[sys.argv[2]]()
        for _ in sys.stdin:
            print(seconds(step), flush=True)
        return
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    for name, make in VARIANTS.items():
        mg.random.seed(0)
        step = make()
        print(f"{name}: {make.__doc__} {steps:,} of them\n  tenth   µs a step   MB in use   blocks")
        for k, tenth in enumerate(tenths(step, steps), 1):
            size = f"{tenth.resident / 2**20:9.2f}"
            print(f"  {k:5} {tenth.microseconds:11.1f} {size:>11} {tenth.blocks:8,}", flush=True)
        shares = [beside_a_fresh_process(step, name) for _ in range(5)]
        print("  beside five fresh processes:", " ".join(f"{share:.2f}" for share in shares), flush=True)


if __name__ == "__main__":
    main()
