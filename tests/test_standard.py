"""minigrad as a namespace of the Array API standard 2024.12, beside the reference `array_api_strict`."""

import functools
import inspect
import itertools
import operator
import warnings
from typing import Any

import array_api_strict as strict
import numpy as np
import pytest
from helpers import torch_or_skip
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg

# --- names and signatures ----------------------------------------------------------------------------

LEFT_OUT = {"complex64", "complex128"}  # there are no complex tensors
LEFT_OUT |= {"fft"}  # an optional extension, of complex numbers
LEFT_OUT |= {name for name in strict.__all__ if "strict_flags" in name.lower()} | {"Device", "__version__"}
LEFT_OUT |= {"ArrayAPIStrictFlags"}

NAMES = sorted({*strict.__all__} - LEFT_OUT) + [f"linalg.{name}" for name in strict.linalg.__all__]


def find(namespace: Any, name: str) -> Any:
    """What `namespace` has under a name such as `linalg.det`; None if there is nothing."""
    for part in name.split("."):
        namespace = getattr(namespace, part, None)
    return namespace


def lacking(ours: Any, standard: Any) -> list[str]:
    """What of the standard's signature a function does not take: places, keywords, defaults."""
    own = list(inspect.signature(ours).parameters.values())
    placed = [p for p in own if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = {p.name: p for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    missing = []
    for place, p in enumerate(inspect.signature(standard).parameters.values()):
        by_place = p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        by_name = p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        if p.kind == p.VAR_POSITIONAL:
            missing += [] if any(q.kind == p.kind for q in own) else [f"*{p.name}"]
        elif by_place and place >= len(placed):
            missing.append(f"a parameter in place {place}")
        elif by_name and (p.name not in named or (by_place and placed[place].name != p.name)):
            missing.append(f"the keyword {p.name}")
        elif p.default is not p.empty:
            default = None if type(p.default).__name__ == "Undef" else p.default  # strict's sign of its own
            found = (named[p.name] if by_name else placed[place]).default
            missing += [] if found == default else [f"{p.name}={default}, it is {found}"]
    required = [
        p for p in own if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    names = inspect.signature(standard).parameters
    return missing + [f"a default of {p.name}" for p in required if p not in placed[: len(names)]]


def problems(name: str) -> list[str]:
    """What keeps minigrad from having the standard's `name`."""
    ours, standard = find(mg, name), find(strict, name)
    if ours is None and standard is not None:
        return ["there is none"]
    return lacking(ours, standard) if inspect.isfunction(standard) else []


@pytest.mark.parametrize("name", NAMES)
def test_names_and_signatures_of_the_standard(name):
    assert problems(name) == []
    assert "." in name or name in mg.__all__


@pytest.mark.parametrize(
    ("ours", "complaint"),
    [
        (lambda x, axis=None, keepdims=False: x, []),
        (lambda x, /, *, keepdims=False, axis=None, dtype=None: x, []),
        (lambda x, keepdims=False: x, ["the keyword axis"]),
        (lambda *, x, axis=None, keepdims=False: x, ["a parameter in place 0", "a default of x"]),
        (lambda x, axis=0, keepdims=False: x, ["axis=None, it is 0"]),
        (lambda x, axis=None, keepdims=False, *, out: x, ["a default of out"]),
    ],
)
def test_the_comparison_of_signatures_can_fail(ours, complaint):
    assert lacking(ours, strict.max) == complaint


def test_constants():
    assert (mg.e, mg.pi, mg.inf, mg.newaxis) == (strict.e, strict.pi, strict.inf, None)
    assert np.isnan(mg.nan)
    assert mg.__array_api_version__ == "2024.12"


# --- dtypes ------------------------------------------------------------------------------------------

INTEGERS = [f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64)]
DTYPES = ["bool", *INTEGERS, "float32", "float64"]
ALL_DTYPES = [*DTYPES, "float16"]
KINDS = ["bool", "signed integer", "unsigned integer", "integral", "real floating", "complex floating"]
KINDS += ["numeric"]


def name_of(dtype: Any) -> str:
    """The name of a dtype of minigrad or of strict."""
    return str(dtype).rpartition(".")[2]


def outcome(function: Any, *args: Any) -> Any:
    """What a function gives, or None where it raises TypeError."""
    try:
        return function(*args)
    except TypeError:
        return None


@pytest.mark.parametrize(("a", "b"), [*itertools.product(ALL_DTYPES, repeat=2)])
def test_promotion(a, b):
    x, y = mg.ones(2, dtype=a), mg.ones(2, dtype=b)
    expected = np.result_type(a, b)
    assert mg.result_type(getattr(mg, a), getattr(mg, b)) == expected
    assert mg.result_type(x, y) == mg.result_type(x.data, np.dtype(b)) == (x + y).dtype == expected
    assert mg.can_cast(a, b) is mg.can_cast(x, getattr(mg, b)) is np.can_cast(a, b)
    if "float16" not in (a, b):
        standard = outcome(strict.result_type, getattr(strict, a), getattr(strict, b))
        assert standard is None or name_of(standard) == expected.name
        # Where the standard leaves it open NumPy can cast more.
        assert mg.can_cast(a, b) or not strict.can_cast(getattr(strict, a), getattr(strict, b))


@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("scalar", [True, 2, 2.0])
def test_promotion_with_python_numbers(dtype, scalar):
    x = mg.ones(2, dtype=dtype)
    expected = (np.ones(2, dtype) + scalar).dtype
    assert (x + scalar).dtype == (scalar + x).dtype == mg.result_type(x, scalar) == expected
    assert mg.result_type(scalar, dtype) == expected
    if dtype in DTYPES and (standard := outcome(strict.result_type, getattr(strict, dtype), scalar)):
        assert name_of(standard) == expected.name


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_what_dtypes_are_asked(dtype):
    ours, x = getattr(mg, dtype), mg.zeros(2, dtype=dtype)
    assert ours == x.dtype
    if dtype in DTYPES:
        standard = getattr(strict, dtype)
        for kind in KINDS:
            assert mg.isdtype(x.dtype, kind) is mg.isdtype(ours, kind) is strict.isdtype(standard, kind)
        kinds = ("bool", mg.float64, "unsigned integer")
        assert mg.isdtype(ours, kinds) is strict.isdtype(
            standard, ("bool", strict.float64, "unsigned integer")
        )
    if mg.isdtype(ours, "real floating"):
        info, numpy = mg.finfo(x), np.finfo(dtype)
        assert info == mg.finfo(ours)
        for name in ("bits", "eps", "max", "min", "smallest_normal", "dtype"):
            assert getattr(info, name) == getattr(numpy, name)
        assert type(info.eps) is float  # weak, and at home on every device
        assert (x * info.eps).dtype == dtype
        with pytest.raises(TypeError, match=f"iinfo: needs an integer dtype, got {dtype}"):
            mg.iinfo(x)
    else:
        with pytest.raises(TypeError, match=f"finfo: needs a floating-point dtype, got {dtype}"):
            mg.finfo(x)
    if mg.isdtype(ours, "integral"):
        info, numpy = mg.iinfo(ours), np.iinfo(dtype)
        assert (info.bits, info.max, info.min, info.dtype) == (numpy.bits, numpy.max, numpy.min, numpy.dtype)
        assert type(info.max) is int


def test_dtypes_of_other_backends_are_understood():
    x = mg.ones(2, device="strict")
    assert mg.result_type(x, 1.0) == mg.finfo(x).dtype == np.float32
    assert mg.isdtype(x.dtype, "real floating")
    assert mg.can_cast(x, mg.float64)


def test_integers_of_python_are_kept_exactly_or_refused():
    for make in (mg.tensor, mg.asarray):
        assert make([1, 2**63 + 1], dtype=mg.uint64).tolist() == [1, 2**63 + 1]
        assert make([1.7, -1], dtype=mg.int8).tolist() == [1, -1]
        for number in (300, [-1], [[1, 256]]):
            with pytest.raises(OverflowError, match=rf"{make.__name__}: .*out of bounds for uint8"):
                make(number, dtype=mg.uint8)
        with pytest.raises(ValueError, match=rf"{make.__name__}: .*NaN"):
            make([float("nan")], dtype=mg.int32)
    assert mg.tensor(np.array([300]), dtype=mg.uint8).tolist() == [44]  # as NumPy casts arrays


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, None])
def test_arange_keeps_its_step_far_from_zero(dtype):
    expected = np.arange(1000.0, 1001.0, 0.001).astype(dtype or np.float32)
    result = mg.arange(1000.0, 1001.0, 0.001, dtype=dtype, requires_grad=True)
    assert result.requires_grad
    np.testing.assert_array_equal(result.detach().numpy(), expected, strict=True)


