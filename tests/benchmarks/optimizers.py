"""The RAdam step beside torch's, NumPy's and JAX's, and beside what memory allows; all in one run.

    python tests/benchmarks/optimizers.py [steps] [training] [blas] [gpu]

Shown are medians, and each as a multiple of minigrad's: above 1 means that minigrad is faster. In
brackets are the aims, as minigrad's share of the other. The floor is the time that 28 bytes for each
parameter take (p, g, m and v are read; p, m and v written) at the bandwidth of a threaded triad,
a += b c, over as much memory, measured by turns with the rest. For small sizes that is mostly the time
of a call. In training the floor is the time of the matrix products alone, in NumPy.
"""

import argparse
import functools
import math
import os
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
from jax_step import jax_step
from perceptron import jax_objective, network, values
from timing import Task, find, medians

import minigrad as mg
from minigrad.kernels import ElementwiseKernel
from minigrad.optim.radam import rectification, rho

torch, jax = find("torch"), find("jax")

CASES: dict[str, tuple[list[int], dict[str, float]]] = {
    "1 K": ([1000], {}),
    "10 K": ([10_000], {"torch, foreach": 0.15}),
    "100 K": ([100_000], {}),
    "1 M": ([1_000_000], {"torch, foreach": 0.3, "torch Adam, fused": 0.8}),
    "10 M": ([10_000_000], {"torch, foreach": 0.25, "torch Adam, fused": 1.1}),
    "100 x 10 K": ([10_000] * 100, {"torch, foreach": 0.06}),
    "300 x 1 K": ([1000] * 300, {"torch, foreach": 0.03}),
}

triad = ElementwiseKernel(
    "T b, T c, T s", "T a", "a = b + s * c", "triad", reference=lambda b, c, s: b + s * c
)


class NumpyRAdam:
    """As one would write it with NumPy, in place and with no array made anew but one."""

    def __init__(self, params: list[np.ndarray], grads: list[np.ndarray], lr: float = 1e-3):
        self.params, self.grads, self.lr, self.t = params, grads, lr, 0
        self.m, self.v = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]

    def step(self) -> None:
        self.t += 1
        t, rate = self.t, self.lr / (1 - 0.9**self.t)
        rectified = rho(t, 0.999) > 5
        if rectified:
            rate *= rectification(t, 0.999) * math.sqrt(1 - 0.999**t)
        for p, g, m, v in zip(self.params, self.grads, self.m, self.v, strict=True):
            m *= 0.9
            m += 0.1 * g
            v *= 0.999
            update = np.square(g)
            update *= 0.001
            v += update
            if rectified:
                np.sqrt(v, out=update)
                update += 1e-8
                np.divide(m, update, out=update)
                update *= rate
                p -= update
            else:
                p -= rate * m


