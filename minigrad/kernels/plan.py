"""How a kernel runs over NumPy arrays of certain dtypes: compiled, or by its reference."""

import copy
import functools
import itertools
import operator
import os
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy

from ..backend import of, plain
from . import threads
from .source import BLOCK, HALF, SOUND, Kind, Param, array_types, generate, layout


def _wanted() -> bool:
    """What the environment variable `MINIGRAD_KERNELS` says: `on` (the default) or `off`."""
    mode = os.environ.get("MINIGRAD_KERNELS") or "on"
    if mode not in ("on", "off"):
        raise ValueError(f"MINIGRAD_KERNELS must be 'on' or 'off', got {mode!r}")
    return mode == "on"


enabled = _wanted()

BOTH, CHECK, ALONE = 0, 1, 2
"""What a compiled function is to do: look for problems and then run; only look; only run."""


def available() -> bool:
    """Whether kernels are compiled here: a compiler works, and `MINIGRAD_KERNELS` is not off.

    Where none works, it says so once.
    """
    return enabled and _compiler_works()


def compiles(x: Any, *others: Any) -> bool:
    """Whether kernels that are for a CPU alone run on these: NumPy's arrays of one dtype, float32 or float64,
    none of them empty; and kernels are compiled here."""
    if type(x) is not numpy.ndarray or x.dtype.char not in "fd" or not x.dtype.isnative or not x.size:
        return False
    alike = not others or all(type(a) is numpy.ndarray and a.dtype == x.dtype and a.size for a in others)
    return alike and available()


def fits(x: Any, *others: Any) -> bool:
    """Whether kernels that are for both machines run on these: as `compiles` says, or CuPy's likewise."""
    if type(x) is numpy.ndarray:
        return compiles(x, *others)
    backend = of(x)
    if backend is None or backend.name != "cupy" or plain(x) is not x:
        return False
    alike = all(type(a) is type(x) and a.dtype == x.dtype and a.size for a in others)
    return alike and x.dtype.char in "fd" and x.size > 0


MANY = 1 << 13
"""Elements: for fewer, a few calls of NumPy take less time than one of a kernel."""


def pays(x: Any) -> bool:
    """Whether kernels run on x, as `fits` says, and faster than a few calls of the array library.

    On a GPU they do at any size: there each call is the launch of a kernel.
    """
    return fits(x) and (x.size > MANY or type(x) is not numpy.ndarray)


@functools.cache
def _compiler_works() -> bool:
    from . import compiler  # which imports a third of what NumPy does

    why = compiler.works()
    if why is not None:
        compiler.warn_once(why)
    return why is None


def handed_out(results: Any) -> tuple:
    """What a reference gave, as a tuple; copied if several, which may be its arguments, yet to be written."""
    return tuple(map(copy.copy, results)) if isinstance(results, tuple) else (results,)


