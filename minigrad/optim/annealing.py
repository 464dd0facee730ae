"""Schedules that anneal along half a cosine wave: once, with restarts, and in one cycle up and down."""

import math
from typing import Any

from .optimizer import Optimizer, is_number
from .scheduler import CountedLR, whole


def _cosine(t: float, n: float) -> float:
    """(1 + cos(π t/n)) / 2, half a wave: from 1 down to 0 as t goes from 0 to n."""
    return (1 + math.cos(math.pi * t / n)) / 2


class CosineAnnealingLR(CountedLR):
    """lr = eta_min + (initial_lr - eta_min) (1 + cos(π t / T_max)) / 2 after t steps.

    That is equation 5 of Loshchilov and Hutter, "SGDR" (ICLR 2017), without restarts: after T_max steps
    the rate is eta_min, and then goes up again the same way.

    Args:
        optimizer: whose rates to set.
        T_max: the number of steps from the highest rate to the lowest.
        eta_min: the lowest rate.
        last_epoch: -1 to begin, see `CountedLR`.
    """

    _keeps_lr = True

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1):  # noqa: N803
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def check(self) -> None:
        super().check()
        self._whole("T_max", 1)
        self._number("eta_min")

    def _lr(self, t: int, lr: float, i: int) -> float:
        low, n = self.eta_min, self.T_max
        if t == 0:
            return lr
        if (t - 1) % (2 * n) == n:  # from the lowest rate there is no factor that leads up
            return lr + (self.base_lrs[i] - low) * (1 - _cosine(1, n))
        return low + (lr - low) * (_cosine(t, n) / _cosine(t - 1, n))


