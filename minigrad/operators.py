"""The ops as operators and methods: what `x + y`, `x += y` and `x.sum()` mean."""

from typing import Any, Self

from . import ops
from .atomic import at_once
from .autograd import Leaf, Memory, Variable, is_grad_enabled, leaf_for
from .backend import is_floating


def _swapped(function):
    """The reflected form of a binary operator: `2 - x` calls `x.__rsub__(2)`."""

    def reflected(self, other):
        return function(other, self)

    return reflected


def _in_place(symbol, function):
    """The augmented form of an operator: `x += y` calls `x.__iadd__(y)`."""

    def assign(self, other):
        return self._become(f"x {symbol} y", function(self, other))

    return assign


class Operators(Variable):
    """Python's operators, and the methods that are functions of the same name."""

    __slots__ = ()

    # --- operators ---------------------------------------------------------------------------------

    __add__ = ops.add
    __sub__ = ops.subtract
    __mul__ = ops.multiply
    __truediv__ = ops.divide
    __floordiv__ = ops.floor_divide
    __mod__ = ops.remainder
    __pow__ = ops.pow
    __matmul__ = ops.matmul
    __and__ = ops.bitwise_and
    __or__ = ops.bitwise_or
    __xor__ = ops.bitwise_xor
    __lshift__ = ops.bitwise_left_shift
    __rshift__ = ops.bitwise_right_shift

    __radd__ = _swapped(ops.add)
    __rsub__ = _swapped(ops.subtract)
    __rmul__ = _swapped(ops.multiply)
    __rtruediv__ = _swapped(ops.divide)
    __rfloordiv__ = _swapped(ops.floor_divide)
    __rmod__ = _swapped(ops.remainder)
    __rpow__ = _swapped(ops.pow)
    __rmatmul__ = _swapped(ops.matmul)
    __rand__ = _swapped(ops.bitwise_and)
    __ror__ = _swapped(ops.bitwise_or)
    __rxor__ = _swapped(ops.bitwise_xor)
    __rlshift__ = _swapped(ops.bitwise_left_shift)
    __rrshift__ = _swapped(ops.bitwise_right_shift)

    __iadd__ = _in_place("+=", ops.add)
    __isub__ = _in_place("-=", ops.subtract)
    __imul__ = _in_place("*=", ops.multiply)
    __itruediv__ = _in_place("/=", ops.divide)
    __ifloordiv__ = _in_place("//=", ops.floor_divide)
    __imod__ = _in_place("%=", ops.remainder)
    __ipow__ = _in_place("**=", ops.pow)
    __imatmul__ = _in_place("@=", ops.matmul)
    __iand__ = _in_place("&=", ops.bitwise_and)
    __ior__ = _in_place("|=", ops.bitwise_or)
    __ixor__ = _in_place("^=", ops.bitwise_xor)
    __ilshift__ = _in_place("<<=", ops.bitwise_left_shift)
    __irshift__ = _in_place(">>=", ops.bitwise_right_shift)

    __eq__ = ops.equal
    __hash__ = object.__hash__  # two tensors of equal values are two tensors
    __ne__ = ops.not_equal
    __lt__ = ops.less
    __le__ = ops.less_equal
    __gt__ = ops.greater
    __ge__ = ops.greater_equal

    __neg__ = ops.negative
    __pos__ = ops.positive
    __abs__ = ops.abs
    __invert__ = ops.bitwise_invert

    # --- methods: the functions of these names -----------------------------------------------------

    abs = ops.abs
    all = ops.all
    any = ops.any
    argmax = ops.argmax
    argmin = ops.argmin
    argsort = ops.argsort
    astype = ops.astype
    broadcast_to = ops.broadcast_to
    clip = ops.clip
    cos = ops.cos
    count_nonzero = ops.count_nonzero
    cumprod = ops.cumprod
    cumsum = ops.cumsum
    cumulative_prod = ops.cumulative_prod
    cumulative_sum = ops.cumulative_sum
    exp = ops.exp
    expand_dims = ops.expand_dims
    flatten = ops.flatten
    flip = ops.flip
    log = ops.log
    log_softmax = ops.log_softmax
    logsumexp = ops.logsumexp
    matmul = ops.matmul
    max = ops.max
    mean = ops.mean
    median = ops.median
    min = ops.min
    nonzero = ops.nonzero
    pow = ops.pow
    prod = ops.prod
    quantile = ops.quantile
    ravel = ops.ravel
    relu = ops.relu
    repeat = ops.repeat
    round = ops.round
    sigmoid = ops.sigmoid
    sin = ops.sin
    softmax = ops.softmax
    sort = ops.sort
    split = ops.split
    sqrt = ops.sqrt
    square = ops.square
    squeeze = ops.squeeze
    std = ops.std
    sum = ops.sum
    swapaxes = ops.swapaxes
    take = ops.take
    tanh = ops.tanh
    topk = ops.topk
    tril = ops.tril
    triu = ops.triu
    unstack = ops.unstack
    var = ops.var

    def reshape(self, *shape: Any) -> Any:
        """The same elements in another shape: `x.reshape(2, -1)` or `x.reshape((2, -1))`."""
        return ops.reshape(self, shape[0] if len(shape) == 1 else shape)

    def permute_dims(self, *axes: Any) -> Any:
        """The axes in another order: `x.permute_dims(1, 0)` or `x.permute_dims((1, 0))`."""
        return ops.permute_dims(
            self, axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        )

    def transpose(self, *axes: Any) -> Any:
        """As in NumPy: the axes in that order, or reversed. (`torch`'s swaps two axes.)"""
        return self.permute_dims(*axes) if axes else ops.transpose(self)

    def _become(self, what: str, result: Any) -> Self:
        """Take the value of `result`, and its place in the graph: what `x[i] = v` and `x += y` do.

        As in NumPy, shape and dtype stay. A leaf stays where it is in the graph.
        """
        shape, dtype = self._data.shape, self._data.dtype
        is_leaf = isinstance(self.node, Leaf) and (self.node.lasting or type(self) is not Variable.made)
        if is_leaf and is_grad_enabled():
            raise RuntimeError(
                f"{what}: x is a leaf that requires gradients, and would no longer be one; change its value "
                "under no_grad(), or write x = x + y"
            )
        if result.shape != shape:
            raise ValueError(f"{what}: x of shape {shape} cannot take a value of shape {result.shape}")
        if result.dtype != dtype:
            if not is_floating(dtype):
                raise TypeError(f"{what}: x is {dtype}, and the value {result.dtype}; write x = x + y")
            result = ops.astype(result, dtype)
        if is_leaf:
            at_once(self._taking(result))
        else:
            self._data, self.node, self.home = result._data, result.node, None
        return self

    def _taking(self, value: Variable, grad: Variable | None = None) -> list[tuple[Any, ...]]:
        """The changes (see `atomic.py`) that give a leaf the array of `value`, which nobody else holds.

        Its place in the graph, with the gradient gathered there, stays if shape and dtype do. `grad`, if
        given, becomes the gradient.
        """
        array, leaf = value._data, self.node
        changes: list[tuple[Any, ...]] = [(setattr, self, "_data", array)]
        if isinstance(leaf, Leaf):
            changes.append((setattr, self, "home", Memory()))
            if (leaf.shape, leaf.dtype) != (array.shape, array.dtype):
                leaf = leaf_for(array)
                changes.append((setattr, self, "node", leaf))
            if grad is not None:
                changes.append((setattr, leaf, "grad", grad))
        return changes