def test_arrays_of_another_byte_order_are_converted():
    array = np.arange(3.0).astype(np.dtype(np.float32).newbyteorder())
    for make in (mg.tensor, mg.asarray):
        x = make(array)
        assert x.dtype == mg.float32
        assert x.tolist() == [0, 1, 2]
        assert make(array, dtype=mg.float64).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="byte order"):
        mg.asarray(array, copy=False)


def test_result_type_of_numbers_alone():
    assert mg.result_type(1.0) == mg.result_type(1, 2.0) == mg.asarray(1.0).dtype == np.float32
    assert (mg.result_type(1), mg.result_type(True)) == (np.int64, np.bool_)
    with pytest.raises(TypeError, match="at least one"):
        mg.result_type()


COMPLEX: Any = 1j


@pytest.mark.parametrize(
    ("refused", "op"),
    [
        (lambda: mg.asarray(1j), "asarray"),
        (lambda: mg.asarray([1.0], dtype=np.complex64), "asarray"),
        (lambda: mg.from_dlpack(np.ones(2, complex)), "from_dlpack"),
        (lambda: mg.zeros(2, dtype=complex), "zeros"),
        (lambda: mg.full(2, 1j), "full"),
        (lambda: mg.full_like(mg.ones(2), 1.0, dtype=complex), "full_like"),
        (lambda: mg.zeros_like(mg.ones(2), dtype=complex), "zeros_like"),
        (lambda: mg.linspace(0, 1, 3, dtype=complex), "linspace"),
        (lambda: mg.astype(mg.ones(2), complex), "astype"),
        (lambda: mg.finfo(complex), "finfo"),
        (lambda: mg.can_cast(mg.float32, complex), "can_cast"),
        (lambda: mg.result_type(mg.float32, np.complex64), "result_type"),
        (lambda: mg.result_type(mg.float32, 1j), "result_type"),
        (lambda: mg.ones(2) + 1j, "add"),
        (lambda: mg.ones(2) * np.ones(2, complex), "multiply"),
        (lambda: mg.ones(2) @ np.ones(2, complex), "matmul"),
        (lambda: mg.concat([mg.ones(2), np.ones(2, complex)]), "concat"),
        (lambda: mg.where(mg.ones(2) > 0, mg.ones(2), np.ones(2, complex)), "where"),
        (lambda: mg.einsum("i,i->", mg.ones(2), np.ones(2, complex)), "einsum"),
        (lambda: mg.ops.setitem(mg.ones(2), 0, np.ones((), complex)), "setitem"),
        (lambda: mg.clip(mg.ones(2), None, 1j), "clip"),
        (lambda: mg.pad(mg.ones(2), 1, COMPLEX), "pad"),
        (lambda: mg.full_like(mg.ones(2), 1j), "full_like"),
        (lambda: mg.full(2, 1j, dtype=mg.float32), "full"),
        (lambda: mg.linspace(0, 1j, 3), "linspace"),
        (lambda: mg.arange(0, COMPLEX), "arange"),
    ],
)
def test_complex_numbers_are_refused(refused, op):
    with pytest.raises(TypeError, match=rf"{op}: .*complex"):
        refused()


