"""Linear algebra: what the table of cases cannot say. Any shapes, corners, errors, and what is read."""

import inspect
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import array_api_strict as strict
import cases
import numpy as np
import pytest
from helpers import take_grad, torch_or_skip
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import linalg
from minigrad.testing import gradcheck


def leaf(array: Any) -> mg.Tensor:
    return mg.tensor(np.asarray(array, np.float64), requires_grad=True)


def value(x: Any) -> np.ndarray:
    return x.detach().numpy()


def gradient(function: Callable[..., Any], array: Any, seed: int = 0) -> np.ndarray:
    """The gradient of the function's result with random weights."""
    x = leaf(array)
    y = function(x)
    y.backward(mg.tensor(np.random.default_rng(seed).uniform(0.5, 1.5, y.shape)))
    return take_grad(x).numpy()


def second(function: Callable[..., Any], array: Any) -> np.ndarray:
    """The gradient of the sum of the gradient's elements with random weights."""
    x = leaf(array)
    function(x).sum().backward(create_graph=True)
    g = take_grad(x)
    if not g.requires_grad:
        return np.zeros(x.shape)
    (g * mg.tensor(np.random.default_rng(1).uniform(0.5, 1.5, g.shape))).sum().backward()
    return take_grad(x).numpy()


# --- the namespace -----------------------------------------------------------------------------------


def test_all_of_the_standard_is_there_with_its_keywords():
    for name in strict.linalg.__all__:
        if name in ("eig", "eigvals"):  # of a later edition, and complex
            continue
        theirs = inspect.signature(getattr(strict.linalg, name)).parameters.values()
        ours = inspect.signature(getattr(linalg, name)).parameters
        assert len(ours) == len(theirs)
        for p in theirs:
            if p.kind is p.KEYWORD_ONLY:
                assert ours[p.name].default == p.default, (name, p.name)


def test_results_have_names():
    x = mg.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=mg.float64)
    assert linalg.eigh(x)._fields == ("eigenvalues", "eigenvectors")
    assert linalg.qr(x)._fields == ("Q", "R")
    assert linalg.svd(x)._fields == ("U", "S", "Vh")
    assert linalg.slogdet(x)._fields == ("sign", "logabsdet")
    on_plain_arrays = linalg.eigh(x.numpy())
    assert type(on_plain_arrays.eigenvalues) is np.ndarray
    assert mg.linalg is mg.ops.linalg is linalg


# --- gradients at any shape --------------------------------------------------------------------------

batches = st.lists(st.integers(1, 2), max_size=2).map(tuple)
sizes = st.integers(1, 4)
seeds = st.integers(0, 2**31)


def spread(random: np.random.Generator, batch: tuple[int, ...], m: int, n: int) -> np.ndarray:
    """Matrices whose singular values are apart from each other and from 0."""
    k = min(m, n)
    u, v = (np.linalg.qr(random.normal(size=(*batch, size, k)))[0] for size in (m, n))
    s = 0.7 * np.arange(1, k + 1) + random.uniform(-0.2, 0.2, (*batch, k))
    return (u * random.permuted(s, axis=-1)[..., None, :]) @ v.mT


def inverse_and_power(x: Any) -> Any:
    return linalg.inv(x), linalg.matrix_power(x, -2), linalg.matrix_power(x, 3)


def determinants(x: Any) -> Any:
    return linalg.det(x), linalg.slogdet(x).logabsdet


def root(x: Any) -> Any:
    return linalg.cholesky(x @ x.mT)


def of_symmetric(x: Any) -> Any:
    return cases.eigh(mg, x @ x.mT), linalg.eigvalsh(x @ x.mT)


@pytest.mark.parametrize("function", [inverse_and_power, determinants, root, of_symmetric])
@settings(max_examples=12)
@given(batch=batches, n=sizes, seed=seeds)
def test_gradients_of_square_matrices(function, batch, n, seed):
    x = spread(np.random.default_rng(seed), batch, n, n)
    assert gradcheck(function, leaf(x), order=2, rtol=1e-4, atol=1e-4)


