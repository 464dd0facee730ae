"""Short trainings of four nets, whose results are bytes: the same wherever, and beside whatever, they run."""

from typing import Any

import minigrad as mg
from minigrad import nn, optim


class Last(nn.Module):
    """What the last time step of an LSTM says."""

    def __init__(self):
        self.lstm, self.out = nn.LSTM(5, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        """The scores of the classes."""
        return self.out(self.lstm(x)[0][:, -1])


def _perceptron() -> Any:
    net = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 3))
    return net, optim.RAdam(net.parameters(), lr=0.01), (20,)


def _images() -> Any:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip
    return net, optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True), (1, 8, 8)


def _sequences() -> Any:
    net = Last()
    return net, optim.Adam(net.parameters(), lr=0.01, amsgrad=True), (6, 5)


def _attention() -> Any:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
    net = nn.Sequential(layer, nn.Flatten(), nn.Linear(80, 3))
    return net, optim.AdamW(net.parameters(), lr=0.003), (5, 16)


NETS = {"perceptron": _perceptron, "images": _images, "sequences": _sequences, "attention": _attention}


class Training:
    """A net of a kind with all that its training needs. It draws from the stream of the caller."""

    def __init__(self, kind: str):
        self.net, self.optimizer, shape = NETS[kind]()
        self.schedule = optim.CosineAnnealingLR(self.optimizer, 20)
        x, y = mg.random.normal((24, *shape)), mg.random.integers(0, 3, 24)
        self.batches = mg.data.batches(x, y, size=8)
        self.losses: list[float] = []

    def steps(self) -> Any:
        """Three steps, one each time that it is gone on with."""
        for x, y in self.batches:
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.net(x), y)
            yield
            loss.backward()
            optim.clip_grad_norm_(self.net.parameters(), 0.5)
            yield
            self.optimizer.step()
            self.schedule.step()
            self.losses.append(loss.item())

    def result(self) -> bytes:
        """All that it has come to."""
        arrays = [*self.net.state_dict().values()]
        for values in self.optimizer.state_dict()["state"].values():
            arrays += [value for value in values.values() if not isinstance(value, int)]
        return b"".join(a.tobytes() for a in arrays) + repr(self.losses).encode()


def trained(kind: str, seed: int, epochs: int = 4) -> bytes:
    """What a training comes to that has a stream of random numbers of its own."""
    with mg.random.fork(seed):
        training = Training(kind)
        for _ in range(epochs):
            for _ in training.steps():
                pass
        return training.result()
