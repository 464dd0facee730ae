"""Random programs, run by minigrad and by a slow reference that is easy to see through.

The reference computes on one Python float at a time: a `Scalar` remembers what it was computed from, and
how its gradient is shared out among that. Arrays of them are NumPy's arrays of objects, so NumPy says what
slices, broadcasting and assignments mean. The shares are Scalars again: so any order can be asked for.

Hypothesis writes the programs: what is shared, viewed, overwritten, detached, differentiated, stepped and
dropped, and in which order. After each line all values and all gradients are compared.
`MINIGRAD_EXAMPLES=10000 pytest tests/test_programs.py` tries that many programs, other ones each time.
"""

import itertools
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

import minigrad as mg

# --- the reference -----------------------------------------------------------------------------------


class Scalar:
    """A number; `sources` are what it was computed from, each with the rule of its share of the gradient.

    `home` says of which leaf it is an element: (leaf, place).
    """

    numbers = itertools.count()

    def __init__(self, value: float, *sources: "tuple[Scalar, Callable[[Any], Any]]", home: Any = None):
        self.value = value
        self.sources = [(s, share) for s, share in sources if s.sources or s.home]
        self.home = home
        self.number = next(Scalar.numbers)

    def __add__(self, other: Any) -> Any:
        if isinstance(other, np.ndarray):
            return other + self
        return Scalar(self.value + other.value, (self, lambda g: g), (other, lambda g: g))

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, np.ndarray):
            return other * self
        return Scalar(self.value * other.value, (self, lambda g: g * other), (other, lambda g: g * self))

    def __neg__(self) -> "Scalar":
        return Scalar(-self.value, (self, lambda g: -g))

    def __sub__(self, other: Any) -> Any:
        return self + -other


def function(f: Callable[[float], float], slope: Callable[[Scalar], Scalar]) -> Any:
    """The function of a Scalar, from that of a float and from its derivative as a function of a Scalar."""
    return lambda x: Scalar(f(x.value), (x, lambda g: g * slope(x)))


ONE = Scalar(1.0)
exp = function(math.exp, lambda x: exp(x))
sin = function(math.sin, lambda x: cos(x))
cos = function(math.cos, lambda x: -sin(x))
tanh = function(math.tanh, lambda x: ONE - tanh(x) * tanh(x))
reciprocal = function(lambda v: 1 / v, lambda x: -(reciprocal(x) * reciprocal(x)))


def scalars(values: Any, leaf: Any = None) -> np.ndarray:
    """An array of Scalars: constants, or the elements of a leaf."""
    values = np.asarray(values, float)
    found = np.empty(values.shape, object)
    for place in np.ndindex(values.shape):
        found[place] = Scalar(float(values[place]), home=leaf and (leaf, place))
    return found


def each(f: Callable[[Scalar], Scalar], array: np.ndarray) -> np.ndarray:
    return objects(np.frompyfunc(f, 1, 1)(array))


def objects(array: Any) -> np.ndarray:
    """What NumPy makes of an operation on objects, which is no array where it has no axes."""
    found = np.empty(np.shape(array), object)
    found[...] = array
    return found


def total(array: np.ndarray, **how: Any) -> Any:
    zero: Any = Scalar(0.0)
    return np.sum(array, initial=zero, **how)


def values_of(array: np.ndarray) -> np.ndarray:
    return np.array([s.value for s in array.flat], float).reshape(array.shape)


def gradients(roots: np.ndarray, given: np.ndarray) -> tuple[dict[Any, Scalar], float]:
    """The gradient of each element of a leaf, and the largest number met on the way to them."""
    arrived: dict[Scalar, Scalar] = {}
    for root, g in zip(roots.flat, given.flat, strict=True):
        arrived[root] = arrived[root] + g if root in arrived else g
    order = list(arrived)
    seen = set(order)
    for scalar in order:  # which grows meanwhile
        new = {source for source, _ in scalar.sources} - seen
        order.extend(new)
        seen |= new
    found: dict[Any, Scalar] = {}
    largest = 1.0
    for scalar in sorted(order, key=lambda s: s.number, reverse=True):
        g = arrived.pop(scalar)
        largest = max(largest, abs(g.value))
        if scalar.home:
            found[scalar.home] = found[scalar.home] + g if scalar.home in found else g
        for source, share in scalar.sources:
            part = share(g)
            arrived[source] = arrived[source] + part if source in arrived else part
    return found, largest


