"""The example of RAdam: its variances against theory and against integrals, its runs, its words."""

import math

import numpy as np
import pytest
from test_project import example

import minigrad as mg

radam = example("radam")


def integral(power: float, n: float) -> float:
    """E[x^power] of a chi-squared x with n degrees of freedom, by the trapezoidal rule over ln x."""
    y = np.linspace(-40, math.log(n + 60 * math.sqrt(n) + 300), 200_001)
    density = np.exp(n / 2 * y - np.exp(y) / 2 - n / 2 * math.log(2) - math.lgamma(n / 2))
    return float(np.sum(np.exp(power * y) * density) * (y[1] - y[0]))


@pytest.mark.parametrize("n", [3.0, 5.0, 5.5, 12.0, 100.0, 1999.0])
def test_exact_variance_is_that_of_the_integral(n):
    assert integral(0, n) == pytest.approx(1, rel=1e-9)
    expected = n * (integral(-1, n) - integral(-0.5, n) ** 2)
    assert radam.exact_variance(n) == pytest.approx(expected, rel=1e-6)


def test_exact_variance_is_that_of_the_papers_equation():
    for n in (5.0, 7.5, 40.0):  # the same with the beta function B(a, a), a = (ρ - 1)/2
        a = (n - 1) / 2
        beta = math.exp(2 * math.lgamma(a) - math.lgamma(2 * a))
        expected = n / (n - 2) - n * 2 ** (2 * n - 5) / math.pi * beta**2
        assert radam.exact_variance(n) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [10.0, 50.0, 1999.0])
def test_exact_variance_is_that_of_random_draws(n):
    size = 400_000
    psi = np.sqrt(n / np.random.default_rng(0).chisquare(n, size))
    variance = psi.var()
    error = math.sqrt((np.mean((psi - psi.mean()) ** 4) - variance**2) / size)  # its standard error
    assert abs(radam.exact_variance(n) - variance) < 4 * error
    assert error < 0.01 * variance
    assert radam.sampled_variance(n, np.random.default_rng(1)) == pytest.approx(variance, rel=0.04)


def test_first_order_approaches_the_exact_variance():
    assert radam.exact_variance(5) == pytest.approx(0.252, abs=5e-4)
    assert radam.first_order_variance(5) == pytest.approx(5 / 6)
    ratio = {n: radam.first_order_variance(n) / radam.exact_variance(n) for n in range(5, 2000)}
    assert all(ratio[n] > ratio[n + 1] > 1 for n in range(5, 1999))
    assert ratio[100] < 1.025
    assert ratio[229] > 1.01 > ratio[230]
    # The rule's factor is the root of a ratio of two such variances, and so is within 1% much sooner.
    limit = radam.rho_infinity(0.999)
    for t in (100, 130, 1000):
        n = radam.rho(t, 0.999)
        exact = math.sqrt(radam.exact_variance(limit) / radam.exact_variance(n))
        assert radam.r(t) == pytest.approx(exact, rel=0.0125)
        first_order = math.sqrt(radam.first_order_variance(limit) / radam.first_order_variance(n))
        assert radam.r(t) == pytest.approx(first_order, rel=1e-12)


def test_variance_of_simulated_gradients():
    sequences = 5000
    variance = radam.adaptive_rate_variance(np.random.default_rng(0), sequences, 600)
    assert variance.shape == (600, 6)
    # Four standard errors of a variance of 5000 draws; at t = 5 the tail is heavy, whence the wider one.
    for t, expected, tolerance in ((5, 0.22, 0.3), (10, 0.081, 0.15), (600, 8.9e-4, 0.09)):
        assert variance[t - 1, 0] == pytest.approx(expected, rel=tolerance)
        rectified = radam.r(t, threshold=4) ** 2 * variance[t - 1, 0]
        aim = {5: 6.6e-5, 10: 1.9e-4, 600: 2.4e-4}[t]
        assert rectified == pytest.approx(aim, rel=tolerance)
    # A small mean changes nothing; a large one leaves next to no variance.
    np.testing.assert_allclose(variance[4:, 1], variance[4:, 0], rtol=0.05)
    assert (variance[4:, 5] < 1e-3 * variance[4:, 0]).all()
    # At t = 5 v̂ is all but a plain mean of five squares, for which the exact variance is known.
    many = radam.adaptive_rate_variance(np.random.default_rng(1), 400_000, 5)[4, 0]
    assert many == pytest.approx(radam.exact_variance(5), rel=0.05)


