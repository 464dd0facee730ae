"""The tensor: what users hold. Its operators and methods are the ops, under the names people expect.

A tensor is a value: no operation changes an array that somebody else may hold. `x += y` and
`x[i] = v` give `x` a new value, and what was computed from the old one keeps the old one.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy

from . import ops
from .atomic import at_once
from .autograd import Leaf, Variable, grad_mode, gradients, require_grad, wrap
from .autograd.backward import as_array, given_gradient
from .autograd.node import Hook, hooks_of
from .backend import Array, Backend, get, of, plain
from .operators import Operators


def _backend(x: Variable) -> Backend:
    found = of(x._data)
    assert found is not None
    return found


def _used_up(gradients: list[Any]) -> Iterator[Any]:
    """What is in the list, which keeps nothing of it.

    To be had only when all hooks have been called: they may add to the `.grad` of a leaf, too.
    """
    gradients.reverse()
    while gradients:
        yield gradients.pop()


class Tensor(Operators):
    """An array on a backend, which remembers how it was computed where gradients are asked for.

    Make one with `minigrad.tensor`, or with a creation function such as `zeros`. Methods are the
    functions of the same name, with the tensor as their first argument: `x.sum(axis=0)` is
    `mg.sum(x, axis=0)`.

    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> y = (x * x).sum()
    >>> y
    tensor(14., dtype=float32, device=numpy, op=sum)
    >>> y.backward()
    >>> x.grad
    tensor([2., 4., 6.], dtype=float32, device=numpy)
    """

    __slots__ = ()

    def __init__(self, data, dtype=None, requires_grad=False, device=None):
        source = ops.tensor(data, dtype, requires_grad, device)
        self._data, self.node, self.home = source._data, source.node, source.home

    # --- what it is --------------------------------------------------------------------------------

    @property
    def data(self) -> Array:
        """The array itself, without a graph and not copied: on NumPy a read-only view of it.

        Setting it gives the tensor another value in the same place of the graph.
        """
        if not isinstance(self._data, numpy.ndarray):
            return self._data
        view = self._data.view()
        view.flags.writeable = False
        return view

    @data.setter
    def data(self, value: Any) -> None:
        if of(value) is None and not isinstance(value, Variable):
            raise TypeError(f"data: expected an array or a tensor, got {type(value).__name__}")
        backend = of(value)
        at_once(self._taking(ops.tensor(value, device=backend.name if backend else None)))

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its axes."""
        return self._data.shape

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return self._data.ndim

    @property
    def size(self) -> int:
        """How many elements it has. (In torch this is `numel()`, and `size()` is the shape.)"""
        return self._data.size

    @property
    def dtype(self) -> Any:
        """The type of its elements, a NumPy dtype."""
        return self._data.dtype

    @property
    def device(self) -> str:
        """The backend that its array lives on: `'numpy'` or `'cupy'`."""
        return _backend(self).name

    @property
    def T(self) -> "Tensor":  # noqa: N802
        """A matrix transposed. For more axes see `mT` and `permute_dims`."""
        if self.ndim != 2:
            raise ValueError(f"T: needs a matrix, got shape {self.shape}; use mT, or permute_dims(x, axes)")
        return ops.matrix_transpose(self)

    @property
    def mT(self) -> "Tensor":  # noqa: N802
        """The last two axes swapped."""
        return ops.matrix_transpose(self)

    # --- gradients ---------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow through it. Assign a bool to a leaf to change it."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    @property
    def is_leaf(self) -> bool:
        """Whether it was made by the user, not by a recorded operation."""
        return self.node is None or isinstance(self.node, Leaf)

    @property
    def grad(self) -> Any:
        """The gradient gathered by `backward`, a tensor, in a leaf that requires gradients; else None."""
        return self.node.grad if isinstance(self.node, Leaf) else None

    @grad.setter
    def grad(self, value: "Tensor | None") -> None:
        if not isinstance(self.node, Leaf):
            raise RuntimeError("grad: only a leaf that requires gradients has one; see requires_grad_()")
        if value is not None:
            own = self.shape, self.dtype, self.device
            got = (
                (value.shape, value.dtype, value.device)
                if isinstance(value, Tensor)
                else type(value).__name__
            )
            if got != own:
                raise ValueError(f"grad: expected a tensor of (shape, dtype, device) {own}, got {got}")
        self.node.grad = value

    def requires_grad_(self, requires_grad: bool = True) -> "Tensor":
        """Begin (or with False: stop) gathering gradients in this leaf; gives the tensor itself.

        To begin, it takes a copy of its array, since an optimizer may come to write to it. To stop
        forgets the gradient.

        Raises:
            TypeError: its dtype is not a floating-point one.
            RuntimeError: it is the result of a recorded operation; `detach()` makes a leaf of it.
        """
        if not self.is_leaf:
            if not requires_grad:
                raise RuntimeError("requires_grad_(False): this is the result of an operation; use detach()")
        elif not requires_grad:
            self.node = None
        elif self.node is None:
            require_grad(self)
            self._data = _backend(self).xp.asarray(self._data, copy=True)
        return self

    def detach(self) -> "Tensor":
        """The same value without its graph: no gradient flows back through it. No memory is copied."""
        return wrap(self._data, None, self.home)

    def backward(self, gradient: Any = None, retain_graph: bool = False, create_graph: bool = False) -> None:
        """Add to the `.grad` of each leaf the derivative of this tensor by that leaf.

        Args:
            gradient: the derivative of what is wanted by this tensor, of the same shape; 1 by default,
                which only a tensor of one element may leave out.
            retain_graph: keep the graph, so that backward can pass through it again.
            create_graph: make the gradients themselves differentiable. This keeps the graph, which
                refers to the leaves, and their gradients to it: set `.grad` to None to free both.

        Raises:
            RuntimeError: there is no graph; or it was freed by an earlier backward; or an optimizer has
                overwritten a parameter that it needs. No gradient has been added then.
            ValueError: `gradient` is missing, or has another shape.

        >>> import minigrad as mg
        >>> x = mg.tensor(3.0, requires_grad=True)
        >>> (x * x * x).backward(create_graph=True)
        >>> slope, x.grad = x.grad, None
        >>> slope.backward()
        >>> slope.item(), x.grad.item()
        (27.0, 18.0)
        """
        if self.node is None:
            raise RuntimeError(
                "backward: this tensor has no graph: it was not computed from a tensor with "
                "requires_grad=True, or it was computed under no_grad()"
            )
        if plain(self._data) is not self._data:
            raise RuntimeError(
                "backward: inside vmap it would have to add a gradient for each example to one leaf; use "
                "grad or vjp inside, or call backward() on the result of vmap"
            )
        if gradient is None:
            given = given_gradient("backward", self, None)
        else:
            with grad_mode(create_graph):  # in which the given gradient keeps its graph
                given = given_gradient("backward", self, gradient)
        if create_graph:
            with grad_mode(True):
                changes = [
                    (
                        setattr,
                        leaf,
                        "grad",
                        wrap(g._data, g.node, g.home) if leaf.grad is None else leaf.grad + g,
                    )
                    for leaf, g in _used_up([*gradients({self.node: given}, True, True)])
                ]
            at_once(changes)
        else:
            at_once(
                [
                    (setattr, leaf, "grad", wrap(as_array(g if leaf.grad is None else leaf.grad._data + g)))
                    for leaf, g in _used_up([*gradients({self.node: given._data}, retain_graph)])
                ]
            )

    def register_hook(self, hook: Callable[["Tensor"], "Tensor | None"]) -> Hook:
        """Call `hook` with the gradient of this tensor whenever one is computed; it may give another.

        The hook gets a tensor, and gives None, or a tensor of that shape that takes its place. In a leaf
        it is called before the gradient is added to `.grad`. The result's `remove()` takes it away.

        Raises `RuntimeError` for a tensor that requires no gradients.

        >>> import minigrad as mg
        >>> x = mg.tensor([1.0, -2.0], requires_grad=True)
        >>> y = x * 3
        >>> hook = y.register_hook(lambda g: g * 10)
        >>> y.sum().backward()
        >>> x.grad.tolist()
        [30.0, 30.0]
        """
        if self.node is None:
            raise RuntimeError(
                "register_hook: this tensor requires no gradients: the hook would never be called"
            )
        return Hook(hooks_of(self.node), hook)

    # --- leaving the graph -------------------------------------------------------------------------

    def numpy(self) -> numpy.ndarray:
        """A copy of its elements as a NumPy array in C order, from whichever backend.

        (torch shares the memory.)

        Raises `RuntimeError` for a tensor that requires gradients: `x.detach().numpy()`.
        """
        self._refuse_if_graph("numpy()")
        return numpy.array(_backend(self).to_numpy(self._data), order="C")

    def item(self) -> Any:
        """The one element as a Python number."""
        return self._only("item()")

    def _only(self, what: str) -> Any:
        if self.size != 1:
            raise ValueError(f"{what} needs a tensor of one element, got shape {self.shape}")
        return _backend(self).to_numpy(self._data).item()

    def tolist(self) -> Any:
        """Its elements as nested lists of Python numbers."""
        return self.detach().numpy().tolist()

    def to(self, target: Any) -> "Tensor":
        """This tensor on the device `'numpy'` or `'cupy'`, or as a dtype; itself where nothing changes.

        Gradients flow back.
        """
        return self.to_device(target) if isinstance(target, str) else ops.astype(self, target, copy=False)

    def to_device(self, device: str, /, *, stream: None = None) -> "Tensor":
        """The standard's name for `to` of a device. The current stream is the only one for `stream`."""
        if stream is not None:
            raise ValueError("to_device: copies run on the current stream; leave out `stream`")
        return ops.astype(self, self.dtype, copy=False, device=device)

    def _refuse_if_graph(self, what: str) -> None:
        if self.node is not None:
            raise RuntimeError(
                f"{what}: this tensor requires gradients, which would be lost; use detach() first"
            )

    __array_ufunc__ = None  # so that `ndarray * tensor` asks the tensor, and np.sin(tensor) is an error

    def __array__(self, dtype=None, copy=None):
        self._refuse_if_graph("np.asarray(tensor)")
        if self.device != "numpy":
            raise TypeError(f"np.asarray(tensor): it lives on {self.device!r}; use .numpy() to copy it")
        return numpy.array(self.data, dtype=dtype, copy=copy is not False)

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        """Its elements for another library, as `torch.from_dlpack(x)` asks for them: a copy.

        A tensor is a value, and not every library heeds that memory is lent to be read only. With
        `copy=False` the memory is shared none the less: who gets it must not write to it, and an
        optimizer that steps a parameter overwrites it.

        Raises:
            RuntimeError: the tensor requires gradients: `x.detach()`.
            BufferError: `dl_device` is neither where it is nor the CPU, or a copy is needed there and
                forbidden; or memory is to be shared with a library of before DLPack 1.0, which cannot be
                told not to write.
        """
        self._refuse_if_graph("__dlpack__()")
        data = self.data
        if dl_device is not None and tuple(dl_device) != tuple(self.__dlpack_device__()):
            if int(dl_device[0]) != 1 or copy is False:  # 1 is the CPU
                raise BufferError(f"__dlpack__: no way from {self.device!r} to {dl_device}, copy={copy}")
            data, stream = self.numpy(), None
        elif copy is not False:
            data = _backend(self).xp.asarray(data, copy=True)
        if max_version is None or not hasattr(numpy, "unstack"):  # NumPy knows both since 2.1
            return data.__dlpack__(stream=stream)
        return data.__dlpack__(stream=stream, max_version=max_version)

    def __dlpack_device__(self):
        return self._data.__dlpack_device__()

    def __array_namespace__(self, *, api_version=None):
        import minigrad

        if api_version not in (None, "2021.12", "2022.12", "2023.12", "2024.12"):
            raise ValueError(
                f"__array_namespace__: minigrad follows the Array API standard up to "
                f"{minigrad.__array_api_version__}, not {api_version!r}"
            )
        return minigrad

    def __bool__(self) -> bool:
        return bool(self._only("bool()"))

    def __int__(self) -> int:
        return int(self._only("int()"))

    def __float__(self) -> float:
        return float(self._only("float()"))

    def __complex__(self) -> complex:
        return complex(self._only("complex()"))

    def __index__(self) -> int:
        if self.dtype.kind not in "iu":
            raise TypeError(f"only an integer tensor can be used as an index, got {self.dtype}")
        return self.item()

    def __format__(self, spec: str) -> str:
        return format(self._only(f"format {spec!r}"), spec) if spec else str(self)

    # --- as a container ----------------------------------------------------------------------------

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len(): a 0-d tensor has no length")
        return self.shape[0]

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    __getitem__ = ops.getitem

    def __setitem__(self, key, value) -> None:
        self._become("x[i] = v", ops.setitem(self, key, value))

    # --- printing, copying, pickling ---------------------------------------------------------------

    def __repr__(self) -> str:
        array = plain(self._data)  # inside vmap that of all examples
        text = numpy.array2string(get(self.device).to_numpy(array), separator=", ", prefix="tensor(")
        facts = [f"dtype={self.dtype}", f"device={self.device}"]
        if array is not self._data:
            facts.append(f"one of {array.shape[: array.ndim - self.ndim]} examples")
        if self.node is not None:
            facts.append(f"op={self.node.plan.name}" if self.node.plan else "requires_grad=True")
        return f"tensor({text}, {', '.join(facts)})"

    def _refuse_if_not_leaf(self, what: str) -> None:
        if not self.is_leaf:
            raise RuntimeError(
                f"{what}: only a leaf can be copied or pickled, not a graph; use detach() first"
            )

    def __copy__(self) -> "Tensor":
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict) -> "Tensor":
        self._refuse_if_not_leaf("copy")
        if id(self) not in memo:
            copy = object.__new__(type(self))
            copy.__setstate__((ops.tensor(self.detach())._data, self.requires_grad, self.grad))
            memo[id(self)] = copy
        return memo[id(self)]

    def __reduce__(self):
        self._refuse_if_not_leaf("pickle")
        return object.__new__, (type(self),), (self.detach().numpy(), self.requires_grad, self.grad)

    def __setstate__(self, state) -> None:
        self._data, requires_grad, grad = state
        self.node = self.home = None
        if requires_grad:
            require_grad(self)
            self.grad = None if grad is None else grad.detach()


Variable.made = Tensor
Variable.namespace = ops
