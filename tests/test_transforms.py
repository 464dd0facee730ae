"""Transforms against closed forms, torch.func and each other; checkpoints and their memory."""

import dataclasses
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import garbage, torch_or_skip

import minigrad as mg
from minigrad import nn
from minigrad.testing import gradcheck

RANDOM = np.random.default_rng(0)


def tensor(*shape: int, requires_grad: bool = False) -> mg.Tensor:
    return mg.tensor(RANDOM.normal(size=shape), requires_grad=requires_grad)


def close(x: Any, y: Any, tolerance: float = 1e-10) -> None:
    x, y = (v.detach().numpy() if hasattr(v, "detach") else np.asarray(v) for v in (x, y))
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


# --- closed forms ----------------------------------------------------------------------------------


def rosenbrock(x: mg.Tensor) -> mg.Tensor:
    return ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()


def test_rosenbrock():
    x = mg.tensor([1.3, -0.7], dtype=mg.float64)
    a, b = x.tolist()
    close(mg.grad(rosenbrock)(x), [-2 * (1 - a) - 400 * a * (b - a * a), 200 * (b - a * a)])
    exact = np.array([[2 - 400 * (b - 3 * a * a), -400 * a], [-400 * a, 200.0]])
    close(mg.hessian(rosenbrock)(x), exact)
    v = mg.tensor([0.3, 2.0], dtype=mg.float64)
    close(mg.hvp(rosenbrock, (x,), (v,))[0], exact @ v.numpy())
    close(mg.grad(rosenbrock)(mg.ones(5, dtype=mg.float64)), np.zeros(5))  # its minimum


def test_fourth_derivative_of_tanh():
    f = mg.tanh
    for _ in range(4):
        f = mg.grad(f)
    for x in (-1.2, 0.0, 0.4, 3.0):
        t = math.tanh(x)
        s = 1 - t * t
        close(f(mg.tensor(x, dtype=mg.float64)), 16 * t * s * s - 8 * t**3 * s, 1e-13)


def test_log_determinant_of_a_positive_definite_matrix():
    """d log det A = trace(A⁻¹ dA), and d² = -trace(A⁻¹ dA A⁻¹ dA)."""
    a = RANDOM.normal(size=(4, 4))
    a = a @ a.T + 4 * np.eye(4)
    inverse = np.linalg.inv(a)

    def log_det(a: mg.Tensor) -> mg.Tensor:
        return 2 * mg.log(mg.linalg.diagonal(mg.linalg.cholesky(a))).sum()

    for f in (log_det, lambda a: mg.linalg.slogdet(a)[1]):
        close(mg.grad(f)(mg.tensor(a)), inverse)
        v = RANDOM.normal(size=(4, 4))
        v = v + v.T
        close(mg.hvp(f, (mg.tensor(a),), (mg.tensor(v),))[0], -inverse @ v @ inverse)


def test_implicit_function():
    """y with y³ + y = x, by Newton's method, whose last step alone carries the gradient: y' = 1/(3y²+1)."""

    def root(x: Any) -> Any:
        y = mg.stop_gradient(x)
        for _ in range(50):
            y = y - (y**3 + y - mg.stop_gradient(x)) / (3 * y**2 + 1)
        y = mg.stop_gradient(y)
        return y - (y**3 + y - x) / mg.stop_gradient(3 * y**2 + 1)

    x = mg.tensor(2.5, dtype=mg.float64)
    y = root(x).item()
    assert abs(y**3 + y - 2.5) < 1e-14
    close(mg.grad(root)(x), 1 / (3 * y * y + 1))


def test_linear_map_is_its_own_derivative():
    a, x, v, u = tensor(3, 4), tensor(4), tensor(4), tensor(3)
    y, derivative = mg.jvp(lambda x: a @ x, (x,), (v,))
    close(y, a.numpy() @ x.numpy())
    close(derivative, a.numpy() @ v.numpy())
    y, pullback = mg.vjp(lambda x: a @ x, x)
    close(pullback(u)[0], a.numpy().T @ u.numpy())
    close(pullback(u)[0], a.numpy().T @ u.numpy())  # again
    for mode in ("reverse", "forward", None):
        close(mg.jacobian(lambda x: a @ x, mode=mode)(x), a)
    close(mg.hessian(lambda x: (a @ x) @ (a @ x))(x), 2 * a.numpy().T @ a.numpy())


# --- any nesting -----------------------------------------------------------------------------------


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass(frozen=True)
class Settings:
    scale: Any
    name: str = "plain"


