"""Files: what is saved comes back byte for byte, and the safetensors package reads it and writes the same.

How a file takes the place of another is tested in test_durable.py, what a bad file does in
test_hostile_files.py.
"""

import json
import math
import os
import struct
import tracemalloc
from collections import OrderedDict, defaultdict, namedtuple
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from helpers import torch_or_skip
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.io import FormatError
from minigrad.io import safetensors as codec

NUMPY_DTYPES = [
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64", "complex64"),
]
ML_DTYPES = {
    "BF16": "bfloat16",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}


def little_bytes(array: np.ndarray) -> bytes:
    """The numbers of an array, of any layout and byte order, in C order and little-endian."""
    order = array.dtype.byteorder
    big = order == ">" or (order == "=" and np.little_endian is False)
    return (array.byteswap() if big else array).tobytes()


def check(got: Any, want: Any) -> None:
    """Assert that a tree is what another was before it was saved."""
    if isinstance(want, mg.Tensor):
        assert type(got) is mg.Tensor
        assert not got.requires_grad
        assert got.grad is None
        got, want = got.numpy(), want.detach().numpy()
    if isinstance(want, np.ndarray):
        assert type(got) is np.ndarray
        assert (got.dtype.name, got.shape) == (want.dtype.name, want.shape)
        assert got.dtype.isnative
        assert got.flags.aligned
        assert got.flags.c_contiguous
        assert got.tobytes() == little_bytes(np.asarray(want))
    elif isinstance(want, np.generic):
        assert type(got) is type(want)
        assert got.tobytes() == want.tobytes()
    elif isinstance(want, dict):
        assert type(got) is dict
        for pair in zip(got, want, strict=True):
            check(*pair)
        for pair in zip(got.values(), want.values(), strict=True):
            check(*pair)
    elif isinstance(want, (list, tuple)):
        assert type(got) is type(want)
        for pair in zip(got, want, strict=True):
            check(*pair)
    elif isinstance(want, float):
        assert type(got) is float
        assert struct.pack("d", got) == struct.pack("d", want)
    else:
        assert type(got) is type(want)
        assert got == want


def round_trip(folder: Path, tree: Any, **how: Any) -> Any:
    mg.save(folder / "tree.safetensors", tree)
    return mg.load(folder / "tree.safetensors", **how)


