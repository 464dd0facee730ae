"""What all learning-rate schedules share: the optimizer they act on, checks of settings, and saving."""

import copy
import functools
import math
import operator
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

from ..atomic import restoring
from .optimizer import Optimizer, is_number

# What torch saves and we have no use for, besides names of its own that begin with _.
_OF_TORCH = ("default_min_lr", "mode_worse", "verbose")


def _from_0(value: Any) -> bool:
    return 0 <= value < math.inf


def _index(value: Any) -> int | None:
    try:
        return operator.index(value)
    except TypeError:
        return None


def whole(method: Callable[..., None]) -> Callable[..., None]:
    """A method of a schedule that leaves it and the rates as they were if it is not done: by an error, or by
    Ctrl-C at any place."""

    @functools.wraps(method)
    def all_or_nothing(self: "LRScheduler", *args: Any, **kwargs: Any) -> None:
        back = restoring(*self._dicts())
        try:
            method(self, *args, **kwargs)
        except BaseException:
            back()
            raise

    return all_or_nothing


class LRScheduler:
    """The base of all schedules: they set the `lr` of an optimizer's parameter groups.

    Step the optimizer first and then the schedule, once a batch or once an epoch, whichever its numbers
    mean; the other way round, the first rate is never used.

    Attributes:
        optimizer: whose rates these are.
        last_epoch: the number of steps taken.

    To go on with a saved run, make optimizer and schedule anew, then load the state of both, in either
    order: the rates themselves are in the optimizer's. Where a parameter group has been added since the
    schedule was made, `step` raises `ValueError`: make a new schedule.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int):
        self._attach(optimizer)
        self.last_epoch = last_epoch
        self._last_lr = [float(group["lr"]) for group in optimizer.param_groups]
        self.check()

    def _attach(self, optimizer: Optimizer) -> int:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"{type(self).__name__}: the optimizer must be minigrad's, got {type(optimizer).__name__}"
            )
        self.optimizer = optimizer
        return len(optimizer.param_groups)

    def get_last_lr(self) -> list[float]:
        """The rate of each parameter group, as the last step of this schedule left it."""
        return list(self._last_lr)

    def _dicts(self) -> list[dict[str, Any]]:
        """Where all is that a step may change."""
        return [vars(self), *self.optimizer.param_groups]

    def _groups(self) -> list[dict[str, Any]]:
        groups, count = self.optimizer.param_groups, len(self._last_lr)
        if len(groups) != count:
            raise ValueError(
                f"{type(self).__name__}: the optimizer has {len(groups)} parameter groups, and had {count} "
                "when the schedule was made; make a new schedule"
            )
        return groups

    # --- settings ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise `ValueError` for settings out of range, and make the others plain numbers and lists."""
        self._whole("last_epoch", -1)

    def _require(self, key: str, fits: bool, rule: str) -> None:
        if not fits:
            name, value = key.removeprefix("_"), getattr(self, key)
            raise ValueError(f"{type(self).__name__}: {name} must be {rule}, got {reprlib.repr(value)}")

    def _whole(self, key: str, least: int) -> None:
        number = _index(getattr(self, key))
        self._require(key, number is not None and number >= least, f"a whole number from {least} up")
        setattr(self, key, number)

    def _rising(self, key: str, gap: int) -> None:
        """Whole numbers from 0 up, each larger than the one before by at least `gap`."""
        value = getattr(self, key)
        numbers = [_index(v) for v in value] if isinstance(value, Iterable) else [None]
        whole = [v for v in numbers if v is not None]
        fits = whole == numbers and all(b - a >= gap for a, b in pairwise([-gap, *whole]))
        self._require(key, fits, "a list of whole numbers from 0 up, in rising order")
        setattr(self, key, numbers)

    def _number(self, key: str, rule: str = "from 0 up", fits: Callable[[Any], bool] = _from_0) -> None:
        value = getattr(self, key)
        self._require(key, is_number(value) and fits(value), f"a number {rule}")
        setattr(self, key, float(value))

    def _numbers(self, key: str, rule: str = "from 0 up", fits: Callable[[Any], bool] = _from_0) -> None:
        """A number for each group; a single one is for all of them."""
        value, count = getattr(self, key), len(self.optimizer.param_groups)
        numbers = list(value) if isinstance(value, (list, tuple)) else [value] * count
        self._require(
            key,
            len(numbers) == count and all(is_number(v) and fits(v) for v in numbers),
            f"a number {rule}, or a list of one for each of the {count} parameter groups",
        )
        setattr(self, key, [float(v) for v in numbers])

    def _among(self, key: str, *choices: str) -> None:
        self._require(key, getattr(self, key) in choices, f"one of {choices}")

    # --- saving ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Settings and state as a copy, in plain numbers, strings, lists and dicts, with torch's keys."""
        state = {key: value for key, value in vars(self).items() if key != "optimizer"}
        return {key: list(value) if isinstance(value, list) else value for key, value in state.items()}

    @whole
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, settings included; or torch's, of any kind but `OneCycleLR`.

        Raises:
            ValueError: the state is of another kind of schedule, or for another number of parameter
                groups, or a setting is out of range. Nothing has changed then.
        """
        self._commit(self._loaded(state_dict))

    def _loaded(self, state: Any) -> Self:
        """A copy of this schedule with that state, all of it checked."""
        name, wanted = type(self).__name__, [key for key in vars(self) if key != "optimizer"]
        if not isinstance(state, Mapping):
            raise ValueError(f"{name}: the saved state must be a dict, got {type(state).__name__}")
        known = {*wanted, *_OF_TORCH}
        unknown = [key for key in state if key not in known and not str(key).startswith("_")]
        missing = [key for key in wanted if key not in state]
        if missing or unknown:
            raise ValueError(
                f"{name}: the saved state has {[k for k in state if k in known or k in unknown]}, wanted is "
                f"{wanted}; is it of another kind of schedule?"
            )
        new = copy.copy(self)
        vars(new).update({key: copy.deepcopy(state[key]) for key in wanted})
        for key in ("base_lrs", "_last_lr"):
            if key in wanted:
                new._numbers(key, "that is finite", math.isfinite)
        new.check()
        return new

    def _commit(self, new: Any) -> None:
        """Take over what `_loaded` made."""
        vars(self).update(vars(new))


class CountedLR(LRScheduler):
    """The base of schedules whose rates follow from the number of steps: a subclass defines `_lr`.

    Args:
        optimizer: whose rates to set. The rate of a group becomes its `initial_lr`, if it has none yet.
        last_epoch: -1 to begin. From 0 up: to go on, with groups that have an `initial_lr`, when one step
            more than this has been taken. As in torch, ExponentialLR, LinearLR and CosineAnnealingLR
            then take the rates to be right as they are, while StepLR and MultiStepLR multiply them if
            it is a step where they do. Loading a saved state leaves no such doubt.

    Raises:
        TypeError, ValueError: no optimizer, settings out of range, a group without `initial_lr`.
    """

    _keeps_lr = False  # when going on from a last_epoch

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        super().__init__(optimizer, last_epoch)
        groups = optimizer.param_groups
        if self.last_epoch == -1:
            self._begin()
        elif bare := [i for i, group in enumerate(groups) if "initial_lr" not in group]:
            raise ValueError(
                f"{type(self).__name__}: to go on from last_epoch={last_epoch} the parameter groups {bare} "
                "need an 'initial_lr'; load the optimizer's saved state first"
            )
        self.base_lrs = [float(group["initial_lr"]) for group in groups]
        if self.last_epoch >= 0 and self._keeps_lr:
            self.last_epoch += 1
        else:
            self._move(self.last_epoch + 1)

    def _begin(self) -> None:
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def _lr(self, t: int, lr: float, i: int) -> float:
        """The rate of group i after t steps, where it is `lr` before the last of them."""
        raise NotImplementedError

    def _move(self, t: int) -> None:
        groups = self._groups()
        lrs = [self._lr(t, float(group["lr"]), i) for i, group in enumerate(groups)]
        for group, lr in zip(groups, lrs, strict=True):
            group["lr"] = lr
        self.last_epoch, self._last_lr = t, lrs

    def _restart(self, lrs: Sequence[float]) -> None:
        """Begin at these rates, whatever came before."""
        for group, lr in zip(self._groups(), lrs, strict=True):
            group["lr"] = lr
        self._move(0)

    @whole
    def step(self) -> None:
        """Set the rates for the optimizer's next step."""
        self._move(self.last_epoch + 1)
