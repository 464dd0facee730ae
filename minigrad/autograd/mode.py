"""Whether operations are recorded, in this thread or task."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ..atomic import holding

grad_enabled: ContextVar[Any] = ContextVar("minigrad.grad_enabled", default=True)
"""False; True; or what looks at each recorded operation (see `detect_anomaly`), which counts as true: so an
operation asks one variable, not two.

A context variable, so that threads and asyncio tasks do not see each other's mode.
"""

watcher: ContextVar[Any] = ContextVar("minigrad.watcher", default=None)
"""What looks at operations whenever they are recorded; None: nothing."""


def is_grad_enabled() -> bool:
    """Whether operations are recorded in this thread or task. A new thread begins with True."""
    return bool(grad_enabled.get())


def grad_mode(enabled: bool):
    """Record, or do not, inside a `with` block or a decorated function."""
    return enable_grad() if enabled else no_grad()


def no_grad():
    """Record nothing inside: `with no_grad():`, or `@no_grad()` on a function.

    >>> import minigrad as mg
    >>> x = mg.ones(2, requires_grad=True)
    >>> with mg.no_grad():
    ...     (x * 2).requires_grad
    False
    """
    return holding(grad_enabled, False)


@contextmanager
def enable_grad() -> Iterator[None]:
    """Record inside, also within a `no_grad` block: `with enable_grad():` or `@enable_grad()`."""
    with holding(grad_enabled, watcher.get() or True):
        yield
