"""The tensor itself: making, showing, converting, indexing, and being a value."""

import array
import copy
import math
import operator
import pickle
from typing import Any

import numpy as np
import pytest
from helpers import take_grad

import minigrad as mg

# --- making ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "dtype", "shape"),
    [
        (1.5, "float32", ()),
        (1, "int64", ()),
        (True, "bool", ()),
        ([], "float32", (0,)),
        ([1, 2], "int64", (2,)),
        ([1, 2.5], "float32", (2,)),
        ([[1.0], [2.0]], "float32", (2, 1)),
        ((1.0, 2.0), "float32", (2,)),
        (np.ones(2), "float64", (2,)),
        (np.ones(2, np.float16), "float16", (2,)),
        (np.ones((2, 0), np.int8), "int8", (2, 0)),
        (np.float64(2.0), "float64", ()),
        ([np.float64(2.0)], "float64", (1,)),
        (range(3), "int64", (3,)),
    ],
)
def test_dtypes_from_data(data, dtype, shape):
    for make in (mg.tensor, mg.asarray, mg.Tensor):
        x = make(data)
        assert (str(x.dtype), x.shape) == (dtype, shape)
        np.testing.assert_array_equal(x.numpy(), np.asarray(data, dtype=dtype))


def test_given_dtype_loses_no_digits():
    assert mg.tensor([1.1], dtype=mg.float64).tolist() == [1.1]
    assert mg.asarray(1.1, dtype=mg.float64).item() == 1.1


def test_default_dtype_can_be_set():
    mg.set_default_dtype(mg.float64)
    try:
        assert mg.tensor([1.5]).dtype == mg.zeros(2).dtype == mg.full(2, 0.5).dtype == np.float64
        assert mg.nn.Linear(2, 2).weight.dtype == mg.random.normal(3).dtype == np.float64
    finally:
        mg.set_default_dtype(mg.float32)
    assert mg.tensor([1.5]).dtype == np.float32
    with pytest.raises(TypeError, match="floating"):
        mg.set_default_dtype(mg.int64)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (["a"], TypeError),
        (1j, TypeError),
        ([object()], TypeError),
        (np.ones(2, complex), TypeError),
        (np.array(["2020-01-01"], "datetime64[D]"), TypeError),
        (np.ma.masked_array([1.0, 2.0], [True, False]), TypeError),
        ([[1], [2, 3]], ValueError),
        (None, TypeError),
    ],
)
def test_data_that_is_refused(data, error):
    for make in (mg.tensor, mg.asarray):
        with pytest.raises(error, match=make.__name__):
            make(data)
    for make in (
        lambda: mg.tensor([1.0], dtype=complex),
        lambda: mg.zeros(2, dtype=complex),
        lambda: mg.ones(2).astype(complex),
    ):
        with pytest.raises(TypeError, match="complex"):
            make()


def test_tensor_copies_and_asarray_shares():
    a = np.ones(2)
    copied, shared = mg.tensor(a), mg.asarray(a)
    a[0] = 5
    assert (copied.tolist(), shared.tolist()) == ([1, 1], [5, 1])
    assert mg.asarray(shared) is shared
    assert mg.asarray(shared, copy=True).data is not a
    x = mg.ones(2, requires_grad=True)
    assert mg.asarray(x) is x
    assert not mg.tensor(x).requires_grad


def test_creation_functions():
    assert mg.zeros((2, 3)).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert mg.ones(2, dtype=mg.int64).tolist() == [1, 1]
    assert mg.full((2,), 7).dtype == np.int64
    assert mg.full(2, True).dtype == np.bool_
    assert mg.full(2, 0.5).dtype == np.float32
    assert mg.empty((3, 1)).shape == (3, 1)
    assert mg.arange(3).tolist() == [0, 1, 2]
    assert mg.arange(1, 2, 0.5).tolist() == [1.0, 1.5]
    assert (mg.arange(3).dtype, mg.arange(3.0).dtype) == (np.int64, np.float32)
    assert mg.linspace(0, 1, 3).tolist() == [0, 0.5, 1]
    assert mg.eye(2, 3).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert mg.zeros(2, requires_grad=True).requires_grad
    assert mg.ones_like(mg.zeros(2, requires_grad=True)).requires_grad is False
    assert mg.zeros_like(mg.ones(2), dtype=mg.int32).dtype == np.int32


