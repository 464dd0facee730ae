"""What all optimizers share: parameter groups, steps, state, and saving it."""

import copy
import itertools
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from operator import is_not
from types import MappingProxyType
from typing import Any

import numpy

from ..atomic import at_once
from ..autograd import Leaf, grad_mode
from ..backend import Array, is_floating
from ..kernels import ElementwiseKernel
from ..tensor import Tensor
from .flat import Flat, Run, counted, detach_from_rows
from .skipping import Verdict, judged
from .state import OF_SCHEDULES, dumped, loaded, settings


class Optimizer:
    """The base of all optimizers: a subclass gives the kernel of its rule, and the scalars of a step.

    Parameters of one group, dtype and device are moved to one row of memory at the first step, and
    stepped by one launch of the kernel; the arrays of the parameters are views into the row.

    Attributes:
        param_groups: dicts, each with `params` (a list of tensors) and its own settings, and a `name` if
            it was given one. Settings may be changed between steps: `optimizer.param_groups[0]["lr"] = 1e-4`.
        defaults: the settings of groups that have none of their own.

    A parameter without a gradient is left alone: no decay, and no step is counted. float16 parameters
    have float32 state, and their steps are computed in float32.
    """

    state_names: tuple[str, ...] = ()
    """The arrays that a parameter's state may hold, under torch's names."""

    counts_steps = True
    """Whether the state of a parameter says how many steps it has been taken."""

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]):
        name = type(self).__name__
        if isinstance(params, (Tensor, set, dict, str)) or not isinstance(params, Iterable):
            raise TypeError(
                f"{name}: params must be an ordered iterable of tensors, of (name, tensor) pairs or of "
                f"groups (dicts with 'params'), such as model.parameters(), got {type(params).__name__}"
            )
        groups = list(params)
        if not groups:
            raise ValueError(f"{name}: got no parameters; is the iterator used up?")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self._flats: dict[int, tuple[list[Array], list[Flat]]] = {}  # by the id of their group
        self._unplaced: dict[Tensor, dict[str, Any]] = {}  # state of parameters that are in no row yet
        self._verdict: Verdict | None = None
        self._skipped = 0
        for group in groups:
            self.add_param_group(group)

    # --- groups ------------------------------------------------------------------------------------

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Add a dict of `params` and of settings that shall differ from the defaults; maybe a `name`.

        Raises:
            TypeError, ValueError: parameters that cannot be optimized or are in another group, unknown
                settings, or settings out of range. Nothing has changed then.
        """
        name = type(self).__name__
        if not isinstance(group, dict):
            raise TypeError(
                f"{name}: a parameter group must be a dict with 'params', got {type(group).__name__}"
            )
        known_keys = ("params", "param_names", "name", *OF_SCHEDULES, *self.defaults)
        unknown = [key for key in group if key not in known_keys]
        if "params" not in group or unknown:
            problem = f"has unknown settings {unknown}" if unknown else "has no 'params'"
            raise ValueError(f"{name}: a parameter group {problem}; settings are {list(self.defaults)}")
        if isinstance(group["params"], set):
            raise TypeError(f"{name}: a set of parameters has no order; pass a list")
        params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        if params and all(isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) for p in params):
            group = {**group, "param_names": [p[0] for p in params]}
            params = [p[1] for p in params]
        known = {id(p) for other in self.param_groups for p in other["params"]}
        for i, p in enumerate(params):
            if not isinstance(p, Tensor):
                raise TypeError(
                    f"{name}: parameter {i} is not a tensor but {type(p).__name__}; of a module, give "
                    "model.parameters()"
                )
            if not p.is_leaf:
                raise ValueError(f"{name}: parameter {i} is the result of an operation; optimize a leaf")
            if not is_floating(p.dtype):
                raise TypeError(
                    f"{name}: parameter {i} is {p.dtype}; only floating-point ones can be optimized"
                )
            if id(p) in known:
                raise ValueError(f"{name}: parameter {i}, of shape {p.shape}, is given twice")
            known.add(id(p))
        self.param_groups.append(self.checked({**self.defaults, **group, "params": params}))

    def checked(self, group: dict[str, Any]) -> dict[str, Any]:
        """`group`, with its betas in a tuple of its own. Raises `ValueError` for settings out of range."""
        self.check(group)
        return {**group, "betas": tuple(map(float, group["betas"]))} if "betas" in group else group

    def check(self, group: dict[str, Any]) -> None:
        """Raise `ValueError` for settings out of range."""
        for key in ("lr", "eps", "weight_decay", "momentum"):
            self._require(group, key, lambda v: is_number(v) and 0 <= v < math.inf, "be a number from 0 up")
        self._require(
            group,
            "betas",
            lambda v: len(v) == 2 and all(is_number(beta) and 0 <= beta < 1 for beta in v),
            "be two numbers from 0 up to but without 1",
        )

    def _require(self, group: dict[str, Any], key: str, holds: Callable[[Any], bool], rule: str) -> None:
        try:
            fits = key not in group or holds(group[key])
        except TypeError:
            fits = False
        if not fits:
            raise ValueError(f"{type(self).__name__}: {key} must {rule}, got {reprlib.repr(group[key])}")

    # --- stepping ----------------------------------------------------------------------------------

    def kernel(self, group: dict[str, Any]) -> tuple[ElementwiseKernel, tuple[str, ...]]:
        """The kernel for the settings of `group`, and the names of the state that it changes.

        Its inputs are the gradient and then what `scalars` gives; its outputs are the parameter and the
        state. A kernel without state has `raw T unused` as its last input, to say what type T is.
        """
        raise NotImplementedError

    def scalars(self, group: dict[str, Any], t: int) -> tuple[Any, ...]:
        """The kernel's scalars in step `t`, counted from 1; computed in float64."""
        raise NotImplementedError

    def step(self, closure: Callable[[], Any] | None = None, *, skip_nonfinite: bool = False) -> Any:
        """Change every parameter that has a gradient.

        Args:
            closure: computes the loss and the gradients anew, and returns the loss.
            skip_nonfinite: change nothing at all if any gradient has a NaN or an infinity, and count that
                in `skipped`. On a GPU this is decided there: the CPU does not wait for it.

        Returns:
            What the closure returned, if there is one.

        Raises:
            ValueError: a gradient does not fit its parameter; nothing has changed then.
        """
        loss = None
        if closure is not None:
            with grad_mode(True):
                loss = closure()
        self._settle()
        name = type(self).__name__
        if len(self._flats) > len(self.param_groups):  # a group was taken away
            self._flats = self._flats_in_use()
        for group in self.param_groups:
            if not math.isfinite(group["lr"]):  # a schedule may have made it so
                raise ValueError(f"{name}: lr is {group['lr']}, and nothing was changed; set it anew")
        due = [
            (group, run)
            for group in self.param_groups
            for flat in self._arranged(group)
            for run in flat.runs(name)
        ]
        verdict = None
        if skip_nonfinite:
            answer = judged(due)
            if answer is None:
                self._skipped += 1
                return loss
            due, verdict = answer
        if len(due) > 1:
            detach_from_rows([run for _, run in due])
        # All that can fail comes before the first change.
        changes: list[tuple[Any, ...]] = []
        counting: list[Run] = []
        for group, run in due:
            kernel, names = self.kernel(group)
            scalars = self.scalars(group, run.steps + 1)
            changes += run.flat.launch(kernel, names, scalars, run, verdict and verdict.flag)
            if names:
                counting.append(run)
        changes += counted(counting, 1)
        # Before the values: if Ctrl-C comes between, a graph from before refuses backward, which is safe.
        for _, run in due:
            for p in run.params:
                p.home.version += 1  # pyright: ignore[reportOptionalMemberAccess] - a leaf has one
        if verdict is None:
            at_once(changes)
        else:
            verdict.counted.extend(counting)
            at_once([*changes, (setattr, self, "_verdict", verdict)])
            for run in counting:
                run.grads = run.used = []  # not to be kept until the answer is here
        return loss

    @property
    def skipped(self) -> int:
        """How many steps this object skipped because a gradient was not finite; the state dict has it not."""
        self._settle()
        return self._skipped

    def _settle(self) -> None:
        """Take back the count of the last step if the GPU found that it had to be skipped (skipping.py)."""
        if self._verdict is not None and not self._verdict.positive():
            taken_back = counted(self._verdict.counted, -1)
            own = {"_skipped": self._skipped + 1, "_verdict": None}
            at_once([*taken_back, (vars(self).update, own)])
        self._verdict = None

    def _arranged(self, group: dict[str, Any]) -> list[Flat]:
        """The rows of a group, with the values in them that its parameters have now."""
        params = group["params"]
        views, flats = self._flats.get(id(group), ((), []))
        # As long as each parameter's array is still its view of the row, nothing has happened to it.
        if len(views) == len(params) and not any(map(is_not, [p._data for p in params], views)):
            return flats
        kinds: dict[Any, list[Tensor]] = {}
        for p in params:
            kinds.setdefault((p.device, p.dtype), []).append(p)
        if len(flats) == len(kinds) and all(
            flat.fits(own) for flat, own in zip(flats, kinds.values(), strict=True)
        ):
            unplaced = self._unplaced
            for flat in flats:
                flat.adopt(flat.row)
        else:
            flats, unplaced = self._placed(list(kinds.values()))
        views = {p: view for flat in flats for p, view in zip(flat.params, flat.views, strict=True)}
        placed = {**self._flats_in_use(), id(group): ([views[p] for p in params], flats)}
        vars(self).update(_flats=placed, _unplaced=unplaced)  # both at once
        return flats

    def _flats_in_use(self) -> dict[int, tuple[list[Array], list[Flat]]]:
        in_use = {id(group) for group in self.param_groups}
        return {key: value for key, value in self._flats.items() if key in in_use}

    def _placed(self, lists: list[list[Tensor]]) -> tuple[list[Flat], dict[Tensor, dict[str, Any]]]:
        """New rows for these parameters, with the state that they have; and the state of all others."""
        state = dict(self.state)
        for p in itertools.chain.from_iterable(lists):
            for key, value in state.get(p, {}).items():
                if key != "step" and value.shape != p.shape:
                    raise ValueError(
                        f"{type(self).__name__}: a parameter is now {p.shape}, and its {key!r} "
                        f"{value.shape}; make a new optimizer for it"
                    )
        flats = [Flat(params) for params in lists]
        for flat in flats:
            for k, p in enumerate(flat.params):
                if p in state:
                    flat.set_state(k, state.pop(p))
        return flats, {p: dict(values) for p, values in state.items()}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters; or with `set_to_none=False` set them to 0."""
        for group in self.param_groups:
            if not set_to_none:
                for flat in self._arranged(group):
                    flat.zero_grads()
                continue
            for p in group["params"]:
                if isinstance(p.node, Leaf):
                    p.node.grad = None

    # --- saving ------------------------------------------------------------------------------------

    @property
    def state(self) -> Mapping[Tensor, Mapping[str, Any]]:
        """For each parameter that has been stepped, its arrays and its number of steps; to be read.

        The arrays are the optimizer's own, and what is written into them counts. (In torch the dicts are,
        too.) To set or to forget all, use `load_state_dict`, or a new optimizer.
        """
        self._settle()
        params = {p for group in self.param_groups for p in group["params"]}
        state: dict[Tensor, Mapping[str, Any]] = {
            p: MappingProxyType(values) for p, values in self._unplaced.items() if p in params
        }
        for _, flats in self._flats.values():
            for flat in flats:
                for k, p in enumerate(flat.params):
                    if flat.steps[k] and p in params:
                        state[p] = MappingProxyType(flat.state_of(k))
        return MappingProxyType(state)

    def state_dict(self, array: Callable[[Any], Any] | None = None) -> dict[str, Any]:
        """Settings and state as a copy, in torch's form: parameters are numbered in their order.

        `{"state": {0: {"step": 1, …}, …}, "param_groups": [{"lr": …, "params": [0, …]}, …]}`, with
        `"param_names"` in the groups whose parameters were given with names.

        Args:
            array: makes something else of the NumPy arrays and of the steps. With torch's,
                `theirs.load_state_dict(ours.state_dict(array=torch.as_tensor))` goes over to torch.
        """
        return dumped(self, array)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, here or in torch: settings and state, copied to the devices.

        Groups and their parameters are matched in their order, or by name where both sides have names.
        torch's settings of how to compute (`foreach`, `fused`, `capturable`, `differentiable`) are left out.

        Raises:
            ValueError: the groups have other sizes, names differ, a setting is unknown or out of range,
                or state is missing, unknown, or of another shape or a wider dtype. Nothing has changed then.
        """
        groups, state = loaded(self, state_dict)
        self._settle()
        self.param_groups, self._unplaced, self._flats = groups, state, {}

    def __getstate__(self) -> dict[str, Any]:
        # A copied view is no view: rows are left out, and made anew.
        state = {p: copy.copy(dict(values)) for p, values in self.state.items()}
        return {**vars(self), "_unplaced": state, "_flats": {}, "_verdict": None}

    def __repr__(self) -> str:
        groups = [
            f"  group {i} {group.get('name', '')}".rstrip()
            + f" ({len(group['params'])} parameters): "
            + ", ".join(
                f"{key}={value}"
                for key, value in settings(group).items()
                if key not in ("name", "param_names")
            )
            for i, group in enumerate(self.param_groups)
        ]
        return "\n".join([f"{type(self).__name__}(", *groups, ")"])


def is_number(value: Any) -> bool:
    """Whether it is a number of Python or NumPy."""
    return isinstance(value, (int, float, numpy.number))
