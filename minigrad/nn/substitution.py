"""Other values in the places of a module's parameters and buffers, while a function runs."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..atomic import at_once, prepared
from ..ops import asarray
from .module import Module
from .parameter import Buffer, Parameter

substituting = threading.RLock()
"""Held by the thread that has put other values in the places of parameters."""

if hasattr(os, "register_at_fork"):
    # A fork waits until no other thread holds it: the child would find it taken, and those values, for ever.
    # (And it waits for this before it waits for what `random` holds, which that thread may need.)
    os.register_at_fork(
        before=substituting.acquire,
        after_in_parent=substituting.release,
        after_in_child=substituting.release,
    )


@contextmanager
def substituted(changes: Mapping[Any, Mapping[str, Any]]) -> Iterator[None]:
    """Inside, tensors have these attributes: another `node`, and thus place in the graph, or other `_data`.

    Meanwhile other threads that want to do so must wait.
    """
    if not changes:
        yield
        return
    with substituting:
        there = [(setattr, x, name, value) for x, change in changes.items() for name, value in change.items()]
        back = prepared([(setattr, x, name, getattr(x, name)) for _, x, name, _ in there])
        try:
            at_once(there)
            yield
        finally:
            back()


def functional_call(
    module: Module, tensors: Mapping[str, Any], args: Any = (), kwargs: Mapping[str, Any] | None = None
) -> Any:
    """What `module(*args, **kwargs)` gives with other tensors in place of its parameters and buffers.

    As `torch.func.functional_call`: the result can be differentiated by these tensors, which may have any
    shape that the module can compute with. A parameter with several names is replaced under all of them.
    What the module assigns to a buffer so replaced is forgotten; others are updated as always. (An
    unknown name, which torch passes over, is an error.) What is checkpointed inside would run again with the
    module's own tensors: backward refuses that.

    Args:
        module: the module, which afterwards is as it was.
        tensors: tensors or arrays by the names in `named_parameters` and `named_buffers`.
        args: the arguments, a tuple; anything else is the one argument.
        kwargs: the keyword arguments.

    Raises:
        KeyError: the module has no parameter or buffer of a name.
        ValueError: two different tensors are given for one parameter with two names.

    >>> import minigrad as mg
    >>> line = mg.nn.Linear(1, 1)
    >>> def loss(tensors):
    ...     return mg.nn.functional_call(line, tensors, mg.tensor([3.0])).sum()
    >>> slope = mg.grad(loss)({"weight": mg.ones((1, 1)), "bias": mg.zeros(1)})
    >>> slope["weight"].item(), slope["bias"].item()
    (3.0, 1.0)
    """
    own: dict[str, Any] = {**dict(module.all_named(Parameter)), **dict(module.all_named(Buffer))}
    unknown = [name for name in tensors if name not in own]
    if unknown:
        raise KeyError(f"functional_call: {type(module).__name__} has no {unknown}, but {list(own)}")
    given: dict[Any, Any] = {}
    for name, tensor in tensors.items():
        if given.setdefault(own[name], tensor) is not tensor:
            raise ValueError(f"functional_call: {name!r} is another name of what is given already")
    others = {x: asarray(tensor) for x, tensor in given.items()}
    with substituted({x: {"_data": y._data, "node": y.node, "home": y.home} for x, y in others.items()}):
        return module(*(args if isinstance(args, tuple) else (args,)), **(kwargs or {}))