def numbers(dtype: Any, shape: tuple[int, ...] = (3, 4, 6)) -> np.ndarray:
    """Random bytes as numbers: NaN of all kinds, subnormals, and so on."""
    dtype = np.dtype(dtype)
    random = np.random.default_rng(0)
    if dtype.kind == "b":
        return random.random(shape) < 0.5
    return np.frombuffer(random.bytes(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)


# --- arrays ------------------------------------------------------------------------------------------


def unaligned(a: np.ndarray) -> np.ndarray:
    return np.frombuffer(b"?" + a.tobytes(), a.dtype, offset=1).reshape(a.shape)


def mapped(a: np.ndarray, folder: Path) -> np.ndarray:
    memory = np.memmap(folder / "mapped", a.dtype, "w+", shape=a.shape)
    memory[:] = a
    return memory


class Stubborn(np.ndarray):
    """An array that has its own mind about shapes and views."""

    def reshape(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no")

    view = reshape


LAYOUTS = {
    "as it is": lambda a: a,
    "writeable": lambda a: a.copy(),
    "Fortran order": np.asfortranarray,
    "transposed": lambda a: a.transpose(2, 0, 1),
    "reversed": lambda a: a[::-1, ::-1, ::-1],
    "one axis reversed": lambda a: a[:, ::-1],
    "every other": lambda a: a[:, :, ::2],
    "every other, from behind": lambda a: a[::-2, :, ::-3],
    "a piece": lambda a: a[1:, 1:3, 2:5],
    "repeated": lambda a: np.broadcast_to(a[:, :1], (2, 3, 9, 6)),
    "one number repeated": lambda a: np.broadcast_to(a[0, 0, 0], (7, 5)),
    "windows": lambda a: np.lib.stride_tricks.sliding_window_view(a, 3, axis=2),
    "one number": lambda a: a[1, 2, 3:4].reshape(()),
    "no number": lambda a: a[:0],
    "no number, in an axis between": lambda a: a[:, 2:2].transpose(2, 1, 0),
    "of length 1": lambda a: a[:1, :1, ::7],
    "unaligned": unaligned,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "big-endian, strided": lambda a: a.astype(a.dtype.newbyteorder(">")).T[::2],
    "a matrix": lambda a: a[0].copy().view(np.matrix),  # which has no fewer than two axes, ever
    "a matrix, transposed": lambda a: a[0].copy().view(np.matrix).T,
    "a subclass": lambda a: a.copy().view(Stubborn),
    "many axes": lambda a: a.reshape((1,) * 60 + a.shape),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_arrays_of_all_layouts_come_back(dtype, tmp_path):
    tree = {name: change(numbers(dtype)) for name, change in LAYOUTS.items()}
    tree["a map of a file"] = mapped(numbers(dtype), tmp_path)
    before = {name: (little_bytes(np.asarray(a)), a.strides) for name, a in tree.items()}
    check(round_trip(tmp_path, tree), tree)
    check(round_trip(tmp_path, tree, mmap=True), tree)
    assert {name: (little_bytes(np.asarray(a)), a.strides) for name, a in tree.items()} == before


@pytest.mark.parametrize("name", ML_DTYPES.values())
def test_arrays_of_ml_dtypes_come_back(name, tmp_path):
    dtype = getattr(pytest.importorskip("ml_dtypes"), name)
    other = ("a matrix", "a matrix, transposed", "big-endian", "big-endian, strided", "windows")
    tree = {n: change(numbers(dtype)) for n, change in LAYOUTS.items() if n not in other}
    tree["a scalar"] = numbers(dtype)[0, 0, 1]
    check(round_trip(tmp_path, tree), tree)
    check(round_trip(tmp_path, tree, mmap=True), tree)


@pytest.mark.parametrize("shape", [(1 << 18, 3), (3, (1 << 18) + 1), (5, 7, 33333)])
def test_arrays_that_are_copied_piece_by_piece(shape, tmp_path):
    a = numbers("f", shape)
    tree = [a.T, a[:, ::2], a[::-1], np.broadcast_to(a[:1, ..., :1], shape), a.astype(">f4")]
    check(round_trip(tmp_path, tree), tree)


def test_what_is_loaded_is_memory_of_its_own(tmp_path):
    """And so it can be written to, unless it is a map of the file."""
    tree = {"a": np.arange(5.0), "b": np.zeros(3, bool)}
    loaded = round_trip(tmp_path, tree)
    assert all(a.flags.writeable and a.flags.aligned for a in loaded.values())
    loaded["a"] += 1
    check(mg.load(tmp_path / "tree.safetensors"), tree)
    shown = mg.load(tmp_path / "tree.safetensors", mmap=True)
    assert not any(a.flags.writeable for a in shown.values())


def test_a_map_of_a_file_outlives_the_file(tmp_path):
    old = numbers("d", (1000, 100))
    loaded = round_trip(tmp_path, {"a": old}, mmap=True)
    mg.save(tmp_path / "tree.safetensors", {"a": np.zeros(1), "b": loaded["a"]})
    check(loaded, {"a": old})
    again = mg.load(tmp_path / "tree.safetensors", mmap=True)
    (tmp_path / "tree.safetensors").unlink()
    check(again["b"], old)


def test_maps_of_arrays_that_lie_askew(tmp_path):
    header = b'{"a":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}'  # 55 bytes, not a multiple of 8
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("2d", 1.5, -2.5))
    check(mg.load(tmp_path / "x", mmap=True), {"a": np.array([1.5, -2.5])})


def test_bools_are_0_and_1(tmp_path):
    """Others would make NumPy count wrongly."""
    header = b'{"a":{"dtype":"BOOL","shape":[4],"data_offsets":[0,4]}}'
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\1\2\xff")
    for mmap in (False, True):
        check(mg.load(tmp_path / "x", mmap=mmap), {"a": np.array([False, True, True, True])})


# --- tensors -----------------------------------------------------------------------------------------


def test_tensors_come_back_as_their_values(tmp_path):
    leaf = mg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    (leaf * leaf).sum().backward()
    tree = [leaf, leaf.T, (leaf * 2)[::-1], nn.Parameter([1.0]), nn.Buffer(3), leaf > 2, mg.zeros((0, 2))]
    loaded = round_trip(tmp_path, tree)
    check(loaded, tree)
    loaded[0].requires_grad_()
    (loaded[0] * 3).sum().backward()
    assert loaded[0].grad.tolist() == [[3, 3], [3, 3]]


def test_tensors_go_to_a_device_and_arrays_do_not(tmp_path):
    tree = {"x": mg.asarray([[1.0, 2.0]]).T, "flags": mg.asarray([True]), "array": np.arange(3)}
    loaded = round_trip(tmp_path, tree, device="strict")
    check(loaded, tree)
    assert [loaded[name].device for name in ("x", "flags")] == ["strict", "strict"]
    with mg.use_backend("strict"):
        check(mg.load(tmp_path / "tree.safetensors", mmap=True), tree)
        assert mg.load(tmp_path / "tree.safetensors")["x"].device == "strict"
        again = round_trip(tmp_path, loaded, device="numpy")  # out of a device
    check(again, tree)
    assert again["x"].device == "numpy"
    with pytest.raises(ValueError, match="unknown backend 'moon'"):
        mg.load(tmp_path / "tree.safetensors", device="moon")


def test_a_tensor_inside_vmap_is_refused(tmp_path):
    def f(x):
        mg.save(tmp_path / "x", {"x": x})
        return x

    with pytest.raises(TypeError, match=r"tree\['x'\] is a tensor inside vmap"):
        mg.vmap(f)(mg.ones((2, 3)))
    assert not list(tmp_path.iterdir())


# --- trees -------------------------------------------------------------------------------------------

PLAIN = [
    *(None, True, False, 0, 1, -1, 1 << 53, (1 << 64) - 1, -(1 << 64), 1 << 64, -(10**5000)),
    *(0.0, -0.0, 1.0, 0.1, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan),
    *("", "a", '\0\x1f\x7f\n"\\/', "é\u2028😀\ufeff\ud7ff", "x" * 100_000, "list", "$", "null"),
    *([], (), {}, [[]], ([],), [()], {"": {"": {}}}, [None, [True, [1, [1.0, ["1"]]]]]),
    *(["list"], ["tuple", 1], ["same", 0], ["array", "array"], {"list": ["dict"]}, ("float", "nan")),
    {1: "int", "1": "str", None: "none", "None": "str", 2.0: "float", "2.0": "str"},
    *({True: 1, False: 0}, {1: 1}, {1.0: 1}, {-0.0: 0}, {math.inf: 1}, {(1 << 64) - 1: 1}),
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: ascii(value)[:30] if value != -(10**5000) else "")
def test_plain_values_come_back(value, tmp_path):
    check(round_trip(tmp_path, value), value)
    check(round_trip(tmp_path, {"a": [value, (value,)]}), {"a": [value, (value,)]})


def test_numpy_scalars_come_back(tmp_path):
    tree = [np.dtype(dtype).type(value) for dtype in NUMPY_DTYPES for value in (0, 1, 0.3)]
    tree += list(numbers("f").flat)[:20]  # with NaN of other bits
    check(round_trip(tmp_path, tree), tree)


def test_dicts_of_other_kinds_come_back_as_dicts(tmp_path):
    tree = [OrderedDict(b=1, a=2), defaultdict(list, x=[1])]
    assert round_trip(tmp_path, tree) == [{"b": 1, "a": 2}, {"x": [1]}]
    assert [type(d) for d in round_trip(tmp_path, tree)] == [dict, dict]


def test_the_order_of_keys_is_kept(tmp_path):
    tree = {"z": np.zeros(1), "a": np.zeros(1, "b"), "m": {"y": np.zeros(()), "b": 1}}
    assert list(round_trip(tmp_path, tree)) == ["z", "a", "m"]
    assert list(round_trip(tmp_path, tree)["m"]) == ["y", "b"]


leaves = st.one_of(
    st.none() | st.booleans() | st.integers() | st.floats(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.builds(
        lambda dtype, shape, step: numbers(dtype, shape)[..., ::step],
        st.sampled_from(NUMPY_DTYPES),
        st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple),
        st.sampled_from([1, -1, 2]),
    ),
    st.builds(mg.tensor, st.lists(st.floats(width=32), max_size=3)),
    st.sampled_from(NUMPY_DTYPES).map(lambda dtype: numbers(dtype)[0, 0, 0]),
)
# Of numbers that are the same key only one can be in a dict; NaN is not even the same as itself.
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=3) | st.sampled_from(
    [None, True, 0, 2, -7, 1 << 40, 0.5, -math.inf, "a.b", "a", "b", "__metadata__", "0", "list"]
)
trees = st.recursive(
    leaves,
    lambda inside: (
        st.lists(inside, max_size=4)
        | st.lists(inside, max_size=4).map(tuple)
        | st.dictionaries(keys, inside, max_size=5)
        | st.lists(inside, min_size=1, max_size=3).map(lambda x: [*x, x[0], (x[0],)])  # an object twice
    ),
    max_leaves=20,
)


@given(trees)
@settings(max_examples=150)
def test_any_tree_comes_back(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    mg.save(path, tree)
    check(mg.load(path), tree)
    check(mg.load(path, mmap=True), tree)
    assert shape_of(mg.load(path)) == shape_of(tree)


def shape_of(tree: Any) -> list[int]:
    """For each object in a tree, when it was met first: which of them are the same."""
    met: dict[int, int] = {}
    order = []

    def visit(value):
        if isinstance(value, (dict, list, mg.Tensor, np.ndarray)) or (type(value) is tuple and value):
            order.append(met.setdefault(id(value), len(order)))
            if order[-1] < len(order) - 1:
                return
        if isinstance(value, dict):
            for child in value.values():
                visit(child)
        elif isinstance(value, (list, tuple)):
            for child in value:
                visit(child)

    visit(tree)
    return order


def test_one_object_at_several_places_is_one(tmp_path):
    array, tensor, inner = np.arange(100_000.0), mg.ones(100_000), [1]
    pair = (inner, array)
    tree = {"a": array, "t": tensor, "i": inner, "p": pair, "again": [array, tensor, inner, pair]}
    loaded = round_trip(tmp_path, tree)
    check(loaded, tree)
    assert all(loaded["again"][i] is loaded[name] for i, name in enumerate(["a", "t", "i", "p"]))
    assert loaded["p"][0] is loaded["i"]
    assert loaded["p"][1] is loaded["a"]
    assert (tmp_path / "tree.safetensors").stat().st_size < 1_210_000  # each once
    equal = round_trip(tmp_path, [np.ones(2), np.ones(2), [1], [1]])  # but these are several
    assert equal[0] is not equal[1]
    assert equal[2] is not equal[3]


def test_objects_that_are_made_on_the_way_are_not_taken_for_one(tmp_path):
    """They may come to have one id, one after the other."""

    class Multiples(dict):
        def items(self) -> Any:
            return [(str(i), [i * self["of"], np.full(3, i)]) for i in range(100)]

    tree = [Multiples(of=n) for n in range(5)]
    check(round_trip(tmp_path, tree), [dict(multiples.items()) for multiples in tree])


def test_shared_containers_take_no_time(tmp_path):
    tree: Any = [1.0]
    for _ in range(99):
        tree = [tree, tree]  # 2 ** 99 places
    loaded = round_trip(tmp_path, tree)
    for _ in range(99):
        assert loaded[0] is loaded[1]
        loaded = loaded[0]
    assert loaded == [1.0]


def nested(levels: int, inside: Any) -> Any:
    for _ in range(levels):
        inside = [inside]
    return inside


def test_trees_that_are_too_deep(tmp_path):
    for tree in (nested(100, 1), nested(99, {1: 2}), nested(99, {"a": 2}), [nested(98, [])] * 2):
        check(round_trip(tmp_path, tree), tree)
    deep = nested(50, 1)
    for tree in (nested(101, 1), nested(100, {}), [deep, nested(50, deep)], nested(100_000, 1)):
        with pytest.raises(ValueError, match=r"save: tree\[.*\] is nested too deeply: 100 levels"):
            mg.save(tmp_path / "deep", tree)
    while type(tree) is list:
        tree = tree.pop()  # so that it is not freed in one go
    assert not (tmp_path / "deep").exists()


def test_trees_that_contain_themselves(tmp_path):
    ring: Any = {"a": [1]}
    ring["a"].append((2, ring))
    with pytest.raises(ValueError, match=r"save: tree\['a'\]\[1\]\[1\] is inside itself"):
        mg.save(tmp_path / "x", ring)
    assert not list(tmp_path.iterdir())


Point = namedtuple("Point", "x y")
Level = IntEnum("Level", "LOW HIGH")
OWN_DTYPES = {"hours": np.zeros(2, "m8[h]"), "text": np.zeros(2, "U3"), "objects": np.array([{}])}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1}, r"is a builtins.set: trees are made of dicts, lists"),
        (Point(1, 2), r"is a .*test_io.Point: make it a plain tuple"),
        (Level.LOW, r"is a .*test_io.Level"),
        (b"x", r"is a builtins.bytes: make it an array, with numpy.frombuffer"),
        (1j, r"is a builtins.complex"),
        (range(3), r"is a builtins.range"),
        (type("Text", (str,), {})("x"), r"is a .*test_io.Text"),
        (type("Items", (list,), {})(), r"is a .*test_io.Items"),
        (len, r"is a builtins.builtin_function_or_method"),
        (nn.Linear(1, 1), r"is a minigrad.nn.linear.Linear: save its state_dict\(\)"),
        (OWN_DTYPES["hours"], r"is of dtype timedelta64\[h\], which the safetensors format does not have"),
        (OWN_DTYPES["text"], r"is of dtype <U3"),
        (OWN_DTYPES["objects"], r"is of dtype object"),
        (np.zeros(1, "c16"), r"is of dtype complex128"),
        (np.zeros(1, "f4,i4"), r"is of dtype \["),
        (np.str_("x"), r"is of dtype <U1"),
        (np.datetime64(1, "s"), r"is of dtype datetime64"),
        (np.ma.masked_array([1, 2], [False, True]), r"is a masked array: save its data and its mask"),
    ],
)
def test_what_no_tree_is_made_of(value, message, tmp_path):
    with pytest.raises(TypeError, match=r"^save: tree\['a'\]\[1\] " + message):
        mg.save(tmp_path / "x", {"a": [0, value]})
    with pytest.raises(TypeError, match=r"^save: tree " + message):
        mg.save(tmp_path / "x", value)
    assert not list(tmp_path.iterdir())


