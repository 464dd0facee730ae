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


def has_module(tree: Any) -> bool:
    """Whether there is a module in it."""
    return isinstance(tree, Module) or (not is_leaf(tree) and any(map(has_module, children(tree))))


def _fields(tree: Any) -> list[str]:
    """The names of a dataclass's fields; none for what is no such object."""
    if isinstance(tree, type) or not hasattr(tree, "__dataclass_fields__"):
        return []
    import dataclasses  # whoever made one has it

    return [field.name for field in dataclasses.fields(tree)]


def as_dict(module: Module, values: Iterator[Any]) -> dict[str, Any]:
    """The values for a module's leaves, by the names of the parameters."""
    return {name: next(values) for name, p in module.named_parameters() if p.requires_grad}


def rebuilt(
    tree: Any, values: Iterator[Any], module: Callable[[Module, Iterator[Any]], Any] = as_dict
) -> Any:
    """The tree with its leaves replaced by `values`, in order; for a module, what `module` makes of them."""
    if is_leaf(tree):
        return next(values)
    if isinstance(tree, Module):
        return module(tree, values)
    new = [rebuilt(child, values, module) for child in children(tree)]
    if isinstance(tree, dict):
        other: Any = copy.copy(tree)  # of whichever kind
        other.update(zip(tree, new, strict=True))
        return other
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):  # a named tuple
        return type(tree)(*new)
    if isinstance(tree, (list, tuple)):
        return type(tree)(new)
    if names := _fields(tree):
        other = copy.copy(tree)
        for name, value in zip(names, new, strict=True):
            object.__setattr__(other, name, value)  # a frozen one, too
        return other
    return tree


def _kept(module: Module, values: Iterator[Any]) -> Module:
    as_dict(module, values)  # which are passed over
    return module


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """The tree with `function` of each leaf in its place; modules stay as they are."""
    return rebuilt(tree, iter([function(leaf) for leaf in leaves(tree)]), _kept)


def leaves_like(what: str, tree: Any, like: Any) -> list[Any]:
    """The leaves of `tree` in the order of those of `like`, which must be nested in the same way.

    `what` names the two in errors, which are `ValueError`s. A dict by name stands for a module.
    """
    if is_leaf(like):
        if is_leaf(tree) or isinstance(tree, int):
            return [tree]
        raise ValueError(f"{what}: got {type(tree).__name__} in the place of a tensor")
    if isinstance(like, Module):
        like = as_dict(like, iter(leaves(like)))
    if isinstance(like, dict):
        if not isinstance(tree, dict) or set(tree) != set(like):
            got = f"the keys {list(tree)}" if isinstance(tree, dict) else type(tree).__name__
            raise ValueError(f"{what}: expected a dict with the keys {list(like)}, got {got}")
        pairs = [(tree[key], like[key]) for key in like]
    elif not children(like):  # nothing of this is differentiated
        return []
    else:
        kind, own, its = type(like).__name__, children(tree), children(like)
        if is_leaf(tree) or len(own) != len(its):
            raise ValueError(
                f"{what}: expected a {kind} of {len(its)}, got a {type(tree).__name__} of {len(own)}"
            )
        pairs = list(zip(own, its, strict=True))
    return [leaf for one, other in pairs for leaf in leaves_like(what, one, other)]
