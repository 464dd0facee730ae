"""What can be known without a GPU of how minigrad will fare on one: CuPy alone is needed.

Its kernels compile, for GPUs of several kinds, to code with no needless traffic; and CuPy has every
function, with every keyword, that minigrad calls on it.
"""

import ast
import contextlib
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import nvrtc
import pytest
from test_rows import row_kernels

import minigrad
from minigrad.kernels import ElementwiseKernel
from minigrad.optim.skipping import guarded

PACKAGE = Path(minigrad.__file__).parent


def kernels() -> dict[str, ElementwiseKernel]:
    """All that the package has in its modules, and what is made of those that optimizers step with."""
    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages([str(PACKAGE)], "minigrad.")]
    found = [(m, k) for m in modules for k in vars(m).values() if isinstance(k, ElementwiseKernel)]
    stepping = [guarded(k) for m, k in found if m.__name__.startswith("minigrad.optim.")]
    return {k.name: k for k in [*(k for _, k in found), *stepping]}


KERNELS = kernels()
ROW_KERNELS = row_kernels()


def test_there_are_kernels():
    assert len(KERNELS) >= 10
    assert "radam_guarded" in KERNELS


@pytest.fixture(scope="module")
def compiler():
    try:
        nvrtc.require()
    except nvrtc.UnavailableError as error:
        pytest.skip(str(error))


# --- kernels -----------------------------------------------------------------------------------------

TYPES = [("float32", "float32"), ("float64", "float64"), ("float16", "float32")]  # of P and of T
ARCHS = [75, 80, 90, 100]


def dtypes(kernel: Any) -> list[dict[str, str]]:
    """The choices of dtypes for the placeholders that the kernel has."""
    letters = nvrtc.placeholders(kernel)
    choices = [{k: v for k, v in zip("PT", types, strict=True) if k in letters} for types in TYPES]
    return [choice for i, choice in enumerate(choices) if choice not in choices[:i]]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("cpp", ["float", "double"])
@pytest.mark.parametrize("kernel", ROW_KERNELS.values(), ids=list(ROW_KERNELS))
def test_row_kernels_compile(compiler, kernel, cpp, arch):
    program = nvrtc.compiled(kernel.source(cpp), kernel.name, arch)
    assert f".entry {kernel.name}(" in program
    assert f".target sm_{arch}" in program


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(
    ("kernel", "types"),
    [
        pytest.param(kernel, types, id="-".join([kernel.name, *types.values()]))
        for _, kernel in sorted(KERNELS.items())
        for types in dtypes(kernel)
    ],
)
def test_kernels_compile(compiler, kernel, types, arch):
    program = nvrtc.ptx(kernel, types, arch)
    assert f".entry {kernel.name}(" in program
    assert f".target sm_{arch}" in program
    if "float64" not in f"{types} {kernel.in_params} {kernel.out_params}":
        assert not nvrtc.doubles(program)


PROGRAM = """
    ld.param.b64 %rd1, [text_param_0];
    @%p1 bra $L__BB0_2;
$L__BB0_1: // the loop for true
    ld.global.nc.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1];
    ld.shared.f32 %f5, [%rd2];
    @%p2 bra $L__BB0_3;
    ld.b32 %r1, [%rd3];
    st.global.v2.b32 [%rd1], {%r1, %r1};
$L__BB0_3:
    st.global.b32 [%rd1], %r1;
    @%p3 bra $L__BB0_1;
    bra.uni $L__BB0_4;
$L__BB0_2: // and for false
    ld.volatile.global.f32 %f1, [%rd1];
    @%p3 bra $L__BB0_2;
$L__BB0_4:
    ret;
"""


def test_the_counting_of_traffic():
    assert nvrtc.traffic(PROGRAM) == (5, 3)
    assert nvrtc.traffic(PROGRAM.replace("ld.volatile.global", "ld.global.v8")) == (8, 3)


def test_the_finding_of_doubles():
    assert nvrtc.doubles(PROGRAM) == []
    for line in "add.rn.f64 %rd1, %rd2, %rd3;", "mov.b64 %rd1, 0d3FF0000000000000;", "mov.b64 %fd1, %rd1;":
        assert nvrtc.doubles(PROGRAM + line) == [line]