def test_the_path_comes_first(tmp_path):
    with pytest.raises(
        TypeError, match="save: the path comes first, and then the tree; got dict as the path"
    ):
        mg.save({"step": 1}, tmp_path / "x")  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "x").exists()


def test_arrays_of_another_library_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"tree\[0\] is a array_api_strict.*make it a tensor"):
        mg.save(tmp_path / "x", [mg.ones(2).to("strict").data])


@pytest.mark.parametrize("key", [(1,), b"x", np.float64(1), np.str_("x"), Level.LOW, 1 << 64, -(1 << 64)])
def test_keys_of_other_kinds(key, tmp_path):
    with pytest.raises(TypeError, match=r"^save: tree\['a'\] has the key .*; keys are strings, floats"):
        mg.save(tmp_path / "x", {"a": {key: 1}})


def test_text_that_is_not_unicode(tmp_path):
    for tree in ({"a": ["x\ud800"]}, {"a": {"\udfff": 1}}, {"a": {"\udfff": np.ones(1)}}):
        with pytest.raises(ValueError, match=r"^save: tree\['a'\]\[.*\] is no Unicode text"):
            mg.save(tmp_path / "x", tree)


def test_a_header_that_the_format_does_not_allow(tmp_path, monkeypatch):
    monkeypatch.setattr(codec, "_LONGEST_HEADER", 1000)
    mg.save(tmp_path / "x", "a" * 800)
    with pytest.raises(ValueError, match="would take 1264 bytes, and the safetensors format allows 1000"):
        mg.save(tmp_path / "x", "a" * 1200)
    assert mg.load(tmp_path / "x") == "a" * 800
    assert len(list(tmp_path.iterdir())) == 1


