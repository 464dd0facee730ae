"""Convolution: against torch and windows of NumPy, compiled and by array code, and its layers."""

import math
from itertools import product
from typing import Any

import cases
import numpy as np
import pytest
from helpers import needs_compiler, torch_or_skip

import minigrad as mg
from minigrad import nn
from minigrad.kernels import plan, threads
from minigrad.nn import functional as F  # noqa: N812
from minigrad.ops import convolution_kernels
from minigrad.testing import gradcheck


@pytest.fixture(
    params=[pytest.param(True, marks=needs_compiler, id="kernels"), pytest.param(False, id="plain")]
)
def kernels(request, monkeypatch):
    """Runs a test twice: with kernels, and with array code alone."""
    monkeypatch.setattr(plan, "enabled", request.param)
    return request.param


def drawn(*shapes: tuple[int, ...], dtype: Any = np.float64, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=shape).astype(dtype) for shape in shapes]


def all_of(function: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The value of a function of tensors, and its gradients by all of them."""
    xs = [mg.tensor(a, requires_grad=True) for a in arrays]
    out = function(*xs)
    g = np.random.default_rng(9).normal(size=out.shape).astype(arrays[0].dtype)
    out.backward(mg.tensor(g))
    return [out.detach().numpy(), *(x.grad.numpy() for x in xs)]


def all_of_torch(function: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    xs = [torch_or_skip().from_numpy(a.copy()).requires_grad_() for a in arrays]
    out = function(*xs)
    g = np.random.default_rng(9).normal(size=out.shape).astype(arrays[0].dtype)
    out.backward(torch_or_skip().from_numpy(g))
    return [out.detach().numpy(), *(x.grad.numpy() for x in xs)]


def close(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        limit = (1e-5 if a.dtype == np.float32 else 1e-10) * max(1.0, float(np.abs(b).max(initial=0.0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=limit)


# --- conv2d ------------------------------------------------------------------------------------------

# Sizes and settings such that every way through the kernels is gone: several phases and none, taps that
# meet padding alone, padding wider than the kernel, tiles that are not full, groups, images cut into strips.
SHAPES: list[Any] = [
    ((3, 4, 9, 8), (6, 4, 3, 3), {}),
    ((2, 1, 7, 7), (10, 1, 3, 3), {"padding": 1}),
    ((5, 3, 8, 11), (9, 3, 5, 2), {"stride": 2, "padding": (2, 1)}),
    ((1, 4, 10, 9), (5, 4, 2, 3), {"stride": (3, 2), "dilation": (1, 2), "padding": (0, 3)}),
    ((2, 6, 6, 7), (9, 2, 3, 3), {"groups": 3, "padding": "same"}),
    ((3, 5, 6, 5), (5, 1, 3, 3), {"groups": 5, "stride": (1, 2), "padding": 2}),
    ((4, 3, 5, 1), (2, 3, 2, 1), {"padding": (1, 4)}),
    ((9, 8, 4, 4), (17, 8, 1, 1), {"stride": 3}),
    ((2, 2, 3, 3), (3, 2, 3, 3), {"dilation": 3, "padding": 4}),
    ((1, 40, 70, 61), (3, 40, 3, 3), {"padding": 1}),
    ((2, 30, 40, 90), (2, 30, 4, 3), {"stride": 2, "padding": "valid"}),
    ((3, 2, 4, 5), (4, 2, 2, 3), {"padding": "same", "dilation": (2, 3)}),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("x", "weight", "settings"), SHAPES)
def test_conv2d_against_torch(x, weight, settings, dtype, kernels):
    arrays = drawn(x, weight, (weight[0],), dtype=dtype)
    close(
        all_of(lambda *xs: mg.conv2d(*xs, **settings), arrays),
        all_of_torch(lambda *xs: torch_or_skip().nn.functional.conv2d(*xs, **settings), arrays),
    )


def test_conv2d_without_kernels_on_a_grid():
    """Small sizes of every combination, against windows of NumPy."""
    for stride, padding, dilation, kernel, size in product(
        (1, 2, 3), (0, 1, 3), (1, 2), (1, 2, 3), (1, 4, 5)
    ):
        if size + 2 * padding < (kernel - 1) * dilation + 1:
            continue
        x, w = drawn((2, 4, size, 5), (6, 2, kernel, 1))
        settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": 2}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan, "enabled", False)
            out = mg.conv2d(mg.tensor(x), mg.tensor(w), **settings)
        np.testing.assert_allclose(out.numpy(), cases.conv2d(x, w, **settings), rtol=1e-12, atol=1e-12)


@needs_compiler
@pytest.mark.parametrize("seed", range(4))
def test_kernels_against_array_code_at_drawn_settings(seed, monkeypatch):
    """`MINIGRAD_EXAMPLES` does not apply: each takes a compiler a second."""
    random = np.random.default_rng(seed)

    def pick(low: int, high: int) -> int:
        return int(random.integers(low, high + 1))

    groups, kernel, dilation = pick(1, 2), (pick(1, 4), pick(1, 4)), (pick(1, 2), pick(1, 3))
    channels, outs, images = groups * pick(1, 5), groups * pick(1, 12), pick(1, 9)
    size = [(k - 1) * d + pick(1, 9) for k, d in zip(kernel, dilation, strict=True)]
    settings = {"stride": (pick(1, 3), pick(1, 3)), "padding": (pick(0, 3), pick(0, 3))}
    settings |= {"dilation": dilation, "groups": groups}
    arrays = drawn((images, channels, *size), (outs, channels // groups, *kernel), (outs,), seed=seed)

    def run() -> list[np.ndarray]:
        return all_of(lambda *xs: mg.conv2d(*xs, **settings), arrays)

    compiled = run()
    monkeypatch.setattr(plan, "enabled", False)
    close(compiled, run())


def test_second_order(kernels):
    x, w, b = (mg.tensor(a, requires_grad=True) for a in drawn((2, 2, 4, 5), (4, 1, 2, 3), (4,)))
    settings = {"stride": (2, 1), "padding": 1, "dilation": (1, 2), "groups": 2}
    assert gradcheck(lambda *xs: mg.conv2d(*xs, **settings), x, w, b, order=2)
    x, w = (mg.tensor(a, requires_grad=True) for a in drawn((2, 4, 2, 2), (4, 1, 3, 2)))
    settings = {"stride": (2, 1), "padding": 1, "output_padding": (1, 0), "groups": 2}
    assert gradcheck(lambda *xs: mg.conv_transpose2d(*xs, **settings), x, w, order=2)


def test_third_order(kernels):
    """The three maps are each other's gradients: so there is a third order, too."""
    x, w = (mg.tensor(a, requires_grad=True) for a in drawn((1, 1, 3, 3), (1, 1, 2, 2)))

    def cubed(x, w):
        return mg.conv2d(x, w, padding=1) ** 3

    assert gradcheck(cubed, x, w, order=3)


@needs_compiler
def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    found = []
    for count in (1, 2, 5):
        for kernel in (convolution_kernels._convolve, convolution_kernels._weight_gradient):
            kernel.cache_clear()  # a kernel asks once how many threads there are
        monkeypatch.setattr(threads, "count", lambda count=count: count)
        arrays = drawn((13, 8, 20, 20), (16, 8, 3, 3), (16,), dtype=np.float32)
        found.append(all_of(lambda *xs: mg.conv2d(*xs, padding=1), arrays))
    for one, *others in zip(*found, strict=True):
        for other in others:
            np.testing.assert_array_equal(one, other)
    convolution_kernels._convolve.cache_clear()
    convolution_kernels._weight_gradient.cache_clear()


@needs_compiler
def test_a_wrong_kernel_is_noticed(monkeypatch):
    """What the tests above compare is what was compiled: a mistake planted in it makes them fail."""
    text = convolution_kernels._CONVOLVE
    wrong = text.replace("+ shift;", "+ shift + T(0.001);")
    assert wrong != text
    monkeypatch.setattr(convolution_kernels, "_CONVOLVE", wrong)
    convolution_kernels._convolve.cache_clear()
    x, w = drawn((2, 3, 7, 6), (4, 3, 3, 3))
    try:
        out = mg.conv2d(mg.tensor(x), mg.tensor(w))
    finally:
        convolution_kernels._convolve.cache_clear()
    np.testing.assert_allclose(out.numpy(), cases.conv2d(x, w) + 0.001, rtol=1e-12)


@needs_compiler
def test_kernels_of_many_shapes_live_side_by_side():
    """Each is a library of its own, whose names must not be taken for those of another."""
    for width in (5, 8, 12):
        for stride in (1, 2):
            x, w = drawn((2, 2, 5, width), (3, 2, 3, 3))
            for _ in range(2):
                out = mg.conv2d(mg.tensor(x), mg.tensor(w), stride=stride)
                np.testing.assert_allclose(
                    out.numpy(), cases.conv2d(x, w, stride=stride), rtol=1e-10, atol=1e-12
                )


@pytest.mark.parametrize("function", [mg.conv2d, mg.conv_transpose2d])
def test_empty_batches(function, kernels):
    arrays = drawn((0, 3, 6, 5), (3, 3, 2, 2), (3,), dtype=np.float32)
    out, dx, dw, db = all_of(function, arrays)
    assert out.shape[:2] == (0, 3)
    assert dx.shape == (0, 3, 6, 5)
    assert not dw.any()
    assert not db.any()
    assert dw.shape == (3, 3, 2, 2)


def test_one_image_without_a_batch(kernels):
    x, w, b = drawn((3, 6, 5), (4, 3, 2, 2), (4,))
    one, dx, *_ = all_of(mg.conv2d, [x, w, b])
    several, dxs, *_ = all_of(mg.conv2d, [x[None], w, b])
    np.testing.assert_array_equal(one, several[0])
    np.testing.assert_array_equal(dx, dxs[0])


def test_arrays_in_any_order_and_float16(kernels):
    x, w = drawn((2, 6, 5, 3), (4, 3, 2, 2))
    x = x.transpose(0, 3, 1, 2)
    out = mg.conv2d(mg.asarray(x), mg.asarray(np.asfortranarray(w)))
    np.testing.assert_allclose(out.numpy(), cases.conv2d(x, w), rtol=1e-12, atol=1e-12)
    half = mg.conv2d(mg.asarray(x.astype(np.float16)), mg.asarray(w.astype(np.float16)))
    assert half.dtype == np.float16
    np.testing.assert_allclose(half.numpy(), cases.conv2d(x, w), rtol=0.1, atol=0.1)


def test_vmap_over_images_and_over_weights(kernels):
    x, w = drawn((3, 2, 5, 5), (3, 4, 2, 2, 2))
    mapped = mg.vmap(mg.conv2d)(mg.tensor(x[:, None]), mg.tensor(w))
    for i in range(3):
        np.testing.assert_allclose(mapped.numpy()[i], cases.conv2d(x[i : i + 1], w[i]), rtol=1e-12)

    def loss(w, x):
        return (mg.conv2d(x, w, padding=1) ** 2).sum()

    each = mg.vmap(mg.grad(loss), in_axes=(None, 0))(mg.tensor(w[0]), mg.tensor(x[:, None]))
    for i in range(3):
        np.testing.assert_allclose(
            each.numpy()[i], mg.grad(loss)(mg.tensor(w[0]), mg.tensor(x[i : i + 1])).numpy()
        )


# --- conv1d and conv_transpose2d ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "weight", "settings"),
    [
        ((3, 4, 40), (6, 4, 3), {"padding": 1}),
        ((2, 4, 17), (6, 2, 5), {"stride": 3, "groups": 2, "dilation": 2, "padding": 4}),
        ((1, 2, 1), (3, 2, 1), {}),
        ((2, 3, 9), (3, 1, 4), {"groups": 3, "padding": "same"}),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_conv1d_against_torch(x, weight, settings, kernels):
    for dtype in (np.float32, np.float64):
        arrays = drawn(x, weight, (weight[0],), dtype=dtype)
        close(
            all_of(lambda *xs: mg.conv1d(*xs, **settings), arrays),
            all_of_torch(lambda *xs: torch_or_skip().nn.functional.conv1d(*xs, **settings), arrays),
        )


@pytest.mark.parametrize(
    ("x", "weight", "settings"),
    [
        ((3, 4, 5, 6), (4, 7, 3, 3), {}),
        ((2, 3, 4, 5), (3, 9, 4, 4), {"stride": 2, "padding": 1}),
        (
            (1, 6, 3, 2),
            (6, 2, 2, 3),
            {"stride": (3, 2), "groups": 2, "output_padding": (2, 1), "padding": (0, 2)},
        ),
        ((5, 2, 1, 4), (2, 3, 3, 1), {"dilation": (2, 1), "stride": (1, 3)}),
    ],
)
def test_conv_transpose2d_against_torch(x, weight, settings, kernels):
    for dtype in (np.float32, np.float64):
        arrays = drawn(x, weight, (weight[1] * settings.get("groups", 1),), dtype=dtype)
        close(
            all_of(lambda *xs: mg.conv_transpose2d(*xs, **settings), arrays),
            all_of_torch(lambda *xs: torch_or_skip().nn.functional.conv_transpose2d(*xs, **settings), arrays),
        )


def test_it_is_the_transposed_map(kernels):
    """<conv(x), y> = <x, conv_transpose(y)>, with one and the same weight."""
    x, w, y = drawn((2, 3, 7, 6), (4, 3, 3, 2), (2, 4, 4, 3))
    settings = {"stride": 2, "padding": (1, 0)}
    out = mg.conv2d(mg.tensor(x), mg.tensor(w), **settings).numpy()
    back = mg.conv_transpose2d(mg.tensor(y), mg.tensor(w), **settings, output_padding=(0, 0)).numpy()
    assert back.shape == x.shape
    assert math.isclose((out * y).sum(), (x * back).sum(), rel_tol=1e-12)


# --- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "settings", "message"),
    [
        (
            ((2, 3, 5), (4, 3, 3)),
            {},
            r"conv2d: got input \(2, 3, 5\), weight \(4, 3, 3\); expected an input of 4",
        ),
        (((2, 3, 5, 5), (4, 2, 3, 3)), {}, r"expected 1 times 2 channels"),
        (((2, 4, 5, 5), (3, 2, 3, 3)), {"groups": 2}, "outputs for 2 groups"),
        (((2, 3, 5, 5), (4, 3, 3, 3), (3,)), {}, r"bias \(3,\); expected a bias of shape \(4,\)"),
        (((2, 3, 2, 5), (4, 3, 3, 3)), {}, "no larger than the padded input"),
        (((2, 3, 5, 5), (4, 3, 3, 3)), {"stride": 0}, "stride must be an integer of at least 1"),
        (
            ((2, 3, 5, 5), (4, 3, 3, 3)),
            {"stride": (1, 2, 3)},
            "stride must be an integer of at least 1, or a pair",
        ),
        (((2, 3, 5, 5), (4, 3, 3, 3)), {"padding": -1}, "padding must be an integer of at least 0"),
        (((2, 3, 5, 5), (4, 3, 3, 3)), {"padding": "full"}, "got 'full'"),
        (((2, 3, 5, 5), (4, 3, 3, 3)), {"padding": "same", "stride": 2}, "with a stride of 1, 'same'"),
        (((2, 3, 5, 5), (4, 3, 3, 3)), {"groups": 0}, "groups must be at least 1"),
        (((2, 0, 5, 5), (4, 0, 3, 3)), {}, "not empty"),
        (((2, 3, 0, 5), (4, 3, 3, 3)), {"padding": 3}, "images that are not empty"),
    ],
)
def test_errors(shapes, settings, message):
    with pytest.raises(ValueError, match=message):
        mg.conv2d(*(mg.ones(shape) for shape in shapes), **settings)


def test_errors_of_types():
    x, w = mg.ones((1, 1, 3, 3)), mg.ones((1, 1, 2, 2))
    with pytest.raises(TypeError, match="conv2d: stride must be an integer, got float"):
        mg.conv2d(x, w, stride=1.5)
    with pytest.raises(TypeError, match="conv2d: input must hold floating-point numbers, got int64"):
        mg.conv2d(mg.ones((1, 1, 3, 3), dtype=mg.int64), w)
    with pytest.raises(TypeError, match="conv1d: groups must be an integer"):
        mg.conv1d(mg.ones((1, 1, 3)), mg.ones((1, 1, 2)), groups=1.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"conv1d: got input \(1, 1, 3, 3\)"):
        mg.conv1d(x, mg.ones((1, 1, 2)))
    with pytest.raises(ValueError, match="conv_transpose2d: output_padding must be less than"):
        mg.conv_transpose2d(x, w, output_padding=1)
    with pytest.raises(ValueError, match=r"conv_transpose2d: .* expected a result that is not empty"):
        mg.conv_transpose2d(x, w, padding=3)
    with pytest.raises(ValueError, match=r"conv_transpose2d: .* expected 2 channels"):
        mg.conv_transpose2d(x, mg.ones((2, 1, 2, 2)))


# --- layers ------------------------------------------------------------------------------------------

LAYERS: list[Any] = [
    ("Conv2d", (4, 6, 3), {}, (2, 4, 6, 7)),
    (
        "Conv2d",
        (4, 6, (3, 2)),
        {"stride": (2, 1), "padding": (1, 0), "groups": 2, "bias": False},
        (2, 4, 6, 7),
    ),
    ("Conv2d", (2, 3, 3), {"padding": "same", "dilation": 2, "padding_mode": "reflect"}, (2, 2, 6, 7)),
    ("Conv2d", (2, 3, 3), {"padding": (2, 1), "padding_mode": "circular"}, (2, 2, 6, 7)),
    ("Conv2d", (2, 3, 2), {"padding": "same", "padding_mode": "replicate"}, (2, 2, 6, 7)),
    ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1}, (2, 4, 9)),
    ("Conv1d", (4, 6, 3), {"padding": 2, "padding_mode": "reflect", "dilation": 2}, (2, 4, 9)),
    ("ConvTranspose2d", (4, 6, 3), {"stride": 2, "output_padding": 1, "groups": 2}, (2, 4, 3, 4)),
    ("ConvTranspose2d", (4, 6, 3), {"padding": 1, "dilation": 2, "bias": False}, (2, 4, 3, 4)),
]


