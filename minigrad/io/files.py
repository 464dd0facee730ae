"""Saving a tree to a file, and loading it: the structure from `tree`, the arrays from `safetensors`."""

from os import PathLike
from typing import Any

from ..autograd import wrap
from ..backend import backend as current_backend
from ..backend import get
from . import durable
from .safetensors import Entry, FormatError, Header, map_arrays, opened, parts, read_arrays, read_header
from .tree import flattened, rebuilt

_KEY = "minigrad"  # of the metadata, where the structure is

# What tensors hold.
_OF_TENSORS = {"BOOL", "U8", "I8", "I16", "U16", "F16", "I32", "U32", "F32", "F64", "I64", "U64"}


def save(path: str | PathLike[str], tree: Any) -> None:
    """Write a tree to a file, so that `load` gives it back.

    A crash, a full disk or Ctrl-C at any moment leaves the old file or the new one, whole: the new one takes
    the old one's place when all of it is on the disk. What a killed process leaves behind is removed by the
    next that saves there.

    The file is in the safetensors format, for which there are readers in many languages. Arrays are named
    by their place in the tree, such as `model.0.weight`: those of a state dict have its keys. The structure
    is in the metadata. A file holds no code, and nothing that would be run.

    Args:
        path: where; links are followed, and a new file has the permissions that the umask leaves.
        tree: any nesting of dicts, lists and tuples, 100 levels at most, of tensors, NumPy arrays and
            scalars, Python's numbers, strings, bools and None. Keys of dicts are strings, numbers (integers
            of up to 64 bits), bools or None. An object that is there several times is stored once.

    Raises:
        TypeError: there is something else in the tree; the message says where.
        ValueError: the tree contains itself, is nested too deeply, has a string that is no Unicode text, or
            more than 100 MB besides its arrays.
        OSError: the system cannot write the file.

    >>> import tempfile, minigrad as mg
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     mg.save(f"{folder}/run.safetensors", {"weight": mg.ones(2), "step": 7, "history": [0.5, 0.25]})
    ...     mg.load(f"{folder}/run.safetensors")
    {'weight': tensor([1., 1.], dtype=float32, device=numpy), 'step': 7, 'history': [0.5, 0.25]}
    """
    if not isinstance(path, (str, bytes, PathLike)):  # in torch it is the other way round
        raise TypeError(
            f"save: the path comes first, and then the tree; got {type(path).__name__} as the path"
        )
    structure, arrays = flattened(tree)
    durable.replace(path, parts(arrays, {_KEY: structure}))


def load(path: str | PathLike[str], *, device: str | None = None, mmap: bool = False) -> Any:
    """The tree that `save` wrote to a file; of any other safetensors file, its NumPy arrays by name.

    Whatever a file says is checked before it is believed: one that is damaged, or made to harm, is a
    `FormatError`, runs nothing, and takes no more memory than its own size and ten times that of its header,
    or a hundred times if it is made for that. Tensors come back without graph and gradient, each array in
    memory of its own, and an object that was at several places as one.

    Args:
        path: the file.
        device: where tensors go; by default to the current backend. Arrays stay NumPy's.
        mmap: do not read the arrays but map the file, and let the system read what is used. They are
            read-only, and whoever overwrites or shortens the file (`save` does neither: it puts a new one in
            its place) changes them, or ends the process.

    Raises:
        FormatError: it is no whole safetensors file, or not one of `save`'s making where it says so.
        OSError: the system cannot read it.
        ImportError: it has numbers of a kind, such as bfloat16, for which NumPy needs `ml_dtypes`.
        ValueError: there is no such device.
    """
    backend = get(device or current_backend())
    with opened(path) as file:
        header = read_header(file)
        _outline(header)
        arrays = map_arrays(file, header) if mmap else read_arrays(file, header)
    if _KEY not in header.metadata:
        return arrays

    def leaf(kind: str, name: str) -> Any:
        array = arrays.pop(name)  # so that what has gone to a GPU does not stay here as well
        return wrap(backend.from_numpy(array)) if kind == "tensor" else array

    return rebuilt(header.metadata[_KEY], leaf)


def outline(path: str | PathLike[str]) -> Any:
    """What `load` would give, with an `Entry` (dtype, shape, place) for each array: the arrays are not read.

    Raises what `load` does.
    """
    with opened(path) as file:
        return _outline(read_header(file))


def _outline(header: Header) -> Any:
    """The tree with entries for arrays, once all of the structure is checked."""
    if _KEY not in header.metadata:
        return header.entries
    unused = set(header.entries)

    def leaf(kind: str, name: str) -> Entry:
        if name not in unused:
            raise FormatError(f"its structure has an array {name[:60]!r}, which is not there")
        unused.remove(name)
        entry = header.entries[name]
        if kind == "tensor" and entry.dtype not in _OF_TENSORS:
            raise FormatError(f"its structure has {name[:60]!r} as a tensor, which cannot hold {entry.dtype}")
        return entry

    tree = rebuilt(header.metadata[_KEY], leaf)
    if unused:
        raise FormatError(f"its structure has no place for the array {min(unused)[:60]!r}")
    return tree
