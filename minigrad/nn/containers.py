"""Modules made of others: one after the other, and as lists and dicts."""

import operator
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, MutableSequence
from typing import Any, Self

from ..tensor import Tensor
from .module import Module


def _inside(module: Module) -> dict[str, Module]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Module)}


def _check(container: Module, name: Any, module: Any) -> None:
    if not isinstance(module, Module):
        what = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
        raise TypeError(
            f"{type(container).__name__}: layer {name!r} must be a module such as nn.ReLU(), got {what}"
        )


class ModuleList(Module, MutableSequence[Any]):
    """Modules in a row, with the methods of a list. (A plain list as an attribute serves as well here.)

    >>> import minigrad as mg
    >>> layers = mg.nn.ModuleList(mg.nn.Linear(2, 2) for _ in range(3))
    >>> len(layers[1:]), list(layers.append(mg.nn.ReLU()).state_dict())[-1]
    (2, '2.bias')
    """

    def __init__(self, modules: Iterable[Module] = ()):
        self._renew(modules)

    def _renew(self, modules: Iterable[Module]) -> None:
        """Hold these modules, under their numbers."""
        modules = list(modules)
        for i, module in enumerate(modules):
            _check(self, i, module)
        for name in _inside(self):
            delattr(self, name)
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def _name(self, i: Any) -> str:
        names = list(_inside(self))
        if not -len(names) <= operator.index(i) < len(names):
            raise IndexError(f"{type(self).__name__}: got index {i}, but there are {len(names)} modules")
        return names[i]

    def __len__(self) -> int:
        return len(_inside(self))

    def __iter__(self) -> Iterator[Any]:
        return iter(_inside(self).values())

    def __getitem__(self, i: Any) -> Any:
        """One module, or those of a slice in a container of the same kind."""
        if isinstance(i, slice):
            return type(self)(list(self)[i])
        return getattr(self, self._name(i))

    def __setitem__(self, i: Any, module: Any) -> None:
        if isinstance(i, slice):
            modules = list(self)
            modules[i] = module
            self._renew(modules)
        else:
            name = self._name(i)
            _check(self, name, module)
            setattr(self, name, module)

    def __delitem__(self, i: Any) -> None:
        modules = list(self)
        del modules[i]
        self._renew(modules)

    def __add__(self, other: Iterable[Module]) -> Self:
        return type(self)([*self, *other])  # pyright: ignore[reportCallIssue]

    def insert(self, index: int, value: Module) -> None:
        """Put a module in front of that one; all get new numbers."""
        modules = list(self)
        modules.insert(index, value)
        self._renew(modules)

    def append(self, value: Module) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Add a module at the end; gives the container, as in torch."""
        _check(self, len(self), value)
        self.add_module(str(len(self)), value)
        return self

    def extend(self, values: Iterable[Module]) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Add modules at the end; gives the container, as in torch."""
        for module in list(values):
            self.append(module)
        return self


class Sequential(ModuleList):
    """Modules one after the other, named '0', '1', …, or by the keys of a dict; with the methods of a list.

    >>> import minigrad as mg
    >>> mg.nn.Sequential(mg.nn.Linear(3, 2), mg.nn.ReLU())
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
      (1): ReLU()
    )
    """

    def __init__(self, *modules: Any):
        named = modules[0] if len(modules) == 1 and isinstance(modules[0], dict) else dict(enumerate(modules))
        for name, module in named.items():
            _check(self, name, module)
            self.add_module(str(name), module)

    def __getitem__(self, i: Any) -> Any:
        """One module, or those of a slice with their names."""
        if isinstance(i, slice):
            return type(self)(dict(list(_inside(self).items())[i]))
        return super().__getitem__(i)

    def __add__(self, other: Iterable[Module]) -> Self:
        return type(self)(*self, *other)

    def forward(self, x: Tensor) -> Any:
        """The last module of … of the first module of x."""
        for module in vars(self).values():
            if isinstance(module, Module):
                x = module(x)
        return x


class ModuleDict(Module, MutableMapping[str, Any]):
    """Modules by name, with the methods of a dict. (A plain dict as an attribute serves as well here.)

    Names are those of attributes: one that the class has, such as `'keys'`, is refused with a `KeyError`.

    >>> import minigrad as mg
    >>> heads = mg.nn.ModuleDict({"left": mg.nn.Linear(2, 1), "right": mg.nn.Linear(2, 3)})
    >>> list(heads), "left" in heads, heads["right"](mg.ones(2)).shape
    (['left', 'right'], True, (3,))
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()):
        self.update(modules)

    def __getitem__(self, key: str) -> Any:
        return _inside(self)[key]

    def __setitem__(self, key: str, module: Module) -> None:
        _check(self, key, module)
        if key in _inside(self):
            setattr(self, key, module)
        else:
            self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        if key not in _inside(self):
            raise KeyError(key)
        delattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(_inside(self))

    def __len__(self) -> int:
        return len(_inside(self))

    __eq__ = object.__eq__  # two modules of equal parts are two modules
    __hash__ = Module.__hash__  # pyright: ignore[reportAssignmentType]
