"""Whatever a file holds, it loads or is a FormatError: nothing else, in little time and memory.

`MINIGRAD_FUZZ=100000 pytest tests/test_hostile_files.py -s` tries that many files of each kind, other ones
each time, and prints what came of them. The safetensors package is the oracle: what it refuses, `load`
refuses. What it takes and `load` does not is in DELIBERATE.
"""

import gzip
import io
import json
import os
import pickle
import random
import re
import struct
import time
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors
from test_io import check, peak

import minigrad as mg
from minigrad.io import FormatError
from minigrad.io import safetensors as codec
from minigrad.io.safetensors import parts
from minigrad.io.tree import flattened


def file_of(header: Any, data: bytes = b"") -> bytes:
    """A file with a header, of bytes or as JSON says it, and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def saved(tree: Any) -> bytes:
    """What `save` writes."""
    structure, arrays = flattened(tree)
    return b"".join(bytes(part) for part in parts(arrays, {"minigrad": structure}))


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def refused(path: Path, content: bytes) -> str:
    """What the error of loading a file says, which names it, the same for all ways to load."""
    path.write_bytes(content)
    messages = []
    for load in (mg.load, lambda path: mg.load(path, mmap=True), mg.io.outline):
        with pytest.raises(FormatError) as caught:
            load(path)
        messages.append(str(caught.value))
    start = f"load: {str(path)!r}: "
    assert messages == [messages[0]] * 3
    assert messages[0].startswith(start)
    assert len(messages[0]) < len(start) + 400
    return messages[0].removeprefix(start)


# --- files that are bad in one way ---------------------------------------------------------------------

X = entry()
EIGHT = bytes(8)


def zipped() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(100))
    return file.getvalue()


def zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(10_000_000))
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(100))
    return file.getvalue()


FILES = {
    # of other kinds
    "nothing": (b"", "0 bytes are too few for a safetensors file"),
    "seven bytes": (b"1234567", "7 bytes are too few"),
    "a zip file": (zipped(), "not a safetensors file but a zip file, such as torch.save and numpy.savez"),
    "a zip bomb": (zip_bomb(), "a zip file"),
    "a pickle": (pickle.dumps(list(range(1000))), "not a safetensors file but a pickle"),
    "a pickle that would run code": (
        b"\x80\x04cos\nsystem\n(S'false'\ntR.",
        "a pickle, perhaps, which could run",
    ),
    "gzip": (gzip.compress(os.urandom(1000)), "a gzipped file"),
    "npy": (npy(), "a file of numpy.save"),
    "HTML": (b"<!DOCTYPE html><html><body>404 not found</body></html>", "not a safetensors file"),
    "JSON": (b'{"a": [1, 2, 3], "b": {"c": 1}}', "not a safetensors file"),
    "text": (b"hello world, this is a text\n" * 100, "not a safetensors file"),
    "zeros": (bytes(1000), "its header does not begin with '{'"),
    "ones": (b"\xff" * 1000, r"its header would have 18446744073709551615 bytes, in a file of 1000 bytes"),
    # the header as such
    "a header longer than the file": (file_of({"x": X}, EIGHT)[:-20], "its header would have"),
    "a header longer by one": (struct.pack("<Q", 3) + b"{}", "its header would have 3 bytes"),
    "a header of 2 ** 63": (struct.pack("<Q", 1 << 63) + b"{}", "its header would have"),
    "a header of no bytes": (file_of(b""), "does not begin"),
    "a header that begins with a space": (file_of(b" {}"), "does not begin"),
    "a header with a byte order mark": (file_of(b"\xef\xbb\xbf{}"), "does not begin"),
    "a header of UTF-16": (file_of("{}".encode("utf-16-le")), "not JSON"),
    "bytes that are not UTF-8": (file_of(b'{"\xff":1}'), "not UTF-8: invalid start byte at 2"),
    "an overlong encoding": (file_of(b'{"\xc0\xaf":1}'), "not UTF-8"),
    "an encoded half of a character": (file_of(b'{"\xed\xa0\x80":1}'), "not UTF-8"),
    "an escaped half of a character": (
        file_of(b'{"\\ud800":' + json.dumps(X).encode() + b"}", EIGHT),
        "Unicode",
    ),
    "a half in the metadata": (file_of(b'{"__metadata__":{"a":"\\udc00"}}'), "Unicode"),
    "no end": (file_of(b'{"a":'), "not JSON"),
    "two values": (file_of(b"{}{}"), "not JSON: Extra data"),
    "zeros at the end": (file_of(b"{}\0\0"), "not JSON: Extra data"),
    "a comma too many": (file_of(b'{"__metadata__":{},}'), "not JSON"),
    "a comment": (file_of(b"{/* */}"), "not JSON"),
    "single quotes": (file_of(b"{'a':1}"), "not JSON"),
    "a control character": (file_of(b'{"a\n":1}'), "not JSON: Invalid control character"),
    "NaN": (file_of(b'{"x":NaN}'), "NaN is not JSON"),
    "an infinity": (file_of(b'{"x":-Infinity}'), "-Infinity is not JSON"),
    "a leading zero": (file_of({"x": X}, EIGHT).replace(b"[0, 8]", b"[0,08]"), "not JSON"),
    "100,000 brackets": (file_of(b'{"x":' + b"[" * 100_000), "nested too deeply"),
    "100,000 brackets and their ends": (
        file_of(b'{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
        "too deeply",
    ),
    "100,000 objects": (file_of(b'{"x":' * 100_000), "nested too deeply"),
    # keys
    "a key twice": (
        file_of(b'{"x":%b,"x":%b}' % ((json.dumps(X).encode(),) * 2), EIGHT),
        "the key 'x' is there twice",
    ),
    "a key twice, written in two ways": (file_of(b'{"x":1,"\\u0078":1}'), "the key 'x' is there twice"),
    "metadata twice": (file_of(b'{"__metadata__":{},"__metadata__":{}}'), "the key '__metadata__' is there"),
    "a key of the metadata twice": (
        file_of(b'{"__metadata__":{"a":"1","a":"2"}}'),
        "the key 'a' is there twice",
    ),
    "a dtype twice": (
        file_of(b'{"x":{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}}', b"1"),
        "twice",
    ),
    "a key that is missing": (
        file_of({"x": {"dtype": "F32", "shape": [2]}}, EIGHT),
        "must have dtype, shape and",
    ),
    "a key too many": (
        file_of({"x": X | {"strides": [4]}}, EIGHT),
        "must have dtype, shape and data_offsets",
    ),
    "no keys": (file_of({"x": {}}), "the array 'x' must have dtype, shape and data_offsets"),
    "a list for an array": (file_of({"x": ["F32", [2], [0, 8]]}, EIGHT), "the array 'x' must have"),
    "a string for an array": (file_of({"x": "F32"}), "the array 'x' must have"),
    "null for an array": (file_of({"x": None}), "the array 'x' must have"),
    "a name of a million letters": (file_of({"x" * 1_000_000: 1}), r"the array 'xxxx.*x\.\.\.x"),
    # metadata
    "null as metadata": (file_of({"__metadata__": None}), "__metadata__ must be strings by name"),
    "a list as metadata": (file_of({"__metadata__": []}), "__metadata__ must be"),
    "a number in the metadata": (file_of({"__metadata__": {"a": 1}}), "__metadata__ must be"),
    "an array of that name": (file_of({"__metadata__": X}, EIGHT), "__metadata__ must be"),
    # dtypes
    "no such dtype": (file_of({"x": entry("F31")}, EIGHT), "the array 'x': there is no dtype 'F31'"),
    "a dtype in small letters": (file_of({"x": entry("f32")}, EIGHT), "no dtype 'f32'"),
    "NumPy's name of one": (file_of({"x": entry("<f4")}, EIGHT), "no dtype '<f4'"),
    "a dtype of objects": (file_of({"x": entry("O", [1])}, EIGHT), "no dtype 'O'"),
    "an empty dtype": (file_of({"x": entry("")}, EIGHT), "no dtype ''"),
    "a number as dtype": (file_of({"x": entry(4)}, EIGHT), "the array 'x' has the dtype 4"),
    "a list as dtype": (file_of({"x": entry(["F32"])}, EIGHT), r"has the dtype \['F32'\]"),
    "null as dtype": (file_of({"x": entry(None)}, EIGHT), "has the dtype None"),
    "half-byte floats": (file_of({"x": entry("F4", [16])}, EIGHT), "no arrays of F4, whose numbers are less"),
    # shapes
    "a negative shape": (file_of({"x": entry(shape=[-2])}, EIGHT), r"has the shape \[-2\]"),
    "two negative lengths": (file_of({"x": entry(shape=[-1, -2])}, EIGHT), "has the shape"),
    "minus zero": (file_of(b'{"x":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'), "the integer -0"),
    "a float in a shape": (file_of({"x": entry(shape=[2.0])}, EIGHT), r"has the shape \[2.0\]"),
    "an exponent in a shape": (
        file_of(json.dumps({"x": X}).replace("[2]", "[2e0]").encode(), EIGHT),
        r"has the shape \[2.0\]",
    ),
    "true in a shape": (file_of({"x": entry(shape=[True, 2])}, EIGHT), r"has the shape \[True, 2\]"),
    "a string in a shape": (file_of({"x": entry(shape=["2"])}, EIGHT), r"has the shape \['2'\]"),
    "a list in a shape": (file_of({"x": entry(shape=[[2]])}, EIGHT), "has the shape"),
    "a number as shape": (file_of({"x": entry(shape=2)}, EIGHT), "has the shape 2"),
    "null as shape": (file_of({"x": entry(shape=None)}, EIGHT), "has the shape None"),
    "a huge shape": (file_of({"x": entry(shape=[1 << 62])}, EIGHT), "which is more than NumPy can have"),
    "a shape that overflows to 2": (file_of({"x": entry(shape=[1 << 63, 2, 1])}, EIGHT), "more than NumPy"),
    "a shape that overflows to 8 bytes": (
        file_of({"x": entry(shape=[(1 << 62) + 2])}, EIGHT),
        "more than NumPy",
    ),
    "an integer of 2 ** 64": (file_of({"x": entry(shape=[0, 1 << 64])}), "more than NumPy can have"),
    "an integer of 30 digits": (
        file_of({"x": entry(shape=[10**30])}, EIGHT),
        "the integer 10000000000000000000…",
    ),
    "an integer of 5000 digits": (file_of(b'{"x":%b}' % (b"1" * 5000)), "the integer 11111111111111111111…"),
    "nothing times too much": (
        file_of({"x": entry(shape=[0, 1 << 40, 1 << 40], offsets=[0, 0])}),
        "more than NumPy",
    ),
    "65 axes": (file_of({"x": entry(shape=[1] * 64 + [2])}, EIGHT), "which is more than NumPy can have"),
    "too large by one": (file_of({"x": entry(shape=[3])}, EIGHT), r"takes 12 bytes, not those from 0 to 8"),
    "too small by one": (file_of({"x": entry("U8", [7])}, EIGHT), "takes 7 bytes, not those from 0 to 8"),
    # offsets
    "offsets backwards": (file_of({"x": entry(offsets=[8, 0])}, EIGHT), "not those from 8 to 0"),
    "a negative offset": (file_of({"x": entry(offsets=[-8, 0])}, EIGHT), r"has the data_offsets \[-8, 0\]"),
    "one offset": (file_of({"x": entry(offsets=[8])}, EIGHT), r"has the data_offsets \[8\]"),
    "three offsets": (file_of({"x": entry(offsets=[0, 4, 8])}, EIGHT), r"has the data_offsets \[0, 4, 8\]"),
    "floats as offsets": (file_of({"x": entry(offsets=[0.0, 8.0])}, EIGHT), "has the data_offsets"),
    "bools as offsets": (file_of({"x": entry("U8", [1], [False, True])}, b"1"), "has the data_offsets"),
    "offsets beyond the end": (
        file_of({"x": entry(offsets=[0, 8])}, EIGHT[:-1]),
        "the data have 7 bytes, and the",
    ),
    "huge offsets": (file_of({"x": entry(offsets=[1 << 62, (1 << 62) + 8])}, EIGHT), "where 0 is expected"),
    "offsets that wrap around": (file_of({"x": entry(offsets=[(1 << 64) - 8, 0])}, EIGHT), "not those from"),
    "a hole before": (
        file_of({"x": entry(offsets=[8, 16])}, EIGHT * 2),
        "'x' begins at 8, where 0 is expected",
    ),
    "a hole between": (
        file_of({"x": X, "y": entry(offsets=[16, 24])}, EIGHT * 3),
        "'y' begins at 16, where 8",
    ),
    "a hole at the end": (file_of({"x": X}, EIGHT + b"."), "the data have 9 bytes, and the arrays 8"),
    "data without arrays": (file_of({}, b"."), "the data have 1 bytes, and the arrays 0"),
    "no data": (file_of({"x": X}), "the data have 0 bytes, and the arrays 8"),
    "two arrays in one place": (file_of({"x": X, "y": X}, EIGHT), "'y' begins at 0, where 8 is expected"),
    "arrays that overlap": (
        file_of({"x": X, "y": entry(offsets=[4, 12])}, EIGHT + EIGHT[:4]),
        "there are overlaps",
    ),
    "one array inside another": (
        file_of({"x": entry(shape=[4], offsets=[0, 16]), "y": entry(offsets=[4, 12])}, EIGHT * 2),
        "there are overlaps or holes in the data",
    ),
    "an empty array inside another": (
        file_of({"x": X, "y": entry(shape=[0], offsets=[4, 4])}, EIGHT),
        "'y' begins at 4, where 8 is expected",
    ),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_a_bad_file(content, message, tmp_path):
    assert re.search(message, refused(tmp_path / "x", content))


TREE = {
    "w": np.arange(2.0, dtype="f4"),
    "t": mg.ones((1, 2)),
    "s": [1, ("x", None)],
    "e": np.zeros((0, 3), "b"),
}


@pytest.mark.parametrize(
    "content", [saved(TREE), file_of({"x": X, "y": entry("U8", [], [8, 9])}, b"123456789")]
)
def test_a_file_cut_anywhere_or_with_more_at_its_end(content, tmp_path):
    for length in range(len(content)):
        refused(tmp_path / "x", content[:length])
    for more in (b"\0", b" ", b"\n", content):
        refused(tmp_path / "x", content + more)
    (tmp_path / "x").write_bytes(content)
    assert len(mg.load(tmp_path / "x")) in (2, 4)


def test_a_header_that_is_longer_than_the_format_allows(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001))
        file.truncate(200_000_000)  # of which nothing is on the disk
    with pytest.raises(
        FormatError, match=r"its header would have 100000001 bytes.* \(and at most 100000000\)"
    ):
        mg.load(tmp_path / "x")


@pytest.mark.parametrize("keep", [8, 100, -100, -1])
def test_a_file_that_becomes_shorter_while_it_is_read(keep, tmp_path, monkeypatch):
    """After its size was taken, and what was checked no longer holds."""
    mg.save(tmp_path / "x", {"a": np.ones(1000), "b": np.ones(1000)})
    size = os.path.getsize(tmp_path / "x")

    def watched(descriptor: int) -> os.stat_result:
        calls.append(descriptor)
        found = os.fstat(descriptor)
        if len(calls) == 2:  # the size was just taken
            os.truncate(tmp_path / "x", keep % size)
        return found

    for mmap in (False, True):
        mg.save(tmp_path / "x", {"a": np.ones(1000), "b": np.ones(1000)})
        calls: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(codec, "os", SimpleNamespace(**vars(os) | {"fstat": watched}))
            with pytest.raises(FormatError, match="it became shorter while it was read"):
                mg.load(tmp_path / "x", mmap=mmap)


# --- structures that are bad in one way ----------------------------------------------------------------


def with_structure(structure: Any, names: str = "wv") -> bytes:
    text = structure if isinstance(structure, str) else json.dumps(structure)
    header: dict[str, Any] = {"__metadata__": {"minigrad": text}}
    header |= {name: entry(offsets=[8 * i, 8 * i + 8]) for i, name in enumerate(names)}
    return file_of(header, EIGHT * len(names))


def of_tree(tree: Any, names: str = "") -> bytes:
    return with_structure({"version": 1, "tree": tree}, names)


def deep(levels: int) -> Any:
    tree: Any = 1
    for _ in range(levels):
        tree = ["list", tree]
    return tree


STRUCTURES = {
    "no JSON": (with_structure("{"), "not JSON"),
    "nothing": (with_structure(""), "not JSON"),
    "a number": (with_structure(1), "its structure has no version"),
    "no version": (with_structure({"tree": 1}), "its structure has no version"),
    "true as version": (with_structure({"version": True, "tree": 1}), "its structure has no version"),
    "a string as version": (with_structure({"version": "1", "tree": 1}), "its structure has no version"),
    "a newer version": (
        with_structure({"version": 2, "more": 1}),
        "it is of version 2 of minigrad's format, and this",
    ),
    "no tree": (with_structure({"version": 1}), "must be a version and a tree"),
    "more than a tree": (
        with_structure({"version": 1, "tree": 1, "more": 1}),
        "must be a version and a tree",
    ),
    "a tree twice": (with_structure('{"version":1,"tree":1,"tree":2}'), "the key 'tree' is there twice"),
    "a key twice": (with_structure('{"version":1,"tree":{"a":1,"a":2}}'), "the key 'a' is there twice"),
    "NaN": (with_structure('{"version":1,"tree":NaN}'), "NaN is not JSON"),
    "a huge integer": (of_tree(10**21), "the integer 10000000000000000000…"),
    "100,000 levels": (with_structure('{"version":1,"tree":' + "[" * 100_000), "nested too deeply"),
    "102 levels": (of_tree(deep(101)), "nested more than 100 levels deep"),
    "levels by reference": (of_tree(["list", deep(60), ["list", *deep(50)[1:], ["same", 59]]]), None),
    "101 levels by reference": (of_tree(["list", deep(99), ["list", ["same", 98]]]), "more than 100 levels"),
    "no such array": (of_tree(["array", "z"]), "has an array 'z', which is not there"),
    "no such tensor": (of_tree(["tensor", "z"]), "has an array 'z', which is not there"),
    "an array that is not used": (of_tree(["array", "w"], "wv"), "no place for the array 'v'"),
    "arrays that are not used": (of_tree(None, "wv"), "no place for the array 'v'"),
    "an array as a tensor, too": (
        of_tree(["list", ["array", "w"], ["tensor", "w"]], "w"),
        "both as a tensor and",
    ),
    "the metadata as an array": (of_tree(["array", "__metadata__"]), "which is not there"),
    "an array without a name": (of_tree(["array"]), "which stands for nothing"),
    "an array with two": (of_tree(["array", "w", "v"], "wv"), "which stands for nothing"),
    "an array with a number": (of_tree(["array", 0], "w"), "which stands for nothing"),
    "an empty list": (of_tree([]), r"its structure has \[\], which stands for nothing"),
    "a list without its kind": (of_tree([1, 2]), r"its structure has \[1, 2\], which stands for nothing"),
    "another kind": (of_tree(["set", 1]), "which stands for nothing"),
    "a kind that is a list": (of_tree([["list"], 1]), "which stands for nothing"),
    "code": (of_tree(["eval", "__import__('os')"]), "which stands for nothing"),
    "a reference to itself": (of_tree(["list", ["same", 0]]), "which stands for nothing"),
    "a reference ahead": (of_tree(["list", ["same", 0], ["list"]]), "which stands for nothing"),
    "a reference back from the end": (of_tree(["list", ["list"], ["same", -1]]), "which stands for nothing"),
    "a reference to true": (
        of_tree(["list", ["list"], ["list"], ["same", True]]),
        "which stands for nothing",
    ),
    "a reference to 0.0": (of_tree(["list", ["list"], ["same", 0.0]]), "which stands for nothing"),
    "a reference without a number": (of_tree(["list", ["list"], ["same"]]), "which stands for nothing"),
    "a dict of no pairs": (of_tree(["dict", [1]]), "which stands for nothing"),
    "a dict of triples": (of_tree(["dict", [1, 2, 3]]), "which stands for nothing"),
    "a dict of strings": (of_tree(["dict", "ab"]), "which stands for nothing"),
    "the same number twice": (of_tree(["dict", [1, 0], [1.0, 0]]), "a dict with the same key twice"),
    "a bool and a number": (of_tree(["dict", [0, 0], [False, 0]]), "a dict with the same key twice"),
    "a list as a key": (of_tree(["dict", [["list"], 0]]), "which stands for nothing"),
    "a dict as a key": (of_tree(["dict", [{}, 0]]), "which stands for nothing"),
    "an array as a key": (of_tree(["dict", [["array", "w"], 0]], "w"), "which stands for nothing"),
    "a scalar as a key": (of_tree(["dict", [["scalar", "F32", "00000000"], 0]]), "has the key"),
    "a huge integer as a key": (of_tree(["dict", [["int", "0x10000000000000000"], 0]]), "has the key"),
    "an integer that is none": (of_tree(["int", "0xg"]), "which stands for nothing"),
    "an integer with a line": (of_tree(["int", "0x1\n"]), "which stands for nothing"),
    "an integer of Python's": (of_tree(["int", "0x1_0"]), "which stands for nothing"),
    "an integer without digits": (of_tree(["int", "0x"]), "which stands for nothing"),
    "a float that is none": (of_tree(["float", "1.5"]), "which stands for nothing"),
    "a float of nine bytes": (of_tree(["float", "00" * 9]), "which stands for nothing"),
    "a scalar of no dtype": (of_tree(["scalar", "F31", "00000000"]), "there is no dtype 'F31'"),
    "a scalar of half bytes": (of_tree(["scalar", "F4", "00"]), "less than a byte"),
    "a scalar with a byte less": (of_tree(["scalar", "F32", "000000"]), "which stands for nothing"),
    "a scalar with a byte more": (of_tree(["scalar", "F32", "0000000000"]), "which stands for nothing"),
    "a scalar with a space": (of_tree(["scalar", "F32", "0000 0000"]), "which stands for nothing"),
    "a bool of 2": (of_tree(["scalar", "BOOL", "02"]), "which stands for nothing"),
    "a half of a character": (with_structure('{"version":1,"tree":"\\ud800"}'), "not Unicode text"),
    "a half in a key": (with_structure('{"version":1,"tree":{"\\ud800":1}}'), "not Unicode text"),
    "a tensor of complex numbers": (
        file_of(
            {"__metadata__": {"minigrad": '{"version":1,"tree":["tensor","x"]}'}, "x": entry("C64", [1])},
            EIGHT,
        ),
        "'x' as a tensor, which cannot hold C64",
    ),
}


@pytest.mark.parametrize(("content", "message"), STRUCTURES.values(), ids=STRUCTURES)
def test_a_bad_structure(content, message, tmp_path):
    if message is None:
        (tmp_path / "x").write_bytes(content)
        assert mg.load(tmp_path / "x")
    else:
        assert re.search(message, refused(tmp_path / "x", content))


# --- memory and time -----------------------------------------------------------------------------------

MANY = 10_000
LONG = {
    "empty objects": b"{},",
    "empty lists": b"[],",
    "objects": b'{"":0},',
    "lists in lists": b"[[[[]]]],",
    "zeros": b"0,",
    "floats": b"0.5,",
    "strings": b'"a",',
    "entries": b'{"dtype":"U8","shape":[],"data_offsets":[0,0]},',
}


@pytest.mark.parametrize("piece", LONG.values(), ids=LONG)
def test_long_headers_take_some_times_their_memory(piece, tmp_path):
    """At most 100 times, where a Python object stands for three characters."""
    many = piece * MANY
    for before, after in (
        (b'{"x":[', b"0]}"),
        (b'{"x":{"dtype":"U8","data_offsets":[0,0],"shape":[', b"0]}}"),
    ):
        content = file_of(before + many + after)
        assert peak(lambda content=content: refused(tmp_path / "x", content)) < 100 * len(content)
    structure = with_structure(f'{{"version":1,"tree":["list",{many.decode()}0]}}', "")
    (tmp_path / "x").write_bytes(structure)

    def load() -> None:
        with suppress(FormatError):
            mg.load(tmp_path / "x")

    assert peak(load) < 100 * len(structure)


NUMBERS = {
    "digits": b"1" * 1_000_000,
    "a fraction": b"0." + b"1" * 1_000_000,
    "an exponent": b"1e" + b"1" * 1_000_000,
    "many lengths": b"[" + b"1234567890123456789," * 100_000 + b"1]",
}


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_long_numbers_take_no_time(number, tmp_path):
    """A product of so many lengths would take minutes."""
    for x in (number, b"[" + number + b"]"):
        refused(
            tmp_path / "x", file_of(b'{"x":{"dtype":"F32","shape":' + x + b',"data_offsets":[0,8]}}', EIGHT)
        )


def test_keys_of_one_hash_take_no_time(tmp_path):
    """A dict of 50,000 keys that all have one hash would take minutes."""
    prime = (1 << 61) - 1
    huge = [[["int", hex(prime * (1000 + i))], 0] for i in range(50_000)]
    refused(tmp_path / "x", of_tree(["dict", *huge]))
    large = [[prime * i, 0] for i in range(8)] + [[float(prime << i), 0] for i in range(900)]
    (tmp_path / "x").write_bytes(of_tree(["dict", *large]))
    assert len(mg.load(tmp_path / "x")) == len({key for key, _ in large})


def test_references_to_references(tmp_path):
    """2 ** 99 places, in a file of some kilobytes."""
    tree: Any = ["list"]
    for i in range(99):
        tree = ["list", tree, ["same", i]]
    (tmp_path / "x").write_bytes(of_tree(tree))
    assert peak(lambda: mg.load(tmp_path / "x")) < 100_000


# --- files that differ at random from good ones --------------------------------------------------------

FUZZ = int(os.environ.get("MINIGRAD_FUZZ", "0"))

# What the safetensors package takes, and `load` refuses.
DELIBERATE = {
    "is there twice": "it takes the last of several entries of one name, which its own format disallows",
    "must have dtype, shape and data_offsets": "it ignores what else an entry has",
    "are less than a byte": "NumPy has no such arrays",
    "__metadata__ must be strings": "it takes null for none",
    "more than NumPy can have": "NumPy has 64 axes at most, and counts the bytes of empty arrays otherwise",
    "its structure": "it knows nothing of minigrad's structure",
    "of minigrad's format": "nor of its version",
}


class Pairs(list):
    """A JSON object as the list of its members, of which two may have one name."""


class Raw(str):
    """Text to put in as it is."""


def dumped(value: Any) -> str:
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{dumped(key)}:{dumped(child)}" for key, child in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(dumped, value)) + "]"
    return value if isinstance(value, Raw) else json.dumps(value)


def containers(value: Any) -> list[Any]:
    """All lists and objects in a value, itself included."""
    if not isinstance(value, list):
        return []
    inside = [child for _, child in value] if isinstance(value, Pairs) else value
    return [value, *(found for child in inside for found in containers(child))]


ODD = [
    *(
        None,
        True,
        False,
        0,
        1,
        2,
        7,
        8,
        9,
        16,
        -1,
        1 << 31,
        1 << 62,
        1 << 63,
        (1 << 64) - 1,
        1 << 64,
        0.0,
        8.0,
        0.5,
    ),
    *(
        "",
        "x",
        "F32",
        "I64",
        "U8",
        "BOOL",
        "BF16",
        "F4",
        "minigrad",
        "dtype",
        "__metadata__",
        "1",
        "é",
        "x" * 300,
    ),
    *([], [0], [0, 8], [8, 0], [1, 2], [0, 0, 0], [-1], Pairs(), Pairs([("a", "b")]), [[]], ["list"]),
    *map(
        Raw,
        [
            "NaN",
            "-0",
            "1e0",
            "8e0",
            "01",
            '"\\ud800"',
            '"\\u0000"',
            "Infinity",
            "1" * 40,
            "",
            ",",
            "[" * 3000,
        ],
    ),
    *(["list", 1], ["tuple"], ["same", 0], ["same", -1], ["array", "w"], ["tensor", "w"], ["int", "0x1f"]),
    *(
        ["float", "000000000000f87f"],
        ["scalar", "F32", "0000803f"],
        ["scalar", "BOOL", "02"],
        ["dict", [1, 2]],
    ),
    Pairs([("dtype", "U8"), ("shape", []), ("data_offsets", [0, 1])]),
]


def changed_json(rng: random.Random, text: str) -> str:
    """JSON text, changed at one to three places as JSON."""
    value = json.loads(text, object_pairs_hook=Pairs)
    everything = containers(value)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at = rng.choice(everything)
        if not at:
            at.append(("x", 1) if isinstance(at, Pairs) else rng.choice(ODD))
            continue
        i = rng.randrange(len(at))
        key, child = at[i] if isinstance(at, Pairs) else (None, at[i])
        what = rng.randrange(6)
        if what == 0:
            del at[i]
        elif what == 1:
            at.insert(rng.randrange(len(at) + 1), at[i])
        elif what == 2 and key is not None:
            at[i] = (rng.choice([o for o in ODD if isinstance(o, str)]), child)
        elif what == 3:
            other = rng.choice(everything)
            at[i] = at[i] if containers(other) and at in containers(other) else _member(key, other)
        elif what == 4 and type(child) is int:
            at[i] = _member(key, child + rng.choice([-8, -4, -1, 1, 4, 8]))
        elif what == 5 and type(child) is str and child.startswith("{"):
            with suppress(json.JSONDecodeError):  # it was changed before
                at[i] = _member(key, changed_json(rng, child))
        else:
            at[i] = _member(key, rng.choice(ODD))
    return dumped(value)


def _member(key: Any, value: Any) -> Any:
    return value if key is None else (key, value)


def changed_bytes(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """Bytes with some flipped, cut, doubled, or taken from elsewhere."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        i = rng.randrange(len(changed) + 1)
        j = min(len(changed), i + rng.choice([0, 1, 2, 8, 50]))
        k = rng.randrange(len(other))
        piece = rng.choice(
            [b"", other[k : k + rng.choice([1, 8, 50])], bytes(changed[i:j]) * 2, rng.randbytes(j - i)]
        )
        changed[i:j] = piece
    return bytes(changed)


