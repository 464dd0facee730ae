"""Pooling: against torch, compiled and by array code, its corners and its layers."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from helpers import needs_compiler, take_grad, torch_or_skip

import minigrad as mg
from minigrad import nn
from minigrad.kernels import plan
from minigrad.nn import functional as F  # noqa: N812
from minigrad.ops import pooling_kernels
from minigrad.testing import gradcheck

BOTH = [pytest.param(True, marks=needs_compiler, id="kernels"), pytest.param(False, id="plain")]


@pytest.fixture(params=BOTH)
def kernels(request, monkeypatch):
    """Runs a test twice: with kernels, and with array code alone."""
    monkeypatch.setattr(plan, "enabled", request.param)
    return request.param


def drawn(*shape: int, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def check(name: str, x: np.ndarray, *arguments: Any, **settings: Any) -> None:
    """Values and gradients are those of torch: of the maximum exactly, unless gradients are added up."""
    a, b = mg.tensor(x, requires_grad=True), torch_or_skip().from_numpy(x.copy()).requires_grad_()
    ours = getattr(mg, name)(a, *arguments, **settings)
    theirs = getattr(torch_or_skip().nn.functional, name)(b, *arguments, **settings)
    assert ours.shape == tuple(theirs.shape)
    assert ours.dtype == x.dtype
    g = np.random.default_rng(1).normal(size=ours.shape).astype(x.dtype)
    ours.backward(mg.tensor(g))
    theirs.backward(torch_or_skip().from_numpy(g))
    limit = 1e-5 if x.dtype == np.float32 else 1e-10
    np.testing.assert_allclose(
        ours.detach().numpy(), theirs.detach().numpy(), rtol=0 if name == "max_pool2d" else limit, atol=limit
    )
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=limit, atol=limit)


# Sizes of images and settings: rows that vectors do not fill, overlap, gaps, padding, one-wide images.
SHAPES: list[Any] = [
    ((3, 2, 8, 28), (2,), {}),
    ((2, 3, 7, 9), (3, 2, 1), {}),
    ((2, 3, 6, 40), ((2, 3), (3, 1)), {}),
    ((1, 2, 5, 1), ((3, 1), (1, 2), (1, 0)), {}),
    ((2, 9, 10), (3, 2), {"ceil_mode": True}),
    ((2, 2, 9, 10), (4, 3, 2), {"ceil_mode": True}),
    ((2, 2, 2, 1), ((3, 2), (2, 3)), {"ceil_mode": True}),  # windows larger than the image
    ((5, 4, 7, 7), (7,), {}),
    ((2, 1, 20, 33), (2, 5), {}),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "arguments", "settings"), SHAPES)
def test_against_torch(shape, arguments, settings, dtype, kernels):
    x = drawn(*shape, dtype=dtype)
    check("max_pool2d", x, *arguments, **settings)
    check("avg_pool2d", x, *arguments, **settings)
    check("avg_pool2d", x, *arguments, **settings, count_include_pad=False)


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((2, 3, 9, 12), {"kernel_size": 2, "dilation": 2}),
        ((2, 3, 9, 12), {"kernel_size": (2, 3), "stride": (1, 2), "dilation": (3, 2), "padding": 1}),
        ((2, 3, 20, 20), {"kernel_size": 17, "stride": 1}),  # more taps than a byte can count
    ],
)
def test_dilated_and_large_windows(shape, settings, kernels):
    check("max_pool2d", drawn(*shape), **settings)


def test_array_code_on_a_grid(monkeypatch):
    monkeypatch.setattr(plan, "enabled", False)
    x = drawn(2, 2, 5, 7)
    for kernel, stride, padding, ceil in product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (False, True)):
        if 2 * padding <= kernel:
            check("max_pool2d", x, kernel, stride, padding, ceil_mode=ceil)
            for counted in (False, True):
                check("avg_pool2d", x, kernel, stride, padding, ceil_mode=ceil, count_include_pad=counted)


def test_divisor_override(kernels):
    check("avg_pool2d", drawn(2, 2, 5, 6), 2, divisor_override=3)
    check("avg_pool2d", drawn(2, 2, 5, 6), 2, 1, 1, divisor_override=-5)


def test_indices(kernels):
    x = drawn(2, 3, 7, 8)
    arguments: Any
    for arguments in ((2,), (3, 2, 1), (2, 1, 1, 2), (3, 3, 0, 1, True)):
        ours = mg.max_pool2d(mg.tensor(x), *arguments, return_indices=True)
        settings = dict(zip(("stride", "padding", "dilation", "ceil_mode"), arguments[1:], strict=False))
        theirs = torch_or_skip().nn.functional.max_pool2d(
            torch_or_skip().from_numpy(x), arguments[0], **settings, return_indices=True
        )
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
        assert ours[1].dtype == np.int64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_infinities_and_nan(dtype, kernels):
    """The first of equal elements gets the gradient, NaN wins, and -inf is found where there is no other."""
    x = np.zeros((1, 1, 4, 6), dtype)
    check("max_pool2d", x, 2)
    check("max_pool2d", x, 3, 1, 1)
    x[0, 0] = np.random.default_rng(0).integers(0, 2, (4, 6))
    check("max_pool2d", x, 3, 1, 1)
    x[0, 0, 1, 1] = x[0, 0, 2, 4] = x[0, 0, 2, 5] = np.nan
    check("max_pool2d", x, 2)
    check("max_pool2d", x, 3, 1, 1)
    check("max_pool2d", np.full((1, 1, 4, 6), -np.inf, dtype), 3, 2, 1)
    check("max_pool2d", np.full((1, 1, 4, 6), np.inf, dtype), 3, 2, 1)


@pytest.mark.parametrize(
    ("size", "output"), [((6, 8), (3, 2)), ((7, 5), (3, 4)), ((2, 3), (5, 7)), ((4, 4), 1)]
)
def test_adaptive_against_torch(size, output, kernels):
    for dtype in (np.float32, np.float64):
        check("adaptive_avg_pool2d", drawn(2, 3, *size, dtype=dtype), output)
    check("adaptive_avg_pool2d", drawn(3, *size), (None, 2))


def test_higher_orders(kernels):
    x = mg.tensor(drawn(1, 2, 5, 6), requires_grad=True)
    for function in (
        lambda x: mg.max_pool2d(x, 3, 2, 1) ** 2,
        lambda x: mg.avg_pool2d(x, 3, 2, 1, count_include_pad=False) ** 2,
        lambda x: mg.adaptive_avg_pool2d(x, (2, 4)) ** 2,
    ):
        assert gradcheck(function, x, order=2)
    assert gradcheck(
        lambda x: mg.max_pool2d(x, 2) ** 3, mg.tensor(drawn(1, 2, 2), requires_grad=True), order=3
    )


def test_second_order_against_torch(kernels):
    """Gradients of gradients of the maximum, whose places are kept."""
    x = drawn(2, 2, 6, 6)
    a, b = mg.tensor(x, requires_grad=True), torch_or_skip().from_numpy(x.copy()).requires_grad_()
    (mg.max_pool2d(a, 3, 2) ** 3).sum().backward(create_graph=True)
    first = take_grad(a)
    (first * first).sum().backward()
    (its,) = torch_or_skip().autograd.grad(
        (torch_or_skip().nn.functional.max_pool2d(b, 3, 2) ** 3).sum(), b, create_graph=True
    )
    (its * its).sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-12, atol=1e-12)


def test_places_are_kept_in_bytes():
    x = mg.tensor(drawn(2, 2, 6, 6), requires_grad=True)
    saved = mg.max_pool2d(x, 2).node.saved
    places = next(v for v in saved if isinstance(v, np.ndarray))
    assert (places.dtype, places.shape) == (np.uint8, (2, 2, 3, 3))
    assert sum(isinstance(v, np.ndarray) for v in saved) == 1


def test_empty_batches_vmap_and_float16(kernels):
    for function in (
        lambda x: mg.max_pool2d(x, 2),
        lambda x: mg.avg_pool2d(x, 2),
        lambda x: mg.adaptive_avg_pool2d(x, (2, 3)),
    ):
        x = mg.zeros((0, 3, 4, 6), requires_grad=True)
        out = function(x)
        assert out.shape == (0, 3, 2, 3)
        out.sum().backward()
        assert x.grad.shape == x.shape
        y = mg.tensor(drawn(4, 3, 4, 6))
        np.testing.assert_allclose(mg.vmap(function)(y).numpy(), function(y).numpy(), rtol=1e-14)
        gradient = mg.vmap(mg.grad(lambda x, f=function: (f(x) ** 2).sum()))(y)
        np.testing.assert_allclose(
            gradient.numpy(), mg.grad(lambda x, f=function: (f(x) ** 2).sum())(y).numpy(), rtol=1e-12
        )
        assert function(mg.ones((1, 4, 6), dtype=mg.float16)).dtype == np.float16


@needs_compiler
def test_a_wrong_kernel_is_noticed(monkeypatch):
    """What the tests above compare is what was compiled: a mistake planted in it makes them fail."""
    wrong = pooling_kernels._LARGEST.replace("value > best", "value < best")
    assert wrong != pooling_kernels._LARGEST
    monkeypatch.setattr(pooling_kernels, "_LARGEST", wrong)
    pooling_kernels._largest.cache_clear()
    try:
        with pytest.raises(AssertionError):
            check("max_pool2d", drawn(2, 3, 5, 5), 2)
    finally:
        pooling_kernels._largest.cache_clear()


# --- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "arguments", "settings", "message"),
    [
        ("max_pool2d", (2, 2), (2,), {}, r"expected images of shape .* got \(2, 2\)"),
        ("max_pool2d", (1, 2, 0), (2,), {}, "expected images"),
        ("max_pool2d", (1, 4, 4), (0,), {}, "kernel_size must be an integer of at least 1"),
        ("max_pool2d", (1, 4, 4), (2, 0), {}, "stride must be"),
        ("max_pool2d", (1, 4, 4), (2, 2, 2), {}, "padding must be at most half of kernel_size"),
        ("max_pool2d", (1, 4, 4), (5,), {}, r"windows of \(5, 5\) are larger than the padded images"),
        ("max_pool2d", (1, 4, 4), ((1, 2, 3),), {}, "kernel_size must be .* or a pair"),
        ("avg_pool2d", (1, 4, 4), (2,), {"divisor_override": 0}, "divisor_override must not be 0"),
        ("avg_pool2d", (1, 4, 4), (2, 2, -1), {}, "padding must be an integer of at least 0"),
        ("adaptive_avg_pool2d", (1, 4, 4), (-1,), {}, "output_size must be"),
        ("adaptive_avg_pool2d", (1, 4, 4), ((1, 2, 3),), {}, "output_size must be"),
        ("adaptive_avg_pool2d", (4, 4), (1,), {}, "expected images"),
    ],
)
def test_errors(name, shape, arguments, settings, message):
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        getattr(mg, name)(mg.ones(shape), *arguments, **settings)


def test_errors_of_types():
    x = mg.ones((1, 4, 4))
    with pytest.raises(TypeError, match="max_pool2d: kernel_size must be an integer, got float"):
        mg.max_pool2d(x, 2.0)
    with pytest.raises(TypeError, match="avg_pool2d: divisor_override must be an integer"):
        mg.avg_pool2d(x, 2, divisor_override=1.5)
    with pytest.raises(TypeError, match="adaptive_avg_pool2d: input must hold floating-point numbers"):
        mg.adaptive_avg_pool2d(mg.ones((1, 4, 4), dtype=mg.int32), 2)


# --- layers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "settings"),
    [
        ("MaxPool2d", (2,), {}),
        ("MaxPool2d", ((3, 2), (2, 1)), {"padding": 1, "ceil_mode": True}),
        ("MaxPool2d", (2,), {"stride": 1, "dilation": 2}),
        ("AvgPool2d", (2,), {}),
        ("AvgPool2d", (3, 2, 1), {"ceil_mode": True, "count_include_pad": False}),
        ("AvgPool2d", (3,), {"divisor_override": 4}),
        ("AdaptiveAvgPool2d", (1,), {}),
        ("AdaptiveAvgPool2d", ((3, None),), {}),
    ],
)
def test_layers_against_torch(name, arguments, settings):
    ours, theirs = (
        getattr(nn, name)(*arguments, **settings),
        getattr(torch_or_skip().nn, name)(*arguments, **settings),
    )
    x = drawn(2, 3, 6, 7)
    np.testing.assert_allclose(
        ours(mg.tensor(x)).numpy(), theirs(torch_or_skip().from_numpy(x)).numpy(), rtol=1e-12
    )
    assert repr(ours) == repr(theirs)


def test_layer_that_returns_indices():
    out, indices = nn.MaxPool2d(2, return_indices=True)(mg.reshape(mg.arange(16.0), (1, 4, 4)))
    assert out.tolist() == [[[5.0, 7.0], [13.0, 15.0]]]
    assert indices.tolist() == [[[5, 7], [13, 15]]]


def test_functions_are_those_of_functional():
    assert (F.max_pool2d, F.avg_pool2d) == (mg.max_pool2d, mg.avg_pool2d)
    assert F.adaptive_avg_pool2d is mg.adaptive_avg_pool2d
