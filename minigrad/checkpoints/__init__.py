"""Checkpoints of a training run: all that it needs to go on, in a file each, restored whole or not at all."""

from .run import Checkpoints

__all__ = ["Checkpoints"]
