"""Read real handwritten digits as a series, row by row, and say after each row which digit it will be.

    python examples/series_lstm.py --cell lstm --epochs 40 --seed 0
    python examples/series_lstm.py --save FOLDER
    python examples/series_lstm.py --resume FOLDER

An LSTM (or GRU, or plain RNN) sees one row of 8 pixels at a time, from the top, and must carry in its state
what it has seen: a row alone tells little. The data are the 1797 scans of 8 by 8 pixels that come with
scikit-learn (from the UCI repository: "Optical Recognition of Handwritten Digits"); a fifth of them is held
out for the test.

`--save` keeps checkpoints in a folder, and `--resume` goes on from the last one there. Ctrl-C saves in any
case, and says how to go on.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draw into a file: no screen is needed

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import minigrad as mg
from minigrad import nn
from minigrad.nn.functional import cross_entropy

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
ROWS = 8


class Reader(nn.Module):
    """A recurrent layer over the rows, and scores of the ten digits from its state after each of them."""

    def __init__(self, cell: str, hidden: int):
        self.noise = nn.Dropout(0.2)
        self.recurrent = CELLS[cell](8, hidden)
        self.dropout = nn.Dropout(0.3)
        self.scores = nn.Linear(hidden, 10)

    def forward(self, rows: mg.Tensor) -> mg.Tensor:
        """Scores of shape (rows, batch, 10), for rows of shape (rows, batch, pixels)."""
        states, _ = self.recurrent(self.noise(rows))
        return self.scores(self.dropout(states))


def as_series(images: mg.Tensor) -> mg.Tensor:
    """Images of shape (batch, 64) as (rows, batch, 8)."""
    return mg.swapaxes(mg.reshape(images, (-1, ROWS, 8)), 0, 1)


def beliefs(model: nn.Module, images: mg.Tensor) -> np.ndarray:
    """The probability of each digit after each row: (rows, batch, 10)."""
    model.eval()
    with mg.no_grad():
        p = mg.softmax(model(as_series(images)), axis=-1).numpy()
    model.train()
    return p


def row_alone(split: Any, row: int) -> float:
    """The accuracy of a linear classifier that sees this row and no other: what there is to beat."""
    x_train, x_test, y_train, y_test = split
    pixels = slice(8 * row, 8 * row + 8)
    classifier = LogisticRegression(max_iter=1000).fit(x_train[:, pixels], y_train)
    return float(classifier.score(x_test[:, pixels], y_test))


def draw(path: str, accuracy: np.ndarray, alone: list[float], images: np.ndarray, p: np.ndarray):
    """On the left how the accuracy grows with the rows; on the right what is believed of test digits."""
    figure = plt.figure(figsize=(12, 5.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[2, 3])  # pyright: ignore[reportGeneralTypeIssues]
    axis: Any = left.subplots()
    rows = range(1, ROWS + 1)
    axis.plot(rows, accuracy, "o-", color="tab:blue", label="all rows up to here, by recurrence")
    axis.plot(rows, alone, "s--", color="tab:gray", label="this row alone, by logistic regression")
    axis.axhline(0.1, color="black", linewidth=0.8, linestyle=":", label="guessing")
    axis.set(xlabel="row", ylabel="test accuracy", ylim=(0, 1.02))
    axis.legend(loc="upper left", fontsize=8)
    right.suptitle("test digits, and the probability of each digit after each row")
    for i, (image_axis, belief_axis) in enumerate(right.subplots(3, 6).reshape(9, 2)):
        image_axis.imshow(images[i].reshape(ROWS, 8), cmap="gray_r")
        image_axis.set_axis_off()
        belief_axis.imshow(p[:, i], cmap="Blues", vmin=0, vmax=1)
        belief_axis.set(xticks=range(10), yticks=[])
        belief_axis.tick_params(labelsize=6)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, print and draw; returns the accuracy on held-out digits after the last row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cell", choices=CELLS, default="lstm")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--backend", choices=["numpy", "cupy"], default=mg.backend())
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", default="series_lstm.png", help="where the picture goes (default: %(default)s)"
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--save", metavar="FOLDER", help="keep checkpoints there")
    place.add_argument("--resume", metavar="FOLDER", help="go on from the last checkpoint there")
    options = parser.parse_args(arguments)
    if options.resume:  # with the settings that it was begun with
        parser.set_defaults(**dict(mg.io.outline(mg.Checkpoints(options.resume).path())["settings"]))
        options = parser.parse_args(arguments)
    if options.epochs < 1 or options.hidden < 1:
        parser.error("--epochs and --hidden must be at least 1")
    mg.set_backend(options.backend)
    mg.random.seed(options.seed)

    images, labels = load_digits(return_X_y=True)
    images = np.asarray(images, np.float32) / 16
    split: Any = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
    x_train, x_test, y_train, y_test = (mg.tensor(part, device=options.backend) for part in split)
    truth = y_test.numpy()

    model = Reader(options.cell, options.hidden)
    optimizer = mg.optim.RAdam(model.parameters(), lr=0.01)
    batches = mg.data.batches(x_train, y_train, size=32, seed=options.seed)
    schedule = mg.optim.CosineAnnealingLR(optimizer, options.epochs * len(batches))

    history: list[float] = []  # the mean loss of each epoch
    folder = options.resume or options.save or mg.Checkpoints.unused("series_run")
    run = mg.Checkpoints(
        folder,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        data=batches,
        history=history,
        settings=tuple((name, getattr(options, name)) for name in ("cell", "hidden", "epochs", "seed")),
    )
    first = run.restore() if options.resume else 0

    start = time.perf_counter()
    again = ["python", sys.argv[0], "--resume", "FOLDER"]
    again = shlex.join([*again, "--backend", options.backend, "--out", options.out])
    epochs = run.steps(options.epochs, every=1 if options.save or options.resume else None, resume=again)
    progress = tqdm(epochs, unit="epoch", initial=first, total=options.epochs)
    for _ in progress:
        losses = []
        for x, y in batches:
            optimizer.zero_grad()
            scores = model(as_series(x))
            # What it says at the end counts as much as all that it says on the way.
            loss = cross_entropy(scores[-1], y)
            loss += cross_entropy(mg.reshape(scores, (-1, 10)), mg.tile(y, ROWS))
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        accuracy = (beliefs(model, x_test).argmax(axis=-1) == truth).mean(axis=1)
        history.append(float(np.mean(losses)))
        progress.set_postfix(loss=f"{history[-1]:.3f}", accuracy=f"{accuracy[-1]:.4f}")
    seconds = time.perf_counter() - start

    p = beliefs(model, x_test)
    accuracy = (p.argmax(axis=-1) == truth).mean(axis=1)
    alone = [row_alone(split, row) for row in range(ROWS)]
    draw(options.out, accuracy, alone, split[1], p)
    print(f"{options.cell} on {options.backend}: {run.step - first} epochs in {seconds:.1f} s")
    print(f"training loss {history[-1]:.3f}, and {history[0]:.3f} in the first epoch")
    print("rows read, accuracy, and that of the last of these rows alone (logistic regression):")
    for row in range(ROWS):
        print(f"{row + 1:9}  {accuracy[row]:8.3f}  {alone[row]:.3f}")
    print(f"accuracy by rows and what is believed of test digits drawn to {options.out}")
    print(f"test accuracy {accuracy[-1]:.4f}")
    return float(accuracy[-1])


if __name__ == "__main__":
    try:
        main()
    except (FileExistsError, FileNotFoundError) as error:
        sys.exit(f"--save or --resume: {error}")
    except KeyboardInterrupt as stopped:
        print(f"\n{str(stopped) or 'stopped'}", file=sys.stderr)
        sys.exit(130)