def norms(x: Any) -> Any:
    return tuple(linalg.matrix_norm(x, ord=ord) for ord in ("fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf))


def singular(x: Any) -> Any:
    return linalg.svdvals(x), cases.svd(mg, x, True), cases.svd(mg, x, False), linalg.pinv(x)


def triangular(x: Any) -> Any:
    return cases.qr(mg, x, "reduced"), cases.qr(mg, x, "complete")


@pytest.mark.parametrize("function", [norms, singular, triangular])
@settings(max_examples=12)
@given(batch=batches, m=sizes, n=sizes, seed=seeds)
def test_gradients_of_tall_and_wide_matrices(function, batch, m, n, seed):
    x = spread(np.random.default_rng(seed), batch, m, n)
    if function is triangular and np.linalg.cond(x[..., : min(m, n)]).max() > 20:
        return  # no derivative where they are linearly dependent
    assert gradcheck(function, leaf(x), order=2, rtol=1e-4, atol=1e-4)


@settings(max_examples=20)
@given(batch=batches, more=batches, n=sizes, columns=st.integers(0, 3), seed=seeds)
def test_gradients_of_solve(batch, more, n, columns, seed):
    """`batch` and `more` broadcast, since their sizes are 1 and 2; no columns stand for a vector."""
    random = np.random.default_rng(seed)
    a = spread(random, batch, n, n)
    b = random.normal(size=(*more, n, columns) if columns else n)
    x = linalg.solve(mg.tensor(a), mg.tensor(b))
    np.testing.assert_allclose(a @ value(x)[..., None] if not columns else a @ value(x), _full(b, a, columns))
    assert gradcheck(linalg.solve, leaf(a), leaf(b), order=2, rtol=1e-4, atol=1e-4)


def _full(b: np.ndarray, a: np.ndarray, columns: int) -> np.ndarray:
    b = b if columns else b[:, None]
    return np.broadcast_to(b, (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), *b.shape[-2:]))


@settings(max_examples=20)
@given(
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
    ord=st.sampled_from([1, 2, 3, 2.5, 0.5, -1, -2, math.inf, -math.inf]),
    seed=seeds,
)
def test_gradients_of_vector_norms(shape, ord, seed):
    random = np.random.default_rng(seed)
    size = math.prod(shape)
    far_from_ties = random.permutation(size) * 0.3 + random.uniform(0.3, 0.5, size)
    x = (far_from_ties * random.choice([-1, 1], size)).reshape(shape)
    axes = tuple(random.permutation(len(shape))[: random.integers(1, len(shape) + 1)].tolist())
    assert gradcheck(lambda x: linalg.vector_norm(x, axes, ord=ord), leaf(x), order=2, rtol=1e-4, atol=1e-4)


# --- the parts make up the whole ---------------------------------------------------------------------


@settings(max_examples=30)
@given(batch=batches, m=st.integers(0, 4), n=st.integers(0, 4), seed=seeds, data=st.data())
def test_the_parts_make_up_the_whole(batch, m, n, seed, data):
    random = np.random.default_rng(seed)
    x = random.normal(size=(*data.draw(st.sampled_from([batch, (0,), (2, 0)])), m, n))
    k = min(m, n)
    for full in (True, False):
        u, s, vh = (value(part) for part in linalg.svd(mg.tensor(x), full_matrices=full))
        np.testing.assert_allclose((u[..., :k] * s[..., None, :]) @ vh[..., :k, :], x, atol=1e-13)
        assert u.shape == (*x.shape[:-1], m if full else k)
        assert vh.shape == (*x.shape[:-2], n if full else k, n)
    for mode in ("reduced", "complete"):
        q, r = (value(part) for part in linalg.qr(mg.tensor(x), mode=mode))
        np.testing.assert_allclose(q @ r, x, atol=1e-13)
        np.testing.assert_allclose(
            q.mT @ q, np.broadcast_to(np.eye(q.shape[-1]), (q.mT @ q).shape), atol=1e-13
        )
        assert q.shape == (*x.shape[:-1], m if mode == "complete" else k)
    p = value(linalg.pinv(mg.tensor(x)))
    np.testing.assert_allclose(x @ p @ x, x, atol=1e-12)
    square = x @ x.mT + np.eye(m)
    w, v = (value(part) for part in linalg.eigh(mg.tensor(square)))
    np.testing.assert_allclose((v * w[..., None, :]) @ v.mT, square, atol=1e-13)
    lower, upper = (value(linalg.cholesky(mg.tensor(square), upper=upper)) for upper in (False, True))
    np.testing.assert_allclose(lower @ upper, square, atol=1e-13)
    np.testing.assert_array_equal(lower, np.tril(upper.mT))
    sign, log = (value(part) for part in linalg.slogdet(mg.tensor(square)))
    np.testing.assert_allclose(sign * np.exp(log), value(linalg.det(mg.tensor(square))), rtol=1e-12)


@pytest.mark.parametrize("shape", [(0, 0), (0, 2, 2), (2, 0, 0), (0, 0, 0)])
def test_empty_matrices(shape):
    x = np.zeros(shape)
    for function in (
        linalg.inv,
        linalg.det,
        linalg.eigvalsh,
        linalg.svdvals,
        linalg.pinv,
        linalg.cholesky,
        linalg.trace,
        linalg.diagonal,
        linalg.vector_norm,
        linalg.matrix_norm,
        lambda x: linalg.matrix_norm(x, ord="nuc"),
        lambda x: linalg.matrix_power(x, 3),
        lambda x: linalg.solve(x, x),
        lambda x: linalg.slogdet(x).logabsdet,
        lambda x: linalg.eigh(x).eigenvectors,
        lambda x: linalg.svd(x).U,
        lambda x: linalg.qr(x).Q,
    ):
        xs = leaf(x)
        function(xs).sum().backward(create_graph=True)
        assert take_grad(xs).shape == shape
        assert second(function, x).shape == shape
    assert (value(linalg.det(leaf(x))) == 1).all()
    assert linalg.matrix_power(leaf(x), 0).shape == shape
    assert linalg.matrix_rank(leaf(x)).shape == shape[:-2]
    assert linalg.solve(leaf(np.eye(2)), leaf(np.zeros((2, 0)))).shape == (2, 0)


def test_tall_and_wide_matrices_that_are_empty():
    for shape in ((0, 3), (3, 0), (2, 0, 3)):
        u, s, vh = linalg.svd(leaf(np.zeros(shape)))
        assert (u.shape[-1], s.shape[-1], vh.shape[-1]) == (shape[-2], 0, shape[-1])
        for function in (lambda x: linalg.svd(x).U, lambda x: linalg.qr(x, mode="complete").Q, linalg.pinv):
            assert gradient(function, np.zeros(shape)).shape == shape


# --- corners -----------------------------------------------------------------------------------------


def minors(x: np.ndarray) -> np.ndarray:
    """The gradient of the determinant by its definition: a smaller determinant for each element."""
    n = len(x)
    return np.array(
        [
            [(-1) ** (i + j) * np.linalg.det(np.delete(np.delete(x, i, 0), j, 1)) for j in range(n)]
            for i in range(n)
        ]
    )


SINGULAR = {
    "zero": np.zeros((3, 3)),
    "rank 1": np.ones((3, 3)),
    "rank 2": np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]),
    "a row of zeros": np.array([[0.0, 0, 0], [1, 2, 0], [3, 1, 2]]),
    "repeated": np.diag([2.0, 2, 0]),
    "not singular": np.eye(3),
    "of two": np.array([[1.0, 2], [2, 4]]),
    "of one": np.zeros((1, 1)),
    "of four": np.diag([1.0, 0, 0, 3]),
}


