"""Files: trees of tensors, arrays and plain values, in the safetensors format.

`save` writes a tree to one file, and a crash at any moment leaves the old file or the new one. `load` checks
all of a file before it believes any of it, and runs no code from it.
"""

from .files import load, outline, save
from .safetensors import Entry, FormatError

__all__ = ["Entry", "FormatError", "load", "outline", "save"]
