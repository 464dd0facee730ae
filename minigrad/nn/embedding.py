"""Embeddings: a row of a matrix for each integer."""

from typing import Any, Self

from .. import ops
from ..backend import integer
from ..tensor import Tensor
from . import init
from .indices import check_indices
from .module import Module
from .parameter import Parameter


def embedding(input: Any, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """The rows of `weight`, of shape (V, D), that the integers of `input` name: (…) to (…, D).

    Args:
        input: integers from 0 to V - 1.
        weight: one row for each.
        padding_idx: a row, counted from the end if negative, to which no gradient flows.

    Raises:
        TypeError: `input` does not hold integers.
        IndexError: one of them is negative, or not below V.
        ValueError: `weight` is no matrix, or `padding_idx` none of its rows.

    (torch's `max_norm`, `scale_grad_by_freq` and `sparse` are missing.)
    """
    input = ops.asarray(input)
    if weight.ndim != 2:
        raise ValueError(f"embedding: weight must have shape (V, D), got {weight.shape}")
    check_indices("embedding", input, weight.shape[0])
    rows = ops.take(weight, input, axis=0)
    if padding_idx is None:
        return rows
    is_padding = ops.expand_dims(input == _row("embedding", padding_idx, weight.shape[0]), axis=-1)
    return ops.where(is_padding, rows.detach(), rows)


def _row(op: str, padding_idx: int, count: int) -> int:
    row = integer(op, "padding_idx", padding_idx)
    if not -count <= row < count:
        raise ValueError(f"{op}: padding_idx must be one of {count} rows, got {padding_idx}")
    return row % count


class Embedding(Module):
    """A vector, a row of `weight`, for each integer from 0 to num_embeddings - 1: (…) to (…, embedding_dim).

    The rows begin normally distributed; that of `padding_idx` begins with zeros and gets no gradient.
    (torch's `max_norm`, `scale_grad_by_freq` and `sparse` are missing.)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        dtype: Any = None,
        device: str | None = None,
    ):
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = (
            None if padding_idx is None else _row(type(self).__name__, padding_idx, num_embeddings)
        )
        self.weight = Parameter(ops.empty((num_embeddings, embedding_dim), dtype=dtype, device=device))
        self.reset_parameters()

    @classmethod
    def from_pretrained(cls, embeddings: Any, freeze: bool = True, padding_idx: int | None = None) -> Self:
        """A layer with a copy of these rows; with `freeze` they are not learned."""
        embeddings = ops.asarray(embeddings)
        if embeddings.ndim != 2:
            raise ValueError(f"{cls.__name__}: embeddings must have shape (V, D), got {embeddings.shape}")
        count, width = embeddings.shape
        layer = cls(count, width, padding_idx, dtype=embeddings.dtype, device=embeddings.device)
        layer.weight.data = embeddings
        layer.requires_grad_(not freeze)
        return layer

    def reset_parameters(self) -> None:
        """Draw the initial values anew."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight.data = ops.setitem(self.weight.detach(), self.padding_idx, 0.0)

    def forward(self, x: Any) -> Tensor:
        """embedding(x, weight, padding_idx)."""
        return embedding(x, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
