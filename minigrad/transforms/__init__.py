"""Functions of functions: gradients, products with derivatives, Jacobians, Hessians, batches, checkpoints.

They take a function of tensors and give another, and compose to any order: `grad(grad(f))`,
`jacobian(lambda x: vjp(f, x)[1](v)[0])`. Nothing is written to any `.grad`.
"""

from .checkpoint import checkpoint
from .gradients import grad, hvp, jvp, stop_gradient, value_and_grad, vjp
from .jacobians import hessian, jacobian
from .vmap import vmap

__all__ = [
    "checkpoint",
    "grad",
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "stop_gradient",
    "value_and_grad",
    "vjp",
    "vmap",
]
