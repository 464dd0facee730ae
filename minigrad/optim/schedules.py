"""Schedules by simple factors, and the sequence of several, with torch's names.

StepLR, MultiStepLR, ExponentialLR, LinearLR and CosineAnnealingLR change the rate from what it is: two of
them on the same optimizer, stepped one after the other, multiply their effects, and what is changed by
hand stays changed. LambdaLR, CosineAnnealingWarmRestarts and OneCycleLR set it, whatever it is.
"""

import copy
import inspect
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from .optimizer import Optimizer, is_number
from .scheduler import CountedLR, LRScheduler, whole


def _is_object(function: Any) -> bool:
    return hasattr(function, "__dict__") and not inspect.isroutine(function)


class LambdaLR(CountedLR):
    """lr = initial_lr f(t), for a function f of the number t of steps.

    Args:
        optimizer: whose rates to set.
        lr_lambda: f, or a list of one for each parameter group.
        last_epoch: -1 to begin, see `CountedLR`.

    Functions are not saved: make the schedule with the same ones, then load its state. Of callable
    objects the attributes are saved.

    >>> import minigrad as mg
    >>> optimizer = mg.optim.SGD([mg.ones(2, requires_grad=True)], lr=0.5)
    >>> schedule = LambdaLR(optimizer, lambda t: 1 / (1 + t))
    >>> for _ in range(3):
    ...     print(optimizer.param_groups[0]["lr"])
    ...     optimizer.step()
    ...     schedule.step()
    0.5
    0.25
    0.16666666666666666
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ):
        count = self._attach(optimizer)
        functions = list(lr_lambda) if isinstance(lr_lambda, (list, tuple)) else [lr_lambda] * count
        if len(functions) != count or not all(callable(f) for f in functions):
            raise TypeError(
                f"LambdaLR: lr_lambda must be a function, or a list of one for each of the {count} "
                f"parameter groups, got {lr_lambda!r}"
            )
        self.lr_lambdas: list[Any] = functions
        super().__init__(optimizer, last_epoch)

    def _lr(self, t: int, lr: float, i: int) -> float:
        factor = self.lr_lambdas[i](t)
        if not is_number(factor):
            raise TypeError(f"LambdaLR: the function of group {i} must give a number, got {factor!r}")
        return self.base_lrs[i] * float(factor)

    def state_dict(self) -> dict[str, Any]:
        """As all schedules have it; `lr_lambdas` are attributes of callable objects, None for functions."""
        saved = [copy.deepcopy(vars(f)) if _is_object(f) else None for f in self.lr_lambdas]
        return {**super().state_dict(), "lr_lambdas": saved}

    def _loaded(self, state: Any) -> Self:
        new = super()._loaded(state)
        saved, own = new.lr_lambdas, self.lr_lambdas
        fits = isinstance(saved, list) and len(saved) == len(own)
        fits = fits and all(
            not s or (isinstance(s, dict) and _is_object(f)) for s, f in zip(saved, own, strict=True)
        )
        new._require("lr_lambdas", fits, f"None, or a dict for an object, for each of {len(own)} groups")
        return new

    def _commit(self, new: Any) -> None:
        for function, saved in zip(self.lr_lambdas, new.lr_lambdas, strict=True):
            if saved:
                vars(function).update(saved)
        new.lr_lambdas = self.lr_lambdas
        super()._commit(new)


class StepLR(CountedLR):
    """lr ← gamma lr, every `step_size` steps.

    Args:
        optimizer: whose rates to set.
        step_size: how many steps a rate lasts.
        gamma: the factor.
        last_epoch: -1 to begin, see `CountedLR`.
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def check(self) -> None:
        super().check()
        self._whole("step_size", 1)
        self._number("gamma")

    def _lr(self, t: int, lr: float, i: int) -> float:
        return lr if t % self.step_size or not t else lr * self.gamma


class MultiStepLR(CountedLR):
    """lr ← gamma lr, at each of the `milestones`.

    Args:
        optimizer: whose rates to set.
        milestones: numbers of steps, in rising order; what is there n times multiplies by gammaⁿ.
        gamma: the factor.
        last_epoch: -1 to begin, see `CountedLR`.
    """

    def __init__(
        self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1, last_epoch: int = -1
    ):
        self.milestones: Any = milestones
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def check(self) -> None:
        super().check()
        if isinstance(self.milestones, Mapping):  # torch counts them
            self.milestones = sorted(Counter(self.milestones).elements())
        self._rising("milestones", 0)
        self._number("gamma")

    def _lr(self, t: int, lr: float, i: int) -> float:
        return lr * self.gamma ** self.milestones.count(t)


class ExponentialLR(CountedLR):
    """lr ← gamma lr, in every step.

    Args:
        optimizer: whose rates to set.
        gamma: the factor.
        last_epoch: -1 to begin, see `CountedLR`.
    """

    _keeps_lr = True

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1):
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def check(self) -> None:
        super().check()
        self._number("gamma")

    def _lr(self, t: int, lr: float, i: int) -> float:
        return lr * self.gamma if t else lr


