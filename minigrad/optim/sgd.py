"""Stochastic gradient descent, with momentum."""

from collections.abc import Iterable
from typing import Any

from ..kernels import ElementwiseKernel
from .optimizer import Optimizer


def plain_reference(g, sign, decay, lr, unused, p):
    """θ ← θ - lr (g + decay θ)."""
    return p - lr * (sign * g + decay * p if decay else sign * g)


plain = ElementwiseKernel(
    "P g, T sign, T decay, T lr, raw T unused",
    "P p",
    "T old = p; p = old - lr * (decay ? sign * g + decay * old : sign * g)",
    "sgd",
    reference=plain_reference,
)


def momentum_reference(g, sign, decay, lr, mu, gain, nesterov, p, b):
    """b ← μ b + gain g; θ ← θ - lr b, or with Nesterov's momentum θ - lr (g + μ b)."""
    g = sign * g + decay * p if decay else sign * g
    b = mu * b + gain * g
    return p - lr * (g + mu * b if nesterov else b), b


with_momentum = ElementwiseKernel(
    "P g, T sign, T decay, T lr, T mu, T gain, bool nesterov",
    "P p, T b",
    """
    T old = p;
    T slope = decay ? sign * g + decay * old : sign * g;
    T velocity = mu * b + gain * slope;
    b = velocity;
    p = old - lr * (nesterov ? slope + mu * velocity : velocity);
    """,
    "sgd_momentum",
    reference=momentum_reference,
)


class SGD(Optimizer):
    """Gradient descent: θ ← θ - lr g, or with momentum μ: b ← μ b + (1 - dampening) g; θ ← θ - lr b.

    The first b is g itself. With `nesterov` the step is g + μ b. Names, order, defaults and results are
    those of `torch.optim.SGD`. (Momentum: Sutskever et al., 2013, in the form that torch gave it.) NaN and
    infinities stay in θ and b for ever: `step(skip_nonfinite=True)` passes over gradients that have any.

    Args:
        params: tensors, or dicts of `params` and settings of their own.
        lr: the learning rate.
        momentum: μ; 0 for none.
        dampening: of the gradients that go into b.
        weight_decay: this times θ is added to g.
        nesterov: look ahead; needs a momentum and no dampening.
        maximize: climb instead.

    Raises:
        TypeError, ValueError: parameters that cannot be optimized, settings out of range.

    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = mg.optim.SGD([x], lr=0.1)
    >>> mg.square(x).sum().backward()
    >>> optimizer.step()
    >>> x.tolist()
    [0.800000011920929, 1.600000023841858]
    """

    state_names = ("momentum_buffer",)
    counts_steps = False  # in what is saved, as in torch

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("SGD: nesterov needs a momentum above 0 and no dampening")

    def kernel(self, group: dict[str, Any]) -> tuple[ElementwiseKernel, tuple[str, ...]]:
        return (with_momentum, self.state_names) if group["momentum"] else (plain, ())

    def scalars(self, group: dict[str, Any], t: int) -> tuple[Any, ...]:
        slope = -1.0 if group["maximize"] else 1.0, float(group["weight_decay"]), float(group["lr"])
        if not group["momentum"]:
            return slope
        gain = 1.0 if t == 1 else 1.0 - float(group["dampening"])
        return (*slope, float(group["momentum"]), gain, bool(group["nesterov"]))
