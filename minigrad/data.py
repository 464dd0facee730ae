"""Reading data, and feeding it to a training loop."""

import gzip
import math
import os
import reprlib
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy

from . import random
from .tensor import Tensor


class batches:  # noqa: N801 - it is used as a function
    """Minibatches of one or more arrays: an iterable with a length, to be gone through once an epoch.

    Each pass shuffles anew. `state_dict` has the position in the data, also in the middle of a pass.

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
        self._random: dict[str, str] | None = None  # the state of a stream of its own
        if seed is not None:
            with random.fork(seed):
                self._random = random.get_state()
        # The newest pass under way: how many batches it has given, and the state that its order came from;
        # and one that was loaded, for the next iterator to go on with.
        self._pass: dict[str, Any] | None = None
        self._loaded: dict[str, Any] | None = None

    def __len__(self) -> int:
        """The number of batches in a pass."""
        rows = len(self.arrays[0])
        return rows // self.size if self.drop_last else -(-rows // self.size)

    def __iter__(self) -> Iterator[Any]:
        this = self._pass = self._loaded or {"given": 0, "order": None}
        self._loaded = None
        order, rows = self._order(this) if self.shuffle else None, len(self.arrays[0])
        try:
            for k in range(this["given"], len(self)):
                start, stop = k * self.size, min((k + 1) * self.size, rows)
                batch = tuple(self._rows(a, order, start, stop) for a in self.arrays)
                this["given"] = k + 1
                yield batch[0] if len(batch) == 1 else batch
        finally:  # the pass is at its end, or its iterator was dropped
            if self._pass is this:
                self._pass = None

    def _order(self, this: dict[str, Any]) -> numpy.ndarray:
        """The order of a pass: drawn if it is a new one, or drawn again."""
        new, rows = this["order"] is None, len(self.arrays[0])
        if new:
            this["order"] = self._random or random.get_state()
            if self._random is None:
                return random.generator().permutation(rows)
        with random.fork(this["order"]):
            order = random.generator().permutation(rows)
            if new:
                self._random = random.get_state()
        return order

    # --- saving ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The position in the data: that of the newest iterator, if it is not at its end, and of the seed.

        Without a seed, later passes go on from `minigrad.random`, whose state is to be saved beside this.
        Where several threads draw from that at once, give a seed: else another order may be drawn again.
        A loop that is left by `break` or an error drops its iterator, and with it the pass.
        """
        this = self._loaded or self._pass
        return {
            "rows": len(self.arrays[0]),
            "size": self.size,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "pass": this and dict(this),
            "random": self._random and dict(self._random),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave: the next iterator gives what is left of the pass under way.

        That may be nothing, if its last batch was given out already. Iterators that are there already go on
        as they would have.

        Raises:
            ValueError: it is no such state, or one of other rows or settings. Nothing has changed then.
        """
        own = self.state_dict()
        if not isinstance(state_dict, Mapping) or set(state_dict) != set(own):
            raise ValueError(f"batches: a state is what state_dict() gives, a dict with {list(own)}")
        for key in ("rows", "size", "shuffle", "drop_last"):
            if state_dict[key] != own[key]:
                raise ValueError(
                    f"batches: {key} is {own[key]}, and was {reprlib.repr(state_dict[key])} when saved"
                )
        this, stream = state_dict["pass"], state_dict["random"]
        if (stream is None) != (self._random is None):
            raise ValueError("batches: one of the saved batches and these has a seed, the other has none")
        if this is not None:
            known = isinstance(this, Mapping) and set(this) == {"given", "order"}
            if not known or type(this["given"]) is not int or not 1 <= this["given"] <= len(self):
                raise ValueError(
                    f"batches: the saved pass must be one of {len(self)} batches, got {reprlib.repr(this)}"
                )
        states = [stream] if self._random else []
        if this is not None and self.shuffle:
            states.append(this["order"])
        for state in states:
            if not isinstance(state, Mapping):
                raise ValueError(
                    f"batches: a saved state of random numbers must be a dict, got {reprlib.repr(state)}"
                )
            with random.fork(state):  # which refuses what is no state
                pass
        self._random, self._pass = stream and dict(stream), None
        self._loaded = None if this is None else dict(this)

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