def test_arguments_of_any_nesting():
    x, y, z = tensor(3), tensor(2, 2), tensor()
    tree = {"list": [x, (y, "text")], "pair": Pair(z, None), "settings": Settings(x * 2)}

    def f(tree: Any) -> Any:
        (x, (y, _)), pair, settings = tree["list"], tree["pair"], tree["settings"]
        assert (settings.name, pair.b) == ("plain", None)
        return (x * settings.scale).sum() + (y**2).sum() * pair.a

    value, gradient = mg.value_and_grad(f)(tree)
    close(value, f(tree))
    assert type(gradient["pair"]) is Pair
    assert gradient["settings"].name == "plain"
    close(gradient["list"][0], 2 * x.numpy())
    close(gradient["list"][1][0], 2 * y.numpy() * z.item())
    close(gradient["pair"].a, (y.numpy() ** 2).sum())
    close(gradient["settings"].scale, x.numpy())
    assert tree["settings"].scale is not gradient["settings"].scale
    assert not any(t.requires_grad for t in (x, y, z, value, gradient["pair"].a))


def test_argnums_and_aux():
    x, y = tensor(3), tensor(3)

    def f(x: Any, y: Any, power: int = 2) -> Any:
        return (x**power * y).sum(), {"twice": x * 2, "n": 3}

    gradient, aux = mg.grad(f, argnums=1, has_aux=True)(x, y, power=3)
    close(gradient, x.numpy() ** 3)
    assert aux["n"] == 3
    assert not aux["twice"].requires_grad
    (value, _), (dx, dy) = mg.value_and_grad(f, argnums=(0, 1), has_aux=True)(x, y)
    close(value, (x.numpy() ** 2 * y.numpy()).sum())
    close(dx, 2 * x.numpy() * y.numpy())
    close(dy, x.numpy() ** 2)
    (dy,) = mg.grad(lambda x, y: (x * y).sum(), argnums=[-1])(x, y)
    close(dy, x)
    jacobian, aux = mg.jacobian(lambda x: (x**2, "aux"), has_aux=True)(x)
    close(jacobian, np.diag(2 * x.numpy()))
    assert aux == "aux"
    _, pullback, aux = mg.vjp(lambda x: (x**2, x), x, has_aux=True)
    close(pullback(y)[0], 2 * x.numpy() * y.numpy())
    assert not aux.requires_grad
    assert mg.jvp(lambda x: (x**2, "aux"), (x,), (y,), has_aux=True)[2] == "aux"


def test_numbers_and_arrays_are_arguments():
    close(mg.grad(lambda x: x**3)(2.0), 12.0)
    close(mg.grad(lambda x: (x**3).sum())(np.array([1.0, 2.0])), [3.0, 12.0])
    y, derivative = mg.jvp(mg.sin, (0.5,), (2.0,))
    close(derivative, 2 * math.cos(0.5), 1e-6)
    close(y, math.sin(0.5), 1e-6)


def test_outputs_of_any_nesting():
    x, y = tensor(2), tensor(3)

    def f(x: Any, y: Any) -> Any:
        return {"sum": x.sum() + y.sum(), "outer": [mg.outer(x, y)]}

    for mode in ("reverse", "forward"):
        jacobian = mg.jacobian(f, argnums=(0, 1), mode=mode)(x, y)
        assert [j.shape for j in jacobian["sum"]] == [(2,), (3,)]
        assert [j.shape for j in jacobian["outer"][0]] == [(2, 3, 2), (2, 3, 3)]
        close(jacobian["outer"][0][0], np.einsum("ik,j->ijk", np.eye(2), y.numpy()))
        close(jacobian["outer"][0][1], np.einsum("jk,i->ijk", np.eye(3), x.numpy()))
    outputs, pullback = mg.vjp(f, x, y)
    dx, dy = pullback({"sum": 1.0, "outer": [mg.zeros_like(outputs["outer"][0])]})
    close(dx, np.ones(2))
    close(dy, np.ones(3))


def test_modules():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(mg.float64)
    x, y = tensor(5, 3), tensor(5, 1)

    def loss(model: Any, x: Any) -> Any:
        return nn.functional.mse_loss(model(x), y)

    value, (gradient, dx) = mg.value_and_grad(loss, argnums=(0, 1))(model, x)
    assert not value.requires_grad
    x.requires_grad_()
    loss(model, x).backward()
    assert list(gradient) == [name for name, _ in model.named_parameters()]
    for name, p in model.named_parameters():
        assert p.is_leaf
        close(gradient[name], p.grad, 1e-14)
        assert not gradient[name].requires_grad
    close(dx, x.grad, 1e-14)
    before = [p.node for p in model.parameters()]
    with pytest.raises(ZeroDivisionError):
        mg.grad(lambda model: 1 / 0)(model)
    assert [p.node for p in model.parameters()] == before
    model[0].requires_grad_(False)
    frozen = mg.grad(loss)(model, x)
    assert list(frozen) == ["2.weight", "2.bias"]