def test_random_numbers_repeat_from_a_seed():
    mg.random.seed(3)
    first = mg.random.normal((2, 3)), mg.random.uniform(4, -1, 1)
    mg.random.seed(3)
    again = mg.random.normal((2, 3)), mg.random.uniform(4, -1, 1)
    for a, b in zip(first, again, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert np.all(np.abs(first[1].numpy()) <= 1)


# --- showing -----------------------------------------------------------------------------------------


def test_repr():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    assert repr(x) == "tensor([1., 2.], dtype=float32, device=numpy, requires_grad=True)"
    assert repr(x * 2) == "tensor([2., 4.], dtype=float32, device=numpy, op=multiply)"
    assert repr(x[0]) == "tensor(1., dtype=float32, device=numpy, op=getitem)"
    assert repr(mg.tensor([[1, 2], [3, 4]])).count("\n") == 1
    assert repr(mg.nn.Parameter([1.0])).startswith("Parameter(tensor([1.]")
    assert f"{mg.tensor(2.5):.2f}" == "2.50"
    assert f"{mg.tensor([1])}" == repr(mg.tensor([1]))


def test_attributes():
    x = mg.zeros((2, 3, 4))
    assert (x.shape, x.ndim, x.size, x.dtype, x.device, len(x)) == ((2, 3, 4), 3, 24, np.float32, "numpy", 2)
    assert (x.mT.shape, x[0].T.shape) == ((2, 4, 3), (4, 3))
    assert x.is_leaf
    assert [row.shape for row in x] == [(3, 4), (3, 4)]
    with pytest.raises(TypeError, match="0-d"):
        len(mg.tensor(1.0))
    with pytest.raises(AttributeError):
        x.no_such = 1


# --- operators ---------------------------------------------------------------------------------------

OPERATORS = [
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "lt",
    "le",
    "gt",
    "ge",
    "eq",
    "ne",
]
BITS = ["and_", "or_", "xor", "lshift", "rshift"]


@pytest.mark.parametrize("name", OPERATORS + BITS)
def test_binary_operators(name):
    op = getattr(operator, name)
    dtype = int if name in BITS else float
    a, b = np.array([3, 5, 2], dtype), np.array([2, 1, 4], dtype)
    expected = op(a, b)
    for x, y in ((mg.tensor(a), mg.tensor(b)), (mg.tensor(a), b), (a, mg.tensor(b))):
        result = op(x, y)
        assert isinstance(result, mg.Tensor)
        np.testing.assert_array_equal(result.numpy(), expected)
    if name != "matmul":
        np.testing.assert_array_equal(op(mg.tensor(a), 2).numpy(), op(a, 2))
        np.testing.assert_array_equal(op(2, mg.tensor(a)).numpy(), op(2, a))


def test_unary_operators():
    x = mg.tensor([-1.5, 2.0])
    assert (-x).tolist() == [1.5, -2]
    assert (+x).tolist() == [-1.5, 2]
    assert abs(x).tolist() == [1.5, 2]
    assert (~mg.tensor([True, False])).tolist() == [False, True]


def test_methods_are_the_functions():
    x = mg.random.uniform((2, 3), 0.1, 1.0)
    for name in [
        "abs",
        "exp",
        "log",
        "sqrt",
        "square",
        "sin",
        "cos",
        "tanh",
        "sigmoid",
        "relu",
        "sum",
        "mean",
        "prod",
        "max",
        "min",
        "var",
        "std",
    ]:
        np.testing.assert_array_equal(getattr(x, name)().numpy(), getattr(mg, name)(x).numpy())
    assert x.reshape(3, 2).shape == x.reshape((3, 2)).shape == x.reshape(-1, 2).shape == (3, 2)
    assert x.reshape(6).shape == x.flatten().shape == (6,)
    assert x.permute_dims(1, 0).shape == x.permute_dims((1, 0)).shape == x.transpose().shape == (3, 2)
    assert x.astype(mg.float64).dtype == np.float64
    assert x.sum(axis=0, keepdims=True).shape == (1, 3)
    assert x.argmax(axis=1).dtype == np.int64


def test_conversions_to_python():
    assert float(mg.tensor([2.5])) == 2.5
    assert int(mg.tensor(3)) == 3
    assert [10, 20][mg.tensor(1)] == 20
    assert bool(mg.tensor([0.0])) is False
    assert 2.0 in mg.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match=r"bool\(\) needs a tensor of one element"):
        bool(mg.ones(2))
    with pytest.raises(TypeError, match=r"zeros\(\(2, 3\)\)"):
        mg.zeros(2, 3)
    with pytest.raises(TypeError, match="integer"):
        [1, 2][mg.tensor(1.0)]


