"""Changes that are made together or not at all: neither Ctrl-C nor a lack of memory leaves them half done.

What changes several things prepares all of it first, and then has the changes made at once. So an error, or
Ctrl-C, comes before the first of them, or after the last.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import compress, repeat, starmap
from typing import Any

_NEVER = repeat(False)


def prepared(changes: Iterable[tuple[Any, ...]]) -> Callable[[], Any]:
    """What calls each of `changes`, a function with its arguments, with no Python in between; once.

    Python looks for signals between its own instructions, and raises KeyboardInterrupt there; a loop in C has
    none. So the functions must be C, too, such as `setattr` of a slot. They should not need memory, and the
    call itself does not: it asks for the first result that is selected, and none is.
    """
    return functools.partial(next, compress(starmap(operator.call, changes), _NEVER), None)


def at_once(changes: Iterable[tuple[Any, ...]]) -> None:
    """Call each of `changes` with no Python in between, see `prepared`.

    >>> numbers = [1, 2, 3]
    >>> at_once([(operator.setitem, numbers, 0, 10), (numbers.append, 4)])
    >>> numbers
    [10, 2, 3, 4]
    """
    next(compress(starmap(operator.call, changes), _NEVER), None)


def restoring(*dicts: dict[Any, Any]) -> Callable[[], Any]:
    """What makes these dicts hold again what they hold now; once.

    To be called first thing in `except BaseException:`, where nothing can come in between.
    """
    return prepared([change for d in dicts for change in ((d.clear,), (d.update, dict(d)))])


# --- modes -------------------------------------------------------------------------------------------


class _Block:
    """A `with` block in which a variable has another value."""

    __slots__ = ("outer",)
    outer: "_Block | None"


_innermost: dict[ContextVar[Any], "ContextVar[_Block | None]"] = {}
"""For each variable, the innermost block in which it has another value."""


@contextmanager
def holding(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    """Inside, `variable` has that value; and afterwards the one that it had, wherever Ctrl-C comes.

    If it comes where Python is about to leave the block, nothing is called here until the error has been
    forgotten. By then outer blocks have ended, and given back what was before all of them: so it must not be
    given back once more.
    """
    innermost = _innermost.get(variable) or _innermost.setdefault(
        variable, ContextVar("minigrad.innermost", default=None)
    )
    block = _Block()
    block.outer = innermost.get()
    back = prepared([(variable.set, variable.get()), (innermost.set, block.outer)])
    try:
        innermost.set(block)
        variable.set(value)
        yield
    except GeneratorExit:  # what it is then; or a generator is closed inside of the block
        if _is_in(block, innermost.get()):
            back()
        raise
    except BaseException:
        back()
        raise
    else:
        back()


def _is_in(block: _Block, now: _Block | None) -> bool:
    """Whether `now` is the block, or inside of it."""
    while now is not None and now is not block:
        now = now.outer
    return now is block
