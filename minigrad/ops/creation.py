"""Making tensors: from data, or full of one value.

`dtype` defaults to the default float dtype (float32, see `set_default_dtype`), `device` to the current
backend. `requires_grad=True` makes the tensor a leaf that gathers gradients.
"""

from typing import Any

import numpy

from ..autograd import Variable, require_grad, wrap
from ..backend import SCALARS, Backend, cast, current, get, is_floating, move, of, refuse_dtype
from ..primitive import expect_arrays, primitive
from .dtypes import default_dtype, numpy_dtype, result_type
from .elementwise import astype


def _finish(array: Any, requires_grad: bool) -> Any:
    result = wrap(array)
    if requires_grad:
        require_grad(result)
    return result


def _read(op: str, data: Any, dtype: Any, copy: bool | None) -> numpy.ndarray:
    """Numbers, nested lists of them, and whatever else NumPy can read, as a NumPy array."""
    if hasattr(data, "mask"):
        raise TypeError(f"{op}: a masked array would lose its mask; fill it first, as with .filled(0)")
    first = data
    for _ in range(65):  # more than NumPy has axes: a list may hold itself
        if isinstance(first, (list, tuple)) and first:
            first = first[0]
    from_python = isinstance(first, (float, int, list, tuple)) and not isinstance(first, numpy.generic)
    try:
        array = numpy.asarray(data, copy=False if copy is False else None)
        refuse_dtype(op, array.dtype)
        if from_python and dtype is not None and numpy_dtype(op, dtype).kind in "iu":
            return numpy.asarray(data, numpy_dtype(op, dtype))  # refuses numbers that it cannot hold
    except (ValueError, OverflowError) as error:
        raise type(error)(f"{op}: {error}") from error
    if not array.dtype.isnative:  # as from a file: nothing else here knows of byte orders
        if copy is False:
            raise ValueError(
                f"{op}: {array.dtype} has another byte order: it needs a copy, which is forbidden"
            )
        array = array.astype(array.dtype.newbyteorder("="))
    return (
        array.astype(default_dtype()) if from_python and dtype is None and array.dtype.kind == "f" else array
    )


def _convert(op: str, data: Any, dtype: Any, device: str | None, copy: bool | None) -> Any:
    """`data` as an array of that dtype on that device, copied if `copy`, or if there is no other way."""
    given = data._data if isinstance(data, Variable) else data
    source = of(given)
    if source is None or source is get("numpy"):
        array = _read(op, given, dtype, copy)
        device = device or ("numpy" if isinstance(data, Variable) else current().name)
    else:
        array = given
    was = of(array), array.dtype
    array = move(array, device) if device else array
    backend = of(array)
    assert backend is not None
    dtype = array.dtype if dtype is None else dtype
    if copy is False:
        _refuse_copy(op, was == (backend, dtype))
    if array.dtype != dtype:
        refuse_dtype(op, dtype)
        return cast(backend.xp, array, dtype)
    moved = source is not None and source is not backend
    fresh = moved or isinstance(given, (*SCALARS, list, tuple, range))
    return backend.xp.asarray(array, copy=True) if copy and not fresh else array


