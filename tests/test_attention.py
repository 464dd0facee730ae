"""Attention: the function, by kernels and by its composition, and the layers; torch is the oracle."""

import functools
from typing import Any

import numpy as np
import pytest
from helpers import needs_compiler

import minigrad as mg
from minigrad import nn
from minigrad.kernels import plan
from minigrad.nn.functional import scaled_dot_product_attention
from minigrad.ops.attention import composition


@pytest.fixture(params=[pytest.param("compiled", marks=needs_compiler), "composed"])
def way(request, monkeypatch) -> str:
    """With kernels and without."""
    monkeypatch.setattr(plan, "enabled", request.param == "compiled")
    return request.param


def draw(*shapes: tuple[int, ...], dtype: Any = np.float64, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=shape).astype(dtype) for shape in shapes]


def tolerance(dtype: Any) -> dict[str, Any]:
    return {"rtol": 1e-10, "atol": 1e-12} if dtype == np.float64 else {"rtol": 1e-5, "atol": 1e-5}


def masks(heads: int, queries: int, keys: int, dtype: Any) -> dict[str, Any]:
    """Settings of attention, with masks of each kind that broadcast in several ways."""
    random = np.random.default_rng(1)
    some = random.random((2, 1, queries, keys)) < 0.6
    some[0, 0, -1] = False  # this query looks at nothing
    numbers = random.normal(size=(heads, 1, keys)).astype(dtype)
    hidden = np.where(some[1, 0], random.normal(size=(queries, keys)), -np.inf).astype(dtype)
    return {
        "none": {},
        "causal": {"is_causal": True},
        "scaled": {"scale": -0.3},
        "bools": {"attn_mask": some},
        "column of bools": {"attn_mask": some[1, 0, :, :1]},
        "row of numbers": {"attn_mask": numbers},
        "numbers and -inf": {"attn_mask": hidden},
    }


def both(torch: Any, arrays: list[np.ndarray], settings: dict[str, Any], prepare: Any = lambda x, _: x):
    """Values and gradients of minigrad and of torch; `prepare` makes the inputs of (leaf, library)."""
    mask = settings.get("attn_mask")
    given = {
        "minigrad": {**settings, "attn_mask": None if mask is None else mg.tensor(mask)},
        "torch": {**settings, "attn_mask": None if mask is None else torch.from_numpy(mask.copy())},
    }
    xs = [mg.tensor(a, requires_grad=True) for a in arrays]
    ts = [torch.tensor(a, requires_grad=True) for a in arrays]
    ours = scaled_dot_product_attention(*(prepare(x, mg) for x in xs), **given["minigrad"])
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *(prepare(t, torch) for t in ts), **given["torch"]
    )
    assert ours.shape == tuple(theirs.shape)
    assert (ours.node.plan.name == "scaled_dot_product_attention") == plan.enabled  # pyright: ignore[reportOptionalMemberAccess]
    (g,) = draw(ours.shape, dtype=arrays[0].dtype, seed=2)
    ours.backward(mg.tensor(g))
    theirs.backward(torch.from_numpy(g))
    mine = [ours.detach().numpy(), *(x.grad.numpy() for x in xs)]
    return mine, [theirs.detach().numpy(), *(t.grad.numpy() for t in ts)]


def agree(mine: list[np.ndarray], its: list[np.ndarray]) -> None:
    for a, b in zip(mine, its, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, **tolerance(b.dtype))


# --- the function ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", masks(1, 1, 1, np.float32))
@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 1), (5, 5), (17, 17), (65, 65), (5, 33), (130, 40), (200, 200)]
)
def test_against_torch(torch, way, queries, keys, kind, dtype):
    arrays = draw((2, 3, queries, 8), (2, 3, keys, 8), (2, 3, keys, 5), dtype=dtype)
    agree(*both(torch, arrays, masks(3, queries, keys, dtype)[kind]))


