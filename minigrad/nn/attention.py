"""Attention, and its layer of several heads: torch's names, arguments, defaults and parameters."""

import functools
import math
from typing import Any

from .. import ops
from ..backend import is_bool, is_floating
from ..ops.attention import attention, probabilities
from ..tensor import Tensor
from . import init
from .dropout import dropout
from .linear import Linear
from .module import Module
from .parameter import Parameter


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query @ key.T * scale) @ value: values, weighted by how well their keys fit a query.

    (Vaswani et al., "Attention is all you need", 2017.)
    On NumPy arrays of float32 or float64 it is computed by a kernel that keeps no array of shape (L, S),
    unless there is dropout or the mask has a gradient.

    Args:
        query: of shape (…, L, E), for instance (batch, heads, length, width).
        key, value: of shapes (…, S, E) and (…, S, F). The axes in front are broadcast.
        attn_mask: of a shape that broadcasts to (…, L, S): bools, True where a query takes part in a key; or
            floats, which are added to the scores. A query that may look at no key gives 0.
        dropout_p: with this probability each weight is set to 0, in training or not.
        is_causal: query i looks at the keys up to number i alone; not together with a mask.
        scale: by default 1 / sqrt(E).
        enable_gqa: a key and a value serve several heads of queries one after the other: on the third axis
            from the end their number divides that of the query.

    Returns:
        A tensor of shape (…, L, F).

    Raises:
        ValueError: shapes do not fit, there are both `attn_mask` and `is_causal`, or `dropout_p` is not
            from 0 to 1.
        TypeError: query, key or value are not floats, or the mask is neither bools nor floats.

    >>> import minigrad as mg
    >>> x = mg.random.normal((2, 4, 10, 8))
    >>> mg.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True).shape
    (2, 4, 10, 8)
    """
    op = "scaled_dot_product_attention"
    if not 0 <= dropout_p <= 1:
        raise ValueError(f"{op}: dropout_p must be from 0 to 1, got {dropout_p}")
    if attn_mask is not None and is_causal:
        raise ValueError(f"{op}: give attn_mask or is_causal, not both")
    if enable_gqa:
        heads, *fewer = (x.shape[-3] if x.ndim > 2 else 0 for x in (query, key, value))
        if not all(n and heads % n == 0 for n in fewer):
            raise ValueError(
                f"{op}: the heads of key and value must divide those of query, got query {query.shape}, "
                f"key {key.shape} and value {value.shape}"
            )
        key, value = (ops.repeat(x, heads // n, axis=-3) for x, n in zip((key, value), fewer, strict=True))
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1] or 1) if query.shape else 1.0
    drop = functools.partial(dropout, p=dropout_p) if dropout_p else None
    return attention(query, key, value, attn_mask, is_causal, scale, drop)


class MultiheadAttention(Module):
    """Attention by `num_heads` heads, each of a projection of its own (Vaswani et al., 2017, section 3.2.2).

    Queries, keys and values are projected to `embed_dim` features, which are cut into heads of `embed_dim /
    num_heads`; what these give, one after the other, is projected again by `out_proj`. The three projections
    are one parameter, `in_proj_weight` of shape (3 embed_dim, embed_dim); or three, `q_proj_weight`,
    `k_proj_weight` and `v_proj_weight`, where `kdim` or `vdim` is another number of features.
    `in_proj_bias` is one in both cases. They begin by `xavier_uniform_`, and the biases as 0, as in torch.

    Args:
        embed_dim, num_heads: the features of queries and results, and into how many heads to cut them.
        dropout: in training, each weight is set to 0 with this probability.
        bias: whether the projections add a bias.
        add_bias_kv, add_zero_attn: torch's extra key and value, which are not supported: False.
        kdim, vdim: the features of keys and values; by default `embed_dim`.
        batch_first: inputs and results are (batch, length, features), not (length, batch, features).

    Raises:
        ValueError: `num_heads` does not divide `embed_dim`, or either is not positive.
        NotImplementedError: `add_bias_kv` or `add_zero_attn`.

    >>> import minigrad as mg
    >>> attention = mg.nn.MultiheadAttention(16, 4, batch_first=True)
    >>> x = mg.random.normal((2, 10, 16))
    >>> y, weights = attention(x, x, x)
    >>> y.shape, weights.shape
    ((2, 10, 16), (2, 10, 10))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: str | None = None,
        dtype: Any = None,
    ):
        if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
            raise ValueError(
                f"MultiheadAttention: num_heads must divide embed_dim, got embed_dim={embed_dim} and "
                f"num_heads={num_heads}"
            )
        if not 0 <= dropout <= 1:
            raise ValueError(f"MultiheadAttention: dropout must be from 0 to 1, got {dropout}")
        if add_bias_kv or add_zero_attn:
            raise NotImplementedError("MultiheadAttention: add_bias_kv and add_zero_attn are not supported")
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.batch_first = batch_first
        self.in_proj_weight = self.q_proj_weight = self.k_proj_weight = self.v_proj_weight = None

        def parameter(*shape: int) -> Parameter:
            return Parameter(ops.empty(shape, dtype=dtype, device=device))

        if self.kdim == self.vdim == embed_dim:
            self.in_proj_weight = parameter(3 * embed_dim, embed_dim)
        else:
            self.q_proj_weight = parameter(embed_dim, embed_dim)
            self.k_proj_weight = parameter(embed_dim, self.kdim)
            self.v_proj_weight = parameter(embed_dim, self.vdim)
        self.in_proj_bias = parameter(3 * embed_dim) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, dtype=dtype, device=device)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values anew, all but that of `out_proj.weight`, which `Linear` draws."""
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The result, of the shape of `query`, and the weights of shape (batch, length, keys), or None.

        Without a batch inputs have two axes. In masks of bools True stands for what is left out, and masks of
        floats are added to the scores. `need_weights=False` is faster, and keeps no weights in memory.

        Args:
            query, key, value: of shapes (L, N, embed_dim), (S, N, kdim) and (S, N, vdim), or (N, L, …) and
                (N, S, …) with `batch_first`.
            key_padding_mask: of shape (N, S), or (S,): keys that are left out.
            need_weights: whether to give the weights.
            attn_mask: of shape (L, S), or (N * num_heads, L, S): pairs that are left out.
            average_attn_weights: give the mean of the weights of all heads, not one for each head as
                (N, num_heads, L, S).
            is_causal: each query looks at the keys up to its own place alone. Then `attn_mask` is not
                looked at. (torch takes this for a hint, which needs the mask beside it.)

        A query all of whose keys are left out gives 0 before `out_proj`, as in torch, where with weights it
        gives NaN.

        Raises:
            ValueError: the shapes do not fit.
            TypeError: a mask is neither of bools nor of floats.
        """
        shapes = query.shape, key.shape, value.shape
        axes = len(shapes[0])
        features = self.embed_dim, self.kdim, self.vdim
        batch = 0 if self.batch_first else 1
        fit = [len(shape) == axes and shape[-1] == n for shape, n in zip(shapes, features, strict=True)]
        together = axes < 3 or shapes[0][batch] == shapes[1][batch]
        if axes not in (2, 3) or not all(fit) or shapes[1][:-1] != shapes[2][:-1] or not together:
            raise ValueError(
                f"MultiheadAttention: expected query, key and value of {features} features, with 2 axes, or "
                f"3 and one batch, and as many keys as values; got {shapes[0]}, {shapes[1]} and {shapes[2]}"
            )
        if axes == 2:
            query, key, value = (ops.expand_dims(x, batch) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        inputs = zip((query, key, value), *self._projections(), strict=True)
        q, k, v = (self._heads(ops.linear(x, weight, bias)) for x, weight, bias in inputs)
        mask = self._mask(q, k, key_padding_mask, None if is_causal else attn_mask)
        scale = 1 / math.sqrt(q.shape[-1])
        drop = functools.partial(dropout, p=self.dropout if self.training else 0.0)
        weights = None
        if need_weights:
            weights = drop(probabilities(q, k, mask, is_causal, scale))
            out = ops.matmul(weights, v)
            weights = weights.mean(axis=1) if average_attn_weights else weights
            weights = weights[0] if axes == 2 else weights
        else:
            dropping = self.training and self.dropout
            out = attention(q, k, v, mask, is_causal, scale, drop if dropping else None)
        out = ops.permute_dims(out, (0, 2, 1, 3) if self.batch_first else (2, 0, 1, 3))
        return self.out_proj(ops.reshape(out, shapes[0])), weights

    def _projections(self) -> tuple[Any, Any]:
        """The weights and the biases of query, key and value."""
        weights = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        if self.in_proj_weight is not None:
            weights = ops.split(self.in_proj_weight, 3)
        return weights, (None,) * 3 if self.in_proj_bias is None else ops.split(self.in_proj_bias, 3)

    def _heads(self, x: Tensor) -> Tensor:
        """Projected features as (N, heads, length, features of a head): a view."""
        x = ops.reshape(x, (*x.shape[:-1], self.num_heads, self.embed_dim // self.num_heads))
        return ops.permute_dims(x, (0, 2, 1, 3) if self.batch_first else (1, 2, 0, 3))

    def _mask(self, q: Tensor, k: Tensor, padding: Any, pairs: Any) -> Any:
        """Both masks as one that `attention` takes: bools that are True for what takes part, or floats."""
        n, heads, queries, keys = *q.shape[:-1], k.shape[-2]
        masks = []
        for name, mask, forms in (
            ("key_padding_mask", padding, {(n, keys): (n, 1, 1, keys)}),
            (
                "attn_mask",
                pairs,
                {(queries, keys): (queries, keys), (n * heads, queries, keys): (n, heads, queries, keys)},
            ),
        ):
            if mask is None:
                continue
            if tuple(mask.shape) not in forms:
                expected = " or ".join(map(str, forms))
                raise ValueError(f"MultiheadAttention: {name} must be {expected}, got {tuple(mask.shape)}")
            if not (is_bool(mask.dtype) or is_floating(mask.dtype)):
                raise TypeError(f"MultiheadAttention: {name} must be of bools or floats, got {mask.dtype}")
            masks.append(ops.reshape(mask, forms[tuple(mask.shape)]))
        if all(is_bool(mask.dtype) for mask in masks):
            return ops.logical_not(functools.reduce(ops.logical_or, masks)) if masks else None
        zero = ops.zeros((), dtype=q.dtype, device=q.device)
        added = [ops.where(mask, -math.inf, zero) if is_bool(mask.dtype) else mask for mask in masks]
        return functools.reduce(ops.add, added)

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"
