"""What RAdam's rule does, and whether training gains by it: two figures of the paper, and a fair sweep.

    python examples/radam.py --full --out radam.png

1. Figures 8 and 9 of Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond" (ICLR 2020):
   how widely Adam's 1/√v varies in the first steps, and what is left of that once r_t multiplies it.
2. Two nets learn scikit-learn's 8 by 8 digits, with Adam and RAdam at many learning rates. r_t also makes
   the rate smaller, which is easily mistaken for its merit. So beside Adam with warm-up there is a
   control: Adam whose rate is multiplied throughout by the mean of RAdam's r_t.

Not shown: the paper's results on CIFAR, ImageNet, translation and language models, which were not run.
Runs much shorter than 2/(1 - β2) = 2000 steps, as here, mostly measure that r_t makes the rate smaller.
That variance is why warm-up helps is disputed by Ma and Yarats, arXiv 1910.04209, whose linear warm-up
over 2/(1 - β2) steps is among the arms. Without --full there are too few seeds to conclude anything.
"""

import argparse
import math
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, repeat
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draw into a file: no screen is needed

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image  # comes with matplotlib
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits  # comes with scikit-learn
from tqdm import tqdm

import minigrad as mg
from minigrad import nn
from minigrad.nn.functional import cross_entropy
from minigrad.optim.radam import rectification, rho, rho_infinity

BETA2 = 0.999  # the optimizers' default
WARMUP = round(2 / (1 - BETA2))  # steps of the "untuned" linear warm-up of Ma and Yarats
MEANS = (0.0, 0.001, 0.01, 0.1, 1.0, 10.0)  # μ of the simulated gradients, as in the paper's Figure 9
LENGTHS = np.unique(np.geomspace(5, rho_infinity(BETA2), 25).round())  # ρ from 5 to ρ_∞, for Figure 8
NETS = {"1 hidden layer": 1, "6 hidden layers": 6}
TOLERANCE = 0.02  # a rate is good if its mean accuracy is at most this below the best of all arms
CHANCE = 2.2  # a training loss above this is hardly better than guessing, which gives ln 10 = 2.30
# An optimizer, and the factor by which its learning rate is multiplied in step t.
Arm = tuple[Callable[..., mg.optim.Optimizer], Callable[[int], float]]
ADAM, CONTROL, RADAM = "Adam", "Adam × mean r", "RAdam momentum"


# --- the variance of 1/√v ----------------------------------------------------------------------------


def exact_variance(n: float) -> float:
    """Var[ψ] where ψ² = n / χ²_n: the paper's model of 1/v̂ as the inverse of a mean of n squares.

    It is E[ψ²] - E[ψ]², with E[1/χ²] = 1/(n - 2) and E[1/χ] = Γ((n - 1)/2) / (√2 Γ(n/2)).
    """
    return n / (n - 2) - n / 2 * math.exp(2 * (math.lgamma((n - 1) / 2) - math.lgamma(n / 2)))


def first_order_variance(n: float) -> float:
    """The approximation of it that r_t is made from: r_t = √(its value at ρ_∞ / its value at ρ_t)."""
    return n / (2 * (n - 2) * (n - 4))


def sampled_variance(n: float, random: np.random.Generator, size: int = 100_000) -> float:
    """The same as the variance of random draws."""
    return float(np.var(np.sqrt(n / random.chisquare(n, size))))


def adaptive_rate_variance(random: np.random.Generator, sequences: int, iterations: int) -> np.ndarray:
    """Var[1/√v̂_t] over sequences of gradients g ~ N(μ, 1): an array with axes t - 1 and μ."""
    means = np.array(MEANS)[:, None]
    v = np.zeros((len(MEANS), sequences))
    variance = np.empty((iterations, len(MEANS)))
    for t in range(1, iterations + 1):
        g = means + random.standard_normal(sequences)  # the same noise for each μ
        v = BETA2 * v + (1 - BETA2) * g**2
        variance[t - 1] = np.var(np.sqrt((1 - BETA2**t) / v), axis=1)
    return variance


