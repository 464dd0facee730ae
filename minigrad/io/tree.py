"""The structure of a tree as JSON text, in which arrays have names, and back.

A JSON object is a dict whose keys are strings; strings, true, false, null, floats and integers of up to
64 bits are themselves. All else is a JSON array that begins with what it is:

    ["list", x, …]    ["tuple", x, …]    ["dict", [key, x], …]
    ["array", name]   ["tensor", name]   ["scalar", dtype, its bytes in hexadecimal]
    ["int", "0x…"]    ["float", its bytes in hexadecimal], of infinities and NaN
    ["same", n]       the container that was the n-th, from 0, to be complete

The whole is {"version": 1, "tree": x}.
"""

import json
import math
import re
import reprlib
import struct
from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy

from ..backend import Array, of, plain
from ..tensor import Tensor
from .safetensors import FormatError, check_text, dtype_name, dtype_of, numpy_dtype, plain_json

DEEPEST = 100
"""How many dicts, lists and tuples there may be, one inside the other."""

_MOST_NUMBERS = 20_000
"""How many keys of a dict may be numbers: more can be made to collide so that it takes for ever."""

_VERSION = 1

Place = tuple[Any, ...]


# --- out -----------------------------------------------------------------------------------------------


def flattened(tree: Any) -> tuple[str, dict[str, Array]]:
    """The structure of a tree, and its arrays by the names that the structure has for them.

    Raises:
        TypeError: there is something else in the tree; the message says where.
        ValueError: it is nested too deeply, or contains itself; or a string is no Unicode text.
    """
    arrays: dict[str, Array] = {}
    # By id, objects that were met: what stands for one when it is met again, and how deep it is inside. An
    # object is kept beside, since another may come to have the id of one that is gone. None while inside it.
    met: dict[int, tuple[Any, list[Any], int] | None] = {}
    complete = 0

    def visit(value: Any, place: Place) -> tuple[Any, int]:
        nonlocal complete
        if value is None or type(value) in (bool, int, float, str):
            return _plain(value, place), 0
        if isinstance(value, numpy.generic):
            name = _dtype_name(value, place)
            return ["scalar", name, numpy.asarray(value, numpy_dtype(name)).tobytes().hex()], 0
        if id(value) in met:
            before = met[id(value)]
            if before is None:
                raise ValueError(f"save: {_text(place)} is inside itself")
            _, node, height = before
            _check_depth(len(place) + height, place)
            return node, height
        if isinstance(value, (Tensor, numpy.ndarray)):
            name = _name(place, arrays)
            arrays[name] = _array(value, place)
            node = ["tensor" if isinstance(value, Tensor) else "array", name]
            met[id(value)] = value, node, 0
            return node, 0
        if type(value) not in (list, tuple) and not isinstance(value, dict):
            _refuse(value, place)
        _check_depth(len(place) + 1, place)
        met[id(value)] = None
        if isinstance(value, dict):
            items = list(value.items())
            inside = [(_key(key, place), *visit(child, (*place, key))) for key, child in items]
            if _too_many_numbers(value):
                raise ValueError(
                    f"save: {_text(place)} has over {_MOST_NUMBERS} numbers as keys: make two arrays of it"
                )
            if all(type(key) is str for key, _ in items):
                node = {key: child for key, child, _ in inside}
            else:
                node = ["dict", *([key, child] for key, child, _ in inside)]
            heights = [height for _, _, height in inside]
        else:
            children = [visit(child, (*place, i)) for i, child in enumerate(value)]
            node = [type(value).__name__, *(child for child, _ in children)]
            heights = [height for _, height in children]
        height = 1 + max(heights, default=0)
        met[id(value)] = value, ["same", complete], height
        complete += 1
        return node, height

    node, _ = visit(tree, ())
    whole = {"version": _VERSION, "tree": node}
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")), arrays


def _text(place: Place) -> str:
    return "tree" + "".join(f"[{key!r}]" for key in place)


def _check_depth(depth: int, place: Place) -> None:
    if depth > DEEPEST:
        raise ValueError(f"save: {_text(place)} is nested too deeply: {DEEPEST} levels are the limit")


def _plain(value: Any, place: Place) -> Any:
    """What stands for a number, a string or None."""
    if type(value) is int and abs(value) >> 64:
        return ["int", hex(value)]
    if type(value) is float and not math.isfinite(value):
        return ["float", struct.pack("<d", value).hex()]  # a NaN has bits of its own
    if type(value) is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"save: {_text(place)} is no Unicode text: {value!r}") from None
    return value


def _key(key: Any, place: Place) -> Any:
    if _may_be_key(key):
        return _plain(key, (*place, key))
    raise TypeError(
        f"save: {_text(place)} has the key {reprlib.repr(key)}, of type {type(key).__name__}; keys are "
        "strings, floats, integers of up to 64 bits, bools and None"
    )


def _too_many_numbers(keys: Collection[Any]) -> bool:
    return len(keys) > _MOST_NUMBERS and sum(type(key) in (int, float) for key in keys) > _MOST_NUMBERS


def _may_be_key(value: Any) -> bool:
    # Huge integers can be made to have one hash, and then a dict of many takes for ever.
    return value is None or type(value) in (bool, float, str) or (type(value) is int and not abs(value) >> 64)


def _name(place: Place, taken: dict[str, Array]) -> str:
    """A name for the array at that place which no other has."""
    name = first = ".".join(map(str, place)) if place else "array"
    number = 2
    while name in taken or name == "__metadata__":
        name, number = f"{first}~{number}", number + 1
    return name