def test_hessian_of_a_small_net_against_differences_of_its_gradient():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).to(mg.float64)
    x, y = tensor(6, 2), tensor(6, 1)

    def loss(model: Any) -> Any:
        return nn.functional.mse_loss(model(x), y)

    hessian = mg.hessian(loss)(model)
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.size for p in model.parameters()]
    blocks = [
        [hessian[a][b].numpy().reshape(p, q) for b, q in zip(names, sizes, strict=True)]
        for a, p in zip(names, sizes, strict=True)
    ]
    whole = np.block(blocks)

    def flat_gradient() -> np.ndarray:
        gradient = mg.grad(loss)(model)
        return np.concatenate([gradient[name].numpy().reshape(-1) for name in names])

    numeric, eps = np.zeros_like(whole), 1e-5
    column = 0
    for p in model.parameters():
        value = p.detach().numpy()
        for i in range(p.size):
            two = []
            for sign in (1, -1):
                moved = value.copy().reshape(-1)
                moved[i] += sign * eps
                p.data = mg.tensor(moved.reshape(value.shape))
                two.append(flat_gradient())
            numeric[:, column] = (two[0] - two[1]) / (2 * eps)
            column += 1
        p.data = mg.tensor(value)
    close(whole, numeric, 1e-7)
    close(whole, whole.T, 1e-12)


# --- composing -------------------------------------------------------------------------------------


def test_transforms_compose():
    x, v = tensor(3), tensor(3)

    def f(x: Any) -> Any:
        return (mg.sin(x) * mg.exp(x[::-1])).sum()

    hessian = mg.hessian(f)(x)
    close(mg.jacobian(mg.grad(f))(x), hessian)
    for outer in ("reverse", "forward"):
        for inner in ("reverse", "forward"):
            close(mg.jacobian(mg.jacobian(f, mode=inner), mode=outer)(x), hessian)
    close(mg.hvp(f, (x,), (v,))[0], hessian.numpy() @ v.numpy())
    close(mg.jvp(mg.grad(f), (x,), (v,))[1], hessian.numpy() @ v.numpy())
    close(mg.grad(lambda x: (mg.grad(f)(x) * v).sum())(x), hessian.numpy() @ v.numpy())
    close(mg.vjp(mg.grad(f), x)[1](v)[0], hessian.numpy() @ v.numpy())
    third = mg.jacobian(mg.hessian(f))(x)
    close(mg.jvp(mg.hessian(f), (x,), (v,))[1], third.numpy() @ v.numpy())
    close(mg.grad(lambda x: mg.hvp(f, (x,), (v,))[0].sum())(x), (third.numpy() @ v.numpy()).sum(0))


def test_inner_and_outer_arguments_are_kept_apart():
    """Perturbation confusion: d/dx (x · d/dy (x + y)) is 1 (Siskind and Pearlmutter, 2005)."""
    close(mg.grad(lambda x: x * mg.grad(lambda y: x + y)(1.0))(1.0), 1.0)
    close(mg.grad(lambda x: x * mg.grad(lambda y: x * y)(2.0))(3.0), 6.0)
    close(mg.grad(lambda x: mg.jvp(lambda y: x * y * y, (x,), (1.0,))[1])(3.0), 12.0)


def test_gradients_flow_on_to_what_is_outside():
    w = tensor(3, requires_grad=True)
    x = tensor(3)
    slope = mg.grad(lambda x: (w * x**3).sum())(x)
    slope.sum().backward()
    close(w.grad, 3 * x.numpy() ** 2)
    w.grad = None
    slope = mg.grad(lambda w: (w**3).sum())(w)  # as torch.func does with a tensor that requires gradients
    slope.sum().backward()
    close(w.grad, 6 * w.detach().numpy())
    with mg.no_grad():
        assert not mg.grad(lambda w: (w**3).sum())(w).requires_grad
        assert not mg.hessian(lambda w: (w**3).sum())(w).requires_grad
    jacobian = mg.jacobian(lambda x: w * x**2)(x)
    w.grad = None
    jacobian.sum().backward()
    close(w.grad, 2 * x.numpy())
    _, derivative = mg.jvp(lambda x: w * x**2, (x,), (mg.ones_like(x),))
    w.grad = None
    derivative.sum().backward()
    close(w.grad, 2 * x.numpy())
    cotangent = tensor(3, requires_grad=True)
    _, pullback = mg.vjp(lambda x: x**2, x)
    pullback(cotangent)[0].sum().backward()
    close(cotangent.grad, 2 * x.numpy())


def test_nothing_is_written_to_grad():
    w = tensor(3, requires_grad=True)
    mg.hessian(lambda x: (x * w).sum() ** 2)(w)
    assert w.grad is None


def test_arguments_may_be_changed_in_place():
    def f(x: Any) -> Any:
        x *= 2
        x[0] = x[1] * 3
        return (x * x).sum()

    x = mg.tensor([1.0, 2.0], dtype=mg.float64)
    close(mg.grad(f)(x), [0.0, 2 * 4 * 2 * 10])  # of 10 (2 x₁)²
    close(mg.hessian(f)(x), [[0.0, 0.0], [0.0, 80.0]])
    assert x.tolist() == [1.0, 2.0]

    def g(layer: Any) -> Any:
        layer.weight += 1
        return layer.weight.sum()

    with pytest.raises(RuntimeError, match="leaf that requires gradients"):
        mg.grad(g)(nn.Linear(1, 1))


