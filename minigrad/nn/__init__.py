"""Neural nets: modules, layers, losses and initial values, as torch has them."""

from . import functional, init
from .layers import GELU, Dropout, Flatten, Linear, ReLU, Sequential, Tanh
from .module import Module
from .normalization import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, RMSNorm
from .parameter import Buffer, Parameter

__all__ = [
    "GELU",
    "BatchNorm1d",
    "BatchNorm2d",
    "Buffer",
    "Dropout",
    "Flatten",
    "GroupNorm",
    "LayerNorm",
    "Linear",
    "Module",
    "Parameter",
    "RMSNorm",
    "ReLU",
    "Sequential",
    "Tanh",
    "functional",
    "init",
]
