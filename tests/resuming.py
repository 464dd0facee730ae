"""Training runs for tests/test_resume.py, in processes of their own: nets that use all there is; examples.

    python tests/resuming.py FOLDER LONGER nets digits …

trains each of these, up to the end or on from the checkpoint that is there, in a folder of its name.
"""

import importlib.util
import os
import random
import sys
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn, optim
from minigrad.nn.functional import cross_entropy

STEPS = 24
"""How many steps a net is trained; with 7 batches in a pass, half of it is in the middle of one."""

RULES: dict[str, Any] = {
    "sgd": lambda groups: optim.SGD(groups, lr=0.05),
    "momentum": lambda groups: optim.SGD(groups, lr=0.05, momentum=0.9, dampening=0.1, weight_decay=0.01),
    "nesterov": lambda groups: optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda groups: optim.Adam(groups, lr=0.01, weight_decay=0.1),
    "amsgrad": lambda groups: optim.Adam(groups, lr=0.01, amsgrad=True),
    "adamw": lambda groups: optim.AdamW(groups, lr=0.01),
    "radam": lambda groups: optim.RAdam(groups, lr=0.02, weight_decay=0.1, decoupled_weight_decay=True),
}

SCHEDULES: dict[str, Any] = {
    "sgd": lambda o, steps: optim.StepLR(o, 7),
    "momentum": lambda o, steps: optim.OneCycleLR(o, max_lr=[0.1, 0.2], total_steps=steps + 1),
    "nesterov": lambda o, steps: optim.ReduceLROnPlateau(o, patience=1, cooldown=2),
    "adam": lambda o, steps: optim.CosineAnnealingWarmRestarts(o, 5),
    "amsgrad": lambda o, steps: optim.LambdaLR(o, lambda t: 0.99**t),
    "adamw": lambda o, steps: optim.MultiStepLR(o, [3, steps // 2, steps // 2 + 1]),
    "radam": lambda o, steps: optim.SequentialLR(
        o, [optim.LinearLR(o, 0.1, total_iters=5), optim.ExponentialLR(o, 0.99)], milestones=[steps // 2 + 2]
    ),
}


class Net(nn.Module):
    """Layers with all kinds of state: running statistics, half precision, frozen, shared, not always used."""

    def __init__(self):
        self.first, self.norm = nn.Linear(8, 16), nn.BatchNorm1d(16)
        self.scale = nn.Parameter(mg.random.uniform(16, 0.5, 1.5, dtype=mg.float16))
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.shared = self.first
        self.dropout, self.sometimes = nn.Dropout(0.2), nn.Linear(16, 16)
        self.last = nn.Linear(16, 3)

    def forward(self, x: mg.Tensor, whole: bool) -> mg.Tensor:
        y = mg.tanh(self.norm(self.first(x))) * self.scale
        y = self.dropout(self.frozen(y) + self.shared(x))
        return self.last(y + self.sometimes(y) if whole else y)


def train(folder: Path, kind: str, steps: int) -> None:
    """Train a net with an optimizer and a schedule. All but the data is up to chance, if not restored."""
    rows = np.random.default_rng(0)
    x, y = rows.standard_normal((50, 8)).astype(np.float32), rows.integers(0, 3, 50)
    net = Net()
    named = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
    optimizer = RULES[kind]([{"params": named[:4], "name": "a"}, {"params": named[4:], "lr": 0.02}])
    schedule = SCHEDULES[kind](optimizer, steps)
    batches = mg.data.batches(x, y, size=8, seed=3 if kind == "sgd" else None)
    noise, losses = np.random.default_rng(os.getpid()), []
    run = mg.Checkpoints(
        folder,
        net=net,
        optimizer=optimizer,
        schedule=schedule,
        data=batches,
        noise=noise,
        losses=losses,
    )
    run.restore()
    loop = zip(run.steps(steps, every=steps // 2), chain.from_iterable(repeat(batches)), strict=False)
    for step, (a, b) in loop:
        a = a + 0.01 * noise.standard_normal(a.shape, np.float32) + 0.01 * np.float32(random.random())
        a *= np.float32(np.random.uniform(0.9, 1.1))  # noqa: NPY002 - it is there, so somebody uses it
        optimizer.zero_grad()
        loss = cross_entropy(net(mg.tensor(a), step % 3 == 0), mg.tensor(b))
        (loss * float("nan") if step % 10 == 4 else loss).backward()
        optim.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step(skip_nonfinite=True)
        schedule.step(loss.item()) if kind == "nesterov" else schedule.step()
        losses.append((loss.item(), *schedule.get_last_lr()))


def nets(folder: Path, longer: int) -> None:
    """A net with each of the rules."""
    for kind in RULES:
        train(folder / kind, kind, STEPS * longer)


ARGUMENTS = {
    "digits": lambda n: ["--epochs", str(4 * n)],
    "digits_cnn": lambda n: ["--epochs", str(2 * n), "--batch", "128"],
    "series_lstm": lambda n: ["--epochs", str(2 * n), "--hidden", "32"],
    "char_gpt": lambda n: ["--steps", str(8 * n), "--every", "4"],
}


def example(name: str, folder: Path, longer: int) -> None:
    """One of the examples."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    how = "--resume" if any(folder.glob("*")) else "--save"
    module.main([*ARGUMENTS[name](longer), how, str(folder), "--out", str(folder.parent / f"{name}.png")])


def main() -> None:
    folder, longer, *names = sys.argv[1:]
    defaults = mg.Checkpoints.__init__.__kwdefaults__
    assert defaults is not None
    defaults["keep"] = None  # all checkpoints stay
    for name in names:
        if name == "nets":
            nets(Path(folder) / name, int(longer))
        else:
            example(name, Path(folder) / name, int(longer))


if __name__ == "__main__":
    main()
