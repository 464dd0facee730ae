"""How the benchmarks measure: libraries take turns, so that whatever else the machine does hits all alike."""

import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

Task = dict[str, Callable[[], Any]]
"""What each library does for one measurement."""


def times(
    task: Task, seconds: float, burst: float = 0.02, of: Callable[[list[float]], float] = min
) -> dict[str, float]:
    """The time of each, the shortest or `of` them; they take turns, a burst each, for `seconds` in all."""
    taken: dict[str, list[float]] = {name: [] for name in task}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not all(taken.values()):
        for name, run in task.items():
            run()  # to warm the caches again
            turn = time.perf_counter() + burst
            while (start := time.perf_counter()) < turn:
                run()
                taken[name].append(time.perf_counter() - start)
    return {name: of(all_of_them) for name, all_of_them in taken.items()}


def medians(task: Task, seconds: float, burst: float = 0.02) -> dict[str, float]:
    """The median time of each."""
    return times(task, seconds, burst, statistics.median)


def find(name: str) -> Any:
    """The module of that name, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
