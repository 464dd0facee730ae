"""Train a classifier on real handwritten digits, and draw how it went.

    python examples/digits.py --optimizer radam --epochs 40 --seed 0
    python examples/digits.py --save FOLDER
    python examples/digits.py --resume FOLDER

The data are the 1797 scans of 8 by 8 pixels that come with scikit-learn (from the UCI repository:
"Optical Recognition of Handwritten Digits"); a fifth of them is held out for the test.

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
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits  # comes with scikit-learn
from tqdm import tqdm

import minigrad as mg
from minigrad import nn
from minigrad.nn.functional import cross_entropy

OPTIMIZERS = {
    "sgd": lambda params: mg.optim.SGD(params, lr=0.05, momentum=0.9),
    "adam": lambda params: mg.optim.Adam(params, lr=0.002),
    "radam": lambda params: mg.optim.RAdam(params, lr=0.005),
}


def predict(model: nn.Module, images: mg.Tensor) -> np.ndarray:
    """The most likely digit for each image."""
    model.eval()
    with mg.no_grad():
        digits = mg.argmax(model(images), axis=1).numpy()
    model.train()
    return digits


def draw(
    path: str, history: dict[str, list[float]], images: np.ndarray, truth: np.ndarray, guess: np.ndarray
):
    """Learning curves on the left; test digits on the right, with the wrong ones first and in red."""
    figure = plt.figure(figsize=(11, 5), layout="constrained")
    halves: Any = figure.subfigures(1, 2)
    left, right = halves
    loss_axis, accuracy_axis = left.subplots(2, 1, sharex=True)
    epochs = range(1, len(history["loss"]) + 1)
    loss_axis.semilogy(epochs, history["loss"], color="tab:blue")
    loss_axis.set_ylabel("training loss")
    accuracy_axis.plot(epochs, history["train accuracy"], color="tab:blue", label="training")
    accuracy_axis.plot(epochs, history["test accuracy"], color="tab:orange", label="test")
    accuracy_axis.set_ylim(0.85, 1.005)
    accuracy_axis.set_ylabel("accuracy")
    accuracy_axis.set_xlabel("epoch")
    accuracy_axis.legend(loc="lower right")
    right.suptitle(f"test digits, with predictions; {np.sum(truth != guess)} of {len(truth)} are wrong")
    order = np.argsort(truth == guess, kind="stable")[:40]
    for i, axis in zip(order, right.subplots(5, 8).flat, strict=True):
        wrong = truth[i] != guess[i]
        axis.imshow(images[i].reshape(8, 8), cmap="gray_r")
        axis.set_title(
            f"{guess[i]} (is {truth[i]})" if wrong else guess[i], color="red" if wrong else "black", size=9
        )
        axis.set_axis_off()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, print and draw; returns the accuracy on the held-out digits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="radam")
    parser.add_argument("--backend", choices=["numpy", "cupy"], default=mg.backend())
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="digits.png", help="where the picture goes (default: %(default)s)")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--save", metavar="FOLDER", help="keep checkpoints there")
    place.add_argument("--resume", metavar="FOLDER", help="go on from the last checkpoint there")
    options = parser.parse_args(arguments)
    if options.resume:  # with the settings that it was begun with
        parser.set_defaults(**dict(mg.io.outline(mg.Checkpoints(options.resume).path())["settings"]))
        options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    mg.set_backend(options.backend)
    mg.random.seed(options.seed)

    images, labels = load_digits(return_X_y=True)
    images = np.asarray(images, np.float32) / 16
    split = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
    x_train, x_test, y_train, y_test = (mg.tensor(part, device=options.backend) for part in split)

    model = nn.Sequential(
        nn.Linear(64, 128),
        nn.GELU(),
        nn.Dropout(0.3),
        nn.Linear(128, 128),
        nn.GELU(),
        nn.Dropout(0.3),
        nn.Linear(128, 10),
    )
    optimizer = OPTIMIZERS[options.optimizer](model.parameters())
    batches = mg.data.batches(x_train, y_train, size=32, seed=options.seed)

    history: dict[str, list[float]] = {"loss": [], "train accuracy": [], "test accuracy": []}
    folder = options.resume or options.save or mg.Checkpoints.unused("digits_run")
    run = mg.Checkpoints(
        folder,
        model=model,
        optimizer=optimizer,
        data=batches,
        history=history,
        settings=(("optimizer", options.optimizer), ("seed", options.seed)),
    )
    first = run.restore() if options.resume else 0

    start = time.perf_counter()
    again = ["python", sys.argv[0], "--resume", "FOLDER", "--epochs", str(options.epochs)]
    again = shlex.join([*again, "--backend", options.backend, "--out", options.out])
    epochs = run.steps(options.epochs, every=1 if options.save or options.resume else None, resume=again)
    progress = tqdm(epochs, unit="epoch", initial=first, total=options.epochs)
    with threadpool_limits(1):  # so small matrices gain nothing from threads, and lose much on a busy machine
        for _ in progress:
            losses = []
            for x, y in batches:
                optimizer.zero_grad()
                loss = cross_entropy(model(x), y, label_smoothing=0.05)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            history["loss"].append(float(np.mean(losses)))
            for name, inputs, targets in (("train", x_train, y_train), ("test", x_test, y_test)):
                history[f"{name} accuracy"].append(float(np.mean(predict(model, inputs) == targets.numpy())))
            progress.set_postfix(
                loss=f"{history['loss'][-1]:.3f}", accuracy=f"{history['test accuracy'][-1]:.4f}"
            )

    guess = predict(model, x_test)
    accuracy = float(np.mean(guess == y_test.numpy()))
    draw(options.out, history, x_test.numpy(), y_test.numpy(), guess)
    seconds = time.perf_counter() - start
    print(f"{options.optimizer} on {options.backend}: {run.step - first} epochs in {seconds:.1f} s")
    print(f"learning curves and test digits drawn to {options.out}")
    print(f"test accuracy {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    try:
        main()
    except (FileExistsError, FileNotFoundError) as error:
        sys.exit(f"--save or --resume: {error}")
    except KeyboardInterrupt as stopped:
        print(f"\n{str(stopped) or 'stopped'}", file=sys.stderr)
        sys.exit(130)
