"""The folder of compiled kernels: code that will be loaded, so nobody else may write to it.

A file's name ends in the checksum of its content. A damaged file is found out before it is loaded (to
load half a library can kill the process), and processes that make the same kernel at the same time do
not disturb each other: each writes a file of its own and then renames it.
"""

import atexit
import contextlib
import ctypes
import functools
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..backend import warn

SUFFIX = ".dll" if sys.platform == "win32" else ".so"


class LoadError(OSError):
    """A library was made, but it cannot be loaded."""


@functools.cache
def location() -> Path:
    """Where compiled kernels are kept: `MINIGRAD_CACHE`, or minigrad's folder in the user's cache.

    Raises `RuntimeError` where the user's home is not known.
    """
    if os.environ.get("MINIGRAD_CACHE"):
        return Path(os.environ["MINIGRAD_CACHE"]).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "minigrad"


def _others_can_write(about: os.stat_result) -> bool:
    if not hasattr(os, "geteuid"):  # Windows: the user's own folder is protected by its place
        return False
    return about.st_uid != os.geteuid() or bool(about.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


@functools.cache
def _folder(path: Path) -> Path | None:
    """`path`, made if need be; None, after a warning, where it cannot be had or is not safe."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = path.lstat()
    except OSError as error:
        _warn(f"the cache folder {path} cannot be used ({error})")
        return None
    if not stat.S_ISDIR(about.st_mode) or _others_can_write(about):
        _warn(
            f"the cache folder {path} is not used: it must be a folder of yours, no link, "
            "that nobody else can write to"
        )
        return None
    return path


def _warn(problem: str) -> None:
    warn(
        f"minigrad: {problem}; kernels are compiled anew in each process. "
        "MINIGRAD_CACHE names another folder",
        RuntimeWarning,
    )


def folder() -> Path | None:
    """The cache folder; None where there is none that is safe."""
    try:
        return _folder(location())
    except RuntimeError as error:
        _warn(f"there is no cache folder ({error})")
        return None


@functools.cache
def _temporary(process: int) -> Path:
    """A folder for this process alone, which goes when it ends (but not when a fork of it does)."""
    path = tempfile.mkdtemp(prefix="minigrad-")
    atexit.register(lambda: os.getpid() == process and shutil.rmtree(path, ignore_errors=True))
    return Path(path)


def load(name: str) -> ctypes.CDLL | None:
    """The library cached under `name`, if there is one that is whole and ours."""
    place = folder()
    if place is None:
        return None
    for path in sorted(place.glob(f"{name}-*{SUFFIX}")):
        problem = _problem(path)
        if problem is None:
            try:
                return ctypes.CDLL(str(path))
            except OSError:  # as in a file system that lets nothing be executed
                return None
        warn(f"minigrad: {path} is not loaded, since {problem}; the kernel is compiled anew", RuntimeWarning)
        with contextlib.suppress(OSError):
            path.unlink()
    return None


def _problem(path: Path) -> str | None:
    """None for a plain file of ours with the content that its name says, or what is wrong with it."""
    try:
        about = path.lstat()
        if not stat.S_ISREG(about.st_mode) or _others_can_write(about):
            return "it is somebody else's, or somebody else can write to it"
        damaged = path.stem.rpartition("-")[2] != _checksum(path)
    except OSError as error:
        return f"it cannot be read ({error})"
    return "it is damaged" if damaged else None


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def make(name: str, write: Callable[[Path], None]) -> ctypes.CDLL:
    """The library that `write` writes to the path it is given, now cached under `name`.

    Where the cache folder takes no files, it is made among the temporary files of this process.

    Raises `OSError` if that fails, too, or what was written cannot be loaded.
    """
    place, problem = folder(), None
    if place is not None:
        try:
            return _make(place, name, write)
        except OSError as error:
            problem = error
    library = _make(_temporary(os.getpid()), name, write)
    if problem is not None:  # and it was the folder's
        _warn(f"the cache folder {place} takes no libraries ({problem})")
    return library


def _make(place: Path, name: str, write: Callable[[Path], None]) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="making-", dir=place, ignore_cleanup_errors=True) as work:
        path = Path(work) / f"kernel{SUFFIX}"
        write(path)
        path.chmod(0o700)
        try:
            library = ctypes.CDLL(str(path))  # before it is kept: one that cannot be loaded shall not be
        except OSError as error:
            raise LoadError(f"what was compiled cannot be loaded: {error}") from error
        os.replace(path, place / f"{name}-{_checksum(path)}{SUFFIX}")
    return library


def contents() -> list[Path]:
    """The libraries in the cache folder."""
    place = folder()
    return sorted(place.glob(f"*{SUFFIX}")) if place else []
