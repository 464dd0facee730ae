"""The nets that are trained in minigrad and in torch: one text for both, and the same weights and batches."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np


class Net(NamedTuple):
    """A net to train.

    Attributes:
        title: what it is.
        make: builds it of a module `nn`, minigrad's or torch's.
        batches: draws `count` pairs of inputs and classes.
    """

    title: str
    make: Callable[[Any], Any]
    batches: Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]


def mlp(nn: Any) -> Any:
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))


def cnn(nn: Any) -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


def lstm(nn: Any) -> Any:
    class LastStep(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(128, 128, batch_first=True)
            self.head = nn.Linear(128, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.lstm(x)[0][:, -1])

    return LastStep()


CHARACTERS, CONTEXT, WIDTH, HEADS, LAYERS = 80, 64, 128, 4, 4


def transformer(nn: Any) -> Any:
    F = nn.functional  # noqa: N806

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            n, t, c = x.shape
            qkv = self.qkv(self.norm1(x)).reshape(n, t, 3, HEADS, c // HEADS)
            q, k, v = (qkv[:, :, i].swapaxes(1, 2) for i in range(3))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.swapaxes(1, 2).reshape(n, t, c))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.of_character = nn.Embedding(CHARACTERS, WIDTH)
            self.of_place = nn.Embedding(CONTEXT, WIDTH)
            self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CHARACTERS)

        def forward(self, x: Any) -> Any:
            x = self.of_character(x) + self.of_place.weight
            return self.head(self.norm(self.blocks(x))).reshape(-1, CHARACTERS)

    return Transformer()


def classified(*shape: int) -> Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]:
    """Batches of that shape, of ten classes that differ in their means."""

    def draw(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        random = np.random.default_rng(0)
        means = random.normal(size=(10, *shape[1:]))
        for _ in range(count):
            y = random.integers(0, 10, shape[0])
            yield (0.3 * means[y] + random.normal(size=shape)).astype(np.float32), y

    return draw


def written(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of 16 texts that repeat themselves, with noise, and the characters that come next."""
    random = np.random.default_rng(0)
    for _ in range(count):
        period = random.integers(2, 9, (16, 1))
        places = np.arange(CONTEXT + 1)
        text = (places % period) * 7 + random.integers(0, 5, (16, 1))
        text = np.where(random.random(text.shape) < 0.1, random.integers(0, CHARACTERS, text.shape), text)
        yield text[:, :-1], text[:, 1:].reshape(-1)


NETS = {
    "cnn": Net(
        "(a) CNN 1x28x28, conv 16, pool, conv 32, pool, linear, batch 64", cnn, classified(64, 1, 28, 28)
    ),
    "transformer": Net(
        "(b) character transformer, 4 layers, width 128, 4 heads, context 64, batch 16", transformer, written
    ),
    "lstm": Net("(c) LSTM 128, length 64, batch 32", lstm, classified(32, 64, 128)),
    "mlp": Net("(d) MLP 784-512-256-10, batch 128", mlp, classified(128, 784)),
}


def weights(net: Net, nn: Any) -> dict[str, np.ndarray]:
    """Weights for the net, by name: of the size that torch begins with."""
    random = np.random.default_rng(1)
    return {
        name: (random.uniform(-1, 1, p.shape) / math.sqrt(p.shape[-1])).astype(np.float32)
        if "norm" not in name
        else np.full(p.shape, float(name.endswith("weight")), np.float32)
        for name, p in net.make(nn).named_parameters()
    }