# --- a tensor is a value -----------------------------------------------------------------------------


def test_augmented_assignment_gives_a_new_value():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    y = same = x * x
    square, view = y * y, y[:1]
    y += 1
    y *= 2
    y -= 0
    y /= 1
    y **= 1
    assert (same is y, y.tolist()) == (True, [4, 10])
    assert (square.tolist(), view.tolist()) == ([1, 16], [1])
    (y.sum() + square.sum()).backward()
    assert x.grad.tolist() == [4 + 4, 8 + 32]


def test_augmented_assignment_on_leaves():
    p = same = mg.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(RuntimeError, match=r"x \+= y: .*no_grad"):
        p += 1
    loss = (p * p).sum()
    with mg.no_grad():
        p -= mg.tensor([1.0, 1.0], dtype=mg.float64)
        with pytest.raises(ValueError, match=r"shape \(2,\) cannot take a value of shape \(3, 2\)"):
            p += mg.ones((3, 1))
    assert (p is same, p.is_leaf, p.requires_grad, p.dtype) == (True, True, True, np.float32)
    loss.backward()
    assert p.grad.tolist() == [2, 4]  # of the values that the loss was computed from
    x = mg.arange(2)
    with pytest.raises(TypeError, match=r"x \+= y: x is int64, and the value float64"):
        x += 0.5
    with pytest.raises(ValueError, match="cannot take a value of shape"):
        x += mg.zeros((3, 1), dtype=int)


def test_arrays_beside_tensors_may_be_reused_by_their_owner():
    w = mg.tensor([1.0, 2.0], requires_grad=True)
    m = mg.ones((1, 2), requires_grad=True)
    buffer, key, mask = np.ones(2, np.float32), np.array([0, 0]), np.array([True, False])
    results = [
        w * buffer,
        buffer * w,
        mg.linear(buffer, m),
        w[key],
        w[mask],
        mg.where(mask, w, 0.0),
        mg.take(w, key),
    ]
    total = mg.stack([r.sum() for r in results]).sum()
    buffer[:], key[:], mask[:] = 99, 1, True
    total.backward()
    assert m.grad.tolist() == [[1, 1]]
    assert w.grad.tolist() == [1 + 1 + 2 + 1 + 1 + 2, 1 + 1]
    scores, target = mg.zeros((1, 2), requires_grad=True), np.array([0])
    loss = mg.nn.functional.cross_entropy(scores, target)
    target[0] = 1
    loss.backward()
    assert scores.grad.tolist() == [[-0.5, 0.5]]


def test_data_is_read_only_on_numpy():
    x = mg.ones(2)
    with pytest.raises(ValueError, match="read-only"):
        x.data[0] = 5


def test_setitem_gives_a_new_value():
    x = mg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    v = mg.tensor(5.0, requires_grad=True)
    y = x * 1
    square = y * y
    view = y[:2]
    y[0] = v
    assert (y.tolist(), square.tolist(), view.tolist()) == ([5, 2, 3], [1, 4, 9], [1, 2])
    (y.sum() + square.sum()).backward()
    assert x.grad.tolist() == [2, 5, 7]
    assert v.grad.item() == 1