@pytest.mark.parametrize("x", SINGULAR.values(), ids=SINGULAR)
def test_determinants_of_singular_matrices(x):
    leaf_x = leaf(x)
    linalg.det(leaf_x).backward()
    np.testing.assert_allclose(take_grad(leaf_x).numpy(), minors(x), atol=1e-13)
    assert gradcheck(linalg.det, leaf_x, order=2)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_determinants_of_small_and_large_matrices(scale):
    x = np.random.default_rng(0).normal(size=(4, 4))
    for order, power in ((gradient, 3), (second, 2)):
        expected = order(linalg.det, x)
        np.testing.assert_allclose(
            order(linalg.det, x * scale) / scale**power, expected, atol=1e-13 * np.abs(expected).max()
        )


def test_third_derivatives_of_determinants():
    assert gradcheck(linalg.det, leaf(np.random.default_rng(0).normal(size=(3, 3))), order=3)
    x = leaf(np.ones((2, 2)))
    linalg.det(x).backward(create_graph=True)
    g = take_grad(x)
    (g * g).sum().backward(create_graph=True)
    with pytest.raises(np.linalg.LinAlgError, match="Singular"):
        (take_grad(x) ** 2).sum().backward()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("n", [4, 30])
def test_repeated_eigenvalues(scale, n):
    random = np.random.default_rng(0)
    q = np.linalg.qr(random.normal(size=(n, n)))[0]
    w = np.repeat([1.0, 3.0], [n - 1, 1]) * scale
    x = (q * w) @ q.T
    # What must not happen is a division by the rounding error of about 1e-16 that tells equal ones apart.
    for function, power in ((lambda x: linalg.eigh(x).eigenvectors, 1), (linalg.eigvalsh, 0)):
        assert np.abs(gradient(function, x)).max() < 1e2 / scale**power
        assert np.abs(second(function, x)).max() < 1e2 / scale ** (power + 1)
    # The derivative of the sum of f(w) is f'(x).
    for f, slope in ((lambda w: w, np.eye(n)), (lambda w: w**3, 3 * x @ x)):
        leaf_x = leaf(x)
        f(linalg.eigvalsh(leaf_x)).sum().backward()
        np.testing.assert_allclose(take_grad(leaf_x).numpy(), slope, atol=1e-14 * np.abs(slope).max())