def check_economy(kernel: Any, arch: int) -> None:
    """Fail unless `kernel` in float32 reads g, p, m, v once, writes p, m, v once, and stays in float32."""
    program = nvrtc.ptx(kernel, {"P": "float32", "T": "float32"}, arch)
    loads, stores = nvrtc.traffic(program)
    assert (loads, stores) == (4, 3), f"{loads} loads, {stores} stores"
    assert not nvrtc.doubles(program), "float64"


@pytest.mark.parametrize("arch", ARCHS)
def test_radam_is_economical(compiler, arch):
    check_economy(KERNELS["radam"], arch)


class Text(NamedTuple):
    """A kernel that is in no list of kernels."""

    in_params: str
    out_params: str
    operation: str
    name: str = "text"
    preamble: str = ""
    loop_prep: str = ""
    after_loop: str = ""
    options: tuple[str, ...] = ()


LIKE_RADAM = Text("P g, T rest, T eps, bool adaptive", "P p, T m, T v", "")
LOCAL = """
    T m1 = m + rest * (g - m);
    T v1 = v + rest * (g * g - v);
    m = m1;
    v = v1;
    p -= adaptive ? m1 / (sqrt(v1) + eps) : m1;
"""
IN_PLACE = """
    m += rest * (g - m);
    v += rest * (g * g - v);
    p -= adaptive ? m / (sqrt(v) + eps) : m;
"""


@pytest.mark.parametrize(
    ("operation", "complaint"),
    [
        (LOCAL, None),
        # An output may be the same array as g or as another output: each write makes NVRTC read anew.
        (IN_PLACE, "6 loads, 3 stores"),
        (LOCAL.replace("+ rest *", "+ (1.0 - rest) *"), "float64"),
        (LOCAL.replace("p -=", "p -= T(0.5) *"), None),
        (LOCAL.replace("p -=", "p -= 0.1 *"), "float64"),
        (LOCAL + "p = v;", "5 loads, 4 stores"),
    ],
    ids=["local", "in place", "1.0 -", "T(0.5)", "0.1 *", "stored twice"],
)
def test_the_check_of_economy_can_fail(compiler, operation, complaint):
    kernel = LIKE_RADAM._replace(operation=operation)
    if complaint is None:
        check_economy(kernel, 90)
    else:
        with pytest.raises(AssertionError, match=complaint):
            check_economy(kernel, 90)


WHOLE = Text(
    "P g, T rate, raw P table",
    "P p",
    "p = half * twice(rate) * g + table[i & (FOUR - 1)]",
    preamble="template <typename V> __device__ V twice(V x) { return 2 * x; }",
    loop_prep="const T half = T(0.5)",
    after_loop="if (half > T(FOUR)) p_was_never_large();",
    options=("-DFOUR=4",),
)


def test_every_part_of_a_kernel_is_compiled(compiler):
    from cupy.cuda.compiler import CompileException  # pyright: ignore[reportMissingImports]

    types = {"P": "float32", "T": "float32"}
    with pytest.raises(CompileException, match='"p_was_never_large" is undefined'):
        nvrtc.ptx(WHOLE, types, 90, arrays=["g", "rate", "table"])
    whole = WHOLE._replace(after_loop="")
    program = nvrtc.ptx(whole, types, 90, arrays=["g", "rate", "table"])
    assert nvrtc.traffic(program) == (3, 1)
    assert ".ftz.f32" in program  # CuPy has subnormal numbers flushed to 0
    for part in "preamble", "loop_prep", "options":
        with pytest.raises(CompileException, match="undefined"):
            nvrtc.ptx(
                whole._replace(**{part: type(getattr(whole, part))()}),
                types,
                90,
                arrays=["g", "rate", "table"],
            )
    with pytest.raises(KeyError, match="T"):  # of scalars alone: CuPy cannot know it, nor can we
        nvrtc.ptx(whole, types, 90)
    with pytest.raises(KeyError, match="T"):
        nvrtc.ptx(LIKE_RADAM._replace(operation=LOCAL), {"P": "float32"}, 90)


# --- what minigrad calls on CuPy -----------------------------------------------------------------------


