"""Adam, and its variants AdamW (decoupled decay) and AMSGrad."""

import math
from collections.abc import Iterable
from typing import Any

from ..kernels import ElementwiseKernel
from ..ops import maximum, sqrt
from .optimizer import Optimizer


def moments(g, sign, decay, rest1, beta2, rest2, p, m, v):
    """m ← m + (1 - β1)(g - m); v ← β2 v + (1 - β2) g².

    rest1 and rest2 are 1 - β1 and 1 - β2, which float32 would spoil. sign turns g over to maximize, and
    decay is the coupled weight decay.
    """
    g = sign * g + decay * p if decay else sign * g
    return m + rest1 * (g - m), beta2 * v + rest2 * g * g


MOMENTS = """
    T old = p;
    T slope = decay ? sign * g + decay * old : sign * g;
    T mean = m + rest1 * (slope - m);
    T square = beta2 * v + rest2 * slope * slope;
    m = mean;
    v = square;
"""


def reference(g, sign, decay, shrink, rest1, beta2, rest2, step_size, eps, p, m, v):
    """θ ← shrink θ - step_size m / (√v + eps); shrink is what the decoupled weight decay leaves of θ."""
    m, v = moments(g, sign, decay, rest1, beta2, rest2, p, m, v)
    return shrink * p - step_size * m / (sqrt(v) + eps), m, v


kernel = ElementwiseKernel(
    "P g, T sign, T decay, T shrink, T rest1, T beta2, T rest2, T step_size, T eps",
    "P p, T m, T v",
    MOMENTS + "p = shrink * old - step_size * mean / (sqrt(square) + eps);",
    "adam",
    reference=reference,
)


def amsgrad_reference(g, sign, decay, shrink, rest1, beta2, rest2, step_size, eps, p, m, v, largest):
    """The same with the largest v so far in the root."""
    m, v = moments(g, sign, decay, rest1, beta2, rest2, p, m, v)
    largest = maximum(largest, v)
    return shrink * p - step_size * m / (sqrt(largest) + eps), m, v, largest


amsgrad_kernel = ElementwiseKernel(
    kernel.in_params,
    "P p, T m, T v, T largest",
    MOMENTS
    + """
    T top = square > largest || isnan(square) ? square : largest;
    largest = top;
    p = shrink * old - step_size * mean / (sqrt(top) + eps);
    """,
    "adam_amsgrad",
    reference=amsgrad_reference,
)


def bias(beta: float, t: int) -> float:
    """1 - β^t, the part of a running mean that is not its beginning at 0; exact for β near 1, too."""
    return -math.expm1(t * math.log(beta)) if beta else 1.0


def slope_scalars(group: dict[str, Any], decays: bool = True) -> tuple[float, float, float]:
    """sign, decay and shrink: g turned over to maximize, and the coupled or the decoupled decay."""
    sign, decay = -1.0 if group["maximize"] else 1.0, float(group["weight_decay"])
    if not group["decoupled_weight_decay"]:
        return sign, decay, 1.0
    return sign, 0.0, 1.0 - float(group["lr"]) * decay if decays else 1.0


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015, Algorithm 1): θ ← θ - lr m̂ / (√v̂ + ε).

    Names, order, defaults and results are those of `torch.optim.Adam`. So are those of numbers at the ends
    of the range, nothing of which is replaced. A NaN in an element's gradient stays in its θ, m and v for
    ever, and an infinity makes NaN of θ: `step(skip_nonfinite=True)` passes over both. Where g² overflows (in
    float32 above 1.8e19 / √(1 - β2), 5.8e20; in the long run above 1.8e19) v stays infinite, and θ where it
    is. Where (1 - β2) g² vanishes (below 8e-22) ε alone is in the root; with ε = 0 the step is infinite, or
    NaN for g = 0. (float64: 1.3e154 and 5e-161. float16 has its state in float32.)

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

    state_names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

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

    def kernel(self, group: dict[str, Any]) -> tuple[ElementwiseKernel, tuple[str, ...]]:
        return (amsgrad_kernel, self.state_names) if group["amsgrad"] else (kernel, self.state_names[:2])

    def scalars(self, group: dict[str, Any], t: int) -> tuple[Any, ...]:
        # The textbook's lr m̂ / (√v̂ + ε), with m̂ = m / (1 - β1^t) and v̂ = v / (1 - β2^t), in terms of m and v.
        lr, eps, (beta1, beta2) = float(group["lr"]), float(group["eps"]), map(float, group["betas"])
        root = math.sqrt(bias(beta2, t))
        step_size = lr * root / bias(beta1, t)
        return (*slope_scalars(group), 1 - beta1, beta2, 1 - beta2, step_size, eps * root)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019): θ also shrinks by lr * weight_decay.

    Names, order, defaults and results are those of `torch.optim.AdamW`; see `Adam`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True
        )

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        self._require(group, "decoupled_weight_decay", lambda v: v is True, "be True; Adam has the other one")