def step_task(sizes: list[int]) -> Task:
    """One optimizer step over tensors of these sizes, whose gradients are there already."""
    random = np.random.default_rng(0)
    values = [random.normal(size=n).astype(np.float32) for n in sizes]
    grads = [random.normal(size=n).astype(np.float32) for n in sizes]
    params = [mg.tensor(v, requires_grad=True) for v in values]
    for p, g in zip(params, grads, strict=True):
        p.grad = mg.tensor(g)
    task: Task = {"minigrad": mg.optim.RAdam(params).step}
    # Three arrays of that many take up as much memory as p, g, m and v.
    a, b, c = (np.zeros(4 * sum(sizes) // 3, np.float32) for _ in range(3))
    task["triad"] = lambda: triad(b, c, a)
    if torch:
        for name, make in {
            "torch": functools.partial(torch.optim.RAdam, foreach=False),
            "torch, foreach": functools.partial(torch.optim.RAdam, foreach=True),
            "torch Adam, fused": functools.partial(torch.optim.Adam, fused=True),
        }.items():
            theirs = [torch.from_numpy(v.copy()).requires_grad_() for v in values]
            for p, g in zip(theirs, grads, strict=True):
                p.grad = torch.from_numpy(g.copy())
            task[name] = make(theirs).step
    task["NumPy"] = NumpyRAdam([v.copy() for v in values], grads).step
    return task


def show(title: str, taken: dict[str, float], aims: dict[str, float]) -> None:
    """A table of one task."""
    first = taken["minigrad"]
    print(title)
    for name, t in taken.items():
        aim = f"  share {first / t:5.3f} (aim {aims[name]})" if name in aims else ""
        print(f"    {name:20s}{t * 1e6:12.1f} us{t / first:9.2f} x{aim}")


def steps(seconds: float) -> None:
    """The optimizer step alone."""
    for name, (sizes, aims) in CASES.items():
        taken = medians(step_task(sizes), seconds, burst=0.1 if sum(sizes) > 10**6 else 0.02)
        bandwidth = 4 * 4 * (4 * sum(sizes) // 3) / taken.pop("triad")  # three are read, and one written
        floor = 28 * sum(sizes) / bandwidth
        show(
            f"RAdam step, {name} floats (triad: {bandwidth / 1e9:.0f} GB/s)", {**taken, "floor": floor}, aims
        )


# --- whole training steps ----------------------------------------------------------------------------


def training_task(sizes: tuple[int, ...], batch: int) -> Task:
    """Forward, backward and RAdam's step of a ReLU net with cross entropy."""
    weights, x, y = values(sizes, batch)

    def loop(model: Any, make: Any, loss: Any, x: Any, y: Any) -> Callable[[], None]:
        optimizer = make(model.parameters())

        def run() -> None:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()

        return run

    task: Task = {
        "minigrad": loop(
            network(mg.nn, weights, np.asarray),
            mg.optim.RAdam,
            mg.nn.functional.cross_entropy,
            mg.tensor(x),
            mg.tensor(y),
        )
    }
    if torch:
        for name, options in {"torch": {}, "torch, foreach": {"foreach": True}}.items():
            make = functools.partial(torch.optim.RAdam, **options)
            cross_entropy = torch.nn.functional.cross_entropy
            inputs = torch.from_numpy(x), torch.from_numpy(y)
            task[name] = loop(network(torch.nn, weights, torch.from_numpy), make, cross_entropy, *inputs)
    if jax:
        params = [(jax.numpy.asarray(w), jax.numpy.asarray(b)) for w, b in weights]
        task["jax, compiled"] = jax_step(jax, jax_objective(jax, x, y), params)
    rows = [x, *(np.ones((batch, w.shape[0]), np.float32) for w, _ in weights)]

    def products() -> None:
        for k, (w, _) in enumerate(weights):
            _ = rows[k] @ w.T  # forward
            _ = rows[k + 1].T @ rows[k]  # backward, to the weights
            if k:
                _ = rows[k + 1] @ w  # and to the inputs

    task["floor"] = products
    return task


def training(seconds: float) -> None:
    """Whole training steps."""
    for sizes, batch, aims in (
        ((64, 64, 10), 32, {"torch": 0.35, "jax, compiled": 0.9}),
        ((784, 512, 256, 10), 128, {"torch": 0.5, "jax, compiled": 1.1}),
    ):
        name = "-".join(map(str, sizes))
        task = training_task(sizes, batch)
        # By itself, since the threads of NumPy's BLAS go on spinning in the turn of whoever comes next.
        floor = {"floor": task.pop("floor")}
        taken = medians(task, 2 * seconds, burst=0.05) | medians(floor, seconds / 2)
        show(f"{name} at batch {batch}: forward, backward and RAdam's step", taken, aims)


# --- a kernel and the matrix product after it --------------------------------------------------------


def blas(seconds: float) -> None:
    """Whether a threaded kernel takes time from the BLAS call that follows."""
    random = np.random.default_rng(0)
    for n in (512, 1024):
        a, b = random.normal(size=(2, n, n)).astype(np.float32)
        x, y, z = random.normal(size=(3, 2_000_000)).astype(np.float32)

        def both(a: Any = a, b: Any = b, x: Any = x, y: Any = y, z: Any = z) -> None:
            triad(x, y, z)
            _ = a @ b

        task: Task = {
            "kernel": functools.partial(triad, x, y, z),
            "matmul": functools.partial(np.matmul, a, b),
            "one after the other": both,
        }
        taken = medians(task, 2 * seconds, burst=0.1)
        alone = taken["kernel"] + taken["matmul"]
        print(f"a kernel over 2 M floats, and a {n} x {n} x {n} matrix product")
        for name, t in taken.items():
            print(f"    {name:20s}{t * 1e6:12.1f} us")
        print(f"    the two in one are {taken['one after the other'] / alone:.3f} of their sum (aim: 1.1)")


# --- on a GPU ----------------------------------------------------------------------------------------


def gpu(seconds: float) -> None:
    """The step on a GPU, where there is one, beside torch's, and beside a copy of as many bytes there."""
    cupy = find("cupy")
    if cupy is None or not cupy.cuda.is_available():
        print("gpu: CuPy is not installed, or finds no GPU")
        return
    wait = cupy.cuda.Device().synchronize

    def waited(step: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            step()
            wait()

        return run

    for name, (sizes, _) in CASES.items():
        params = [mg.random.normal((n,)).to("cupy").detach().requires_grad_() for n in sizes]
        for p in params:
            p.grad = mg.random.normal(p.shape).to("cupy")
        source, target = (cupy.zeros(28 * sum(sizes) // 8, cupy.float32) for _ in range(2))
        task: Task = {"minigrad": waited(mg.optim.RAdam(params).step)}
        task["copy"] = waited(functools.partial(cupy.copyto, target, source))
        if torch is not None and torch.cuda.is_available():
            for title, make in {
                "torch, foreach": functools.partial(torch.optim.RAdam, foreach=True),
                "torch Adam, fused": functools.partial(torch.optim.Adam, fused=True),
            }.items():
                theirs = [torch.randn(n, device="cuda", requires_grad=True) for n in sizes]
                for p in theirs:
                    p.grad = torch.randn_like(p)
                task[title] = waited(make(theirs).step)
        taken = medians(task, seconds)
        bandwidth = 28 * sum(sizes) / taken["minigrad"]
        share = taken["copy"] / taken["minigrad"]
        show(
            f"GPU: RAdam step, {name} floats: {bandwidth / 1e9:.0f} GB/s, {share:.2f} of a copy's", taken, {}
        )


def main() -> None:
    parts = {"steps": steps, "training": training, "blas": blas, "gpu": gpu}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts)}; all by default")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each task (default: %(default)s)")
    options = parser.parse_args()
    if unknown := [name for name in options.parts if name not in parts]:
        parser.error(f"there are no parts {unknown}")
    versions = [f"{m.__name__} {m.__version__}" for m in (np, torch, jax) if m]
    print(f"Python {platform.python_version()}, {', '.join(versions)}, {os.cpu_count()} cores\n")
    for name in options.parts or parts:
        parts[name](options.seconds)


if __name__ == "__main__":
    main()