def test_setitem_on_leaves():
    x = mg.ones(3)
    same = x
    array = x.data
    x[1:] = 0
    x[mg.tensor([True, False, False])] = 7
    assert same.tolist() == [7, 0, 0]
    assert array.tolist() == [1, 1, 1]
    p = mg.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"x\[i\] = v: .*no_grad"):
        p[0] = 2
    loss = (p * p).sum()
    with mg.no_grad():
        p[0] = 2
    assert p.is_leaf
    assert p.requires_grad
    loss.backward()
    assert p.grad.tolist() == [2, 2, 2]  # of the values that the loss was computed from


def test_setitem_into_integers_and_of_other_dtypes():
    x = mg.arange(3)
    x[0] = mg.tensor(5.0, requires_grad=True)
    assert (x.tolist(), x.requires_grad) == ([5, 1, 2], False)
    y = mg.zeros(2)
    v = mg.tensor([1.0, 2.0], dtype=mg.float64, requires_grad=True)
    y[:] = v
    assert y.dtype == np.float32
    y.sum().backward()
    assert v.grad.dtype == np.float64
    with pytest.raises(TypeError, match="list"):
        y[0] = [1.0]


def test_views_share_memory_and_numpy_copies():
    x = mg.ones((2, 3))
    assert np.shares_memory(x.reshape(6).data, x.data)
    assert np.shares_memory(x.detach().data, x.data)
    a = x.numpy()
    a[:] = 0
    assert x.sum().item() == 6
    b = np.asarray(x)
    b[:] = 0
    assert x.sum().item() == 6


# --- leaves ------------------------------------------------------------------------------------------


def test_requires_grad_can_be_switched():
    x = mg.ones(2, requires_grad=True)
    (x * x).sum().backward()
    x.requires_grad = False
    assert not (x * x).requires_grad
    assert x.grad is None
    assert x.requires_grad_() is x.requires_grad_()
    y = x * x
    with pytest.raises(RuntimeError, match="detach"):
        y.requires_grad_(False)
    assert y.requires_grad_() is y
    assert (y.is_leaf, y.grad) == (False, None)


def test_requires_grad_takes_memory_of_its_own():
    """An optimizer writes to leaves: nobody else may hold their memory, seen or unseen."""

    def step(p):
        p.grad = mg.ones_like(p)
        mg.optim.SGD([p], lr=1.0).step()

    base = mg.tensor([[1.0, 2.0], [3.0, 4.0]])
    before = base[0]
    row = base[0].requires_grad_()
    whole = base.requires_grad_()
    step(row)
    step(whole)
    assert (row.tolist(), before.tolist()) == ([0, 1], [1, 2])
    a = np.ones(2)
    step(mg.asarray(a).requires_grad_())
    assert a.tolist() == [1, 1]
    w = mg.ones((2, 2), requires_grad=True)
    other = w.detach().T.requires_grad_()
    (other * other).sum().backward()
    assert w.grad is None
    step(w)
    assert other.tolist() == [[1, 1], [1, 1]]


def test_tensor_copies_from_whatever_shares_its_memory(tmp_path):
    buffer = array.array("f", [1.0, 1.0])
    mapped = np.memmap(tmp_path / "data", np.float32, "w+", shape=(2,))
    for source in (buffer, mapped, memoryview(buffer)):
        x = mg.tensor(source, requires_grad=True)
        x.grad = mg.ones(2)
        mg.optim.SGD([x], lr=1.0).step()
    assert (list(buffer), mapped.tolist()) == ([1, 1], [0, 0])


def test_gradients_do_not_lie_in_the_memory_of_leaves():
    x, w = mg.ones(2, requires_grad=True), mg.ones(2, requires_grad=True)
    (x + 0.0).backward(w)
    w.grad = mg.ones(2)
    mg.optim.SGD([w], lr=10.0).step()
    assert x.grad.tolist() == [1, 1]
    y = mg.ones(2, requires_grad=True)
    take_grad(x)
    (x + y).sum().backward(create_graph=True)
    halved = x.grad
    halved *= 0.5
    assert y.grad.tolist() == [1, 1]


def test_asarray_keeps_the_graph():
    x = mg.ones(2, requires_grad=True)
    mg.asarray(x, dtype=mg.float64).sum().backward()
    assert x.grad.tolist() == [1, 1]