def split(content: bytes) -> tuple[bytes, bytes]:
    stop = 8 + int.from_bytes(content[:8], "little")
    return content[8:stop], content[stop:]


SEEDS = [
    saved(TREE),
    saved(
        {
            "model": {"0.weight": np.ones((2, 3), "f4"), "0.bias": np.zeros(3)},
            "step": 7,
            1: [True, -0.0, 1 << 70],
        }
    ),
    saved([np.float32(1.5), ("a", "é\n", None), {"x": {"y": [mg.ones(2)]}}, float("nan"), np.ones(3, bool)]),
    saved([[shared := [1], shared, {2.5: shared}], array := np.ones(2, "i2"), array]),
    file_of({"x": X, "y": entry("U8", [3], [8, 11])}, b"12345678901"),
    file_of(
        {
            "__metadata__": {"format": "pt"},
            "z": entry("I64", [1, 0, 4], [0, 0]),
            "b": entry("BOOL", [2], [0, 2]),
        },
        b"\1\0",
    ),
    file_of({}),
]


def any_change(rng: random.Random) -> bytes:
    """A file made of a good one by changes of bytes, of the header's text, or of what it says as JSON."""
    content = rng.choice(SEEDS)
    header, data = split(content)
    what = rng.randrange(6)
    if what == 0:
        return changed_bytes(rng, content, rng.choice(SEEDS))
    if what == 1:
        return (
            struct.pack("<Q", rng.choice([len(header) + rng.randint(-9, 9), rng.getrandbits(64)]) % (1 << 64))
            + content[8:]
        )
    if what == 2:
        return file_of(changed_bytes(rng, header, split(rng.choice(SEEDS))[0]), data)
    if what == 3:
        data = changed_bytes(rng, data + b"12345678", content)
    return file_of(changed_json(rng, header.decode()).encode("utf-8", "replace"), data)