def r(t: int, threshold: float = 5) -> float:
    """r_t, or 0 where RAdam does not rectify yet."""
    return rectification(t, BETA2) if rho(t, BETA2) > threshold else 0.0


def mean_r(steps: int) -> float:
    """The mean of r_t over a run."""
    return sum(map(r, range(1, steps + 1))) / steps


# --- the sweep ---------------------------------------------------------------------------------------


@dataclass
class Sweep:
    """What a net came to: for each arm, arrays with axes rate and seed."""

    rates: np.ndarray
    loss: dict[str, np.ndarray]  # on the training set, after the last step; inf if it diverged
    accuracy: dict[str, np.ndarray]  # on the test set


def make_arms(steps: int) -> dict[str, Arm]:
    """All that is compared. (RAdam "skip" is, but for ε, Adam with a warm-up whose factor is r_t.)"""
    scale = mean_r(steps)
    return {
        ADAM: (mg.optim.Adam, lambda t: 1.0),
        f"Adam, warm-up {WARMUP}": (mg.optim.Adam, lambda t: min(1.0, t / WARMUP)),
        "Adam, warm-up 100": (mg.optim.Adam, lambda t: min(1.0, t / 100)),
        CONTROL: (mg.optim.Adam, lambda t: scale),
        RADAM: (mg.optim.RAdam, lambda t: 1.0),
        "RAdam adam": (partial(mg.optim.RAdam, unrectified="adam"), lambda t: 1.0),
        "RAdam skip": (partial(mg.optim.RAdam, unrectified="skip"), lambda t: 1.0),
    }


def digits(seed: int) -> list[mg.Tensor]:
    """Training images, test images (a fifth), training labels, test labels."""
    images, labels = load_digits(return_X_y=True)
    images = np.asarray(images, np.float32) / 16
    split = train_test_split(images, labels, test_size=0.2, random_state=seed, stratify=labels)
    return [mg.tensor(part, device="numpy") for part in split]


def train(arm: Arm, depth: int, rate: float, steps: int, seed: int, data: list[mg.Tensor]):
    """Train a net from scratch; returns its training loss (inf if it diverged) and its test accuracy."""
    x_train, x_test, y_train, y_test = data
    mg.random.seed(seed)  # the same initial weights and batches for each arm and rate
    layers: list[nn.Module] = []
    for i in range(depth):
        hidden = nn.Linear(32 if i else 64, 32)
        nn.init.kaiming_uniform_(hidden.weight, nonlinearity="relu")  # keeps the signal up in a deep net
        layers += [hidden, nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(32, 10))
    make_optimizer, factor = arm
    optimizer = make_optimizer(model.parameters(), lr=rate)
    batches = mg.data.batches(x_train, y_train, size=32, seed=seed, drop_last=True)
    endless = chain.from_iterable(repeat(batches))
    with np.errstate(over="ignore", invalid="ignore"):  # runs that diverge are counted, not warned of
        for t, (x, y) in enumerate(islice(endless, steps), start=1):
            optimizer.param_groups[0]["lr"] = rate * factor(t)
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        with mg.no_grad():
            loss = cross_entropy(model(x_train), y_train).item()
            guess = mg.argmax(model(x_test), axis=1).numpy()
    if not math.isfinite(loss):
        return math.inf, 0.1  # as good as guessing
    return loss, float(np.mean(guess == y_test.numpy()))


def sweep(
    arms: dict[str, Arm], rates: np.ndarray, seeds: Iterable[int], steps: int, progress: Any
) -> dict[str, Sweep]:
    """Train every net with every arm, rate and seed."""
    datasets = {seed: digits(seed) for seed in seeds}
    sweeps = {}
    for net, depth in NETS.items():
        sweeps[net] = Sweep(rates, {}, {})
        for name, arm in arms.items():
            progress.set_postfix_str(f"{net}, {name}")
            ends = np.empty((len(rates), len(datasets), 2))
            for i, rate in enumerate(rates):
                for j, (seed, data) in enumerate(datasets.items()):
                    ends[i, j] = train(arm, depth, float(rate), steps, seed, data)
                    progress.update()
            sweeps[net].loss[name], sweeps[net].accuracy[name] = ends[..., 0], ends[..., 1]
    return sweeps