def test_rectification_begins_where_radams_does():
    assert [radam.r(t) > 0 for t in (4, 5, 6)] == [False, False, True]
    assert radam.r(5, threshold=4) == pytest.approx(0.0173, abs=1e-4)
    assert radam.mean_r(400) == pytest.approx(0.2866, abs=1e-4)


def test_skip_is_adam_with_the_factor_r():
    arms, data = radam.make_arms(40), radam.digits(0)
    factor = (mg.optim.Adam, radam.r)
    loss, accuracy = radam.train(factor, 2, 0.01, 40, 0, data)
    ends = radam.train(arms["RAdam skip"], 2, 0.01, 40, 0, data)
    assert ends == (pytest.approx(loss, rel=1e-3), pytest.approx(accuracy, abs=0.01))
    assert radam.train(arms["RAdam skip"], 2, 0.01, 40, 0, data) == ends  # the seed fixes all
    assert radam.train(arms["RAdam skip"], 2, 0.01, 40, 1, data) != ends


def test_a_run_that_diverges_counts_as_failed():
    data = radam.digits(0)
    with np.errstate(all="warn"):  # any warning would be an error here
        ends = radam.train((mg.optim.SGD, lambda t: 1.0), 6, 1e9, 10, 0, data)
    assert ends == (math.inf, 0.1)
    accuracy = np.array([[0.9, 0.9], [0.95, 0.93], [0.94, 0.92], [0.5, 0.9]])
    loss = np.array([[0.1, 0.1], [0.1, 0.1], [0.1, math.inf], [2.0, 0.1]])
    rates = np.array([0.001, 0.01, 0.1, 1.0])
    s = radam.Sweep(rates, {"a": loss, "b": loss}, {"a": accuracy, "b": accuracy - 0.1})
    assert radam.good_rates(s, "a").tolist() == [0.01]
    assert radam.range_text(s, "b") == "none"


def test_the_verdict_follows_the_numbers():
    variance, rates = np.full((5, 6), 0.2), np.array([0.01, 0.1])

    def words(control: float, gain: float) -> str:
        accuracy = {name: np.full((2, 3), 0.5) for name in (radam.ADAM, radam.CONTROL, radam.RADAM)}
        accuracy[radam.CONTROL] += control
        accuracy[radam.RADAM] += gain
        s = radam.Sweep(rates, {name: np.ones((2, 3)) for name in accuracy}, accuracy)
        return " ".join(radam.conclusions(variance, {"net": s}, 100, 3).split())

    assert "explain all of RAdam's gain (100%). RAdam and the control do not" in words(0.2, 0.2)
    assert "explain most of RAdam's gain (75%). RAdam did better than the control" in words(0.15, 0.2)
    assert "explain less than half of RAdam's gain (25%)." in words(0.05, 0.2)
    assert "no sure gain to explain. The control did better than RAdam with every" in words(0.1, -0.1)
    assert "lies with a chance of 75%: too few" in words(0.1, 0.2)
    assert "Good rates: Adam none; Adam × mean r none; RAdam momentum <0.01 to >0.1 (×10)." in words(0.1, 0.2)


def test_the_example_runs(tmp_path, capsys):
    picture = tmp_path / "radam.png"
    sweeps = radam.main(["--seeds", "1", "--steps", "6", "--out", str(picture)])
    printed = capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 150_000
    assert [s.loss["Adam"].shape for s in sweeps.values()] == [(6, 1), (6, 1)]
    assert all(len(s.accuracy) == 7 for s in sweeps.values())
    assert "RAdam skip" in printed
    assert "too few to conclude anything" in printed
    assert printed.splitlines()[-1].endswith("disputed by Ma and Yarats (arXiv 1910.04209).")
    with pytest.raises(SystemExit):
        radam.main(["--steps", "5"])
    assert "--steps at least 6" in capsys.readouterr().err
