"""Losses as functions, under torch's names and with its arguments but for those that it has given up."""

import math
from typing import Any

from .. import ops
from ..backend import is_floating, namespace, plain
from ..ops.indexing import take_distinct
from ..ops.losses import cross_entropy_of
from ..ops.penalties import huber, logit_loss, probability_loss
from ..tensor import Tensor
from .indices import check_indices, extremes

_REDUCTIONS = ("mean", "sum", "none")


def check_reduction(op: str, reduction: str, known: tuple[str, ...] = _REDUCTIONS) -> None:
    """Raise `ValueError` for a reduction that is not known."""
    if reduction not in known:
        raise ValueError(f"{op}: reduction must be one of {known}, got {reduction!r}")


def _reduced(op: str, losses: Tensor, reduction: str) -> Tensor:
    check_reduction(op, reduction)
    return losses.mean() if reduction == "mean" else losses.sum() if reduction == "sum" else losses


def _pair(op: str, input: Any, target: Any) -> tuple[Tensor, Tensor]:
    """Both as tensors, which must have the same shape. (torch broadcasts them, with a warning.)"""
    input, target = ops.asarray(input), ops.asarray(target)
    if input.shape != target.shape:
        raise ValueError(f"{op}: shapes must be equal, got {input.shape} and {target.shape}")
    return input, target


def _weighted(op: str, losses: Tensor, weight: Any) -> Tensor:
    if weight is None:
        return losses
    weighted = losses * ops.asarray(weight)
    if weighted.shape != losses.shape:
        raise ValueError(
            f"{op}: weight must broadcast to the input's shape {losses.shape}, got {weight.shape}"
        )
    return weighted


# --- differences of numbers --------------------------------------------------------------------------


def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """The squared difference of input and target, which must have the same shape.

    `reduction` is `'mean'`, `'sum'` or `'none'`, here and below.
    """
    input, target = _pair("mse_loss", input, target)
    return _reduced("mse_loss", ops.square(input - target), reduction)


def l1_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """The absolute difference of input and target, which must have the same shape."""
    input, target = _pair("l1_loss", input, target)
    return _reduced("l1_loss", ops.abs(input - target), reduction)


def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """Half the squared difference d² / 2, but delta (|d| - delta / 2) where |d| is above `delta`.

    Both inputs must have the same shape.
    """
    if not delta > 0:
        raise ValueError(f"huber_loss: delta must be positive, got {delta}")
    input, target = _pair("huber_loss", input, target)
    return _reduced("huber_loss", huber(input - target, delta), reduction)


def smooth_l1_loss(input: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """The absolute difference |d| - beta / 2, but d² / (2 beta) where |d| is below `beta`.

    Both inputs must have the same shape.
    """
    if not beta >= 0:
        raise ValueError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    input, target = _pair("smooth_l1_loss", input, target)
    losses = huber(input - target, beta) / beta if beta else ops.abs(input - target)
    return _reduced("smooth_l1_loss", losses, reduction)


# --- probabilities -----------------------------------------------------------------------------------


def binary_cross_entropy(input: Any, target: Any, weight: Any = None, *, reduction: str = "mean") -> Tensor:
    """The cross entropy of the probabilities `input` and `target`, which must have the same shape.

    Logarithms are at least -100, so that the loss is finite, as in torch. From scores rather than
    probabilities `binary_cross_entropy_with_logits` computes it more exactly.

    Args:
        input: probabilities, from 0 to 1.
        target: likewise; or classes 0 and 1.
        weight: a factor for each element, of a shape that broadcasts to that of `input`.
        reduction: `'mean'`, `'sum'` or `'none'`.

    Raises `ValueError` for an input below 0 or above 1, and for shapes that do not fit.
    """
    input, target = _pair("binary_cross_entropy", input, target)
    array = plain(input._data)
    xp = namespace("binary_cross_entropy", [array])
    if array.size and (xp.any(array < 0) or xp.any(array > 1)):
        raise ValueError("binary_cross_entropy: input must be from 0 to 1; for scores, use …_with_logits")
    losses = probability_loss(input, target)
    return _reduced("binary_cross_entropy", _weighted("binary_cross_entropy", losses, weight), reduction)


def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None
) -> Tensor:
    """The cross entropy of the probabilities sigmoid(input) and `target`, which must have the same shape.

    Args:
        input: scores (logits).
        target: probabilities, from 0 to 1; or classes 0 and 1.
        weight: a factor for each element, of a shape that broadcasts to that of `input`.
        reduction: `'mean'`, `'sum'` or `'none'`.
        pos_weight: a factor for the part of the loss that `target` weighs, likewise.
    """
    op = "binary_cross_entropy_with_logits"
    input, target = _pair(op, input, target)
    if pos_weight is None:
        losses = logit_loss(input, target)
    else:
        # -(p t log s + (1 - t) log(1 - s)), where the losses for t = 1 and t = 0 are the two logarithms.
        positive = _weighted(op, target * ops.softplus(-input), pos_weight)
        losses = positive + (1 - target) * ops.softplus(input)
    return _reduced(op, _weighted(op, losses, weight), reduction)


