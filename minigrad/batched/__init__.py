"""Batched arrays: one more kind of array, which `vmap` runs functions on.

They show the shape of one example, and hold those of many. Forward functions and gradient rules, which are
array code, work on them as they are, and no op needs a rule for batches.
"""

from .array import Batched, Level, Levels, align, levels_of, union
from .namespace import Batching, batching

__all__ = ["Batched", "Batching", "Level", "Levels", "align", "batching", "levels_of", "union"]
