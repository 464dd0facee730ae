"""Reading data, and feeding it to a training loop."""

import gzip
import math
import os
import struct
import zlib
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


_IDX_DTYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_idx(path: str | os.PathLike[str]) -> numpy.ndarray:
    """The array in an IDX file, the format of MNIST, gzipped or not.

    The format: two bytes of 0, one for the type, one for the number of axes; the lengths of these, each in
    four bytes; and the elements in C order. All is big-endian.

    Raises:
        ValueError: it is no such file, or it is longer or shorter than it says.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"read_idx: {path} is a damaged gzip file: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_DTYPES:
        raise ValueError(f"read_idx: {path} is no IDX file: it begins with {content[:4]!r}")
    dtype, ndim = numpy.dtype(_IDX_DTYPES[content[2]]), content[3]
    start = 4 + 4 * ndim
    if len(content) < start:
        raise ValueError(f"read_idx: {path} ends within its header")
    shape = struct.unpack(f">{ndim}i", content[4:start])
    wanted = start + math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or len(content) != wanted:
        raise ValueError(
            f"read_idx: {path} has {len(content)} bytes; an array of {shape} {dtype.name} takes {wanted}"
        )
    array = numpy.frombuffer(content, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="))