def test_what_is_no_dtype_is_refused():
    for ask in (mg.finfo, mg.iinfo, mg.result_type, lambda d: mg.isdtype(d, "bool")):
        with pytest.raises(TypeError, match=r"expected a dtype.* got (NoneType|str)"):
            ask(None)
        with pytest.raises(TypeError, match=r"expected a dtype.* got (NoneType|str)"):
            ask("float33")
    with pytest.raises(ValueError, match="isdtype: got the kind 'floating'"):
        mg.isdtype(mg.float32, "floating")


@pytest.mark.parametrize(("a", "b"), [*itertools.product(DTYPES, repeat=2)])
def test_astype(a, b):
    values = [0, 1, 3]
    x = mg.asarray(values, dtype=a)
    expected = strict.astype(strict.asarray(values, dtype=getattr(strict, a)), getattr(strict, b))
    result = mg.astype(x, getattr(mg, b))
    assert result.dtype == b
    np.testing.assert_array_equal(result.numpy(), np.asarray(expected))
    assert (mg.astype(x, getattr(mg, b), copy=False) is x) == (a == b)
    assert mg.astype(x, getattr(mg, b), copy=True) is not x


def test_astype_moves():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    y = mg.astype(x, mg.float64, device="strict")
    assert (y.device, name_of(y.dtype)) == ("strict", "float64")
    (y * y).sum().backward()
    assert (x.grad.device, x.grad.dtype, x.grad.tolist()) == ("numpy", np.float32, [2.0, 4.0])
    assert mg.astype(x, mg.float32, copy=False, device="numpy") is x
    assert type(mg.astype(np.ones(2), mg.float32)) is np.ndarray


# --- inspection --------------------------------------------------------------------------------------


def test_the_namespace_of_a_tensor():
    x = mg.ones(2)
    for version in (None, "2021.12", "2022.12", "2023.12", "2024.12"):
        assert x.__array_namespace__(api_version=version) is mg
    with pytest.raises(ValueError, match=r"up to 2024\.12, not '2031\.12'"):
        x.__array_namespace__(api_version="2031.12")


