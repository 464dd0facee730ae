"""RAdam: Adam whose step is scaled by how far its second moment can be trusted yet.

Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond" (ICLR 2020), Algorithm 2. In the
first steps v is a mean of few squares, and 1/√v varies wildly. ρ_t measures how many squares v amounts
to, and r_t, which grows from 0 to 1 with it, takes out the variance that they leave.
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from ..backend import warn
from ..kernels import ElementwiseKernel
from ..ops import sqrt
from .adam import bias, slope_scalars
from .optimizer import Optimizer

_UNRECTIFIED = ("momentum", "adam", "skip")


def _excess(y: float) -> float:
    """E(y) = coth(y/2) - 2/y for 0 < y <= 1, by its Taylor series where the difference loses digits."""
    if y < 0.5:
        s = y * y
        return y * (1 / 6 - s * (1 / 360 - s * (1 / 15120 - s * (1 / 604800 - s / 23950080))))
    return 1 + 2 / math.expm1(y) - 2 / y


def rho_infinity(beta2: float) -> float:
    """ρ_∞ = 2 / (1 - β2) - 1, the length that the moving average of g² has in the end."""
    return 2 / (1 - beta2) - 1


@lru_cache(16)  # for all groups of a step, and for r
def rho(t: int, beta2: float) -> float:
    """ρ_t = ρ_∞ - 2 t β2^t / (1 - β2^t), its length after t steps.

    As it stands the formula subtracts, for β2 near 1, two numbers near 2/(1 - β2), and nothing is left
    of the difference. With L = -ln β2 and x = tL the same is t + E(L) - t E(x), E(y) = coth(y/2) - 2/y.
    """
    x = -t * math.log(beta2) if beta2 else math.inf
    if x >= 1:
        return rho_infinity(beta2) - (2 * t / math.expm1(x) if x < 700 else 0.0)
    return t + _excess(x / t) - t * _excess(x)


def rectification(t: int, beta2: float) -> float:
    """r_t = √[ (ρ_t - 4)(ρ_t - 2) ρ_∞ / ((ρ_∞ - 4)(ρ_∞ - 2) ρ_t) ], where ρ_t > 4."""
    p, limit = rho(t, beta2), rho_infinity(beta2)
    return math.sqrt((p - 4) / (limit - 4) * ((p - 2) / (limit - 2)) * (limit / p))


def reference(g, sign, decay, shrink, rest1, beta2, rest2, step_size, eps, adaptive, p, m, v):
    """Adam's step, or without `adaptive` that of momentum; see `scalars` for when, and how large.

    rest1 and rest2 are 1 - β1 and 1 - β2, which float32 would spoil. sign turns g over to maximize, decay
    is the coupled weight decay, and shrink what the decoupled one leaves of θ.
    """
    g = sign * g + decay * p if decay else sign * g
    m = m + rest1 * (g - m)
    v = beta2 * v + rest2 * g * g
    return shrink * p - step_size * (m / (sqrt(v) + eps) if adaptive else m), m, v


kernel = ElementwiseKernel(
    "P g, T sign, T decay, T shrink, T rest1, T beta2, T rest2, T step_size, T eps, bool adaptive",
    "P p, T m, T v",
    """
    T old = p;
    T slope = decay ? sign * g + decay * old : sign * g;
    T mean = m + rest1 * (slope - m);
    T square = beta2 * v + rest2 * slope * slope;
    m = mean;
    v = square;
    p = shrink * old - step_size * (adaptive ? mean / (sqrt(square) + eps) : mean);
    """,
    "radam",
    reference=reference,
)


def scalars(group: dict[str, Any], t: int) -> tuple[Any, ...]:
    """The scalars of the kernel in step t, for the settings of `group`: all that depends on t alone."""
    lr, eps, (beta1, beta2) = float(group["lr"]), float(group["eps"]), map(float, group["betas"])
    rule = group["unrectified"]
    rectified = rho(t, beta2) > group["threshold"]
    skipped = rule == "skip" and not rectified
    step_size = 0.0 if skipped else lr / bias(beta1, t)
    adaptive = rectified or rule == "adam"
    if adaptive:
        root = math.sqrt(bias(beta2, t))
        step_size *= root * (rectification(t, beta2) if rectified else 1.0)
        eps *= root if rule == "adam" else 1.0
    slope = slope_scalars(group, decays=not skipped)
    return (*slope, 1 - beta1, beta2, 1 - beta2, step_size, eps, adaptive)


class RAdam(Optimizer):
    """Rectified Adam: θ ← θ - lr r_t m̂ / (√v̂ + ε) once ρ_t exceeds `threshold`, with r_t as above.

    Names, order and defaults are those of `torch.optim.RAdam`, and so by default are the results. What
    is done before, while ρ_t is too small (the first 5 steps with β2 = 0.999), has three meanings:

    - `unrectified="momentum"`: θ ← θ - lr m̂, as in the paper and in torch;
    - `"adam"`: r_t = 1, so a full Adam step;
    - `"skip"`: nothing but the update of m and v, as in the authors' package.

    Of numbers at the ends of the range see `Adam`.

    Args:
        params: tensors, or dicts of `params` and settings of their own.
        lr: the learning rate.
        betas: (β1, β2), the decay rates of the running means m of g and v of g². With β2 <= 2/3, ρ_t
            never exceeds 5: a warning says so.
        eps: ε. It is added to √v̂ for `"adam"`, and to √v, before its bias is corrected, for the other
            two: as those who gave the rules have it.
        weight_decay: this times θ is added to g; or see `decoupled_weight_decay`.
        decoupled_weight_decay: shrink θ by lr * weight_decay in each step instead (not in skipped ones).
        maximize: climb instead.
        unrectified: `"momentum"`, `"adam"` or `"skip"`, see above.
        threshold: of ρ_t; at least 4, which the paper has. (torch and the authors' package have 5.)

    Raises:
        TypeError, ValueError: parameters that cannot be optimized, settings out of range.

    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = mg.optim.RAdam([x], lr=0.1)
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     loss = mg.square(x).sum()
    ...     loss.backward()
    ...     optimizer.step()
    >>> loss.item() < 0.001
    True
    """

    state_names = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        unrectified: str = "momentum",
        threshold: float = 5.0,
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "unrectified": unrectified,
            "threshold": threshold,
        }
        super().__init__(params, defaults)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        self._require(group, "unrectified", lambda v: v in _UNRECTIFIED, f"be one of {_UNRECTIFIED}")
        self._require(group, "threshold", lambda v: v >= 4, "be at least 4, where r_t begins")
        limit = rho_infinity(group["betas"][1])
        if limit <= group["threshold"]:
            warn(
                f"RAdam: with beta2={group['betas'][1]} rho never exceeds {limit:.3g}, and no step will be "
                f"rectified with threshold={group['threshold']}; take a larger beta2",
                UserWarning,
            )

    def kernel(self, group: dict[str, Any]) -> tuple[ElementwiseKernel, tuple[str, ...]]:
        return kernel, self.state_names

    def scalars(self, group: dict[str, Any], t: int) -> tuple[Any, ...]:
        return scalars(group, t)
