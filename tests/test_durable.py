"""Saving takes the place of a file in one step: errors at any call, kills at any moment, several at once.

`MINIGRAD_KILLS=500 pytest tests/test_durable.py` kills that many saving processes, rather than 20.
"""

import errno
import fcntl
import importlib
import json
import os
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from io import FileIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_io import check

import minigrad as mg
from minigrad.io import FormatError, durable

backend = importlib.import_module("minigrad.backend")  # `mg.backend` is the function of that name

OLD = {"name": "old", "a": np.arange(3000.0), "b": [mg.zeros(5), np.ones((4, 3)).T]}
NEW = {"name": "new", "a": np.arange(1000.0)[::-1], "c": (mg.ones((3, 2)), None)}


def which(path: Path) -> str:
    """Whether a file holds the old tree or the new one, whole; an error if neither."""
    tree = mg.load(path)
    check(tree, {"old": OLD, "new": NEW}[tree["name"]])
    return tree["name"]


def leave_behind(path: Path, n: int = 0) -> Path:
    """What a writer that was killed leaves, beside the file that it wrote."""
    left = path.with_name(f".minigrad-{durable._checksum(path.name)}-{n:016x}")
    left.write_bytes(b"half of a fi")
    return left


# --- errors at any call --------------------------------------------------------------------------------


