"""What can be a part of a checkpoint: how its state is taken, and put back."""

import copy
import random as random_of_python
import reprlib
from collections.abc import Callable
from typing import Any

import numpy

from .. import random
from ..atomic import restoring
from ..optim import LRScheduler, Optimizer


class Streams:
    """The random numbers that all share, as a part."""

    def state_dict(self) -> dict[str, Any]:
        """The state of each stream."""
        version, words, gauss = random_of_python.getstate()
        return {
            "minigrad": random.get_state(),
            "python": {"version": version, "words": numpy.array(words, numpy.uint32), "gauss": gauss},
            "numpy": numpy.random.get_state(legacy=False),  # noqa: NPY002 - others may draw from it
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from these states."""
        random.set_state(state["minigrad"])
        python = state["python"]
        random_of_python.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
        _check_stream(state["numpy"])
        numpy.random.set_state(state["numpy"])  # noqa: NPY002


def is_part(part: Any) -> bool:
    """Whether it is something that can be saved and restored."""
    if hasattr(part, "state_dict") and hasattr(part, "load_state_dict"):
        return True
    return isinstance(part, (dict, list, numpy.random.Generator)) or _is_fixed(part)


def _is_fixed(part: Any) -> bool:
    if isinstance(part, tuple):
        return all(map(_is_fixed, part))
    return part is None or isinstance(part, (bool, int, float, str))


def state_of(part: Any) -> Any:
    """What to save of a part."""
    if hasattr(part, "state_dict"):
        return part.state_dict()
    if isinstance(part, numpy.random.Generator):
        return part.bit_generator.state
    return copy.copy(part)


def way_back(part: Any) -> Callable[[], Any]:
    """What makes a part again what it is now, whatever settings it has come to."""
    if isinstance(part, Optimizer):
        return restoring(vars(part))
    if isinstance(part, LRScheduler):
        return restoring(*part._dicts())
    now = copy.deepcopy(state_of(part)) if hasattr(part, "state_dict") else state_of(part)
    return lambda: set_state(part, now)


def set_state(part: Any, state: Any) -> None:
    """Make a part what it was. Raises errors of any kind if the state does not fit."""
    if hasattr(part, "state_dict"):
        now = part.state_dict()
        if isinstance(now, dict):
            _check_kind(state, dict)
            _check_dtypes(state, now)
        part.load_state_dict(state)
    elif isinstance(part, numpy.random.Generator):
        _check_stream(state)
        part.bit_generator.state = state
    elif isinstance(part, dict):
        _check_kind(state, dict)
        part.clear()
        part.update(state)
    elif isinstance(part, list):
        _check_kind(state, list)
        part[:] = state
    elif not _same(part, state):
        raise ValueError(f"it is {reprlib.repr(part)}, and was {reprlib.repr(state)}")


def _same(part: Any, state: Any) -> bool:
    """Whether NaN is what it was, and no 1 was True; not asking more of `state` than the part is large."""
    if not isinstance(part, tuple):
        return type(part) is type(state) and repr(part) == repr(state)
    return (
        isinstance(state, tuple)
        and len(part) == len(state)
        and all(_same(one, other) for one, other in zip(part, state, strict=True))
    )


# How far a stream of NumPy's can be in what it has in store. NumPy believes all numbers, and reads there.
_STORES = {"pos": 624, "buffer_pos": 4}


def _check_stream(state: Any) -> None:
    _check_kind(state, dict)
    inside = state.get("state")
    for values in (state, inside if isinstance(inside, dict) else {}):
        for key, most in _STORES.items():
            at = values.get(key, 0)
            if type(at) is not int or not 0 <= at <= most:
                raise ValueError(f"its {key!r} must be from 0 to {most}, and was {reprlib.repr(at)}")


def _check_kind(state: Any, kind: type) -> None:
    if not isinstance(state, kind):
        raise TypeError(f"it is a {kind.__name__}, and was saved as a {type(state).__name__}")


def _check_dtypes(state: dict[Any, Any], now: dict[Any, Any]) -> None:
    """A module would convert what it loads; but then it would not go on as it did."""
    for key, value in state.items():
        old = now.get(key)
        if not isinstance(old, numpy.ndarray):
            continue
        if not isinstance(value, numpy.ndarray):
            raise TypeError(f"its {key} is an array, and was a {type(value).__name__}")
        if value.dtype != old.dtype:
            raise TypeError(f"its {key} is {old.dtype}, and was {value.dtype}")
