"""State dicts of optimizers: out to NumPy arrays or torch's tensors, and back in with every check."""

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy

from .. import ops
from ..ops.dtypes import numpy_dtype
from ..tensor import Tensor
from .flat import wide

if TYPE_CHECKING:
    from .optimizer import Optimizer

HOW_TORCH_COMPUTES = ("foreach", "fused", "capturable", "differentiable")
OF_SCHEDULES = ("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum")


def settings(group: Mapping[str, Any]) -> dict[str, Any]:
    """All of a group but its parameters."""
    return {key: value for key, value in group.items() if key != "params"}


def dumped(optimizer: "Optimizer", array: Callable[[Any], Any] | None) -> dict[str, Any]:
    """What `Optimizer.state_dict` gives."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    number = {p: n for n, p in enumerate(params)}
    state = {}
    for p, values in optimizer.state.items():
        out = {key: ops.asarray(value).numpy() for key, value in values.items() if key != "step"}
        if optimizer.counts_steps:
            out = {"step": values["step"] if array is None else numpy.float32(values["step"]), **out}
        state[number[p]] = {key: array(value) for key, value in out.items()} if array else out
    groups = [
        {**copy.deepcopy(settings(group)), "params": [number[p] for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    return {"state": dict(sorted(state.items())), "param_groups": groups}


def loaded(
    optimizer: "Optimizer", state_dict: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[Tensor, dict[str, Any]]]:
    """The groups and the state that `state_dict` gives to `optimizer`, which is not changed."""
    name = type(optimizer).__name__
    if not {"state", "param_groups"} <= set(state_dict):
        raise ValueError(f"{name}: a state dict has 'state' and 'param_groups', got {list(state_dict)}")
    saved = state_dict["param_groups"]
    sizes = [len(group["params"]) for group in saved]
    own = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != own:
        raise ValueError(f"{name}: the saved groups have {sizes} parameters, this optimizer's {own}")
    groups, place = [], {}
    for group, other in zip(optimizer.param_groups, saved, strict=True):
        new = {
            key: copy.deepcopy(value)
            for key, value in settings(other).items()
            if key not in (*HOW_TORCH_COMPUTES, "param_names")
        }
        unknown = [key for key in new if key not in ("name", *OF_SCHEDULES, *group)]
        if unknown:
            raise ValueError(f"{name}: the saved state has unknown settings {unknown}")
        groups.append(optimizer.checked({**group, **new}))
        for n, p in zip(_in_our_order(name, group, other), group["params"], strict=True):
            place[n] = groups[-1], p
    state = {}
    for n, values in state_dict["state"].items():
        if n not in place:
            raise ValueError(f"{name}: the saved state has a parameter {n!r} that is in no group")
        group, p = place[n]
        found = _values(optimizer, group, n, p, values)
        if found:
            state[p] = found
    return groups, state


def _in_our_order(name: str, group: Mapping[str, Any], other: Mapping[str, Any]) -> list[Any]:
    """The saved numbers of the parameters of `group`: by name if both sides have names."""
    ours, theirs = group.get("param_names"), other.get("param_names")
    if ours is None or theirs is None:
        return list(other["params"])
    if sorted(ours) != sorted(theirs):
        missing, unexpected = sorted({*ours} - {*theirs}), sorted({*theirs} - {*ours})
        raise ValueError(
            f"{name}: a saved group lacks the parameters {missing}, and has {unexpected}, which are not here"
        )
    numbers = dict(zip(theirs, other["params"], strict=True))
    return [numbers[one] for one in ours]


def _values(
    optimizer: "Optimizer", group: dict[str, Any], n: int, p: Tensor, values: Mapping[str, Any]
) -> dict[str, Any]:
    """The state of one parameter, checked and as NumPy arrays."""
    name = type(optimizer).__name__
    arrays = {key: value for key, value in values.items() if key != "step" and value is not None}
    unknown = [key for key in arrays if key not in optimizer.state_names]
    if unknown:
        raise ValueError(f"{name}: the saved state of parameter {n} has unknown {unknown}")
    if not arrays:
        return {}
    if optimizer.counts_steps and "step" not in values:
        raise ValueError(f"{name}: the saved state of parameter {n} has no 'step'")
    step = float(values["step"]) if optimizer.counts_steps else 1
    if not (step >= 1 and step % 1 == 0):
        raise ValueError(f"{name}: the saved 'step' of parameter {n} is {step}, and not a count of steps")
    found: dict[str, Any] = {"step": int(step)}
    missing = [key for key in optimizer.kernel(group)[1] if key not in arrays]
    if missing:
        raise ValueError(f"{name}: the saved state of parameter {n} lacks {missing}")
    dtype = wide(numpy_dtype(name, p))
    for key, value in arrays.items():
        if isinstance(value, (list, tuple, dict)):  # which may be in itself many times
            raise ValueError(f"{name}: {key!r} of parameter {n} is a {type(value).__name__}, and no array")
        try:
            array = ops.asarray(value).numpy() if isinstance(value, Tensor) else numpy.asarray(value)
        except (TypeError, RuntimeError) as error:  # a tensor of torch that NumPy cannot have
            raise ValueError(f"{name}: {key!r} of parameter {n} cannot be read: {error}") from error
        if array.shape != p.shape:
            raise ValueError(
                f"{name}: {key!r} of parameter {n} has shape {array.shape}, the parameter {p.shape}"
            )
        if array.dtype.kind != "f" or not numpy.can_cast(array.dtype, dtype):
            raise ValueError(
                f"{name}: {key!r} of parameter {n} is {array.dtype}, and cannot be kept as {dtype}; "
                "convert it"
            )
        found[key] = array.astype(dtype)
    return found