@pytest.mark.parametrize("width", [1, 2, 31, 32, 48, 65])
@pytest.mark.parametrize("heads", [1, 3, 20])
def test_widths_and_few_or_many_heads(torch, way, heads, width):
    """Few heads are cut into pieces for threads, whose gradients of the queries are added up."""
    arrays = draw((heads, 193, width), (heads, 193, width), (heads, 193, width))
    agree(*both(torch, arrays, {"is_causal": True}))


def heads_of_a_row(x, library):
    return x.permute(0, 2, 1, 3) if library is not mg else mg.permute_dims(x, (0, 2, 1, 3))


def backwards(x, library):
    return x.flip((2, 3)) if library is not mg else mg.flip(x, axis=(2, 3))


def of_one_projection(x, library):
    return x[:, :, 1::2, 2:]


@pytest.mark.parametrize("prepare", [heads_of_a_row, backwards, of_one_projection])
@pytest.mark.parametrize("kind", ["causal", "bools"])
def test_views(torch, way, prepare, kind):
    arrays = draw((2, 4, 6, 8), (2, 4, 6, 8), (2, 4, 6, 8))
    queries = prepare(mg.zeros((2, 4, 6, 8)), mg).shape[2]
    agree(*both(torch, arrays, masks(1, queries, queries, np.float64)[kind], prepare))


@pytest.mark.parametrize(
    "layout", [np.asfortranarray, lambda m: m[..., ::-1, ::-1], lambda m: np.repeat(m, 2, -1)[..., ::2]]
)
@pytest.mark.parametrize("kind", ["bools", "row of numbers", "numbers and -inf"])
def test_masks_of_any_layout(torch, way, layout, kind):
    settings = masks(3, 7, 9, np.float64)[kind]
    settings["attn_mask"] = layout(settings["attn_mask"])
    agree(*both(torch, draw((2, 3, 7, 4), (2, 3, 9, 4), (2, 3, 9, 4)), settings))


@pytest.mark.parametrize(
    "shapes", [((6, 4), (5, 4), (5, 3)), ((1, 2, 6, 4), (3, 1, 5, 4), (2, 5, 3)), ((2, 1, 3, 6, 4),) * 3]
)
def test_leading_axes_are_broadcast(torch, way, shapes):
    agree(*both(torch, draw(*shapes), {}))


@pytest.mark.parametrize("heads", [(4, 2, 2), (4, 1, 2), (6, 3, 6)])
def test_grouped_queries(torch, way, heads):
    arrays = draw(*((2, n, 5, 3) for n in heads))
    agree(*both(torch, arrays, {"enable_gqa": True, "is_causal": True}))


@pytest.mark.parametrize("shapes", [((0, 3, 5, 4),) * 3, ((2, 3, 0, 4), (2, 3, 5, 4), (2, 3, 5, 2))])
@pytest.mark.parametrize("settings", [{}, {"is_causal": True}])
def test_nothing_to_do(way, shapes, settings):
    xs = [mg.tensor(a, requires_grad=True) for a in draw(*shapes)]
    y = scaled_dot_product_attention(*xs, **settings)
    assert y.shape == (*shapes[0][:-1], shapes[2][-1])
    y.sum().backward()
    for x in xs:
        assert x.grad.shape == x.shape
        assert not x.grad.numpy().any()