class Use(NamedTuple):
    """Something of CuPy that a source names, as `cupy.add.at`; `array` stands for `cupy.ndarray`.

    If it is called: with how many positional arguments (None if that cannot be told) and which keywords.
    """

    name: str
    called: bool = False
    positional: int | None = None
    keywords: tuple[str, ...] = ()


# Public names of NumPy's arrays, which minigrad may think that CuPy's have, too.
# (`ctypes`, which gives addresses in the host's memory, is asked of NumPy's alone, `to_device` of tensors.)
ARRAY = {name for name in dir(np.ndarray) if not name.startswith("_")} - {"ctypes", "to_device"}
# Methods that are Python's own as often as not.
COMMON = {name for kind in (bytes, dict, int, list, str, tuple) for name in dir(kind)}


class Reader(ast.NodeVisitor):
    """Gathers the `uses` of CuPy in a source: as `cupy`, as a namespace `xp`, and as methods of arrays.

    `rng` is a generator of random numbers, as which CuPy's and NumPy's go by.

    Names that are asked for by `hasattr`, or by `getattr` with a default, are `optional`.
    """

    def __init__(self, source: str):
        self.modules = {"xp": "cupy", "rng": "cupy.random.Generator"}
        self.others: set[str] = set()  # what else is imported: it is no array
        self.uses: list[Use] = []
        self.optional: set[str] = set()
        self.visit(ast.parse(source))

    def path(self, node: ast.AST) -> str | None:
        """What an expression is called from outside: `cupy.add.at` for `backend.xp.add.at`."""
        if isinstance(node, ast.Name):
            return self.modules.get(node.id)
        if isinstance(node, ast.Attribute):
            base = self.path(node.value)
            return "cupy" if node.attr == "xp" else base and f"{base}.{node.attr}"
        return None

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            root = alias.name.partition(".")[0]
            if root in ("cupy", "cupyx"):
                self.uses.append(Use(alias.name))
                self.modules[alias.asname or root] = alias.name if alias.asname else root
            else:
                self.others.add(alias.asname or root)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if not node.level and str(node.module).partition(".")[0] in ("cupy", "cupyx"):
            for alias in node.names:
                self.uses.append(Use(f"{node.module}.{alias.name}"))
                self.modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        else:
            self.others.update(alias.asname or alias.name for alias in node.names)

    def is_of_array(self, node: ast.Attribute) -> bool:
        """Whether it can only be an attribute of an array, or of what has the same ones."""
        return node.attr in ARRAY and not (isinstance(node.value, ast.Name) and node.value.id in self.others)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for decorator in node.decorator_list:  # an op that is the namespace's own function of its name
            if isinstance(decorator, ast.Call) and _named(decorator, "elementwise") and not decorator.args:
                self.uses.append(Use(f"cupy.{node.name}", True, len(node.args.args)))
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if path := self.path(node):
            if path not in self.modules.values():
                self.uses.append(Use(path))
        elif self.is_of_array(node):
            self.uses.append(Use(f"array.{node.attr}"))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        words = [
            a.value if isinstance(a, ast.Constant) and isinstance(a.value, str) else None for a in node.args
        ]
        function = node.func
        if path := self.path(function):
            self.uses.append(_call(path, node.args, node.keywords))
        elif (
            isinstance(function, ast.Attribute) and self.is_of_array(function) and function.attr not in COMMON
        ):
            self.uses.append(_call(f"array.{function.attr}", node.args, node.keywords))
        elif len(words) > 1 and words[1] and (path := self.path(node.args[0])):
            if _named(node, "create"):  # create(xp, "zeros", shape, dtype=int, like=x)
                given = [k for k in node.keywords if k.arg != "like"]
                self.uses.append(_call(f"{path}.{words[1]}", node.args[2:], given))
            elif _named(node, "getattr") and len(words) == 2:
                self.uses.append(Use(f"{path}.{words[1]}"))
            elif _named(node, "getattr") or _named(node, "hasattr"):
                self.optional.add(f"{path}.{words[1]}")
        elif _named(node, "_make") and words[0] and isinstance(node.args[1], ast.Tuple):
            # creation._make("zeros", (shape,), dtype, …, k=k)
            keywords = ("dtype", *(k.arg for k in node.keywords if k.arg))
            self.uses.append(Use(f"cupy.{words[0]}", True, len(node.args[1].elts), keywords))
        self.generic_visit(node)


