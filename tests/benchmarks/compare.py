"""minigrad beside PyTorch, JAX, HIPS autograd and MyGrad, as far as they are installed, in one run.

    python tests/benchmarks/compare.py

For each task the libraries take turns, so that whatever else the machine does hits all alike. Shown is
the best time of each, and how many times minigrad's that is. A ratio above 1 means minigrad is faster.
"""

import argparse
import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from perceptron import jax_objective, network, values
from timing import Task, find, times

import minigrad as mg

torch, jax, autograd, mygrad = (find(name) for name in ("torch", "jax", "autograd", "mygrad"))


# --- chains of small ops ---------------------------------------------------------------------------

CHAIN = 1000
OPS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "multiply": lambda xp, y, c: y * c,
    "add": lambda xp, y, c: y + c,
    "sin": lambda xp, y, c: xp.sin(y),
    "exp of a negative": lambda xp, y, c: xp.exp(-y),
    "tanh": lambda xp, y, c: xp.tanh(y),
}


def chain(op: Callable[[Any, Any, Any], Any]) -> Task:
    """Forward and backward through a chain of one op on 4 floats."""
    ones = np.ones(4, np.float32)

    def apply(xp: Any, x: Any, c: Any) -> Any:
        for _ in range(CHAIN):
            x = op(xp, x, c)
        return x

    def minigrad_() -> None:
        apply(mg, mg.tensor(ones, requires_grad=True), c_mg).backward(g_mg)

    c_mg = g_mg = mg.tensor(ones)
    task: Task = {"minigrad": minigrad_}
    if torch:
        c_torch = torch.ones(4)
        task["torch"] = lambda: apply(torch, torch.ones(4, requires_grad=True), c_torch).backward(c_torch)
    if autograd:
        anp = importlib.import_module("autograd.numpy")
        task["autograd"] = lambda: autograd.make_vjp(lambda x: apply(anp, x, ones))(ones)[0](ones)
    if mygrad:
        task["mygrad"] = lambda: apply(mygrad, mygrad.tensor(ones), ones).backward(ones)
    if jax:
        jnp = importlib.import_module("jax.numpy")

        def jax_() -> None:
            _, pull = jax.vjp(lambda x: apply(jnp, x, jnp.ones(4)), jnp.ones(4))
            jax.block_until_ready(pull(jnp.ones(4)))

        task["jax, not compiled"] = jax_
    return task


# --- multilayer perceptrons ------------------------------------------------------------------------


def training(sizes: tuple[int, ...], batch: int) -> Task:
    """Forward and backward of a ReLU net with cross entropy."""
    weights, x, y = values(sizes, batch)

    def step(model: Any, loss: Any, x: Any, y: Any) -> Callable[[], Any]:
        def run() -> None:
            model.zero_grad()
            loss(model(x), y).backward()

        return run

    model = network(mg.nn, weights, np.asarray)
    task: Task = {"minigrad": step(model, mg.nn.functional.cross_entropy, mg.tensor(x), mg.tensor(y))}
    if torch:
        model = network(torch.nn, weights, torch.from_numpy)
        loss = torch.nn.functional.cross_entropy
        task["torch"] = step(model, loss, torch.from_numpy(x), torch.from_numpy(y))
    if autograd:
        anp = importlib.import_module("autograd.numpy")
        rows = np.arange(batch)

        def objective(params: Any) -> Any:
            h = x
            for w, b in params[:-1]:
                h = anp.maximum(anp.dot(h, w.T) + b, 0)
            w, b = params[-1]
            h = anp.dot(h, w.T) + b
            h = h - anp.max(h, axis=1, keepdims=True)
            return -anp.mean((h - anp.log(anp.sum(anp.exp(h), axis=1, keepdims=True)))[rows, y])

        task["autograd"] = lambda: autograd.grad(objective)(weights)
    if mygrad:
        losses = importlib.import_module("mygrad.nnet.losses")
        params = [(mygrad.tensor(w.copy()), mygrad.tensor(b.copy())) for w, b in weights]

        def mygrad_() -> None:
            h: Any = x
            for i, (w, b) in enumerate(params):
                h = mygrad.matmul(h, w.T) + b
                h = mygrad.maximum(h, 0) if i + 1 < len(params) else h
            losses.softmax_crossentropy(h, y).backward()

        task["mygrad"] = mygrad_
    if jax:
        jnp = jax.numpy
        compiled = jax.jit(jax.grad(jax_objective(jax, x, y)))
        tree = [(jnp.asarray(w), jnp.asarray(b)) for w, b in weights]
        task["jax, compiled"] = lambda: jax.block_until_ready(compiled(tree))
    return task


# --- import ----------------------------------------------------------------------------------------


def import_times(modules: list[str], rounds: int) -> dict[str, float]:
    """The shortest time that `import` takes in a fresh interpreter."""
    # What was imported before must have left its bytecode behind, as in any installation.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    code = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
    best = dict.fromkeys(modules, float("inf"))
    for _ in range(rounds):
        for name in modules:
            run = [sys.executable, "-c", code.format(name)]
            out = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
            best[name] = min(best[name], float(out))
    return best


# --- printing --------------------------------------------------------------------------------------


def show(title: str, times: dict[str, float], unit: float, unit_name: str) -> None:
    first = next(iter(times.values()))
    print(title)
    for name, t in times.items():
        print(f"    {name:20s}{t / unit:10.2f} {unit_name}{t / first:10.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="for each task (default: %(default)s)")
    seconds = parser.parse_args().seconds
    versions = [
        f"{m.__name__} {m.__version__}"
        for m in (np, torch, jax, autograd, mygrad)
        if m and hasattr(m, "__version__")
    ]
    print(f"Python {platform.python_version()}, {', '.join(versions)}, {os.cpu_count()} cores\n")
    for name, op in OPS.items():
        ops_in_one = 2 if "negative" in name else 1
        show(
            f"{name}, 4 floats, a chain of {CHAIN}: forward + backward, for each op",
            times(chain(op), seconds),
            1e-6 * CHAIN * ops_in_one,
            "us",
        )
    for sizes, batch in (((64, 64, 10), 32), ((784, 512, 256, 10), 128)):
        net = f"{'-'.join(map(str, sizes))} at batch {batch}"
        show(f"{net}: forward + backward", times(training(sizes, batch), seconds), 1e-6, "us")
    show("import, in a fresh interpreter", import_times(["numpy", "minigrad"], 7), 1e-3, "ms")


if __name__ == "__main__":
    main()