@pytest.mark.parametrize(("name", "sizes", "settings", "shape"), LAYERS)
def test_layers_against_torch(name, sizes, settings, shape):
    theirs = getattr(torch_or_skip().nn, name)(*sizes, **settings)
    ours = getattr(nn, name)(*sizes, **settings)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.extra_repr() == theirs.extra_repr()
    (x,) = drawn(shape, dtype=np.float32)
    a, b = mg.tensor(x, requires_grad=True), torch_or_skip().from_numpy(x.copy()).requires_grad_()
    one, other = ours(a), theirs(b)
    (one * one).sum().backward()
    (other * other).sum().backward()
    pairs = [(one.detach(), other.detach()), (a.grad, b.grad)]
    pairs += [(p.grad, q.grad) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)]
    close([p.numpy() for p, _ in pairs], [q.numpy() for _, q in pairs])


def test_output_size_of_the_transposed_layer():
    layer = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)
    x = mg.ones((1, 2, 4, 5))
    assert layer(x).shape == (1, 3, 7, 9)
    assert layer(x, output_size=(8, 9)).shape == (1, 3, 8, 9)
    with pytest.raises(ValueError, match=r"output_size must be from \[7, 9\] to \[8, 10\]"):
        layer(x, output_size=(9, 9))


@pytest.mark.parametrize("name", ["Conv1d", "Conv2d", "ConvTranspose2d"])
def test_layers_begin_as_in_torch(name):
    mg.random.seed(0)
    layer = getattr(nn, name)(64, 96, 3)
    theirs = getattr(torch_or_skip().nn, name)(64, 96, 3)
    for ours, its in zip(layer.parameters(), theirs.parameters(), strict=True):
        ours, its = ours.detach().numpy(), its.detach().numpy()
        bound = 1 / math.sqrt(math.prod(layer.weight.shape[1:]))
        assert 0.9 * bound < np.abs(ours).max() <= bound * (1 + 1e-6)
        assert abs(ours.std() / its.std() - 1) < 0.25
        assert ours.shape == its.shape


