"""The safetensors format: named arrays in one file, with nothing in it that could be run.

A file is the length of its header (8 bytes, little-endian); the header, JSON text that gives each array's
dtype, shape, and where it lies in the data, and under `__metadata__` strings by name; and the data, the
arrays one after the other in C order, each number little-endian. See https://github.com/huggingface/safetensors,
whose own package reads what is written here, and the other way round; what it refuses is refused here, too.

Everything that a file says is checked before memory is set aside for what it claims to hold.
"""

import json
import math
import mmap
import os
import reprlib
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from io import FileIO
from itertools import chain
from typing import Any, NamedTuple

import numpy

from ..backend import Array, of

_LONGEST_HEADER = 100_000_000  # bytes: the limit of the format
_CHUNK = 1 << 18  # elements to copy at a time of an array that is not one piece of memory

# NumPy's name for each dtype, in the order in which the format has them: data lie in the opposite one.
# Those with a `ml_` are of the package ml_dtypes; None are those of less than a byte.
_DTYPES = {
    "BOOL": "bool",
    "F4": None,
    "F6_E2M3": None,
    "F6_E3M2": None,
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "ml_float8_e5m2",
    "F8_E4M3": "ml_float8_e4m3fn",
    "F8_E8M0": "ml_float8_e8m0fnu",
    "F8_E4M3FNUZ": "ml_float8_e4m3fnuz",
    "F8_E5M2FNUZ": "ml_float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "ml_bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
_RANK = {name: i for i, name in enumerate(_DTYPES)}
_NAMES = {dtype.removeprefix("ml_"): name for name, dtype in _DTYPES.items() if dtype}


class FormatError(ValueError):
    """A file is not what it should be: it is damaged, cut off, made to harm, or of another kind."""


class Entry(NamedTuple):
    """What a header says of an array: the format's name of its dtype, its shape, its place in the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Header(NamedTuple):
    """What a header says: strings by name, arrays by name; and where in the file the data begin and end."""

    metadata: dict[str, str]
    entries: dict[str, Entry]
    start: int
    stop: int


def dtype_name(dtype: numpy.dtype) -> str | None:
    """The format's name for a dtype; None if it has none."""
    return _NAMES.get(dtype.name)


def numpy_dtype(name: str) -> numpy.dtype:
    """NumPy's dtype for one of the format.

    Raises:
        FormatError: there is none.
        ImportError: it is one of the package ml_dtypes, which is not installed.
    """
    if name not in _DTYPES:
        raise FormatError(f"there is no dtype {reprlib.repr(name)} in the safetensors format")
    own = _DTYPES[name]
    if own is None:
        raise FormatError(f"NumPy has no arrays of {name}, whose numbers are less than a byte")
    if not own.startswith("ml_"):
        return numpy.dtype(own).newbyteorder("<")
    try:
        return numpy.dtype(getattr(import_module("ml_dtypes"), own.removeprefix("ml_")))
    except ImportError:
        raise ImportError(f"NumPy needs the package ml_dtypes for {name}: pip install ml_dtypes") from None


def plain_json(text: str) -> Any:
    """What JSON text says, if no two keys of an object are the same and all numbers are of common size.

    Raises `FormatError` for other text.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_each_once, parse_constant=_refuse_constant, parse_int=_common_integer
        )
    except json.JSONDecodeError as error:
        raise FormatError(f"not JSON: {error}") from None
    except RecursionError:
        raise FormatError("JSON that is nested too deeply") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names: set[str] = set()
        twice = next(name for name, _ in pairs if name in names or names.add(name))
        raise FormatError(f"the key {reprlib.repr(twice)} is there twice")
    return result


def _refuse_constant(text: str) -> Any:
    raise FormatError(f"{text} is not JSON")


def _common_integer(text: str) -> int:
    if len(text) > 20 or text == "-0":
        raise FormatError(f"the integer {text[:20]}{'…' * (len(text) > 20)}")
    return int(text)


# --- reading -----------------------------------------------------------------------------------------


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[FileIO]:
    """A file to read; a `FormatError` in the block names it.

    What is no regular file is a `FormatError`: to read from a pipe could wait for ever.
    """
    name = os.fsdecode(path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(name, "rb", buffering=0, opener=lambda path, _: os.open(path, flags)) as file:
        try:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FormatError("this is no regular file")
            yield file
        except FormatError as error:
            raise FormatError(f"load: {name!r}: {error}") from None
        except ImportError as error:
            raise ImportError(f"load: {name!r}: {error}") from None


def read_header(file: FileIO) -> Header:
    """The header of a file that was just opened, checked in itself and against the file's size.

    Raises `FormatError` if anything is wrong with it.
    """
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise FormatError(f"{size} bytes are too few for a safetensors file")
    first = _read(file, bytearray(8))
    length = int.from_bytes(first, "little")
    if length > min(size - 8, _LONGEST_HEADER):
        raise FormatError(
            f"{_kind(first)}: its header would have {length} bytes, in a file of {size} bytes "
            f"(and at most {_LONGEST_HEADER})"
        )
    raw = _read(file, bytearray(length))
    if not raw.startswith(b"{"):
        raise FormatError("not a safetensors file: its header does not begin with '{'")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"its header is not UTF-8: {error.reason} at {error.start}") from None
    del raw
    said = plain_json(text)
    del text
    metadata = said.pop("__metadata__", {})
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        raise FormatError("its __metadata__ must be strings by name")
    check_text(chain(said, metadata, metadata.values()))
    entries = {name: _entry(name, value) for name, value in said.items()}
    start = 8 + length
    _check_places(entries, size - start)
    return Header(metadata, entries, start, size)


def _kind(first: bytes) -> str:
    for magic, kind in (
        (b"PK\3\4", "a zip file, such as torch.save and numpy.savez write"),
        (b"\x80", "a pickle, perhaps, which could run code"),
        (b"\x93NUMPY", "a file of numpy.save"),
        (b"\x1f\x8b", "a gzipped file"),
    ):
        if first.startswith(magic):
            return f"not a safetensors file but {kind}"
    return "not a safetensors file"


def _read(file: FileIO, into: Any) -> Any:
    with memoryview(into).cast("B") as whole:
        done = 0
        while done < len(whole):
            got = file.readinto(whole[done:])
            if not got:
                raise FormatError("it ends too early: it became shorter while it was read")
            done += got
    return into


def check_text(texts: Iterable[str]) -> None:
    """Raise `FormatError` if one of them has a half of a character, which JSON can name, and no text has."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise FormatError(f"{reprlib.repr(text)} is not Unicode text") from None


def _entry(name: str, value: Any) -> Entry:
    what = f"the array {reprlib.repr(name)}"
    if type(value) is not dict or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{what} must have dtype, shape and data_offsets, got {reprlib.repr(value)}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if type(dtype) is not str:
        raise FormatError(f"{what} has the dtype {reprlib.repr(dtype)}")
    if not _sizes(shape):
        raise FormatError(f"{what} has the shape {reprlib.repr(shape)}")
    if not _sizes(offsets) or len(offsets) != 2:
        raise FormatError(f"{what} has the data_offsets {reprlib.repr(offsets)}")
    try:
        itemsize = numpy_dtype(dtype).itemsize
    except FormatError as error:
        raise FormatError(f"{what}: {error}") from None
    # NumPy counts the bytes of an empty array without the axes of no length, and in 63 bits.
    if len(shape) > 64 or itemsize * math.prod(n for n in shape if n) >= 1 << 63:
        raise FormatError(f"{what} has the shape {reprlib.repr(shape)}, which is more than NumPy can have")
    start, stop = offsets
    if stop - start != itemsize * math.prod(shape):
        raise FormatError(
            f"{what} of {dtype} and shape {reprlib.repr(shape)} takes {itemsize * math.prod(shape)} bytes, "
            f"not those from {start} to {stop}"
        )
    return Entry(dtype, tuple(shape), start, stop)


def _sizes(value: Any) -> bool:
    return type(value) is list and all(type(n) is int and n >= 0 for n in value)


def _in_file(entries: dict[str, Entry]) -> list[tuple[str, Entry]]:
    return sorted(entries.items(), key=lambda item: item[1][2:])


def _check_places(entries: dict[str, Entry], size: int) -> None:
    """Raise `FormatError` unless the arrays fill the data, without holes and without overlaps."""
    place = 0
    for name, entry in _in_file(entries):
        if entry.start != place:
            raise FormatError(
                f"the array {reprlib.repr(name)} begins at {entry.start}, where {place} is expected: "
                "there are overlaps or holes in the data"
            )
        place = entry.stop
    if place != size:
        raise FormatError(f"the data have {size} bytes, and the arrays {place}")


def read_arrays(file: FileIO, header: Header) -> dict[str, numpy.ndarray]:
    """The arrays of a file whose header was just read, each read into memory of its own."""
    arrays = {}
    for name, entry in _in_file(header.entries):
        array = numpy.empty(entry.shape, numpy_dtype(entry.dtype))
        if array.size:
            _read(file, array.reshape(-1).view(numpy.uint8))
        arrays[name] = _proper(array)
    return {name: arrays[name] for name in header.entries}


def map_arrays(file: FileIO, header: Header) -> dict[str, numpy.ndarray]:
    """The arrays of a file as read-only views of it, whose pages are read when they are needed.

    Those that lie askew, as other writers may leave them, are copies.
    """
    try:
        memory = mmap.mmap(file.fileno(), header.stop, access=mmap.ACCESS_READ)
    except ValueError:
        raise FormatError("it became shorter while it was read") from None
    arrays = {}
    for name, entry in header.entries.items():
        array = numpy.ndarray(
            entry.shape, numpy_dtype(entry.dtype), buffer=memory, offset=header.start + entry.start
        )
        arrays[name] = _proper(array if array.flags.aligned else array.copy())
    return arrays


def _proper(array: numpy.ndarray) -> numpy.ndarray:
    """An array of bools whose bytes are 0 and 1: NumPy does not expect others. Other arrays as they are."""
    if array.dtype == bool and array.size and array.view(numpy.uint8).max() > 1:
        return array.view(numpy.uint8) != 0
    return array


# --- writing -----------------------------------------------------------------------------------------


def parts(arrays: dict[str, Array], metadata: dict[str, str]) -> Iterable[Any]:
    """The bytes of a file of arrays, of any backend, as buffers: mostly the arrays' own memory.

    Raises `ValueError` if the header would be longer than the format allows.
    """
    dtypes = {name: dtype_name(dtype_of(array)) for name, array in arrays.items()}
    order = sorted(arrays, key=lambda name: (-_RANK[dtypes[name] or ""], name))
    header: dict[str, Any] = {"__metadata__": metadata}
    place = 0
    for name in order:
        shape = [int(n) for n in arrays[name].shape]
        stop = place + math.prod(shape) * numpy_dtype(dtypes[name] or "").itemsize
        header[name] = {"dtype": dtypes[name], "shape": shape, "data_offsets": [place, stop]}
        place = stop
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _LONGEST_HEADER:
        raise ValueError(
            f"save: all but the arrays' numbers would take {len(text)} bytes, and the safetensors format "
            f"allows {_LONGEST_HEADER}: put long lists of numbers into arrays"
        )
    return chain([len(text).to_bytes(8, "little"), text], *(_bytes(arrays[name]) for name in order))


def dtype_of(array: Array) -> numpy.dtype:
    """NumPy's dtype for that of an array of any backend."""
    if isinstance(array.dtype, numpy.dtype):
        return array.dtype
    backend = of(array)
    assert backend is not None
    return backend.to_numpy(backend.xp.empty(0, dtype=array.dtype)).dtype


def _bytes(array: Array) -> Iterator[numpy.ndarray]:
    """The numbers of an array in C order and little-endian: its own memory, or copies of pieces of it."""
    backend = of(array)
    assert backend is not None
    host = backend.to_numpy(array)  # of no subclass
    if not host.size:
        return
    little = host.dtype.newbyteorder("<")
    if host.flags.c_contiguous and host.dtype == little:
        yield host.reshape(-1).view(numpy.uint8)
        return
    flags: Any = ["external_loop", "buffered"]
    pieces = numpy.nditer(host, flags, order="C", op_dtypes=[little], casting="equiv", buffersize=_CHUNK)
    for piece in pieces:
        yield numpy.ascontiguousarray(piece).view(numpy.uint8)