def test_namespace_info():
    info, standard = mg.__array_namespace_info__(), strict.__array_namespace_info__()
    assert info.capabilities() == {
        k: v for k, v in standard.capabilities().items() if k in info.capabilities()
    }
    assert info.capabilities().keys() == standard.capabilities().keys()
    assert mg.zeros((1,) * info.capabilities()["max dimensions"]).size == 1
    assert info.default_device() == "numpy"
    with mg.use_backend("strict"):
        assert info.default_device() == "strict"
    assert {"numpy", "strict"} <= {*info.devices()}
    defaults = info.default_dtypes(device="numpy")
    assert defaults["real floating"] == mg.asarray(1.0).dtype == mg.zeros(1).dtype
    assert defaults["integral"] == mg.asarray(1).dtype == mg.arange(3).dtype == mg.sum(mg.asarray(True)).dtype
    assert defaults["indexing"] == mg.argmax(mg.ones(2)).dtype
    assert {*info.dtypes()} == {*DTYPES}
    for kind in (*KINDS, ("bool", "integral")):
        expected = {n: d for n, d in standard.dtypes(kind=kind).items() if "complex" not in n}
        assert info.dtypes(kind=kind, device="numpy").keys() == expected.keys()
    with pytest.raises(ValueError, match="unknown backend 'cuda'"):
        info.dtypes(device="cuda")


# --- creation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda xp, **k: xp.zeros((2, 3), **k),
        lambda xp, **k: xp.ones(4, **k),
        lambda xp, **k: xp.full((2,), 3, **k),
        lambda xp, **k: xp.full((), True, **k),
        lambda xp, **k: xp.arange(3, **k),
        lambda xp, **k: xp.arange(-1, 7, 2, **k),
        lambda xp, **k: xp.arange(3, stop=None, step=2, **k),
        lambda xp, **k: xp.arange(5, 1, **k),
        lambda xp, **k: xp.linspace(0, 10, 5, **k),
        lambda xp, **k: xp.linspace(0, 10, num=5, endpoint=False, **k),
        lambda xp, **k: xp.eye(3, **k),
        lambda xp, **k: xp.eye(3, 4, k=1, **k),
        lambda xp, **k: xp.eye(3, None, k=-1, **k),
        lambda xp, **k: xp.zeros_like(xp.ones((2, 3)), **k),
        lambda xp, **k: xp.ones_like(xp.ones((2, 3)), **k),
        lambda xp, **k: xp.full_like(xp.ones((2, 3)), 4, **k),
        lambda xp, **k: xp.full_like(xp.ones((2, 3)), fill_value=4, **k),
        lambda xp, **k: xp.asarray([[1, 0], [2, 3]], **k),
        lambda xp, **k: xp.asarray(2.5, **k),
        lambda xp, **k: xp.asarray([True, False], **k),
    ],
)
def test_creation_as_in_the_standard(make):
    expected = make(strict)
    for result in (make(mg), make(mg, device="numpy"), make(mg, dtype=None)):
        assert result.shape == expected.shape
        assert result.dtype == ("float32" if expected.dtype == strict.float64 else name_of(expected.dtype))
        np.testing.assert_array_equal(result.numpy(), np.asarray(expected))
        assert result.device == "numpy"
    for dtype in ("float64", "float32", "int32"):
        result, expected = make(mg, dtype=getattr(mg, dtype)), make(strict, dtype=getattr(strict, dtype))
        assert result.dtype == dtype
        np.testing.assert_array_equal(result.numpy(), np.asarray(expected))
    there = make(mg, device="strict")
    assert there.device == "strict"
    np.testing.assert_array_equal(there.numpy(), make(mg).numpy())


def test_like_takes_dtype_and_device_of_its_model():
    x = mg.ones((2, 3), dtype=mg.int8)
    for make in (mg.zeros_like, mg.ones_like, mg.empty_like, lambda x, **k: mg.full_like(x, 3, **k)):
        for result in (make(x), make(x, device="numpy"), make(x, device="strict")):
            assert (result.shape, name_of(result.dtype)) == ((2, 3), "int8")
        there = x.to("strict")
        assert make(there).device == "strict"
        assert name_of(make(there, device="numpy").dtype) == "int8"


def test_copying_in_asarray():
    a, x = np.ones(2), mg.ones(2, requires_grad=True)
    for copy in (None, False):
        assert np.shares_memory(mg.asarray(a, copy=copy).data, a)
        assert mg.asarray(x, copy=copy) is x
    for obj in (a, x, x.detach()):
        assert not np.shares_memory(mg.asarray(obj, copy=True).data, obj if obj is a else obj.data)
        changes: list[dict[str, Any]] = [{"dtype": mg.int32}, {"device": "strict"}]
        for change in changes:
            with pytest.raises(ValueError, match="asarray: another dtype or device needs a copy"):
                mg.asarray(obj, copy=False, **change)
    for obj in (1.0, [1.0], (True,)):
        with pytest.raises(ValueError, match=r"asarray: .*copy"):
            mg.asarray(obj, copy=False)
    (mg.asarray(x, copy=True, dtype=mg.float64) * 3).sum().backward()
    assert x.grad.tolist() == [3, 3]


# --- the tensor --------------------------------------------------------------------------------------


