"""Optimizers: rules that change parameters by their gradients, with torch's names and meanings."""

from .adam import Adam, AdamW
from .annealing import CosineAnnealingLR, CosineAnnealingWarmRestarts, OneCycleLR
from .clipping import clip_grad_norm_, clip_grad_value_
from .optimizer import Optimizer
from .plateau import ReduceLROnPlateau
from .radam import RAdam
from .scheduler import LRScheduler
from .schedules import ExponentialLR, LambdaLR, LinearLR, MultiStepLR, SequentialLR, StepLR
from .sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "Optimizer",
    "RAdam",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
    "clip_grad_norm_",
    "clip_grad_value_",
]
