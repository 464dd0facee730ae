"""Dtypes and devices: the default ones, and what there is to know of them. (`astype` converts.)

A dtype is NumPy's, such as `mg.float32`, on every backend; a device is the name of a backend. There are
no complex dtypes: whatever is asked to make, to hold or to give one raises `TypeError`.
"""

from typing import Any, NamedTuple

import numpy

from ..autograd import Variable
from ..backend import SCALARS, available, backend, get, is_floating, of, refuse_dtype

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


# --- questions -------------------------------------------------------------------------------------


def numpy_dtype(op: str, given: Any) -> numpy.dtype:
    """The dtype that `given` is, or that it has if it is a tensor or an array, as NumPy's."""
    array = given._data if isinstance(given, Variable) else given
    dtype = array if of(array) is None else array.dtype
    # A registered namespace may have dtype objects of its own, which end in the same names.
    name = dtype if isinstance(dtype, (type, numpy.dtype)) else str(dtype).rpartition(".")[2]
    try:
        return numpy.dtype(name)
    except TypeError as error:
        kind = type(given).__name__
        raise TypeError(f"{op}: expected a dtype, a tensor or an array, got {kind} {given!r}") from error


def _real(op: str, given: Any) -> numpy.dtype:
    dtype = numpy_dtype(op, given)
    refuse_dtype(op, dtype)
    return dtype


def can_cast(from_, to) -> bool:
    """Whether `from_` (a dtype, a tensor or an array) turns into the dtype `to` without losing anything.

    >>> import minigrad as mg
    >>> mg.can_cast(mg.int32, mg.float64), mg.can_cast(mg.float64, mg.float32)
    (True, False)
    """
    return numpy.can_cast(_real("can_cast", from_), _real("can_cast", to))


def result_type(*arrays_and_dtypes) -> numpy.dtype:
    """The dtype of what these dtypes, tensors, arrays and Python numbers give together, as in NumPy.

    Python numbers are weak: beside a float32 tensor they change nothing. By themselves they give what
    tensors made from them have.

    >>> import minigrad as mg
    >>> mg.result_type(mg.int8, mg.uint8), mg.result_type(mg.ones(2), 2.0), mg.result_type(1, 2.0)
    (dtype('int16'), dtype('float32'), dtype('float32'))
    """
    weak = [v for v in arrays_and_dtypes if type(v) in (*SCALARS, complex)]
    dtypes = [_real("result_type", v) for v in arrays_and_dtypes if type(v) not in (*SCALARS, complex)]
    if not weak and not dtypes:
        raise TypeError("result_type: expected at least one dtype, tensor, array or number")
    found = numpy.result_type(*dtypes, *weak)
    refuse_dtype("result_type", found)
    return found if dtypes or not is_floating(found) else default_dtype()


def isdtype(dtype, kind) -> bool:
    """Whether `dtype` is `kind`: a dtype, the name of a kind, or a tuple of such, of which one is enough.

    The names are `'bool'`, `'signed integer'`, `'unsigned integer'`, `'integral'`, `'real floating'`,
    `'complex floating'` (no tensor's dtype is) and `'numeric'`.

    >>> import minigrad as mg
    >>> mg.isdtype(mg.float32, ("integral", mg.float32)), mg.isdtype(mg.bool, "numeric")
    (True, False)
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    kinds = tuple(k if isinstance(k, str) else numpy_dtype("isdtype", k) for k in kinds)
    try:
        return numpy.isdtype(numpy_dtype("isdtype", dtype), kinds)
    except ValueError as error:
        raise ValueError(f"isdtype: got the kind {kind!r}: {error}") from error


class FloatInfo(NamedTuple):
    """What `finfo` says of a floating-point dtype, as Python numbers: they are weak beside tensors."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: numpy.dtype


class IntegerInfo(NamedTuple):
    """What `iinfo` says of an integer dtype, as Python numbers."""

    bits: int
    max: int
    min: int
    dtype: numpy.dtype


def finfo(type) -> FloatInfo:
    """The limits of a floating-point dtype, or of the dtype of a tensor or an array.

    `eps` is the distance from 1 to the next larger number.

    >>> import minigrad as mg
    >>> mg.finfo(mg.float32).eps == 2**-23
    True
    """
    dtype = _real("finfo", type)
    if not is_floating(dtype):
        raise TypeError(f"finfo: needs a floating-point dtype, got {dtype}; see iinfo")
    found = numpy.finfo(dtype)
    eps, largest, smallest = float(found.eps), float(found.max), float(found.min)
    return FloatInfo(int(found.bits), eps, largest, smallest, float(found.smallest_normal), dtype)


def iinfo(type) -> IntegerInfo:
    """The limits of an integer dtype, or of the dtype of a tensor or an array.

    >>> import minigrad as mg
    >>> mg.iinfo(mg.uint8).max
    255
    """
    dtype = _real("iinfo", type)
    if dtype.kind not in "iu":
        raise TypeError(f"iinfo: needs an integer dtype, got {dtype}; see finfo")
    found = numpy.iinfo(dtype)
    return IntegerInfo(int(found.bits), int(found.max), int(found.min), dtype)


# --- inspection ------------------------------------------------------------------------------------

_DTYPES = ("bool", *(f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64)), "float32", "float64")


class NamespaceInfo:
    """What the Array API standard lets a library ask: see `__array_namespace_info__`."""

    def capabilities(self) -> dict[str, Any]:
        """Masks and shapes that depend on data there are; as many axes as in NumPy (CuPy has fewer)."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> str:
        """The backend on which new tensors are made."""
        return backend()

    def devices(self) -> list[str]:
        """The backends that can be used on this machine."""
        return available()

    def default_dtypes(self, *, device: str | None = None) -> dict[str, numpy.dtype]:
        """The dtype of tensors made from Python floats, from integers, and of indices, on any device."""
        self._check(device)
        integral = numpy.dtype("int64")
        return {"real floating": default_dtype(), "integral": integral, "indexing": integral}

    def dtypes(
        self, *, device: str | None = None, kind: str | tuple[str, ...] | None = None
    ) -> dict[str, numpy.dtype]:
        """The standard's dtypes of a kind (see `isdtype`), by name; there is float16 beyond them."""
        self._check(device)
        every = {name: numpy.dtype(name) for name in _DTYPES}
        return {name: dtype for name, dtype in every.items() if kind is None or isdtype(dtype, kind)}

    def _check(self, device: str | None) -> None:
        if device is not None:
            get(device)


def __array_namespace_info__() -> NamespaceInfo:  # noqa: N807 - the standard's name
    """What there is: capabilities, devices and dtypes, in the words of the Array API standard.

    >>> import minigrad as mg
    >>> mg.__array_namespace_info__().default_dtypes()["real floating"]
    dtype('float32')
    """
    return NamespaceInfo()
