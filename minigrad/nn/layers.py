"""Layers: torch's names, arguments, defaults and parameter layouts."""

import math
from collections.abc import Iterator
from typing import Any

from .. import ops
from ..tensor import Tensor
from . import functional, init
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


class ReLU(Module):
    """The larger of x and 0."""

    def forward(self, x: Tensor) -> Tensor:
        """relu(x)."""
        return ops.relu(x)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        """tanh(x)."""
        return ops.tanh(x)


class GELU(Module):
    """x times the normal distribution function of x, in its exact form."""

    def forward(self, x: Tensor) -> Tensor:
        """gelu(x)."""
        return ops.gelu(x)


class Dropout(Module):
    """In training, set elements to 0 with probability `p` and scale the rest by 1 / (1 - p)."""

    def __init__(self, p: float = 0.5):
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p must be from 0 to 1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """x with dropout in training mode, x itself in evaluation mode."""
        return functional.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Flatten(Module):
    """The axes from `start_dim` to `end_dim` made into one: by default all but the first, the batch."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, x: Tensor) -> Tensor:
        """flatten(x, start_dim, end_dim)."""
        return ops.flatten(x, self.start_dim, self.end_dim)


class Sequential(Module):
    """Modules one after the other, named '0', '1', …, or by the keys of a dict.

    >>> import minigrad as mg
    >>> mg.nn.Sequential(mg.nn.Linear(3, 2), mg.nn.ReLU())
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
      (1): ReLU()
    )
    """

    def __init__(self, *modules: Any):
        named = modules[0] if len(modules) == 1 and isinstance(modules[0], dict) else dict(enumerate(modules))
        for name, module in named.items():
            if not isinstance(module, Module):
                what = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
                raise TypeError(f"Sequential: layer {name!r} must be a module such as nn.ReLU(), got {what}")
            setattr(self, str(name), module)

    def __iter__(self) -> Iterator[Module]:
        return (module for module in vars(self).values() if isinstance(module, Module))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, i: int) -> Any:
        return list(self)[i]

    def forward(self, x: Tensor) -> Tensor:
        """The last module of … of the first module of x."""
        for module in vars(self).values():
            if isinstance(module, Module):
                x = module(x)
        return x