def test_no_keys_give_0(way):
    xs = [mg.tensor(a, requires_grad=True) for a in draw((2, 3, 4), (2, 0, 4), (2, 0, 5))]
    y = scaled_dot_product_attention(*xs)
    np.testing.assert_array_equal(y.detach().numpy(), np.zeros((2, 3, 5)))
    y.sum().backward()
    np.testing.assert_array_equal(xs[0].grad.numpy(), np.zeros((2, 3, 4)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_that_would_overflow(way, dtype):
    """The largest score of a row wins, wherever it stands; scores of -inf have no weight."""
    q = np.full((1, 1, 1), 3e4, dtype)
    k = np.arange(300, dtype=dtype).reshape(1, 300, 1)
    k = k[:, np.random.default_rng(0).permutation(300)]
    (v,) = draw((1, 300, 2), dtype=dtype)
    y = scaled_dot_product_attention(mg.tensor(q), mg.tensor(k), mg.tensor(v), scale=1.0)
    np.testing.assert_allclose(y.numpy()[0, 0], v[0, k[0, :, 0].argmax()], rtol=1e-6)


def test_nan_stays_in_its_row(way):
    q, k, v = draw((1, 70, 4), (1, 70, 4), (1, 70, 4))
    q[0, 3, 1] = np.nan
    y = scaled_dot_product_attention(mg.tensor(q), mg.tensor(k), mg.tensor(v), is_causal=True).numpy()
    assert np.isnan(y[0, 3]).all()
    assert not np.isnan(np.delete(y, 3, axis=1)).any()


def test_inputs_and_gradients_are_not_written_to(way):
    arrays = draw((2, 3, 70, 4), (2, 3, 70, 4), (2, 3, 70, 4), (2, 3, 70, 4))
    before = [a.copy() for a in arrays]
    xs = [mg.asarray(a).requires_grad_() for a in arrays[:3]]
    scaled_dot_product_attention(*xs, is_causal=True).backward(mg.asarray(arrays[3]))
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["none", "causal", "bools", "row of numbers"])
def test_gradients_of_two_orders(way, kind):
    settings = masks(1, 4, 5, np.float64)[kind]
    xs = [mg.tensor(a, requires_grad=True) for a in draw((2, 1, 4, 3), (2, 1, 5, 3), (2, 1, 5, 2))]
    assert mg.testing.gradcheck(lambda *x: scaled_dot_product_attention(*x, **settings), *xs, order=2)
    for i in range(3):  # of one input alone
        others = [x.detach() for x in xs]
        inputs = [*others[:i], xs[i], *others[i + 1 :]]
        assert mg.testing.gradcheck(lambda *x: scaled_dot_product_attention(*x, **settings), *inputs)


def test_a_mask_may_have_a_gradient(torch, way):
    q, k, v, bias, g = draw((2, 3, 6, 4), (2, 3, 5, 4), (2, 3, 5, 4), (3, 6, 5), (2, 3, 6, 4))
    mask = mg.tensor(bias, requires_grad=True)
    scaled_dot_product_attention(mg.tensor(q), mg.tensor(k), mg.tensor(v), mask).backward(mg.tensor(g))
    its = torch.tensor(bias, requires_grad=True)
    torch.nn.functional.scaled_dot_product_attention(*map(torch.tensor, (q, k, v)), its).backward(
        torch.tensor(g)
    )
    np.testing.assert_allclose(mask.grad.numpy(), its.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_vmap_and_jacobian(way):
    xs = [mg.tensor(a) for a in draw((2, 4, 3), (2, 4, 3), (2, 4, 3))]
    causal = functools.partial(scaled_dot_product_attention, is_causal=True)
    np.testing.assert_allclose(mg.vmap(causal)(*xs).numpy(), causal(*xs).numpy(), rtol=1e-12)
    exact = mg.jacobian(lambda k: composition(xs[0], k, xs[2], None, True, 3**-0.5))(xs[1])
    found = mg.jacobian(lambda k: causal(xs[0], k, xs[2]))(xs[1])
    np.testing.assert_allclose(found.numpy(), exact.numpy(), rtol=1e-10, atol=1e-12)


@needs_compiler
def test_kernels_may_be_switched_off_before_backward(monkeypatch):
    def gradient(off: bool) -> np.ndarray:
        x = mg.tensor(draw((2, 5, 4))[0], requires_grad=True)
        y = scaled_dot_product_attention(x, x, x, is_causal=True).sum()
        monkeypatch.setattr(plan, "enabled", not off)
        y.backward()
        monkeypatch.setattr(plan, "enabled", True)
        return x.grad.numpy()

    np.testing.assert_allclose(gradient(True), gradient(False), rtol=1e-12)


def test_float16_and_mixed_dtypes_are_composed(way):
    q, k, v = draw((2, 5, 4), (2, 5, 4), (2, 5, 4))
    half = scaled_dot_product_attention(*(mg.tensor(a.astype(np.float16)) for a in (q, k, v)))
    assert half.dtype == np.float16
    exact = scaled_dot_product_attention(mg.tensor(q), mg.tensor(k), mg.tensor(v)).numpy()
    np.testing.assert_allclose(half.numpy(), exact, atol=1e-2)
    mixed = scaled_dot_product_attention(mg.tensor(q.astype(np.float32)), mg.tensor(k), mg.tensor(v))
    assert mixed.dtype == np.float64
    np.testing.assert_allclose(mixed.numpy(), exact, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"is_causal": True}, {"attn_mask": np.tri(4, 4, dtype=bool)}])
