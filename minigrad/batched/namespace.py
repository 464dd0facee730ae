"""The Array API standard's functions on batched arrays: each is that of the array library below, on the
arrays of all examples. Axes are counted behind the hidden ones, and broadcasting begins there.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

from ..backend import Array, Backend, cast, check_axis, create, move, numpy_namespace, of, register_arrays
from ..ops import beyond
from ..ops.products import LETTERS
from .array import Batched, Levels, align, differing, is_array, split, union

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

    def moved(self, x: Batched, name: str) -> Array:
        """x on another backend."""
        examples = move(x.examples, name)
        return batching(examples).wrap(examples, x.levels)

    def _aligned(self, values: Iterable[Any], whole: bool = False) -> tuple[Levels, list[Any]]:
        """All levels of the arrays among `values`, and these with equally many axes, each in its place.

        In `whole` arrays the hidden axes are as long as their levels.
        """
        parts = [split(value) for value in values]
        levels = union(own for _, own in parts)
        ndim = max(array.ndim - len(own) for array, own in parts if is_array(array))
        arrays = [
            align(self.base, array, own, levels, ndim) if is_array(array) else array for array, own in parts
        ]
        if whole:
            sizes, n = tuple(level.size for level in levels), len(levels)
            arrays = [
                self.base.broadcast_to(array, sizes + array.shape[n:]) if is_array(array) else array
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
            array, levels = split(x)
            axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
            axes = tuple(len(levels) + check_axis(name, a, x.ndim) for a in axes)
            return self.wrap(function(array, axis=axes, **settings), levels)

        return call

    def _along_an_axis(self, name: str, function: Callable[..., Array]) -> Callable[..., Array]:
        def call(x: Array, axis: int | None = None, keepdims: bool = False, **settings: Any) -> Array:
            ndim = x.ndim
            x = self.reshape(x, (-1,)) if axis is None else x
            array, levels = split(x)
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
        array, levels = split(x)
        if isinstance(device, Batched):
            return self.wrap(create(self.base, "asarray", array, like=device.examples, **settings), levels)
        return self.wrap(self.base.asarray(array, **settings), levels)

    def astype(self, x: Array, dtype: Any) -> Array:
        """x converted."""
        array, levels = split(x)
        return self.wrap(cast(self.base, array, dtype), levels)

    def reshape(self, x: Array, shape: Any) -> Array:
        """The same elements of each example in another shape."""
        array, levels = split(x)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if -1 in shape and 0 not in shape:
            shape = tuple(x.size // -math.prod(shape) if n == -1 else n for n in shape)
        return self.wrap(self.base.reshape(array, array.shape[: len(levels)] + shape), levels)

    def broadcast_to(self, x: Array, shape: Any) -> Array:
        """x repeated up to `shape`."""
        array, levels = split(x)
        if len(shape) < x.ndim:
            raise ValueError(f"shape {x.shape} cannot be broadcast to {shape}")
        array = align(self.base, array, levels, levels, len(shape))
        return self.wrap(self.base.broadcast_to(array, array.shape[: len(levels)] + tuple(shape)), levels)

    def permute_dims(self, x: Array, axes: Any) -> Array:
        """The axes in another order."""
        array, levels = split(x)
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
        array, levels = split(x)
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
        array, levels = split(x)
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
        rows, levels = differing(x1)
        if levels:
            raise NotImplementedError("vmap: 'searchsorted' needs an x1 that all examples share")
        array, levels = split(x2)
        return self.wrap(self.base.searchsorted(rows, array, **settings), levels)

    def matmul(self, x: Array, y: Array) -> Array:
        """The matrix product. A matrix that all examples share is multiplied by those of all in one go."""
        (a, of_x), (b, of_y) = differing(x), differing(y)
        levels = union([split(x)[1], split(y)[1]])
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

    def einsum(self, subscripts: str, *operands: Array, optimize: Any = None) -> Array:
        """The sum of products; `subscripts` are letters alone, with their output spelled out."""
        parts = [differing(x) for x in operands]
        levels = union(own for _, own in parts)
        letters = dict(zip(levels, (c for c in LETTERS if c not in subscripts), strict=False))
        terms, _, output = subscripts.partition("->")
        inputs = (
            "".join(letters[level] for level in own) + term
            for term, (_, own) in zip(terms.split(","), parts, strict=True)
        )
        expression = f"{','.join(inputs)}->{''.join(letters.values())}{output}"
        out = beyond.einsum(self.base, expression, *(array for array, _ in parts))
        return self._declared(out, levels, union(split(x)[1] for x in operands))

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
        self._base = space.base

    def __call__(self, x: Array, y: Array) -> Array:
        return self._call(x, y)

    def at(self, target: Array, key: Any, values: Array) -> None:
        """target[key] += values of each example."""
        written = target.write_to(key, values) if isinstance(target, Batched) else (target, key, values)
        beyond.add_at(self._base, *written)


class _Linalg:
    """The functions that take stacks of matrices: those of all examples are one stack."""

    def __init__(self, space: Batching):
        self._space = space

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._space.base.linalg, name)
        make = self._space._of_matrices if name in _OF_MATRICES.split() else _only_plain
        return make(name, function)


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
