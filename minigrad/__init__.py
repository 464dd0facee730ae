"""minigrad: a small tensor library with reverse-mode autodiff, on NumPy or CuPy.

>>> import minigrad as mg
>>> w = mg.tensor([1.0, -2.0], requires_grad=True)
>>> loss = mg.square(w).sum()
>>> loss.backward()
>>> w.grad
tensor([ 2., -4.], dtype=float32, device=numpy)
"""

from typing import TYPE_CHECKING, Any

from numpy import bool, float16, float32, float64, int8, int16, int32, int64, uint8, uint16, uint32, uint64

from . import autograd, data, kernels, nn, ops, optim, random, testing, transforms
from .autograd import detect_anomaly, enable_grad, is_grad_enabled, no_grad
from .backend import backend, set_backend, use_backend
from .graph import graph
from .ops import *
from .ops.dtypes import __array_namespace_info__
from .primitive import primitive
from .tensor import Tensor
from .transforms import (
    checkpoint,
    grad,
    hessian,
    hvp,
    jacobian,
    jvp,
    stop_gradient,
    value_and_grad,
    vjp,
    vmap,
)

if TYPE_CHECKING:
    from . import io
    from .checkpoints import Checkpoints
    from .io import load, save

tensor = ops.tensor  # the function, which importing the module of that name has hidden

__version__ = "0.1.0"
__array_api_version__ = "2024.12"

__all__ = [
    "Checkpoints",
    "Tensor",
    "__array_api_version__",
    "__array_namespace_info__",
    "autograd",
    "backend",
    "bool",
    "checkpoint",
    "data",
    "detect_anomaly",
    "enable_grad",
    "float16",
    "float32",
    "float64",
    "grad",
    "graph",
    "hessian",
    "hvp",
    "int8",
    "int16",
    "int32",
    "int64",
    "io",
    "is_grad_enabled",
    "jacobian",
    "jvp",
    "kernels",
    "load",
    "nn",
    "no_grad",
    "ops",
    "optim",
    "primitive",
    "random",
    "save",
    "set_backend",
    "stop_gradient",
    "testing",
    "transforms",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "use_backend",
    "value_and_grad",
    "vjp",
    "vmap",
]
__all__ += ops.__all__


def __getattr__(name: str) -> Any:
    """What has to do with files is imported when it is asked for: it takes a fifth of the time of NumPy."""
    module = {"io": "io", "load": "io", "save": "io", "Checkpoints": "checkpoints"}.get(name)
    if module is None:
        raise AttributeError(f"module 'minigrad' has no attribute {name!r}")
    import importlib

    found = importlib.import_module(f".{module}", __name__)
    return found if name == module else getattr(found, name)


def __dir__() -> list[str]:
    """All names, also of what is not imported yet: completion shows them."""
    return sorted({*globals(), *__all__})