# --- what is known of a program ----------------------------------------------------------------------


class Node:
    """An operation on whole tensors: all that is asked of it is which backward may still pass it.

    A gradient with a graph refers to some nodes of the graph that it comes from, we do not say to which:
    it is not `exact`.
    """

    def __init__(self, parents: "list[Node]", exact: bool = True):
        self.parents = parents
        self.exact = exact
        self.freed = "no"  # or "yes", or "maybe"

    def below(self) -> "dict[Node, bool]":
        """All nodes that this one was computed from, and itself: whether it is certain that it was."""
        certain: dict[Node, bool] = {}
        pending = [(self, True)]
        while pending:
            node, sure = pending.pop()
            if node not in certain or (sure and not certain[node]):
                certain[node] = sure
                pending += [(parent, sure and node.exact) for parent in node.parents]
        return certain


class LeafNode(Node):
    """The node of a leaf, with its gradient, and how large the numbers were that this was added up from."""

    def __init__(self):
        super().__init__([])
        self.grad: Pair | None = None
        self.scale = 1.0


class Memory:
    """What an optimizer overwrites."""

    def __init__(self):
        self.version = 0


class Pair:
    """A tensor and what it should be. `reads` are the memories that it was computed from, and how old."""

    def __init__(self, tensor: mg.Tensor, array: np.ndarray, node: Node | None, reads: set[Any]):
        self.tensor, self.array, self.node, self.reads = tensor, array, node, reads

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


def leaf_of(values: Any) -> Pair:
    node = LeafNode()
    tensor = mg.tensor(values, dtype=mg.float64, requires_grad=True)
    return Pair(tensor, scalars(values, node), node, {(Memory(), 0)})


LIMIT = 8.0  # larger values are not gone on with
SHAPES: list[tuple[int, ...]] = [(), (2,), (3,), (2, 3), (1, 3), (2, 1)]
NUMBERS = st.integers(-7, 8).map(lambda i: i / 4)


def draws(n: int) -> st.SearchStrategy[list[float]]:
    return st.lists(NUMBERS, min_size=n, max_size=n)


UNARY: dict[str, tuple[Callable[[Any], Any], Callable[[np.ndarray], np.ndarray]]] = {
    "sin": (mg.sin, lambda a: each(sin, a)),
    "exp": (mg.exp, lambda a: each(exp, a)),
    "tanh": (mg.tanh, lambda a: each(tanh, a)),
    "square": (mg.square, lambda a: a * a),
    "negative": (mg.negative, lambda a: -a),
    "cube": (lambda x: x**3, lambda a: a * a * a),
    "bump": (lambda x: 1 / (1 + x * x), lambda a: each(lambda s: reciprocal(ONE + s * s), a)),
    "2 - x / 2": (lambda x: 2 - x / 2, lambda a: each(lambda s: Scalar(2.0) - s * Scalar(0.5), a)),
    "sum": (mg.sum, lambda a: total(a)),
    "sum over the last": (
        lambda x: mg.sum(x, axis=-1, keepdims=True),
        lambda a: total(a, axis=-1, keepdims=True),
    ),
    "mean over the first": (
        lambda x: mg.mean(x, axis=0),
        lambda a: each(lambda s: s * Scalar(1 / len(a)), total(a, axis=0)),
    ),
    "cumulative sum": (lambda x: mg.cumulative_sum(x, axis=-1), lambda a: np.add.accumulate(a, axis=-1)),
    "flatten": (mg.flatten, lambda a: a.reshape(-1)),
    "as a column": (lambda x: x.reshape(-1, 1), lambda a: a.reshape(-1, 1)),
    "transpose": (mg.transpose, lambda a: a.transpose()),
    "flip": (mg.flip, lambda a: np.flip(a)),
    "roll": (lambda x: mg.roll(x, 1), lambda a: np.roll(a, 1)),
    "broadcast": (lambda x: mg.broadcast_to(x, (2, *x.shape)), lambda a: np.broadcast_to(a, (2, *a.shape))),
}


