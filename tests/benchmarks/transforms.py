"""Derivatives of a small net beside torch.func, JAX and HIPS autograd, as far as they are installed.

    python tests/benchmarks/transforms.py

The net is 8-16-16-4 with tanh, in float64. All libraries compute the same numbers, which is checked first;
then they take turns. Shown are medians, and how many times minigrad's that is: above 1, minigrad is
faster. Also: what `checkpoint` saves and costs, and what `detect_anomaly` costs.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from perceptron import network, values
from timing import Task, find, times

import minigrad as mg

torch, jax, autograd = (find(name) for name in ("torch", "jax", "autograd"))

RANDOM = np.random.default_rng(0)
SIZES = (8, 16, 16, 4)
WEIGHTS = [
    (RANDOM.normal(size=(m, n)) / n**0.5, RANDOM.normal(size=m) * 0.1)
    for n, m in zip(SIZES[:-1], SIZES[1:], strict=True)
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
        "value_and_grad": lambda: mg.value_and_grad(scalar)(x),
        "jvp": lambda: mg.jvp(vector, (x,), (v,)),
        "jacobian 4 x 8": lambda: mg.jacobian(vector)(x),
        "hvp": lambda: mg.hvp(scalar, (x,), (v,)),
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
                "value_and_grad": lambda: func.grad_and_value(s)(tx),
                "jvp": lambda: func.jvp(f, (tx,), (tv,)),
                "jacobian 4 x 8": lambda: func.jacrev(f)(tx),
                "hvp": lambda: func.jvp(func.grad(s), (tx,), (tv,)),
                "hessian 8 x 8": lambda: func.hessian(s)(tx),
            },
        )
    if autograd:
        import autograd.numpy as anp  # pyright: ignore[reportMissingImports]

        af, a_scalar, _, _ = in_library(anp, np.asarray)
        add(
            "autograd",
            {
                "value_and_grad": lambda: autograd.value_and_grad(a_scalar)(X),
                "jvp": lambda: autograd.make_jvp_reversemode(af)(X)(V),
                "jacobian 4 x 8": lambda: autograd.jacobian(af)(X),
                "hvp": lambda: autograd.hessian_vector_product(a_scalar)(X, V),
                "hessian 8 x 8": lambda: autograd.hessian(a_scalar)(X),
            },
        )
    if jax:
        jax.config.update("jax_enable_x64", True)
        jf, js, jx, jv = in_library(jax.numpy, jax.numpy.asarray)
        compiled = {
            "value_and_grad": jax.jit(jax.value_and_grad(js)),
            "jvp": jax.jit(lambda x: jax.jvp(jf, (x,), (jv,))),
            "jacobian 4 x 8": jax.jit(jax.jacrev(jf)),
            "hvp": jax.jit(lambda x: jax.jvp(jax.grad(js), (x,), (jv,))),
            "hessian 8 x 8": jax.jit(jax.hessian(js)),
        }
        add(
            "jax, compiled",
            {name: (lambda f=f: jax.block_until_ready(f(jx))) for name, f in compiled.items()},
        )
    return found