def test_on_a_strict_device(settings):
    arrays = draw((2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 4, 5))

    def run(device: str) -> list[np.ndarray]:
        its = {k: mg.tensor(v, device=device) if k == "attn_mask" else v for k, v in settings.items()}
        xs = [mg.tensor(a, requires_grad=True, device=device) for a in arrays]
        y = scaled_dot_product_attention(*xs, **its)
        (y * y).sum().backward()
        assert y.device == device
        return [t.to("numpy").numpy() for t in (y.detach(), *(x.grad for x in xs))]

    for a, b in zip(run("strict"), run("numpy"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


# --- dropout -----------------------------------------------------------------------------------------


def test_dropout_of_the_weights(way):
    q, k, v = (mg.tensor(a, requires_grad=True) for a in draw((2, 6, 4), (2, 5, 4), (2, 5, 4)))
    with mg.random.fork(3):
        y = scaled_dot_product_attention(q, k, v, dropout_p=0.4)
    with mg.random.fork(3):
        kept = mg.random.bernoulli((2, 6, 5), 0.6, dtype=mg.float64)
    expected = mg.softmax(q @ k.mT * 0.5) * kept / 0.6 @ v
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=1e-12)
    found = mg.autograd.grad(y.sum(), [q, k, v])
    for a, b in zip(found, mg.autograd.grad(expected.sum(), [q, k, v]), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-12)
    assert not scaled_dot_product_attention(q, k, v, dropout_p=1.0).detach().numpy().any()


# --- memory ------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("kind", ["causal", "row of numbers"])
def test_no_matrix_of_scores_is_kept(kind):
    settings = masks(2, 256, 256, np.float32)[kind]
    xs = [mg.tensor(a, requires_grad=True) for a in draw(*((1, 2, 256, 8),) * 3, dtype=np.float32)]
    y = scaled_dot_product_attention(*xs, **settings)
    saved: Any = y.node.saved  # pyright: ignore[reportOptionalMemberAccess]
    kept = sum(a.nbytes for a in saved if isinstance(a, np.ndarray))
    assert kept <= 4 * xs[0]._data.nbytes + 2 * 256 * 4 + 2 * 256 * 4  # inputs, result, logarithms; the mask
    assert mg.graph(y).nbytes == kept


@needs_compiler
def test_memory_grows_with_the_length_and_not_with_its_square():
    def peak(length: int) -> int:
        xs = [mg.tensor(a, requires_grad=True) for a in draw(*((8, length, 8),) * 3, dtype=np.float32)]
        g = mg.ones((8, length, 8))
        step = functools.partial(scaled_dot_product_attention, *xs, is_causal=True)
        step().backward(g)  # compiles
        for x in xs:
            x.grad = None
        return mg.testing.peak_bytes(lambda: step().backward(g))

    short, long = peak(256), peak(2048)
    assert long < 9 * short
    assert long < 8 * 2048 * 2048 * 4 / 10


@needs_compiler
def test_heads_are_put_together_with_no_copy():
    q, k, v = (heads_of_a_row(mg.tensor(a), mg) for a in draw(*((2, 5, 3, 4),) * 3))
    y = mg.permute_dims(scaled_dot_product_attention(q, k, v), (0, 2, 1, 3))
    assert np.shares_memory(mg.reshape(y, (2, 5, 12)).data, y.data)


# --- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "settings", "message"),
    [
        (((4,), (5, 4), (5, 4)), {}, r"expected query \(…, L, E\)"),
        (((3, 4), (5, 3), (5, 4)), {}, r"got \(3, 4\), \(5, 3\) and \(5, 4\)"),
        (((3, 4), (5, 4), (6, 4)), {}, r"got \(3, 4\), \(5, 4\) and \(6, 4\)"),
        (((2, 3, 4), (3, 5, 4), (3, 5, 4)), {}, "do not broadcast"),
        (((3, 4), (5, 4), (5, 4)), {"dropout_p": 1.5}, "dropout_p must be from 0 to 1, got 1.5"),
        (((3, 4),) * 3, {"attn_mask": np.ones((3, 3), bool), "is_causal": True}, "not both"),
        (((3, 4), (5, 4), (5, 4)), {"attn_mask": np.ones((3, 6), bool)}, r"must broadcast to \(3, 5\)"),
        (((3, 4), (5, 4), (5, 4)), {"attn_mask": np.ones((2, 3, 5), bool)}, r"got \(2, 3, 5\)"),
        (((1, 4, 3, 4), (1, 3, 5, 4), (1, 3, 5, 4)), {"enable_gqa": True}, "must divide those of query"),
        (((3, 4), (5, 4), (5, 4)), {"enable_gqa": True}, "must divide those of query"),
    ],
)
def test_what_does_not_fit(way, shapes, settings, message):
    with pytest.raises(ValueError, match=message):
        scaled_dot_product_attention(*map(mg.tensor, draw(*shapes)), **settings)


