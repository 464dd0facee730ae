"""Random numbers: one seeded stream for all backends, whose state can be saved.

The stream is a `numpy.random.Generator` on the host. NumPy's arrays are drawn from it directly. On CuPy
a seed is drawn from it for each array, and the numbers are made on the GPU from that: nothing waits for
the GPU, and the host's state is all there is to save. For other backends NumPy's arrays are moved.

So what a seed gives is the same in each run, but not on each backend; nor in each dtype, since float32
is drawn as such, from half as many bits, which is faster.
"""

import math
import operator
import os
import reprlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy

from .atomic import holding
from .autograd import require_grad, wrap
from .backend import Backend, current, get, namespace, refuse_dtype, vmap_depth
from .ops import default_dtype

# --- the stream ------------------------------------------------------------------------------------

_shared: "numpy.random.Generator | None" = None
_own: "ContextVar[numpy.random.Generator | None]" = ContextVar("minigrad.random", default=None)
_making = threading.Lock()


def generator() -> "numpy.random.Generator":
    """The stream that this thread draws from: that of the innermost `fork`, or else the one that all share.

    The shared one begins from a fresh seed unless `seed` is called. A draw holds its lock, so threads
    that share it never draw the same numbers; which of them draws which numbers is up to chance.
    """
    global _shared
    stream = _own.get() or _shared
    if stream is None:
        with _making:
            # Made when first used: NumPy takes a while to load its random numbers.
            stream = _shared = _shared or numpy.random.Generator(numpy.random.PCG64())
    return stream


_held: list[Any] = []


def _hold() -> None:
    """Wait until no other thread draws: a fork would find the lock taken, and wait for it for ever."""
    _making.acquire()
    streams = {stream for stream in (_shared, _own.get()) if stream is not None}
    for lock in [stream.bit_generator.lock for stream in streams]:
        lock.acquire()
        _held.append(lock)


def _let_go() -> None:
    while _held:
        _held.pop().release()
    _making.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_let_go)


def seed(n: int) -> None:
    """Begin the stream anew from `n`, an integer from 0 on: what is drawn after it repeats exactly.

    Inside a `fork` that is the block's own stream, else the one that all threads share. Processes made by
    `os.fork` all go on from their parent's state, as NumPy's numbers do: let each call this with its number.
    """
    _set(numpy.random.PCG64(n).state)


# The numbers that make up a state, and the limit below which each must be.
_LIMITS = {"state": 1 << 128, "inc": 1 << 128, "has_uint32": 2, "uinteger": 1 << 32}


def get_state() -> dict[str, str]:
    """The state of the stream: `set_state` makes it go on from here, in this process or another.

    Names and values are strings, so that JSON and the metadata of a safetensors file can hold it.

    >>> import minigrad as mg
    >>> state = mg.random.get_state()
    >>> first = mg.random.normal(3)
    >>> mg.random.set_state(state)
    >>> mg.all(mg.random.normal(3) == first).item()
    True
    """
    bits = generator().bit_generator
    with bits.lock:  # not while another thread's draw is half done
        whole: Any = bits.state
    numbers = whole | whole["state"]
    return {"bit_generator": whole["bit_generator"]} | {name: str(numbers[name]) for name in _LIMITS}


def set_state(state: Mapping[str, str]) -> None:
    """Make the stream go on from a state that `get_state` gave.

    Raises:
        ValueError: it is no such state; the stream is as it was.
    """
    _set(_read("set_state", state))


def _read(op: str, state: Any) -> Any:
    """A state as NumPy has it."""
    names = ["bit_generator", *_LIMITS]
    if not isinstance(state, Mapping) or set(state) != set(names):
        raise ValueError(
            f"{op}: a state is what get_state() gives, a dict with {names}; got {reprlib.repr(state)}"
        )
    if state["bit_generator"] != "PCG64":
        raise ValueError(f"{op}: the state must be one of PCG64, got {reprlib.repr(state['bit_generator'])}")
    numbers = {}
    for name, limit in _LIMITS.items():
        text = state[name]
        digits = isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 40
        if not (digits and int(text) < limit):
            raise ValueError(
                f"{op}: {name!r} must be the digits of an integer from 0 to {limit - 1}, "
                f"got {reprlib.repr(text)}"
            )
        numbers[name] = int(text)
    if numbers["inc"] % 2 == 0:
        raise ValueError(f"{op}: 'inc' must be odd, got {numbers['inc']}")
    words = {name: numbers.pop(name) for name in ("state", "inc")}
    return {"bit_generator": "PCG64", "state": words, **numbers}


