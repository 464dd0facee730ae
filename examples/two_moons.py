"""Separate two interleaved half-moons with a small net, and print the boundary that it finds.

python examples/two_moons.py (needs nothing but minigrad)
"""

import math

import minigrad as mg
from minigrad import nn


def two_moons(n: int) -> tuple[mg.Tensor, mg.Tensor]:
    """n noisy points on each of two half circles, and the half that each belongs to."""
    angle = mg.linspace(0, math.pi, n)
    upper = mg.stack([mg.cos(angle), mg.sin(angle)], axis=1)
    lower = mg.stack([1 - mg.cos(angle), 0.5 - mg.sin(angle)], axis=1)
    points = mg.concat([upper, lower]) + mg.random.normal((2 * n, 2), std=0.1)
    return points, mg.concat([mg.zeros(n, dtype=int), mg.ones(n, dtype=int)])


def picture(
    model: nn.Module, points: mg.Tensor, classes: mg.Tensor, width: int = 72, height: int = 24
) -> str:
    """The plane as text: shades for the net's decision, o and x for the points."""
    left, right, bottom, top = -1.4, 2.4, -0.9, 1.4
    xs, ys = mg.linspace(left, right, width), mg.linspace(top, bottom, height)
    shape = (height, width)
    grid = mg.stack([mg.broadcast_to(xs, shape), mg.broadcast_to(ys.reshape(-1, 1), shape)], axis=2)
    with mg.no_grad():
        chance = mg.softmax(model(grid.reshape(-1, 2)))[:, 1].reshape(shape).tolist()
    rows = [["  .:-="[min(5, int(6 * p))] for p in row] for row in chance]
    for (x, y), c in zip(points.tolist(), classes.tolist(), strict=True):
        column = round((x - left) / (right - left) * (width - 1))
        row = round((top - y) / (top - bottom) * (height - 1))
        rows[min(max(row, 0), height - 1)][min(max(column, 0), width - 1)] = "ox"[c]
    return "\n".join("".join(row) for row in rows)


def main() -> float:
    mg.random.seed(0)
    points, classes = two_moons(100)
    model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))
    optimizer = mg.optim.RAdam(model.parameters(), lr=0.03)
    for step in range(401):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(points), classes)
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step:3d}  loss {loss:.4f}")
    print(picture(model, points, classes))
    accuracy = (mg.argmax(model(points), axis=1) == classes).astype(mg.float32).mean().item()
    print(f"accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