def test_what_does_not_depend_on_the_basis_of_repeated_values():
    def projector(x):
        v = linalg.eigh(x + x.mT).eigenvectors[..., :2]
        return v @ v.mT

    assert gradcheck(projector, leaf(np.diag([1.0, 1, 3])), eps=1e-5)

    def polar(x):
        u, _, vh = linalg.svd(x, full_matrices=False)
        return u @ vh

    for x in (np.eye(3), np.diag([2.0, 2, 1]), np.eye(4, 2), np.eye(2, 3)):
        assert gradcheck(polar, leaf(x), eps=1e-5)
        assert gradcheck(lambda x: (linalg.svdvals(x) ** 3).sum(), leaf(x), eps=1e-5)
        for part in range(3):
            for order in (gradient, second):
                assert np.isfinite(order(lambda x, part=part: linalg.svd(x)[part], x)).all()


ZERO_NORMS: list[Callable[..., Any]] = [
    *(lambda x, p=p: linalg.vector_norm(x, ord=p) for p in (0, 1, 2, 3, 1.5, 0.5, math.inf, -math.inf)),
    *(lambda x, p=p: linalg.matrix_norm(x, ord=p) for p in ("fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf)),
    linalg.norm,
    linalg.svdvals,
]


@pytest.mark.parametrize("norm", ZERO_NORMS)
def test_norms_of_zero(norm):
    zeros = np.zeros((2, 3))
    assert (value(norm(leaf(zeros))) == 0).all()
    np.testing.assert_array_equal(gradient(norm, zeros), zeros)
    np.testing.assert_array_equal(second(norm, zeros), zeros)


@pytest.mark.parametrize("ord", [1, 2, 3, 1.5, 0.5, math.inf])
def test_norms_of_vectors_with_a_zero(ord):
    x = np.array([[0.0, 2.0, -1.0], [0.0, 0.0, 0.0]])
    ours = gradient(lambda x: linalg.vector_norm(x, axis=1, ord=ord), x)
    assert (ours[:, 0] == 0).all()
    assert (ours[1] == 0).all()
    ratio = np.abs(x[0, 1:]) / np.linalg.norm(x[0, 1:], ord)
    slope = np.sign(x[0, 1:]) * (ratio ** (ord - 1) if ord < math.inf else ratio == 1)
    weight = np.random.default_rng(0).uniform(0.5, 1.5, 2)[0]
    np.testing.assert_allclose(ours[0, 1:], slope * weight, rtol=1e-12)
    assert np.isfinite(second(lambda x: linalg.vector_norm(x, axis=1, ord=ord), x)).all()


def test_the_length_of_a_vector_with_a_zero_has_its_second_derivative():
    assert gradcheck(linalg.vector_norm, leaf([0.0, 2.0, -1.0]), order=2)


def test_a_negative_norm_of_a_zero():
    x = leaf([0.0, 2.0])
    with np.errstate(divide="ignore"):
        y = linalg.vector_norm(x, ord=-1)
    y.backward()
    assert y.item() == 0
    assert take_grad(x).tolist() == [0, 0]


def test_singular_matrices_have_a_pseudo_inverse_and_a_rank():
    x = np.array([[1.0, 2.0], [2.0, 4.0]])
    np.testing.assert_allclose(value(linalg.pinv(leaf(x))), x / 25, rtol=1e-13)
    assert linalg.matrix_rank(leaf(x)).item() == 1
    stack = np.stack([x, np.eye(2), np.diag([1, 0.01]), np.zeros((2, 2))])
    assert linalg.matrix_rank(leaf(stack)).tolist() == [1, 2, 2, 0]
    assert linalg.matrix_rank(leaf(stack), rtol=0.1).tolist() == [1, 2, 1, 0]
    rtol = np.array([0.1, 0.1, 0.001, 0.1])
    assert linalg.matrix_rank(leaf(stack), rtol=mg.tensor(rtol)).tolist() == [1, 2, 2, 0]
    np.testing.assert_allclose(
        value(linalg.pinv(leaf(stack), rtol=rtol)),
        [x / 25, np.eye(2), np.diag([1, 100]), np.zeros((2, 2))],
        rtol=1e-13,
    )
    assert np.isfinite(gradient(linalg.pinv, stack)).all()

    def of_rank_one(u, v):  # the rank stays as it is, whatever u and v
        return linalg.pinv(mg.outer(u, v))

    assert gradcheck(of_rank_one, leaf([1.0, 2.0, -1.0]), leaf([0.5, 1.5]), order=2)


def test_matrix_power_of_zero_and_one():
    x = leaf(np.random.default_rng(0).normal(size=(2, 3, 3)))
    np.testing.assert_array_equal(linalg.matrix_power(x, 0).numpy(), np.broadcast_to(np.eye(3), (2, 3, 3)))
    once = linalg.matrix_power(x, 1)
    assert once is not x
    np.testing.assert_array_equal(value(once), value(x))
    with pytest.raises(TypeError):
        linalg.matrix_power(x, 0.5)


# --- symmetric matrices --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cholesky", "cholesky upper", "eigvalsh", "eigenvalues", "eigenvectors"])
def test_symmetric_matrices_have_symmetric_gradients(name):
    """Those of torch. One triangle is read, and each element of it counts for its mirror image, too."""
    torch: Any = torch_or_skip()
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 3, 3))
    x = x @ x.mT + np.eye(3)

    def compute(xp: Any, x: Any) -> Any:
        if name.startswith("cholesky"):
            return xp.linalg.cholesky(x, upper="upper" in name)
        if name == "eigvalsh":
            return xp.linalg.eigvalsh(x)
        w, v = xp.linalg.eigh(x)
        return w if name == "eigenvalues" else v * xp.sign(v[..., :1, :])

    ours = gradient(lambda x: compute(mg, x), x)
    t = torch.tensor(x, requires_grad=True)
    y = compute(torch, t)
    y.backward(torch.from_numpy(np.random.default_rng(0).uniform(0.5, 1.5, tuple(y.shape))))
    np.testing.assert_allclose(ours, ours.mT, atol=1e-15)
    np.testing.assert_allclose(ours, t.grad.numpy(), rtol=1e-11, atol=1e-12)
    above = np.triu(np.full((3, 3), math.nan), 1)
    np.testing.assert_array_equal(value(compute(mg, leaf(x + above))), value(compute(mg, leaf(x))))


