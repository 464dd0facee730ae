"""Minibatches."""

import gzip
import json

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


# --- the position --------------------------------------------------------------------------------------


def rows_of(passes):
    return [[np.asarray(batch).tolist() for batch in one] for one in passes]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("given", [None, 0, 1, 2, 3, 4])
def test_the_position_comes_back(given, shuffle, seed, drop_last):
    """Saved between passes (None), or when so many batches of the second one were given."""

    def new(seed=seed):
        return mg.data.batches(np.arange(11), size=3, shuffle=shuffle, seed=seed, drop_last=drop_last)

    mg.random.seed(0)
    b = new()
    list(b)
    held = None if given is None else iter(b)
    for _ in range(min(given or 0, len(b))):
        assert held is not None
        next(held)
    state, stream = b.state_dict(), mg.random.get_state()
    wanted = rows_of([held or b, b, b])

    assert json.loads(json.dumps(state)) == state
    other = new(seed=None if seed is None else 99)
    half = iter(other)
    next(half)  # what was begun before is given up
    other.load_state_dict(json.loads(json.dumps(state)))
    assert other.state_dict() == state
    mg.random.set_state(stream)
    assert rows_of([other, other, other]) == wanted


def test_the_position_is_that_of_the_newest_iterator_until_it_ends_or_is_dropped():
    b = mg.data.batches(np.arange(6), size=2, seed=0)
    fresh = b.state_dict()
    first, second = iter(b), iter(b)
    next(first)
    one = b.state_dict()
    assert one["pass"]["given"] == 1
    next(second)
    next(second)
    assert b.state_dict()["pass"]["given"] == 2
    assert b.state_dict()["pass"]["order"] == one["random"] != fresh["random"]
    next(first)
    assert b.state_dict()["pass"]["given"] == 2
    next(second)
    assert b.state_dict()["pass"]["given"] == 3  # the loop's body is not done with it
    assert next(second, None) is None
    assert b.state_dict()["pass"] is None
    for _ in b:
        break
    assert b.state_dict()["pass"] is None
    list(first)
    assert b.state_dict()["pass"] is None


def test_loaded_twice_and_saved_before_it_goes_on():
    b = mg.data.batches(np.arange(6), size=2, seed=0)
    held = iter(b)
    next(held)
    state = b.state_dict()
    rest = list(held)
    for _ in range(2):
        b.load_state_dict(state)
        assert b.state_dict() == state
        np.testing.assert_array_equal(list(b), rest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 7}, "rows is 6, and was 7"),
        ({"size": 3}, "size is 2, and was 3"),
        ({"drop_last": True}, "drop_last is False, and was True"),
        ({"shuffle": False}, "shuffle is True, and was False"),
        ({"random": None}, "has a seed"),
        ({"random": {"state": "1"}}, "a state is what"),
        ({"random": 3}, "must be a dict, got 3"),
        ({"pass": {"given": 4, "order": None}}, "one of 3 batches"),
        ({"pass": {"given": 0, "order": None}}, "one of 3 batches"),
        ({"pass": {"given": True, "order": None}}, "one of 3 batches"),
        ({"pass": {"given": 1}}, "one of 3 batches"),
        ({"pass": {"given": 1, "order": None}}, "must be a dict, got None"),
        ({"pass": 3}, "one of 3 batches"),
        ({"more": 1}, "a dict with"),
    ],
)
def test_positions_that_do_not_fit_change_nothing(change, message):
    b = mg.data.batches(np.arange(6), size=2, seed=0)
    held = iter(b)
    next(held)
    before = b.state_dict()
    with pytest.raises(ValueError, match=message):
        b.load_state_dict({**before, "random": mg.random.get_state(), **change})
    with pytest.raises(ValueError, match="a state is what state_dict"):
        b.load_state_dict(3)  # pyright: ignore[reportArgumentType]
    assert b.state_dict() == before
    assert len(list(held)) == 2


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
        (gzip.compress(bytes(100), mtime=0)[:-10], "damaged gzip"),
    ],
)
def test_files_that_are_no_idx(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        mg.data.read_idx(tmp_path / "x")