def test_layers_of_another_dtype_and_their_errors():
    assert nn.Conv2d(1, 1, 1, dtype=mg.float64).weight.dtype == np.float64
    wrong: list[Any] = [
        ((3, 4, 3), {"groups": 2}, "Conv2d: 3 and 4 channels cannot be cut into 2 groups"),
        ((3, 4, 3), {"padding_mode": "mirror"}, "padding_mode must be one of"),
        ((3, 4, 3), {"padding": "same", "stride": 2}, "with a stride of 1, 'same'"),
        ((0, 4, 3), {}, "in_channels must be at least 1"),
        ((3, 4, 0), {}, "kernel_size must be an integer of at least 1"),
        ((3, 4, 3), {"stride": (1, 1, 1)}, "stride must be"),
    ]
    for arguments, settings, message in wrong:
        with pytest.raises(ValueError, match=message):
            nn.Conv2d(*arguments, **settings)
    with pytest.raises(TypeError, match="out_channels must be an integer, got float"):
        nn.Conv1d(3, 4.0, 3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="padding_mode must be one of"):
        nn.ConvTranspose2d(3, 4, 3, padding_mode="reflect")
    with pytest.raises(ValueError, match="'reflect' cannot pad an axis of 2 by 2"):
        nn.Conv1d(1, 1, 5, padding=2, padding_mode="reflect")(mg.ones((1, 1, 2)))


def test_functions_are_those_of_functional():
    assert F.conv2d is mg.conv2d
    assert (F.conv1d, F.conv_transpose2d) == (mg.conv1d, mg.conv_transpose2d)