# --- against torch, to second order --------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda xp, x: xp.linalg.inv(x),
        lambda xp, x: xp.linalg.det(x),
        lambda xp, x: xp.linalg.slogdet(x)[1],
        lambda xp, x: xp.linalg.svdvals(x),
        lambda xp, x: xp.linalg.pinv(x),
        lambda xp, x: xp.linalg.cholesky(x @ x.mT),
        lambda xp, x: xp.linalg.eigvalsh(x @ x.mT),
        lambda xp, x: xp.linalg.solve(x, x.mT),
        lambda xp, x: xp.linalg.matrix_power(x, -3),
        lambda xp, x: cases.eigh(xp, x),
        lambda xp, x: cases.svd(xp, x, False),
        lambda xp, x: cases.qr(xp, x, "reduced"),
    ],
)
@pytest.mark.parametrize("shape", [(3, 3), (2, 4, 4)])
def test_second_gradients_against_torch(function, shape):
    torch: Any = torch_or_skip()
    random = np.random.default_rng(0)
    x = spread(random, shape[:-2], *shape[-2:])
    t = torch.tensor(x, requires_grad=True)
    y = function(torch, t)
    (g,) = torch.autograd.grad(y.sum(), t, create_graph=True)
    weights = np.random.default_rng(1).uniform(0.5, 1.5, shape)
    (h,) = torch.autograd.grad((g * torch.from_numpy(weights)).sum(), t)
    h = h.numpy()
    np.testing.assert_allclose(
        second(lambda x: function(mg, x), x), h, rtol=1e-8, atol=1e-9 * np.abs(h).max()
    )


