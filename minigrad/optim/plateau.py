"""The schedule that goes by a metric: lower the rate when it no longer gets better."""

import math
from typing import Any

from .optimizer import Optimizer
from .scheduler import LRScheduler, whole


class ReduceLROnPlateau(LRScheduler):
    """lr ← factor lr, when more than `patience` steps in a row have brought no better metric.

    Better than the best so far, b, is for "min" what is below b (1 - threshold), or for "abs" below
    b - threshold; for "max" what is above b (1 + threshold), or b + threshold. NaN is never better. Take
    "abs" for metrics below 0: there "rel" lets worse ones pass, as in torch.

    Args:
        optimizer: whose rates to set.
        mode: "min" where lower metrics are better, or "max".
        factor: from 0 up to but without 1.
        patience: how many steps in a row without a better metric are let pass.
        threshold: see above.
        threshold_mode: "rel" or "abs", see above.
        cooldown: how many steps after a reduction are not counted against the metric.
        min_lr: the lowest rate, or a list of one for each parameter group.
        eps: a rate that would go down by no more than this stays.

    Raises:
        TypeError, ValueError: no optimizer, settings out of range.

    >>> import minigrad as mg
    >>> optimizer = mg.optim.SGD([mg.ones(2, requires_grad=True)], lr=1.0)
    >>> schedule = ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    >>> for loss in (3.0, 2.0, 2.0, 2.0, 1.0):
    ...     optimizer.step()
    ...     schedule.step(loss)
    ...     print(optimizer.param_groups[0]["lr"])
    1.0
    1.0
    1.0
    0.5
    0.5
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0,
        eps: float = 1e-8,
    ):
        self.mode, self.threshold, self.threshold_mode = mode, threshold, threshold_mode
        self.factor, self.patience, self.cooldown, self.eps = factor, patience, cooldown, eps
        self.min_lrs: Any = min_lr
        self.best: Any = None
        self.cooldown_counter = self.num_bad_epochs = 0
        super().__init__(optimizer, 0)

    def check(self) -> None:
        super().check()
        self._among("mode", "min", "max")
        self._among("threshold_mode", "rel", "abs")
        self._number("factor", "from 0 up to but without 1", lambda v: 0 <= v < 1)
        for key in ("patience", "cooldown", "cooldown_counter", "num_bad_epochs"):
            self._whole(key, 0)
        for key in ("threshold", "eps"):
            self._number(key)
        self._numbers("min_lrs")
        if self.best is None:
            self.best = self._worst()
        self._number("best", "or None", lambda v: not math.isnan(v))

    def _worst(self) -> float:
        return math.inf if self.mode == "min" else -math.inf

    def _is_better(self, metric: float) -> bool:
        sign = -1 if self.mode == "min" else 1
        if self.threshold_mode == "rel":
            bound = self.best * (1 + sign * self.threshold)
        else:
            bound = self.best + sign * self.threshold
        return metric < bound if self.mode == "min" else metric > bound

    @whole
    def step(self, metrics: Any) -> None:
        """Take note of a metric, and reduce the rates if it is time to.

        Args:
            metrics: a number, or a tensor or array with a single element.

        Raises:
            TypeError: it is none of these. Nothing has changed then.
        """
        try:
            metric = float(metrics)
        except (TypeError, ValueError) as error:
            raise TypeError(f"ReduceLROnPlateau: metrics must be a number, got {metrics!r}") from error
        groups = self._groups()
        better = self._is_better(metric)
        if better:
            self.best = metric
        if better or self.cooldown_counter:
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        self.cooldown_counter = max(0, self.cooldown_counter - 1)
        if self.num_bad_epochs > self.patience:
            for group, least in zip(groups, self.min_lrs, strict=True):
                before = float(group["lr"])
                lr = max(before * self.factor, least)
                if before - lr > self.eps:
                    group["lr"] = lr
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self.last_epoch += 1
        self._last_lr = [float(group["lr"]) for group in groups]

    def state_dict(self) -> dict[str, Any]:
        """As all schedules have it; `best` is None before there is one, as JSON has no infinity."""
        return {**super().state_dict(), "best": None if self.best == self._worst() else self.best}
