"""Checks of integers that number classes or rows."""

import numpy

from ..backend import is_integer, namespace, plain
from ..tensor import Tensor


def extremes(op: str, indices: Tensor, what: str = "indices") -> tuple[int, int]:
    """The least and the greatest of the integers in a tensor, (0, -1) of none.

    Raises `TypeError` if it does not hold integers.
    """
    if not is_integer(indices.dtype):
        raise TypeError(f"{op}: {what} must be integers, got {indices.dtype}")
    array = plain(indices._data)  # inside vmap that of all examples
    if not array.size:
        return 0, -1
    if isinstance(array, numpy.ndarray):
        return array.min(), array.max()  # in half the time of the functions
    xp = namespace(op, [array])
    return int(xp.min(array)), int(xp.max(array))


def check_indices(op: str, indices: Tensor, count: int, what: str = "indices") -> None:
    """Raise `IndexError` unless the tensor `indices` holds integers from 0 to `count` - 1.

    An array library reads a negative index from the end, and CuPy and kernels one that is too large, too.
    """
    least, most = extremes(op, indices, what)
    if least < 0 or most >= count:
        raise IndexError(f"{op}: {what} must be from 0 to {count - 1}, got {least} to {most}")
