"""The switch, and moving between backends. Where CuPy is not to be had, a stand-in says what it says."""

import sys
import types

import numpy as np
import pytest
from helpers import python, take_grad

import minigrad as mg
from minigrad import backend as current_name
from minigrad.backend import get


def test_switch():
    assert current_name() == "numpy"
    with mg.use_backend("strict"):
        assert current_name() == "strict"
        assert mg.zeros(2).device == mg.tensor([1.0]).device == mg.tensor(np.ones(2)).device == "strict"
        assert mg.ones(2, device="numpy").device == "numpy"
        with mg.use_backend("numpy"):
            assert mg.zeros(2).device == "numpy"
        assert current_name() == "strict"
    assert mg.zeros(2).device == "numpy"


def test_set_backend():
    try:
        mg.set_backend("strict")
        assert mg.arange(3).device == "strict"
        with mg.use_backend("numpy"):
            assert mg.arange(3).device == "numpy"
    finally:
        mg.set_backend("numpy")


def test_operations_run_where_their_arrays_live():
    x = mg.ones(2, device="strict", requires_grad=True)
    y = (x * 2 + 1).sum()
    assert y.device == "strict"
    y.backward()
    assert x.grad.device == "strict"
    with mg.use_backend("strict"):
        assert mg.exp(mg.ones(2, device="numpy")).device == "numpy"


def test_moving_is_differentiable():
    x = mg.tensor(np.array([1.0, 2.0]), requires_grad=True)
    assert x.to("numpy") is x
    y = x.to("strict")
    assert (y.device, y.requires_grad) == ("strict", True)
    (y * y).sum().to("numpy").backward(create_graph=True)
    assert (x.grad.device, x.grad.tolist()) == ("numpy", [2.0, 4.0])
    g = take_grad(x)
    g.sum().backward()
    assert x.grad.tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    "mix",
    [
        lambda a, b: a + b,
        lambda a, b: b * a,
        lambda a, b: a @ b,
        lambda a, b: mg.where(a > 0, b, b),
        lambda a, b: mg.concat([a, b]),
        lambda a, b: a + b.data,
        lambda a, b: b + a.data,
        lambda a, b: mg.einsum("i,i->", a, b),
        lambda a, b: mg.linear(a, b.reshape(1, 2)),
        lambda a, b: a[mg.tensor([0, 1], device="strict")],
    ],
)
def test_mixing_devices_names_both(mix):
    a, b = mg.ones(2), mg.ones(2, device="strict")
    with pytest.raises(ValueError, match=r"'numpy'.*'strict'|'strict'.*'numpy'"):
        mix(a, b)


def test_gradient_on_another_device_is_refused():
    x = mg.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=r"'strict'.*'numpy'"):
        (x * 2).backward(mg.ones(2, device="strict"))


def test_numpy_is_not_handed_other_devices_silently():
    with pytest.raises(TypeError, match="'strict'"):
        np.asarray(mg.ones(2, device="strict"))
    assert mg.ones(2, device="strict").numpy().tolist() == [1, 1]


@pytest.mark.parametrize(
    "ask", [mg.set_backend, lambda n: mg.zeros(2, device=n), lambda n: mg.zeros(2).to(n)]
)
def test_unknown_backend(ask):
    with pytest.raises(ValueError, match=r"unknown backend 'cuda'.*cupy.*numpy"):
        ask("cuda")
    assert current_name() == "numpy"


def test_cupy_without_the_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"minigrad\[cuda12x\].*minigrad\[cuda13x\]"):
        mg.set_backend("cupy")
    with pytest.raises(ImportError, match="cuda13x"), mg.use_backend("cupy"):
        pass
    assert current_name() == "numpy"


def test_cupy_without_a_gpu_says_so(monkeypatch):
    cupy = types.ModuleType("cupy")
    cupy.cuda = types.SimpleNamespace(is_available=lambda: False)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(RuntimeError, match=r"needs a GPU.*no CUDA device or no driver"):
        mg.set_backend("cupy")


def test_environment_variable():
    code = "import minigrad as mg; print(mg.backend(), mg.zeros(1).device)"
    assert python(code, MINIGRAD_BACKEND="numpy") == "numpy numpy"
    code = "import minigrad as mg\ntry: mg.zeros(1)\nexcept ValueError as e: print(e)"
    assert "unknown backend 'nump'" in python(code, MINIGRAD_BACKEND="nump")


def test_import_loads_nothing_heavy():
    heavy = "print([m for m in ('cupy', 'matplotlib', 'torch', 'scipy', 'inspect') if m in sys.modules])"
    assert python(f"import sys, minigrad; {heavy}") == python(f"import sys, numpy; {heavy}")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
@pytest.mark.parametrize(
    "shapes", [((9000,),) * 3, ((200, 100), (1, 100), (100,)), ((100, 100), (), (100, 1))]
)
def test_where_chooses_what_numpy_chooses(shapes, dtype):
    random = np.random.default_rng(0)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-310, -2.5, 1.0])
    with np.errstate(invalid="ignore"):
        x, y = (special[random.integers(0, 8, shape)].astype(dtype) for shape in shapes[1:])
    condition = random.random(shapes[0]) < 0.5
    for c, a, b in ((condition, x, y), (condition[::-1], x, y.T), (condition, x, 2.0), (condition, 2, y)):
        got, expected = get("numpy").xp.where(c, a, b), np.where(c, a, b)
        assert got.dtype == expected.dtype
        assert got.tobytes() == expected.tobytes()
