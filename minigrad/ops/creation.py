"""Making tensors: from data, or full of one value.

`dtype` defaults to the default float dtype (float32, see `set_default_dtype`), `device` to the current
backend. `requires_grad=True` makes the tensor a leaf that gathers gradients.
"""

from typing import Any

import numpy

from ..autograd import Variable, require_grad, wrap
from ..backend import SCALARS, Backend, cast, current, get, is_floating, move, of, refuse_dtype
from ..primitive import primitive

_default_dtype = numpy.dtype(numpy.float32)


def default_dtype() -> numpy.dtype:
    """The dtype of tensors made from Python floats: float32, unless it was changed."""
    return _default_dtype


def set_default_dtype(dtype: Any) -> None:
    """Make tensors from Python floats, and those that creation functions fill, have this float dtype."""
    global _default_dtype
    if not is_floating(dtype):
        raise TypeError(f"set_default_dtype: needs a floating-point dtype, got {dtype}")
    _default_dtype = numpy.dtype(dtype)


def _finish(array: Any, requires_grad: bool) -> Any:
    result = wrap(array)
    if requires_grad:
        require_grad(result)
    return result


def _read(op: str, data: Any, dtype: Any) -> numpy.ndarray:
    """Numbers, nested lists of them, and whatever else NumPy can read, as a NumPy array."""
    if hasattr(data, "mask"):
        raise TypeError(f"{op}: a masked array would lose its mask; fill it first, as with .filled(0)")
    try:
        array = numpy.asarray(data)
    except ValueError as error:
        raise ValueError(f"{op}: {error}") from error
    refuse_dtype(op, array.dtype)
    first = data
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    from_python = isinstance(first, (float, int, list, tuple)) and not isinstance(first, numpy.generic)
    return (
        array.astype(_default_dtype) if from_python and dtype is None and array.dtype.kind == "f" else array
    )


def _convert(op: str, data: Any, dtype: Any, device: str | None, copy: bool | None) -> Any:
    """`data` as an array of that dtype on that device, copied if `copy`, or if there is no other way."""
    given = data._data if isinstance(data, Variable) else data
    source = of(given)
    if source is None or source.name == "numpy":
        array = _read(op, given, dtype)
        device = device or ("numpy" if isinstance(data, Variable) else current().name)
    else:
        array = given
    array = move(array, device) if device else array
    backend = of(array)
    assert backend is not None
    if dtype is not None and array.dtype != dtype:
        refuse_dtype(op, dtype)
        return cast(backend.xp, array, dtype)
    moved = source is not None and source is not backend
    fresh = moved or isinstance(given, (*SCALARS, list, tuple, range))
    return backend.xp.asarray(array, copy=True) if copy and not fresh else array


def tensor(data: Any, dtype: Any = None, requires_grad: bool = False, device: str | None = None) -> Any:
    """A new tensor with a copy of `data`.

    Args:
        data: a number, nested lists of numbers, an array or a tensor. Python floats become the default
            float dtype, Python integers int64 and bools bool; arrays keep their dtype.
        dtype: convert to this instead.
        requires_grad: gather gradients in `.grad`; for floating-point dtypes.
        device: `'numpy'` or `'cupy'`; by default the current backend, but a tensor, or an array that is
            on a GPU, stays where it is.

    Raises:
        TypeError: complex numbers, strings and objects; `requires_grad` with integers or bools.
        ValueError: nested lists of unequal lengths; an unknown device.

    >>> import minigrad as mg
    >>> mg.tensor([[1.0, 2.0], [3.0, 4.0]])
    tensor([[1., 2.],
            [3., 4.]], dtype=float32, device=numpy)
    """
    return _finish(_convert("tensor", data, dtype, device, True), requires_grad)


def asarray(obj: Any, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Any:
    """`obj` as a tensor: a tensor itself where nothing changes (gradients flow), an array without a copy.

    An array so shared must not be written to while the tensor, or anything computed from it, is in use.
    `copy=True` copies always (`tensor` does too).
    """
    if isinstance(obj, Variable) and not copy:
        tensor_: Any = obj
        tensor_ = tensor_ if dtype is None else tensor_.to(dtype)
        return tensor_ if device is None else tensor_.to(device)
    return _finish(_convert("asarray", obj, dtype, device, copy), False)


def _make(function: str, args: tuple, dtype: Any, requires_grad: bool, device: str | None) -> Any:
    if isinstance(dtype, int):
        raise TypeError(f"{function}: a shape of several axes is a tuple, as in {function}((2, 3))")
    refuse_dtype(function, dtype if dtype is not None else int)
    backend: Backend = get(device) if device else current()
    return _finish(getattr(backend.xp, function)(*args, dtype=dtype), requires_grad)


def zeros(shape, dtype=None, requires_grad=False, device=None) -> Any:
    """A tensor of that shape (an integer or a tuple) full of 0."""
    return _make("zeros", (shape,), dtype or _default_dtype, requires_grad, device)


def ones(shape, dtype=None, requires_grad=False, device=None) -> Any:
    """A tensor of that shape (an integer or a tuple) full of 1."""
    return _make("ones", (shape,), dtype or _default_dtype, requires_grad, device)


def full(shape, fill_value, dtype=None, requires_grad=False, device=None) -> Any:
    """A tensor of that shape full of `fill_value`, whose type (bool, integer, float) sets the dtype."""
    if dtype is None:
        dtype = numpy.asarray(fill_value).dtype if not isinstance(fill_value, float) else _default_dtype
    return _make("full", (shape, fill_value), dtype, requires_grad, device)


def empty(shape, dtype=None, requires_grad=False, device=None) -> Any:
    """A tensor of that shape with whatever its memory holds."""
    return _make("empty", (shape,), dtype or _default_dtype, requires_grad, device)


def arange(
    start: float, stop: float | None = None, step: float = 1, dtype=None, requires_grad=False, device=None
) -> Any:
    """The numbers from `start` up to but without `stop`; one argument alone is `stop`.

    Integers give int64, floats the default float dtype.
    """
    if stop is None:
        start, stop = 0, start
    if dtype is None and any(isinstance(v, float) for v in (start, stop, step)):
        dtype = _default_dtype
    return _make("arange", (start, stop, step), dtype, requires_grad, device)


def linspace(start, stop, num, dtype=None, requires_grad=False, device=None) -> Any:
    """`num` numbers at equal distances from `start` to `stop`, both included."""
    return _make("linspace", (start, stop, num), dtype or _default_dtype, requires_grad, device)


def eye(n_rows, n_cols=None, dtype=None, requires_grad=False, device=None) -> Any:
    """A matrix with 1 on its diagonal and 0 elsewhere; square without `n_cols`."""
    return _make("eye", (n_rows, n_cols), dtype or _default_dtype, requires_grad, device)


@primitive()
def zeros_like(xp, x, dtype=None) -> Any:
    """Zeros of the shape, device and (unless given) dtype of x."""
    return xp.zeros_like(x, dtype=dtype)


@primitive()
def ones_like(xp, x, dtype=None) -> Any:
    """Ones of the shape, device and (unless given) dtype of x."""
    return xp.ones_like(x, dtype=dtype)


@primitive()
def full_like(xp, x, fill_value, dtype=None) -> Any:
    """`fill_value` repeated, in the shape, device and (unless given) dtype of x."""
    return xp.full_like(x, fill_value, dtype=dtype)


@primitive()
def empty_like(xp, x, dtype=None) -> Any:
    """Uninitialised memory of the shape, device and (unless given) dtype of x."""
    return xp.empty_like(x, dtype=dtype)
