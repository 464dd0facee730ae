"""Feeding data to a training loop."""

from collections.abc import Iterator
from typing import Any

import numpy

from . import random
from .tensor import Tensor


class batches:  # noqa: N801 - it is used as a function
    """Minibatches of one or more arrays: an iterable with a length, to be gone through once an epoch.

    Each pass shuffles anew.

    Args:
        *arrays: tensors or NumPy arrays with the same length along their first axis.
        size: how many rows a batch has; the last one may have fewer.
        shuffle: in random order rather than from first to last.
        seed: fixes the orders of all passes; without one they come from `minigrad.random`.
        drop_last: leave out a last batch that is not full.

    Yields:
        A tuple with a batch of each array; of a single array, the batch itself.

    Raises:
        ValueError: the lengths differ, there is no array, or `size` is not positive.

    >>> import minigrad as mg
    >>> x, y = mg.arange(5), mg.arange(5) * 10
    >>> for a, b in mg.data.batches(x, y, size=2, shuffle=False):
    ...     print(a.tolist(), b.tolist())
    [0, 1] [0, 10]
    [2, 3] [20, 30]
    [4] [40]
    """

    def __init__(
        self, *arrays: Any, size: int, shuffle: bool = True, seed: int | None = None, drop_last: bool = False
    ):
        if not arrays:
            raise ValueError("batches: give at least one array")
        lengths = [len(a) for a in arrays]
        if len(set(lengths)) > 1:
            raise ValueError(f"batches: the arrays must have the same length, got {lengths}")
        if size < 1:
            raise ValueError(f"batches: size must be at least 1, got {size}")
        self.arrays: tuple[Any, ...] = arrays
        self.size = size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self._random = None if seed is None else numpy.random.default_rng(seed)

    def __len__(self) -> int:
        """The number of batches in a pass."""
        rows = len(self.arrays[0])
        return rows // self.size if self.drop_last else -(-rows // self.size)

    def __iter__(self) -> Iterator[Any]:
        rows = len(self.arrays[0])
        order = (self._random or random.generator()).permutation(rows) if self.shuffle else None
        for start in range(0, len(self) * self.size, self.size):
            stop = min(start + self.size, rows)
            batch = tuple(self._rows(a, order, start, stop) for a in self.arrays)
            yield batch[0] if len(batch) == 1 else batch

    @staticmethod
    def _rows(array: Any, order: numpy.ndarray | None, start: int, stop: int) -> Any:
        if order is None:
            return array[start:stop, ...]
        rows = order[start:stop]
        if isinstance(array, Tensor) and array.device != "numpy":
            return array[Tensor(rows, device=array.device)]
        return array[rows]
