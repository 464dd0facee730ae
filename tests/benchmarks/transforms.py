"""Derivatives of a small net beside torch.func, JAX and HIPS autograd, as far as they are installed.

    python tests/benchmarks/transforms.py

The net is 8-16-16-4 with tanh, in float64. All libraries compute the same numbers, which is checked first;
then they take turns. Shown are medians, and how many times minigrad's that is: above 1, minigrad is
faster. Also: what `checkpoint` saves and costs, and what `detect_anomaly` costs.
"""

import argparse
import importlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from perceptron import network, values
from timing import Task, find, medians

import minigrad as mg

torch, jax, autograd = (find(name) for name in ("torch", "jax", "autograd"))

RANDOM = np.random.default_rng(0)
SIZES = (8, 16, 16, 4)
WEIGHTS = [
    (RANDOM.normal(size=(m, n)) / n**0.5, RANDOM.normal(size=m) * 0.1) for n, m in itertools.pairwise(SIZES)
]
X, V = RANDOM.normal(size=SIZES[0]), RANDOM.normal(size=SIZES[0])


def net(xp: Any, weights: Any, x: Any) -> Any:
    for w, b in weights:
        x = xp.tanh(w @ x + b)
    return x


def in_library(xp: Any, array: Callable[[np.ndarray], Any]) -> tuple[Any, Any, Any, Any]:
    """The net, the sum of its squared outputs, the point and the direction."""
    weights = [(array(w), array(b)) for w, b in WEIGHTS]

    def vector(x: Any) -> Any:
        return net(xp, weights, x)

    def scalar(x: Any) -> Any:
        return (net(xp, weights, x) ** 2).sum()

    return vector, scalar, array(X), array(V)


def tasks() -> dict[str, Task]:
    """For each transform, what each library makes of it."""
    vector, scalar, x, v = in_library(mg, mg.tensor)
    of_mg = {
        "value_and_grad": lambda: mg.value_and_grad(scalar)(x)[1],
        "jvp": lambda: mg.jvp(vector, (x,), (v,))[1],
        "jacobian 4 x 8": lambda: mg.jacobian(vector)(x),
        "hvp": lambda: mg.hvp(scalar, (x,), (v,))[0],
        "hessian 8 x 8": lambda: mg.hessian(scalar)(x),
    }
    found: dict[str, Task] = {name: {"minigrad": run} for name, run in of_mg.items()}

    def add(library: str, runs: dict[str, Callable[[], Any]]) -> None:
        for name, run in runs.items():
            found[name][library] = run

    if torch:
        func = torch.func
        f, s, tx, tv = in_library(torch, torch.from_numpy)
        add(
            "torch.func",
            {
                "value_and_grad": lambda: func.grad_and_value(s)(tx)[0],
                "jvp": lambda: func.jvp(f, (tx,), (tv,))[1],
                "jacobian 4 x 8": lambda: func.jacrev(f)(tx),
                "hvp": lambda: func.jvp(func.grad(s), (tx,), (tv,))[1],
                "hessian 8 x 8": lambda: func.hessian(s)(tx),
            },
        )
    if autograd:
        anp = importlib.import_module("autograd.numpy")
        reversed_twice = importlib.import_module("autograd.differential_operators").make_jvp_reversemode
        af, a_scalar, _, _ = in_library(anp, np.asarray)
        add(
            "autograd",
            {
                "value_and_grad": lambda: autograd.value_and_grad(a_scalar)(X)[1],
                "jvp": lambda: reversed_twice(af)(X)(V),
                "jacobian 4 x 8": lambda: autograd.jacobian(af)(X),
                "hvp": lambda: autograd.hessian_vector_product(a_scalar)(X, V),
                "hessian 8 x 8": lambda: autograd.hessian(a_scalar)(X),
            },
        )
    if jax:
        jax.config.update("jax_enable_x64", True)
        jf, js, jx, jv = in_library(jax.numpy, jax.numpy.asarray)
        compiled = {
            "value_and_grad": jax.jit(jax.grad(js)),
            "jvp": jax.jit(lambda x: jax.jvp(jf, (x,), (jv,))[1]),
            "jacobian 4 x 8": jax.jit(jax.jacrev(jf)),
            "hvp": jax.jit(lambda x: jax.jvp(jax.grad(js), (x,), (jv,))[1]),
            "hessian 8 x 8": jax.jit(jax.hessian(js)),
        }
        add(
            "jax, compiled",
            {name: (lambda f=f: jax.block_until_ready(f(jx))) for name, f in compiled.items()},
        )
    return found


def check(task: Task) -> None:
    """All must compute the same."""
    first = task["minigrad"]().numpy()
    for run in task.values():
        np.testing.assert_allclose(np.asarray(run()), first, rtol=1e-9, atol=1e-12)


def training_steps() -> Task:
    """Forward and backward of a net as it is, checkpointed, and looked at for anomalies."""
    weights, x, y = values((128,) * 17, 2048)
    model = network(mg.nn, weights, np.asarray)
    inputs, classes = mg.tensor(x), mg.tensor(y)
    layers = list(model)
    quarters = [mg.nn.Sequential(*layers[i : i + 8]) for i in range(0, len(layers), 8)]

    def plain() -> None:
        model.zero_grad()
        mg.nn.functional.cross_entropy(model(inputs), classes).backward()

    def checkpointed() -> None:
        model.zero_grad()
        h: Any = inputs
        for quarter in quarters:
            h = mg.checkpoint(quarter)(h)
        mg.nn.functional.cross_entropy(h, classes).backward()

    def anomalies() -> None:
        with mg.detect_anomaly():
            plain()

    return {"plain": plain, "checkpoint": checkpointed, "detect_anomaly": anomalies}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="for each task (default: %(default)s)")
    seconds = parser.parse_args().seconds
    for name, task in tasks().items():
        check(task)
        print(name)
        show(medians(task, seconds))
    steps = training_steps()
    print("net of 16 layers of 128, batch 2048: forward and backward")
    show(medians(steps, seconds))
    print("its peak memory, beyond the parameters and inputs")
    peaks = {name: mg.testing.peak_bytes(run) / 2**20 for name, run in steps.items()}
    for name, peak in peaks.items():
        print(f"    {name:20s}{peak:10.1f} MiB{peak / peaks['plain']:10.2f} x")


def show(found: dict[str, float]) -> None:
    first = next(iter(found.values()))
    for name, t in found.items():
        print(f"    {name:20s}{t * 1e6:10.0f} us{t / first:10.2f} x")


if __name__ == "__main__":
    main()
