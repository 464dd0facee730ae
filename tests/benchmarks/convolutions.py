"""Convolution and pooling of minigrad beside PyTorch's, each pass alone, in one run.

    python tests/benchmarks/convolutions.py

For each pass both take turns, with as many threads each. Shown is the median time of each, how many
operations a second that is, and the ratio. A ratio below 1 means minigrad is faster.
"""

import argparse
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
from timing import Task, find, medians

import minigrad as mg
from minigrad.kernels import threads

torch = find("torch")

CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "3x3, 1 to 16, 28x28, batch 64": ((64, 1, 28, 28), (16, 1, 3, 3), {"padding": 1}),
    "3x3, 16 to 32, 14x14, batch 64": ((64, 16, 14, 14), (32, 16, 3, 3), {"padding": 1}),
    "3x3, 16 to 32, 28x28, batch 32": ((32, 16, 28, 28), (32, 16, 3, 3), {"padding": 1}),
    "3x3, 64 to 64, 14x14, batch 32": ((32, 64, 14, 14), (64, 64, 3, 3), {"padding": 1}),
    "3x3, 128 to 128, 7x7, batch 32": ((32, 128, 7, 7), (128, 128, 3, 3), {"padding": 1}),
    "3x3, 64 to 64, 56x56, batch 1": ((1, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
    "5x5, 3 to 32, 32x32, batch 32": ((32, 3, 32, 32), (32, 3, 5, 5), {"padding": 2}),
    "3x3, stride 2, 16 to 32, 28x28": ((32, 16, 28, 28), (32, 16, 3, 3), {"padding": 1, "stride": 2}),
    "1x1, 64 to 64, 14x14, batch 32": ((32, 64, 14, 14), (64, 64, 1, 1), {}),
    "3x3, depthwise, 64, 28x28": ((32, 64, 28, 28), (64, 1, 3, 3), {"padding": 1, "groups": 64}),
    "1-D, 3, 64 to 64, 256, batch 16": ((16, 64, 256), (64, 64, 3), {"padding": 1}),
}

POOLINGS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "maximum, 2, 64x16x28x28": ("max_pool2d", (64, 16, 28, 28), {"kernel_size": 2}),
    "maximum, 2, 64x32x14x14": ("max_pool2d", (64, 32, 14, 14), {"kernel_size": 2}),
    "maximum, 3, stride 2, 64x16x28x28": (
        "max_pool2d",
        (64, 16, 28, 28),
        {"kernel_size": 3, "stride": 2, "padding": 1},
    ),
    "mean, 2, 64x16x28x28": ("avg_pool2d", (64, 16, 28, 28), {"kernel_size": 2}),
    "mean of all, 32x64x7x7": ("adaptive_avg_pool2d", (32, 64, 7, 7), {"output_size": 1}),
}


def forward(library: Any, name: str, arrays: list[np.ndarray], settings: dict[str, Any]) -> Callable[[], Any]:
    """The function of constants."""
    if library is mg:
        xs, function = [mg.tensor(a) for a in arrays], getattr(mg, name)
    else:
        xs, function = [torch.from_numpy(a) for a in arrays], getattr(torch.nn.functional, name)
    return lambda: function(*xs, **settings)


def backward(
    library: Any, name: str, arrays: list[np.ndarray], settings: dict[str, Any], wanted: int
) -> Callable[[], Any]:
    """The gradient by one of the inputs, of a result that is there."""
    make = mg.tensor if library is mg else torch.from_numpy
    xs = [make(a) for a in arrays]
    xs[wanted].requires_grad_()
    out = getattr(mg if library is mg else torch.nn.functional, name)(*xs, **settings)
    g = make(np.random.default_rng(1).normal(size=tuple(out.shape)).astype(np.float32))

    def run() -> None:
        xs[wanted].grad = None
        out.backward(g, retain_graph=True)

    return run


def show(title: str, task: Task, seconds: float, operations: float = 0.0) -> None:
    """A line of the table."""
    found = medians(task, seconds)
    line = f"{title:52s}"
    for time in found.values():
        line += f"{time * 1e3:9.3f} ms"
        line += f"{operations / time * 1e-9:6.0f} GFLOP/s" if operations else ""
    if torch:
        line += f"{found['minigrad'] / found['torch']:8.2f}"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="for each pass (default: %(default)s)")
    seconds = parser.parse_args().seconds
    libraries = {"minigrad": mg, **({"torch": torch} if torch else {})}
    if torch:
        torch.set_num_threads(threads.count())
    versions = [f"{m.__name__} {m.__version__}" for m in (np, *libraries.values())]
    print(f"Python {platform.python_version()}, {', '.join(versions)}, {threads.count()} threads")
    print(f"minigrad, then {'torch, and minigrad / torch' if torch else 'nothing: torch is missing'}\n")
    random = np.random.default_rng(0)
    for title, (x, weight, settings) in CONVOLUTIONS.items():
        name = f"conv{len(x) - 2}d"
        arrays = [random.normal(size=s).astype(np.float32) for s in (x, weight, weight[:1])]
        out = forward(mg, name, arrays, settings)()
        operations = 2.0 * out.size * np.prod(weight[1:])
        task = {k: forward(library, name, arrays, settings) for k, library in libraries.items()}
        show(f"{title}: forward", task, seconds, operations)
        for wanted, what in enumerate(("input", "weight", "bias")):
            task = {k: backward(m, name, arrays, settings, wanted) for k, m in libraries.items()}
            show(f"{title}: by {what}", task, seconds, operations if wanted < 2 else 0.0)
    for title, (name, x, settings) in POOLINGS.items():
        arrays = [random.normal(size=x).astype(np.float32)]
        task = {k: forward(library, name, arrays, settings) for k, library in libraries.items()}
        show(f"{title}: forward", task, seconds)
        task = {k: backward(library, name, arrays, settings, 0) for k, library in libraries.items()}
        show(f"{title}: backward", task, seconds)


if __name__ == "__main__":
    main()