# --- names, and other readers ------------------------------------------------------------------------


def names(path: Path) -> list[str]:
    return list(safetensors.numpy.load_file(path))


def test_arrays_are_named_by_their_place(tmp_path):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    path = tmp_path / "x"
    mg.save(path, model.state_dict())
    assert sorted(names(path)) == sorted(model.state_dict())
    mg.save(path, {"model": model.state_dict(), "mean": [1, (mg.ones(1),)], 7: {None: mg.ones(1)}})
    assert sorted(names(path)) == sorted([*(f"model.{n}" for n in model.state_dict()), "mean.1.0", "7.None"])
    mg.save(path, np.ones(3))
    assert names(path) == ["array"]


def test_names_that_would_be_the_same(tmp_path):
    tree = {
        "a.b": np.zeros(1),
        "a": {"b": np.ones(1)},
        1: np.full(1, 2),
        "1": np.full(1, 3),
        "a.b~2": np.full(1, 4),
        "__metadata__": np.full(1, 5),
        "": np.full(1, 6),
        "\x00/..\\\n'\"😀": np.full(1, 7),
    }
    check(round_trip(tmp_path, tree), tree)
    found = safetensors.numpy.load_file(tmp_path / "tree.safetensors")
    assert sorted(a.item() for a in found.values()) == list(range(8))
    assert {"a.b", "1", "\x00/..\\\n'\"😀"} < found.keys()