def test_what_is_no_float(way):
    x = mg.tensor(draw((3, 4))[0])
    with pytest.raises(TypeError, match="key must be of floats, got int64"):
        scaled_dot_product_attention(x, mg.ones((3, 4), dtype=int), x)
    with pytest.raises(TypeError, match="mask must be of bools or floats, got int64"):
        scaled_dot_product_attention(x, x, x, mg.ones((3, 3), dtype=int))


# --- MultiheadAttention ------------------------------------------------------------------------------


def like(torch: Any, ours: nn.Module, theirs: Any) -> None:
    """Give torch's module the parameters of ours."""
    state = {name: torch.from_numpy(array) for name, array in ours.state_dict().items()}
    assert list(state) == list(theirs.state_dict())
    theirs.load_state_dict(state)


def compare(
    torch: Any, ours: nn.Module, theirs: Any, arrays: list[np.ndarray], *, masks: Any, **settings: Any
):
    """Results, and gradients of all inputs and parameters. `masks` are arrays or None."""
    xs = [mg.tensor(a, requires_grad=True) for a in arrays]
    ts = [torch.tensor(a, requires_grad=True) for a in arrays]
    mine = ours(*xs, **{k: None if m is None else mg.tensor(m) for k, m in masks.items()}, **settings)
    its = theirs(*ts, **{k: None if m is None else torch.from_numpy(m) for k, m in masks.items()}, **settings)
    mine, its = (
        [y for y in (out if isinstance(out, tuple) else (out,)) if y is not None] for out in (mine, its)
    )
    assert len(mine) == len(its)
    for k, (a, b) in enumerate(zip(mine, its, strict=True)):
        assert a.shape == tuple(b.shape)
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), **tolerance(a.dtype))
        (g,) = draw(a.shape, dtype=a.dtype, seed=5 + k)
        a.backward(mg.tensor(g), retain_graph=True)
        b.backward(torch.from_numpy(g), retain_graph=True)
    pairs = [*zip(xs, ts, strict=True), *zip(ours.parameters(), theirs.parameters(), strict=True)]
    for x, t in pairs:
        a, b = x.grad.numpy(), t.grad.numpy()
        np.testing.assert_allclose(
            a, b, rtol=1e-9 if b.dtype == np.float64 else 1e-4, atol=tolerance(b.dtype)["atol"]
        )
        x.grad = t.grad = None