def kl_div(input: Any, target: Any, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """target (log(target) - input): how far the distribution exp(input) is from `target`.

    Both inputs must have the same shape. (torch broadcasts them.)

    Args:
        input: log-probabilities.
        target: probabilities; or with `log_target` their logarithms.
        reduction: `'mean'` over all elements; `'batchmean'`, the sum over the length of the first axis,
            which is what is meant by the divergence; `'sum'` or `'none'`.
        log_target: see above.
    """
    check_reduction("kl_div", reduction, (*_REDUCTIONS, "batchmean"))
    input, target = _pair("kl_div", input, target)
    if log_target:
        losses = ops.exp(target) * (target - input)
    else:
        is_zero = target == 0  # where the limit of t log(t) is 0
        losses = target * (ops.log(ops.where(is_zero, 1.0, target)) - input)
    if reduction == "batchmean":
        return losses.sum() / (input.shape[0] if input.ndim else 1)
    return _reduced("kl_div", losses, reduction)


# --- classes -----------------------------------------------------------------------------------------


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The cross entropy between softmax(input) and the target classes.

    Args:
        input: scores (logits) of shape (C,), (N, C) or (N, C, d1, …), where C is the number of classes.
        target: class indices, integers of shape (), (N,) or (N, d1, …); or class probabilities, floats
            of the shape of `input`.
        weight: a factor for each class, of shape (C,). A mean over class indices is over their weights.
        ignore_index: places with this class index, which may be any integer, do not count.
        reduction: `'mean'` over all but the class axis, `'sum'`, or `'none'`.
        label_smoothing: this part of each target, from 0 to 1, is spread evenly over all classes.

    Raises:
        IndexError: a class index is negative or not below C.
        ValueError: the shapes do not fit, or an option is unknown.
    """
    input = input if isinstance(input, Tensor) else ops.tensor(input)
    target = target if isinstance(target, Tensor) else ops.tensor(target)
    shape = input.shape
    if not shape or not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: got input of shape {shape}, label_smoothing={label_smoothing}")
    check_reduction("cross_entropy", reduction)
    axis = 0 if len(shape) == 1 else 1
    classes = shape[axis]
    if is_floating(target.dtype):
        if target.shape != shape:
            raise ValueError(
                f"cross_entropy: probabilities need the input's shape, got {target.shape} and {shape}"
            )
        if ignore_index >= 0:
            raise ValueError("cross_entropy: ignore_index is for class indices, not for probabilities")
        if label_smoothing:
            target = target * (1 - label_smoothing) + label_smoothing / classes
        log_p = _by_class("cross_entropy", ops.log_softmax(input, axis), weight, axis)
        return _reduced("cross_entropy", -(log_p * target).sum(axis=axis), reduction)
    ignored = _ignored("cross_entropy", target, shape, axis, ignore_index)
    if plain(target._data) is not target._data:  # inside vmap
        input = target._data.take_in(input)
    if weight is not None or ignored is not None:
        log_p = ops.log_softmax(input, axis)
        return _picked("cross_entropy", log_p, target, axis, weight, ignored, reduction, label_smoothing)
    factor = -1.0 if reduction != "mean" else -1 / target.size if target.size else math.nan
    return cross_entropy_of(input, target._data, axis, factor, label_smoothing, reduction != "none")


def nll_loss(
    input: Any, target: Any, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Minus the log-probabilities, of shape (C,), (N, C) or (N, C, d1, …), of the target classes.

    `cross_entropy` is this of the `log_softmax`, and faster. The arguments are those of `cross_entropy`, but
    for probabilities as targets.
    """
    input, target = ops.asarray(input), ops.asarray(target)
    if not input.shape:
        raise ValueError("nll_loss: got input of shape ()")
    check_reduction("nll_loss", reduction)
    axis = 0 if input.ndim == 1 else 1
    ignored = _ignored("nll_loss", target, input.shape, axis, ignore_index)
    if plain(target._data) is not target._data:  # inside vmap
        input = target._data.take_in(input)
    return _picked("nll_loss", input, target, axis, weight, ignored, reduction, 0.0)


def _ignored(op: str, target: Tensor, shape: tuple[int, ...], axis: int, ignore_index: int) -> Tensor | None:
    """Where class indices are the one to be ignored, None for nowhere; all others are checked."""
    if target.shape != shape[:axis] + shape[axis + 1 :]:
        raise ValueError(
            f"{op}: class indices need the input's shape without its class axis, got {target.shape} "
            f"for input {shape}; class probabilities must be floats"
        )
    least, most = extremes(op, target, "class indices")
    if least <= ignore_index <= most:
        ignored: Any = target == ignore_index
        check_indices(op, ops.where(ignored, 0, target), shape[axis], "class indices")
        return ignored
    if least < 0 or most >= shape[axis]:
        check_indices(op, target, shape[axis], "class indices")
    return None


def _by_class(op: str, x: Tensor, weight: Any, axis: int) -> Tensor:
    """x times the weights of the classes, which lie along `axis`."""
    if weight is None:
        return x
    return x * ops.reshape(_class_weights(op, weight, x.shape[axis]), (-1, *[1] * (x.ndim - 1 - axis)))


def _class_weights(op: str, weight: Any, classes: int) -> Tensor:
    weight = ops.asarray(weight)
    if weight.shape != (classes,):
        raise ValueError(f"{op}: weight must have shape ({classes},), got {weight.shape}")
    return weight


def _picked(
    op: str,
    log_p: Tensor,
    target: Tensor,
    axis: int,
    weight: Any,
    ignored: Tensor | None,
    reduction: str,
    smoothing: float,
) -> Tensor:
    """The loss by log-probabilities of class indices, with weights, and without the places `ignored`."""
    classes = log_p.shape[axis]
    target = target if ignored is None else ops.where(ignored, 0, target)
    losses = -ops.squeeze(take_distinct(log_p, ops.expand_dims(target, axis=axis), axis), axis)
    weights: Any = None
    if weight is not None:
        weights = ops.take(_class_weights(op, weight, classes), target, axis=0)
        losses = losses * weights
    if smoothing:
        spread = -_by_class(op, log_p, weight, axis).sum(axis=axis)
        losses = (1 - smoothing) * losses + (smoothing / classes) * spread
    if ignored is not None:
        losses = ops.where(ignored, 0.0, losses)
        weights = ops.where(ignored, 0.0, ops.ones_like(losses) if weights is None else weights)
    if reduction == "mean" and weights is not None:
        return losses.sum() / weights.sum()
    return _reduced(op, losses, reduction)
