"""Attention: each query takes a mean of the values, weighted by how well their keys fit it.

On NumPy's arrays it is compiled, with memory that grows with the length of a text and not with its square:
see `attention_kernels.py`. Elsewhere it is composed of other ops.
"""

import math
from typing import Any

import numpy

from ..autograd import Variable
from ..backend import create, is_bool, is_floating
from ..kernels import compiles
from ..primitive import expect_arrays, primitive, through_reference
from . import attention_kernels as compiled
from .elementwise import where
from .products import matmul
from .reductions import all as all_
from .shaping import broadcast_shapes, matrix_transpose
from .softmax import softmax


def attention(query, key, value, mask=None, causal=False, scale=1.0, dropout=None) -> Any:
    """softmax(scale * query @ key.T + mask) @ value, with 0 where a query may look at no key.

    Args:
        query: of shape (…, L, E). The axes in front of all three are broadcast.
        key, value: of shapes (…, S, E) and (…, S, F).
        mask: of a shape that broadcasts to (…, L, S): bools, True where a query may look at a key, or
            numbers to add to the scores.
        causal: query i may look at the keys up to number i alone.
        scale: a number.
        dropout: a function of the probabilities, applied before they weigh the values.

    Raises:
        ValueError: shapes do not fit.
        TypeError: query, key or value are not floats, or the mask is neither bools nor floats.
    """
    _check(query, key, value, mask)
    if dropout is None and _compiles(query, key, value, mask):
        return _scaled_dot_product_attention(query, key, value, mask, bool(causal), float(scale))
    return composition(query, key, value, mask, causal, scale, dropout)


def _check(query, key, value, mask):
    op = "scaled_dot_product_attention"
    expect_arrays(op, query, key, value, *(() if mask is None else (mask,)))
    q, k, v = (tuple(x.shape) for x in (query, key, value))
    if min(len(q), len(k), len(v)) < 2 or q[-1] != k[-1] or k[-2] != v[-2]:
        raise ValueError(
            f"{op}: expected query (…, L, E), key (…, S, E) and value (…, S, F), got {q}, {k} and {v}"
        )
    for name, x in (("query", query), ("key", key), ("value", value)):
        if not is_floating(x.dtype):
            raise TypeError(f"{op}: {name} must be of floats, got {x.dtype}")
    try:
        shape = *broadcast_shapes(q[:-2], k[:-2], v[:-2]), q[-2], k[-2]
    except ValueError:
        raise ValueError(
            f"{op}: the axes before the last two do not broadcast, of {q}, {k} and {v}"
        ) from None
    if mask is None:
        return
    if not (is_bool(mask.dtype) or is_floating(mask.dtype)):
        raise TypeError(f"{op}: the mask must be of bools or floats, got {mask.dtype}")
    missing = len(shape) - len(mask.shape)
    if missing < 0 or any(n not in (1, m) for n, m in zip(mask.shape, shape[missing:], strict=True)):
        raise ValueError(f"{op}: the mask must broadcast to {shape}, got {tuple(mask.shape)}")


def composition(query, key, value, mask, causal, scale, dropout=None) -> Any:
    """What `attention` computes, of other ops: for all arrays, and for gradients of any order."""
    p = probabilities(query, key, mask, causal, scale)
    return matmul(p if dropout is None else dropout(p), value)


def probabilities(query, key, mask=None, causal=False, scale=1.0) -> Any:
    """With which weights each query takes the values: of shape (…, L, S), see `attention`."""
    scores = matmul(query * scale, matrix_transpose(key))
    if causal:
        scores = where(_up_to_itself(scores), scores, -math.inf)
    if mask is None:
        return softmax(scores, axis=-1) if scores.shape[-1] else scores
    scores = where(mask, scores, -math.inf) if is_bool(mask.dtype) else scores + mask
    blind = all_(scores == -math.inf, axis=-1, keepdims=True)
    p = softmax(where(blind, 0.0, scores), axis=-1) if scores.shape[-1] else scores
    return where(blind, 0.0, p)


@primitive()
def _up_to_itself(xp, scores):
    """True from the first column to the diagonal."""
    rows, columns = (create(xp, "arange", n, like=scores) for n in scores.shape[-2:])
    return columns <= rows[:, None]


# --- compiled --------------------------------------------------------------------------------------


def _compiles(query, key, value, mask):
    """Whether the kernels take these, and a mask of bools or of their dtype that has no gradient."""
    if isinstance(mask, Variable) and mask.node is not None:
        return False
    x, *others, mask = (a._data if isinstance(a, Variable) else a for a in (query, key, value, mask))
    known = mask is None or (type(mask) is numpy.ndarray and mask.dtype in (x.dtype, bool))
    return known and compiles(x, *others)


def _rule(g, query, key, value, mask, causal, scale, out, kept, wanted):
    if not compiles(g):
        inputs = {"query": query, "key": key, "value": value, "mask": mask}
        return through_reference(composition, g, wanted, **inputs, causal=causal, scale=scale)
    return compiled.backward(g, query, key, value, mask, causal, scale, out, kept)


@primitive(query=_rule, key=_rule, value=_rule)
def _scaled_dot_product_attention(xp, query, key, value, mask, causal, scale):
    return compiled.forward(query, key, value, mask, causal, scale)
