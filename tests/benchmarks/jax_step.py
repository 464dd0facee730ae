"""A training step in JAX: forward, backward and RAdam as one compiled function."""

import functools
from collections.abc import Callable
from typing import Any


def jax_step(jax: Any, objective: Callable[[Any], Any], params: Any) -> Callable[[], None]:
    """What does a step from the parameters, any tree of arrays, with the memory of its state given over."""
    jnp = jax.numpy

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2, 3))
    def step(params: Any, m: Any, v: Any, t: Any) -> Any:
        g = jax.grad(objective)(params)
        t = t + 1
        part1, power2 = 1 - 0.9**t, 0.999**t
        limit = 2 / (1 - 0.999) - 1
        length = limit - 2 * t * power2 / (1 - power2)
        r = jnp.sqrt((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length))
        m = jax.tree.map(lambda m, g: m + 0.1 * (g - m), m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)

        def moved(p: Any, m: Any, v: Any) -> Any:
            adapted = m * r * jnp.sqrt(1 - power2) / (jnp.sqrt(v) + 1e-8)
            return p - 1e-3 / part1 * jnp.where(length > 5, adapted, m)

        return jax.tree.map(moved, params, m, v), m, v, t

    zeros = [jax.tree.map(jnp.zeros_like, params) for _ in range(2)]
    state: list[Any] = [params, *zeros, jnp.zeros(())]

    def run() -> None:
        state[:] = jax.block_until_ready(step(*state))

    return run
