"""Losses as layers: called with the input and the target, each computes the function of its name."""

from typing import Any

from .. import ops
from ..tensor import Tensor
from . import loss_functions as functions
from .module import Module
from .parameter import Buffer


class _Loss(Module):
    """A loss with a `reduction`: `'mean'`, `'sum'` or `'none'`."""

    def __init__(self, reduction: str = "mean"):
        functions.check_reduction(type(self).__name__, reduction)
        self.reduction = reduction

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if isinstance(v, (str, int, float)))


def _buffer(weight: Any) -> Any:
    return None if weight is None else Buffer(ops.asarray(weight))


class MSELoss(_Loss):
    """The squared difference, see `functional.mse_loss`."""

    def forward(self, input: Any, target: Any) -> Tensor:
        """mse_loss(input, target)."""
        return functions.mse_loss(input, target, self.reduction)


class L1Loss(_Loss):
    """The absolute difference, see `functional.l1_loss`."""

    def forward(self, input: Any, target: Any) -> Tensor:
        """l1_loss(input, target)."""
        return functions.l1_loss(input, target, self.reduction)


class SmoothL1Loss(_Loss):
    """The absolute difference, rounded off below `beta`, see `functional.smooth_l1_loss`."""

    def __init__(self, *, reduction: str = "mean", beta: float = 1.0):
        super().__init__(reduction)
        self.beta = beta

    def forward(self, input: Any, target: Any) -> Tensor:
        """smooth_l1_loss(input, target)."""
        return functions.smooth_l1_loss(input, target, self.reduction, self.beta)


class HuberLoss(_Loss):
    """Half the squared difference, straight from `delta` on, see `functional.huber_loss`."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0):
        super().__init__(reduction)
        self.delta = delta

    def forward(self, input: Any, target: Any) -> Tensor:
        """huber_loss(input, target)."""
        return functions.huber_loss(input, target, self.reduction, self.delta)


class BCELoss(_Loss):
    """The cross entropy of probabilities of two classes, see `functional.binary_cross_entropy`.

    `weight` is a buffer, as in torch, and so it is part of the state dict.
    """

    def __init__(self, weight: Any = None, *, reduction: str = "mean"):
        super().__init__(reduction)
        self.weight = _buffer(weight)

    def forward(self, input: Any, target: Any) -> Tensor:
        """binary_cross_entropy(input, target)."""
        return functions.binary_cross_entropy(input, target, self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """The cross entropy of scores of two classes, see `functional.binary_cross_entropy_with_logits`.

    `weight` and `pos_weight` are buffers, as in torch, and so they are part of the state dict.
    """

    def __init__(self, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None):
        super().__init__(reduction)
        self.weight = _buffer(weight)
        self.pos_weight = _buffer(pos_weight)

    def forward(self, input: Any, target: Any) -> Tensor:
        """binary_cross_entropy_with_logits(input, target)."""
        return functions.binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )


class KLDivLoss(_Loss):
    """The Kullback-Leibler divergence, also with reduction `'batchmean'`, see `functional.kl_div`."""

    def __init__(self, *, reduction: str = "mean", log_target: bool = False):
        if reduction != "batchmean":
            functions.check_reduction("KLDivLoss", reduction)
        self.reduction = reduction
        self.log_target = log_target

    def forward(self, input: Any, target: Any) -> Tensor:
        """kl_div(input, target)."""
        return functions.kl_div(input, target, self.reduction, self.log_target)


class NLLLoss(_Loss):
    """Minus the log-probabilities of the target classes, see `functional.nll_loss`.

    `weight` is a buffer, as in torch, and so it is part of the state dict.
    """

    def __init__(self, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean"):
        super().__init__(reduction)
        self.weight = _buffer(weight)
        self.ignore_index = ignore_index

    def forward(self, input: Any, target: Any) -> Tensor:
        """nll_loss(input, target)."""
        return functions.nll_loss(
            input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction
        )


class CrossEntropyLoss(NLLLoss):
    """The cross entropy between softmax(input) and the target classes, see `functional.cross_entropy`.

    `weight` is a buffer, as in torch, and so it is part of the state dict.
    """

    def __init__(
        self,
        weight: Any = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ):
        super().__init__(weight, ignore_index=ignore_index, reduction=reduction)
        self.label_smoothing = label_smoothing

    def forward(self, input: Any, target: Any) -> Tensor:
        """cross_entropy(input, target)."""
        return functions.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
