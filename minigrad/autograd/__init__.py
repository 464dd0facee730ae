"""The engine: what an operation leaves behind, and how gradients flow back through it."""

from .anomaly import detect_anomaly
from .backward import grad, gradients
from .mode import enable_grad, grad_enabled, grad_mode, is_grad_enabled, no_grad
from .node import (
    FREED,
    Leaf,
    Memory,
    Node,
    Variable,
    leaf_for,
    made_at,
    new,
    next_number,
    outside,
    require_grad,
    wrap,
)

__all__ = [
    "FREED",
    "Leaf",
    "Memory",
    "Node",
    "Variable",
    "detect_anomaly",
    "enable_grad",
    "grad",
    "grad_enabled",
    "grad_mode",
    "gradients",
    "is_grad_enabled",
    "leaf_for",
    "made_at",
    "new",
    "next_number",
    "no_grad",
    "outside",
    "require_grad",
    "wrap",
]
