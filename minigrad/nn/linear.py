"""Layers that multiply by a matrix, that do nothing, or that only change the shape."""

import math
from collections.abc import Sequence
from typing import Any

from .. import ops
from ..backend import check_axis, integer, integers
from ..tensor import Tensor
from . import init
from .module import Module
from .parameter import Parameter


class Linear(Module):
    """x @ weight.T + bias: (…, in_features) to (…, out_features).

    Both parameters, `weight` of shape (out, in) and `bias` of shape (out,), begin spread evenly over
    ±1/sqrt(in_features), as in torch.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        dtype: Any = None,
        device: str | None = None,
    ):
        self.in_features = in_features
        self.out_features = out_features
        self.weight = Parameter(ops.empty((out_features, in_features), dtype=dtype, device=device))
        self.bias: Any = Parameter(ops.empty(out_features, dtype=dtype, device=device)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial values anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """x @ weight.T + bias."""
        return ops.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )


class Identity(Module):
    """What goes in comes out. Takes, and forgets, whatever arguments the layer took in whose place it is."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def forward(self, x: Any) -> Any:
        """x itself."""
        return x


class Flatten(Module):
    """The axes from `start_dim` to `end_dim` made into one: by default all but the first, the batch."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, x: Tensor) -> Tensor:
        """flatten(x, start_dim, end_dim)."""
        return ops.flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """The axis `dim` made into several, of the sizes `unflattened_size`; one of them may be -1.

    Raises `ValueError`, when called, if the sizes do not make up that of the axis. (torch takes named axes,
    too, which there are none of here.)

    >>> import minigrad as mg
    >>> mg.nn.Unflatten(1, (2, -1))(mg.ones((3, 8))).shape
    (3, 2, 4)
    """

    def __init__(self, dim: int, unflattened_size: Sequence[int]):
        self.dim = integer("Unflatten", "dim", dim)
        self.unflattened_size = integers("Unflatten", "unflattened_size", unflattened_size)

    def forward(self, x: Tensor) -> Tensor:
        """x with more axes."""
        axis = check_axis("Unflatten", self.dim, x.ndim)
        sizes, known = self.unflattened_size, math.prod(n for n in self.unflattened_size if n != -1)
        fits = x.shape[axis] % known == 0 if known and sizes.count(-1) == 1 else x.shape[axis] == known
        if not fits or sizes.count(-1) > 1:
            raise ValueError(f"Unflatten: axis {self.dim} of shape {x.shape} cannot be made into {sizes}")
        return ops.reshape(x, (*x.shape[:axis], *sizes, *x.shape[axis + 1 :]))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