def test_attributes_and_conversions():
    x = mg.zeros((2, 3, 4))
    assert (x.ndim, x.size, x.mT.shape, x[0].T.shape) == (3, 24, (2, 4, 3), (4, 3))
    assert (mg.zeros(()).size, mg.zeros((2, 0)).size) == (1, 0)
    for value in (True, 3, -2.5):
        t = mg.asarray(value)
        assert (bool(t), complex(t), float(t)) == (bool(value), complex(value), float(value))
        assert int(t) == int(value)
        if isinstance(value, int):
            assert operator.index(mg.asarray(3)) == 3
    with pytest.raises(TypeError, match="only an integer tensor"):
        operator.index(mg.asarray(True))
    for convert in (bool, int, float, complex):
        with pytest.raises(ValueError, match=rf"{convert.__name__}\(\) needs a tensor of one element"):
            convert(mg.ones(2))


def test_to_device():
    x = mg.tensor([1.0], requires_grad=True)
    assert x.to_device("numpy") is x
    there = x.to_device("strict", stream=None)
    assert (there.device, there.requires_grad) == ("strict", True)
    assert there.to_device(x.device).device == "numpy"
    with pytest.raises(ValueError, match="stream"):
        x.to_device("numpy", stream=1)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("dtype", ALL_DTYPES)
def test_dlpack_with_numpy(dtype):
    x = mg.asarray([[0, 1, 1], [1, 0, 1]], dtype=getattr(mg, dtype)).mT
    array = np.from_dlpack(x)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, x.numpy())
    back = mg.from_dlpack(x.numpy())
    assert (back.dtype, back.shape) == (dtype, (3, 2))
    np.testing.assert_array_equal(back.numpy(), x.numpy())


def test_dlpack_gives_a_copy():
    x = mg.ones(3)
    assert not np.shares_memory(np.from_dlpack(x), x.data)
    assert x.__dlpack_device__() == (1, 0)
    assert "dltensor" in repr(x.__dlpack__(dl_device=(1, 0), max_version=(1, 0), stream=None, copy=None))
    with pytest.raises(BufferError, match=r"no way from 'numpy' to \(2, 0\)"):
        x.__dlpack__(dl_device=(2, 0))
    with pytest.raises(RuntimeError, match="detach"):
        mg.ones(1, requires_grad=True).__dlpack__()


@pytest.mark.skipif(not hasattr(np, "unstack"), reason="NumPy takes `copy` in from_dlpack since 2.1")
def test_dlpack_lends_memory_to_read():
    x = mg.ones(3)
    copy = np.from_dlpack(x, copy=True)
    copy[0] = 9
    assert x.tolist() == [1, 1, 1]
    for lent in (np.from_dlpack(x, copy=False), np.asarray(x, copy=False)):
        assert np.shares_memory(lent, x.data)
        assert not lent.flags.writeable
    with pytest.raises(BufferError, match="readonly"):
        x.__dlpack__(copy=False)  # to a library that cannot be told


def test_dlpack_from_a_gpu_to_the_cpu(monkeypatch):
    x = mg.ones(3)
    monkeypatch.setattr(mg.Tensor, "__dlpack_device__", lambda self: (2, 0))
    for copy in (None, True):
        assert "dltensor" in repr(x.__dlpack__(dl_device=(1, 0), stream=7, max_version=(1, 0), copy=copy))
    with pytest.raises(BufferError, match=r"no way from 'numpy' to \(1, 0\), copy=False"):
        x.__dlpack__(dl_device=(1, 0), copy=False)


def test_dlpack_from_devices_that_nobody_reads():
    class Elsewhere:
        def __dlpack_device__(self):
            return 8, 0

    with pytest.raises(ValueError, match="no backend reads memory of DLPack's device type 8"):
        mg.from_dlpack(Elsewhere())


def test_from_dlpack_shares_or_copies():
    a = np.arange(3.0)
    for copy in (None, False):
        assert np.shares_memory(mg.from_dlpack(a, copy=copy).data, a)
    assert not np.shares_memory(mg.from_dlpack(a, copy=True).data, a)
    assert mg.from_dlpack(a, device="strict").device == "strict"
    with mg.use_backend("strict"):
        assert mg.from_dlpack(a).device == "numpy"
    with pytest.raises(ValueError, match="from_dlpack: another dtype or device needs a copy"):
        mg.from_dlpack(a, device="strict", copy=False)
    with pytest.raises(TypeError, match="from_dlpack: list has no __dlpack__"):
        mg.from_dlpack([1.0])
    x = mg.ones(2, requires_grad=True)
    assert mg.from_dlpack(x) is x


