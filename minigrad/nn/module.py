"""Modules: layers with their parameters, which nest."""

from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from typing import Any, Self, TypeVar

import numpy

from ..atomic import at_once
from ..autograd.node import Hook
from ..backend import is_floating, of
from ..ops import zeros_like
from ..tensor import Tensor
from . import state
from .hooks import ForwardHooks, added
from .parameter import Buffer, Parameter
from .summary import Summary

T = TypeVar("T", Parameter, Buffer)


class Module:
    """A part of a net: parameters, buffers, other modules, and a `forward` method that computes with them.

    Whatever is assigned to an attribute is found: parameters, buffers, modules, and lists, tuples or dicts
    of them. (torch finds modules in a list only if it is a `ModuleList`.)

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
    _forward_hooks: ForwardHooks | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        old = vars(self).get(name)
        if isinstance(old, Buffer) and value is not None and not isinstance(value, Buffer):
            old.assign(value)
            return
        if (
            isinstance(old, Parameter)
            and not isinstance(value, Parameter)
            and (isinstance(value, Tensor) or of(value) is not None)
        ):
            raise TypeError(
                f"{type(self).__name__}.{name} is a parameter and would be lost: assign a Parameter, or "
                f"change its value, with {name}.data = … or, under no_grad(), {name}[...] = …"
            )
        object.__setattr__(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes. Subclasses define it; call the module itself."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hooks = self._forward_hooks
        return self.forward(*args, **kwargs) if hooks is None else hooks.call(self, args, kwargs)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> Hook:
        """Have each call of the module call `hook(module, args, output)` after it computed.

        What the hook gives, unless None, takes the place of the output. Hooks are called in the order in
        which they came; one with `prepend` before those that are there. One `with_kwargs` is called as
        `hook(module, args, kwargs, output)`. The result's `remove()` takes the hook away, as leaving a
        `with` block does.

        >>> import minigrad as mg
        >>> layer = mg.nn.Linear(3, 2)
        >>> with layer.register_forward_hook(lambda module, args, output: print(output.shape)):
        ...     y = layer(mg.ones((5, 3)))
        (5, 2)
        """
        return added(self._hooks().after, hook, prepend, with_kwargs)

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> Hook:
        """Have each call of the module call `hook(module, args)` before it computes.

        What the hook gives, unless None, takes the place of the arguments: a tuple of them, or one. One
        `with_kwargs` is called as `hook(module, args, kwargs)`, and gives a pair of both.
        """
        return added(self._hooks().before, hook, prepend, with_kwargs)

    def _hooks(self) -> ForwardHooks:
        if self._forward_hooks is None:
            self._forward_hooks = ForwardHooks()
        return self._forward_hooks

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

    def get_submodule(self, target: str) -> "Module":
        """The module of that dotted name; raises `AttributeError` if there is none."""
        if not target:
            return self
        for name, child in self.named_children():
            if target == name:
                return child
            if target.startswith(f"{name}."):
                return child.get_submodule(target.removeprefix(f"{name}."))
        raise AttributeError(f"{type(self).__name__} has no module {target!r}")

    def add_module(self, name: str, module: "Module") -> None:
        """What `self.name = module` does, under a name that is not taken yet."""
        if not isinstance(module, Module):
            raise TypeError(f"add_module: {name!r} must be a module, got {type(module).__name__}")
        self._register("add_module", name, module)

    def apply(self, fn: Callable[["Module"], Any]) -> Self:
        """Call `fn` with this module and each inside, once: to initialize them, for instance.

        (torch calls it for inner modules before outer ones.)
        """
        for module in list(self.modules()):
            fn(module)
        return self

    def all_named(
        self, kind: type[T], recurse: bool = True, prefix: str = "", above: tuple["Module", ...] = ()
    ) -> Iterator[tuple[str, T]]:
        """Every name of every tensor of a kind, `Parameter` or `Buffer`: a shared one has several."""
        for name, value in _attributes(vars(self)):
            if isinstance(value, kind):
                yield prefix + name, value
            # Modules that point at each other would go round for ever.
            elif recurse and isinstance(value, Module) and value not in above:
                yield from value.all_named(kind, True, f"{prefix}{name}.", (*above, self))

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        """All parameters with their dotted names; a shared one once, under its first name.

        With `recurse=False` only those of this module itself.
        """
        return _each_once(self.all_named(Parameter, recurse, f"{prefix}." if prefix else ""))

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters, each once; with `recurse=False` only those of this module itself."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Buffer]]:
        """All buffers with their dotted names, as `named_parameters` does it."""
        return _each_once(self.all_named(Buffer, recurse, f"{prefix}." if prefix else ""))

    def buffers(self, recurse: bool = True) -> Iterator[Buffer]:
        """All buffers, each once; with `recurse=False` only those of this module itself."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """What `self.name = param` does, under a name that is not taken yet."""
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"register_parameter: {name!r} must be a Parameter, got {type(param).__name__}")
        self._register("register_parameter", name, param)

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """What `self.name = Buffer(tensor)` does, under a name that is not taken yet; None is none at all.

        The state dict leaves out a buffer that is not `persistent`. (In torch a tensor that is assigned
        in place of None later becomes a buffer.)
        """
        value = tensor if tensor is None else Buffer(tensor, persistent=persistent)
        self._register("register_buffer", name, value)

    def _register(self, op: str, name: str, value: Any) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{op}: a name must be a str, got {type(name).__name__}")
        if not name or "." in name:
            raise KeyError(f"{op}: a name must not be empty nor have a dot in it, got {name!r}")
        if hasattr(self, name):
            raise KeyError(f"{op}: {type(self).__name__} has an attribute {name!r} already")
        setattr(self, name, value)

    # --- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, numpy.ndarray]:
        """A copy of every parameter and persistent buffer by name, as NumPy arrays from whichever device.

        (torch gives tensors, and the module's own memory.) `mg.save(path, …)` writes it
        to a file; `{k: torch.from_numpy(a) for k, a in …}` is what torch's `load_state_dict` takes.
        """
        return state.gathered(self)

    def load_state_dict(
        self, state_dict: Mapping[str, Any] | str | PathLike[str], strict: bool = True
    ) -> state.IncompatibleKeys:
        """Set parameters and persistent buffers to copies of the values of these names.

        All is checked first: after an error nothing has changed. Values are converted to the dtypes and
        devices that are there. A `num_batches_tracked` may be missing, as in torch: old files have none. So
        may all names but one of a shared parameter: `safetensors.torch.save_model` writes no more.

        Args:
            state_dict: tensors or arrays by name, from here or from torch; or the path of a file of them
                in the safetensors format, from `mg.save` or from elsewhere.
            strict: raise an error if names are missing or unexpected, rather than load what fits.

        Returns the names `(missing_keys, unexpected_keys)`.

        Raises:
            KeyError: with `strict`, names are missing or unexpected.
            ValueError: a shape is another.
        """
        return state.loaded(self, state_dict, strict)

    def to(self, target: Any) -> Self:
        """Move parameters and buffers to a device (`'numpy'`, `'cupy'`) or make them a float dtype, in place.

        Buffers of integers keep their dtype.
        """
        if not isinstance(target, str) and not is_floating(target):
            raise TypeError(f"to: parameters are floating-point numbers, and cannot be made {target}")
        changes: list[tuple[Any, ...]] = []
        for parameter in self.parameters():
            grad = None if parameter.grad is None else parameter.grad.detach().to(target)
            changes += parameter._taking(parameter.detach().to(target), grad)
        for buffer in self.buffers():
            if isinstance(target, str) or is_floating(buffer.dtype):
                changes += buffer._taking(buffer.detach().to(target))
        at_once(changes)
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

    def summary(self, *inputs: Any) -> Summary:
        """A table of the modules inside: output shapes, parameters, bytes.

        The module is called with `inputs`, without gradients, in evaluation mode; afterwards it is as it
        was, and so are the random numbers. An input is a tensor, an array, or a shape, which stands for
        zeros. Without inputs no output shapes are known.

        >>> import minigrad as mg
        >>> net = mg.nn.Sequential(mg.nn.Linear(64, 10), mg.nn.Softmax(1))
        >>> net.summary((32, 64))
        name  layer       output shape  parameters  bytes
        ----  ----------  ------------  ----------  -----
              Sequential  (32, 10)               0      0
        0     Linear      (32, 10)             650  2,600
        1     Softmax     (32, 10)               0      0
        <BLANKLINE>
        650 parameters (650 trainable, 0 frozen), 0 in buffers, 2,600 bytes
        """
        return Summary(self, inputs)

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


def _each_once(named: Iterator[tuple[str, T]]) -> Iterator[tuple[str, T]]:
    seen: set[int] = set()
    for name, tensor in named:
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor
