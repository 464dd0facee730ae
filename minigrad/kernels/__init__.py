"""Kernels: one text of C++ for an element or a row, over NumPy's arrays and over CuPy's."""

from .elementwise import ElementwiseKernel
from .plan import available, compiles, fits, pays
from .rows import RowKernel

__all__ = ["ElementwiseKernel", "RowKernel", "available", "compiles", "fits", "pays"]
