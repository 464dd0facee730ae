"""Batched arrays: arrays that show the shape of one example, and hold those of many in hidden axes.

They are one more kind of array. The functions here are those of the Array API standard, each computed by
that of the array library below on the arrays of all examples: axes are counted behind the hidden ones,
and broadcasting begins there. So forward functions and gradient rules, which are array code, work on
batches as they are, and no op needs a rule for them. See `vmap`, which makes such arrays.
"""

import math
import string
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, ClassVar

from .backend import (
    Array,
    Backend,
    Namespace,
    cast,
    check_axis,
    create,
    move,
    numpy_namespace,
    of,
    register_arrays,
)

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
        part = array[key]
        return self.space.wrap(part if order is None else self.space.base.permute_dims(part, order), levels)

    def __setitem__(self, key: Any, value: Any) -> None:
        array, key, value = self.write_to(key, value)
        array[key] = value

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
        if _is_array(value):
            ndim = array[key].ndim if order is None else len(order)
            value = align(xp, *_split(value), levels, ndim - len(levels))
            if order is not None:
                value = xp.permute_dims(value, tuple(order.index(i) for i in range(ndim)))
        return array, key, value

    def take_in(self, x: Any) -> Any:
        """x, a tensor or an array, in the levels of this array too."""
        return (self.space.lift([x, self]) or [x])[0]

    def moved(self, name: str) -> Array:
        """This array on another backend."""
        examples = move(self.examples, name)
        return batching(examples).wrap(examples, self.levels)

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


def _split(value: Any) -> tuple[Any, Levels]:
    """The array of all examples, and its levels."""
    return (value.examples, value.levels) if isinstance(value, Batched) else (value, ())


def _differing(value: Array) -> tuple[Array, Levels]:
    """The same without the levels in which all examples are the same."""
    array, levels = _split(value)
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


def _is_array(part: Any) -> bool:
    return of(part) is not None


def _is_mask(part: Any) -> bool:
    return _is_array(part) and "bool" in str(part.dtype)


def _address(x: Batched, key: Any) -> tuple[Array, Levels, Any, tuple[int, ...] | None]:
    """How to read x[key] of all examples: an array, the levels of the result, a key into that array, and
    the order that the axes of what is read belong in, unless they have it.
    """
    xp = x.space.base
    key = key if isinstance(key, tuple) else (key,)
    arrays = [_split(part) for part in key if _is_array(part)]
    if not arrays:
        return x.examples, x.levels, (*[slice(None)] * len(x.levels), *key), None
    levels = union([x.levels, *(own for _, own in arrays)])
    parts = _spelled_out(x, key)
    # The hidden axes are read by integer arrays, too. So the axes that such arrays make come first in what is
    # read. They belong where the given ones stand, or behind the hidden ones if others stand between those.
    chosen = [i for i, part in enumerate(parts) if not (part is None or isinstance(part, slice))]
    ahead = chosen[0] if chosen[-1] - chosen[0] == len(chosen) - 1 else 0
    made = max(parts[i].ndim for i in chosen if _is_array(parts[i]))
    for i in chosen:
        if _is_array(parts[i]):
            parts[i] = align(xp, *_split(parts[i]), levels, made)
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
        elif isinstance(part, bool) or (_is_mask(part) and _differing(part)[1]):
            raise NotImplementedError(
                "vmap: a mask that differs between examples would give each of them a shape of its own; "
                "choose with mg.where(mask, x, y)"
            )
        elif not _is_mask(part):
            parts.append(part)
        elif part.shape != x.shape[axis : axis + length]:
            raise IndexError(f"a mask of shape {part.shape} does not fit an array of shape {x.shape}")
        else:
            parts += xp.nonzero(_differing(part)[0])
        axis += length
    return parts


# --- the namespace ---------------------------------------------------------------------------------

_ELEMENTWISE = (
    "abs acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_invert bitwise_left_shift bitwise_or "
    "bitwise_right_shift bitwise_xor ceil clip copysign cos cosh divide empty_like equal exp expm1 floor "
    "floor_divide full_like greater greater_equal hypot isfinite isinf isnan less less_equal log log10 log1p "
    "log2 logaddexp logical_and logical_not logical_or logical_xor maximum minimum multiply negative "
    "nextafter not_equal ones_like positive pow reciprocal remainder round sign signbit sin sinh sqrt square "
    "subtract tan tanh trunc where zeros_like"
)
_REDUCING = "all any count_nonzero flip max mean min prod std sum var"
_ALONG_AN_AXIS = "argmax argmin argsort cumprod cumsum cumulative_prod cumulative_sum diff sort"
_FILLED = "empty full ones zeros"
_THE_SAME_FOR_ALL = "arange eye linspace"
_OF_MATRICES = "cholesky det eigh eigvalsh inv matrix_power pinv qr slogdet solve svd svdvals"


