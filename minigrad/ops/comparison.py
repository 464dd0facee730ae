"""Comparisons, logic and bits: whatever has no derivative. The results are bools or integers."""

from typing import Any

from ..primitive import elementwise


@elementwise()
def equal(x, y) -> Any:
    """x == y."""


@elementwise()
def not_equal(x, y) -> Any:
    """x != y."""


@elementwise()
def less(x, y) -> Any:
    """x < y."""


@elementwise()
def less_equal(x, y) -> Any:
    """x <= y."""


@elementwise()
def greater(x, y) -> Any:
    """x > y."""


@elementwise()
def greater_equal(x, y) -> Any:
    """x >= y."""


@elementwise()
def isnan(x) -> Any:
    """Whether x is not a number."""


@elementwise()
def isinf(x) -> Any:
    """Whether x is infinite, of either sign."""


@elementwise()
def isfinite(x) -> Any:
    """Whether x is neither infinite nor NaN."""


@elementwise()
def signbit(x) -> Any:
    """Whether the sign bit of x is set, as it is in -0.0 and in a negative NaN."""


@elementwise()
def logical_not(x) -> Any:
    """not x, of bools."""


@elementwise()
def logical_and(x, y) -> Any:
    """x and y, of bools."""


@elementwise()
def logical_or(x, y) -> Any:
    """x or y, of bools."""


@elementwise()
def logical_xor(x, y) -> Any:
    """Either x or y but not both, of bools."""


@elementwise()
def bitwise_invert(x) -> Any:
    """Every bit of x turned over; `not` of bools."""


@elementwise()
def bitwise_and(x, y) -> Any:
    """The bits set in both x and y."""


@elementwise()
def bitwise_or(x, y) -> Any:
    """The bits set in x or in y."""


@elementwise()
def bitwise_xor(x, y) -> Any:
    """The bits set in exactly one of x and y."""


@elementwise()
def bitwise_left_shift(x, y) -> Any:
    """x shifted left by y bits."""


@elementwise()
def bitwise_right_shift(x, y) -> Any:
    """x shifted right by y bits."""