# --- what it comes to --------------------------------------------------------------------------------


def good_rates(s: Sweep, name: str) -> np.ndarray:
    """The rates around the arm's best one, without a gap, that are good, and where no run diverged."""
    means = s.accuracy[name].mean(axis=1)
    best = max(a.mean(axis=1).max() for a in s.accuracy.values())
    good = (means >= best - TOLERANCE) & np.isfinite(s.loss[name]).all(axis=1)
    low = high = int(means.argmax())
    if not good[low]:
        return s.rates[:0]
    while low > 0 and good[low - 1]:
        low -= 1
    while high + 1 < len(good) and good[high + 1]:
        high += 1
    return s.rates[low : high + 1]


def span(values: np.ndarray, form: str = ".3f") -> str:
    """The mean, least and greatest of what the seeds came to."""
    return f"{values.mean():{form}} [{values.min():{form}}, {values.max():{form}}]"


def range_text(s: Sweep, name: str) -> str:
    """The good rates as text; < and > mark a range that ends only because the rates that were tried do."""
    good = good_rates(s, name)
    if not len(good):
        return "none"
    low = "<" if good[0] == s.rates[0] else ""
    high = ">" if good[-1] == s.rates[-1] else ""
    return f"{low}{good[0]:.2g} to {high}{good[-1]:.2g} (×{good[-1] / good[0]:.2g})"


def print_variances(exact: np.ndarray, sampled: np.ndarray, variance: np.ndarray) -> None:
    """Figures 8 and 9 as tables."""
    print("\nFigure 8: the variance of 1/√v̂ in the paper's model, a mean of ρ squares")
    print(f"{'ρ':>8}{'exact':>12}{'sampled':>12}{'first order':>12}{'ratio':>8}")
    for n, e, d in list(zip(LENGTHS, exact, sampled, strict=True))[::4]:
        approximate = first_order_variance(n)
        print(f"{n:8.0f}{e:12.3g}{d:12.3g}{approximate:12.3g}{approximate / e:8.3f}")
    print("\nFigure 9: the variance of 1/√v̂ and of r_t/√v̂ for simulated gradients g ~ N(μ, 1)")
    print(f"{'t':>8}{'r_t':>8}" + "".join(f"{f'μ = {m:g}':>20}" for m in MEANS[::2] + MEANS[-1:]))
    for t in (5, 10, 30, 100, 600, 2000, 6000):
        if t <= len(variance):
            factor = r(t, threshold=4)  # the paper's threshold, by which t = 5 is rectified already
            pairs = [f"{v:.2g}, {factor**2 * v:.2g}" for v in (*variance[t - 1, ::2], variance[t - 1, -1])]
            print(f"{t:8}{factor:8.4f}" + "".join(f"{pair:>20}" for pair in pairs))


def print_sweep(sweeps: dict[str, Sweep]) -> None:
    """For each net and arm: the range of good rates, the best rate, and the runs that failed."""
    for net, s in sweeps.items():
        print(f"\n{net}; good rates (× highest / lowest) come within {TOLERANCE} of the best arm's accuracy")
        print(f"{'':20}{'good rates':24}{'best':>6}  {'test accuracy':22}{'train loss':22}NaN  at chance")
        for name, accuracy in s.accuracy.items():
            i, loss = accuracy.mean(axis=1).argmax(), s.loss[name]
            lost = np.isinf(loss).sum()
            print(
                f"{name:20}{range_text(s, name):24}{s.rates[i]:6.2g}  {span(accuracy[i]):22}"
                f"{span(loss[i], '.2g'):22}{lost:3}  {(loss > CHANCE).sum() - lost} of {loss.size}"
            )