def _set(state: Any) -> None:
    bits = generator().bit_generator
    with bits.lock:
        bits.state = state


@contextmanager
def fork(start: int | Mapping[str, str]) -> Iterator[None]:
    """Draw from a stream of its own in a `with` block, in this thread or task alone.

    The stream outside goes on after the block as if nothing had been drawn in it. So threads that each
    fork with a seed of their own repeat exactly, and a block can be run again with the same numbers.

    Args:
        start: a seed, or a state that `get_state` gave.

    >>> import minigrad as mg
    >>> with mg.random.fork(0):
    ...     first = mg.random.uniform(2)
    >>> with mg.random.fork(0):
    ...     mg.all(mg.random.uniform(2) == first).item()
    True
    """
    bits = numpy.random.PCG64(0 if isinstance(start, Mapping) else start)
    if isinstance(start, Mapping):
        bits.state = _read("fork", start)
    with holding(_own, numpy.random.Generator(bits)):
        yield


# --- drawing ---------------------------------------------------------------------------------------

_MOST_THREADS = 1 << 17  # of a GPU for one array: more than run at once, and 8 MB of states


def _tensor(
    op: str, shape: Any, draw: Callable[..., Any], device: str | None = None, requires_grad: bool = False
) -> Any:
    """What `draw` makes of a generator, one of NumPy's or CuPy's with the same methods, and of a shape."""
    _refuse_in_vmap(op)
    try:
        sizes = tuple(operator.index(n) for n in (shape if isinstance(shape, tuple | list) else [shape]))
    except TypeError:
        raise TypeError(f"{op}: a shape is an integer or a tuple of integers, got {shape!r}") from None
    if any(n < 0 for n in sizes):
        raise ValueError(f"{op}: a shape has no negative sizes, got {shape}")
    backend = _backend(device)
    if backend.name == "cupy":
        array = draw(_on_gpu(math.prod(sizes)), sizes)
    else:
        array = backend.from_numpy(numpy.asarray(draw(generator(), sizes)))
    result = wrap(array)
    if requires_grad:
        require_grad(result)
    return result


def _refuse_in_vmap(op: str) -> None:
    if vmap_depth.get():
        raise RuntimeError(
            f"{op}: random numbers inside vmap would be the same for all examples: draw them before, and "
            "pass them as an argument"
        )


