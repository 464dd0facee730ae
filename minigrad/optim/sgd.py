"""Stochastic gradient descent, with momentum."""

from collections.abc import Iterable
from typing import Any

from ..backend import Array
from ..ops import zeros_like
from .optimizer import Optimizer


class SGD(Optimizer):
    """Gradient descent: θ ← θ - lr g, or with momentum μ: b ← μ b + (1 - dampening) g; θ ← θ - lr b.

    The first b is g itself. With `nesterov` the step is g + μ b. Names, order, defaults and results are
    those of `torch.optim.SGD`. (Momentum: Sutskever et al., 2013, in the form that torch gave it.)

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

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        mu, decay = group["momentum"], group["weight_decay"]
        if group["maximize"]:
            g = -g
        if decay:
            g = g + decay * p
        if mu:
            b = state.get("momentum_buffer")
            if b is None:
                b = state["momentum_buffer"] = zeros_like(p)
                b += g
            else:
                b *= mu
                b += (1 - group["dampening"]) * g
            g = g + mu * b if group["nesterov"] else b
        p -= group["lr"] * g
