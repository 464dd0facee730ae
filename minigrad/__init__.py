"""minigrad: a small tensor library with reverse-mode autodiff, on NumPy or CuPy.

>>> import minigrad as mg
>>> w = mg.tensor([1.0, -2.0], requires_grad=True)
>>> loss = mg.square(w).sum()
>>> loss.backward()
>>> w.grad
tensor([ 2., -4.], dtype=float32, device=numpy)
"""

from numpy import bool, float16, float32, float64, int8, int16, int32, int64, uint8, uint16, uint32, uint64

from . import autograd, data, io, kernels, nn, ops, optim, random, testing, transforms
from .autograd import detect_anomaly, enable_grad, is_grad_enabled, no_grad
from .backend import backend, set_backend, use_backend
from .checkpoints import Checkpoints
from .graph import graph
from .io import load, save
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
