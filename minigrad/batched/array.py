"""Batched arrays: arrays that show the shape of one example, and hold those of many in hidden axes."""

import math
from collections.abc import Iterable
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

from ..backend import Array, Namespace, create, is_bool, of
from ..ops import beyond

if TYPE_CHECKING:
    from .namespace import Batching

_next_number = count().__next__


class Level:
    """One call of a function that `vmap` made.

    Attributes:
        size: how many examples it has.
        number: counts the levels as they are made. Hidden axes stand in this order.
        active: whether the function still runs. A gradient taken meanwhile is that of each example, and
            one taken afterwards, by something that the examples share, is the sum of theirs.
    """

    __slots__ = ("active", "number", "size")

    def __init__(self, size: int):
        self.size, self.number, self.active = size, _next_number(), True


Levels = tuple[Level, ...]


class Batched:
    """An array that shows the shape of one example.

    Attributes:
        examples: the array of all, with a hidden axis in front for each level: as long as the level has
            examples, or 1 where all are the same.
        levels: in the order of their numbers.
    """

    __slots__ = ("examples", "levels")
    __array_ufunc__ = None  # so that `ndarray * batched` asks the batched one
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    space: "ClassVar[Batching]"

    def __init__(self, examples: Array, levels: Levels):
        self.examples = examples
        self.levels = levels

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.examples.shape[len(self.levels) :]

    @property
    def ndim(self) -> int:
        """How many axes one example has."""
        return self.examples.ndim - len(self.levels)

    @property
    def size(self) -> int:
        """How many elements one example has."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> Any:
        """The type of the elements."""
        return self.examples.dtype

    @property
    def device(self) -> "Batched":
        """What tells a creation function to make a batched array (see `backend.create`): the array itself."""
        return self

    @property
    def mT(self) -> Array:  # noqa: N802
        """The last two axes swapped."""
        return self.space.matrix_transpose(self)

    def __getitem__(self, key: Any) -> Array:
        array, levels, key, order = _address(self, key)
        part = beyond.read(self.space.base, array, key)
        return self.space.wrap(part if order is None else self.space.base.permute_dims(part, order), levels)

    def __setitem__(self, key: Any, value: Any) -> None:
        beyond.write(self.space.base, *self.write_to(key, value))

    def write_to(self, key: Any, value: Any) -> tuple[Array, Any, Any]:
        """The array, the key and the value with which `array[key] = value` writes x[key] of all examples."""
        xp = self.space.base
        parts = key if isinstance(key, tuple) else (key,)
        levels = union([self.levels, *map(levels_of, (*parts, value))])
        sizes = tuple(level.size for level in levels)
        if self.levels != levels or self.examples.shape[: len(levels)] != sizes:  # they come to differ
            array = align(xp, self.examples, self.levels, levels, self.ndim)
            self.examples = xp.asarray(xp.broadcast_to(array, sizes + self.shape), copy=True)
            self.levels = levels
        array, _, key, order = _address(self, key)
        if is_array(value):
            ndim = beyond.read(xp, array, key).ndim if order is None else len(order)
            value = align(xp, *split(value), levels, ndim - len(levels))
            if order is not None:
                value = xp.permute_dims(value, tuple(order.index(i) for i in range(ndim)))
        return array, key, value

    def take_in(self, x: Any) -> Any:
        """x, a tensor or an array, in the levels of this array too."""
        return (self.space.lift([x, self]) or [x])[0]

    def moved(self, name: str) -> Array:
        """This array on another backend."""
        return self.space.moved(self, name)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            "inside vmap a tensor stands for every example at once and has no single value for bool(), "
            "item(), numpy() and the like; choose with mg.where(condition, x, y), and read values outside"
        )

    __bool__ = __int__ = __float__ = __index__ = __len__ = __iter__ = __array__ = __dlpack__ = _refuse


def levels_of(value: Any) -> Levels | None:
    """The levels of an array: none of a plain one. None for what is not an array."""
    if isinstance(value, Batched):
        return value.levels
    return None if of(value) is None else ()


def union(groups: Iterable[Levels | None]) -> Levels:
    """All levels in `groups`, in order."""
    found: Levels = ()
    for levels in groups:
        if not found:
            found = levels or ()
        elif levels and levels != found:
            found = tuple(sorted({*found, *levels}, key=lambda level: level.number))
    return found


def split(value: Any) -> tuple[Any, Levels]:
    """The array of all examples, and its levels."""
    return (value.examples, value.levels) if isinstance(value, Batched) else (value, ())


def differing(value: Array) -> tuple[Array, Levels]:
    """The same without the levels in which all examples are the same."""
    array, levels = split(value)
    kept = [i for i in range(len(levels)) if array.shape[i] != 1]
    if len(kept) < len(levels):
        array = value.space.base.reshape(array, tuple(array.shape[i] for i in kept) + value.shape)
    return array, tuple(levels[i] for i in kept)


def align(xp: Namespace, array: Array, own: Levels, levels: Levels, ndim: int) -> Array:
    """`array`, with axes of length 1 for those of `levels` that it lacks, and for `ndim` visible axes."""
    if own == levels and array.ndim == len(own) + ndim:
        return array
    sizes = dict(zip(own, array.shape, strict=False))
    visible = array.shape[len(own) :]
    shape = (*(sizes.get(level, 1) for level in levels), *[1] * (ndim - len(visible)), *visible)
    return xp.reshape(array, shape)


# --- indexing --------------------------------------------------------------------------------------


def is_array(part: Any) -> bool:
    """Whether it is an array, batched or plain."""
    return of(part) is not None


def _is_mask(part: Any) -> bool:
    return is_array(part) and is_bool(part.dtype)


def _address(x: Batched, key: Any) -> tuple[Array, Levels, Any, tuple[int, ...] | None]:
    """How to read x[key] of all examples: an array, the levels of the result, a key into that array, and
    the order that the axes of what is read belong in, unless they have it.
    """
    xp = x.space.base
    key = key if isinstance(key, tuple) else (key,)
    arrays = [split(part) for part in key if is_array(part)]
    if not arrays:
        return x.examples, x.levels, (*[slice(None)] * len(x.levels), *key), None
    levels = union([x.levels, *(own for _, own in arrays)])
    parts = _spelled_out(x, key)
    # The hidden axes are read by integer arrays, too. So the axes that such arrays make come first in what is
    # read. They belong where the given ones stand, or behind the hidden ones if others stand between those.
    chosen = [i for i, part in enumerate(parts) if not (part is None or isinstance(part, slice))]
    ahead = chosen[0] if chosen[-1] - chosen[0] == len(chosen) - 1 else 0
    made = max(parts[i].ndim for i in chosen if is_array(parts[i]))
    for i in chosen:
        if is_array(parts[i]):
            parts[i] = align(xp, *split(parts[i]), levels, made)
    array = align(xp, x.examples, x.levels, levels, x.ndim)
    n = len(levels)
    hidden = [
        xp.reshape(create(xp, "arange", array.shape[i], like=array), (-1, *[1] * (n - 1 - i + made)))
        for i in range(n)
    ]
    rest = range(n + made, n + made + len(parts) - len(chosen))
    order = (*range(n), *rest[:ahead], *range(n, n + made), *rest[ahead:])
    return array, levels, (*hidden, *parts), order


def _spelled_out(x: Batched, key: tuple[Any, ...]) -> list[Any]:
    """`key` with slices in place of `...`, and integer arrays in place of masks."""
    xp = x.space.base
    lengths = [part.ndim if _is_mask(part) else int(part is not None and part is not ...) for part in key]
    missing = [slice(None)] * (x.ndim - sum(lengths))
    if sum(lengths) > x.ndim:
        raise IndexError(f"too many indices for an array of {x.ndim} axes")
    if not any(part is ... for part in key):
        key, lengths = (*key, ...), [*lengths, 0]
    parts: list[Any] = []
    axis = 0
    for part, length in zip(key, lengths, strict=True):
        if part is ...:
            parts += missing
            axis += len(missing)
        elif isinstance(part, bool) or (_is_mask(part) and differing(part)[1]):
            raise NotImplementedError(
                "vmap: a mask that differs between examples would give each of them a shape of its own; "
                "choose with mg.where(mask, x, y)"
            )
        elif not _is_mask(part):
            parts.append(part)
        elif part.shape != x.shape[axis : axis + length]:
            raise IndexError(f"a mask of shape {part.shape} does not fit an array of shape {x.shape}")
        else:
            parts += xp.nonzero(differing(part)[0])
        axis += length
    return parts


# --- operators -------------------------------------------------------------------------------------


def _operator(name: str, swapped: bool = False) -> Any:
    if swapped:
        return lambda self, other: getattr(self.space, name)(other, self)
    return lambda self, *other: getattr(self.space, name)(self, *other)


_UNARY_AND_COMPARISONS = (
    "eq:equal ne:not_equal lt:less le:less_equal gt:greater ge:greater_equal "
    "neg:negative pos:positive abs:abs invert:bitwise_invert"
)
_SWAPPABLE = (
    "add:add sub:subtract mul:multiply truediv:divide floordiv:floor_divide mod:remainder pow:pow "
    "matmul:matmul and:bitwise_and or:bitwise_or xor:bitwise_xor lshift:bitwise_left_shift "
    "rshift:bitwise_right_shift"
)
for _pair in f"{_UNARY_AND_COMPARISONS} {_SWAPPABLE}".split():
    _symbol, _name = _pair.split(":")
    setattr(Batched, f"__{_symbol}__", _operator(_name))
    if _pair in _SWAPPABLE.split():
        setattr(Batched, f"__r{_symbol}__", _operator(_name, swapped=True))