def test_dlpack_with_torch():
    torch: Any = torch_or_skip()
    x = mg.asarray([[1.0, 2.0], [3.0, 4.0]])
    t = torch.from_dlpack(x)
    t[0, 0] = 9
    assert x.tolist() == [[1, 2], [3, 4]]
    assert t.tolist() == [[9, 2], [3, 4]]
    back = mg.from_dlpack(t.mT)
    assert back.tolist() == [[9, 3], [2, 4]]
    t[0, 0] = 5
    assert back[0, 0].item() == 5
    for dtype in ALL_DTYPES:
        for t in (torch.ones(2, dtype=getattr(torch, dtype)), torch.from_dlpack(mg.ones(2, dtype=dtype))):
            assert mg.from_dlpack(t).dtype == dtype
            assert torch.from_dlpack(mg.from_dlpack(t)).dtype == t.dtype
    with pytest.raises(TypeError, match=r"from_dlpack: .*complex"):
        mg.from_dlpack(torch.ones(2, dtype=torch.complex64))


# --- indexing ----------------------------------------------------------------------------------------

ROWS, COLUMNS = np.array([1, 0, 1]), np.array([2, 2, 0])
KEYS: list[tuple[Any, tuple[int, ...]]] = [
    (1, (3,)),
    (-1, (3,)),
    ((1, 2), (2, 3)),
    ((), (2,)),
    ((), ()),
    (..., ()),
    (None, ()),
    (..., (2, 3)),
    ((..., 1), (2, 3)),
    ((1, ...), (2, 3)),
    ((1, ..., 2), (2, 3, 4)),
    ((1, 2, ...), (2, 3)),
    (None, (2,)),
    ((None, slice(None), None), (2,)),
    ((..., None), (2, 3)),
    ((None, 1, ..., None), (2, 3)),
    (slice(None), (5,)),
    (slice(1, 4, 2), (5,)),
    (slice(None, None, -1), (5,)),
    (slice(4, None, -2), (5,)),
    (slice(1, 1), (5,)),
    (slice(-3, -1), (5,)),
    ((slice(1, None), slice(None, 2)), (3, 4)),
    ((slice(0), 1), (3, 4)),
    (ROWS, (2,)),
    (ROWS, (2, 3)),
    ((ROWS, COLUMNS), (2, 3)),
    ((ROWS, 1), (2, 3)),
    ((slice(None), ROWS), (2, 3)),
    ((ROWS, slice(None), COLUMNS), (2, 4, 3)),
    ((..., COLUMNS), (2, 3)),
    ((None, ROWS), (2, 3)),
    ((np.array(1), ROWS), (2, 3)),
    (np.array([[0, 1], [1, 1]]), (2, 3)),
    (np.zeros(0, np.int64), (2, 3)),
    (np.array([True, False]), (2,)),
    (np.array([[True, False, True], [False, False, True]]), (2, 3)),
    (np.zeros((2, 3), bool), (2, 3)),
    (np.array(True), ()),
    (np.array(False), (2,)),
    (slice(None), (0,)),
    (..., (2, 0)),
    ((1, slice(None)), (2, 0)),
]


def tensors_in(key: Any) -> Any:
    """The key with its arrays as tensors."""
    if isinstance(key, tuple):
        return tuple(map(tensors_in, key))
    return mg.asarray(key) if isinstance(key, np.ndarray) else key


@pytest.mark.parametrize("dtype", ["bool", "int16", "float32"])
@pytest.mark.parametrize(("key", "shape"), KEYS, ids=str)
def test_indexing(key, shape, dtype):
    a = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    x = mg.tensor(a)
    result = x[tensors_in(key)]
    assert isinstance(result, mg.Tensor)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result.numpy(), a[key])
    assert result.shape == a[key].shape
    for value in (True, mg.asarray(True), mg.ones(result.shape, dtype=dtype)):
        x, expected = mg.tensor(a), a.copy()
        x[tensors_in(key)] = value
        expected[key] = np.asarray(value)
        np.testing.assert_array_equal(x.numpy(), expected)
        assert x.dtype == dtype


def test_indices_out_of_range_and_of_other_kinds():
    x = mg.zeros((2, 3))
    for key in (2, (0, 3), (0, 0, 0), mg.asarray([2]), mg.asarray([0.0]), mg.asarray([True, False, True])):
        with pytest.raises(IndexError, match="getitem: "):
            x[key]
        with pytest.raises(IndexError, match="setitem: "):
            x[key] = 1.0


# --- every function, on drawn inputs -----------------------------------------------------------------


def parameters(name: str) -> list[str]:
    function = find(strict, name)
    return list(inspect.signature(function).parameters) if inspect.isfunction(function) else []


BINARY = [
    name for name in NAMES if parameters(name) == ["x1", "x2"] and "matmul" not in name and "." not in name
]
REDUCTIONS = [name for name in NAMES if {"axis", "keepdims"} <= {*parameters(name)} and "." not in name]


@functools.cache
def dtypes_of(call: Any) -> list[str]:
    """For which dtypes the standard has what `call(namespace, x)` calls."""
    ones = {d: strict.ones((2, 3), dtype=getattr(strict, d)) for d in DTYPES}
    with np.errstate(divide="ignore"):
        return [d for d in DTYPES if outcome(call, strict, ones[d]) is not None]