# --- errors --------------------------------------------------------------------------------------------

SQUARE = ["cholesky", "det", "eigh", "eigvalsh", "inv", "slogdet"]
ANY = ["pinv", "qr", "svd", "svdvals", "matrix_rank"]


@pytest.mark.parametrize("name", SQUARE + ANY)
def test_what_is_refused(name):
    function = getattr(linalg, name)
    for shape in [(3,), (), *([(2, 3), (2, 3, 2)] if name in SQUARE else [])]:
        message = rf"{name}: needs .*matrices, got shape {re.escape(str(shape))}"
        with pytest.raises(np.linalg.LinAlgError, match=message):
            function(mg.ones(shape))
    for dtype in (mg.float16, mg.int64, mg.bool):
        message = rf"{name}: .*float32 and float64, got {np.dtype(dtype)}; .*astype"
        with pytest.raises(TypeError, match=message):
            function(mg.ones((2, 2), dtype=dtype))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: linalg.inv(mg.ones((2, 2))), np.linalg.LinAlgError, r"inv: got \(2, 2\) float32: Singular"),
        (lambda: linalg.cholesky(-mg.eye(2)), np.linalg.LinAlgError, "cholesky: .*not positive definite"),
        (lambda: linalg.solve(mg.ones((2, 2)), mg.ones(2)), np.linalg.LinAlgError, "solve: .*Singular"),
        (
            lambda: linalg.solve(mg.eye(2), mg.ones(3)),
            np.linalg.LinAlgError,
            r"solve: b must have as many rows as a, got shapes \(2, 2\) and \(3,\)",
        ),
        (lambda: linalg.solve(mg.eye(2), mg.ones(())), np.linalg.LinAlgError, r"got shape \(\)"),
        (lambda: linalg.solve(mg.ones((2, 3)), mg.ones(3)), np.linalg.LinAlgError, "solve: needs square"),
        (
            lambda: linalg.solve(mg.ones((3, 2, 2)), mg.ones((2, 2, 1))),
            ValueError,
            "the axes before the last two must broadcast",
        ),
        (lambda: linalg.matrix_power(mg.ones((2, 2)), -1), np.linalg.LinAlgError, "Singular"),
        (
            lambda: linalg.matrix_power(mg.ones((2, 3)), 2),
            np.linalg.LinAlgError,
            "matrix_power: needs square",
        ),
        (lambda: linalg.qr(mg.eye(2), mode="r"), ValueError, "'reduced' or 'complete', got 'r'"),
        (lambda: linalg.vector_norm(mg.ones(2, dtype=mg.int64)), TypeError, "vector_norm: .*floating"),
        (lambda: linalg.vector_norm(mg.ones(2), ord="fro"), ValueError, "ord must be a number, got 'fro'"),
        (lambda: linalg.vector_norm(mg.ones(2), 2), IndexError, "vector_norm: there is no axis 2"),
        (lambda: linalg.matrix_norm(mg.ones(2)), ValueError, r"needs matrices, got shape \(2,\)"),
        (lambda: linalg.matrix_norm(mg.ones((2, 2)), ord=3), ValueError, "matrix_norm: ord must be"),
        (lambda: linalg.norm(mg.ones((2, 2, 2)), 2), ValueError, "norm: .*needs an axis"),
        (lambda: linalg.norm(mg.ones((2, 2, 2)), 2, (0, 1, 2)), ValueError, "an integer or a pair"),
        (lambda: linalg.norm(mg.ones(2), axis=1), IndexError, "norm: there is no axis 1"),
        (lambda: mg.cross(mg.ones(2), mg.ones(2)), ValueError, "cross: needs vectors of 3 components"),
        (
            lambda: mg.vecdot(mg.ones(2), mg.ones(1)),
            ValueError,
            r"vecdot: .*of one length .*\(2,\) and \(1,\)",
        ),
        (lambda: mg.vecdot(mg.ones(2), mg.ones(())), IndexError, "vecdot: there is no axis"),
        (lambda: mg.diagonal(mg.ones(2)), IndexError, "diagonal: there is no axis 1"),
        (lambda: mg.diagonal(mg.ones((2, 2)), axis1=1, axis2=-1), ValueError, "are one axis"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
    assert issubclass(np.linalg.LinAlgError, ValueError)


def test_errors_in_gradients_name_the_op():
    x = leaf(np.ones((2, 2)))
    sign, log = linalg.slogdet(x)
    assert (sign.item(), log.item()) == (0, -math.inf)
    with pytest.raises(np.linalg.LinAlgError, match="Singular") as caught:
        log.backward()
    assert "in the gradient of 'slogdet'" in caught.value.__notes__[0]


def test_devices_do_not_mix():
    here, there = mg.eye(2), mg.tensor(np.ones((2, 1), np.float32), device="strict")
    with pytest.raises(ValueError, match=r"'numpy'.*'strict'"):
        linalg.solve(here, there)


# --- products ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", range(-4, 5))
@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (3, 3), (0, 3), (3, 0), (2, 1, 3)])
def test_diagonals(shape, offset):
    x = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_array_equal(value(mg.diagonal(leaf(x), offset)), np.diagonal(x, offset))
    np.testing.assert_allclose(value(mg.trace(leaf(x), offset)), np.trace(x, offset), rtol=1e-15)
    np.testing.assert_array_equal(value(linalg.diagonal(leaf(x), offset)), np.diagonal(x, offset, -2, -1))
    for axis1, axis2 in itertools.permutations(range(-len(shape), 0), 2):
        np.testing.assert_array_equal(
            value(mg.diagonal(leaf(x), offset, axis1, axis2)), np.diagonal(x, offset, axis1, axis2)
        )