def _taker(places: list[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A function that takes what is at these places."""
    if len(places) > 1:
        return operator.itemgetter(*places)
    return lambda args: [args[place] for place in places]


class Plan:
    """A kernel for arguments of certain kinds, whose outputs are in C order.

    Attributes:
        places: which arguments are arrays that lie beside each other, element by element.
    """

    def __init__(self, kernel: Any, kinds: tuple[Kind, ...]):
        self.kernel, self.kinds = kernel, kinds
        if kernel.reference is None and not (enabled and self.function):
            raise RuntimeError(
                f"{kernel.name}: was not compiled, and has no reference; install a C++ compiler, and do not "
                "set MINIGRAD_KERNELS=off"
            )
        code = layout(kernel.params, kinds)
        of_form = {
            form: [k for k, kind in enumerate(kinds) if kind.form == form]
            for form in ("scalar", "array", "raw", "pieces")
        }
        self._scalars, self._arrays = _taker(of_form["scalar"]), _taker(of_form["array"])
        self.places, self._raw, self._pieces = of_form["array"], of_form["raw"], of_form["pieces"]
        lists = len(self._pieces)
        self._packed = functools.cache(lambda count: struct.Struct(f"{code}{lists * count}P{count}n").pack)
        self._dtypes = [id(dtype) for dtype in array_types(kernel.params, kinds).values()]
        self._others, self._pool = threads.count() - 1, threads.pool()
        self._bytes = sum(kind.dtype.itemsize for kind in kinds if kind.form in ("array", "pieces"))

    @functools.cached_property
    def function(self) -> Any:
        """The compiled loop; None where there is none, and the reference computes."""
        from . import compiler  # which imports a third of what NumPy does

        try:
            return compiler.function(self.kernel.name, generate(self.kernel, self.kinds))
        except compiler.UnavailableError as error:
            compiler.warn_once(str(error))
        except compiler.CompileError as error:
            why = compiler.works()
            if why is None and numpy.float16 in [kind.dtype for kind in self.kinds]:
                try:
                    compiler.function("half", HALF)
                except compiler.CompileError:
                    why = "this compiler has no float16"
            if why is None:
                raise RuntimeError(f"{self.kernel.name}: its text cannot be compiled: {error}") from None
            compiler.warn_once(why)
        return None

    def run(self, n: int, args: Sequence[Any], stops: Sequence[int] = ()) -> None:
        """Compute `n` elements. Where lists are among `args`, `stops` says where each piece ends.

        Raises `ValueError` where outputs overlap.
        """
        if not enabled or self.function is None:
            self._by_reference(n, args, stops)
        elif problem := self.function(self._call(n, args, stops), BOTH):
            self.run(n, self._mended(problem, n, args, stops), stops)

    def changes(
        self, n: int, args: list[Any], stops: Sequence[int] = ()
    ) -> tuple[list[tuple[Any, ...]], list[Any]]:
        """What `run` does, as changes to be made at once (see `atomic.py`), which cannot fail: what is wrong
        is an error now. And the arrays that must live until then. Outputs must be arrays, not lists of them.
        """
        if not enabled or self.function is None:
            nin = self.kernel.nin
            after = [out.copy() for out in args[nin:]]
            self._by_reference(n, [*args[:nin], *after], stops)
            return [(operator.setitem, out, ..., its) for out, its in zip(args[nin:], after, strict=True)], []
        call = self._call(n, args, stops)
        if problem := self.function(call, CHECK):
            return self.changes(n, self._mended(problem, n, args, stops), stops)
        return [(self.function, call, ALONE)], args

    def _call(self, n: int, args: Sequence[Any], stops: Sequence[int]) -> bytes:
        """The arguments as the compiled function takes them."""
        # Arrays go as the addresses of their objects, which CPython's `id` is, see source.py.
        values = [n, 1, 0, self._pool, *self._dtypes, *self._scalars(args), *map(id, self._arrays(args))]
        work = n * self._bytes
        for place in self._raw:
            array = args[place]
            values += id(array), array.size
            work += array.nbytes
        count = len(stops)
        values.append(count)
        for place in self._pieces:
            values += map(id, args[place])
        work *= self.kernel.cost
        if work > threads.WORTH_A_HAND and self._others:
            values[1] += min(int(work / threads.WORTH_A_HAND), self._others)
            values[2] = min(int(work / threads.WORTH_A_START), self._others)
        return self._packed(count)(*values, *stops)

    def _mended(self, problem: int, n: int, args: Sequence[Any], stops: Sequence[int]) -> list[Any]:
        """The arguments without the problem that the function named; or an error that says what it is."""
        if problem == 3:
            return self._plain(n, args, stops)
        if problem == 1:
            return self._inputs_copied(args)
        if problem == 2:
            raise ValueError(f"{self.kernel.name}: two of its outputs overlap")
        raise MemoryError(f"{self.kernel.name}: there is no memory for what it needs beside its arrays")

    def _plain(self, n: int, args: Sequence[Any], stops: Sequence[int]) -> list[Any]:
        """`args` with every array in C order and aligned. Raises `ValueError` where one does not fit."""
        sizes = [stop - start for start, stop in itertools.pairwise((0, *stops))]

        def plain(p: Param, kind: Kind, array: Any, size: int) -> Any:
            sound = array.flags.num & SOUND == SOUND
            if array.dtype != kind.dtype or array.size != size or (p.out and not sound):
                raise ValueError(
                    f"{self.kernel.name}: {p.name!r} is {array.shape} {array.dtype}"
                    f"{'' if sound else ', not in C order'}; expected {size} elements of {kind.dtype}"
                )
            # A view, since equal dtypes may be several objects.
            return (array if sound else array.copy()).view(kind.dtype)

        return [
            [plain(p, kind, a, size) for a, size in zip(arg, sizes, strict=True)]
            if kind.form == "pieces"
            else plain(p, kind, arg, arg.size if kind.form == "raw" else n)
            if kind.form != "scalar"
            else arg
            for p, kind, arg in zip(self.kernel.params, self.kinds, args, strict=True)
        ]

    def _inputs_copied(self, args: Sequence[Any]) -> list[Any]:
        return [
            [a.copy() for a in arg] if kind.form == "pieces" else arg.copy() if kind.form != "scalar" else arg
            for kind, arg in zip(self.kinds[: self.kernel.nin], args, strict=False)
        ] + list(args[self.kernel.nin :])

    def _by_reference(self, n: int, args: Sequence[Any], stops: Sequence[int]) -> None:
        nin, reference = self.kernel.nin, self.kernel.reference
        assert reference is not None
        args = self._plain(n, args, stops)  # once, and not for each block
        arrays = [arg if isinstance(arg, list) else [arg] for arg in args]
        outs = [out for arg in arrays[nin:] for out in arg]
        if any(numpy.may_share_memory(a, b) for a, b in itertools.combinations(outs, 2)):
            raise ValueError(f"{self.kernel.name}: two of its outputs overlap")
        inputs = [a for arg in arrays[:nin] for a in arg if isinstance(a, numpy.ndarray)]
        if any(numpy.may_share_memory(a, out) for a in inputs for out in outs):
            args = self._inputs_copied(args)
        # Block by block, unless the text may look at other elements than its own.
        whole = any(p.raw for p in self.kernel.params)
        stops = stops or (n,)
        for k, stop in enumerate(stops):
            start = stops[k - 1] if k else 0
            for begin in range(start, stop, n if whole else BLOCK):
                end = stop if whole else min(stop, begin + BLOCK)
                block = []
                for kind, arg in zip(self.kinds, args, strict=True):
                    if kind.form == "pieces":
                        arg = arg[k].reshape(-1)[begin - start : end - start]
                    elif kind.form == "array":
                        arg = arg.reshape(-1)[begin:end]
                    block.append(arg)
                wide = [
                    a.astype(numpy.float32) if kind.form != "scalar" and a.dtype == numpy.float16 else a
                    for a, kind in zip(block, self.kinds, strict=True)
                ]
                results = handed_out(reference(*(wide if self.kernel.reads_outputs else wide[:nin])))
                for out, result in zip(block[nin:], results, strict=True):
                    out[...] = result