def change_of_structure(rng: random.Random) -> bytes:
    """A file whose header is right but for minigrad's structure in it."""
    header, data = split(rng.choice(SEEDS[:4]))
    said = json.loads(header)
    text = said["__metadata__"]["minigrad"]
    if rng.random() < 0.3:
        text = changed_bytes(rng, text.encode(), text.encode()).decode("utf-8", "replace")
    else:
        text = changed_json(rng, text)
    said["__metadata__"]["minigrad"] = text
    return file_of(json.dumps(said).encode(), data)


def changed_data(rng: random.Random) -> bytes:
    """A file with other data, as of a disk that forgets."""
    header, data = split(rng.choice(SEEDS[:6]))
    return file_of(header, rng.randbytes(len(data)))


@pytest.mark.parametrize(
    ("make", "share"), [(any_change, 1.0), (change_of_structure, 1.0), (changed_data, 0.1)]
)
def test_files_that_differ_from_good_ones(make: Callable[[random.Random], bytes], share, tmp_path):
    seed = int.from_bytes(os.urandom(8), "little") if FUZZ else 0
    rng = random.Random(seed)
    path = tmp_path / "x"
    counts: Counter[str] = Counter()
    slowest = most = 0.0
    for i in range(int((FUZZ or 1500) * share)):
        content = make(rng)
        path.write_bytes(content)
        by_package = error = tree = None
        try:
            safetensors.deserialize(content)
        except safetensors.SafetensorError as raised:
            by_package = raised
        measured = i % 50 == 0
        if measured:
            tracemalloc.start()
        begin = time.perf_counter()
        try:
            tree = mg.load(path, mmap=i % 2 == 1)
        except FormatError as raised:
            error = str(raised)
        except ImportError as raised:
            if "needs the package ml_dtypes" not in str(raised) or find_spec("ml_dtypes"):
                raise
            continue
        except BaseException:
            print(f"seed {seed}, input {i}: {content!r}")
            raise
        slowest = max(slowest, time.perf_counter() - begin)
        if measured:
            used = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            most = max(most, used)
            assert used < 100 * len(content) + 100_000, content
        if by_package is not None:
            counts["refused by both"] += 1
            assert error is not None, f"the package says {by_package}, of {content!r}"
        elif error is not None:
            reason = next((reason for reason in DELIBERATE if reason in error), None)
            # What is wrong with the structure's text is said in the same words as of the header.
            reason = reason or ("its structure" if b"minigrad" in content else None)
            assert reason is not None, f"the package takes what is refused: {error}: {content!r}"
            counts[f"refused here alone: {reason}"] += 1
        else:
            counts["loaded"] += 1
            if i % 5 == 0:  # what can be loaded can be saved, and comes back
                again = tmp_path / "again"  # another one: the tree may be a map of the first
                again.write_bytes(saved(tree))
                check(mg.load(again), tree)
    print(f"\n{make.__name__}: {dict(counts)}")
    print(f"the slowest took {slowest * 1e3:.1f} ms, the most memory {most / 1e3:.0f} kB")
    assert counts["loaded"] > 10 * share
    assert (
        counts["refused by both"] + counts["refused here alone: its structure"] > 10 or make is changed_data
    )