def test_no_grad_inside_is_obeyed():
    def f(x: Any) -> Any:
        with mg.no_grad():
            factor = x * 2
        return (factor * x).sum()

    close(mg.grad(f)(mg.tensor([1.0, 3.0])), [2.0, 6.0])


def test_unused_arguments_have_zero_gradients():
    x, y = tensor(3), tensor(2)
    dx, dy = mg.grad(lambda x, y: x.sum(), argnums=(0, 1))(x, y)
    close(dx, np.ones(3))
    close(dy, np.zeros(2))
    close(mg.grad(lambda x: mg.tensor(2.0))(x), np.zeros(3))
    close(mg.jacobian(lambda x: y, mode="forward")(x), np.zeros((2, 3)))
    close(mg.hessian(lambda x: x.sum())(x), np.zeros((3, 3)))
    assert mg.jacobian(lambda x: x[:0] * 2)(x).shape == (0, 3)
    assert mg.jacobian(lambda x: x.sum())(mg.zeros((0, 2))).shape == (0, 2)


BARE: Any = (1.0, 1.0)
NAMES: Any = "x"


def as_dict(x: Any) -> dict[str, Any]:
    return {"p": x, "q": 2 * x}


def test_trees_are_matched_by_their_keys():
    x = mg.tensor(3.0, dtype=mg.float64)
    _, pullback = mg.vjp(as_dict, x)
    close(pullback({"q": 0.0, "p": 1.0})[0], 1.0)
    close(pullback({"q": 1.0, "p": 0.0})[0], 2.0)
    primal, tangent = {"a": x, "b": x * 2}, {"b": 1.0, "a": 0.0}
    close(mg.jvp(lambda t: t["a"] * t["b"] ** 2, (primal,), (tangent,))[1], 2 * 3.0 * 6.0)
    model = nn.Linear(2, 1).to(mg.float64)
    tangents = {"bias": mg.ones(1), "weight": mg.zeros((1, 2))}
    (product,) = mg.hvp(lambda m: (m(mg.ones((1, 2), dtype=mg.float64)) ** 2).sum(), (model,), (tangents,))
    close(product["bias"], [2.0])
    close(product["weight"], [[2.0, 2.0]])


def test_the_same_value_in_several_places():
    x = mg.tensor([1.0, 2.0], dtype=mg.float64)
    dx, dy = mg.grad(lambda x, y: (x**2 * y).sum(), argnums=(0, 1))(x, x)
    close(dx, [2.0, 8.0])
    close(dy, [1.0, 4.0])
    close(mg.grad(lambda t: (t[0] ** 2 * t[1]).sum())([x, x])[1], [1.0, 4.0])
    assert [d.item() for d in mg.grad(lambda x, y: x * x * y, argnums=(0, 1))(3.0, 3.0)] == [18.0, 9.0]
    close(mg.jvp(lambda x, y: x * y, (x, x), (x, 0 * x))[1], [1.0, 4.0])
    layer = nn.Linear(1, 1).to(mg.float64)
    layer.weight.data, layer.bias.data = mg.full((1, 1), 3.0), mg.full(1, 1.0)

    def both(layer: Any, w: Any) -> Any:  # a module, and one of its parameters beside it
        return (layer(mg.ones((1, 1), dtype=mg.float64)) * w).sum()

    of_layer, of_w = mg.grad(both, argnums=(0, 1))(layer, layer.weight)
    close(of_layer["weight"], [[3.0]])
    close(of_w, [[4.0]])


