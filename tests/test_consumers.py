"""Code that others wrote for the Array API standard runs on tensors, and can be differentiated.

Values are compared with the same function's on NumPy arrays, gradients of both orders with differences.
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad.testing import gradcheck


def consumer(name: str) -> Any:
    """A module of another package, or a skipped test. (See conftest.py for SciPy's switch.)"""
    pytest.importorskip(name.partition(".")[0], reason=f"{name} is not installed")
    return importlib.import_module(name)


@pytest.fixture(autouse=True)
def _double_precision():
    """SciPy and scikit-learn make arrays from Python numbers: as precise as those that they are given."""
    mg.set_default_dtype(mg.float64)
    yield
    mg.set_default_dtype(mg.float32)


X, Y = np.random.default_rng(0).uniform(0.2, 1.0, (2, 5, 3))


def check(function: Callable[..., Any], *arrays: np.ndarray) -> None:
    """Fail unless `function` gives tensors of the values that it gives for arrays, and gradients."""
    tensors = [mg.tensor(a, requires_grad=True) for a in arrays]
    found = function(*tensors)
    assert isinstance(found, mg.Tensor)
    assert found.requires_grad
    np.testing.assert_allclose(found.detach().numpy(), function(*arrays), rtol=1e-12, atol=1e-14)
    assert gradcheck(function, *tensors, order=2)


# --- SciPy -------------------------------------------------------------------------------------------

SCIPY: dict[str, tuple[str, Callable[..., Any], int]] = {
    "logsumexp": ("special", lambda m, x: m.logsumexp(x, axis=1), 1),
    "softmax": ("special", lambda m, x: m.softmax(x, axis=1), 1),
    "xlogy": ("special", lambda m, x, y: m.xlogy(x, y), 2),
    "rel_entr": ("special", lambda m, x, y: m.rel_entr(x, y), 2),
    "zscore": ("stats", lambda m, x: m.zscore(x, axis=0), 1),
    "skew": ("stats", lambda m, x: m.skew(x, axis=0), 1),
    "gmean": ("stats", lambda m, x: m.gmean(x, axis=1), 1),
    "entropy": ("stats", lambda m, x, y: m.entropy(x, y, axis=0), 2),
    "lmoment": ("stats", lambda m, x: m.lmoment(x, axis=0), 1),
    "quantile": ("stats", lambda m, x: m.quantile(x, 0.3, axis=0), 1),
    "circmean": ("stats", lambda m, x: m.circmean(x, axis=0), 1),
    "trapezoid": ("integrate", lambda m, x, y: m.trapezoid(x, y, axis=0), 2),
    "cumulative_simpson": ("integrate", lambda m, x: m.cumulative_simpson(x, axis=0), 1),
    "cubature": (
        "integrate",
        lambda m, x: (
            m.cubature(
                lambda t: x.__array_namespace__().exp(t * x[0, :]),
                *(x.__array_namespace__().full(1, v, dtype=mg.float64) for v in (0.0, 1.0)),
            ).estimate
        ),
        1,
    ),
    "rosen": ("optimize", lambda m, x: m.rosen(x), 1),
    "rosen_der": ("optimize", lambda m, x: m.rosen_der(x), 1),
    "derivative": ("differentiate", lambda m, x: m.derivative(lambda t: t**3, x).df, 1),
    "whiten": ("cluster.vq", lambda m, x: m.whiten(x), 1),
    "gaussian window": ("signal.windows", lambda m, x: x * m.gaussian(3, 1.0, xp=x.__array_namespace__()), 1),
    "Rotation": ("spatial.transform", lambda m, x: m.Rotation.from_rotvec(x).as_matrix(), 1),
}


@pytest.mark.parametrize("name", SCIPY)
def test_scipy(name):
    module, function, inputs = SCIPY[name]
    scipy = consumer(f"scipy.{module}")
    check(lambda *xs: function(scipy, *xs), *(X, Y)[:inputs])


def test_scipy_refuses_loudly_what_it_computes_in_c():
    special = consumer("scipy.special")
    with pytest.raises(RuntimeError, match="detach"):
        special.gammaln(mg.tensor(X, requires_grad=True))
    found = special.gammaln(mg.tensor(X))
    assert isinstance(found, mg.Tensor)
    np.testing.assert_allclose(found.numpy(), special.gammaln(X))


# --- scikit-learn ------------------------------------------------------------------------------------

SKLEARN: dict[str, tuple[str, Callable[..., Any], int]] = {
    "mean_squared_error": (
        "metrics",
        lambda m, x, y: m.mean_squared_error(x, y, multioutput="raw_values"),
        2,
    ),
    "r2_score": ("metrics", lambda m, x, y: m.r2_score(x, y, multioutput="raw_values"), 2),
    "euclidean_distances": ("metrics.pairwise", lambda m, x, y: m.euclidean_distances(x, y), 2),
    "cosine_similarity": ("metrics.pairwise", lambda m, x, y: m.cosine_similarity(x, y), 2),
    "rbf_kernel": ("metrics.pairwise", lambda m, x, y: m.rbf_kernel(x, y), 2),
    "MinMaxScaler": ("preprocessing", lambda m, x: m.MinMaxScaler().fit_transform(x), 1),
    "Normalizer": ("preprocessing", lambda m, x: m.Normalizer().fit_transform(x), 1),
    "PolynomialFeatures": ("preprocessing", lambda m, x: m.PolynomialFeatures().fit_transform(x), 1),
    "PCA": ("decomposition", lambda m, x: m.PCA(2, svd_solver="full").fit_transform(x), 1),
    "PCA, explained variance": (
        "decomposition",
        lambda m, x: m.PCA(2, svd_solver="full").fit(x).explained_variance_,
        1,
    ),
    "Ridge": ("linear_model", lambda m, x, y: m.Ridge(solver="svd").fit(x, y[:, 0]).coef_, 2),
}


@pytest.mark.parametrize("name", SKLEARN)
def test_scikit_learn(name):
    module, function, inputs = SKLEARN[name]
    sklearn = consumer("sklearn")
    its = consumer(f"sklearn.{module}")
    with sklearn.config_context(array_api_dispatch=True):
        check(lambda *xs: function(its, *xs), *(X, Y)[:inputs])


@pytest.mark.parametrize("name", ["accuracy_score", "f1_score", "recall_score"])
def test_scikit_learns_scores_of_classes(name):
    sklearn, metrics = consumer("sklearn"), consumer("sklearn.metrics")
    true, guessed = np.array([0, 1, 1, 0, 1]), np.array([0, 1, 0, 0, 1])
    score = getattr(metrics, name)
    with sklearn.config_context(array_api_dispatch=True):
        assert score(mg.asarray(true), mg.asarray(guessed)) == pytest.approx(score(true, guessed))


# --- einops ------------------------------------------------------------------------------------------

EINOPS: dict[str, Callable[..., Any]] = {
    "rearrange": lambda m, x: m.rearrange(x, "(a b) c -> c b a", a=1),
    "rearrange a list": lambda m, x: m.rearrange([x, x * 2], "n a b -> a (b n)"),
    "repeat": lambda m, x: m.repeat(x, "a b -> a (2 b) c", c=3),
    "mean": lambda m, x: m.reduce(x, "(a b) c -> b c", "mean", a=1),
    "max": lambda m, x: m.reduce(x, "a b -> b", "max"),
    "prod": lambda m, x: m.reduce(x, "a b -> a", "prod"),
    "pack": lambda m, x: m.pack([x, x[:, 0]], "a *")[0],
    "unpack": lambda m, x: m.unpack(x, [(2,), ()], "a *")[0],
}


@pytest.mark.parametrize("name", EINOPS)
def test_einops(name):
    einops = consumer("einops.array_api")
    check(lambda x: EINOPS[name](einops, x), X)