def every_second(*shapes: tuple[int, ...]) -> np.ndarray:
    shape = np.broadcast_shapes(*shapes)
    return np.arange(math.prod(shape)).reshape(shape) % 2 == 0


NEED_AN_AXIS = {"sum over the last", "mean over the first", "cumulative sum"}

BINARY: dict[str, tuple[Callable[[Any, Any], Any], Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "add": (mg.add, lambda a, b: a + b),
    "subtract": (mg.subtract, lambda a, b: a - b),
    "multiply": (mg.multiply, lambda a, b: a * b),
    "divide": (lambda x, y: x / (y * y + 1), lambda a, b: a * each(lambda s: reciprocal(s * s + ONE), b)),
    "where": (
        lambda x, y: mg.where(every_second(x.shape, y.shape), x, y),
        lambda a, b: np.where(every_second(a.shape, b.shape), a, b),
    ),
    "concat": (
        lambda x, y: mg.concat([x.flatten(), y.flatten(), x.flatten()]),
        lambda a, b: np.concatenate([a, b, a], None),
    ),
    "outer": (lambda x, y: mg.outer(x.flatten(), y.flatten()), np.outer),
    "x @ x.T @ y": (
        lambda x, y: (x.reshape(1, -1) @ x.reshape(-1, 1)).reshape(()) * y,
        lambda a, b: b * total(objects(a * a)),
    ),
}

KEYS: dict[int, list[Any]] = {
    0: [..., None],
    1: [1, slice(None, None, -1), slice(1, None), [1, 0, 1], slice(0, 0)],
    2: [0, (slice(None), -1), slice(None, None, -1), (..., slice(0, 1)), ([0, 0], slice(None)), (0, [0, 0])],
}


def keys(ndim: int) -> list[Any]:
    return KEYS.get(ndim, [0, ..., (0, None)])


# --- the programs ------------------------------------------------------------------------------------


class Programs(RuleBasedStateMachine):
    tensors = Bundle("tensors")

    def __init__(self):
        super().__init__()
        self.pairs: list[Pair] = []
        self.modes: list[tuple[Any, bool]] = []
        self.optimizers: dict[Pair, Any] = {}

    @property
    def recording(self) -> bool:
        return self.modes[-1][1] if self.modes else True

    def keep(self, pair: Pair) -> Pair:
        self.pairs.append(pair)
        return pair

    def made(self, compute: Callable[[], Any], array: Any, *parents: Pair) -> Pair | None:
        """The result of an operation on `parents`; None, and nothing is computed, if it would be large."""
        array = objects(array)
        if array.size > 12 or array.ndim > 3 or any(abs(s.value) > LIMIT for s in array.flat):
            return None
        nodes = [p.node for p in parents if p.node is not None]
        node = Node(nodes) if nodes and self.recording else None
        if node is None:
            array = scalars(values_of(array))
        return Pair(compute(), array, node, set().union(*(p.reads for p in parents)))

    def kept(self, pair: Pair | None) -> Any:
        return multiple() if pair is None else self.keep(pair)

    # --- making tensors

    @initialize(target=tensors, values=st.lists(draws(6), min_size=2, max_size=3), data=st.data())
    def begin(self, values, data):
        shapes = [data.draw(st.sampled_from(SHAPES)) for _ in values]
        made = [leaf_of(np.reshape(v[: math.prod(s)], s)) for v, s in zip(values, shapes, strict=True)]
        for x in made:  # the first step moves x to memory of the optimizer's: only later ones overwrite it
            self.optimizers[x] = mg.optim.SGD([x.tensor], lr=0.5)
            x.tensor.grad = mg.zeros_like(x.tensor)
            self.optimizers[x].step()
            x.tensor.grad = None
        return multiple(*map(self.keep, made))

    @rule(target=tensors, values=draws(3))
    def constant(self, values):
        return self.keep(Pair(mg.tensor(values, dtype=mg.float64), scalars(values), None, set()))

    @rule(target=tensors, x=tensors)
    def new_leaf(self, x):
        return self.keep(leaf_of(x.tensor.detach().numpy()))

    @rule(target=tensors, x=tensors, name=st.sampled_from(list(UNARY)))
    def unary(self, x, name):
        ours, theirs = UNARY[name]
        if name in NEED_AN_AXIS and 0 in (x.shape or (0,)):
            return multiple()
        if name == "exp" and any(s.value > 3 for s in x.array.flat):
            return multiple()
        return self.kept(self.made(lambda: ours(x.tensor), theirs(x.array), x))

    @rule(target=tensors, x=tensors, y=tensors, name=st.sampled_from(list(BINARY)))
    def binary(self, x, y, name):
        ours, theirs = BINARY[name]
        if name not in ("concat", "outer", "x @ x.T @ y"):
            y = self.fitted(y, x.shape, both=True)
        return self.kept(self.made(lambda: ours(x.tensor, y.tensor), theirs(x.array, y.array), x, y))

    @rule(target=tensors, x=tensors, data=st.data())
    def view(self, x, data):
        key = data.draw(st.sampled_from(keys(len(x.shape))))
        return self.kept(self.made(lambda: x.tensor[key], x.array[key], x) if fits(key, x.shape) else None)

    @rule(target=tensors, x=tensors)
    def detach(self, x):
        return self.keep(Pair(x.tensor.detach(), scalars(values_of(x.array)), None, x.reads))

    @rule(x=consumes(tensors))
    def drop(self, x):
        self.pairs.remove(x)
        self.optimizers.pop(x, None)

    def fitted(self, y: Pair, shape: tuple[int, ...], both: bool = False) -> Pair:
        """y, or the mean of its elements if it does not broadcast to that shape (or they both to one)."""
        try:
            if both or np.broadcast_shapes(y.shape, shape) == shape:
                np.broadcast_shapes(y.shape, shape)
                return y
        except ValueError:
            pass
        n = max(y.array.size, 1)
        found = self.made(lambda: mg.sum(y.tensor) * (1 / n), total(y.array) * Scalar(1 / n), y)
        assert found is not None
        return found

    # --- writing

    def become(self, x: Pair, result: Pair | None, change: Callable[[], Any]) -> None:
        """x takes another value, unless it is a leaf and operations are being recorded."""
        if result is None:
            return
        is_leaf = isinstance(x.node, LeafNode)
        if is_leaf and self.recording:
            with pytest.raises(RuntimeError, match="no_grad"):
                change()
            return
        change()
        if is_leaf:
            x.array, x.reads = scalars(values_of(result.array), x.node), {(Memory(), 0)}
        else:
            x.array, x.node, x.reads = result.array, result.node, result.reads

    @rule(x=tensors, y=tensors, sign=st.sampled_from("+-*"))
    def augmented(self, x, y, sign):
        y = self.fitted(y, x.shape)
        after = {"+": np.add, "-": np.subtract, "*": np.multiply}[sign](x.array, y.array)
        names = {"+": "__iadd__", "-": "__isub__", "*": "__imul__"}

        def change():
            same = getattr(x.tensor, names[sign])(y.tensor)
            assert same is x.tensor

        self.become(x, self.made(lambda: x.tensor, after, x, y), change)

    @rule(x=tensors, y=tensors, data=st.data(), adds=st.booleans())
    def assign(self, x, y, data, adds):
        key = data.draw(st.sampled_from(keys(len(x.shape))))
        if not fits(key, x.shape) or key is None:
            return
        y = self.fitted(y, x.array[key].shape if isinstance(x.array[key], np.ndarray) else ())
        value = y.array if y.shape else y.array[()]  # an array of no axes would itself become an element
        after = x.array.copy()
        after[key] = after[key] + value if adds else value

        def change():
            if adds:
                x.tensor[key] += y.tensor
            else:
                x.tensor[key] = y.tensor

        self.become(x, self.made(lambda: x.tensor, after, x, y), change)

    @rule(x=tensors, y=tensors, sign=st.sampled_from("+-*"))
    def augmented_under_no_grad(self, x, y, sign):
        self.enter("no_grad")
        self.augmented(x, y, sign)
        self.leave()

    # --- modes

    @rule(mode=st.sampled_from(["no_grad", "enable_grad"]))
    def enter(self, mode):
        block = getattr(mg, mode)()
        block.__enter__()
        self.modes.append((block, mode == "enable_grad"))

    @rule()
    def leave(self):
        if self.modes:
            self.modes.pop()[0].__exit__(None, None, None)

    # --- gradients

    @rule(x=tensors, g=st.none() | tensors, retain=st.booleans(), create=st.booleans())
    def backward(self, x, g, retain, create):
        if g is None or g.shape != x.shape:
            weights = np.linspace(0.5, 1.5, x.array.size).reshape(x.shape)
            g = Pair(mg.tensor(weights, dtype=mg.float64), scalars(weights), None, set())

        def run():
            x.tensor.backward(g.tensor, retain_graph=retain, create_graph=create)

        if x.node is None:
            with pytest.raises(RuntimeError, match="no graph"):
                run()
            return
        below = x.node.below()
        states = {(node.freed, sure) for node, sure in below.items()}
        reads = x.reads | g.reads if create else x.reads
        overwritten = any(memory.version > version for memory, version in x.reads)
        if ("yes", True) in states:
            with pytest.raises(RuntimeError, match="freed|overwritten" if overwritten else "freed"):
                run()
            return
        try:
            run()
        except RuntimeError as error:
            may = "was freed" in str(error) and any(freed != "no" for freed, _ in states)
            if may or ("overwritten" in str(error) and overwritten):
                return
            raise
        found, scale = gradients(x.array, g.array)
        if not retain and not create:
            for node, sure in below.items():
                if not isinstance(node, LeafNode):
                    node.freed = "yes" if sure or node.freed == "yes" else "maybe"
        for node in below:
            if isinstance(node, LeafNode):
                shape = next((p.shape for p in self.pairs if p.node is node), None)
                if shape is not None:
                    self.arrive(node, shape, found, scale, create, [x, g], reads)

    def arrive(self, leaf: LeafNode, shape, found, scale, create, parents, reads) -> None:
        """Add to the gradient of a leaf what was found for its elements."""
        array = scalars(np.zeros(shape))
        for place in np.ndindex(shape):
            if (leaf, place) in found:
                array[place] = found[leaf, place]
        tensor = next(p.tensor for p in self.pairs if p.node is leaf).grad
        if tensor is None or (leaf.grad is not None and tensor is leaf.grad.tensor):
            assert not values_of(array).any()  # there was no path, or none along which anything flows
            return
        leaf.scale = max(leaf.scale, scale)
        node = None
        if leaf.grad is not None:
            array = objects(leaf.grad.array + array)
            reads = reads | leaf.grad.reads
            parents = [*parents, leaf.grad]
        if create:
            node = Node([p.node for p in parents if p.node is not None], exact=False)
        else:
            array = scalars(values_of(array))
        if node is not None and not tensor.requires_grad:
            slopes, _ = gradients(array, scalars(np.linspace(0.5, 1.5, array.size).reshape(shape)))
            assert not any(s.value for s in slopes.values())
            node, array = None, scalars(values_of(array))
        leaf.grad = Pair(tensor, array, node, reads)

    @rule(target=tensors, x=tensors)
    def take_the_gradient(self, x):
        """It becomes a tensor of the program like others, and may still be the gradient of the leaf."""
        if not isinstance(x.node, LeafNode) or x.node.grad is None or x.node.scale > 100:
            return multiple()
        grad = x.node.grad
        if any(abs(s.value) > LIMIT for s in grad.array.flat) or grad in self.pairs:
            return multiple()
        return self.keep(grad)

    @rule(x=tensors)
    def forget_the_gradient(self, x):
        if isinstance(x.node, LeafNode):
            x.tensor.grad = None
            x.node.grad, x.node.scale = None, 1.0

    @rule(x=tensors, which=st.integers(0, 3))
    def step_between_two_backward(self, x, which):
        self.backward(x, None, True, False)
        leaves = self.leaves_below(x)
        if leaves:
            self.step(leaves[which % len(leaves)], False)
            self.backward(x, None, True, False)

    @rule(x=tensors)
    def second_order(self, x):
        self.backward(x, None, True, True)
        for leaf in self.leaves_below(x):
            self.backward(leaf.node.grad, None, True, False)

    def leaves_below(self, x: Pair) -> list[Any]:
        """The leaves with a gradient that x was computed from."""
        below = x.node.below() if x.node else {}
        return [p for p in self.pairs if p.node in below and isinstance(p.node, LeafNode) and p.node.grad]

    @rule(x=tensors, fresh=st.booleans())
    def step(self, x, fresh):
        if not isinstance(x.node, LeafNode) or x.node.grad is None or x.node.scale > 100:
            return
        after = values_of(x.array) - 0.5 * values_of(x.node.grad.array)
        if np.max(np.abs(after), initial=0) > LIMIT:
            return
        for other in self.pairs:  # which has its value from the memory that will be written to
            if other is not x and np.shares_memory(other.tensor.data, x.tensor.data):
                other.tensor = mg.tensor(other.tensor)
                other.array, other.node, other.reads = scalars(values_of(other.array)), None, set()
        if fresh or x not in self.optimizers:
            self.optimizers[x] = mg.optim.SGD([x.tensor], lr=0.5)
        self.optimizers[x].step()
        ((memory, _),) = x.reads
        memory.version += 1
        x.array, x.reads = scalars(after, x.node), {(memory, memory.version)}

    # --- comparing

    @invariant()
    def values_agree(self):
        for pair in self.pairs:
            assert pair.tensor.shape == pair.shape
            assert pair.tensor.requires_grad == (pair.node is not None)
            compare(pair.tensor, pair.array, 1.0)

    @invariant()
    def gradients_agree(self):
        for pair in self.pairs:
            grad = pair.node.grad if isinstance(pair.node, LeafNode) else None
            if grad is None:
                assert pair.tensor.grad is None
            else:
                assert pair.tensor.grad is not None
                assert isinstance(pair.node, LeafNode)
                compare(pair.tensor.grad, grad.array, pair.node.scale)

    def teardown(self):
        while self.modes:
            self.leave()
        for pair in list(self.pairs):
            if pair.node is not None:
                self.second_order(pair)
        self.values_agree()
        self.gradients_agree()


def fits(key: Any, shape: tuple[int, ...]) -> bool:
    try:
        np.empty(shape)[key]
    except IndexError:
        return False
    return True


def compare(tensor: mg.Tensor, array: np.ndarray, scale: float) -> None:
    np.testing.assert_allclose(tensor.detach().numpy(), values_of(array), rtol=1e-7, atol=1e-8 * scale)


EXAMPLES = int(os.environ.get("MINIGRAD_EXAMPLES", "0"))
TestPrograms = Programs.TestCase
TestPrograms.settings = settings(
    max_examples=EXAMPLES or 300,
    stateful_step_count=40,
    report_multiple_bugs=False,
)