def test_modules_stay_modules_in_what_a_function_gives_besides():
    layer = nn.Linear(1, 1)
    _, aux = mg.grad(lambda x: (x * 2, {"layer": layer, "x": x}), has_aux=True)(1.0)
    assert aux["layer"] is layer
    assert mg.checkpoint(lambda x: (x * 2, layer))(mg.ones(1, requires_grad=True))[1] is layer


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: mg.grad(lambda x: x)(mg.ones(3)), ValueError, r"grad: a tensor of shape \(3,\)"),
        (lambda: mg.grad(lambda x: 3.0)(mg.ones(3)), TypeError, "got float"),
        (lambda: mg.grad(lambda x: x)(3), TypeError, r"argument 0, of int: .*; write 3\.0"),
        (lambda: mg.grad(lambda x: x)(mg.arange(3)), TypeError, "holds int64"),
        (lambda: mg.grad(lambda x: x, argnums=2)(1.0), ValueError, "argnums has 2"),
        (lambda: mg.jvp(lambda x: x, *BARE), TypeError, "primals and tangents are tuples"),
        (lambda: mg.jvp(lambda x: x, (1.0,), (1.0, 2.0)), ValueError, "list of 1, got a list of 2"),
        (lambda: mg.jvp(lambda x: x, (mg.ones(3),), (mg.ones(2),)), ValueError, r"jvp, tangents: .*\(2,\)"),
        (lambda: mg.vjp(lambda x: x, mg.ones(3))[1](mg.ones(2)), ValueError, r"vjp, cotangents: .*\(2,\)"),
        (
            lambda: mg.vjp(as_dict, 1.0)[1]({"p": 1.0, "r": 1.0}),
            ValueError,
            "got the keys",
        ),
        (lambda: mg.vjp(as_dict, 1.0)[1](1.0), ValueError, r"keys \['p', 'q'\], got float"),
        (lambda: mg.vjp(as_dict, 1.0)[1]({"p": 1.0, "q": (1.0,)}), ValueError, "tuple in the place"),
        (
            lambda: mg.grad(mg.ones(3), mg.ones(3)),
            TypeError,
            "got Tensor.*autograd.grad",
        ),
        (lambda: mg.vmap(mg.ones(3)), TypeError, "vmap: takes a function"),
        (lambda: mg.checkpoint(mg.ones(3)), TypeError, "checkpoint: takes a function"),
        (lambda: mg.grad(lambda x: x, argnums=NAMES), TypeError, "argnums must be an integer"),
        (lambda: mg.grad(lambda x: x * x, has_aux=True)(mg.ones(2)), TypeError, "must give a pair"),
        (lambda: mg.vjp(lambda x: x, mg.ones(2), has_aux=True), TypeError, "must give a pair"),
        (lambda: mg.jacobian(lambda x: x, has_aux=True)(mg.ones(2)), TypeError, "must give a pair"),
        (lambda: mg.grad(lambda x: x.argmax())(mg.ones(3)), TypeError, "got int64"),
        (lambda: mg.grad(lambda x: x)(x=1.0), ValueError, "0 positional"),
        (lambda: mg.grad(lambda m: m)(nn.Linear(1, 1).requires_grad_(False)), TypeError, "none of its param"),
        (lambda: mg.grad(lambda m, n: m, (0, 1))(*[nn.Linear(1, 1)] * 2), ValueError, "in two places"),
        (lambda: mg.vjp(lambda x: (x, 3.0), mg.ones(3)), TypeError, "vjp: .*got float"),
        (lambda: mg.jacobian(lambda x: x.astype(mg.int64))(1.0), TypeError, "got int64"),
        (lambda: mg.jacobian(lambda x: x, mode="sideways"), ValueError, "mode"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


# --- torch and JAX ---------------------------------------------------------------------------------


w, x, v = RANDOM.normal(size=(4, 3)), RANDOM.normal(size=3), RANDOM.normal(size=3)


def wave(xp: Any, w: Any, x: Any) -> Any:
    return xp.exp(xp.tanh(w @ x)) * xp.sin((x * x).sum())


def ours(x: Any) -> Any:
    return wave(mg, mg.tensor(w), x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of torch.jit
def test_against_torch_func():
    torch: Any = torch_or_skip()

    def theirs(x: Any) -> Any:
        return wave(torch, torch.from_numpy(w), x)

    mx, mv, tx, tv = mg.tensor(x), mg.tensor(v), torch.from_numpy(x), torch.from_numpy(v)
    close(mg.jacobian(ours)(mx), torch.func.jacrev(theirs)(tx), 1e-12)
    close(mg.hessian(ours)(mx), torch.func.hessian(theirs)(tx), 1e-12)
    close(mg.jvp(ours, (mx,), (mv,))[1], torch.func.jvp(theirs, (tx,), (tv,))[1], 1e-12)
    close(
        mg.hvp(lambda x: ours(x).sum(), (mx,), (mv,))[0],
        torch.autograd.functional.hvp(lambda x: theirs(x).sum(), tx, tv)[1],
        1e-12,
    )
    value, gradient = mg.value_and_grad(lambda x: ours(x).sum())(mx)
    other, its = torch.func.grad_and_value(lambda x: theirs(x).sum())(tx)
    close(value, its, 1e-13)
    close(gradient, other, 1e-12)


def test_against_jax():
    jax: Any = pytest.importorskip("jax", reason="the oracle jax is not installed")
    jax.config.update("jax_enable_x64", True)

    def theirs(x: Any) -> Any:
        return wave(jax.numpy, w, x)

    mx, mv = mg.tensor(x), mg.tensor(v)
    close(mg.jacobian(ours)(mx), jax.jacfwd(theirs)(x), 1e-12)
    close(mg.hessian(ours)(mx), jax.hessian(theirs)(x), 1e-12)
    close(mg.jvp(ours, (mx,), (mv,))[1], jax.jvp(theirs, (x,), (v,))[1], 1e-12)
    close(mg.vjp(ours, mx)[1](mg.ones(4))[0], jax.vjp(theirs, x)[1](np.ones(4))[0], 1e-12)
    third = jax.jvp(jax.hessian(theirs), (x,), (v,))[1]
    close(mg.jvp(mg.hessian(ours), (mx,), (mv,))[1], third, 1e-11)


def test_autograd_grad_against_torch():
    torch: Any = torch_or_skip()
    a, b = RANDOM.normal(size=3), RANDOM.normal(size=3)

    def run(library: Any, tensor: Any) -> list[Any]:
        x, y, z = tensor(a), tensor(b), tensor(b)
        middle = x * y
        out = [library.sin(middle).sum(), middle * x]
        g = [None, tensor(a).detach()]
        found = list(library.autograd.grad(out, [x, middle, z], g, create_graph=True, allow_unused=True))
        again = library.autograd.grad((found[0] ** 2).sum(), [x, y])
        return [*found, *again, x.grad]

    ours = run(mg, lambda v: mg.tensor(v, requires_grad=True))
    theirs = run(torch, lambda v: torch.from_numpy(v.copy()).requires_grad_())
    for mine, its in zip(ours, theirs, strict=True):
        assert (mine is None) == (its is None)
        if mine is not None:
            close(mine, its, 1e-12)


# --- autograd.grad ---------------------------------------------------------------------------------


def test_grad_passes_only_what_leads_to_the_inputs():
    x = tensor(3, requires_grad=True)
    y = mg.exp(x)
    z = mg.sin(y)
    (g,) = mg.autograd.grad(z.sum(), y)  # frees the graph between, not what is behind y
    close(g, np.cos(y.detach().numpy()))
    y.sum().backward()
    close(x.grad, y.detach().numpy())
    with pytest.raises(RuntimeError, match="freed"):
        z.sum().backward()


def test_grad_of_an_output_by_itself_and_of_one_on_the_way():
    x = tensor(3, requires_grad=True)
    y = x * 2
    loss = (y * y).sum()
    itself, dy, dx = mg.autograd.grad(loss, [loss, y, x])
    close(itself, 1.0)
    close(dx, 2 * dy.numpy())
    y = x * 2
    twice = mg.autograd.grad([y, y], [x], [mg.ones_like(y), mg.ones_like(y)])
    close(twice[0], np.full(3, 4.0))


def test_grad_computes_nothing_for_tensors_that_nobody_asked_for():
    calls = []

    @mg.primitive(x=lambda g, y: calls.append("x") or g * y, y=lambda g, x: calls.append("y") or g * x)
    def times(xp: Any, x: Any, y: Any) -> Any:
        return x * y

    x, y = tensor(2, requires_grad=True), tensor(2, requires_grad=True)
    mg.autograd.grad(times(x, y).sum(), x)
    assert calls == ["x"]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda x, y: mg.autograd.grad(x.sum(), y), RuntimeError, r"input\(s\) \[0\].*allow_unused"),
        (lambda x, y: mg.autograd.grad(x.sum(), x.detach()), RuntimeError, "input 0, .*requires no grad"),
        (lambda x, y: mg.autograd.grad(x.detach().sum(), x), RuntimeError, "output 0, .*requires no grad"),
        (lambda x, y: mg.autograd.grad(x * 1, x), ValueError, r"shape \(3,\) needs a gradient"),
        (lambda x, y: mg.autograd.grad(x * 1, x, mg.ones(2)), ValueError, r"\(2,\)"),
        (lambda x, y: mg.autograd.grad([x.sum()], x, [None, None]), ValueError, r"1 output\(s\), and 2"),
        (lambda x, y: mg.autograd.grad(x.sum(), 3.0), TypeError, "inputs must be a tensor"),
    ],
)
def test_grad_errors(make, error, message):
    with pytest.raises(error, match=message):
        make(tensor(3, requires_grad=True), tensor(3, requires_grad=True))


