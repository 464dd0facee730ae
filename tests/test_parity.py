"""Training beside torch: from the same weights, on the same batches, by RAdam, the losses stay the same."""

import numpy as np
import pytest
from benchmarks.nets import NETS, weights
from helpers import torch_or_skip

import minigrad as mg

STEPS = 200


@pytest.mark.parametrize("name", NETS)
def test_losses_follow_those_of_torch(name, record_property):
    torch = torch_or_skip()
    net = NETS[name]
    start = weights(net, mg.nn)
    curves = []
    for library, functional, optim, as_tensor in (
        (mg.nn, mg.nn.functional, mg.optim, mg.tensor),
        (torch.nn, torch.nn.functional, torch.optim, torch.from_numpy),
    ):
        model = net.make(library)
        model.load_state_dict({k: as_tensor(v.copy()) for k, v in start.items()})
        optimizer = optim.RAdam(model.parameters(), lr=1e-3)
        losses = []
        for x, y in net.batches(STEPS):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(as_tensor(x)), as_tensor(y))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(np.array(losses))
    ours, theirs = curves
    difference = float(np.max(np.abs(ours - theirs) / theirs))
    record_property("largest difference", difference)
    print(f"{name}: loss {ours[0]:.4f} to {ours[-1]:.4f}, largest relative difference {difference:.1e}")
    assert ours[-1] < 0.8 * ours[0]  # it learns
    assert difference < 1e-3