class LinearLR(CountedLR):
    """lr = f initial_lr, with f going from `start_factor` to `end_factor` in equal steps: a warm-up.

    Args:
        optimizer: whose rates to set.
        start_factor: f at the beginning, above 0 and at most 1.
        end_factor: f in the end, from 0 to 1.
        total_iters: the number of steps until then, at least 1.
        last_epoch: -1 to begin, see `CountedLR`.
    """

    _keeps_lr = True

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ):
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def check(self) -> None:
        super().check()
        self._number("start_factor", "above 0 and at most 1", lambda v: 0 < v <= 1)
        self._number("end_factor", "from 0 to 1", lambda v: 0 <= v <= 1)
        self._whole("total_iters", 1)

    def _factor(self, t: int) -> float:
        n = self.total_iters
        return ((n - t) * self.start_factor + t * self.end_factor) / n

    def _lr(self, t: int, lr: float, i: int) -> float:
        if t == 0:
            return lr * self.start_factor
        return lr * (self._factor(t) / self._factor(t - 1)) if t <= self.total_iters else lr


class SequentialLR(LRScheduler):
    """One schedule after another: each begins anew, from its initial rates, at its milestone.

    Args:
        optimizer: whose rates to set.
        schedulers: schedules of that optimizer, made before; of any kind but ReduceLROnPlateau and
            SequentialLR.
        milestones: numbers of steps, in rising order, at which the second and later ones begin.
        last_epoch: -1; to go on, load a saved state.

    Raises:
        TypeError, ValueError: schedules of other kinds, or of another optimizer, or milestones that do not
            fit them.

    >>> import minigrad as mg
    >>> optimizer = mg.optim.SGD([mg.ones(2, requires_grad=True)], lr=1.0)
    >>> warm_up, decay = LinearLR(optimizer, 0.25, total_iters=3), ExponentialLR(optimizer, 0.5)
    >>> schedule = SequentialLR(optimizer, [warm_up, decay], milestones=[3])
    >>> for _ in range(6):
    ...     print(optimizer.param_groups[0]["lr"])
    ...     optimizer.step()
    ...     schedule.step()
    0.25
    0.5
    0.75
    1.0
    0.5
    0.25
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[CountedLR],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ):
        if last_epoch != -1:
            raise ValueError(
                f"SequentialLR: last_epoch must be -1, got {last_epoch}; to go on, load a saved state"
            )
        self._schedulers: Any = list(schedulers)
        self._milestones: Any = milestones
        super().__init__(optimizer, 0)
        for i, schedule in enumerate(self._schedulers):
            if not isinstance(schedule, CountedLR):
                raise TypeError(
                    f"SequentialLR: schedulers[{i}] is {type(schedule).__name__}; give schedules that count "
                    "steps: no ReduceLROnPlateau, and for a SequentialLR its parts"
                )
            if schedule.optimizer is not optimizer:
                raise ValueError(f"SequentialLR: schedulers[{i}] is of another optimizer")
        first = self._schedulers[bisect_right(self._milestones, 0)]
        first._restart([float(group["initial_lr"]) for group in optimizer.param_groups])
        self._last_lr = first.get_last_lr()

    def check(self) -> None:
        super().check()
        self._require("_schedulers", isinstance(self._schedulers, list), "a list")
        self._rising("_milestones", 1)
        count = len(self._schedulers)
        self._require(
            "_milestones",
            len(self._milestones) == count - 1,
            f"one for each of {count} schedulers but the first",
        )

    @whole
    def step(self) -> None:
        """Set the rates for the optimizer's next step."""
        t = self.last_epoch + 1
        now = bisect_right(self._milestones, t)
        schedule = self._schedulers[now]
        if now and t == self._milestones[now - 1]:
            schedule._restart(schedule.base_lrs)
        else:
            schedule.step()
        self.last_epoch, self._last_lr = t, schedule.get_last_lr()

    def _dicts(self) -> list[dict[str, Any]]:
        return [vars(self), *(d for schedule in self._schedulers for d in schedule._dicts())]

    def state_dict(self) -> dict[str, Any]:
        """As all schedules have it; `_schedulers` are the states of the parts."""
        return {**super().state_dict(), "_schedulers": [s.state_dict() for s in self._schedulers]}

    def _loaded(self, state: Any) -> Self:
        new = super()._loaded(state)
        saved, own = new._schedulers, self._schedulers
        new._require("_schedulers", len(saved) == len(own), f"the states of {len(own)} schedules")
        new._schedulers = [s._loaded(part) for s, part in zip(own, saved, strict=True)]
        return new

    def _commit(self, new: Any) -> None:
        for own, part in zip(self._schedulers, new._schedulers, strict=True):
            own._commit(part)
        new._schedulers = self._schedulers
        super()._commit(new)