def test_parameters_frozen_after_the_run():
    class Two(nn.Module):
        def __init__(self) -> None:
            self.a, self.b = nn.Parameter([1.0]), nn.Parameter([2.0])

    net = Two()
    _, pullback = mg.vjp(lambda net: net.a * 3 + net.b * 5, net)
    net.a.requires_grad_(False)
    assert {name: g.item() for name, g in pullback(mg.ones(1))[0].items()} == {"a": 3, "b": 5}


def test_argnums_that_name_an_argument_twice():
    with pytest.raises(ValueError, match=r"argnums names an argument twice: \(0, -2\)"):
        mg.grad(mg.multiply, (0, -2))(2.0, 3.0)


def test_threads_that_differentiate_by_one_module():
    net, xs = nn.Linear(3, 1), [float(i) * mg.ones((1, 3)) for i in range(4)]
    leaf = net.weight.node

    def loss(net: Any, x: mg.Tensor) -> mg.Tensor:
        h = net(x)
        time.sleep(0.001)  # others come in between
        return (net(h * x) ** 2).sum()

    def gradient(x: mg.Tensor) -> list[float]:
        return mg.grad(loss)(net, x)["weight"].tolist()

    alone = [gradient(x) for x in xs * 5]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(gradient, xs * 5)) == alone
    assert net.weight.node is leaf