def _named(call: ast.Call, name: str) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id == name


def _call(name: str, args: list[ast.expr], keywords: list[ast.keyword]) -> Use:
    spread = any(isinstance(a, ast.Starred) for a in args) or any(k.arg is None for k in keywords)
    return Use(name, True, None if spread else len(args), tuple(k.arg for k in keywords if k.arg))


# What `**kwargs` in a signature of CuPy stands for, where its docstring does not say.
KEYWORDS = {"cupy.ElementwiseKernel": {"options", "loop_prep", "after_loop"}}


def signature(name: str, function: Any) -> inspect.Signature:
    """The parameters of a function of CuPy, from its docstring where it is compiled or vague."""
    import cupy  # pyright: ignore[reportMissingImports]

    if isinstance(function, cupy.ufunc):
        inputs, outputs = (
            [f"{kind}{i}" for i in range(n)] for kind, n in (("x", function.nin), ("y", function.nout))
        )
        text = ", ".join(
            [*inputs, "/", *(f"{y}=None" for y in outputs), "*, out=None, dtype=None, casting=None"]
        )
    else:
        try:
            found = inspect.signature(function)
            if not any(p.kind is p.VAR_KEYWORD for p in found.parameters.values()):
                return found
        except ValueError:
            pass
        # "ndarray.sort(self, int axis=-1, kind=None) -> None"
        first = (inspect.getdoc(function) or "").partition("\n")[0]
        written = re.match(r"[\w.]+\((.*)\)", first)
        assert written, f"{name}: neither a signature nor a docstring tells its parameters"
        text = re.sub(r"[\w.]+ (?=\w)", "", written[1])
        if not name.startswith("array."):
            text = re.sub(r"^self(, )?", "", text)
        if name in KEYWORDS:
            text = text.replace("**kwargs", ", ".join(f"{k}=None" for k in sorted(KEYWORDS[name])))
    return inspect.signature(eval(f"lambda {text}: None"))


def problem(use: Use) -> str | None:
    """What is wrong with a use of CuPy, if anything is."""
    import cupy  # pyright: ignore[reportMissingImports]

    root, *rest = use.name.split(".")
    found = cupy.ndarray if root == "array" else importlib.import_module(root)
    owner = found
    for i, attribute in enumerate(rest):
        owner = found
        if inspect.ismodule(found) and not hasattr(found, attribute):
            with contextlib.suppress(ImportError):
                importlib.import_module(".".join([root, *rest[: i + 1]]))
        if not hasattr(found, attribute):
            return f"{use.name}: CuPy has none"
        found = getattr(found, attribute)
    if not use.called:
        return None
    if not callable(found):
        return f"{use.name} is called, but it is none to call"
    its = signature(use.name, found)
    me = [None] * inspect.isclass(owner)  # `self`
    try:
        if use.positional is None:
            its.bind_partial(**dict.fromkeys(use.keywords))
        else:
            its.bind(*me, *[None] * use.positional, **dict.fromkeys(use.keywords))
    except TypeError as error:
        return f"{use.name}{its}: {error}"
    return None


def problems(source: str) -> list[str]:
    """What is wrong with the uses of CuPy in a source."""
    reader = Reader(source)
    required = [use for use in reader.uses if use.name not in reader.optional or not problem(Use(use.name))]
    return [text for use in dict.fromkeys(required) if (text := problem(use))]


@pytest.fixture(scope="module")
def cupy():
    return pytest.importorskip("cupy", reason="CuPy is not installed")


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_cupy_has_what_minigrad_calls(cupy, path):
    assert problems(path.read_text()) == []


