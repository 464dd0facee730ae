"""Train a small convolutional net on real handwritten digits, and draw what it has learnt.

    python examples/digits_cnn.py
    python examples/digits_cnn.py --data ~/mnist --epochs 3
    python examples/digits_cnn.py --save FOLDER
    python examples/digits_cnn.py --resume FOLDER

By default the data are the 1797 scans of 8 by 8 pixels that come with scikit-learn, a fifth of which is
held out for the test. `--data` names a folder with the four files of MNIST, or of anything else in its
format, such as Fashion-MNIST: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte
and t10k-labels-idx1-ubyte, gzipped or not.

`--save` keeps checkpoints in a folder, one after each epoch, and `--resume` goes on from the last one there.
Ctrl-C saves in any case, in the middle of an epoch, too, and says how to go on.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draw into a file: no screen is needed

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import minigrad as mg
from minigrad import nn
from minigrad.nn.functional import cross_entropy

Data = tuple[np.ndarray, ...]
"""Training images of shape (N, 1, H, W), test images, and the labels of both."""


def scans() -> Data:
    """The digits that come with scikit-learn."""
    images, labels = load_digits(return_X_y=True)
    images = np.asarray(images, np.float32).reshape(-1, 1, 8, 8) / 16
    split: Any = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
    return tuple(split)


def mnist(path: Path) -> Data:
    """The images and labels in the four files of a folder."""

    def read(name: str) -> np.ndarray:
        found = [p for p in (path / name, path / f"{name}.gz") if p.exists()]
        if not found:
            raise SystemExit(f"digits_cnn: there is no {name} nor {name}.gz in {path}")
        return mg.data.read_idx(found[0])

    train, test = (
        read(f"{part}-images-idx3-ubyte")[:, None].astype(np.float32) / 255 for part in ("train", "t10k")
    )
    labels = [read(f"{part}-labels-idx1-ubyte").astype(np.int64) for part in ("train", "t10k")]
    return train, test, labels[0], labels[1]


def network(size: int, classes: int) -> nn.Sequential:
    """Two blocks of convolution and pooling, and a linear layer; for square images of that size."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * (size // 4) ** 2, classes),
    )


def in_parts(images: Any, size: int = 512) -> Iterator[Any]:
    """The images in parts that fit into memory."""
    for start in range(0, len(images), size):
        yield images[start : start + size]


def predict(model: nn.Module, images: mg.Tensor) -> np.ndarray:
    """The most likely class of each image."""
    model.eval()
    with mg.no_grad():
        classes = np.concatenate([mg.argmax(model(part), axis=1).numpy() for part in in_parts(images)])
    model.train()
    return classes