def test_integers_are_multiplied_and_summed_as_in_numpy():
    x, y = np.arange(3, dtype=np.int8), np.arange(1, 4, dtype=np.int8)
    for name in ("vecdot", "cross", "kron", "outer"):
        result = getattr(mg, name)(mg.tensor(x), mg.tensor(y)).numpy()
        expected = getattr(np, name)(x, y)
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result, expected)
    square = np.arange(9, dtype=np.int8).reshape(3, 3)
    assert mg.trace(mg.tensor(square)).dtype == np.trace(square).dtype == np.int64
    assert linalg.trace(mg.tensor(square), dtype=mg.float32).dtype == np.float32


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("", [()]),
        (",", [(), ()]),
        ("ba", [(2, 3)]),
        ("...", [(2, 3)]),
        ("I J , J K -> K I", [(2, 3), (3, 4)]),
        ("ii...->i...", [(2, 2, 3)]),
        ("...ii->...i", [(3, 2, 2)]),
        ("i...,j...->ij...", [(2, 3), (4, 3)]),
        ("ij...,jk...->ik...", [(2, 3, 2), (3, 4, 1)]),
        ("...i,...i->...", [(2, 1, 3), (4, 3)]),
        ("ij,j->ij", [(2, 1), (3,)]),
        ("ij,ij,ij->ij", [(2, 3)] * 3),
        ("ijk,ilm,njm,nlk,abc->", [(2, 3, 2), (2, 1, 3), (2, 3, 3), (2, 1, 2), (1, 2, 2)]),
        ("ii,ii->i", [(3, 3), (3, 3)]),
        ("ii,jj->", [(2, 2), (3, 3)]),
        ("ij,kl->", [(2, 3), (2, 2)]),
        ("zA->Az", [(2, 3)]),
        ("ab...,b->a...", [(2, 3), (3,)]),
        ("i->...i", [(3,)]),
    ],
)
def test_einsum_takes_what_numpy_takes(subscripts, shapes):
    random = np.random.default_rng(0)
    arrays = [random.normal(size=shape) for shape in shapes]
    ours = value(mg.einsum(subscripts, *map(leaf, arrays)))
    np.testing.assert_allclose(ours, np.einsum(subscripts, *arrays), rtol=1e-12)
    assert gradcheck(lambda *xs: mg.einsum(subscripts, *xs), *map(leaf, arrays), order=2)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.bool_, np.float16])
def test_a_trace_has_the_dtype_that_was_asked_for(dtype):
    x = np.array([[100.0, 1.0], [2.0, 27.0]])
    for trace, expected in ((mg.trace, np.trace), (mg.linalg.trace, np.linalg.trace)):
        result = trace(mg.tensor(x), dtype=dtype)
        assert result.dtype == dtype
        assert result.item() == expected(x, dtype=dtype)
