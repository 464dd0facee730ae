"""Flat storage: parameters in one row of memory, and their state in rows beside it."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

from ..atomic import at_once
from ..autograd import Leaf, wrap
from ..backend import Array, create, in_a_row, move, namespace, of
from ..kernels import ElementwiseKernel
from ..tensor import Tensor
from .skipping import guarded


@dataclass(slots=True)
class Run:
    """Neighbours that are stepped by one launch: they have gradients, and as many steps behind them.

    `used` are the arrays that the launch reads and writes, which must live until it is over.
    """

    flat: "Flat"
    first: int
    last: int
    grads: list[Array]
    used: list[Any] = field(default_factory=list)

    @property
    def params(self) -> list[Tensor]:
        """The parameters."""
        return self.flat.params[self.first : self.last]

    @property
    def steps(self) -> int:
        """How many steps they have behind them."""
        return self.flat.steps[self.first]


def counted(runs: Sequence[Run], by: int) -> list[tuple[Any, ...]]:
    """The changes (see `atomic.py`) that add to how many steps the parameters of `runs` have behind them."""
    steps: dict[Flat, list[int]] = {}
    for run in runs:
        its = steps.setdefault(run.flat, list(run.flat.steps))
        its[run.first : run.last] = [run.steps + by] * (run.last - run.first)
    return [(setattr, flat, "steps", its) for flat, its in steps.items()]


def detach_from_rows(runs: Sequence[Run]) -> None:
    """Copy gradients that are views of a row, which another launch may overwrite before they are read."""
    rows = {id(run.flat.row) for run in runs}
    for run in runs:
        run.grads = [g.copy() if id(getattr(g, "base", None)) in rows else g for g in run.grads]


def wide(dtype: Any) -> Any:
    """The dtype of the state of parameters of `dtype`: float32 for float16, and else the same."""
    return numpy.dtype("float32") if str(dtype) == "float16" else dtype


class Flat:
    """Parameters of one dtype and device, which are views into one row.

    A step is then one pass over a few rows, and one launch of a kernel: what takes most of the time
    with many small parameters is not to compute but to begin. Gradients stay where backward left them,
    since somebody may hold them: a kernel takes them as a list.

    Attributes:
        params: the tensors.
        row: their elements, one parameter after another.
        views: the part of the row that is a parameter's array, for each.
        stops: where each part ends.
        steps: how many steps each has been taken.
        state: rows by name, such as `exp_avg`; float32 for float16 parameters.
    """

    row: Array
    views: list[Array]
    _rows: dict[tuple[str, ...], list[Array]]  # what a rule with this state writes to

    def __init__(self, params: list[Tensor]):
        first = params[0]._data
        self.xp = namespace("optim", [first])
        self.params = params
        self.shapes = [p.shape for p in params]
        self.stops = list(itertools.accumulate(p.size for p in params))
        self.steps = [0] * len(params)
        self.state: dict[str, Array] = {}
        self.wide = wide(first.dtype)
        # Where a rule has no state, nothing else would say in what type its kernel computes.
        self.unused = self._new("empty", self.wide, first, size=0)
        self._plans: dict[ElementwiseKernel, Any] = {}
        self.adopt(first)

    def _new(self, function: str, dtype: Any, like: Array, size: int | None = None) -> Array:
        n = self.stops[-1] if size is None else size
        return create(self.xp, function, (n,), dtype=dtype, like=like)

    def adopt(self, like: Array) -> None:
        """Gather the values that the parameters have now in a new row.

        Never in the old one, after a parameter was given another array: somebody may hold the old values.
        """
        row = self._new("empty", like.dtype, like)
        views = [self._part(row, k) for k in range(len(self.params))]
        for p, view in zip(self.params, views, strict=True):
            view[...] = p._data
        changes = [(setattr, p, "_data", view) for p, view in zip(self.params, views, strict=True)]
        at_once([(vars(self).update, {"row": row, "views": views, "_rows": {}}), *changes])

    def _part(self, row: Array, k: int) -> Array:
        """The part of a row that belongs to parameter k, as a view in its shape."""
        start = self.stops[k - 1] if k else 0
        return self.xp.reshape(row[start : self.stops[k]], self.shapes[k])

    def fits(self, params: Sequence[Tensor]) -> bool:
        """Whether these are its parameters, and of the shapes, dtype and device that it holds."""
        return len(params) == len(self.params) and all(
            p is q and p.shape == shape and p.dtype == self.row.dtype and of(p._data) is of(self.row)
            for p, q, shape in zip(params, self.params, self.shapes, strict=True)
        )

    # --- state -------------------------------------------------------------------------------------

    def ensure(self, names: Sequence[str]) -> None:
        """Make the rows of state that are not there yet, of zeros."""
        for name in names:
            if name not in self.state:
                self.state[name] = self._new("zeros", self.wide, self.row)

    def state_of(self, k: int) -> dict[str, Any]:
        """The number of steps and the arrays of parameter k, as views; nothing before its first step."""
        if not self.steps[k]:
            return {}
        return {"step": self.steps[k], **{name: self._part(row, k) for name, row in self.state.items()}}

    def set_state(self, k: int, values: Mapping[str, Any]) -> None:
        """Copy in what `state_of` gave, from whichever device."""
        self.steps[k] = values["step"]
        backend = of(self.row)
        assert backend is not None
        names = [name for name in values if name != "step"]
        self.ensure(names)
        for name in names:
            self._part(self.state[name], k)[...] = move(values[name], backend.name)

    # --- stepping ----------------------------------------------------------------------------------

    def zero_grads(self) -> None:
        """Give zeros, of one new row, to the parameters that have gradients."""
        zeros = self._new("zeros", self.row.dtype, self.row)
        for k, p in enumerate(self.params):
            if isinstance(p.node, Leaf) and p.node.grad is not None:
                p.node.grad = wrap(self._part(zeros, k))

    def runs(self, name: str) -> list[Run]:
        """The parameters that have gradients. Raises `ValueError` for a gradient that does not fit."""
        try:
            grads = [p.node.grad._data for p in self.params]  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        except AttributeError:  # one has none, or requires none any more
            return self._some(name)
        steps, count = self.steps, len(grads)
        if (
            [g.shape for g in grads] == self.shapes
            and [g.dtype for g in grads].count(self.row.dtype) == count
            and [*map(type, grads)].count(type(self.row)) == count
            and steps.count(steps[0]) == count
        ):
            return [Run(self, 0, count, grads)]
        return self._some(name)

    def _some(self, name: str) -> list[Run]:
        runs: list[Run] = []
        for k, p in enumerate(self.params):
            g = p.node.grad if isinstance(p.node, Leaf) else None
            if g is None:
                continue
            if (g.shape, g.dtype, g.device) != (p.shape, p.dtype, p.device):
                raise ValueError(
                    f"{name}: a gradient {g.shape} {g.dtype} on {g.device!r} for a parameter "
                    f"{p.shape} {p.dtype} on {p.device!r}"
                )
            if runs and runs[-1].last == k and runs[-1].steps == self.steps[k]:
                runs[-1].grads.append(g._data)
                runs[-1].last = k + 1
            else:
                runs.append(Run(self, k, k + 1, [g._data]))
        return runs

    def launch(
        self,
        kernel: ElementwiseKernel,
        names: tuple[str, ...],
        scalars: Sequence[Any],
        run: Run,
        go: Array | None = None,
    ) -> list[tuple[Any, ...]]:
        """The changes (see `atomic.py`) that run `kernel` over the gradients, parameters and state of `run`;
        if `go` is true there. What can fail has been done, and memory been had."""
        rows = self._rows.get(names)
        if rows is None:
            self.ensure(names)
            rows = self._rows[names] = [self.row, *(self.state[name] for name in names)]
        stops = self.stops
        start, stop = stops[run.first - 1] if run.first else 0, stops[run.last - 1]
        if start == stop:
            return []
        if run.last - run.first < len(self.params):
            rows = [row[start:stop] for row in rows]
            stops = [s - start for s in stops[run.first : run.last]]
        inputs = [run.grads, *scalars] if names else [run.grads, *scalars, self.unused]
        if go is not None:
            kernel = guarded(kernel)
            inputs.append(go)
        if type(self.row) is not numpy.ndarray:
            inputs[0] = [in_a_row("optim", run.grads)]
            return [(kernel, *inputs, *rows)]
        args = inputs + rows
        plan = self._plans.get(kernel)
        if plan is None:
            plan = self._plans[kernel] = kernel.plan(kernel.kinds(args))
        changes, run.used = plan.changes(stop - start, args, stops)
        return changes