# --- checkpoint ------------------------------------------------------------------------------------


def block(x: Any) -> Any:
    return mg.tanh(mg.exp(mg.sin(x)) * 0.5)


def test_checkpoint_has_the_same_gradients_to_any_order():
    x = tensor(5, requires_grad=True)
    assert gradcheck(mg.checkpoint(block), x, order=3)
    close(mg.hessian(lambda x: mg.checkpoint(block)(x).sum())(x), mg.hessian(lambda x: block(x).sum())(x))
    nested = mg.checkpoint(lambda x: mg.checkpoint(block)(x) * mg.checkpoint(mg.cos)(x))
    assert gradcheck(nested, x, order=2)


def test_checkpoint_with_several_results_and_arguments():
    x, y, w = (tensor(3, requires_grad=True) for _ in range(3))

    def f(x: Any, tree: Any, n: int = 1) -> Any:
        a = x * tree["y"] + w
        return {"a": a, "b": [mg.exp(a) * n, "text", x], "c": mg.argmax(a)}

    def loss(f: Any) -> Any:
        out = f(x, {"y": y}, n=2)
        assert out["b"][1] == "text"
        assert out["b"][2] is x
        return (out["a"] * out["b"][0]).sum() + (out["a"] ** 2).sum()

    loss(mg.checkpoint(f)).backward()
    found = [t.grad for t in (x, y, w)]
    for t, g in zip((x, y, w), found, strict=True):
        t.grad = None
        loss(f).backward()
        close(t.grad, g, 1e-14)
    (g,) = mg.autograd.grad(mg.checkpoint(f)(x, {"y": y})["b"][0].sum(), y)  # one result, one parent
    (its,) = mg.autograd.grad(f(x, {"y": y})["b"][0].sum(), y)
    close(g, its, 1e-14)


@pytest.mark.parametrize("create_graph", [False, True])
def test_checkpoint_of_arguments_that_depend_on_each_other(create_graph):
    def loss(wrap: Any, x: mg.Tensor) -> mg.Tensor:
        y = mg.sin(x)
        y.register_hook(lambda g: g * 2)
        return wrap(lambda a, b: a * b + x)(x, y) + 5 * y * y

    found = []
    for wrap in (mg.checkpoint, lambda f: f):
        x = mg.tensor(3.0, requires_grad=True)
        x.register_hook(lambda g: g * 3)
        loss(wrap, x).backward(retain_graph=True)
        first = x.grad.item()
        loss(wrap, x).backward(create_graph=create_graph)
        found.append((first, x.grad.item(), mg.grad(mg.grad(lambda x, wrap=wrap: loss(wrap, x)))(x).item()))
    assert found[0] == pytest.approx(found[1])


def test_checkpointed_modules_train_as_they_would():
    def steps(wrap: Any) -> list[float]:
        mg.random.seed(3)
        layers = [nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Tanh()) for _ in range(3)]
        optimizer = mg.optim.RAdam([p for layer in layers for p in layer.parameters()], lr=0.01)
        x, losses = mg.random.normal((16, 8)), []
        for _ in range(10):
            optimizer.zero_grad()
            h: Any = x
            for layer in layers:
                h = wrap(layer)(h)
            loss = (h**2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    assert steps(mg.checkpoint) == steps(lambda layer: layer)


def test_checkpoints_inside_transforms_of_modules():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(mg.float64)
    x = tensor(5, 3)
    plain = mg.value_and_grad(lambda model: (model(x) ** 2).sum())
    less = mg.value_and_grad(lambda model: (mg.checkpoint(model)(x) ** 2).sum())
    (value, gradient), (other, its) = plain(model), less(model)
    close(value, other, 1e-14)
    for name, g in gradient.items():
        close(g, its[name], 1e-13)
    one = mg.hessian(lambda model: (model(x) ** 2).sum())(model)
    two = mg.hessian(lambda model: (mg.checkpoint(model)(x) ** 2).sum())(model)
    for a in one:
        for b in one:
            close(one[a][b], two[a][b], 1e-12)


def test_a_checkpoint_outlives_the_transform_that_ran_it():
    net, w = nn.Linear(2, 1).to(mg.float64), tensor(1, requires_grad=True)
    x = tensor(3, 2)
    value, _ = mg.value_and_grad(lambda net: (mg.checkpoint(net)(x) * w).sum())(net)
    value.backward()
    close(w.grad, net(x).sum().reshape(1))
    assert not hasattr(mg.checkpoint(net), "weight")


def test_checkpoint_says_when_the_second_run_differs():
    w = mg.tensor([1.0, 2.0], requires_grad=True)
    optimizer = mg.optim.SGD([w], lr=0.5)
    y = mg.checkpoint(lambda: mg.tanh(w + 1))().sum()
    (w * 1).sum().backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="depends on something that has changed"):
        y.backward()
    calls = []
    x = tensor(3, requires_grad=True)

    def unsteady(x: Any) -> Any:
        calls.append(1)
        return x * len(calls)

    with pytest.raises(RuntimeError, match="'unsteady' again"):
        mg.checkpoint(unsteady)(x).sum().backward()


