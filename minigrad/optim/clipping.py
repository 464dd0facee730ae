"""Gradients made smaller before a step: all together by their norm, or each element by a bound."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy

from .. import ops
from ..atomic import at_once
from ..autograd import Leaf, wrap
from ..backend import Array, cast, in_a_row, namespace
from ..tensor import Tensor


def _rows(name: str, parameters: Tensor | Iterable[Tensor]) -> Iterator[tuple[list[Leaf], Any, Array]]:
    """The gradients of each dtype and device in a row, with their leaves and their namespace."""
    kinds: dict[Any, list[Leaf]] = {}
    for p in [parameters] if isinstance(parameters, Tensor) else parameters:
        if not isinstance(p, Tensor):
            raise TypeError(f"{name}: expected tensors, such as model.parameters(), got {type(p).__name__}")
        if isinstance(p.node, Leaf) and p.node.grad is not None:
            kinds.setdefault((p.device, p.dtype), []).append(p.node)
    for leaves in kinds.values():
        arrays = [leaf.grad._data for leaf in leaves]
        yield leaves, namespace(name, arrays), in_a_row(name, arrays)


def _set(leaves: list[Leaf], xp: Any, row: Array) -> Iterator[tuple[Any, ...]]:
    """The changes (see `atomic.py`) that make the parts of `row` the gradients: new ones, since somebody may
    hold the old."""
    stop = 0
    for leaf in leaves:
        start, stop = stop, stop + math.prod(leaf.shape)
        yield setattr, leaf, "grad", wrap(xp.reshape(row[start:stop], leaf.shape))


def _refuse_nonfinite(name: str, what: str) -> None:
    raise RuntimeError(
        f"{name}: {what} not finite, and nothing was clipped; look for what makes it so, pass "
        "error_if_nonfinite=False, or let optimizer.step(skip_nonfinite=True) pass over such steps"
    )


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients by one factor, so that their norm, as of one vector, is at most `max_norm`.

    Names and result are those of `torch.nn.utils.clip_grad_norm_`: the factor is
    max_norm / (norm + 1e-6) where that is below 1. (torch writes into the gradients; here each becomes
    a new one.) The norm is summed up in float64.

    Args:
        parameters: a tensor or an iterable of them; those without a gradient are passed over.
        max_norm: from 0 up.
        norm_type: p of the p-norm, above 0; `math.inf` for the largest absolute value.
        error_if_nonfinite: raise where the norm is NaN or infinite. Else an infinite norm makes all
            gradients 0 or NaN, and NaN makes them NaN.

    Returns:
        The norm before, a 0-d tensor, on the device of the gradients; float32 for float16.

    Raises:
        RuntimeError: the norm is not finite, with `error_if_nonfinite`. Nothing has changed then.
        TypeError, ValueError: what is given is no tensor, or out of range.

    >>> import minigrad as mg
    >>> x = mg.tensor([3.0, 4.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> clip_grad_norm_([x], 5.0).item()
    10.0
    >>> mg.round(x.grad)
    tensor([3., 4.], dtype=float32, device=numpy)
    """
    name = "clip_grad_norm_"
    max_norm, norm_type = float(max_norm), float(norm_type)
    if not (max_norm >= 0 and norm_type > 0):
        raise ValueError(
            f"{name}: needs max_norm from 0 up and norm_type above 0, got {max_norm} and {norm_type}"
        )
    rows = list(_rows(name, parameters))
    if not rows:
        return ops.tensor(0.0)
    norms = [_norm(xp, row, norm_type) for _, xp, row in rows]
    if len(rows) > 1:  # of several dtypes or devices: these meet on the CPU
        total = _norm(numpy, numpy.array([float(norm) for norm in norms]), norm_type)
        norms = [xp.asarray(float(total)) for _, xp, _ in rows]
    if error_if_nonfinite and not math.isfinite(float(norms[0])):
        _refuse_nonfinite(name, "the norm of the gradients is")
    changes = []
    for (leaves, xp, row), norm in zip(rows, norms, strict=True):
        scale = max_norm / (norm + 1e-6)
        changes += _set(leaves, xp, cast(xp, row * xp.minimum(scale, xp.ones_like(scale)), row.dtype))
    at_once(changes)
    _, xp, row = rows[0]
    return wrap(cast(xp, xp.asarray(norms[0]), xp.float64 if row.dtype == xp.float64 else xp.float32))


def _norm(xp: Any, row: Array, p: float) -> Array:
    """The p-norm of a vector, a 0-d array of float64."""
    size = xp.abs(cast(xp, row, xp.float64))
    if p == math.inf:
        return xp.max(size) if row.shape[0] else xp.sum(size)
    return xp.sqrt(xp.sum(size * size)) if p == 2 else xp.sum(size**p) ** (1 / p)


def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, error_if_nonfinite: bool = False
) -> None:
    """Bring every element of every gradient into the range from -clip_value to clip_value.

    As `torch.nn.utils.clip_grad_value_`, but that each gradient becomes a new one.

    Args:
        parameters: a tensor or an iterable of them; those without a gradient are passed over.
        clip_value: from 0 up.
        error_if_nonfinite: raise where an element is NaN or infinite. Else NaN stays.

    Raises:
        RuntimeError: an element is not finite, with `error_if_nonfinite`. Nothing has changed then.
        TypeError, ValueError: what is given is no tensor, or out of range.
    """
    name = "clip_grad_value_"
    if not clip_value >= 0:
        raise ValueError(f"{name}: needs clip_value from 0 up, got {clip_value}")
    rows = list(_rows(name, parameters))
    if error_if_nonfinite and not all(bool(xp.all(xp.isfinite(row))) for _, xp, row in rows):
        _refuse_nonfinite(name, "an element of a gradient is")
    at_once([c for leaves, xp, row in rows for c in _set(leaves, xp, xp.clip(row, -clip_value, clip_value))])
