"""Trees: tensors in any nesting of lists, tuples, dicts, dataclasses and modules.

Leaves are tensors, arrays and Python floats; whatever else is in a tree is left as it is. A module's
leaves are those of its parameters that require gradients, each once; what is computed for them, such as
their gradients, comes as a dict by their names.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

from ..autograd import Variable
from ..backend import of
from ..nn import Module


def is_leaf(value: Any) -> bool:
    """Whether `value` is a tensor, an array or a float."""
    return isinstance(value, (Variable, float)) or of(value) is not None


def leaves(tree: Any) -> list[Any]:
    """The leaves in order."""
    if is_leaf(tree):
        return [tree]
    return [leaf for child in children(tree) for leaf in leaves(child)]


def children(tree: Any) -> list[Any]:
    """What is directly inside a tree that is no leaf."""
    if isinstance(tree, Module):
        return [parameter for parameter in tree.parameters() if parameter.requires_grad]
    if isinstance(tree, dict):
        return list(tree.values())
    if isinstance(tree, (list, tuple)):
        return list(tree)
    return [getattr(tree, name) for name in _fields(tree)]


def _fields(tree: Any) -> list[str]:
    """The names of a dataclass's fields; none for what is no such object."""
    if isinstance(tree, type) or not hasattr(tree, "__dataclass_fields__"):
        return []
    import dataclasses  # whoever made one has it

    return [field.name for field in dataclasses.fields(tree)]


def rebuilt(tree: Any, values: Iterator[Any], keep_modules: bool = False) -> Any:
    """The tree with its leaves replaced by `values`, in order.

    In place of a module comes a dict by name; or, with `keep_modules`, the same module, unchanged.
    """
    if is_leaf(tree):
        return next(values)
    if isinstance(tree, Module):
        found = {name: next(values) for name, p in tree.named_parameters() if p.requires_grad}
        return tree if keep_modules else found
    new = [rebuilt(child, values, keep_modules) for child in children(tree)]
    if isinstance(tree, dict):
        return dict(zip(tree, new, strict=True))
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):  # a named tuple
        return type(tree)(*new)
    if isinstance(tree, (list, tuple)):
        return type(tree)(new)
    if names := _fields(tree):
        other: Any = copy.copy(tree)
        for name, value in zip(names, new, strict=True):
            object.__setattr__(other, name, value)  # a frozen one, too
        return other
    return tree


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """The tree with `function` of each leaf in its place."""
    return rebuilt(tree, iter([function(leaf) for leaf in leaves(tree)]))