def draw(path: str, history: dict[str, list[float]], filters: np.ndarray, seen: list[tuple[Any, int, int]]):
    """The learning curves, the filters of the first layer, and test images with what they were taken for."""
    figure = plt.figure(figsize=(12, 4.5), layout="constrained")
    parts: Any = figure.subfigures(1, 3, width_ratios=(1.1, 0.75, 1.75))
    parts[0].suptitle("learning curves")
    axis = parts[0].subplots()
    epochs = range(1, len(history["loss"]) + 1)
    axis.semilogy(epochs, history["loss"], color="tab:blue", label="training loss")
    axis.semilogy(epochs, 1 - np.array(history["accuracy"]), color="tab:orange", label="test error")
    axis.set_xlabel("epoch")
    axis.legend()
    parts[1].suptitle("filters of the first layer")
    for kernel, axis in zip(filters[:, 0], parts[1].subplots(8, 4).flat, strict=True):
        axis.imshow(kernel, cmap="coolwarm", vmin=-abs(filters).max(), vmax=abs(filters).max())
        axis.set_axis_off()
    parts[2].suptitle("test images with predictions, the wrong ones first")
    axes = parts[2].subplots(4, 8)
    for (image, guess, truth), axis in zip(seen, axes.flat, strict=False):
        wrong = guess != truth
        axis.imshow(image[0], cmap="gray_r")
        title = f"{guess} (is {truth})" if wrong else str(guess)
        axis.set_title(title, color="red" if wrong else "black", size=9)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, print and draw; returns the accuracy on the test images."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help="a folder with MNIST's four files (default: scikit-learn's)"
    )
    parser.add_argument("--backend", choices=["numpy", "cupy"], default=mg.backend())
    parser.add_argument("--epochs", type=int, help="default: 30, or 3 with --data")
    parser.add_argument("--batch", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", default="digits_cnn.png", help="where the picture goes (default: %(default)s)"
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--save", metavar="FOLDER", help="keep checkpoints there")
    place.add_argument("--resume", metavar="FOLDER", help="go on from the last checkpoint there")
    options = parser.parse_args(arguments)
    if options.resume:  # with the settings that it was begun with
        parser.set_defaults(**dict(mg.io.outline(mg.Checkpoints(options.resume).path())["settings"]))
        options = parser.parse_args(arguments)
    epochs = (3 if options.data else 30) if options.epochs is None else options.epochs
    if epochs < 1 or options.batch < 1:
        parser.error("--epochs and --batch must be at least 1")
    mg.set_backend(options.backend)
    mg.random.seed(options.seed)

    source = options.data and options.data.expanduser().absolute()
    data = mnist(source) if source else scans()
    x_train, x_test, y_train, y_test = (mg.tensor(part, device=options.backend) for part in data)
    model = network(x_train.shape[-1], int(data[2].max()) + 1)
    print(model.summary(x_train[:1]))
    optimizer = mg.optim.RAdam(model.parameters(), lr=0.004)
    batches = mg.data.batches(x_train, y_train, size=options.batch, seed=options.seed)
    schedule = mg.optim.CosineAnnealingLR(optimizer, T_max=epochs * len(batches))

    history: dict[str, list[float]] = {"loss": [], "accuracy": []}
    losses: list[float] = []  # of this epoch
    folder = options.resume or options.save or mg.Checkpoints.unused("digits_cnn_run")
    run = mg.Checkpoints(
        folder,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        data=batches,
        history=history,
        losses=losses,
        settings=(
            ("data", source and str(source)),
            ("batch", options.batch),
            ("epochs", epochs),
            ("seed", options.seed),
        ),
    )
    first = run.restore() if options.resume else 0

    start = time.perf_counter()
    total, every = epochs * len(batches), len(batches) if options.save or options.resume else None
    again = ["python", sys.argv[0], "--resume", "FOLDER"]
    again = shlex.join([*again, "--backend", options.backend, "--out", options.out])
    with tqdm(run.steps(total, every, resume=again), unit="batch", initial=first, total=total) as progress:
        progress.set_postfix_str("the first time, kernels are compiled")
        for step, (x, y) in zip(progress, chain.from_iterable(repeat(batches)), strict=False):
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if step % len(batches) == 0:  # the epoch is over
                accuracy = float(np.mean(predict(model, x_test) == y_test.numpy()))
                history["loss"].append(float(np.mean(losses)))
                history["accuracy"].append(accuracy)
                losses.clear()
                progress.set_postfix(
                    epoch=step // len(batches), loss=f"{loss.item():.3f}", test=f"{accuracy:.4f}"
                )

    guess = predict(model, x_test)
    truth, accuracy = y_test.numpy(), history["accuracy"][-1]
    order = np.argsort(truth == guess, kind="stable")[:32]
    seen = list(zip(x_test.numpy()[order], guess[order], truth[order], strict=True))
    draw(options.out, history, model[0].weight.detach().numpy(), seen)
    print(f"{run.step - first} batches on {options.backend} in {time.perf_counter() - start:.1f} s")
    print(f"learning curves, filters and test images drawn to {options.out}")
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
