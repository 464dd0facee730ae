"""Kernels: one text of C++ for an element, run over NumPy arrays by the CPU and over CuPy's by the GPU."""

from .elementwise import ElementwiseKernel
from .plan import available

__all__ = ["ElementwiseKernel", "available"]