def _refuse_copy(op: str, shares: bool) -> None:
    if not shares:
        raise ValueError(f"{op}: another dtype or device needs a copy, which copy=False forbids")


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
        OverflowError: Python integers that `dtype` cannot hold.

    >>> import minigrad as mg
    >>> mg.tensor([[1.0, 2.0], [3.0, 4.0]])
    tensor([[1., 2.],
            [3., 4.]], dtype=float32, device=numpy)
    """
    return _finish(_convert("tensor", data, dtype, device, True), requires_grad)


def asarray(obj: Any, /, *, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Any:
    """`obj` as a tensor: a tensor itself where nothing changes, an array without a copy.

    An array so shared must not be written to while the tensor, or anything computed from it, is in use.
    Gradients flow back to a tensor through copies and conversions (`tensor` makes a new leaf instead).

    Args:
        obj: what `tensor` takes.
        dtype: convert to this; by default as in `tensor`.
        device: move to this backend; by default as in `tensor`.
        copy: True copies always; False never, and raises `ValueError` where there is no other way.
    """
    if not isinstance(obj, Variable):
        return wrap(_convert("asarray", obj, dtype, device, copy))
    if dtype is None and device is None and not copy:
        return obj
    result: Any = astype(obj, obj._data.dtype if dtype is None else dtype, copy=bool(copy), device=device)
    if copy is False:
        _refuse_copy("asarray", result is obj)
    return result


# By DLPack's numbers for kinds of memory: the CPU's, CUDA's, and the CPU's that is pinned for CUDA.
_BACKENDS = {1: "numpy", 2: "cupy", 3: "numpy"}


def from_dlpack(x: Any, /, *, device: str | None = None, copy: bool | None = None) -> Any:
    """A tensor from an array of another library that has `__dlpack__`, such as torch's, CuPy's or JAX's.

    Where nothing changes it shares the memory, which must then not be written to while the tensor, or
    anything computed from it, is in use.

    Args:
        x: an array that has `__dlpack__` and `__dlpack_device__`. (A tensor is taken as `asarray` does.)
        device: move to this backend; by default the tensor is where x is, on the CPU or a GPU.
        copy: True copies always; False never, and raises `ValueError` where there is no other way.

    Raises:
        TypeError: x has no `__dlpack__`; its dtype is complex, or unknown to NumPy.
        ValueError: it is on a device that no backend reads; or a copy is needed, and forbidden.

    >>> import minigrad as mg, numpy as np
    >>> mg.from_dlpack(np.arange(3))
    tensor([0, 1, 2], dtype=int64, device=numpy)
    """
    if isinstance(x, Variable):
        return asarray(x, device=device, copy=copy)
    if not hasattr(x, "__dlpack_device__"):
        raise TypeError(f"from_dlpack: {type(x).__name__} has no __dlpack__; see asarray and tensor")
    kind = int(x.__dlpack_device__()[0])
    if kind not in _BACKENDS:
        raise ValueError(f"from_dlpack: no backend reads memory of DLPack's device type {kind}")
    array = get(_BACKENDS[kind]).xp.from_dlpack(x)
    return wrap(_convert("from_dlpack", array, None, device or _BACKENDS[kind], copy))


def _make(
    function: str, args: tuple, dtype: Any, requires_grad: bool, device: str | None, **settings: Any
) -> Any:
    if isinstance(dtype, int):
        raise TypeError(f"{function}: a shape of several axes is a tuple, as in {function}((2, 3))")
    for kind in (dtype, *(type(value) for value in args if isinstance(value, complex))):
        refuse_dtype(function, int if kind is None else kind)
    backend: Backend = get(device) if device else current()
    try:
        array = getattr(backend.xp, function)(*args, dtype=dtype, **settings)
    except (TypeError, ValueError, OverflowError, MemoryError) as error:
        kind = next(k for k in (TypeError, ValueError, OverflowError, MemoryError) if isinstance(error, k))
        raise kind(f"{function}: got {', '.join(map(repr, args))}: {error}") from error
    return _finish(array, requires_grad)


def zeros(shape, dtype=None, *, device=None, requires_grad=False) -> Any:
    """A tensor of that shape (an integer or a tuple) full of 0."""
    return _make("zeros", (shape,), dtype or default_dtype(), requires_grad, device)


def ones(shape, dtype=None, *, device=None, requires_grad=False) -> Any:
    """A tensor of that shape (an integer or a tuple) full of 1."""
    return _make("ones", (shape,), dtype or default_dtype(), requires_grad, device)


def empty(shape, dtype=None, *, device=None, requires_grad=False) -> Any:
    """A tensor of that shape with whatever its memory holds."""
    return _make("empty", (shape,), dtype or default_dtype(), requires_grad, device)


def full(shape, fill_value, *, dtype=None, device=None, requires_grad=False) -> Any:
    """A tensor of that shape full of `fill_value`, whose type (bool, integer, float) sets the dtype."""
    if dtype is None:
        dtype = numpy.asarray(fill_value).dtype if not isinstance(fill_value, float) else default_dtype()
    return _make("full", (shape, fill_value), dtype, requires_grad, device)


def arange(
    start: float,
    /,
    stop: float | None = None,
    step: float = 1,
    *,
    dtype=None,
    device=None,
    requires_grad=False,
) -> Any:
    """The numbers from `start` up to but without `stop`; one argument alone is `stop`.

    Integers give int64, floats the default float dtype.
    """
    if stop is None:
        start, stop = 0, start
    if dtype is None and any(isinstance(v, float) for v in (start, stop, step)):
        dtype = default_dtype()
    # In float32 the distance of NumPy's first two numbers, which it repeats, may be far from `step`.
    wide = numpy.float64 if dtype is not None and is_floating(dtype) else dtype
    made = _make("arange", (start, stop, step), wide, False, device)
    return _finish((made if dtype is None else astype(made, dtype, copy=False))._data, requires_grad)


def linspace(start, stop, /, num, *, dtype=None, device=None, endpoint=True, requires_grad=False) -> Any:
    """`num` numbers at equal distances from `start` to `stop`, which is the last one if `endpoint`."""
    dtype = dtype or default_dtype()
    return _make("linspace", (start, stop, num), dtype, requires_grad, device, endpoint=endpoint)


def eye(n_rows, n_cols=None, /, *, k=0, dtype=None, device=None, requires_grad=False) -> Any:
    """A matrix with 1 on its k-th diagonal and 0 elsewhere; square without `n_cols`.

    Diagonals are counted from the main one: those above it are positive.
    """
    return _make("eye", (n_rows, n_cols), dtype or default_dtype(), requires_grad, device, k=k)


# --- like another tensor ---------------------------------------------------------------------------


def _alike(op: str, x: Any, dtype: Any, device: str | None) -> Any:
    """The dtype to give to the array library: None where it is to take that of x itself."""
    expect_arrays(op, x)
    if dtype is not None:
        refuse_dtype(op, dtype)
    return result_type(x) if dtype is None and device is not None else dtype


@primitive()
def _zeros_like(xp, x, dtype) -> Any:
    return xp.zeros_like(x, dtype=dtype)


def zeros_like(x, /, *, dtype=None, device=None) -> Any:
    """Zeros of the shape and (unless given) of the dtype and on the device of x."""
    dtype = _alike("zeros_like", x, dtype, device)
    return _zeros_like(x, dtype) if device is None else zeros(x.shape, dtype, device=device)


@primitive()
def _ones_like(xp, x, dtype) -> Any:
    return xp.ones_like(x, dtype=dtype)


def ones_like(x, /, *, dtype=None, device=None) -> Any:
    """Ones of the shape and (unless given) of the dtype and on the device of x."""
    dtype = _alike("ones_like", x, dtype, device)
    return _ones_like(x, dtype) if device is None else ones(x.shape, dtype, device=device)


@primitive()
def _empty_like(xp, x, dtype) -> Any:
    return xp.empty_like(x, dtype=dtype)


def empty_like(x, /, *, dtype=None, device=None) -> Any:
    """Uninitialised memory of the shape and (unless given) of the dtype and on the device of x."""
    dtype = _alike("empty_like", x, dtype, device)
    return _empty_like(x, dtype) if device is None else empty(x.shape, dtype, device=device)


@primitive()
def _full_like(xp, x, fill_value, dtype) -> Any:
    return xp.full_like(x, fill_value, dtype=dtype)


def full_like(x, /, fill_value, *, dtype=None, device=None) -> Any:
    """`fill_value` repeated, in the shape and (unless given) of the dtype and on the device of x."""
    dtype = _alike("full_like", x, dtype, device)
    if device is None:
        return _full_like(x, fill_value, dtype)
    return full(x.shape, fill_value, dtype=dtype, device=device)
