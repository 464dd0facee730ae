"""Minibatches."""

import gzip

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


# --- IDX files -----------------------------------------------------------------------------------------


def idx(array: np.ndarray, code: int) -> bytes:
    """The file, written by the format's description."""
    header = bytes([0, 0, code, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(8, np.uint8), (9, np.int8), (11, np.int16), (12, np.int32), (13, np.float32), (14, np.float64)],
)
@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 5), ()])
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_go_round(tmp_path, code, dtype, shape, packed):
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    content = idx(array, code)
    (tmp_path / "x").write_bytes(gzip.compress(content) if packed else content)
    read = mg.data.read_idx(tmp_path / "x")
    np.testing.assert_array_equal(read, array)
    assert read.dtype == dtype
    assert read.flags.writeable


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file"),
        (b"PK\x03\x04", "no IDX file"),
        (b"\0\0\x07\x01", "no IDX file"),
        (b"\0\0\x08\x03\0\0\0\x02", "ends within its header"),
        (idx(np.zeros((2, 3), np.uint8), 8)[:-1], r"has 17 bytes; an array of \(2, 3\) uint8 takes 18"),
        (idx(np.zeros((2, 3), np.uint8), 8) + b"\0", "has 19 bytes"),
        (b"\0\0\x08\x01\xff\xff\xff\xff", r"\(-1,\)"),
        (b"\0\0\x08\x02\x7f\xff\xff\xff\x7f\xff\xff\xff", "takes 46116860"),
        (gzip.compress(bytes(100))[:-10], "damaged gzip"),
    ],
)
def test_files_that_are_no_idx(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        mg.data.read_idx(tmp_path / "x")