class Batching:
    """The namespace of batched arrays that hold arrays of one backend, whose namespace is `base`.

    Plain arrays are taken as the same for all examples; given nothing else, the functions give plain arrays.
    What is missing here raises `NotImplementedError`, with its name.
    """

    lift: Callable[[list[Any]], list[Any] | None]
    """The arrays and tensors among some values in the same levels; None if they are. Of `vmap`."""

    def __init__(self, backend: Backend):
        self.base = backend.xp
        self.array = type("Batched", (Batched,), {"__slots__": (), "space": self})
        self.add = _Add(self)
        self.linalg = _Linalg(self)
        register_arrays(backend._replace(xp=self, array=self.array, to_numpy=Batched._refuse))

    def __getattr__(self, name: str) -> Any:
        """What is made from the function of that name in `base`, when it is first asked for."""
        made = function = getattr(self.base, name)
        for names, make in (
            (_ELEMENTWISE, self._elementwise),
            (_REDUCING, self._reducing),
            (_ALONG_AN_AXIS, self._along_an_axis),
            (_FILLED, self._filled),
            (_THE_SAME_FOR_ALL, self._the_same_for_all),
        ):
            if name in names.split():
                made = make(name, function)
        if made is function and callable(function) and not isinstance(function, type):
            made = _only_plain(name, function)
        setattr(self, name, made)
        return made

    def wrap(self, examples: Array, levels: Levels) -> Array:
        """A batched array; without levels the array itself."""
        return self.array(examples, levels) if levels else examples

    def _aligned(self, values: Iterable[Any], whole: bool = False) -> tuple[Levels, list[Any]]:
        """All levels of the arrays among `values`, and these with equally many axes, each in its place.

        In `whole` arrays the hidden axes are as long as their levels.
        """
        parts = [_split(value) for value in values]
        levels = union(own for _, own in parts)
        ndim = max(array.ndim - len(own) for array, own in parts if _is_array(array))
        arrays = [
            align(self.base, array, own, levels, ndim) if _is_array(array) else array for array, own in parts
        ]
        if whole:
            sizes, n = tuple(level.size for level in levels), len(levels)
            arrays = [
                self.base.broadcast_to(array, sizes + array.shape[n:]) if _is_array(array) else array
                for array in arrays
            ]
        return levels, arrays

    # --- functions of one kind ---------------------------------------------------------------------

    def _elementwise(self, name: str, function: Callable[..., Array]) -> Callable[..., Array]:
        def call(*values: Any, **settings: Any) -> Array:
            levels, arrays = self._aligned(values)
            return self.wrap(function(*arrays, **settings), levels)

        return call

    def _reducing(self, name: str, function: Callable[..., Array]) -> Callable[..., Array]:
        def call(x: Array, axis: Any = None, **settings: Any) -> Array:
            array, levels = _split(x)
            axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
            axes = tuple(len(levels) + check_axis(name, a, x.ndim) for a in axes)
            return self.wrap(function(array, axis=axes, **settings), levels)

        return call

    def _along_an_axis(self, name: str, function: Callable[..., Array]) -> Callable[..., Array]:
        def call(x: Array, axis: int | None = None, keepdims: bool = False, **settings: Any) -> Array:
            ndim = x.ndim
            x = self.reshape(x, (-1,)) if axis is None else x
            array, levels = _split(x)
            if name == "argsort" and self.base is numpy_namespace:  # the others' are stable by default
                settings.setdefault("stable", True)
            out = function(array, axis=len(levels) + check_axis(name, axis or 0, x.ndim), **settings)
            out = self.wrap(out, levels)
            if not keepdims:
                return out
            return self.reshape(out, (1,) * ndim) if axis is None else self.expand_dims(out, axis)

        return call

    def _filled(self, name: str, function: Callable[..., Array]) -> Callable[..., Array]:
        def call(shape: Any, *args: Any, device: Any = None, **settings: Any) -> Array:
            if not isinstance(device, Batched):
                return function(shape, *args, **settings)
            shape = shape if isinstance(shape, tuple) else (shape,)
            sizes = tuple(level.size for level in device.levels)
            settings["like"] = device.examples
            return self.wrap(create(self.base, name, sizes + shape, *args, **settings), device.levels)

        return call

    def _the_same_for_all(self, name: str, function: Callable[..., Array]) -> Callable[..., Array]:
        def call(*args: Any, device: Any = None, **settings: Any) -> Array:
            if not isinstance(device, Batched):
                return function(*args, **settings)
            return create(self.base, name, *args, like=device.examples, **settings)

        return call

    # --- functions of their own --------------------------------------------------------------------

    def asarray(self, x: Any, device: Any = None, **settings: Any) -> Array:
        """x itself, or, with `copy=True`, a copy; something else as an array that all examples share."""
        array, levels = _split(x)
        if isinstance(device, Batched):
            return self.wrap(create(self.base, "asarray", array, like=device.examples, **settings), levels)
        return self.wrap(self.base.asarray(array, **settings), levels)

    def astype(self, x: Array, dtype: Any) -> Array:
        """x converted."""
        array, levels = _split(x)
        return self.wrap(cast(self.base, array, dtype), levels)

    def reshape(self, x: Array, shape: Any) -> Array:
        """The same elements of each example in another shape."""
        array, levels = _split(x)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if -1 in shape and 0 not in shape:
            shape = tuple(x.size // -math.prod(shape) if n == -1 else n for n in shape)
        return self.wrap(self.base.reshape(array, array.shape[: len(levels)] + shape), levels)

    def broadcast_to(self, x: Array, shape: Any) -> Array:
        """x repeated up to `shape`."""
        array, levels = _split(x)
        if len(shape) < x.ndim:
            raise ValueError(f"shape {x.shape} cannot be broadcast to {shape}")
        array = align(self.base, array, levels, levels, len(shape))
        return self.wrap(self.base.broadcast_to(array, array.shape[: len(levels)] + tuple(shape)), levels)

    def permute_dims(self, x: Array, axes: Any) -> Array:
        """The axes in another order."""
        array, levels = _split(x)
        n = len(levels)
        order = (*range(n), *(n + check_axis("permute_dims", a, x.ndim) for a in axes))
        return self.wrap(self.base.permute_dims(array, order), levels)

    def matrix_transpose(self, x: Array) -> Array:
        """The last two axes swapped."""
        n = x.ndim
        return self.permute_dims(x, (*range(n - 2), check_axis("matrix_transpose", -1, n), n - 2))

    def expand_dims(self, x: Array, axis: int = 0) -> Array:
        """A new axis of length 1."""
        axis = check_axis("expand_dims", axis, x.ndim + 1)
        return self.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))

    def squeeze(self, x: Array, axis: Any) -> Array:
        """Axes of length 1 taken away."""
        array, levels = _split(x)
        axes = tuple(check_axis("squeeze", a, x.ndim) for a in (axis if isinstance(axis, tuple) else (axis,)))
        xp = self.base
        return self.wrap(xp.squeeze(array, axis=tuple(len(levels) + a for a in axes)), levels)

    def concat(self, arrays: Any, axis: int = 0) -> Array:
        """Arrays joined along an axis."""
        levels, wholes = self._aligned(arrays, whole=True)
        axis = len(levels) + check_axis("concat", axis, arrays[0].ndim)
        return self.wrap(self.base.concat(wholes, axis=axis), levels)

    def stack(self, arrays: Any, axis: int = 0) -> Array:
        """Arrays joined along a new axis."""
        levels, wholes = self._aligned(arrays, whole=True)
        axis = len(levels) + check_axis("stack", axis, arrays[0].ndim + 1)
        return self.wrap(self.base.stack(wholes, axis=axis), levels)

    def roll(self, x: Array, shift: Any, axis: Any = None) -> Array:
        """The elements moved on, and round."""
        if axis is None:
            return self.reshape(self.roll(self.reshape(x, (-1,)), shift, 0), x.shape)
        array, levels = _split(x)
        axes = tuple(len(levels) + a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,)))
        shifts = tuple(shift) if isinstance(shift, (tuple, list)) else (shift,) * len(axes)
        return self.wrap(self.base.roll(array, shifts, axis=axes), levels)

    def tril(self, x: Array, k: int = 0) -> Array:
        """The lower triangles."""
        return self._of_matrices("tril", self.base.tril)(x, k=k)

    def triu(self, x: Array, k: int = 0) -> Array:
        """The upper triangles."""
        return self._of_matrices("triu", self.base.triu)(x, k=k)

    def take(self, x: Array, indices: Array, axis: int) -> Array:
        """The slices at `indices`, which may differ between examples."""
        key = (*[slice(None)] * check_axis("take", axis, x.ndim), indices)
        if not isinstance(x, Batched):  # of a plain array
            x = self.array(x, ())
        return x[key]

    def searchsorted(self, x1: Array, x2: Array, **settings: Any) -> Array:
        """Where x2 belongs in x1, which all examples must share."""
        rows, differing = _differing(x1)
        if differing:
            raise NotImplementedError("vmap: 'searchsorted' needs an x1 that all examples share")
        array, levels = _split(x2)
        return self.wrap(self.base.searchsorted(rows, array, **settings), levels)

    def matmul(self, x: Array, y: Array) -> Array:
        """The matrix product. A matrix that all examples share is multiplied by those of all in one go."""
        (a, of_x), (b, of_y) = _differing(x), _differing(y)
        levels = union([_split(x)[1], _split(y)[1]])
        if not x.ndim or not y.ndim:
            raise ValueError("inputs need at least one axis")
        if y.ndim == 2 and not of_y:
            return self._declared(a @ b, of_x, levels)
        if x.ndim == 2 and y.ndim == 1 and not of_x:
            return self._declared(b @ a.mT, of_y, levels)
        rows = self.expand_dims(x, 0) if x.ndim == 1 else x
        columns = self.expand_dims(y, 1) if y.ndim == 1 else y
        levels, (a, b) = self._aligned([rows, columns])
        out = self.wrap(a @ b, levels)
        out = out[..., 0] if y.ndim == 1 else out
        return out if x.ndim > 1 else out[..., 0] if y.ndim == 1 else out[..., 0, :]

    def einsum(self, subscripts: str, *operands: Array, **settings: Any) -> Array:
        """The sum of products; `subscripts` are letters alone, with their output spelled out."""
        parts = [_differing(x) for x in operands]
        levels = union(own for _, own in parts)
        letters = dict(zip(levels, (c for c in string.ascii_letters if c not in subscripts), strict=False))
        terms, _, output = subscripts.partition("->")
        inputs = (
            "".join(letters[level] for level in own) + term
            for term, (_, own) in zip(terms.split(","), parts, strict=True)
        )
        expression = f"{','.join(inputs)}->{''.join(letters.values())}{output}"
        out = self.base.einsum(expression, *(array for array, _ in parts), **settings)
        return self._declared(out, levels, union(_split(x)[1] for x in operands))

    def _declared(self, out: Array, own: Levels, levels: Levels) -> Array:
        """A result with all of the `levels` of its inputs, as its gradient must have them."""
        return self.wrap(align(self.base, out, own, levels, out.ndim - len(own)), levels)

    def _of_matrices(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **settings: Any) -> Any:
            for x in values:
                check_axis(name, -2, getattr(x, "ndim", 2))
            levels, arrays = self._aligned(values, whole=True)
            out = function(*arrays, **settings)
            if not isinstance(out, tuple):
                return self.wrap(out, levels)
            parts = [self.wrap(part, levels) for part in out]
            return type(out)(*parts) if hasattr(out, "_fields") else tuple(parts)

        return call


