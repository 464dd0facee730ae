"""Optimizers: rules that change parameters by their gradients, with torch's names and meanings."""

from .adam import Adam, AdamW
from .optimizer import Optimizer
from .radam import RAdam
from .sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RAdam"]
