"""The nets that the benchmarks train: ReLU layers and cross entropy, the same numbers in each library."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

Weights = list[tuple[np.ndarray, np.ndarray]]
"""A matrix and a bias for each layer."""


def values(sizes: tuple[int, ...], batch: int) -> tuple[Weights, np.ndarray, np.ndarray]:
    """Weights, inputs and classes."""
    random = np.random.default_rng(0)
    weights = [
        ((random.normal(size=(o, i)) / math.sqrt(i)).astype(np.float32), np.zeros(o, np.float32))
        for i, o in itertools.pairwise(sizes)
    ]
    x = random.normal(size=(batch, sizes[0])).astype(np.float32)
    return weights, x, random.integers(0, sizes[-1], batch)


def network(nn: Any, weights: Weights, wrap: Callable[[np.ndarray], Any]) -> Any:
    """The net in minigrad's or torch's `nn`, with copies of the weights that `wrap` makes tensors of."""
    layers: list[Any] = []
    for w, b in weights:
        layer = nn.Linear(w.shape[1], w.shape[0])
        layer.weight.data, layer.bias.data = wrap(w.copy()), wrap(b.copy())
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def jax_objective(jax: Any, x: np.ndarray, y: np.ndarray) -> Callable[[Any], Any]:
    """The loss as a function of the weights, for JAX."""
    jnp = jax.numpy
    inputs, rows, classes = jnp.asarray(x), jnp.arange(len(y)), jnp.asarray(y)

    def objective(params: Any) -> Any:
        h = inputs
        for w, b in params[:-1]:
            h = jnp.maximum(h @ w.T + b, 0)
        w, b = params[-1]
        return -jnp.mean(jax.nn.log_softmax(h @ w.T + b)[rows, classes])

    return objective