@functools.cache
def named(name: str) -> Any:
    """A call of the function of that name."""
    if name in BINARY:
        return lambda xp, x, y=None: getattr(xp, name)(x, x if y is None else y)
    return lambda xp, x, **options: getattr(xp, name)(x, **options)


UNARY = [name for name in NAMES if parameters(name) == ["x"] and "." not in name and "matrix" not in name]
UNARY = [name for name in UNARY if dtypes_of(named(name))]


def drawn(draw: Any, dtype: str, shape: tuple[int, ...], special: bool = True) -> np.ndarray:
    """An array of moderate numbers, among them, if `special`, infinities and NaN."""
    elements: Any = None
    if "float" in dtype:
        elements = st.integers(-80, 80).map(lambda n: n / 8)
        elements = elements | st.sampled_from([np.inf, -np.inf, np.nan, -0.0]) if special else elements
    elif dtype != "bool":
        elements = st.integers(0 if "u" in dtype else -9, 9)
    return draw(hnp.arrays(dtype, shape, elements=elements))


def compare(compute: Any, arrays: list[np.ndarray], rtol: float = 0.0) -> None:
    """Fail unless minigrad and strict give the same values, shapes and dtypes."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, of empty means and infinite slopes
        try:
            expected = compute(strict, *map(strict.asarray, arrays))
        except (TypeError, ValueError, IndexError):  # for these values the standard has no result
            reject()
        found = compute(mg, *map(mg.asarray, arrays))
    several = isinstance(expected, (tuple, list))
    for ours, theirs in zip(found, expected, strict=True) if several else [(found, expected)]:
        assert isinstance(ours, mg.Tensor)
        assert (name_of(ours.dtype), ours.shape) == (name_of(theirs.dtype), theirs.shape)
        np.testing.assert_allclose(ours.numpy(), np.asarray(theirs), rtol=rtol, atol=rtol)


few = settings(max_examples=20)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)


@pytest.mark.parametrize("name", UNARY)
@given(data=st.data())
@few
def test_unary_functions(name, data):
    dtype = data.draw(st.sampled_from(dtypes_of(named(name))))
    compare(named(name), [drawn(data.draw, dtype, data.draw(SHAPES))])


@pytest.mark.parametrize("name", BINARY)
@given(data=st.data())
@few
def test_binary_functions(name, data):
    dtypes = [data.draw(st.sampled_from(dtypes_of(named(name)))) for _ in range(2)]
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3)).input_shapes
    arrays = [drawn(data.draw, d, shape) for d, shape in zip(dtypes, shapes, strict=True)]
    compare(named(name), arrays)
    compare(named(name), arrays[:1])


@pytest.mark.parametrize("name", REDUCTIONS)
@given(data=st.data())
@few
def test_reductions(name, data):
    x = drawn(data.draw, data.draw(st.sampled_from(dtypes_of(named(name)))), data.draw(SHAPES), special=False)
    options: dict[str, Any] = {"keepdims": data.draw(st.booleans())}
    if "arg" in name:
        options["axis"] = data.draw(st.none() | st.integers(-x.ndim, x.ndim - 1)) if x.ndim else None
    else:
        options["axis"] = data.draw(st.none() | hnp.valid_tuple_axes(x.ndim))
    if "correction" in parameters(name):
        options["correction"] = data.draw(st.sampled_from([0.0, 1.0, 0.5]))
    compare(functools.partial(named(name), **options), [x], rtol=1e-5)


SETTINGS: list[tuple[str, Any]] = [
    ("argsort", lambda xp, x: xp.argsort(x, axis=0)),
    ("argsort", lambda xp, x: xp.argsort(x, descending=True)),
    ("broadcast_arrays", lambda xp, x: xp.broadcast_arrays(x, x[0, :], x[:, :1])),
    ("broadcast_to", lambda xp, x: xp.broadcast_to(x, shape=(2, 2, 3))),
    ("clip", lambda xp, x: xp.clip(x, 1, 3)),
    ("clip", lambda xp, x: xp.clip(x, max=x[0, :])),
    ("clip", lambda xp, x: xp.clip(x)),
    ("concat", lambda xp, x: xp.concat([x, xp.astype(x, xp.float64)], axis=1)),
    ("concat", lambda xp, x: xp.concat((x, x), axis=None)),
    ("cumulative_prod", lambda xp, x: xp.cumulative_prod(x, axis=1, include_initial=True)),
    ("cumulative_prod", lambda xp, x: xp.cumulative_prod(x, axis=0, dtype=xp.float64)),
    ("cumulative_sum", lambda xp, x: xp.cumulative_sum(x, axis=1, include_initial=True)),
    ("cumulative_sum", lambda xp, x: xp.cumulative_sum(x[0, :], dtype=xp.float64)),
    ("diff", lambda xp, x: xp.diff(x, n=2)),
    ("diff", lambda xp, x: xp.diff(x, axis=0, prepend=x, append=x)),
    ("expand_dims", lambda xp, x: xp.expand_dims(x, axis=-1)),
    ("flip", lambda xp, x: xp.flip(x)),
    ("flip", lambda xp, x: xp.flip(x, axis=(0, -1))),
    ("matmul", lambda xp, x: xp.matmul(x, xp.matrix_transpose(x))),
    ("matmul", lambda xp, x: xp.matmul(x, x[0, :])),
    ("matrix_transpose", lambda xp, x: xp.matrix_transpose(x)),
    ("meshgrid", lambda xp, x: xp.meshgrid(x[0, :], x[:, 0])),
    ("meshgrid", lambda xp, x: xp.meshgrid(x[0, :], x[:, 0], x[1, :1], indexing="ij")),
    ("moveaxis", lambda xp, x: xp.moveaxis(x, 0, -1)),
    ("nonzero", lambda xp, x: xp.nonzero(x)),
    ("permute_dims", lambda xp, x: xp.permute_dims(x, axes=(1, 0))),
    ("prod", lambda xp, x: xp.prod(x, axis=0, dtype=xp.float64)),
    ("repeat", lambda xp, x: xp.repeat(x, 2)),
    ("repeat", lambda xp, x: xp.repeat(x, xp.asarray([0, 2, 1]), axis=1)),
    ("reshape", lambda xp, x: xp.reshape(x, (3, -1))),
    ("reshape", lambda xp, x: xp.reshape(x, shape=(6,), copy=True)),
    ("roll", lambda xp, x: xp.roll(x, 2)),
    ("roll", lambda xp, x: xp.roll(x, shift=(1, -1), axis=(0, 1))),
    ("searchsorted", lambda xp, x: xp.searchsorted(xp.sort(x[0, :]), x)),
    (
        "searchsorted",
        lambda xp, x: xp.searchsorted(x[0, :], x[1, :], side="right", sorter=xp.argsort(x[0, :])),
    ),
    ("sort", lambda xp, x: xp.sort(x, axis=0)),
    ("sort", lambda xp, x: xp.sort(x, descending=True, stable=False)),
    ("squeeze", lambda xp, x: xp.squeeze(x[:, :1], axis=1)),
    ("squeeze", lambda xp, x: xp.squeeze(x[:1, :1], axis=(0, -1))),
    ("stack", lambda xp, x: xp.stack([x, x], axis=-1)),
    ("sum", lambda xp, x: xp.sum(x, dtype=xp.float64)),
    ("take", lambda xp, x: xp.take(x, xp.asarray([2, 0, 0]), axis=1)),
    ("take_along_axis", lambda xp, x: xp.take_along_axis(x, xp.asarray([[2, 0], [1, 1]]), axis=1)),
    ("tensordot", lambda xp, x: xp.tensordot(x, x.mT, axes=1)),
    ("tensordot", lambda xp, x: xp.tensordot(x, x, axes=((1,), (1,)))),
    ("tile", lambda xp, x: xp.tile(x, (2, 1, 2))),
    ("tril", lambda xp, x: xp.tril(x, k=-1)),
    ("triu", lambda xp, x: xp.triu(x, k=1)),
    ("unstack", lambda xp, x: xp.unstack(x, axis=1)),
    ("vecdot", lambda xp, x: xp.vecdot(x, x[0, :])),
    ("where", lambda xp, x: xp.where(x == x[0, 0], x, xp.astype(x, xp.float64))),
    ("where", lambda xp, x: xp.where(x == x, x, x[:, :1])),
]


@pytest.mark.parametrize(
    ("name", "call"),
    [pytest.param(*row, id=f"{i}-{row[0]}") for i, row in enumerate(SETTINGS) if row[0] in NAMES],
)
@given(data=st.data())
@few
def test_functions_with_settings(name, call, data):
    dtype = data.draw(st.sampled_from(dtypes_of(call)))
    compare(call, [drawn(data.draw, dtype, (2, 3), special=name != "matmul")], rtol=1e-12)


def test_every_function_is_compared():
    compared = {*UNARY, *BINARY, *REDUCTIONS, *(name for name, _ in SETTINGS)}
    functions = {name for name in NAMES if parameters(name) and "." not in name}
    others = {"isin", "broadcast_shapes"}  # not in the standard before 2025.12, so strict's refuse
    others |= {"imag"}  # of complex numbers alone
    others |= {"can_cast", "finfo", "iinfo", "isdtype", "result_type", "astype"}  # see above
    others |= {"arange", "asarray", "eye", "from_dlpack", "linspace"}
    others |= {f"{name}{like}" for name in ("empty", "full", "ones", "zeros") for like in ("", "_like")}
    assert functions - compared - others == set()
