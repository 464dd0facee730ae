"""Neural nets: modules, layers, losses and initial values, as torch has them."""

from . import functional, init
from .layers import GELU, Dropout, Flatten, Linear, ReLU, Sequential, Tanh
from .module import Module
from .parameter import Buffer, Parameter

__all__ = [
    "GELU",
    "Buffer",
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