def _only_plain(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that has no batched form."""

    def call(*args: Any, **settings: Any) -> Any:
        if any(isinstance(value, Batched) for value in (*args, *settings.values())):
            raise NotImplementedError(f"vmap: {name!r} does not work on batches")
        return function(*args, **settings)

    return call


class _Add:
    """The function `add`, with the `add.at` that NumPy and CuPy have beyond the standard."""

    def __init__(self, space: Batching):
        self._call = space._elementwise("add", space.base.add)
        if hasattr(space.base.add, "at"):
            self._base_at = space.base.add.at
            self.at = self._at

    def __call__(self, x: Array, y: Array) -> Array:
        return self._call(x, y)

    def _at(self, target: Array, key: Any, values: Array) -> None:
        written = target.write_to(key, values) if isinstance(target, Batched) else (target, key, values)
        self._base_at(*written)


class _Linalg:
    """The functions that take stacks of matrices: those of all examples are one stack."""

    def __init__(self, space: Batching):
        self._space = space

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._space.base.linalg, name)
        make = self._space._of_matrices if name in _OF_MATRICES.split() else _only_plain
        return make(name, function)


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


_batchings: dict[type, Batching] = {}


def batching(array: Array) -> Batching:
    """The namespace of the batched arrays that hold arrays such as this one."""
    backend = of(array)
    assert backend is not None
    if isinstance(backend.xp, Batching):
        return backend.xp
    if backend.array not in _batchings:
        _batchings[backend.array] = Batching(backend)
    return _batchings[backend.array]
