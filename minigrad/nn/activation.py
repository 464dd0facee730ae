"""The nonlinear functions of nets as torch names them, and a layer for each.

`inplace`, which torch's layers have, changes nothing: a tensor is a value.
"""

from .. import ops
from ..ops import relu, sigmoid, silu, tanh
from ..ops.units import elu as _elu
from ..ops.units import gelu_tanh
from ..ops.units import hardtanh as _hardtanh
from ..ops.units import leaky_relu as _leaky_relu
from ..tensor import Tensor
from .module import Module


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x times the normal distribution function of x; nearly so, and by tanh, if `approximate='tanh'`."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return ops.gelu(input) if approximate == "none" else gelu_tanh(input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x where it is positive, and else `negative_slope` times x."""
    return _leaky_relu(input, negative_slope)


def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """x where it is positive, and else `alpha` (exp(x) - 1)."""
    return _elu(input, alpha)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta, a smooth relu; x itself where beta x is above a `threshold` below 20.

    (torch cuts off at 20, too, where x is 3e-9 less than the function.)
    """
    if beta == 0:
        raise ValueError("softplus: beta must not be 0")
    smooth = ops.softplus(input) if beta == 1 else ops.softplus(input * beta) / beta
    return smooth if threshold >= 20 else ops.where(input * beta > threshold, input, smooth)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """x, but no less than `min_val` and no more than `max_val`."""
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val must not be above max_val, got {min_val} and {max_val}")
    return _hardtanh(input, min_val, max_val)


def relu6(input: Tensor) -> Tensor:
    """x, but no less than 0 and no more than 6."""
    return _hardtanh(input, 0.0, 6.0)


def softmax(input: Tensor, dim: int) -> Tensor:
    """exp(x) over its sum along `dim`, which torch would guess if it were not given."""
    return ops.softmax(input, dim)


def log_softmax(input: Tensor, dim: int) -> Tensor:
    """log(softmax(x)) along `dim`, without rounding to log(0)."""
    return ops.log_softmax(input, dim)


class ReLU(Module):
    """The larger of x and 0."""

    def __init__(self, inplace: bool = False):
        pass

    def forward(self, x: Tensor) -> Tensor:
        """relu(x)."""
        return relu(x)


class LeakyReLU(Module):
    """x where it is positive, and else `negative_slope` times x."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False):
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """leaky_relu(x, negative_slope)."""
        return leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class ELU(Module):
    """x where it is positive, and else `alpha` (exp(x) - 1) (Clevert et al., 2015)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False):
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """elu(x, alpha)."""
        return elu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Tensor) -> Tensor:
        """sigmoid(x)."""
        return sigmoid(x)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        """tanh(x)."""
        return tanh(x)


class GELU(Module):
    """x times the normal distribution function of x; nearly so, and by tanh, if `approximate='tanh'`."""

    def __init__(self, approximate: str = "none"):
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """gelu(x, approximate)."""
        return gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(Module):
    """x * sigmoid(x), also called swish."""

    def __init__(self, inplace: bool = False):
        pass

    def forward(self, x: Tensor) -> Tensor:
        """silu(x)."""
        return silu(x)


class Softplus(Module):
    """log(1 + exp(beta x)) / beta; see `functional.softplus` for the `threshold`."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        self.beta = beta
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        """softplus(x, beta, threshold)."""
        return softplus(x, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class Hardtanh(Module):
    """x, but no less than `min_val` and no more than `max_val`."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False):
        if min_val > max_val:
            raise ValueError(f"Hardtanh: min_val must not be above max_val, got {min_val} and {max_val}")
        self.min_val = min_val
        self.max_val = max_val

    def forward(self, x: Tensor) -> Tensor:
        """hardtanh(x, min_val, max_val)."""
        return hardtanh(x, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}"


class ReLU6(Module):
    """x, but no less than 0 and no more than 6."""

    def __init__(self, inplace: bool = False):
        pass

    def forward(self, x: Tensor) -> Tensor:
        """relu6(x)."""
        return relu6(x)


class Softmax(Module):
    """exp(x) over its sum along `dim`, which torch would guess if it were not given."""

    def __init__(self, dim: int):
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """softmax(x, dim)."""
        return softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """log(softmax(x)) along `dim`, which torch would guess if it were not given."""

    def __init__(self, dim: int):
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """log_softmax(x, dim)."""
        return log_softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
