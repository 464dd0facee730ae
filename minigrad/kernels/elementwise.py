"""`ElementwiseKernel`: the arguments and the meaning of CuPy's, on NumPy arrays, too."""

import inspect
import itertools
import math
import operator
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy

from ..backend import in_a_row, of
from .plan import Plan, handed_out
from .source import BLOCK, DTYPES, WRITABLE, Kind, parse


class ElementwiseKernel:
    """A function of arrays, given by what it does to one element, in C++.

    The arguments and their meaning are those of `cupy.ElementwiseKernel`. CuPy arrays are given to that.
    For NumPy arrays the same text is put into a loop, which is compiled when it is first called with
    arrays of these dtypes, kept in a cache folder, and run by several threads where arrays are large.
    Where there is no compiler, `reference` computes the same.

    Calling it with the inputs gives the outputs; calling it with inputs and outputs writes to these. An
    output may be read by the text, which so can change arrays in place. Inputs are broadcast, outputs are
    not. An input that overlaps an output is copied first. (CuPy's own kernels would race.)

    Missing are CuPy's `no_return`, `return_tuple` and `reduce_dims`, and the methods of `raw` arrays. On a
    CPU `max` and `min` are those of C++, which differ in what they make of NaN. In a text `return` and
    `continue` end the work on an element.

    A list of arrays stands for all their elements in one row, with no need to copy them there: on CuPy
    they are. The other arrays of such a call have one axis. Lists of one call must be cut alike.

    Args:
        in_params: inputs, as in `"T x, raw T table, float32 scale"`. A type of one letter stands for the
            dtype of the arrays that it meets, which must be the same; Python and NumPy scalars are cast.
            A `raw` array is not broadcast, but indexed by the text: `table[i]`.
        out_params: outputs, likewise.
        operation: what is done to one element. `i` is its number, `n` how many there are.
        name: a name for the compiled function.
        preamble: C++ before the function, such as functions of its own.
        loop_prep, after_loop: done by each thread before its elements and after them; on a CPU before
            and after each block of them.
        options: for CuPy's compiler alone.
        cost: how many times as long as the reading and writing of its arrays the text takes: by this the
            number of threads is chosen on a CPU. By the bytes of its arrays alone if 1, the default.
        block: how many elements a thread does at a time on a CPU. Where an element stands for much work,
            such as an image, 1.
        reference: the same in array code, a function of the inputs, or of inputs and outputs if the text
            reads these. It returns the outputs. float16 arrays are given to it as float32.

    Raises:
        ValueError: a declaration cannot be read.

    >>> import numpy as np
    >>> squared_difference = ElementwiseKernel(
    ...     "T x, T y", "T z", "z = (x - y) * (x - y)", "squared_difference",
    ...     reference=lambda x, y: (x - y) ** 2,
    ... )
    >>> squared_difference(np.array([1.0, 2.0, 3.0]), 1.0)
    array([0., 1., 4.])
    """

    def __init__(
        self,
        in_params: str,
        out_params: str,
        operation: str,
        name: str = "kernel",
        *,
        preamble: str = "",
        loop_prep: str = "",
        after_loop: str = "",
        options: Sequence[str] = (),
        reference: Callable[..., Any] | None = None,
        cost: float = 1.0,
        block: int = BLOCK,
    ):
        if not name.isidentifier():
            raise ValueError(f"ElementwiseKernel: a name must be an identifier, got {name!r}")
        self.in_params, self.out_params, self.operation, self.name = in_params, out_params, operation, name
        self.preamble, self.loop_prep, self.after_loop = preamble, loop_prep, after_loop
        self.options = tuple(options)
        self.reference = reference
        self.cost, self.block = cost, block
        self.params = [*parse(in_params, False, name), *parse(out_params, True, name)]
        self.nin = sum(not p.out for p in self.params)
        self.reads_outputs = reference is not None and _takes(reference, len(self.params))
        names = [p.name for p in self.params]
        if len(set(names)) < len(names) or self.nin == len(names):
            raise ValueError(
                f"{name}: needs an output, and a name of its own for each parameter, got {names}"
            )
        self._plans: dict[tuple[Kind, ...], Plan] = {}
        self._seen: dict[tuple, Plan] = {}  # by the types of the arguments, for calls without lists
        self._cupy: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_plans": {}, "_seen": {}, "_cupy": None}  # what was compiled stays here

    def __repr__(self) -> str:
        return f"ElementwiseKernel({self.in_params!r}, {self.out_params!r}, name={self.name!r})"

    def __call__(self, *args: Any, size: int | None = None) -> Any:
        """Compute. `size` says how many elements there are where all arrays are raw.

        Raises:
            TypeError: wrong number of arguments, or dtypes that do not fit the declaration.
            ValueError: shapes that do not fit, arrays on different devices, outputs that overlap each
                other or cannot be written to.
            RuntimeError: the text cannot be compiled, or there is neither compiler nor reference.
        """
        if (result := self._at_once(args, size)) is not None:
            return result
        if any(arg is None or isinstance(arg, numpy.ma.MaskedArray) for arg in args):
            raise TypeError(f"{self.name}: cannot take None or masked arrays")
        if len(args) not in (self.nin, len(self.params)):
            raise TypeError(
                f"{self.name}: takes {self.nin} inputs, or these and its outputs, {len(self.params)} in all; "
                f"got {len(args)} arguments"
            )
        arrays = [a for arg in args for a in (arg if isinstance(arg, list) else (arg,))]
        backends = {its.name: its for a in arrays if not isinstance(a, numpy.generic) and (its := of(a))}
        if len(backends) > 1:
            raise ValueError(f"{self.name}: its arrays live on different devices, {sorted(backends)}")
        if not backends:
            kinds = ", ".join(type(a).__name__ for a in args)
            raise TypeError(
                f"{self.name}: needs arrays of NumPy or CuPy, to know its types by, got {kinds} (of tensors, "
                "give x.data; gradients do not flow through kernels)"
            )
        if "cupy" in backends:
            return self._on_gpu(args, size)
        if "numpy" not in backends:
            return self._by_reference_alone(args)
        return self._on_cpu(args, size)

    # --- NumPy -------------------------------------------------------------------------------------

    def _at_once(self, args: tuple, size: int | None) -> Any:
        """The result of a call such as there was before, if arrays are of one shape or raw; else None.

        Most calls are like that, and to look at everything takes longer than a small array does.
        """
        plan = self._seen.get(_types(args))
        if plan is None:
            return None
        arrays = [args[k] for k in plan.places if k < len(args)]
        n: Any = arrays[0].size if arrays else size
        shape = arrays[0].shape if arrays else (n,)
        if type(n) is not int or n <= 0 or (arrays and size is not None):
            return None
        if any(a.shape != shape for a in arrays):
            return None
        outs = list(args[self.nin :]) or [numpy.empty(shape, kind.dtype) for kind in plan.kinds[self.nin :]]
        if any(out.flags.num & WRITABLE != WRITABLE for out in outs):
            return None
        try:
            plan.run(n, [*args[: self.nin], *outs])
        except (struct.error, OverflowError):  # a scalar that must be cast
            return None
        return _one_or_all(outs)

    def _on_cpu(self, args: tuple, size: int | None) -> Any:
        if size is not None:
            size = operator.index(size)
        # As plain arrays; what is returned are the outputs as they were given.
        given: list[Any] = [numpy.asarray(a) if isinstance(a, numpy.ndarray) else a for a in args]
        given += [None] * (len(self.params) - len(args))
        kinds = self.kinds(given)
        shape = self._shape(given, size)
        for k, (p, kind) in enumerate(zip(self.params, kinds, strict=True)):
            if given[k] is None:
                if p.raw:
                    raise TypeError(f"{self.name}: the raw output {p.name!r} must be given")
                given[k] = numpy.empty(shape, kind.dtype)
        outs = [*args[self.nin :]] or given[self.nin :]
        if math.prod(shape):
            ready, back = self._fitted(given, kinds, shape)
            cut = next((a for a in ready if isinstance(a, list)), [])
            stops = list(itertools.accumulate(a.size for a in cut))
            plan = self.plan(kinds)
            plan.run(math.prod(shape), ready, stops)
            plain = [
                kind.form == "scalar" or type(a) is numpy.ndarray
                for kind, a in zip(kinds, args, strict=False)
            ]
            if all(plain):
                self._seen[_types(args)] = plan
            for out, temporary in back:
                out[...] = temporary.reshape(out.shape)
        return _one_or_all(outs)

    def kinds(self, given: list) -> tuple[Kind, ...]:
        """What was given for each parameter, with the placeholders bound: by outputs first, as in CuPy.

        Raises `TypeError` where dtypes do not fit the declaration.
        """
        bound: dict[str, tuple[str, Any]] = {}
        order = [*range(self.nin, len(given)), *range(self.nin)]
        forms = {}
        for k in order:
            p, arg = self.params[k], given[k]
            if isinstance(arg, list):
                if p.raw or not arg or not all(isinstance(a, numpy.ndarray) for a in arg):
                    raise TypeError(f"{self.name}: {p.name!r} is raw, or an empty list, or one of no arrays")
                forms[k], dtypes = "pieces", {a.dtype for a in arg}
            elif isinstance(arg, numpy.ndarray):
                forms[k], dtypes = "raw" if p.raw else "array", {arg.dtype}
            elif arg is None:
                forms[k], dtypes = "raw" if p.raw else "array", set()
            elif p.out or p.raw:
                raise TypeError(f"{self.name}: {p.name!r} must be an array, got {type(arg).__name__}")
            elif not isinstance(arg, (bool, int, float, numpy.generic)):
                raise TypeError(
                    f"{self.name}: {p.name!r} must be an array or a number, got {type(arg).__name__}"
                )
            else:
                forms[k], dtypes = "scalar", set()
            for dtype in dtypes:
                if dtype not in DTYPES:
                    raise TypeError(f"{self.name}: {p.name!r} cannot be of dtype {dtype}")
                by, wanted = (
                    bound.setdefault(p.type, (p.name, dtype))
                    if p.placeholder
                    else (p.type, numpy.dtype(p.type))
                )
                if dtype != wanted:
                    raise TypeError(f"{self.name}: {p.name!r} is {dtype}, but {by!r} is {wanted}")
        for p in self.params:
            if p.placeholder and p.type not in bound:
                raise TypeError(f"{self.name}: no array says what type {p.type} of {p.name!r} is")
        return tuple(
            Kind(forms[k], numpy.dtype(DTYPES[bound[p.type][1]] if p.placeholder else p.type))
            for k, p in enumerate(self.params)
        )

    def _shape(self, given: list, size: int | None) -> tuple[int, ...]:
        """The shape that inputs are broadcast to, and that outputs must have."""
        shapes, outs = [], []
        cuts = {tuple(a.size for a in arg) for arg in given if isinstance(arg, list)}
        if len(cuts) > 1:
            raise ValueError(f"{self.name}: lists must be cut alike, got pieces of {sorted(cuts)} elements")
        for p, arg in zip(self.params, given, strict=True):
            if isinstance(arg, list):
                (outs if p.out else shapes).append((sum(next(iter(cuts))),))
            elif isinstance(arg, numpy.ndarray) and not p.raw:
                (outs if p.out else shapes).append(arg.shape)
        if not shapes + outs:
            if size is None or size < 0:
                raise ValueError(
                    f"{self.name}: all arrays are raw; say how many elements there are with size=, got {size}"
                )
            return (size,)
        if size is not None:
            raise ValueError(f"{self.name}: size= is for calls in which all arrays are raw")
        try:
            shape = numpy.broadcast_shapes(*shapes, *outs)
        except ValueError:
            shape = None
        if shape is None or any(out != shape for out in outs) or (cuts and any(s != shape for s in shapes)):
            raise ValueError(
                f"{self.name}: inputs of shapes {shapes} and outputs of shapes {outs} do not fit; inputs are "
                "broadcast, outputs and the pieces in a list are not"
            )
        return shape

    def _fitted(self, given: list, kinds: tuple[Kind, ...], shape: tuple[int, ...]) -> tuple[list, list]:
        """Scalars cast, inputs of the full shape, outputs in C order; and what of these to copy back."""
        ready, back = list(given), []
        for k, (p, kind) in enumerate(zip(self.params, kinds, strict=True)):
            arg = given[k]
            if kind.form == "scalar":
                try:
                    ready[k] = kind.dtype.type(arg).item()
                except (OverflowError, ValueError) as error:
                    raise ValueError(f"{self.name}: {p.name!r} cannot be {arg!r} as {kind.dtype}") from error
            elif kind.form == "pieces":
                if p.out and not all(a.flags.num & WRITABLE == WRITABLE for a in arg):
                    raise ValueError(
                        f"{self.name}: the pieces of output {p.name!r} must be writable, in C order"
                    )
            elif p.out:
                if not arg.flags.writeable:
                    raise ValueError(f"{self.name}: output {p.name!r} is read-only")
                if arg.flags.num & WRITABLE != WRITABLE:
                    ready[k] = numpy.array(arg, order="C")
                    back.append((arg, ready[k]))
            elif not p.raw and arg.shape != shape:
                ready[k] = numpy.broadcast_to(arg, shape)
        if back:  # the compiled loop, which looks at what overlaps, would not see these
            arrays = [a for arg in given[self.nin :] for a in (arg if isinstance(arg, list) else [arg])]
            if any(numpy.shares_memory(a, b) for a, b in itertools.combinations(arrays, 2)):
                raise ValueError(f"{self.name}: two of its outputs overlap")
        return ready, back

    def plan(self, kinds: tuple[Kind, ...]) -> Plan:
        """How calls with arguments of these kinds are carried out: compiled, if that is possible."""
        plan = self._plans.get(kinds)
        if plan is None:
            plan = self._plans[kinds] = Plan(self, kinds)
        return plan

    # --- CuPy, and other namespaces ------------------------------------------------------------------

    def _on_gpu(self, args: tuple, size: int | None) -> Any:
        import cupy  # pyright: ignore[reportMissingImports]

        if self._cupy is None:
            self._cupy = cupy.ElementwiseKernel(
                self.in_params,
                self.out_params,
                self.operation,
                self.name,
                preamble=self.preamble,
                loop_prep=self.loop_prep,
                after_loop=self.after_loop,
                options=self.options,
            )
        ready = []
        for p, arg in zip(self.params, args, strict=False):
            if isinstance(arg, list):
                if p.out and len(arg) > 1:
                    raise TypeError(f"{self.name}: on CuPy the output {p.name!r} cannot be a list")
                arg = in_a_row(self.name, arg)
            ready.append(arg)
        outs = ready[self.nin :]
        for a, b in itertools.combinations(outs, 2):
            if cupy.may_share_memory(a, b):
                raise ValueError(f"{self.name}: two of its outputs overlap")
        for k, arg in enumerate(ready[: self.nin]):
            if of(arg) is not None and any(cupy.may_share_memory(arg, out) for out in outs):
                ready[k] = arg.copy()
        with next(arg for arg in ready if of(arg) is not None).device:  # of several GPUs, where they live
            return self._cupy(*ready) if size is None else self._cupy(*ready, size=size)

    def _by_reference_alone(self, args: tuple) -> Any:
        """In any other namespace of the Array API standard."""
        if self.reference is None:
            raise RuntimeError(f"{self.name}: has no reference, and runs on NumPy and CuPy alone")
        args = tuple(in_a_row(self.name, arg) if isinstance(arg, list) else arg for arg in args)
        inputs, outs = args[: self.nin], args[self.nin :]
        results = handed_out(self.reference(*(args if self.reads_outputs else inputs)))
        for out, result in zip(outs, results, strict=bool(outs)):
            out[...] = result
        return _one_or_all(outs or results)


def _types(args: tuple) -> tuple:
    """What the plan of a call depends on."""
    return tuple([a.dtype if type(a) is numpy.ndarray else type(a) for a in args])


def _one_or_all(outs: Sequence[Any]) -> Any:
    """What a call gives: its output, or a tuple of several."""
    return outs[0] if len(outs) == 1 else tuple(outs)


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function is one of that many arguments, or of any number."""
    params = inspect.signature(function).parameters.values()
    required = [p for p in params if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    return len(required) == count or any(p.kind is p.VAR_POSITIONAL for p in params)