def shapes_of(
    batch_first: bool, batched: bool, queries: int = 5, keys: int = 7, widths=(8, 8, 8)
) -> list[Any]:
    found = []
    for length, width in zip((queries, keys, keys), widths, strict=True):
        found.append((3, length, width) if batch_first else (length, 3, width))
        if not batched:
            found[-1] = (length, width)
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dims", [(8, 8), (6, 8), (8, 3), (5, 7)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention(torch, dtype, dims, bias, batch_first, batched, need_weights):
    its = {"bias": bias, "kdim": dims[0], "vdim": dims[1], "batch_first": batch_first}
    ours = nn.MultiheadAttention(8, 2, **its, dtype=dtype)
    theirs = torch.nn.MultiheadAttention(8, 2, **its, dtype=getattr(torch, np.dtype(dtype).name))
    like(torch, ours, theirs)
    arrays = draw(*shapes_of(batch_first, batched, widths=(8, *dims)), dtype=dtype)
    compare(torch, ours, theirs, arrays, masks={}, need_weights=need_weights)


@pytest.mark.parametrize("padding", [None, "bools", "numbers"])
@pytest.mark.parametrize("pairs", [None, "bools", "numbers", "bools of heads", "numbers of heads"])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
def test_masks_of_multihead_attention(torch, way, padding, pairs, need_weights, batched):
    random = np.random.default_rng(4)
    n, heads, queries, keys = 3 if batched else 1, 2, 5, 7
    of_keys = random.random((n, keys)) < 0.3
    of_keys[:, 0] = False  # so that every query may look at something: see the next test
    shape = (n * heads, queries, keys) if pairs and "heads" in pairs else (queries, keys)
    of_pairs = random.random(shape) < 0.3
    of_pairs[..., 0] = False
    numbers = [random.normal(size=m.shape) for m in (of_keys, of_pairs)]
    kinds = (padding or "", of_keys, numbers[0]), (pairs or "", of_pairs, numbers[1])
    masks: Any = [b if "bools" in kind else f if "numbers" in kind else None for kind, b, f in kinds]
    if padding and not batched:
        masks[0] = masks[0][0]
    ours = nn.MultiheadAttention(8, heads, dtype=np.float64)
    theirs = torch.nn.MultiheadAttention(8, heads, dtype=torch.float64)
    like(torch, ours, theirs)
    compare(
        torch,
        ours,
        theirs,
        draw(*shapes_of(False, batched)),
        masks={"key_padding_mask": masks[0], "attn_mask": masks[1]},
        need_weights=need_weights,
        average_attn_weights=padding is None,
    )


@pytest.mark.parametrize("need_weights", [True, False])
def test_a_query_that_sees_nothing_gives_what_the_bias_is(torch, way, need_weights):
    ours = nn.MultiheadAttention(8, 2, batch_first=True, dtype=np.float64)
    ours.out_proj.bias.data = np.arange(8.0)
    x = mg.tensor(draw((3, 5, 8))[0], requires_grad=True)
    padding = np.zeros((3, 5), bool)
    padding[1] = True
    y, weights = ours(x, x, x, mg.tensor(padding), need_weights=need_weights)
    np.testing.assert_array_equal(y.detach().numpy()[1], np.tile(np.arange(8.0), (5, 1)))
    assert (weights is not None) == need_weights
    y.sum().backward()
    assert not x.grad.numpy()[1].any()
    assert np.isfinite(x.grad.numpy()).all()


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_causal_multihead_attention(torch, way, need_weights, padded):
    ours = nn.MultiheadAttention(8, 2, dtype=np.float64)
    theirs = torch.nn.MultiheadAttention(8, 2, dtype=torch.float64)
    like(torch, ours, theirs)
    (array,) = draw((6, 3, 8))
    x, t = mg.tensor(array), torch.tensor(array)
    padding = np.zeros((3, 6), bool)
    padding[:, 4:] = padded
    later = ~np.tri(6, dtype=bool)
    y, weights = ours(x, x, x, padding, need_weights=need_weights, is_causal=True)
    its = theirs(
        *(t, t, t, torch.from_numpy(padding)),
        attn_mask=torch.from_numpy(later),
        need_weights=need_weights,
    )
    np.testing.assert_allclose(y.detach().numpy(), its[0].detach().numpy(), rtol=1e-10, atol=1e-12)
    if weights is not None:
        assert not weights.detach().numpy()[:, later].any()