def test_grad_can_be_set():
    x = mg.ones(2, requires_grad=True)
    x.grad = mg.ones(2)
    with pytest.raises(ValueError, match=r"\(2,\)"):
        x.grad = mg.ones(3)
    with pytest.raises(ValueError, match="ndarray"):
        x.grad = np.ones(2)
    with pytest.raises(ValueError, match=r"float32.*float64"):
        x.grad = mg.ones(2, dtype=mg.float64)
    with pytest.raises(RuntimeError, match="requires_grad_"):
        mg.ones(2).grad = mg.ones(2)


def test_data_can_be_set():
    x = mg.ones(2, requires_grad=True)
    x.data = np.zeros((3, 1))
    (x * 2).sum().backward()
    assert x.grad.shape == (3, 1)
    assert x.grad.dtype == np.float64
    a = np.ones(2)
    x.data = a
    a[0] = 5
    assert x.tolist() == [1, 1]
    with pytest.raises(TypeError, match="list"):
        x.data = [1.0]


def test_detach_stops_gradients():
    x = mg.tensor(3.0, requires_grad=True)
    (x * x.detach()).backward()
    assert x.grad.item() == 3


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copying_leaves(clone):
    for x in (mg.nn.Parameter([1.0, 2.0]), mg.ones(2), mg.ones(2, requires_grad=True)):
        if x.requires_grad:
            (x * 2).sum().backward()
        y = clone(x)
        assert type(y) is type(x)
        assert y.requires_grad == x.requires_grad
        assert y.tolist() == x.tolist()
        assert y.data is not x.data
        if x.requires_grad:
            assert y.grad.tolist() == [2, 2]
            (y * 3).sum().backward()
            assert x.grad.tolist() == [2, 2]
    with pytest.raises(RuntimeError, match="detach"):
        clone(mg.ones(2, requires_grad=True) * 2)


def test_deepcopy_keeps_sharing():
    x = mg.nn.Parameter([1.0])
    a, b = copy.deepcopy([x, x])
    assert a is b


# --- NumPy and other libraries -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"])
@pytest.mark.parametrize("left", [np.ones(2), np.float64(2.0), np.ones((2, 2)), np.ones(2, np.float32)])
def test_numpy_on_the_left_keeps_the_graph(name, left):
    x = mg.ones(2, requires_grad=True)
    if name == "matmul" and left.ndim == 0:
        pytest.skip("a matrix product needs axes")
    result = getattr(operator, name)(left, x)
    assert isinstance(result, mg.Tensor)
    assert result.requires_grad
    assert isinstance(left > x, mg.Tensor)


@pytest.mark.parametrize(
    "lossy",
    [
        lambda a, x: np.sin(x),
        lambda a, x: np.multiply(a, x),
        lambda a, x: np.add(a, a, out=x),
        lambda a, x: np.add.reduce(x),
        lambda a, x: np.asarray(x),
        lambda a, x: np.array(x),
        lambda a, x: np.array([x, x]),
        lambda a, x: np.mean(x),
        lambda a, x: np.sum(x, axis=0),
        lambda a, x: np.concatenate([x, x]),
        lambda a, x: np.stack([a, x]),
        lambda a, x: np.where(a > 0, x, a),
        lambda a, x: np.dot(a, x),
        lambda a, x: np.einsum("i,i", a, x),
        lambda a, x: np.linalg.norm(x),
        lambda a, x: np.copyto(a, x),
        lambda a, x: np.full(2, x),
        lambda a, x: np.testing.assert_allclose(x, a),
        lambda a, x: operator.setitem(a, slice(None), x),
        lambda a, x: operator.iadd(a, x),
        lambda a, x: x.numpy(),
        lambda a, x: x.__dlpack__(),
        lambda a, x: np.from_dlpack(x),
    ],
)
def test_numpy_never_drops_the_graph(lossy):
    x = mg.ones(2, requires_grad=True)
    with pytest.raises((TypeError, RuntimeError, ValueError), match=r"detach|ufunc|argument|sequence"):
        lossy(np.ones(2), x)