def test_the_reader_finds_the_calls():
    uses = [use for path in PACKAGE.rglob("*.py") for use in Reader(path.read_text()).uses]
    for use in [
        Use("cupy.cuda.is_available", True, 0),
        Use("cupy.asnumpy"),
        Use("cupy.add.at", True, 3),
        Use("cupy.hypot", True, 2),  # by its name alone, in `@elementwise`
        Use("cupy.zeros", True, 1, ("dtype",)),  # through `create` and `_make`
        Use("cupy.eye", True, 2, ("dtype", "k")),
        Use("cupy.asarray", True, 1, ("copy",)),
        Use("cupy.sum", True, 1, ("axis", "keepdims")),
        Use("cupy.einsum", True, None, ("optimize",)),
        Use("array.astype", True, 1),
        Use("array.mT"),
        Use("cupy.random.Philox4x3210", True, 1, ("size",)),
        Use("cupy.random.Generator.random", True, 1, ("dtype",)),
        Use("cupy.random.Generator.integers", True, 3, ("dtype",)),
    ]:
        assert use in uses


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("xp.sum(x, axis=0, keepdims=True)", None),
        ("xp.sum(x, axes=0)", "cupy.sum.*unexpected keyword argument 'axes'"),
        ("xp.sum(*x, axes=0)", "cupy.sum.*unexpected keyword argument 'axes'"),
        ("xp.tril(x, 1, 2)", "cupy.tril.*too many positional"),
        ("xp.roll(x)", "cupy.roll.*missing a required argument: 'shift'"),
        ("backend.xp.summ(x)", "cupy.summ: CuPy has none"),
        ("f(xp.summ)", "cupy.summ: CuPy has none"),
        ("xp.maximum(x, 0, out=y)", None),
        ("xp.maximum(x, 0, where=y)", "cupy.maximum.*'where'"),
        ("xp.add.at(x, i, y)", None),
        ("xp.add.under(x, i, y)", "cupy.add.under: CuPy has none"),
        ("xp.einsum(s, *x, optimize=True)", None),
        ("xp.einsum(s, *x, order='K')", "cupy.einsum.*'order'"),
        ("getattr(xp, 'summ')(x)", "cupy.summ: CuPy has none"),
        ("xp.summ(x) if hasattr(xp, 'summ') else xp.sum(x)", None),
        ("xp.sum(x, axes=0) if hasattr(xp, 'sum') else x", "cupy.sum.*'axes'"),
        ("xp.linalg.svdvals(x) if hasattr(xp.linalg, 'svdvals') else x", None),
        ("xp.linalg.svdvals(x) if hasattr(xp, 'svdvals') else x", "cupy.linalg.svdvals: CuPy has none"),
        ("create(xp, 'zeros', 3, dtype=int, like=x)", None),
        ("create(xp, 'zeroes', 3, like=x)", "cupy.zeroes: CuPy has none"),
        ("create(xp, 'zeros', 3, device=0, like=x)", "cupy.zeros.*'device'"),
        ("_make('zeros', (3, 4, 5), dtype)", "cupy.zeros.*too many|cupy.zeros.*multiple values"),
        ("@elementwise(x=lambda g: g)\ndef negatory(x): pass", "cupy.negatory: CuPy has none"),
        ("@elementwise()\ndef negative(x, y, z): pass", "cupy.negative.*too many positional"),
        ("import cupy\ncupy.cuda.is_there()", "cupy.cuda.is_there: CuPy has none"),
        ("import cupy as cp\ncp.summ(x)", "cupy.summ: CuPy has none"),
        ("import cupyx.scipy.special\ncupyx.scipy.special.erf(x)", None),
        ("from cupyx.scipy import special as s\ns.erff(x)", "cupyx.scipy.special.erff: CuPy has none"),
        ("from cupy import fuze", "cupy.fuze: CuPy has none"),
        ("import cupy\ncupy.ElementwiseKernel('T x', 'T y', 'y = x', 'f', no_return=True, options=())", None),
        ("import cupy\ncupy.ElementwiseKernel('T x', 'T y', 'y = x', opts=())", "'opts'"),
        ("x.astype(int, copy=False)", None),
        ("rng.random(3, dtype=t)", None),
        ("rng.random(3, dtype=t, method='zig')", "cupy.random.Generator.random.*'method'"),
        ("rng.permutation(3)", "cupy.random.Generator.permutation: CuPy has none"),
        ("x.astype(int, device=0)", "array.astype.*'device'"),
        ("x.getfield(int)", "array.getfield: CuPy has none"),
        ("x.sort(key=f)", None),  # a list, it may be
        ("import numpy\nnumpy.getfield(x, 1)", None),
    ],
)
def test_the_check_of_calls_can_fail(cupy, source, complaint):
    found = problems(source)
    if complaint is None:
        assert found == []
    else:
        assert found
        assert re.search(complaint, found[0])