def structure_of(path: Path) -> str:
    with safetensors.safe_open(path, "np") as file:
        return file.metadata()["minigrad"]


@pytest.mark.parametrize(
    "flat",
    [
        {},
        {"x": numbers("f")},
        {f"{dtype}.{i}": numbers(dtype, (i, 3)) for dtype in NUMPY_DTYPES for i in range(12)},
        {"b": numbers("b", (3,)), "a": numbers("d", ()), 'é\u2028\x7f\x01"\\/😀': numbers("?", (2, 0))},
        {"z": numbers("H", (5,)), "Z": numbers("h", (5,)), "\uffff": numbers("e", (5,)), "😀": numbers("h")},
    ],
)
def test_files_are_those_of_the_safetensors_package_to_the_byte(flat, tmp_path):
    mg.save(tmp_path / "ours", flat)
    metadata = {"minigrad": structure_of(tmp_path / "ours")}
    safetensors.numpy.save_file(flat, tmp_path / "theirs", metadata)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    safetensors.numpy.save_file(flat, tmp_path / "theirs")  # without our structure
    check(dict(sorted(mg.load(tmp_path / "theirs").items())), dict(sorted(flat.items())))
    check(mg.load(tmp_path / "ours"), flat)


def test_torch_reads_files_and_writes_the_same(tmp_path):
    torch = torch_or_skip()
    import safetensors.torch as package

    theirs = {
        f"{dtype}".removeprefix("torch."): torch.arange(-6, 6).reshape(3, 4).to(dtype)
        for dtype in (
            *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
            *(torch.float16, torch.float32, torch.float64, torch.complex64),
        )
    }
    theirs |= {"none": torch.zeros(0, 3), "one": torch.tensor(2.5)}
    ours = {name: x.numpy() for name, x in theirs.items()}
    package.save_file(theirs, tmp_path / "theirs")
    check(dict(sorted(mg.load(tmp_path / "theirs").items())), dict(sorted(ours.items())))
    mg.save(tmp_path / "ours", ours)
    found = package.load_file(tmp_path / "ours")
    assert all(found[name].dtype == x.dtype and torch.equal(found[name], x) for name, x in theirs.items())
    package.save_file(theirs, tmp_path / "theirs", {"minigrad": structure_of(tmp_path / "ours")})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_small_floats_of_torch(tmp_path):
    torch = torch_or_skip()
    ml_dtypes = pytest.importorskip("ml_dtypes")
    import safetensors.torch as package

    kinds = {"BF16": torch.bfloat16, "F8_E5M2": torch.float8_e5m2, "F8_E4M3": torch.float8_e4m3fn}
    kinds |= {"F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz}
    theirs = {name: torch.linspace(-3, 3, 7).to(dtype) for name, dtype in kinds.items()}
    package.save_file(theirs, tmp_path / "theirs")
    loaded = mg.load(tmp_path / "theirs")
    for name, array in loaded.items():
        assert array.dtype == getattr(ml_dtypes, ML_DTYPES[name])
        assert array.astype("f").tolist() == theirs[name].float().tolist()
    mg.save(tmp_path / "ours", loaded)
    found = package.load_file(tmp_path / "ours")
    assert all(torch.equal(found[name].float(), x.float()) for name, x in theirs.items())
    assert all(found[name].dtype == x.dtype for name, x in theirs.items())


def test_bfloat16_without_ml_dtypes(tmp_path, monkeypatch):
    import sys

    header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\0\0")
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"^load: '.*x': NumPy needs the package ml_dtypes for BF16"):
        mg.load(tmp_path / "x")


