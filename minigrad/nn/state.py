"""The state of a module as arrays by name: out of it, and back in, from here, from torch, or from a file."""

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy

from ..atomic import at_once
from ..ops import asarray, tensor
from ..tensor import Tensor
from .parameter import Buffer, Parameter

if TYPE_CHECKING:
    from .module import Module


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` could not match by name."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def named(module: "Module") -> dict[str, Tensor]:
    """Every parameter and persistent buffer; a shared one under each of its names."""
    buffers = {name: b for name, b in module.all_named(Buffer) if b.persistent}
    return {**dict(module.all_named(Parameter)), **buffers}


def gathered(module: "Module") -> dict[str, numpy.ndarray]:
    """What `Module.state_dict` gives."""
    return {name: x.detach().numpy() for name, x in named(module).items()}


def loaded(
    module: "Module", state_dict: Mapping[str, Any] | str | PathLike[str], strict: bool
) -> IncompatibleKeys:
    """What `Module.load_state_dict` does."""
    if not isinstance(state_dict, Mapping):
        from ..io import load  # which takes a while

        path, state_dict = state_dict, load(state_dict)
        if not isinstance(state_dict, Mapping):
            raise TypeError(
                f"load_state_dict: {str(path)!r} holds no arrays by name, but a {type(state_dict).__name__}"
            )
        for name, value in state_dict.items():
            if not isinstance(value, (Tensor, numpy.ndarray)):
                kind = type(value).__name__
                raise TypeError(
                    f"load_state_dict: {str(path)!r} has {name!r}, which is no array, but a {kind}"
                )
    own = named(module)
    found = {own[name] for name in own if name in state_dict}
    # Files from before torch 0.4.1 have no counts of batches, and torch asks none of a plain dict either.
    missing = [n for n in own if own[n] not in found and n.split(".")[-1] != "num_batches_tracked"]
    unexpected = [name for name in state_dict if name not in own]
    if strict and (missing or unexpected):
        raise KeyError(
            f"load_state_dict: missing {missing or 'nothing'}, unexpected {unexpected or 'nothing'}; "
            "strict=False loads what fits by name"
        )
    arrays = {name: asarray(state_dict[name])._data for name in own if name in state_dict}
    wrong = [
        f"{name}: {tuple(array.shape)} instead of {own[name].shape}"
        for name, array in arrays.items()
        if tuple(array.shape) != own[name].shape
    ]
    if wrong:
        raise ValueError("load_state_dict: shapes differ, " + "; ".join(wrong))
    at_once(
        [
            change
            for name, array in arrays.items()
            for change in own[name]._taking(tensor(array, dtype=own[name].dtype, device=own[name].device))
        ]
    )
    return IncompatibleKeys(missing, unexpected)