def test_plain_tensors_are_read_by_numpy():
    x = mg.tensor([1.0, 2.0])
    np.testing.assert_array_equal(np.asarray(x), [1, 2])
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.from_dlpack(x), [1, 2])
    np.testing.assert_array_equal(np.concatenate([x, x]), [1, 2, 1, 2])


def test_functions_on_plain_arrays_give_plain_arrays():
    a = np.array([[1.0, 2.0]])
    for result in (mg.exp(a), mg.add(a, 1), mg.softmax(a), mg.concat([a, a]), mg.einsum("ij->i", a)):
        assert type(result) is np.ndarray


def test_array_namespace():
    xp = mg.ones(2).__array_namespace__()
    assert xp is mg
    x = xp.asarray([1.0, 4.0])
    assert xp.sum(xp.sqrt(x)).item() == 3


def test_hashing_is_by_identity():
    x, y = mg.ones(1), mg.ones(1)
    assert len({x, y, x}) == 2


# --- corners -----------------------------------------------------------------------------------------


def test_erf_to_the_last_digits():
    x = np.concatenate([np.linspace(-7, 7, 20001), np.logspace(-300, 0, 300), [0.0, np.inf, -np.inf]])
    exact = np.array([math.erf(v) for v in x])
    ulps = np.abs(mg.erf(x) - exact) / np.spacing(np.abs(exact) + 1e-300)
    assert ulps.max() <= 4
    assert np.isnan(mg.erf(np.array([np.nan]))).all()
    half = mg.erf(x[:20001].astype(np.float16))
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, exact[:20001], atol=2e-3)


@pytest.mark.parametrize(
    "name", ["sigmoid", "softplus", "silu", "gelu", "logaddexp", "softmax", "log_softmax", "logsumexp"]
)
def test_no_overflow(name):
    x = mg.tensor([-1e4, -800.0, -90.0, 0.0, 90.0, 800.0, 1e4], dtype=mg.float64, requires_grad=True)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        result = mg.logaddexp(x, -x) if name == "logaddexp" else getattr(mg, name)(x)
        result.sum().backward()
    assert np.isfinite(result.detach().numpy()).all()
    assert np.isfinite(x.grad.numpy()).all()


def test_sigmoid_keeps_its_digits_far_out():
    x = np.array([-700.0, -50.0, -20.0, 20.0])
    exact = [math.exp(-700), math.exp(-50), 1 / (1 + math.exp(20)), 1 / (1 + math.exp(-20))]
    np.testing.assert_allclose(mg.sigmoid(x), exact, rtol=1e-15)


def test_logsumexp_of_minus_infinity():
    x = mg.tensor([[-np.inf, -np.inf], [0.0, -np.inf]], dtype=mg.float64, requires_grad=True)
    with np.errstate(divide="ignore"):
        y = mg.logsumexp(x, axis=1)
    assert y.tolist() == [-np.inf, 0.0]
    y.sum().backward()
    assert x.grad.tolist() == [[0, 0], [1, 0]]


def test_ties_share_the_gradient():
    x = mg.tensor([1.0, 3.0, 3.0, 3.0], requires_grad=True)
    x.max().backward()
    np.testing.assert_allclose(x.grad.numpy(), [0, 1 / 3, 1 / 3, 1 / 3], rtol=1e-6)
    a, b = mg.tensor([2.0], requires_grad=True), mg.tensor([2.0], requires_grad=True)
    mg.maximum(a, b).backward()
    assert (a.grad.item(), b.grad.item()) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("f", "at", "slope"),
    [
        (mg.abs, 0.0, 0.0),
        (mg.relu, 0.0, 0.0),
        (mg.sign, 0.0, 0.0),
        (lambda x: x**2, 0.0, 0.0),
        (lambda x: x**1, 0.0, 1.0),
        (lambda x: x**0, 0.0, 0.0),
        (lambda x: x ** mg.tensor(0.0), 0.0, 0.0),
        (lambda x: mg.tensor(0.0) ** x, 2.0, 0.0),
        (lambda x: 0.0**x, 2.0, 0.0),
        (lambda x: mg.clip(x, 0.0, 1.0), 0.0, 1.0),
        (lambda x: mg.clip(x, 0.0, 1.0), 1.0, 1.0),
        (lambda x: mg.clip(0.0 * x, x, 1.0), 3.0, 0.0),
        (lambda x: mg.clip(0.0 * x, 3.0, x), 1.0, 1.0),
        (lambda x: 1.0 % x, 0.1, -9.0),
        (lambda x: mg.prod(mg.stack([x, mg.tensor(3.0), mg.tensor(0.0)])), 0.0, 0.0),
        (lambda x: mg.prod(mg.stack([x, mg.tensor(3.0), mg.tensor(2.0)])), 0.0, 6.0),
    ],
)
def test_derivatives_at_corners(f, at, slope):
    x = mg.tensor(at, requires_grad=True)
    f(x).backward()
    assert x.grad.item() == slope