def test_a_module_loads_a_file(tmp_path):
    one, two = nn.Linear(2, 3), nn.Linear(2, 3)
    mg.save(tmp_path / "x", one.state_dict())
    assert two.load_state_dict(tmp_path / "x") == ([], [])
    check(two.state_dict(), one.state_dict())
    mg.save(tmp_path / "x", [one.state_dict()])
    with pytest.raises(TypeError, match=r"load_state_dict: '.*x' holds no arrays by name, but a list"):
        two.load_state_dict(str(tmp_path / "x"))
    (tmp_path / "x").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(FormatError, match=r"^load: '.*x': 6 bytes are too few"):
        two.load_state_dict(tmp_path / "x")


def test_an_optimizer_goes_on_from_a_file(tmp_path):
    """Steps after loading are the steps without, to the bit."""

    def step(model, optimizer):
        optimizer.zero_grad()
        mg.square(model(mg.ones((4, 2)))).sum().backward()
        optimizer.step()

    one, two = nn.Linear(2, 3), nn.Linear(2, 3)
    first, second = (mg.optim.Adam(model.parameters(), lr=0.1) for model in (one, two))
    step(one, first)
    mg.save(tmp_path / "x", {"model": one.state_dict(), "optimizer": first.state_dict()})
    kept = mg.load(tmp_path / "x")
    two.load_state_dict(kept["model"])
    second.load_state_dict(kept["optimizer"])
    for _ in range(3):
        step(one, first)
        step(two, second)
    check(two.state_dict(), one.state_dict())


