"""Initial values of parameters, under torch's names: each function fills a tensor and gives it back.

The random numbers come from `minigrad.random`, so `minigrad.random.seed` fixes them.
"""

import math

from .. import random
from ..ops import diagonal, eye, full_like, linalg, matrix_transpose, reshape, where
from ..tensor import Tensor


def _fans(x: Tensor) -> tuple[int, int]:
    """The number of inputs and outputs of a weight of shape (out, in, …)."""
    if x.ndim < 2:
        raise ValueError(f"init: fan-in and fan-out need at least 2 axes, got shape {x.shape}")
    field = math.prod(x.shape[2:])
    return x.shape[1] * field, x.shape[0] * field


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a nonlinearity shrinks a signal, to be made up for by the weights."""
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    gains = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}
    if nonlinearity not in gains:
        raise ValueError(f"init: unknown nonlinearity {nonlinearity!r}; choose from {[*gains, 'leaky_relu']}")
    return gains[nonlinearity]


def uniform_(x: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Fill with numbers spread evenly over [a, b)."""
    x.data = random.uniform(x.shape, a, b, dtype=x.dtype, device=x.device)
    return x


def normal_(x: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with normally distributed numbers."""
    x.data = random.normal(x.shape, mean, std, dtype=x.dtype, device=x.device)
    return x


def trunc_normal_(x: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Tensor:
    """Fill with normally distributed numbers, without those outside [a, b], which are drawn again.

    Raises `ValueError` if less than a hundredth of the distribution is inside.
    """
    inside = 0.5 * (math.erf((b - mean) / std / math.sqrt(2)) - math.erf((a - mean) / std / math.sqrt(2)))
    if inside < 0.01:
        raise ValueError(
            f"init: too little of the normal distribution ({mean}, {std}) is inside [{a}, {b}] to draw from"
        )
    values = random.normal(x.shape, mean, std, dtype=x.dtype, device=x.device)
    while (outside := (values < a) | (values > b)).any():
        count = int(outside.sum().item())
        values[outside] = random.normal(count, mean, std, dtype=x.dtype, device=x.device)
    x.data = values
    return x


def constant_(x: Tensor, val: float) -> Tensor:
    """Fill with one value."""
    x.data = full_like(x.detach(), val)
    return x


def zeros_(x: Tensor) -> Tensor:
    """Fill with 0."""
    return constant_(x, 0.0)


def ones_(x: Tensor) -> Tensor:
    """Fill with 1."""
    return constant_(x, 1.0)


def eye_(x: Tensor) -> Tensor:
    """Fill a matrix with 1 on the diagonal and 0 elsewhere."""
    if x.ndim != 2:
        raise ValueError(f"init: eye_ needs a matrix, got shape {x.shape}")
    x.data = eye(*x.shape, dtype=x.dtype, device=x.device)
    return x


def orthogonal_(x: Tensor, gain: float = 1.0) -> Tensor:
    """Fill so that the rows, or the columns if there are more rows, are orthogonal (Saxe et al., 2014).

    Their length is `gain`. What is behind the first axis counts as one.
    """
    if x.ndim < 2:
        raise ValueError(f"init: orthogonal_ needs at least 2 axes, got shape {x.shape}")
    rows, columns = x.shape[0], math.prod(x.shape[1:])
    shape = (max(rows, columns), min(rows, columns))
    q, r = linalg.qr(random.normal(shape, dtype=x.dtype, device=x.device))
    q = q * where(diagonal(r) < 0, -gain, gain)  # with R's diagonal positive, Q is evenly distributed
    x.data = reshape(q if rows >= columns else matrix_transpose(q), x.shape).astype(x.dtype)
    return x


def xavier_uniform_(x: Tensor, gain: float = 1.0) -> Tensor:
    """Fill evenly over ±gain sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    bound = gain * math.sqrt(6 / sum(_fans(x)))
    return uniform_(x, -bound, bound)


def xavier_normal_(x: Tensor, gain: float = 1.0) -> Tensor:
    """Fill normally, with standard deviation gain sqrt(2 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    return normal_(x, 0.0, gain * math.sqrt(2 / sum(_fans(x))))


def _kaiming_std(x: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"init: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    fan = _fans(x)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan) if fan else 0.0


def kaiming_uniform_(
    x: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Fill evenly over ±gain sqrt(3 / fan) (He et al., 2015)."""
    bound = math.sqrt(3) * _kaiming_std(x, a, mode, nonlinearity)
    return uniform_(x, -bound, bound)


def kaiming_normal_(
    x: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Fill normally, with standard deviation gain / sqrt(fan) (He et al., 2015)."""
    return normal_(x, 0.0, _kaiming_std(x, a, mode, nonlinearity))
