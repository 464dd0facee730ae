"""Train a small net in torch, go on with it in minigrad, and take it back, by way of safetensors files.

    python examples/torch_model.py

The net guesses the next character of a text, one that comes with Python, from the eight before it. It is
written once, with the layers of either library, since both have the same names, arguments and state dicts.
"""

import argparse
import importlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn

CONTEXT = 8


def net(library: Any, characters: int) -> Any:
    """The net, of layers from `torch.nn` or `minigrad.nn`."""
    return library.Sequential(
        library.Embedding(characters, 16),
        library.Flatten(),
        library.Linear(16 * CONTEXT, 128),
        library.GELU(approximate="tanh"),
        library.Dropout(0.1),
        library.Linear(128, characters),
    )


def examples() -> tuple[np.ndarray, np.ndarray, int]:
    """Runs of characters by number, the one that follows each, and how many there are."""
    text = topics["strings"]
    letters, numbers = np.unique(list(text), return_inverse=True)
    return np.lib.stride_tricks.sliding_window_view(numbers[:-1], CONTEXT), numbers[CONTEXT:], len(letters)


def train(model: Any, optimizer: Any, loss: Any, tensor: Any, steps: int, seed: int) -> None:
    """The same loop for both libraries: each has these methods."""
    inputs, targets, _ = examples()
    random = np.random.default_rng(seed)
    model.train()
    for step in range(steps):
        batch = random.integers(0, len(targets), 64)
        optimizer.zero_grad()
        value = loss(model(tensor(inputs[batch])), tensor(targets[batch]))
        value.backward()
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"  step {step:4d}  loss {value.item():.3f}")
    model.eval()


def difference(ours: Any, theirs: Any, torch: Any) -> float:
    """The largest difference between what the two give for the whole text."""
    inputs, _, _ = examples()
    with mg.no_grad(), torch.no_grad():
        return np.abs(ours(mg.tensor(inputs)).numpy() - theirs(torch.tensor(inputs)).numpy()).max().item()


def main(argv: Sequence[str] | None = None) -> tuple[float, float]:
    """The largest differences on the way there, and on the way back."""
    parser = argparse.ArgumentParser(description="a net goes from torch to minigrad and back")
    parser.add_argument("--steps", type=int, default=400, help="of training, in each library")
    steps = parser.parse_args(argv).steps
    try:
        torch: Any = importlib.import_module("torch")
        files: Any = importlib.import_module("safetensors.torch")
    except ImportError:
        raise SystemExit("this example needs PyTorch: pip install torch") from None

    characters = examples()[2]
    torch.manual_seed(0)
    theirs = net(torch.nn, characters)
    ours = net(nn, characters)
    print(ours.summary(mg.zeros((64, CONTEXT), dtype=int)))
    print("\nin torch")
    optimizer = torch.optim.RAdam(theirs.parameters(), lr=0.01)
    train(theirs, optimizer, torch.nn.CrossEntropyLoss(), torch.tensor, steps, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.safetensors"
        files.save_file(theirs.state_dict(), file)
        ours.load_state_dict(file)
        there = difference(ours.eval(), theirs, torch)
        print(f"from torch to minigrad: the largest difference of outputs is {there:.1e}")

        print("\nin minigrad")
        optimizer = mg.optim.RAdam(ours.parameters(), lr=0.01)
        train(ours, optimizer, nn.CrossEntropyLoss(), mg.tensor, steps, seed=1)
        mg.save(file, ours.state_dict())
        theirs.load_state_dict(files.load_file(file))
        back = difference(ours, theirs, torch)
        print(f"from minigrad to torch: the largest difference of outputs is {back:.1e}")
    return there, back


if __name__ == "__main__":
    main()