def _on_gpu(size: int) -> Any:
    """A generator of CuPy's for one array of that size.

    CuPy takes 32 bits of the seed: of n arrays some two are equal with a chance of about n² / 2³³.
    """
    import cupy  # pyright: ignore[reportMissingImports]

    # One state a thread, and CuPy starts threads by blocks of 256: those without a state would read, and
    # write, what is not theirs.
    threads = min(-(-max(size, 1) // 256) * 256, _MOST_THREADS)
    start = int(generator().integers(1 << 63))
    return cupy.random.Generator(cupy.random.Philox4x3210(start, size=threads))


def _backend(device: str | None) -> Backend:
    return get(device) if device else current()


def _dtype(dtype: Any, device: str | None) -> numpy.dtype:
    """NumPy's dtype for one of the backend, which may have objects of its own for them."""
    try:
        return numpy.dtype(default_dtype() if dtype is None else dtype)
    except TypeError:
        backend = _backend(device)
        return backend.to_numpy(backend.xp.empty(0, dtype=dtype)).dtype


def _float_dtypes(op: str, dtype: Any, device: str | None) -> tuple[numpy.dtype, numpy.dtype]:
    """The dtype of a result, and the one to draw and compute in."""
    wanted = _dtype(dtype, device)
    if wanted not in (numpy.float16, numpy.float32, numpy.float64):
        raise TypeError(f"{op}: the dtype must be float16, float32 or float64, got {wanted}")
    return wanted, numpy.dtype(numpy.float32) if wanted == numpy.float16 else wanted


def uniform(shape, low=0.0, high=1.0, dtype=None, requires_grad=False, device=None) -> Any:
    """Numbers spread evenly over [low, high): `high` itself never comes, in no dtype, if it is above low.

    Args:
        shape: an integer or a tuple; `()` gives one number.
        low, high: Python numbers.
        dtype: float16, float32 or float64; by default the default float dtype.
        requires_grad: gather gradients in `.grad`.
        device: by default the current backend.

    Raises:
        ValueError: `low` is above `high`, or the dtype cannot hold them or their distance.
        TypeError: another dtype.
    """
    wanted, drawn = _float_dtypes("uniform", dtype, device)
    if not low <= high or max(-low, high, high - low) > float(numpy.finfo(wanted).max):
        raise ValueError(
            f"uniform: needs low <= high, at a distance that {wanted} can hold; got low={low}, high={high}"
        )
    below = numpy.nextafter(wanted.type(high), wanted.type(low))  # rounding may lead to high

    def draw(rng, sizes):
        array = rng.random(sizes, dtype=drawn)
        array *= high - low
        array += low
        array = array.astype(wanted, copy=False)
        xp = namespace("uniform", [array])
        return xp.minimum(array, below, out=array)

    return _tensor("uniform", shape, draw, device, requires_grad)


def normal(shape, mean=0.0, std=1.0, dtype=None, requires_grad=False, device=None) -> Any:
    """Normally distributed numbers, with that mean and standard deviation.

    `shape`, `dtype`, `requires_grad` and `device` are as for `uniform`.

    Raises:
        ValueError: `std` is negative or NaN.
        TypeError: a dtype other than float16, float32 and float64.
    """
    wanted, drawn = _float_dtypes("normal", dtype, device)
    if not std >= 0:
        raise ValueError(f"normal: std must not be negative, got {std}")

    def draw(rng, sizes):
        array = rng.standard_normal(sizes, dtype=drawn)
        array *= std
        array += mean
        return array.astype(wanted, copy=False)

    return _tensor("normal", shape, draw, device, requires_grad)


def integers(low: int, high: int, shape, dtype=None, device=None) -> Any:
    """Integers from `low` up to but without `high`, each as likely as the others; int64 by default.

    Raises:
        ValueError: there is none between them, or the dtype cannot hold them.
        TypeError: the dtype is not one of integers.
    """
    wanted = _dtype(numpy.int64 if dtype is None else dtype, device)
    if wanted.kind not in "iu":
        raise TypeError(f"integers: the dtype must be one of integers, got {wanted}")
    limits = numpy.iinfo(wanted)
    if not limits.min <= low < high <= limits.max + 1:
        raise ValueError(f"integers: needs low < high, both in the range of {wanted}; got {low} and {high}")
    return _tensor("integers", shape, lambda rng, sizes: rng.integers(low, high, sizes, dtype=wanted), device)


def bernoulli(shape, p=0.5, dtype=None, device=None) -> Any:
    """1 with probability `p`, else 0. `dtype` may be any; by default it is the default float dtype.

    Raises `ValueError` if `p` is not from 0 to 1.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"bernoulli: p must be from 0 to 1, got {p}")
    wanted = _dtype(dtype, device)
    refuse_dtype("bernoulli", wanted)

    def draw(rng, sizes):
        return (rng.random(sizes, dtype=numpy.float32) < p).astype(wanted, copy=False)

    return _tensor("bernoulli", shape, draw, device)


def permutation(n: int, device=None) -> Any:
    """The integers from 0 to n - 1 in random order, each order as likely as the others.

    They are drawn on the host, so that a seed gives the same order on every backend.

    Raises `ValueError` if `n` is negative.
    """
    if n < 0:
        raise ValueError(f"permutation: n must not be negative, got {n}")
    _refuse_in_vmap("permutation")
    order = numpy.asarray(generator().permutation(n), dtype=numpy.int64)
    return wrap(_backend(device).from_numpy(order))
