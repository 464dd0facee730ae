"""Modules: layers with their parameters, which nest."""

from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy

from ..backend import is_floating
from ..ops import asarray, tensor, zeros_like
from ..tensor import Tensor


class Parameter(Tensor):
    """A tensor that a module learns: it requires gradients, and `Module.parameters` finds it."""

    __slots__ = ()

    def __init__(self, data: Any, dtype: Any = None, requires_grad: bool = True, device: str | None = None):
        super().__init__(data, dtype, requires_grad, device)

    def __repr__(self) -> str:
        return f"Parameter({super().__repr__()})"


class Module:
    """A part of a net: parameters, other modules, and a `forward` method that computes with them.

    Whatever is assigned to an attribute is found: parameters, modules, and lists, tuples or dicts of
    them. (torch finds modules in a list only if it is a `ModuleList`.)

    >>> import minigrad as mg
    >>> class Scale(mg.nn.Module):
    ...     def __init__(self):
    ...         self.factor = mg.nn.Parameter([2.0])
    ...     def forward(self, x):
    ...         return x * self.factor
    >>> scale = Scale()
    >>> scale(mg.ones(3)).tolist()
    [2.0, 2.0, 2.0]
    >>> [name for name, _ in scale.named_parameters()]
    ['factor']
    """

    training = True

    def __setattr__(self, name: str, value: Any) -> None:
        lost = isinstance(vars(self).get(name), Parameter) and isinstance(value, Tensor)
        if lost and not isinstance(value, Parameter):
            raise TypeError(
                f"{type(self).__name__}.{name} is a parameter and would be lost: assign a Parameter, or "
                f"change its value, with {name}.data = … or, under no_grad(), {name}[...] = …"
            )
        object.__setattr__(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes. Subclasses define it; call the module itself."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    # --- what is inside ----------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """The modules directly inside, with their names; `layers.0` for one in a list."""
        return ((name, value) for name, value in _attributes(vars(self)) if isinstance(value, Module))

    def children(self) -> Iterator["Module"]:
        """The modules directly inside."""
        return (module for _, module in self.named_children())

    def modules(self) -> Iterator["Module"]:
        """This module and all inside, each once."""
        return (module for _, module in self.named_modules())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """This module and all inside, each once, with dotted names; its own is empty."""
        seen: set[int] = set()
        pending: list[tuple[str, Module]] = [(prefix, self)]
        while pending:
            name, module = pending.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            yield name, module
            inside = [(f"{name}.{child}" if name else child, m) for child, m in module.named_children()]
            pending.extend(reversed(inside))

    def _all_names(
        self, prefix: str = "", above: tuple["Module", ...] = ()
    ) -> Iterator[tuple[str, Parameter]]:
        """Every name of every parameter: a shared one comes up under each of its names."""
        for name, value in _attributes(vars(self)):
            if isinstance(value, Parameter):
                yield prefix + name, value
            elif isinstance(value, Module) and value not in above:  # which would go round for ever
                yield from value._all_names(f"{prefix}{name}.", (*above, self))

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters with their dotted names; a shared one once, under its first name."""
        seen: set[int] = set()
        for name, parameter in self._all_names():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, parameter

    def parameters(self) -> Iterator[Parameter]:
        """All parameters, each once."""
        return (parameter for _, parameter in self.named_parameters())

    # --- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, numpy.ndarray]:
        """A copy of every parameter by name, as NumPy arrays from whichever device.

        (torch gives tensors, and the parameters' own memory.) It can be saved as it is, with
        `safetensors.numpy.save_file` or `numpy.savez`.
        """
        return {name: parameter.detach().numpy() for name, parameter in self._all_names()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """Set the parameters to copies of the tensors or arrays of these names.

        All is checked first: after an error no parameter has changed. Values are converted to the
        dtypes and devices of the parameters.

        Raises:
            KeyError: with `strict`, names are missing or unexpected.
            ValueError: a shape is another.
        """
        own = dict(self._all_names())
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        if strict and (missing or unexpected):
            raise KeyError(
                f"load_state_dict: missing {missing or 'nothing'}, unexpected {unexpected or 'nothing'}; "
                "strict=False loads what fits by name"
            )
        arrays = {name: asarray(state_dict[name])._data for name in own if name in state_dict}
        wrong = [
            f"{name}: {tuple(array.shape)} instead of {own[name].shape}"
            for name, array in arrays.items()
            if tuple(array.shape) != own[name].shape
        ]
        if wrong:
            raise ValueError("load_state_dict: shapes differ, " + "; ".join(wrong))
        for name, array in arrays.items():
            own[name].data = tensor(array, dtype=own[name].dtype, device=own[name].device)

    def to(self, target: Any) -> Self:
        """Move the parameters to a device (`'numpy'`, `'cupy'`) or make them a float dtype, in place."""
        if not isinstance(target, str) and not is_floating(target):
            raise TypeError(f"to: parameters are floating-point numbers, and cannot be made {target}")
        for parameter in self.parameters():
            grad = parameter.grad
            parameter.data = parameter.detach().to(target)
            if grad is not None and parameter.requires_grad:
                parameter.grad = grad.detach().to(target)
        return self

    def train(self, mode: bool = True) -> Self:
        """Set training mode here and in all modules inside: it switches dropout on."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set evaluation mode: `train(False)`."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Switch gradients on or off for all parameters: off freezes them."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients; or with `set_to_none=False` set them to 0."""
        for parameter in self.parameters():
            if parameter.grad is not None and parameter.requires_grad:
                parameter.grad = None if set_to_none else zeros_like(parameter)

    # --- printing ----------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What stands between the parentheses of the repr; for subclasses."""
        return ""

    def __repr__(self) -> str:
        lines = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.named_children()]
        if not lines:
            return f"{type(self).__name__}({self.extra_repr()})"
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


def _attributes(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values, with those in lists, tuples and dicts under dotted names."""
    for name, value in values.items():
        if isinstance(value, (list, tuple)):
            value = {str(i): v for i, v in enumerate(value)}
        if isinstance(value, dict):
            yield from (
                (f"{name}.{inner}", v) for inner, v in _attributes({str(k): v for k, v in value.items()})
            )
        else:
            yield name, value