def test_mixed_second_derivative_of_pow_where_the_exponent_is_zero():
    x, y = (mg.tensor(v, dtype=mg.float64, requires_grad=True) for v in (2.0, 0.0))
    (x**y).backward(create_graph=True)
    take_grad(y)
    x.grad.backward()  # of y x^(y-1), whose derivative by y is 1/x here
    assert y.grad.item() == 0.5


@pytest.mark.parametrize("f", [mg.minimum, mg.maximum, mg.atan2, mg.pow, mg.hypot, mg.divide, mg.multiply])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.bool_])
def test_small_integers_beside_floats(f, dtype):
    a = np.array([1, 100, 3]).astype(dtype)
    for swap in (False, True):
        found = []
        for other in (a, a.astype(np.float64)):
            x = mg.tensor([2.5, 2.0, 1.5], dtype=mg.float64, requires_grad=True)
            f(x, other).sum().backward() if swap else f(other, x).sum().backward()
            found.append(x.grad.numpy())
        np.testing.assert_allclose(found[0], found[1], rtol=1e-3 if f is mg.pow else 1e-12)


def test_mean_of_many_halves():
    x = mg.ones(100_000, dtype=mg.float16, requires_grad=True)
    x.mean().backward()
    np.testing.assert_allclose(x.grad.numpy(), np.float16(1e-5))


def test_logsumexp_of_infinity_and_nan():
    for top in (np.inf, np.nan):
        x = mg.tensor([top, 1.0], dtype=mg.float64, requires_grad=True)
        with np.errstate(invalid="ignore"):
            mg.logsumexp(x).backward()
        assert np.isnan(x.grad.numpy()[0])


def test_prod_with_zeros_to_second_order():
    for values in ([0.0, 2.0, 3.0], [0.0, 0.0, 3.0], [0.0, 0.0, 0.0]):
        x = mg.tensor(values, dtype=mg.float64, requires_grad=True)
        assert mg.testing.gradcheck(mg.prod, x, order=3)


def test_lists_that_hold_themselves():
    endless: list[Any] = []
    endless.append(endless)
    deep: Any = 1.0
    for _ in range(100_000):
        deep = [deep]
    for data in (endless, deep, [endless, endless]):
        with pytest.raises(ValueError, match="tensor: setting an array element"):
            mg.tensor(data)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: mg.zeros(n),
        lambda n: mg.full((n, 2), 1.0),
        lambda n: mg.arange(n),
        lambda n: mg.eye(n),
        lambda n: mg.random.normal(n),
        lambda n: mg.random.permutation(n),
        lambda n: mg.repeat(mg.ones(3), n),
        lambda n: mg.tile(mg.ones(3), (n,)),
        lambda n: mg.pad(mg.ones(3), n),
        lambda n: mg.broadcast_to(mg.ones(1), (n,)) * 2,
        lambda n: mg.nn.Linear(n, n),
    ],
)
@pytest.mark.parametrize("size", [10**15, 2**62])
def test_sizes_that_no_memory_has(make, size):
    """An error at once; and all goes on."""
    with pytest.raises((MemoryError, ValueError, OverflowError)):
        make(size)
    assert mg.ones(3).sum().item() == 3
