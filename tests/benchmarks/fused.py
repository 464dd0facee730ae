"""Each fused function alone, forward and backward, beside PyTorch's, in one run, with two threads each.

    python tests/benchmarks/fused.py [--seconds 1]

Shown are medians of microseconds, minigrad's share of torch's time, and the rate at which minigrad reads and
writes the arrays that it must, in GB/s: of the floor, the rate of a plain copy, it cannot be above.
"""

import argparse
import os
from collections.abc import Callable
from typing import Any

THREADS = os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np  # noqa: E402 - which reads the number of threads when it is loaded
from timing import find, medians  # noqa: E402

import minigrad as mg  # noqa: E402

torch: Any = find("torch")

# What is computed, of a module `nn.functional` and of arrays; their shapes; and how many passes over the
# first array forward and backward must make: the reading of inputs and gradients, the writing of results.
TABLE: list[tuple[str, Callable[..., Any], list[tuple[int, ...]], int]] = [
    ("relu", lambda f, x: f.relu(x), [(1024, 512)], 5),
    ("gelu", lambda f, x: f.gelu(x), [(1024, 512)], 5),
    ("silu", lambda f, x: f.silu(x), [(1024, 512)], 5),
    ("sigmoid", lambda f, x: f.sigmoid(x), [(1024, 512)], 5),
    ("dropout 0.1", lambda f, x: f.dropout(x, 0.1), [(1024, 512)], 5),
    ("softmax", lambda f, x: f.softmax(x, -1), [(4096, 64)], 5),
    ("log_softmax", lambda f, x: f.log_softmax(x, -1), [(4096, 64)], 5),
    ("cross_entropy", lambda f, x: f.cross_entropy(x, f.target), [(1024, 80)], 3),
    ("layer_norm", lambda f, x, w, b: f.layer_norm(x, (128,), w, b), [(1024, 128), (128,), (128,)], 5),
    (
        "layer_norm, wide",
        lambda f, x, w, b: f.layer_norm(x, (1024,), w, b),
        [(512, 1024), (1024,), (1024,)],
        5,
    ),
    ("rms_norm", lambda f, x, w: f.rms_norm(x, (128,), w), [(1024, 128), (128,)], 5),
    (
        "batch_norm",
        lambda f, x, w, b: f.batch_norm(x, None, None, w, b, True),
        [(64, 16, 28, 28), (16,), (16,)],
        6,
    ),
    ("linear", lambda f, x, w, b: f.linear(x, w, b), [(1024, 128), (512, 128), (512,)], 0),
    ("x + y", lambda f, x, y: x + y, [(1024, 512), (1024, 512)], 3),
]


class Functional:
    """`nn.functional` of a library, with the classes that cross entropy is given."""

    def __init__(self, functional: Any, target: Any):
        self.functional, self.target = functional, target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.functional, name)


def run(f: Any, compute: Callable[..., Any], inputs: list[Any], g: Any) -> Callable[[], None]:
    """Forward and backward, each time from no gradients."""

    def both() -> None:
        for x in inputs:
            x.grad = None
        y = compute(f, *inputs)
        y.backward(g if y.shape else None)

    return both


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="for each function (default: %(default)s)")
    seconds = parser.parse_args().seconds
    if torch:
        torch.set_num_threads(int(THREADS))
    random = np.random.default_rng(0)
    source, target = np.ones(1 << 19, np.float32), np.empty(1 << 19, np.float32)
    copy = medians({"copy": lambda: np.copyto(target, source)}, 1.0)["copy"]
    print(f"a copy of 2 MB, by one thread: {2 * source.nbytes / copy / 1e9:.0f} GB/s\n")
    print(f"{'':20s}{'minigrad':>10s}{'torch':>10s}{'share':>8s}{'GB/s':>8s}")
    classes = random.integers(0, 80, 1024)
    for name, compute, shapes, passes in TABLE:
        arrays = [random.normal(size=shape).astype(np.float32) for shape in shapes]
        mine = [mg.tensor(a, requires_grad=True) for a in arrays]
        ours = Functional(mg.nn.functional, mg.tensor(classes))
        g = np.ones(compute(ours, *mine).shape, np.float32)
        task = {"minigrad": run(ours, compute, mine, mg.tensor(g))}
        if torch:
            its = [torch.tensor(a, requires_grad=True) for a in arrays]
            theirs = Functional(torch.nn.functional, torch.from_numpy(classes))
            task["torch"] = run(theirs, compute, its, torch.from_numpy(g))
        found = medians(task, seconds)
        other = found.get("torch", float("nan"))
        rate = f"{passes * arrays[0].nbytes / found['minigrad'] / 1e9:8.0f}" if passes else ""
        t = found["minigrad"]
        print(f"{name:20s}{t * 1e6:10.0f}{other * 1e6:10.0f}{t / other:8.2f}{rate}")


if __name__ == "__main__":
    main()