def conclusions(variance: np.ndarray, sweeps: dict[str, Sweep], steps: int, seeds: int) -> str:
    """What was and what was not shown, in sentences made from the numbers."""
    close = next(n for n in range(5, 2000) if first_order_variance(n) < 1.01 * exact_variance(n))
    target, first = first_order_variance(rho_infinity(BETA2)), r(5, threshold=4) ** 2 * variance[4, 0]
    lines = [
        f"Figure 8: the first-order approximation is {first_order_variance(5) / exact_variance(5):.1f} times "
        f"the exact variance at ρ = 5, and within 1% of it only from ρ = {close}.",
        f"Figure 9: r_t is made to hold the variance at {target:.1e}, but at t = 5 leaves {first:.1e} of it: "
        "the first steps are damped more than the rule means to.",
    ]
    for net, s in sweeps.items():
        score = {name: accuracy.mean(axis=0) for name, accuracy in s.accuracy.items()}  # over the rates
        gain, control = score[RADAM] - score[ADAM], score[CONTROL] - score[ADAM]
        rest, share = gain - control, control.mean() / gain.mean() if gain.min() > 0 else math.nan
        if math.isnan(share):
            verdict = "RAdam did not gain with every seed, so there is no sure gain to explain."
        else:
            part = "all" if share > 0.99 else "most" if share > 0.5 else "less than half"
            verdict = f"The smaller rate is enough to explain {part} of RAdam's gain ({share:.0%})."
        if rest.max() < 0:
            verdict += " The control did better than RAdam with every seed."
        elif rest.min() > 0:
            verdict += " RAdam did better than the control with every seed."
        else:
            verdict += f" RAdam and the control do not clearly differ ({span(rest)})."
        good = "; ".join(f"{name} {range_text(s, name)}" for name in (ADAM, CONTROL, RADAM))
        lines.append(
            f"{net}: with the mean over all rates, RAdam's accuracy exceeds Adam's by {span(gain)}, and that "
            f"of the control, Adam with its rate times the mean of r_t, by {span(control)}. {verdict} "
            f"Good rates: {good}."
        )
    lines += [
        f"In {steps} steps the mean of r_t was {mean_r(steps):.2f}. Runs much shorter than {WARMUP} steps "
        "mostly measure that r_t makes the rate smaller.",
        # Half of all seeds lie above the median: n of n lie on one side of it with a chance of 2 / 2^n.
        f"Intervals are the least and the greatest of {seeds} seeds, between which the median of all seeds "
        f"lies with a chance of {1 - 2 ** (1 - seeds):.0%}"
        + (": too few to conclude anything from, see --full." if seeds < 5 else "."),
        "Not shown: the paper's results on CIFAR, translation and language models were not reproduced. That "
        "variance is the cause is disputed by Ma and Yarats (arXiv 1910.04209).",
    ]
    return "\n".join(textwrap.fill(f"- {line}", 108, subsequent_indent="  ") for line in lines)


# Colours that the colour-blind can tell apart (Okabe and Ito); only the three to compare get bands.
COLORS = ("#D55E00", "#999999", "#E69F00", "#000000", "#0072B2", "#56B4E9", "#009E73")
DASHES = ("-", ":", "-.", "-", "-", "--", ":")


def draw(path: str, exact: np.ndarray, sampled: np.ndarray, variance: np.ndarray, sweeps: dict[str, Sweep]):
    """Figures 8 and 9 on the left; accuracy and loss against the rate on the right, a column for each net."""
    figure, axes = plt.subplots(2, 1 + len(sweeps), figsize=(15, 8.5), layout="constrained")

    axis = axes[0, 0]
    axis.loglog(LENGTHS, exact, color=COLORS[4], label="exact")
    axis.loglog(LENGTHS, sampled, "o", color=COLORS[4], markersize=4, label="sampled")
    approximate = [first_order_variance(n) for n in LENGTHS]
    axis.loglog(LENGTHS, approximate, "--", color=COLORS[0], label="first order, behind r_t")
    axis.loglog(LENGTHS, approximate - exact, ":", color=COLORS[3], label="first order - exact")
    axis.set(title="Figure 8: variance of 1/√v̂ as modelled", xlabel="ρ", ylabel="variance")
    axis.legend()

    axis = axes[1, 0]
    steps = np.unique(np.geomspace(5, len(variance), 100).round().astype(int))
    factors = np.array([r(int(t), threshold=4) for t in steps])
    for j, mean in enumerate(MEANS):
        style = {"color": COLORS[j + 1], "linewidth": 6 / (j + 1) if j < 4 else 2}  # those beneath show
        axis.loglog(steps, variance[steps - 1, j], label=f"μ = {mean:g}", **style)
        axis.loglog(steps, factors**2 * variance[steps - 1, j], "--", **style)
    axis.set(title="Figure 9: 1/√v̂ (solid), r_t/√v̂ (dashed)", xlabel="step t", ylabel="variance")
    axis.legend(fontsize="small", ncols=2)

    for j, (net, s) in enumerate(sweeps.items()):
        error = {name: 1 - accuracy for name, accuracy in s.accuracy.items()}
        rows = ((axes[0, j + 1], error, "test error"), (axes[1, j + 1], s.loss, "training loss"))
        for axis, results, label in rows:
            for name, color, dash in zip(results, COLORS, DASHES, strict=True):
                ends = np.where(np.isfinite(results[name]), results[name], np.nan)  # a gap where it diverged
                compared = name in (ADAM, CONTROL, RADAM)
                width = 2.5 if compared else 1.5
                axis.plot(s.rates, ends.mean(axis=1), dash, color=color, label=name, linewidth=width)
                if compared:
                    low, high = ends.min(axis=1), ends.max(axis=1)
                    axis.fill_between(s.rates, low, high, color=color, alpha=0.15, linewidth=0)
            axis.set(xscale="log", yscale="log", xlabel="learning rate", ylabel=label)
            axis.set_title(f"{net} (bands: all {error[ADAM].shape[1]} seeds)")
        limit = min(e.mean(axis=1).min() for e in error.values()) + TOLERANCE
        axes[0, j + 1].axhline(limit, color="gray", linewidth=0.8, label="good below")
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=len(labels), fontsize="small")
    figure.savefig(path, dpi=90, format="png")
    plt.close(figure)
    with Image.open(path) as picture:  # 128 colours are enough, and make the file a third as large
        picture.convert("RGB").quantize(128).save(path, format="png")


def main(arguments: Sequence[str] | None = None) -> dict[str, Sweep]:
    """Simulate, train, print and draw; returns the sweep of each net."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="8 seeds, 1000 steps, 11 rates: 5 to 10 minutes")
    parser.add_argument("--seeds", type=int, help="runs for each arm and rate (default: 2)")
    parser.add_argument("--steps", type=int, help="steps of a run (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--out", default="radam.png", help="where the PNG goes (default: %(default)s)")
    options = parser.parse_args(arguments)
    seeds = (8 if options.full else 2) if options.seeds is None else options.seeds
    steps = (1000 if options.full else 300) if options.steps is None else options.steps
    if seeds < 1 or steps < 6:
        parser.error("--seeds must be at least 1, and --steps at least 6, where RAdam begins to rectify")
    start = time.perf_counter()
    random = np.random.default_rng(options.seed)

    exact = np.array([exact_variance(n) for n in LENGTHS])
    sampled = np.array([sampled_variance(n, random) for n in LENGTHS])
    sizes = (20_000, 6000) if options.full else (5000, 600)
    variance = adaptive_rate_variance(random, *sizes)
    print_variances(exact, sampled, variance)

    arms, rates = make_arms(steps), 10 ** np.linspace(-3, -0.5, 11 if options.full else 6)
    runs = len(NETS) * len(arms) * len(rates) * seeds
    # So small matrices gain nothing from threads, and lose much where other programs want the cores.
    with mg.use_backend("numpy"), threadpool_limits(1), tqdm(total=runs, unit="run") as bar:
        sweeps = sweep(arms, rates, range(options.seed, options.seed + seeds), steps, bar)
    print_sweep(sweeps)
    draw(options.out, exact, sampled, variance, sweeps)
    print(f"\nall of it drawn to {options.out}, after {time.perf_counter() - start:.0f} s")
    print("\n" + conclusions(variance, sweeps, steps, seeds))
    return sweeps


if __name__ == "__main__":
    main()
