"""Long trainings: memory stays flat. (Speed is printed by `benchmarks/long_run.py`; no test depends on it.)

MINIGRAD_STEPS=200000 in the environment makes them longer.
"""

import os

import pytest
from benchmarks.long_run import VARIANTS, resident, tenths
from helpers import use_kernels

import minigrad as mg

STEPS = int(os.environ.get("MINIGRAD_STEPS") or 4_000)


@pytest.mark.skipif(not resident(), reason="no /proc/self/statm on this system")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_memory_is_flat(name, compiled, monkeypatch):
    """Not one object more for every 8 steps, once two tenths of them are over; nor 1 MB in arrays."""
    use_kernels(monkeypatch, compiled)
    with mg.random.fork(0):
        _, second, *later = tenths(VARIANTS[name](), STEPS)
    assert max(tenth.blocks for tenth in later) - second.blocks < STEPS / 10
    assert later[-1].resident - second.resident < 1 << 20
