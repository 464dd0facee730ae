"""Putting a new file in the place of an old one, so that a crash at any moment leaves one of the two, whole.

The new file is written beside the old one under another name, and takes its place in one step when all of it
is on the disk. Whoever writes such a temporary file holds a lock on it, which the system lets go when the
process ends, however it ends: one whose lock can be had was left behind, and is removed by the next writer.
"""

import os
import re
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from errno import EINVAL, EISDIR, ENOENT, ENOTSUP
from io import FileIO
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has no such locks: what a killed process leaves there stays
    fcntl: Any = None

_TEMPORARY = re.compile(r"\.minigrad-([0-9a-f]{8})-[0-9a-f]{16}")
_MOST = 1 << 26  # bytes for one call: macOS takes less than 2 GB, and Ctrl-C waits for the end of it


def replace(path: str | os.PathLike[str], parts: Iterable[Any]) -> None:
    """Write `parts`, buffers of bytes, one after the other, to a file that then takes the place of `path`.

    Links are followed. A new file has the permissions that the umask leaves, one that replaces another has
    the other's. Other hard links to the old file keep it.

    Raises `OSError` where the system does; the old file, or that there is none, is then as it was, except
    that a failure after the last step, that of making the new name durable, leaves the new one.
    """
    if os.fsdecode(path).endswith(os.sep):
        raise IsADirectoryError(EISDIR, "save: this is the name of a folder", os.fsdecode(path))
    target = os.path.realpath(os.fsdecode(path))
    try:
        old = os.stat(target)
    except FileNotFoundError:
        old = None
    if old is not None and not stat.S_ISREG(old.st_mode):
        error = IsADirectoryError if stat.S_ISDIR(old.st_mode) else FileExistsError
        raise error(f"save: {os.fsdecode(path)!r} is there, and is not a regular file")
    folder, name = os.path.split(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(ENOENT, "save: there is no such folder", folder)
    sweep(folder, name)
    with _temporary(folder, name) as file:
        temporary = str(file.name)
        if old is not None and (old.st_mode ^ os.fstat(file.fileno()).st_mode) & 0o777:
            os.chmod(temporary, old.st_mode & 0o777)
        for part in parts:
            _write(file.fileno(), part)
        _sync(file.fileno())
        if fcntl is None:
            file.close()  # Windows moves no open file
        os.replace(temporary, target)  # while the lock is held
    sync_folder(folder)


def sweep(folder: str, name: str | None = None) -> None:
    """Remove what writers that ended too early left in a folder; those for the file `name`, or all.

    A writer that is alive loses nothing, where locks work: on a network's file system that keeps locks to
    each machine, name the file, and write no file from two machines at once.
    """
    if fcntl is None:
        return
    with suppress(OSError):  # not being able to clean up keeps nobody from writing
        for entry in os.listdir(folder):
            left = _TEMPORARY.fullmatch(entry)
            if left and (name is None or left[1] == _checksum(name)):
                with suppress(OSError):
                    _remove_if_left(os.path.join(folder, entry))


def _checksum(name: str) -> str:
    """What stands for a file's name in that of its temporary one: it may be as long as names can be."""
    return f"{zlib.crc32(os.fsencode(name)):08x}"


def _remove_if_left(temporary: str) -> None:
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW)
    except PermissionError:  # it was to replace a file that may only be read
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an error if a writer holds it
        os.unlink(temporary)
    finally:
        os.close(descriptor)


@contextmanager
def _temporary(folder: str, name: str) -> Iterator[FileIO]:
    """A new file beside `name`, locked while the block runs. An error in the block removes it."""
    while True:
        path = os.path.join(folder, f".minigrad-{_checksum(name)}-{os.urandom(8).hex()}")
        try:
            with FileIO(path, "x") as file:
                if _lock(file):
                    yield file
                    return
        except BaseException:
            with suppress(OSError):
                os.unlink(path)
            raise


def _lock(file: FileIO) -> bool:
    """Lock a file that was just made; False if another writer took it for one that was left, and removes it.

    Where the file system has no locks there is none, and nothing is ever removed.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return os.fstat(file.fileno()).st_nlink > 0


def _write(descriptor: int, part: Any) -> None:
    with memoryview(part).cast("B") as rest:
        while rest:
            rest = rest[os.write(descriptor, rest[:_MOST]) :]


def _sync(descriptor: int) -> None:
    """Wait until what was written is on the disk itself."""
    if sys.platform == "darwin":  # where fsync leaves it in the disk's own memory
        with suppress(OSError):  # which not every file system can be asked for
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_folder(folder: str) -> None:
    """Wait until the names in a folder are on the disk, too."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (EINVAL, ENOTSUP):  # a file system that has no such thing
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: str) -> None:
    """Make a folder, and those around it, so that a crash does not lose them."""
    if not os.path.isdir(folder):
        make_folder(os.path.dirname(folder))
        with suppress(FileExistsError):
            os.mkdir(folder)
        sync_folder(os.path.dirname(folder))


@contextmanager
def alone_in(folder: str) -> Iterator[None]:
    """Wait until no other process is in such a block with this folder, and keep others waiting."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):  # closing is not enough if a fork has come to hold it, too
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