class CosineAnnealingWarmRestarts(CountedLR):
    """Cosine annealing that starts anew every T_i steps; T_i is T_0, and T_mult times more each time.

    lr = eta_min + (initial_lr - eta_min) (1 + cos(π T_cur / T_i)) / 2, T_cur steps after the last
    restart: Loshchilov and Hutter, "SGDR" (ICLR 2017), equation 5.

    Args:
        optimizer: whose rates to set.
        T_0: the number of steps until the first restart.
        T_mult: a whole number from 1 up.
        eta_min: the lowest rate.
        last_epoch: -1 to begin, see `CountedLR`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int,  # noqa: N803
        T_mult: int = 1,  # noqa: N803
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ):
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        self.T_cur = 0.0
        self.T_i = T_0
        super().__init__(optimizer, last_epoch)

    def check(self) -> None:
        super().check()
        for key in ("T_0", "T_mult", "T_i"):
            self._whole(key, 1)
        self._number("eta_min")
        self._number("T_cur", "from 0 to T_i", lambda v: 0 <= v <= self.T_i)

    def _lr(self, t: int, lr: float, i: int) -> float:
        return self.eta_min + (self.base_lrs[i] - self.eta_min) * _cosine(self.T_cur, self.T_i)

    def _move(self, t: float) -> None:
        self._place(t, t, self.T_0)

    def _place(self, t: float, since: float, length: int) -> None:
        """Go to `since` steps after the start of an annealing that takes `length`, or to one after it."""
        self._groups()
        if self.T_mult == 1:
            since %= length
        while since >= length:
            since, length = since - length, length * self.T_mult
        self.T_cur, self.T_i = float(since), length
        super()._move(math.floor(t))

    @whole
    def step(self, epoch: float | None = None) -> None:
        """Set the rates for the optimizer's next step.

        Args:
            epoch: go to this many steps after the beginning, which need not be whole: with steps that
                mean epochs, `schedule.step(epoch + batch / batches)` after each batch.

        Raises:
            ValueError: `epoch` is not a number from 0 up.
        """
        if epoch is None:
            self._place(self.last_epoch + 1, self.T_cur + 1, self.T_i)
        elif is_number(epoch) and 0 <= epoch < math.inf:
            self._move(epoch)
        else:
            raise ValueError(f"CosineAnnealingWarmRestarts: epoch must be a number from 0 up, got {epoch!r}")


class OneCycleLR(CountedLR):
    """Up from a low rate to `max_lr`, then down to a far lower one, while momentum goes the other way.

    Smith and Topin, "Super-Convergence" (2018). The rate goes from max_lr / div_factor to max_lr in the
    part `pct_start` of all steps, and in the others to max_lr / (div_factor final_div_factor); with
    `three_phase`, as in the paper, back to where it began in as many steps as up, and in the rest to
    that last rate. A step is a batch. The step after the last one leaves everything as it is, and one
    more is an error.

    Args:
        optimizer: whose rates to set; its `initial_lr` are set to the first rate.
        max_lr: the highest rate, or a list of one for each parameter group.
        total_steps: the number of steps of the cycle; or give the next two.
        epochs: their product is the number of steps.
        steps_per_epoch: see above.
        pct_start: the part of the steps that go up, from 0 to 1.
        anneal_strategy: "cos", along half a wave; or "linear".
        cycle_momentum: set the momentum, or the first of the betas, too.
        base_momentum: the lowest momentum, when the rate is highest; or a list.
        max_momentum: the highest momentum; or a list.
        div_factor: by which the first rate is lower than the highest.
        final_div_factor: by which the last rate is lower than the first.
        three_phase: see above.
        last_epoch: -1 to begin, see `CountedLR`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ):
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: give total_steps, or both epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        self.total_steps = total_steps
        self.max_lr: Any = max_lr
        self.pct_start, self.anneal_strategy, self.three_phase = pct_start, anneal_strategy, three_phase
        self.cycle_momentum = cycle_momentum
        self.base_momentum: Any = base_momentum
        self.max_momentum: Any = max_momentum
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        super().__init__(optimizer, last_epoch)

    def check(self) -> None:
        super().check()
        self._whole("total_steps", 1)
        self._numbers("max_lr")
        self._number("pct_start", "from 0 to 1", lambda v: 0 <= v <= 1)
        self._among("anneal_strategy", "cos", "linear")
        for key in ("base_momentum", "max_momentum"):
            self._numbers(key, "from 0 up to but without 1", lambda v: 0 <= v < 1)
        for key in ("div_factor", "final_div_factor"):
            self._number(key, "above 0", lambda v: 0 < v < math.inf)
        if self.cycle_momentum and not all(
            "betas" in group or "momentum" in group for group in self.optimizer.param_groups
        ):
            raise ValueError(
                "OneCycleLR: the optimizer has no momentum and no betas; pass cycle_momentum=False"
            )

    def _begin(self) -> None:
        for group, high in zip(self.optimizer.param_groups, self.max_lr, strict=True):
            group["initial_lr"] = high / self.div_factor

    def _between(self, t: int, low: float, high: float, end: float) -> float:
        """What goes from `low` to `high`, with three phases back to `low`, and to `end`: after t steps."""
        last = self.total_steps - 1
        t = min(t, last)
        top = self.pct_start * self.total_steps - 1
        knots = [(0.0, low), (top, high), (last, end)]
        if self.three_phase:
            knots.insert(2, (2 * top, low))
        k = next(k for k in range(1, len(knots)) if t <= knots[k][0])
        (start, a), (stop, b) = knots[k - 1 : k + 1]
        part = (t - start) / (stop - start) if stop > start else 1.0  # a way of a single step is at its end
        return b + (a - b) * (_cosine(part, 1) if self.anneal_strategy == "cos" else 1 - part)

    def _lr(self, t: int, lr: float, i: int) -> float:
        first = self.base_lrs[i]
        return self._between(t, first, self.max_lr[i], first / self.final_div_factor)

    def _move(self, t: int) -> None:
        if t > self.total_steps:
            raise ValueError(
                f"OneCycleLR: this is step {t} of a cycle of {self.total_steps}; give total_steps the number "
                "of times that the optimizer steps"
            )
        super()._move(t)
        if not self.cycle_momentum:
            return
        for i, group in enumerate(self.optimizer.param_groups):
            high = self.max_momentum[i]
            momentum = self._between(t, high, self.base_momentum[i], high)
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum
