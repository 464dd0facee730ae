"""Which array library computes: NumPy on the CPU, or CuPy on a GPU.

Three things are here: the table of backends, the switch that says where *new* tensors are made, and
the moving of arrays between backends. Operations never ask the switch: they run where their arrays
live, so CPU and GPU tensors can be used side by side.

CuPy is imported when it is first asked for, never before.
"""

import operator
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

import numpy

from .atomic import holding

Array: TypeAlias = Any
"""An array of any backend: `numpy.ndarray`, `cupy.ndarray`, …"""

Namespace: TypeAlias = Any
"""A module of array functions under the names of the Array API standard."""

SCALARS = (bool, int, float)
"""Python's own numbers: they take the dtype of the array that they meet (NumPy's NEP 50)."""


class Backend(NamedTuple):
    """An array library, and the two ways across to NumPy's arrays."""

    name: str
    xp: Namespace
    array: type
    from_numpy: Callable[[numpy.ndarray], Array]
    to_numpy: Callable[[Array], numpy.ndarray]


def _load_cupy() -> Backend:
    try:
        import cupy  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "the 'cupy' backend needs CuPy: pip install 'minigrad[cuda12x]' or 'minigrad[cuda13x]', "
            "whichever CUDA version your driver supports"
        ) from error
    # CuPy imports without a GPU too, and fails only at the first array.
    if not cupy.cuda.is_available():
        raise RuntimeError(
            "the 'cupy' backend needs a GPU: CuPy is installed, but it finds no CUDA device or no "
            "driver (does `nvidia-smi` list a GPU?); go on with the 'numpy' backend"
        )
    return Backend("cupy", cupy, cupy.ndarray, cupy.asarray, cupy.asnumpy)


_loaders: dict[str, Callable[[], Backend]] = {"cupy": _load_cupy}
_loaded: dict[str, Backend] = {}
_by_type: dict[type, Backend] = {}


def register(backend: Backend) -> None:
    """Add a backend of your own: any namespace that conforms to the Array API standard.

    What the ops use beyond the standard is in `ops/beyond.py`: where a namespace lacks it, a slower
    fallback serves.
    """
    _loaded[backend.name] = backend
    _by_type[backend.array] = backend


def register_arrays(backend: Backend) -> None:
    """Let operations find `backend` by its arrays: batched ones, that hold those of the one of this name."""
    _by_type[backend.array] = backend


def plain(array: Array) -> Array:
    """`array` itself; or, of one inside `vmap`, that of all examples."""
    return getattr(array, "examples", array)


_BITS = {numpy.dtype(f"f{n}"): numpy.dtype(f"i{n}") for n in (2, 4, 8)}


def _where(condition: Any, x: Any, y: Any) -> Any:
    """NumPy's `where`. That branches at each element, which takes ten times as long if the processor cannot
    foresee the branches; so of large float arrays the bits are chosen, by arithmetic."""
    if type(condition) is not numpy.ndarray or condition.size < 8192 or condition.dtype.kind != "b":
        return numpy.where(condition, x, y)
    if isinstance(y, numpy.ndarray) and y.dtype in _BITS and type(x) is float:
        x = numpy.asarray(x, y.dtype)
    bits = _BITS.get(x.dtype) if hasattr(x, "dtype") else None
    if bits is None or not hasattr(y, "dtype") or x.dtype != y.dtype:
        return numpy.where(condition, x, y)
    mask = -condition.astype(bits)  # all ones where true
    return (y.view(bits) ^ ((x.view(bits) ^ y.view(bits)) & mask)).view(x.dtype)


# NumPy's namespace, but for four functions that nets live on. Its sum, max and min come to the same calls,
# after detours that take as long as the sum over a small batch.
numpy_namespace: Namespace = SimpleNamespace(**vars(numpy))
numpy_namespace.sum = lambda x, axis=None, keepdims=False: numpy.add.reduce(x, axis=axis, keepdims=keepdims)
numpy_namespace.max = lambda x, axis=None, keepdims=False: numpy.maximum.reduce(
    x, axis=axis, keepdims=keepdims
)
numpy_namespace.min = lambda x, axis=None, keepdims=False: numpy.minimum.reduce(
    x, axis=axis, keepdims=keepdims
)
numpy_namespace.where = _where

register(Backend("numpy", numpy_namespace, numpy.ndarray, numpy.asarray, numpy.asarray))


def get(name: str) -> Backend:
    """The backend called `name`, imported now if it was not yet.

    Raises:
        ValueError: there is no such backend.
        ImportError: its package is not installed; the message names the extra to install.
        RuntimeError: CuPy is installed, but there is no GPU or no driver.
    """
    if name not in _loaded:
        if name not in _loaders:
            raise ValueError(f"unknown backend {name!r}: choose from {sorted({*_loaders, *_loaded})}")
        register(_loaders[name]())
    return _loaded[name]


def available() -> list[str]:
    """The names of the backends that can be used on this machine; CuPy is imported to know."""
    for name in _loaders:
        with suppress(ImportError, RuntimeError):
            get(name)
    return list(_loaded)


def of(value: object) -> Backend | None:
    """The backend whose array `value` is; None for anything else."""
    found = _by_type.get(type(value))
    if found is None:
        if isinstance(value, (numpy.ndarray, numpy.generic)):  # subclasses, and NumPy's scalars
            return _loaded["numpy"]
        if type(value).__module__.partition(".")[0] in _loaders:  # made by the user, not by the switch
            get(type(value).__module__.partition(".")[0])
            found = _by_type.get(type(value))
    return found


def namespace(op: str, values: list[Any]) -> Namespace:
    """The namespace of the arrays among `values`, the arguments of `op`.

    Inside `vmap` it is that of the batched ones, which takes plain arrays too.

    Raises:
        ValueError: they live on different backends.
        TypeError: there is no array among them.
    """
    found: Backend | None = None
    first: Any = None
    for value in values:
        its = of(value)
        if its is None:
            continue
        if found is None:
            found, first = its, value
        elif its.name == found.name:
            found = its if found is _loaded[found.name] else found
        else:
            raise ValueError(
                f"{op}: its inputs live on different devices, {found.name!r} {tuple(first.shape)} and "
                f"{its.name!r} {tuple(value.shape)}: move one of them with .to({found.name!r}) or "
                f".to({its.name!r})"
            )
    if found is None:
        kinds = ", ".join(type(value).__name__ for value in values)
        raise TypeError(f"{op}: expected a tensor or an array, got {kinds}; mg.tensor(...) makes one")
    return found.xp


# --- the switch ------------------------------------------------------------------------------------

_default = os.environ.get("MINIGRAD_BACKEND") or "numpy"
_override: ContextVar[str | None] = ContextVar("minigrad.backend", default=None)


def backend() -> str:
    """The name of the backend on which new tensors are made: `'numpy'` unless it was changed.

    The environment variable `MINIGRAD_BACKEND` sets what a process begins with.
    """
    return _override.get() or _default


def set_backend(name: str) -> None:
    """Make new tensors on `name` (`'numpy'` or `'cupy'`) from here on, in the whole process.

    Raises `ValueError`, `ImportError` or `RuntimeError` where that backend cannot be had (see `get`).
    """
    global _default
    _default = get(name).name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Make new tensors on `name` inside a `with` block, in this thread or task alone.

    >>> import minigrad as mg
    >>> with mg.use_backend("numpy"):
    ...     mg.zeros(2).device
    'numpy'
    """
    with holding(_override, get(name).name):
        yield


def current() -> Backend:
    """The backend on which new tensors are made."""
    return get(backend())


vmap_depth: ContextVar[int] = ContextVar("minigrad.vmap_depth", default=0)
"""How many functions that `vmap` made are running, one inside the other."""


# --- moving and converting --------------------------------------------------------------------------


def move(array: Array, name: str) -> Array:
    """`array` on the backend called `name`: itself if it is there already, else a copy."""
    source = of(array)
    assert source is not None
    if plain(array) is not array:
        return array.moved(name)
    return array if source.name == name else get(name).from_numpy(source.to_numpy(array))


def cast(xp: Namespace, array: Array, dtype: Any) -> Array:
    """`array` as `dtype`: by the method, which NumPy, CuPy and tensors have, or the standard's function."""
    return array.astype(dtype) if hasattr(array, "astype") else xp.astype(array, dtype)


def in_a_row(op: str, arrays: list[Array]) -> Array:
    """The elements of all `arrays`, which live on one device, as an array of one axis; a copy if several."""
    xp = namespace(op, arrays)
    rows = [xp.reshape(array, (-1,)) for array in arrays]
    return rows[0] if len(rows) == 1 else xp.concat(rows)


def is_floating(dtype: Any) -> bool:
    """Whether `dtype` is one of real floating-point numbers: these alone can carry gradients."""
    try:
        return numpy.dtype(dtype).kind == "f"
    except TypeError:  # a registered namespace may have dtype objects of its own
        return "float" in str(dtype)


def is_bool(dtype: Any) -> bool:
    """Whether `dtype` is that of bools."""
    return "bool" in str(dtype)


def is_integer(dtype: Any) -> bool:
    """Whether `dtype` is one of integers, signed or not."""
    return dtype.kind in "iu" if isinstance(dtype, numpy.dtype) else "int" in str(dtype)


def refuse_dtype(op: str, dtype: Any) -> None:
    """Raise `TypeError` for what tensors cannot hold: complex numbers, strings, objects."""
    if not is_floating(dtype) and not any(kind in str(dtype) for kind in ("int", "bool")):
        raise TypeError(f"{op}: cannot hold {dtype}; tensors are of bools, integers or real floats")


def warn(message: str, category: type[Warning]) -> None:
    """Warn, and point to the line outside this package that led here."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("minigrad."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level - 1)


def integer(op: str, name: str, value: Any) -> int:
    """`value`, the setting `name` of `op`, as Python's integer. Raises `TypeError` if it is none."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} must be an integer, got {type(value).__name__} {value!r}") from None


def integers(op: str, name: str, value: Any) -> tuple[int, ...]:
    """`value`, one integer or several, as a tuple of Python's."""
    return tuple(integer(op, name, v) for v in (value if hasattr(value, "__iter__") else (value,)))


def check_axis(op: str, axis: int, ndim: int) -> int:
    """`axis` counted from the front. Raises `IndexError` if there is no such axis."""
    if type(axis) is not int:
        axis = integer(op, "axis", axis)
    if not -ndim <= axis < ndim:
        raise IndexError(f"{op}: there is no axis {axis} in an input of {ndim} axes")
    return axis % ndim


def check_axes(op: str, axis: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    """The axes that `axis` names: all of them if it is None. Raises `ValueError` if it names one twice."""
    if axis is None:
        return tuple(range(ndim))
    if not isinstance(axis, tuple):
        return (check_axis(op, axis, ndim),)
    axes = tuple(check_axis(op, a, ndim) for a in axis)
    if len(set(axes)) < len(axes):
        raise ValueError(f"{op}: axis={axis} names an axis twice")
    return axes


def create(xp: Namespace, function: str, *args: Any, like: Array, **kwargs: Any) -> Array:
    """What the creation function of that name makes, on the device of the array `like`."""
    if xp is numpy_namespace:
        return getattr(xp, function)(*args, **kwargs)
    device = like.device
    if hasattr(device, "__enter__"):  # CuPy: not an argument but a context
        with device:
            return getattr(xp, function)(*args, **kwargs)
    return getattr(xp, function)(*args, device=device, **kwargs)