def test_an_outline_has_all_but_the_arrays(tmp_path, monkeypatch):
    array = np.zeros((2, 3), "i4")
    tree = {"score": 0.75, "x": [array, array], "t": mg.ones(2), "step": (7, None)}
    mg.save(tmp_path / "x", tree)
    monkeypatch.setattr(codec, "read_arrays", None)
    found = mg.io.outline(tmp_path / "x")
    assert (found["score"], found["step"]) == (0.75, (7, None))
    assert found["x"][0] is found["x"][1]
    assert found["x"][0][:2] == ("I32", (2, 3))
    assert found["t"].dtype == "F32"
    safetensors.numpy.save_file({"a": array}, tmp_path / "x")
    assert mg.io.outline(tmp_path / "x") == {"a": mg.io.Entry("I32", (2, 3), 0, 24)}


# --- memory ------------------------------------------------------------------------------------------


def peak(call: Any) -> int:
    """The most bytes that Python and NumPy had beside what there was before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_saving_takes_no_memory_but_for_pieces(tmp_path):
    a = np.ones((1 << 11, 1 << 12), "f4")  # 32 MB
    mg.save(tmp_path / "x", a)  # what is imported when it is first needed
    assert peak(lambda: mg.save(tmp_path / "x", {"a": a, "t": mg.asarray(a)})) < 100_000
    for other in (a.T, a[::-1], a.astype(">f4")):
        assert peak(lambda other=other: mg.save(tmp_path / "x", other)) < 5_000_000


def test_loading_takes_the_memory_of_the_arrays(tmp_path):
    tree = {"a": np.ones((1 << 11, 1 << 12), "f4"), "t": mg.ones(1 << 20), "b": np.ones(1 << 23, bool)}
    mg.save(tmp_path / "x", tree)
    size = os.path.getsize(tmp_path / "x")
    assert size <= peak(lambda: mg.load(tmp_path / "x")) + 10_000
    assert peak(lambda: mg.load(tmp_path / "x")) < size + 100_000
    assert peak(lambda: mg.load(tmp_path / "x", mmap=True)) < 100_000
    assert peak(lambda: mg.io.outline(tmp_path / "x")) < 100_000


def test_loading_a_long_header_takes_some_times_its_size(tmp_path):
    """Of 5,000 arrays, and of 50,000 numbers."""
    mg.save(tmp_path / "x", [{"a": np.zeros(1, "b"), "list": [i] * 10} for i in range(5_000)])
    size = os.path.getsize(tmp_path / "x")
    assert size > 400_000
    assert peak(lambda: mg.load(tmp_path / "x")) < 20 * size
    with (tmp_path / "x").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert len(header) == 5_001


def test_dicts_of_very_many_numbers_are_refused(tmp_path):
    """They can be made so that a dict of them takes for ever."""
    mg.save(tmp_path / "some", dict.fromkeys(range(20000)))
    assert len(mg.load(tmp_path / "some")) == 20_000
    with pytest.raises(ValueError, match="over 20000 numbers as keys"):
        mg.save(tmp_path / "many", [dict.fromkeys(range(20001))])


def test_the_name_of_a_folder(tmp_path):
    with pytest.raises(IsADirectoryError, match="name of a folder"):
        mg.save(f"{tmp_path}/new/", 1)
    assert os.listdir(tmp_path) == []
