"""Adam, and its variants AdamW (decoupled decay) and AMSGrad."""

import math
from collections.abc import Iterable
from typing import Any

from ..backend import Array
from ..ops import maximum, zeros_like
from .optimizer import Optimizer


def moments(g: Array, state: dict[str, Any], beta1: float, beta2: float) -> tuple[Array, Array]:
    """Move the running means m of g and v of g² on by a step, in place; both begin at 0."""
    if not state:
        state.update(step=0, exp_avg=zeros_like(g), exp_avg_sq=zeros_like(g))
    state["step"] += 1
    m, v = state["exp_avg"], state["exp_avg_sq"]
    m += (1 - beta1) * (g - m)
    v *= beta2
    v += (1 - beta2) * g * g
    return m, v


def bias(beta: float, t: int) -> float:
    """1 - β^t, the part of a running mean that is not its beginning at 0; exact for β near 1, too."""
    return -math.expm1(t * math.log(beta)) if beta else 1.0


def with_decay(p: Array, g: Array, group: dict[str, Any]) -> Array:
    """The gradient to go by: turned over to maximize, and with coupled decay; decoupled decay is done."""
    decay = group["weight_decay"]
    if group["maximize"]:
        g = -g
    if decay and group["decoupled_weight_decay"]:
        p *= 1 - group["lr"] * decay
    elif decay:
        g = g + decay * p
    return g


def adam(p: Array, m: Array, v: Array, *, step_size: float, eps: float) -> None:
    """θ ← θ - step_size m / (√v + eps), in place.

    With bias-corrected means m̂ = m / (1 - β1^t) and v̂ = v / (1 - β2^t) the textbook's
    θ - lr m̂ / (√v̂ + ε) is this with step_size = lr √(1 - β2^t) / (1 - β1^t) and eps = ε √(1 - β2^t).
    """
    update = v**0.5
    update += eps
    update = m / update
    update *= step_size
    p -= update


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015, Algorithm 1): θ ← θ - lr m̂ / (√v̂ + ε).

    Names, order, defaults and results are those of `torch.optim.Adam`.

    Args:
        params: tensors, or dicts of `params` and settings of their own.
        lr: the learning rate.
        betas: (β1, β2), the decay rates of the running means m of g and v of g².
        eps: ε, added to the root of v̂.
        weight_decay: this times θ is added to g; or see `decoupled_weight_decay`.
        amsgrad: divide by the root of the largest v so far (Reddi et al., 2018).
        maximize: climb instead.
        decoupled_weight_decay: shrink θ by lr * weight_decay instead (AdamW; Loshchilov and Hutter, 2019).

    Raises:
        TypeError, ValueError: parameters that cannot be optimized, settings out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        g = with_decay(p, g, group)
        m, v = moments(g, state, beta1, beta2)
        if group["amsgrad"]:
            largest = state.get("max_exp_avg_sq")
            if largest is None:
                largest = state["max_exp_avg_sq"] = zeros_like(v)
            largest[...] = maximum(largest, v)
            v = largest
        t = state["step"]
        root = math.sqrt(bias(beta2, t))
        adam(p, m, v, step_size=group["lr"] * root / bias(beta1, t), eps=group["eps"] * root)
