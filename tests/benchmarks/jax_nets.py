"""The nets of `nets.py` in JAX, as functions of the same weights by name."""

from collections.abc import Callable
from typing import Any

import numpy as np
from nets import CHARACTERS, CONTEXT, HEADS, LAYERS, WIDTH

Weights = dict[str, Any]


def _linear(w: Weights, name: str, x: Any) -> Any:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def mlp(jax: Any, w: Weights, x: Any) -> Any:
    x = jax.nn.relu(_linear(w, "0", x))
    return _linear(w, "4", jax.nn.relu(_linear(w, "2", x)))


def cnn(jax: Any, w: Weights, x: Any) -> Any:
    for name in ("0", "3"):
        x = jax.lax.conv_general_dilated(x, w[f"{name}.weight"], (1, 1), "SAME")
        x = jax.nn.relu(x + w[f"{name}.bias"][:, None, None])
        window = (1, 1, 2, 2)
        x = jax.lax.reduce_window(x, -np.inf, jax.lax.max, window, window, "VALID")
    return _linear(w, "7", x.reshape(x.shape[0], -1))


def lstm(jax: Any, w: Weights, x: Any) -> Any:
    jnp = jax.numpy
    inputs = x @ w["lstm.weight_ih_l0"].T + w["lstm.bias_ih_l0"] + w["lstm.bias_hh_l0"]

    def step(state: Any, of_input: Any) -> Any:
        h, c = state
        i, f, g, o = jnp.split(of_input + h @ w["lstm.weight_hh_l0"].T, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    zeros = jnp.zeros((x.shape[0], 128), x.dtype)
    (h, _), _ = jax.lax.scan(step, (zeros, zeros), inputs.swapaxes(0, 1))
    return _linear(w, "head", h)


def _norm(jax: Any, w: Weights, name: str, x: Any) -> Any:
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def transformer(jax: Any, w: Weights, x: Any) -> Any:
    jnp = jax.numpy
    n, t = x.shape
    x = w["of_character.weight"][x] + w["of_place.weight"]
    hidden = jnp.triu(jnp.ones((CONTEXT, CONTEXT), bool), 1)
    for k in range(LAYERS):
        of = f"blocks.{k}"
        qkv = _linear(w, f"{of}.qkv", _norm(jax, w, f"{of}.norm1", x))
        q, key, v = jnp.moveaxis(qkv.reshape(n, t, 3, HEADS, WIDTH // HEADS), (2, 3), (0, 2))
        scores = jnp.where(hidden, -jnp.inf, q @ key.swapaxes(-1, -2) / np.sqrt(WIDTH // HEADS))
        y = (jax.nn.softmax(scores.astype(x.dtype)) @ v).swapaxes(1, 2).reshape(n, t, WIDTH)
        x = x + _linear(w, f"{of}.out", y)
        up = jax.nn.gelu(_linear(w, f"{of}.up", _norm(jax, w, f"{of}.norm2", x)), approximate=False)
        x = x + _linear(w, f"{of}.down", up)
    return _linear(w, "head", _norm(jax, w, "norm", x)).reshape(-1, CHARACTERS)


NETS = {"cnn": cnn, "transformer": transformer, "lstm": lstm, "mlp": mlp}


def objective(jax: Any, name: str, x: np.ndarray, y: np.ndarray) -> Callable[[Weights], Any]:
    """The loss of that net as a function of its weights."""
    jnp = jax.numpy
    inputs, rows, classes = jnp.asarray(x), jnp.arange(len(y)), jnp.asarray(y)
    return lambda w: -jnp.mean(jax.nn.log_softmax(NETS[name](jax, w, inputs))[rows, classes])