def test_dropout_of_multihead_attention():
    ours = nn.MultiheadAttention(8, 2, dropout=0.5, bias=False, batch_first=True)
    x = mg.random.normal((2, 6, 8))
    y, weights = ours(x, x, x, average_attn_weights=False)
    dropped = (weights.detach().numpy() == 0).mean()
    assert 0.3 < dropped < 0.7
    with mg.random.fork(0):
        one = ours(x, x, x)[0]
    with mg.random.fork(0):
        other = ours(x, x, x, need_weights=False)[0]
    np.testing.assert_allclose(one.detach().numpy(), other.detach().numpy(), rtol=1e-4, atol=1e-6)
    ours.eval()
    np.testing.assert_array_equal(ours(x, x, x)[0].detach().numpy(), ours(x, x, x)[0].detach().numpy())
    assert not np.allclose(ours(x, x, x)[0].detach().numpy(), y.detach().numpy())


def test_initial_values_of_multihead_attention(torch):
    cases: list[dict[str, Any]] = [{}, {"kdim": 40, "vdim": 50}]
    for sizes in cases:
        ours, theirs = nn.MultiheadAttention(64, 4, **sizes), torch.nn.MultiheadAttention(64, 4, **sizes)
        for (name, mine), its in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            assert mine.shape == tuple(its.shape), name
            assert mine.std() == pytest.approx(its.numpy().std(), rel=0.05), name
            assert abs(mine).max() == pytest.approx(abs(its.numpy()).max(), rel=0.02), name


def test_multihead_attention_on_a_strict_device():
    ours = nn.MultiheadAttention(8, 2, dtype=np.float64)
    (array,) = draw((5, 3, 8))
    padding = np.arange(15).reshape(3, 5) % 4 == 1

    def run(device: str) -> np.ndarray:
        its = nn.MultiheadAttention(8, 2, dtype=np.float64, device=device)
        its.load_state_dict(ours.state_dict())
        x = mg.tensor(array, requires_grad=True, device=device)
        mask = mg.tensor(padding, device=device)
        numbers = mg.ones((5, 5), dtype=mg.float64, device=device)
        for settings in ({"need_weights": False}, {"attn_mask": numbers}):
            its(x, x, x, mask, **settings)[0].sum().backward()
        return x.grad.to("numpy").numpy()

    np.testing.assert_allclose(run("strict"), run("numpy"), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 3), "num_heads must divide embed_dim, got embed_dim=8 and num_heads=3"),
        ((0, 1), "embed_dim=0"),
        ((8, 2, 1.5), "dropout must be from 0 to 1"),
    ],
)
def test_bad_multihead_attention(arguments, message):
    with pytest.raises(ValueError, match=message):
        nn.MultiheadAttention(*arguments)


