"""Minibatches."""

import numpy as np
import pytest

import minigrad as mg


def test_each_row_once_in_an_order_that_the_seed_fixes():
    x, y = mg.arange(10), np.arange(10) * 10

    def passes(seed):
        b = mg.data.batches(x, y, size=3, seed=seed)
        assert len(b) == 4
        return [[(p.tolist(), q.tolist()) for p, q in b] for _ in range(2)]

    first, second = passes(0)
    rows = [v for p, _ in first for v in p]
    assert sorted(rows) == list(range(10))
    assert rows != list(range(10))
    assert all([v * 10 for v in p] == q for p, q in first)
    assert first != second
    assert passes(0) == [first, second]
    assert passes(1) != [first, second]
    assert [len(p) for p, _ in first] == [3, 3, 3, 1]


def test_ordered_and_without_the_last():
    b = mg.data.batches(np.arange(7), size=3, shuffle=False, drop_last=True)
    assert [a.tolist() for a in b] == [[0, 1, 2], [3, 4, 5]]
    assert len(b) == 2
    assert list(mg.data.batches(np.zeros((0, 2)), size=3)) == []


def test_kinds_and_devices_are_kept():
    x = mg.ones((4, 2), device="strict")
    (batch,) = mg.data.batches(x, size=4, shuffle=False)
    assert batch.device == "strict"
    (batch,) = mg.data.batches(np.ones((4, 2)), size=4)
    assert isinstance(batch, np.ndarray)


@pytest.mark.parametrize(
    ("arguments", "size", "message"),
    [((), 2, "at least one"), ((np.ones(2), np.ones(3)), 2, r"\[2, 3\]"), ((np.ones(2),), 0, "at least 1")],
)
def test_bad_arguments(arguments, size, message):
    with pytest.raises(ValueError, match=message):
        mg.data.batches(*arguments, size=size)
