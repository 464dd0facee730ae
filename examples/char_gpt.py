"""Train a small transformer to write text, one character after the other, and draw how it learned.

    python examples/char_gpt.py
    python examples/char_gpt.py --text FILE --steps 2000 --save FOLDER
    python examples/char_gpt.py --resume FOLDER --steps 4000

By default it trains for some three minutes on two cores, on a text that every Python has with it: its own
documentation (`pydoc_data.topics`). The last tenth of the text is held out. `--save` keeps checkpoints in a
folder, and `--resume` goes on from the last one there, up to the number of `--steps`. Ctrl-C saves in any
case, and says how to go on.

The net is a GPT (Radford et al., 2019): each layer first looks at what came before each character, by
attention, and then thinks about each character by itself.
"""

import argparse
import math
import shlex
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from pydoc_data import topics
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draw into a file: no screen is needed

import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

import minigrad as mg
from minigrad import nn
from minigrad.nn.functional import cross_entropy, scaled_dot_product_attention

LAYERS, WIDTH, HEADS, CONTEXT, BATCH = 4, 128, 4, 64, 16
RATE = 3e-3


def rate(step: int, steps: int) -> float:
    """The learning rate: it rises for 100 steps, and falls along half a cosine to a tenth."""
    return RATE * min(1.0, (step + 1) / 100) * (0.55 + 0.45 * math.cos(math.pi * step / steps))


