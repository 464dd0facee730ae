"""What all optimizers share: parameter groups, per-parameter state, and saving both."""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy

from .. import ops
from ..autograd import Leaf
from ..backend import Array, is_floating, of
from ..tensor import Tensor


class Optimizer:
    """The base of all optimizers: a subclass defines `update`, which changes one parameter.

    Attributes:
        param_groups: dicts, each with `params` (a list of tensors) and its own settings. A setting may
            be changed between steps: `optimizer.param_groups[0]["lr"] = 1e-4`.
        state: for each parameter that has been stepped, a dict of arrays and numbers.

    A parameter without a gradient is left alone: no decay, and no step is counted. float16 parameters
    have float32 state, and their steps are computed in float32.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]):
        name = type(self).__name__
        if isinstance(params, (Tensor, set, dict, str)) or not isinstance(params, Iterable):
            raise TypeError(
                f"{name}: params must be an ordered iterable of tensors or of groups (dicts with 'params'), "
                f"such as model.parameters(), got {type(params).__name__}"
            )
        groups = list(params)
        if not groups:
            raise ValueError(f"{name}: got no parameters; is the iterator used up?")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        for group in groups:
            self._add(name, group)

    def _add(self, name: str, group: dict[str, Any]) -> None:
        unknown = [key for key in group if key not in ("params", "name", *self.defaults)]
        if "params" not in group or unknown:
            problem = f"has unknown settings {unknown}" if unknown else "has no 'params'"
            raise ValueError(f"{name}: a parameter group {problem}; settings are {list(self.defaults)}")
        params = group["params"]
        if isinstance(params, set):
            raise TypeError(f"{name}: a set of parameters has no order; pass a list")
        params = [params] if isinstance(params, Tensor) else list(params)
        known = {id(p) for other in self.param_groups for p in other["params"]}
        for i, p in enumerate(params):
            if not isinstance(p, Tensor):
                raise TypeError(f"{name}: parameter {i} is not a tensor but {type(p).__name__}")
            if not p.is_leaf:
                raise ValueError(f"{name}: parameter {i} is the result of an operation; optimize a leaf")
            if not is_floating(p.dtype):
                raise TypeError(
                    f"{name}: parameter {i} is {p.dtype}; only floating-point ones can be optimized"
                )
            if id(p) in known:
                raise ValueError(f"{name}: parameter {i}, of shape {p.shape}, is given twice")
            known.add(id(p))
        group = {**self.defaults, **group, "params": params}
        self.check(group)
        self.param_groups.append(group)

    def check(self, group: dict[str, Any]) -> None:
        """Raise `ValueError` for settings out of range."""
        for key in ("lr", "eps", "weight_decay", "momentum"):
            self._require(group, key, lambda v: _is_number(v) and 0 <= v < math.inf, "be a number from 0 up")
        self._require(
            group,
            "betas",
            lambda v: len(v) == 2 and all(_is_number(beta) and 0 <= beta < 1 for beta in v),
            "be two numbers from 0 up to but without 1",
        )

    def _require(self, group: dict[str, Any], key: str, holds: Callable[[Any], bool], rule: str) -> None:
        try:
            fits = key not in group or holds(group[key])
        except TypeError:
            fits = False
        if not fits:
            raise ValueError(f"{type(self).__name__}: {key} must {rule}, got {group[key]!r}")

    # --- stepping ----------------------------------------------------------------------------------

    def update(self, p: Array, g: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Change the array `p` in place, given its gradient `g` and what `state` remembers of it.

        `g` is to be read only. `state` is empty at the first step.
        """
        raise NotImplementedError

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change every parameter that has a gradient.

        Args:
            closure: computes the loss and the gradients anew, and returns the loss.

        Returns:
            What the closure returned, if there is one.

        Raises:
            ValueError: a gradient does not fit its parameter; nothing has changed then.
        """
        loss = closure() if closure is not None else None
        due = []
        for group in self.param_groups:
            for p in group["params"]:
                if isinstance(p.node, Leaf) and p.grad is not None:
                    g = p.grad._data
                    if g.shape != p._data.shape or of(g) is not of(p._data):
                        raise ValueError(
                            f"{type(self).__name__}: a gradient of shape {p.grad.shape} on {p.grad.device!r} "
                            f"for a parameter of shape {p.shape} on {p.device!r}"
                        )
                    due.append((p, g, group))
        for p, g, group in due:
            p.home.version += 1
            state = self.state.setdefault(p, {})
            if p._data.dtype == numpy.float16:
                wide = p._data.astype(numpy.float32)
                self.update(wide, g.astype(numpy.float32), state, group)
                p._data[...] = wide
            else:
                self.update(p._data, g, state, group)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters; or with `set_to_none=False` set them to 0."""
        for group in self.param_groups:
            for p in group["params"]:
                if isinstance(p.node, Leaf):
                    p.node.grad = None if set_to_none or p.node.grad is None else ops.zeros_like(p)

    # --- saving ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Settings and state as a copy, in torch's form: parameters are numbered in their order.

        `{"state": {0: {"step": 1, …}, …}, "param_groups": [{"lr": …, "params": [0, …]}, …]}`; the arrays
        in it are NumPy arrays.
        """
        number = self._numbers()
        state = {
            number[p]: {k: ops.asarray(v).numpy() if of(v) is not None else v for k, v in values.items()}
            for p, values in self.state.items()
        }
        groups = [
            {**copy.deepcopy(_settings(group)), "params": [number[p] for p in group["params"]]}
            for group in self.param_groups
        ]
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave: settings and state, copied to the parameters' devices.

        Raises:
            ValueError: the groups have other sizes, a setting is unknown or out of range, or an array has
                another shape than its parameter. Nothing has changed then.
        """
        name = type(self).__name__
        saved = state_dict["param_groups"]
        sizes, own = [len(g["params"]) for g in saved], [len(g["params"]) for g in self.param_groups]
        if sizes != own:
            raise ValueError(f"{name}: the saved groups have {sizes} parameters, this optimizer's {own}")
        groups = []
        for group, other in zip(self.param_groups, saved, strict=True):
            settings = copy.deepcopy(_settings(other))
            unknown = [key for key in settings if key not in ("name", *self.defaults)]
            if unknown:
                raise ValueError(f"{name}: the saved state has unknown settings {unknown}")
            groups.append({**group, **settings, "params": group["params"]})
            self.check(groups[-1])
        place = {
            n: p
            for g, other in zip(groups, saved, strict=True)
            for p, n in zip(g["params"], other["params"], strict=True)
        }
        state = {}
        for n, values in state_dict["state"].items():
            if n not in place:
                raise ValueError(f"{name}: the saved state has a parameter {n!r} that is in no group")
            state[place[n]] = {key: self._loaded(n, place[n], key, v) for key, v in values.items()}
        self.param_groups, self.state = groups, state

    def _loaded(self, n: int, p: Tensor, key: str, value: Any) -> Any:
        if key == "step":
            return int(value)
        if value is None or isinstance(value, (int, float)):
            return value
        if tuple(value.shape) != p.shape:
            raise ValueError(
                f"{type(self).__name__}: {key!r} of parameter {n} has shape {tuple(value.shape)}, "
                f"the parameter {p.shape}"
            )
        return ops.tensor(ops.asarray(value), device=p.device)._data

    def _numbers(self) -> dict[Tensor, int]:
        params = [p for group in self.param_groups for p in group["params"]]
        return {p: n for n, p in enumerate(params)}

    def __repr__(self) -> str:
        groups = [
            f"  group {i} ({len(group['params'])} parameters): "
            + ", ".join(f"{key}={value}" for key, value in _settings(group).items())
            for i, group in enumerate(self.param_groups)
        ]
        return "\n".join([f"{type(self).__name__}(", *groups, ")"])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, numpy.number))


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}
