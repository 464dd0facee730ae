"""What dropout does to its input: one pass over memory, and a byte for each element is kept."""

from typing import Any

from ..backend import cast
from ..kernels import ElementwiseKernel, fits
from ..primitive import primitive

# As a product, so that NaN stays NaN.
_KEPT = ElementwiseKernel("T x, bool keep, T scale", "T y", "y = x * (keep ? scale : T(0))", "keep_scaled")


def _kept(xp, x, keep, scale):
    if fits(x) and x.shape == keep.shape:
        return _KEPT(x, keep, scale)
    return x * (cast(xp, keep, x.dtype) * scale)


@primitive(x=lambda xp, g, keep, scale: _kept(xp, g, keep, scale))
def keep_scaled(xp, x, keep, scale) -> Any:
    """x times `scale` where `keep`, bools that broadcast to its shape, is true, and times 0 elsewhere."""
    return _kept(xp, x, keep, scale)
