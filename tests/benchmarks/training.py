"""Whole training steps beside PyTorch's: forward, backward and RAdam, in one run, with two threads each.

    python tests/benchmarks/training.py [--seconds 10] [--nets cnn mlp] [--compile]

For each net the libraries take turns, with the same weights and batches. Shown are medians, and minigrad's
share of the time of the others: of JAX, too, compiled, where it is installed. Then the memory that five
steps need at their peak beyond what was there before, each in a process of its own. `--compile` adds
`torch.compile`, which takes a minute for each net.
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

THREADS = os.environ.setdefault("OMP_NUM_THREADS", "2")

import jax_nets  # noqa: E402
import numpy as np  # noqa: E402 - which reads the number of threads when it is loaded
from jax_step import jax_step  # noqa: E402
from nets import NETS, Net, weights  # noqa: E402
from timing import Task, find, medians  # noqa: E402

import minigrad as mg  # noqa: E402


def ours(net: Net) -> Callable[[], Any]:
    """A training step in minigrad."""
    model = net.make(mg.nn)
    model.load_state_dict(weights(net, mg.nn))
    x, y = next(net.batches(1))
    return step(
        model, mg.optim.RAdam(model.parameters()), mg.nn.functional.cross_entropy, mg.tensor(x), mg.tensor(y)
    )


def theirs(net: Net, torch: Any, compiled: bool = False) -> Callable[[], Any]:
    """The same step in torch."""
    model = net.make(torch.nn)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in weights(net, mg.nn).items()})
    x, y = map(torch.from_numpy, next(net.batches(1)))
    optimizer = torch.optim.RAdam(model.parameters())
    run = torch.compile(model) if compiled else model
    return step(run, optimizer, torch.nn.functional.cross_entropy, x, y)


def step(model: Any, optimizer: Any, cross_entropy: Any, x: Any, y: Any) -> Callable[[], Any]:
    def run() -> None:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

    return run


# --- memory ------------------------------------------------------------------------------------------


def peak(library: str, name: str) -> float:
    """The megabytes that five steps take at their peak, measured in a process of its own."""
    run = [sys.executable, __file__, "--peak", library, "--nets", name]
    return float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


def own_peak(library: str, net: Net) -> float:
    torch: Any = find("torch") if library == "torch" else None
    if torch:
        torch.set_num_threads(int(THREADS))
        torch.ones(2, requires_grad=True).sum().backward()  # so that its threads and tables are there
    else:
        mg.tensor([1.0, 2.0], requires_grad=True).sum().backward()
    before = _status("VmRSS")
    run = theirs(net, torch) if torch else ours(net)
    for _ in range(5):
        run()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    """A number of kilobytes from Linux's page on this process."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="for each net (default: %(default)s)")
    parser.add_argument("--nets", nargs="*", choices=NETS, default=list(NETS))
    parser.add_argument("--compile", action="store_true", help="show torch.compile, too")
    parser.add_argument("--peak", choices=["minigrad", "torch"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(own_peak(options.peak, NETS[options.nets[0]]))
        return
    torch, jax = find("torch"), find("jax")
    versions = [f"{m.__name__} {m.__version__}" for m in (np, torch, jax) if m]
    print(f"Python {platform.python_version()}, {', '.join(versions)}, {THREADS} threads\n")
    if torch:
        torch.set_num_threads(int(THREADS))
    for name in options.nets:
        net = NETS[name]
        task: Task = {"minigrad": ours(net)}
        if torch:
            task["torch"] = theirs(net, torch)
            if options.compile:
                task["torch.compile"] = theirs(net, torch, compiled=True)
        if jax:
            params = {k: jax.numpy.asarray(v) for k, v in weights(net, mg.nn).items()}
            objective = jax_nets.objective(jax, name, *next(net.batches(1)))
            task["jax, compiled"] = jax_step(jax, objective, params)
        found = medians(task, options.seconds, burst=0.1)
        print(net.title)
        for library, t in found.items():
            share = "" if library == "minigrad" else f"{found['minigrad'] / t:8.2f} is minigrad's share"
            print(f"    {library:15s}{t * 1e3:9.2f} ms{share}")
        if sys.platform == "linux":
            mine = peak("minigrad", name)
            its = f" beside torch's {peak('torch', name):.0f} MB" if torch else ""
            print(f"    peak memory of five steps: {mine:.0f} MB{its}")


if __name__ == "__main__":
    main()
