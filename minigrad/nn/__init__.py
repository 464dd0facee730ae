"""Neural nets: modules, layers, losses and initial values, as torch has them."""

from . import functional, init
from .layers import GELU, Dropout, Flatten, Linear, ReLU, Sequential, Tanh
from .module import Module, Parameter

__all__ = [
    "GELU",
    "Dropout",
    "Flatten",
    "Linear",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "Tanh",
    "functional",
    "init",
]