def test_checkpoint_sees_changes_that_leave_the_sums_as_they_were():
    w = mg.tensor([1.0, 2.0], requires_grad=True)
    y = mg.checkpoint(lambda: mg.softmax(w + 1))()
    w.data = np.array([3.0, 1.0])
    with pytest.raises(RuntimeError, match="depends on something that has changed"):
        y[0].backward()


def test_checkpoint_goes_by_the_arguments_it_was_given():
    def f(x: Any, array: Any) -> Any:
        x *= 2
        return (w * x * x * array).sum()

    found = []
    for wrap in (mg.checkpoint, lambda f: f):
        w = mg.tensor([1.0, 2.0, 3.0], requires_grad=True)
        x, array = mg.tensor([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 1.0])
        y = wrap(f)(x, array)
        x[...] = x[::-1]
        array[...] = array[::-1]
        y.backward(retain_graph=True)
        y.backward()
        found.append((x.tolist(), w.grad.tolist()))
    assert found[0] == found[1] == ([6, 4, 2], [16, 32, 72])


def test_checkpoint_keeps_nothing_of_a_pass():
    x, w = tensor(3, requires_grad=True), tensor(3, requires_grad=True)

    def use() -> None:
        y = mg.checkpoint(lambda x, w: x * w * x)(x, w)
        mg.autograd.grad((y * y).sum(), x, create_graph=True)

    assert garbage(use) == 0


def test_checkpoint_and_infinite_gradients():
    x = tensor(2, requires_grad=True)
    with mg.detect_anomaly():
        mg.checkpoint(lambda x: x * 2)(x).backward([math.inf, 1.0])
        with pytest.raises(FloatingPointError, match="the gradient of 'sqrt' holds an infinity"):
            mg.checkpoint(lambda x: mg.sqrt(x * 0))(x).sum().backward()
    assert x.grad.tolist() == [math.inf, 2]


def test_checkpoint_of_dropout_in_a_jacobian():
    x = tensor(4)
    matrix = mg.jacobian(mg.checkpoint(lambda x: nn.functional.dropout(x, 0.5)))(x).numpy()
    assert (matrix == np.diag(np.diag(matrix))).all()
    assert set(np.diag(matrix)) <= {0, 2}


def test_checkpoint_in_a_vmap_that_is_over():
    c, x = tensor(3), tensor(4, 3, requires_grad=True)

    def f(x: Any) -> Any:  # of one example, differentiated by what all share
        return mg.grad(lambda c: (mg.sin(x) * c**3).sum())(c)

    for h in (f, lambda x: mg.jacobian(lambda c: mg.sin(x) * c**3)(c) @ x):
        (expected,) = mg.autograd.grad((mg.vmap(h)(x) ** 2).sum(), x)
        (got,) = mg.autograd.grad((mg.vmap(mg.checkpoint(h))(x) ** 2).sum(), x)
        close(got, expected)


def test_checkpoint_draws_the_same_random_numbers_and_leaves_the_stream():
    mg.random.seed(1)
    x = mg.ones(100, requires_grad=True)
    y = mg.checkpoint(lambda x: nn.functional.dropout(x, 0.5))(x)
    after = mg.random.get_state()
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())
    assert mg.random.get_state() == after


def test_checkpoint_under_no_grad_and_without_gradients():
    x = tensor(3, requires_grad=True)
    with mg.no_grad():
        assert not mg.checkpoint(block)(x).requires_grad
    assert not mg.checkpoint(block)(x.detach()).requires_grad
    y = mg.checkpoint(block)(x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="freed"):
        y.backward()


def test_checkpoint_memory():
    """Four segments of four blocks, each of which keeps two arrays, the results of exp and of tanh."""
    size = 100_000
    x = mg.ones(size, requires_grad=True)

    def segment(x: Any) -> Any:
        for _ in range(4):
            x = block(x)
        return x

    def peak(wrap: Any) -> float:
        def run() -> None:
            y: Any = x
            for _ in range(4):
                y = wrap(segment)(y)
            x.grad = None
            y.sum().backward()

        return mg.testing.peak_bytes(run) / (4 * size)  # in arrays

    plain, less = peak(lambda f: f), peak(mg.checkpoint)
    assert 4 * 4 * 2 <= plain < 4 * 4 * 2 + 4
    # The results of the segments, the inside of one, and a few arrays in work.
    assert less < 4 + 4 * 2 + 4
    assert less < plain / 2


def test_peak_bytes():
    assert 80_000 <= mg.testing.peak_bytes(lambda: mg.ones(10_000, dtype=mg.float64)) < 90_000
    assert mg.testing.peak_bytes(lambda: None) < 1000
