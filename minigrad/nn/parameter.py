"""The tensors of a module: parameters, which it learns, and buffers, which it keeps."""

from typing import Any

from ..backend import is_floating, plain
from ..ops import astype, tensor
from ..tensor import Tensor


class Parameter(Tensor):
    """A tensor that a module learns: it requires gradients, and `Module.parameters` finds it."""

    __slots__ = ()

    def __init__(self, data: Any, dtype: Any = None, requires_grad: bool = True, device: str | None = None):
        super().__init__(data, dtype, requires_grad, device)

    def __repr__(self) -> str:
        return f"Parameter({super().__repr__()})"


class Buffer(Tensor):
    """A tensor that belongs to a module's state but is not learned, such as a running mean.

    `Module.buffers` finds it, `Module.to` moves it, and the state dict has it unless it is not
    `persistent`. A tensor, an array or a number that is assigned to the module's attribute becomes the
    buffer's value, of any shape; dtype and device stay. Its graph is dropped, so that a running mean keeps
    no history. (torch has the attribute be the tensor that was assigned.)

    Assigning raises `TypeError` for floating-point numbers in a buffer of integers, and `RuntimeError` for
    what differs between the examples of `vmap`.

    >>> import minigrad as mg
    >>> class Counter(mg.nn.Module):
    ...     def __init__(self):
    ...         self.calls = mg.nn.Buffer(0)
    ...     def forward(self, x):
    ...         self.calls = self.calls + 1
    ...         return x
    >>> counter = Counter()
    >>> y = counter(mg.ones(3))
    >>> counter.state_dict()
    {'calls': array(1)}
    """

    __slots__ = ("persistent",)

    def __init__(self, data: Any, dtype: Any = None, persistent: bool = True, device: str | None = None):
        super().__init__(data, dtype, False, device)
        self.persistent = persistent

    def assign(self, value: Any) -> None:
        """Take the value of a tensor, an array or a number, in this buffer's dtype and on its device."""
        value = value.detach() if isinstance(value, Tensor) else tensor(value)
        if plain(value._data) is not value._data:
            raise RuntimeError(
                "a buffer was given a value inside vmap, one for each example; put the module into "
                "evaluation mode, or assign to its buffers outside"
            )
        if is_floating(value.dtype) and not is_floating(self.dtype):
            raise TypeError(
                f"a buffer of {self.dtype} was given {value.dtype}; convert it, or assign a Buffer"
            )
        # What lies in the memory of a parameter an optimizer overwrites.
        value = astype(value, self.dtype, copy=value.home is not None, device=self.device)
        self._data, self.node, self.home = value._data, None, None

    def __repr__(self) -> str:
        return f"Buffer({super().__repr__()})"

    def __deepcopy__(self, memo: dict) -> "Buffer":
        copy: Any = super().__deepcopy__(memo)
        copy.persistent = self.persistent
        return copy

    def __reduce__(self) -> Any:
        make, args, state = super().__reduce__()
        return make, args, (*state, self.persistent)

    def __setstate__(self, state) -> None:
        super().__setstate__(state[:3])
        self.persistent = state[-1]