class SelfAttention(nn.Module):
    """Each character asks for what it needs (query), and takes it from those before it (key and value)."""

    def __init__(self):
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        batch, length, width = x.shape

        def heads(y: mg.Tensor) -> mg.Tensor:  # (batch, heads, length, width of a head)
            return mg.permute_dims(mg.reshape(y, (batch, length, HEADS, width // HEADS)), (0, 2, 1, 3))

        q, k, v = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        y = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mg.reshape(mg.permute_dims(y, (0, 2, 1, 3)), x.shape))


class Block(nn.Module):
    """Attention, then a net for each character by itself; each adds to what it was given."""

    def __init__(self):
        self.norm1, self.attention = nn.LayerNorm(WIDTH), SelfAttention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.net = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.net(self.norm2(x))


class GPT(nn.Module):
    """For characters by number, (batch, length), scores of what comes next, (batch, length, characters)."""

    def __init__(self, characters: int):
        self.characters, self.places = nn.Embedding(characters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.scores = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, characters)
        for parameter in (self.characters.weight, self.places.weight):
            nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: mg.Tensor) -> mg.Tensor:
        x = self.characters(tokens) + self.places.weight[: tokens.shape[1]]
        return self.scores(self.norm(self.blocks(x)))


def batch_of(text: np.ndarray, starts: np.ndarray, device: str) -> tuple[mg.Tensor, mg.Tensor]:
    """Pieces of the text, and the same one character further."""
    pieces = text[starts[:, None] + np.arange(CONTEXT + 1)]
    return mg.tensor(pieces[:, :-1], device=device), mg.tensor(pieces[:, 1:], device=device)


def loss_of(model: GPT, x: mg.Tensor, y: mg.Tensor) -> mg.Tensor:
    scores = model(x)
    return cross_entropy(mg.reshape(scores, (-1, scores.shape[-1])), mg.reshape(y, (-1,)))


def bits(model: GPT, text: np.ndarray, device: str) -> float:
    """The mean loss over a text, in bits per character."""
    starts = np.linspace(0, len(text) - CONTEXT - 1, 128).astype(int)
    with mg.no_grad():
        losses = [loss_of(model, *batch_of(text, part, device)).item() for part in np.split(starts, 8)]
    return float(np.mean(losses)) / math.log(2)


def sample(model: GPT, start: list[int], length: int, device: str) -> list[int]:
    """A text that goes on from `start`: each character drawn by the probabilities that the net gives."""
    tokens = list(start)
    rng = mg.random.generator()
    with mg.no_grad():
        for _ in range(length):
            scores = model(mg.tensor([tokens[-CONTEXT:]], device=device))[0, -1]
            p = mg.softmax(scores / 0.8).numpy().astype(float)
            tokens.append(int(rng.choice(len(p), p=p / p.sum())))
    return tokens[len(start) :]


def draw(path: str, curves: dict[str, list[tuple[int, float]]], samples: list[tuple[int, str]]) -> None:
    """How the loss went, on the left; what the net wrote early, midway and at the end, on the right."""
    figure = plt.figure(figsize=(12, 5), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(1, 1.1))
    axis = parts[0].subplots()
    for (name, points), color in zip(curves.items(), ("tab:blue", "tab:orange"), strict=True):
        steps, losses = np.reshape(points, (-1, 2)).T
        if name == "training":
            axis.plot(steps, losses, color=color, alpha=0.25, linewidth=0.7)
            size = max(1, len(points) // 40)  # batches differ much: the mean over some tells more
            steps, losses = (np.convolve(v, np.ones(size) / size, "valid") for v in (steps, losses))
        axis.plot(steps, losses, "o-" if name == "held out" else "-", color=color, markersize=4, label=name)
    axis.set(xlabel="step", ylabel="bits per character")
    axis.legend()
    shown = [samples[i] for i in sorted({0, (len(samples) - 1) // 2, len(samples) - 1})]
    axes = parts[1].subplots(3, 1)
    for axis in axes:
        axis.set_axis_off()
    for (step, text), axis in zip(shown, axes, strict=False):
        lines = [part for line in text.splitlines() for part in textwrap.wrap(line, 74) or [""]]
        axis.set_title(f"written after {step} steps", loc="left", size=10)
        text = "\n".join(lines[:9]).replace("$", r"\$")  # which would begin a formula
        axis.text(0, 1, text, va="top", family="monospace", size=8, transform=axis.transAxes)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, print samples and draw; returns the bits per character of the held-out text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", help="a file to learn from (default: Python's documentation)")
    parser.add_argument("--backend", choices=["numpy", "cupy"], default=mg.backend())
    parser.add_argument("--steps", type=int, default=4000, help="in all (default: %(default)s)")
    parser.add_argument("--every", type=int, default=500, help="steps from one sample to the next")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="char_gpt.png", help="where the picture goes (default: %(default)s)")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--save", metavar="FOLDER", help="keep checkpoints there")
    place.add_argument("--resume", metavar="FOLDER", help="go on from the last checkpoint there")
    options = parser.parse_args(arguments)
    if options.resume:  # with the settings that it was begun with
        parser.set_defaults(**dict(mg.io.outline(mg.Checkpoints(options.resume).path())["settings"]))
        options = parser.parse_args(arguments)
    if options.steps < 1 or options.every < 1:
        parser.error("--steps and --every must be at least 1")
    mg.set_backend(options.backend)
    mg.random.seed(options.seed)

    source = options.text and Path(options.text).absolute()
    text = source.read_text("utf-8") if source else "\n\n".join(topics.topics.values())
    alphabet = "".join(sorted(set(text)))
    numbers = {c: i for i, c in enumerate(alphabet)}
    tokens = np.array([numbers[c] for c in text])
    if len(tokens) < 20 * CONTEXT:
        parser.error(f"the text must have at least {20 * CONTEXT} characters, got {len(tokens)}")
    cut = len(tokens) * 9 // 10
    train, held_out = tokens[:cut], tokens[cut:]
    # Samples begin where a paragraph does, if there are any.
    begun = max(text.find("\n\n", cut + CONTEXT) + 2, cut + CONTEXT)
    start = text[begun - CONTEXT : begun]

    model = GPT(len(alphabet))
    optimizer = mg.optim.RAdam(
        model.parameters(), RATE, betas=(0.9, 0.99), weight_decay=0.1, decoupled_weight_decay=True
    )
    curves: dict[str, list[tuple[int, float]]] = {"training": [], "held out": []}
    samples: list[tuple[int, str]] = []
    folder = options.resume or options.save or mg.Checkpoints.unused("char_gpt_run")
    run = mg.Checkpoints(
        folder,
        model=model,
        optimizer=optimizer,
        curves=curves,
        samples=samples,
        alphabet=alphabet,
        settings=(("text", source and str(source)), ("every", options.every), ("seed", options.seed)),
    )
    first = run.restore() if options.resume else 0

    print(f"{len(train)} characters to learn from; the samples go on from {start!r}")
    begin = time.perf_counter()
    again = ["python", sys.argv[0], "--resume", "FOLDER", "--steps", str(options.steps)]
    again = shlex.join([*again, "--backend", options.backend, "--out", options.out])
    saves = options.every if options.save or options.resume else None
    steps = run.steps(options.steps, every=saves, resume=again)
    progress = tqdm(steps, initial=first, total=options.steps, unit="step")
    for step in progress:
        optimizer.param_groups[0]["lr"] = rate(step - 1, options.steps)
        starts = mg.random.generator().integers(0, len(train) - CONTEXT, BATCH)
        optimizer.zero_grad()
        loss = loss_of(model, *batch_of(train, starts, options.backend))
        loss.backward()
        optimizer.step()
        curves["training"].append((step, loss.item() / math.log(2)))
        if step % options.every == 0 or step == options.steps:
            curves["held out"].append((step, bits(model, held_out, options.backend)))
            with mg.random.fork(options.seed):
                written = sample(model, [numbers[c] for c in start], 240, options.backend)
            samples.append((step, "".join(alphabet[i] for i in written)))
            progress.write(f"--- step {step}: {curves['held out'][-1][1]:.3f} bits\n{samples[-1][1]}\n")
        if step % 20 == 0:
            progress.set_postfix(bits=f"{np.mean([b for _, b in curves['training'][-20:]]):.3f}")
    seconds = time.perf_counter() - begin

    draw(options.out, curves, samples)
    result = bits(model, held_out, options.backend)
    print(f"{run.step - first} steps in {seconds:.1f} s; curves and samples drawn to {options.out}")
    print(f"held-out text: {result:.3f} bits per character")
    return result


if __name__ == "__main__":
    try:
        main()
    except (FileExistsError, FileNotFoundError) as error:
        sys.exit(f"--save or --resume: {error}")
    except KeyboardInterrupt as stopped:
        print(f"\n{str(stopped) or 'stopped'}", file=sys.stderr)
        sys.exit(130)