def test_inputs_that_do_not_fit_multihead_attention():
    ours = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)
    q, k, v = mg.ones((3, 5, 8)), mg.ones((3, 7, 6)), mg.ones((3, 7, 4))
    for wrong in (
        (q, k, k),
        (q[0], k, v),
        (q, k[:, :5], v),
        (q[:2], k, v),
        (mg.ones(8), mg.ones(6), mg.ones(4)),
    ):
        with pytest.raises(ValueError, match=r"expected query, key and value of \(8, 6, 4\) features"):
            ours(*wrong)
    with pytest.raises(ValueError, match=r"key_padding_mask must be \(3, 7\), got \(7,\)"):
        ours(q, k, v, mg.ones(7, dtype=bool))
    with pytest.raises(ValueError, match=r"attn_mask must be \(5, 7\) or \(6, 5, 7\), got \(3, 5, 7\)"):
        ours(q, k, v, attn_mask=mg.ones((3, 5, 7), dtype=bool))
    with pytest.raises(TypeError, match="attn_mask must be of bools or floats, got int64"):
        ours(q, k, v, attn_mask=mg.ones((5, 7), dtype=int))
    with pytest.raises(NotImplementedError, match="add_bias_kv"):
        nn.MultiheadAttention(8, 2, add_bias_kv=True)


# --- the encoder -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ["relu", "gelu", "function"])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["train", "eval", "causal", "padded"])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_transformer_encoder(torch, dtype, activation, norm_first, batch_first, bias, kind):
    its: dict[str, Any] = {
        "dim_feedforward": 16,
        "dropout": 0.5 if kind == "eval" else 0.0,
        "layer_norm_eps": 1e-3,
        "batch_first": batch_first,
        "norm_first": norm_first,
        "bias": bias,
    }
    functions = {"ours": mg.tanh, "theirs": torch.tanh}
    if activation != "function":
        functions = dict.fromkeys(functions, activation)
    layer = nn.TransformerEncoderLayer(8, 2, activation=functions["ours"], **its, dtype=dtype)
    ours = nn.TransformerEncoder(layer, 2, nn.LayerNorm(8, dtype=dtype))
    wide = {"dtype": getattr(torch, np.dtype(dtype).name)}
    their_layer = torch.nn.TransformerEncoderLayer(8, 2, activation=functions["theirs"], **its, **wide)
    theirs = torch.nn.TransformerEncoder(their_layer, 2, torch.nn.LayerNorm(8, **wide))
    for p in ours.parameters():  # of copies, which begin alike, and of biases, which begin as 0
        p.data = p.detach().numpy() + 0.1 * np.random.default_rng(p.size).normal(size=p.shape).astype(dtype)
    like(torch, ours, theirs)
    if kind == "eval":
        ours.eval()
        theirs.eval()
    arrays = draw((3, 5, 8) if batch_first else (5, 3, 8), dtype=dtype)
    masks: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    if kind == "causal":
        masks["mask"] = ~np.tri(5, dtype=bool)
        settings["is_causal"] = True
    if kind == "padded":
        masks["src_key_padding_mask"] = np.arange(5) >= np.array([[5], [3], [4]])
    compare(torch, ours, theirs, arrays, masks=masks, **settings)


def test_layers_of_an_encoder_are_copies():
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=4)
    encoder = nn.TransformerEncoder(layer, 3)
    assert len(list(encoder.parameters())) == 3 * len(list(layer.parameters()))
    assert not {id(p) for p in encoder.parameters()} & {id(p) for p in layer.parameters()}
    for copy in encoder.layers:
        for a, b in zip(copy.parameters(), layer.parameters(), strict=True):
            np.testing.assert_array_equal(a.detach().numpy(), b.detach().numpy())
            assert not np.shares_memory(a.data, b.data)


def test_dropout_of_an_encoder_layer():
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16)
    x = mg.random.normal((5, 3, 8))
    assert not np.allclose(layer(x).detach().numpy(), layer(x).detach().numpy())
    layer.eval()
    np.testing.assert_array_equal(layer(x).detach().numpy(), layer(x).detach().numpy())


def test_bad_encoders():
    with pytest.raises(ValueError, match="activation must be 'relu', 'gelu' or a function, got 'tanh'"):
        nn.TransformerEncoderLayer(8, 2, activation="tanh")
    with pytest.raises(ValueError, match="num_layers must not be negative, got -1"):
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), -1)