def _array(value: Any, place: Place) -> Array:
    if isinstance(value, numpy.ma.MaskedArray):
        raise TypeError(f"save: {_text(place)} is a masked array: save its data and its mask")
    array = value._data if isinstance(value, Tensor) else value
    if plain(array) is not array:
        raise TypeError(f"save: {_text(place)} is a tensor inside vmap, which stands for many")
    _dtype_name(array, place)
    return array


def _dtype_name(array: Any, place: Place) -> str:
    dtype = dtype_of(array)
    name = dtype_name(dtype)
    if name is None:
        raise TypeError(
            f"save: {_text(place)} is of dtype {dtype}, which the safetensors format does not have: it has "
            "bools, integers, floats of up to 64 bits, and complex64"
        )
    return name


def _refuse(value: Any, place: Place) -> None:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if of(value) is not None:
        hint = "make it a tensor, with mg.asarray(x), or a NumPy array"
    elif isinstance(value, tuple):
        hint = "make it a plain tuple, or a dict, as with x._asdict()"
    elif isinstance(value, (bytes, bytearray)):
        hint = "make it an array, with numpy.frombuffer(x, 'uint8')"
    elif hasattr(value, "state_dict"):
        hint = "save its state_dict()"
    else:
        hint = "trees are made of dicts, lists, tuples, tensors, NumPy arrays, numbers, strings, bools, None"
    raise TypeError(f"save: {_text(place)} is a {kind}: {hint}")


# --- and back ------------------------------------------------------------------------------------------


def rebuilt(text: str, leaf: Callable[[str, str], Any]) -> Any:
    """The tree of a structure, with `leaf(kind, name)`, called once for a name, where there was an array.

    Raises `FormatError` if anything is wrong with the structure.
    """
    whole = plain_json(text)
    if type(whole) is not dict or type(whole.get("version")) is not int:
        raise FormatError("its structure has no version")
    if whole["version"] != _VERSION:
        raise FormatError(
            f"it is of version {whole['version']} of minigrad's format, and this minigrad reads {_VERSION}"
        )
    if whole.keys() != {"version", "tree"}:
        raise FormatError("its structure must be a version and a tree")
    complete: list[Any] = []  # the containers, and how high each is
    heights: list[int] = []
    leaves: dict[str, tuple[str, Any]] = {}

    def inside(nodes: Iterable[Any], depth: int) -> tuple[list[Any], int]:
        """What the nodes in a container stand for, and its height."""
        if depth >= DEEPEST:
            raise FormatError(f"its structure is nested more than {DEEPEST} levels deep")
        values, highest = [], 0
        for node in nodes:
            value, height = visit(node, depth + 1)
            values.append(value)
            highest = max(highest, height)
        return values, 1 + highest

    def finish(value: Any, height: int) -> tuple[Any, int]:
        complete.append(value)
        heights.append(height)
        return value, height

    def visit(node: Any, depth: int) -> tuple[Any, int]:
        match node:
            case dict():
                check_text(node)
                values, height = inside(node.values(), depth)
                return finish(dict(zip(node, values, strict=True)), height)
            case ["list", *nodes]:
                return finish(*inside(nodes, depth))
            case ["tuple", *nodes]:
                values, height = inside(nodes, depth)
                return finish(tuple(values), height)
            case ["dict", *pairs] if all(type(pair) is list and len(pair) == 2 for pair in pairs):
                values, height = inside([node for _, node in pairs], depth)
                keys = [_read_key(key) for key, _ in pairs]
                if _too_many_numbers(keys):
                    raise FormatError(
                        f"its structure has a dict with more than {_MOST_NUMBERS} numbers as keys"
                    )
                value = dict(zip(keys, values, strict=True))
                if len(value) < len(keys):
                    raise FormatError("its structure has a dict with the same key twice")
                return finish(value, height)
            case ["same", n] if type(n) is int and 0 <= n < len(complete):
                if depth + heights[n] > DEEPEST:
                    raise FormatError(f"its structure is nested more than {DEEPEST} levels deep")
                return complete[n], heights[n]
            case ["array" | "tensor" as kind, str(name)]:
                if name not in leaves:
                    leaves[name] = kind, leaf(kind, name)
                if leaves[name][0] != kind:
                    raise FormatError(f"its structure has {name!r} both as a tensor and as an array")
                return leaves[name][1], 0
            case _:
                return _read_plain(node), 0

    return visit(whole["tree"], 0)[0]


def _read_plain(node: Any) -> Any:
    match node:
        case ["int", str(text)] if re.fullmatch("-?0x[0-9a-f]+", text):
            return int(text, 16)
        case ["float", str(text)] if re.fullmatch("[0-9a-f]{16}", text):
            return struct.unpack("<d", bytes.fromhex(text))[0]
        case ["scalar", str(name), str(text)] if re.fullmatch("([0-9a-f]{2}){1,8}", text):
            dtype, data = numpy_dtype(name), bytes.fromhex(text)
            if len(data) == dtype.itemsize and (name != "BOOL" or data[0] < 2):
                return numpy.frombuffer(data, dtype)[0]
        case str():
            check_text([node])
            return node
        case None | bool() | int() | float():
            return node
    raise FormatError(f"its structure has {reprlib.repr(node)}, which stands for nothing")


def _read_key(node: Any) -> Any:
    key = _read_plain(node)
    if not _may_be_key(key):
        raise FormatError(f"its structure has the key {reprlib.repr(node)}")
    return key