class Interruptions:
    """The functions of the system that durable.py calls; the n-th call fails, before or after it is done.

    Attributes:
        calls: what was called, in order.
    """

    def __init__(self, patch: pytest.MonkeyPatch, n: int = 0, error: Any = None, after: bool = False):
        self.calls: list[str] = []
        self.n, self.error, self.after = n, error, after
        names = ("open", "write", "fsync", "replace", "stat", "fstat", "chmod", "listdir", "unlink", "close")
        watched = {name: self.watch(name, getattr(os, name)) for name in (*names, "urandom")}
        patch.setattr(durable, "os", SimpleNamespace(**vars(os) | watched))
        lock = self.watch("flock", fcntl.flock)
        patch.setattr(durable, "fcntl", SimpleNamespace(**vars(fcntl) | {"flock": lock}))
        at_close = self.watch("close", lambda: None)

        opened = self.watch("open", lambda: None)

        class File(FileIO):
            def __init__(self, *args):
                super().__init__(*args)
                try:
                    opened()
                except BaseException:
                    super().close()
                    raise

            def close(self):
                if not self.closed:
                    super().close()
                    at_close()

        patch.setattr(durable, "FileIO", File)

    def watch(self, name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            this = len(self.calls) == self.n
            if this and not self.after:
                raise self.error
            result = function(*args, **kwargs)
            if this:
                raise self.error
            return result

        return call


ERRORS = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    KeyboardInterrupt(),
    MemoryError(),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", ERRORS, ids=["ENOSPC", "EIO", "interrupt", "memory"])
@pytest.mark.parametrize("there_is_one", [True, False])
def test_an_error_at_any_call_leaves_the_old_file_or_the_new(there_is_one, error, after, tmp_path):
    path = tmp_path / "tree.safetensors"
    failed = set()
    for n in range(1, 100):
        path.unlink(missing_ok=True)
        if there_is_one:
            mg.save(path, OLD)
            path.chmod(0o640)
        left = leave_behind(path)
        descriptors = os.listdir("/proc/self/fd") if sys.platform == "linux" else []
        with pytest.MonkeyPatch.context() as patch:
            faults = Interruptions(patch, n, error, after)
            try:
                mg.save(path, NEW)
                passed = True
            except BaseException as raised:
                if raised is not error:
                    raise
                passed = False
        error.__traceback__ = error.__context__ = None
        replaced = "replace" in faults.calls[: n if after else n - 1]
        if passed or replaced:
            assert which(path) == "new"
        elif there_is_one:
            assert which(path) == "old"
        else:
            assert not path.exists()
        # What opens and fails, or does not close, is the test's own doing.
        own = ("open", True), ("close", False)
        if descriptors and ("".join(faults.calls[n - 1 : n]), after) not in own:
            assert len(os.listdir("/proc/self/fd")) <= len(descriptors)
        # What an error at the removal leaves is removed the next time.
        mg.save(path, NEW)
        assert os.listdir(tmp_path) == [path.name]
        assert not left.exists()
        if len(faults.calls) < n:
            break
        failed.add(faults.calls[n - 1])
    else:
        raise AssertionError("it never passed")
    assert failed >= {"open", "write", "fsync", "replace", "stat", "fstat", "unlink", "close", "flock"}


def test_errors_of_removal_leave_what_the_next_save_removes(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "x"
    mg.save(path, OLD)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "os", SimpleNamespace(**vars(os) | {"fsync": refuse, "unlink": refuse}))
        with pytest.raises(OSError, match="Input/output"):
            mg.save(path, NEW)
    assert which(path) == "old"
    assert len(os.listdir(tmp_path)) == 2
    mg.save(path, NEW)
    assert os.listdir(tmp_path) == ["x"]


def test_an_error_in_the_tree_touches_nothing(tmp_path):
    mg.save(tmp_path / "x", OLD)
    left = leave_behind(tmp_path / "x")
    with pytest.raises(TypeError, match=r"is a builtins\.set"):
        mg.save(tmp_path / "x", {"a": np.zeros(100), "b": {1}})
    assert which(tmp_path / "x") == "old"
    assert left.exists()


def test_an_array_that_cannot_be_fetched_leaves_the_old_file(tmp_path, monkeypatch):
    """As when a GPU fails between two arrays."""
    x = mg.ones(3).to("strict")
    mg.save(tmp_path / "x", OLD)
    strict = backend.get("strict")
    real = strict.to_numpy

    def fail(array):
        if array.shape == (3,):
            raise RuntimeError("the device is gone")
        return real(array)

    with monkeypatch.context() as patch:
        patch.setitem(backend._loaded, "strict", strict._replace(to_numpy=fail))
        patch.setitem(backend._by_type, strict.array, backend._loaded["strict"])
        with pytest.raises(RuntimeError, match="the device is gone"):
            mg.save(tmp_path / "x", [np.ones(1000), x])
    assert which(tmp_path / "x") == "old"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_writes_of_a_part(most, tmp_path, monkeypatch):
    def write(descriptor, data):
        return os.write(descriptor, data[:most])

    monkeypatch.setattr(durable, "os", SimpleNamespace(**vars(os) | {"write": write}))
    mg.save(tmp_path / "x", {"name": "new", "a": NEW["a"][:100], "c": NEW["c"]})
    check(mg.load(tmp_path / "x"), {"name": "new", "a": NEW["a"][:100], "c": NEW["c"]})


def test_all_is_on_the_disk_before_and_after_it_takes_its_place(tmp_path, monkeypatch):
    """The file is synced after the last write and before it gets its name, and then the folder is."""
    synced = []

    def fsync(descriptor):
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        os.fsync(descriptor)

    watched = Interruptions(monkeypatch)
    watched_sync = durable.os.fsync
    durable.os.fsync = lambda descriptor: (fsync(descriptor), watched_sync(descriptor))
    mg.save(tmp_path / "x", NEW)
    calls = [c for c in watched.calls if c in ("write", "fsync", "replace", "flock")]
    assert calls == ["flock", *["write"] * calls.count("write"), "fsync", "replace", "fsync"]
    assert calls.count("write") == 4  # the length, the header, two arrays
    assert synced == [False, True]


def test_it_is_locked_until_it_has_its_name(tmp_path, monkeypatch):
    """Or else another writer could remove it in the last moment."""

    def replace(temporary, target):
        with open(temporary) as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.replace(temporary, target)

    monkeypatch.setattr(durable, "os", SimpleNamespace(**vars(os) | {"replace": replace}))
    mg.save(tmp_path / "x", NEW)
    assert which(tmp_path / "x") == "new"


def test_macos_is_asked_for_more_than_fsync(tmp_path, monkeypatch):
    asked = []
    own = {"F_FULLFSYNC": 51, "fcntl": lambda descriptor, command: asked.append(command)}
    monkeypatch.setattr(durable, "fcntl", SimpleNamespace(**vars(fcntl) | own))
    monkeypatch.setattr(durable, "sys", SimpleNamespace(platform="darwin"))
    mg.save(tmp_path / "x", NEW)
    assert asked == [51]


def test_file_systems_that_sync_no_folders(tmp_path, monkeypatch):
    for code, passes in ((errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)):

        def fsync(descriptor, code=code):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(code, "no")

        monkeypatch.setattr(durable, "os", SimpleNamespace(**vars(os) | {"fsync": fsync}))
        if passes:
            mg.save(tmp_path / "x", NEW)
        else:
            with pytest.raises(OSError, match="no"):
                mg.save(tmp_path / "x", NEW)
        assert which(tmp_path / "x") == "new"


# --- kills ---------------------------------------------------------------------------------------------

KILLS = int(os.environ.get("MINIGRAD_KILLS", "20"))


def run(script: str, *arguments: object) -> Any:
    """What a script prints, as JSON, run in a process of its own: one that may fork, as it has no threads."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    return json.loads(done.stdout)


# Trees of some megabytes, each with its number in all of its arrays, so that a file of two would show.
TREES = """
import json, os, random, signal, sys, time, warnings
import numpy as np
import minigrad as mg

def tree(n, size=50_000):
    return {"n": n, "a": np.full(size, n), "b": [np.full((size // 100, 100), n).T, mg.full(size, n)]}

def number(path):
    found = mg.load(path)
    n, arrays = found["n"], [found["a"], found["b"][0], found["b"][1].numpy()]
    assert all((a == n).all() for a in arrays), "a file of two"
    return n
"""


def test_a_process_killed_while_it_saves(tmp_path):
    """The file is that of before or the one after, each time, and the next save leaves nothing beside it."""
    found = run(
        TREES
        + """
path, kills = sys.argv[1], int(sys.argv[2])
random = random.Random(os.urandom(8))
mg.save(path, tree(0))
n, halves, changed = 0, 0, 0
for _ in range(kills):
    child = os.fork()
    if not child:
        for i in range(n + 1, n + 1000):
            mg.save(path, tree(i))
    time.sleep(random.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    before, n = n, number(path)
    assert n >= before
    changed += n > before
    left = os.listdir(os.path.dirname(path))
    assert len(left) <= 2  # the last one, and that from before is gone
    halves += len(left) == 2
mg.save(path, tree(n + 1))
assert number(path) == n + 1
left = os.listdir(os.path.dirname(path))
print(json.dumps({"kills": kills, "in a save": halves, "after one": changed, "left": left}))
""",
        tmp_path / "x",
        KILLS,
    )
    print(found)
    assert found["left"] == ["x"]
    assert found["in a save"] > KILLS // 50  # or else it has shown nothing
    assert found["after one"] > KILLS // 50


def test_ctrl_c_at_any_moment_of_saving(tmp_path):
    """As a kill; and the process that goes on leaves nothing beside the file, nor open."""
    found = run(
        TREES
        + """
path, times = sys.argv[1], int(sys.argv[2])
random = random.Random(os.urandom(8))
mg.save(path, tree(0))
signal.signal(signal.SIGALRM, signal.default_int_handler)
warnings.simplefilter("ignore", ResourceWarning)  # that Python closes a file which nobody has
n, last, inside = 0, 0, 0
descriptors = len(os.listdir("/dev/fd"))
for _ in range(times):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 0.01))
        while True:
            n += 1
            mg.save(path, tree(n, 1000))
            last = n
    except KeyboardInterrupt:
        found = number(path)
        assert found in (last, n)
        last = found
        inside += len(os.listdir(os.path.dirname(path))) > 1
mg.save(path, tree(n + 1))
assert number(path) == n + 1
more = len(os.listdir("/dev/fd")) - descriptors
print(json.dumps({"saves": n, "inside": inside, "left": os.listdir(os.path.dirname(path)), "open": more}))
""",
        tmp_path / "x",
        10 * KILLS,
    )
    print(found)
    assert found["left"] == ["x"]
    assert found["open"] <= KILLS // 2  # of ten times as many; one is lost between two steps of Python's


def test_processes_that_save_at_once(tmp_path):
    """Whoever loads meanwhile gets one of their trees, whole."""
    found = run(
        TREES
        + """
path = sys.argv[1]
mg.save(path, tree(0))
children = []
for k in range(3):
    child = os.fork()
    if not child:
        for i in range(1, 31):
            mg.save(path, tree(100 * k + i))
        os._exit(0)
    children.append(child)
seen = set()
while children:
    seen.add(number(path))
    child, status = os.waitpid(-1, os.WNOHANG)
    if child:
        assert status == 0
        children.remove(child)
print(json.dumps({"seen": len(seen), "last": number(path), "left": os.listdir(os.path.dirname(path))}))
""",
        tmp_path / "x",
    )
    assert found["left"] == ["x"]
    assert found["last"] % 100 == 30
    assert found["seen"] > 3


def test_threads_that_save_at_once(tmp_path):
    path = tmp_path / "x"
    mg.save(path, {"n": 0, "a": np.zeros(10_000)})
    errors = []

    def use(k: int) -> None:
        try:
            for i in range(1, 16):
                mg.save(path, {"n": 100 * k + i, "a": np.full(10_000, 100 * k + i)})
                tree = mg.load(path, mmap=i % 2 == 0)
                assert (tree["a"] == tree["n"]).all()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert mg.load(path)["n"] % 100 == 15
    assert os.listdir(tmp_path) == ["x"]


# --- what is swept, and what is not --------------------------------------------------------------------


def test_what_others_write_is_left_alone(tmp_path):
    path, other = tmp_path / "x", tmp_path / "y"
    alive, _, of_another = leave_behind(path), leave_behind(path, 1), leave_behind(other)
    similar = tmp_path / alive.name.replace(".", "x", 1)
    similar.write_text("mine")
    with alive.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        mg.save(path, NEW)
        assert sorted(os.listdir(tmp_path)) == sorted(["x", alive.name, of_another.name, similar.name])
    mg.save(path, NEW)
    assert sorted(os.listdir(tmp_path)) == sorted(["x", of_another.name, similar.name])
    durable.sweep(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(["x", similar.name])


def test_what_looks_like_a_left_file_and_is_none(tmp_path):
    """A link is not followed, and a pipe or a folder holds nobody up."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    link, pipe, folder = (leave_behind(tmp_path / "x", n) for n in range(3))
    for left in (link, pipe, folder):
        left.unlink()
    link.symlink_to(victim)
    os.mkfifo(pipe)
    folder.mkdir()
    (folder / "inside").write_text("mine")
    mg.save(tmp_path / "x", NEW)
    assert victim.read_text() == "mine"
    assert link.is_symlink()
    assert (folder / "inside").read_text() == "mine"


def test_a_new_file_taken_for_one_that_was_left(tmp_path, monkeypatch):
    """Between its making and its locking another writer may come: then it begins again."""
    taken = []

    def lock(file: Any, how: int) -> None:
        if len(taken) < 3:  # the other one comes now, and holds it, has removed it, or both
            taken.append(file.name)
            if len(taken) < 3:
                os.unlink(file.name)
            if len(taken) > 1:
                raise BlockingIOError
        fcntl.flock(file, how)

    monkeypatch.setattr(durable, "fcntl", SimpleNamespace(**vars(fcntl) | {"flock": lock}))
    mg.save(tmp_path / "x", NEW)
    assert which(tmp_path / "x") == "new"
    assert len(set(taken)) == 3
    monkeypatch.undo()
    mg.save(tmp_path / "x", NEW)
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("locks", ["none", "no module"])
def test_where_there_are_no_locks(locks, tmp_path, monkeypatch):
    """Nothing is removed there, since a writer may be alive."""

    def lock(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    fake = None if locks == "no module" else SimpleNamespace(**vars(fcntl) | {"flock": lock})
    monkeypatch.setattr(durable, "fcntl", fake)
    left = leave_behind(tmp_path / "x")
    mg.save(tmp_path / "x", NEW)
    assert which(tmp_path / "x") == "new"
    assert sorted(os.listdir(tmp_path)) == sorted(["x", left.name])


# --- names, links and permissions ----------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o000, 0o027])
def test_permissions_are_those_that_the_umask_leaves(mask, tmp_path):
    path = tmp_path / "x"
    before = os.umask(mask)
    try:
        mg.save(path, OLD)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
        path.chmod(0o640)
        mg.save(path, NEW)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640  # as if it were the same file
    finally:
        os.umask(before)


def test_links_are_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/x")
    (tmp_path / "to folder").symlink_to("folder")
    for path in (tmp_path / "link", tmp_path / "to folder" / "x"):  # first into nothing
        for tree in (OLD, NEW):
            mg.save(path, tree)
            assert which(tmp_path / "folder" / "x") == which(path) == tree["name"]
    assert (tmp_path / "link").is_symlink()
    assert os.listdir(tmp_path / "folder") == ["x"]
    os.link(tmp_path / "folder" / "x", tmp_path / "another name")
    mg.save(tmp_path / "link", OLD)
    assert which(tmp_path / "another name") == "new"  # of the old file
    (tmp_path / "ring").symlink_to("ring")
    with pytest.raises(OSError, match="symbolic links"):
        mg.save(tmp_path / "ring", OLD)
    with pytest.raises(OSError, match="symbolic links"):
        mg.load(tmp_path / "ring")


NAMES = ["x" * 255, "é" * 127, "😀 ~$'\"\\\n*?", ".x", "-rf", " ", "x.safetensors", "%s{}", "日本語"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_long_and_odd_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths: Any = (tmp_path / name, str(tmp_path / name), os.fsencode(tmp_path / name), name)
    for path in paths:
        left = leave_behind(tmp_path / name)
        mg.save(path, NEW)
        check(mg.load(path), NEW)
        assert os.listdir(tmp_path) == [name]
        assert not left.exists()
        os.unlink(path)


def test_names_that_are_no_text(tmp_path):
    path: Any = os.fsencode(tmp_path) + b"/\xff\xfe"
    try:
        mg.save(path, NEW)
    except OSError:
        pytest.skip("the file system takes no such names")
    check(mg.load(path), NEW)
    Path(os.fsdecode(path)).write_bytes(b"")
    with pytest.raises(FormatError, match="0 bytes"):
        mg.load(path)


def test_paths_that_are_no_place_for_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"save: there is no such folder: '.*missing'"):
        mg.save(tmp_path / "missing" / "x", NEW)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        mg.save(tmp_path / "file" / "x", NEW)
    with pytest.raises(IsADirectoryError, match=r"save: '.*' is there, and is not a regular file"):
        mg.save(tmp_path, NEW)
    with pytest.raises(IsADirectoryError):
        mg.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        mg.load(tmp_path / "missing")
    with pytest.raises(ValueError, match="null"):
        mg.save("a\0b", NEW)
    for path in (3, None, 1.5):
        with pytest.raises(TypeError):
            mg.save(path, NEW)  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError):
            mg.load(path)  # pyright: ignore[reportArgumentType]
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_no_file_is_neither_read_nor_replaced(tmp_path):
    """Nor does a pipe that nobody writes to hold anybody up."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        for path in (tmp_path / "pipe", "/dev/null", "/dev/zero", tmp_path / "socket"):
            with pytest.raises(FileExistsError, match="is there, and is not a regular file"):
                mg.save(path, NEW)
        for path in (tmp_path / "pipe", "/dev/null", "/dev/zero"):
            with pytest.raises(FormatError, match="this is no regular file"):
                mg.load(path)
        with pytest.raises(OSError, match="No such device"):
            mg.load(tmp_path / "socket")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is allowed to root")
def test_folders_that_may_not_be_written_to(tmp_path):
    mg.save(tmp_path / "x", OLD)
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        mg.save(tmp_path / "x", NEW)
    assert which(tmp_path / "x") == "old"
    tmp_path.chmod(0o700)


def test_a_file_of_another_kind_is_replaced(tmp_path):
    (tmp_path / "x").write_text("notes")
    mg.save(tmp_path / "x", NEW)
    assert which(tmp_path / "x") == "new"
