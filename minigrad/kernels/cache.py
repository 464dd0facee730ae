"""The folder of compiled kernels: code that will be loaded, so nobody else may write to it.

A file's name ends in the checksum of its content. A damaged file is found out before it is loaded (to
load half a library can kill the process), and processes that make the same kernel at the same time do
not disturb each other: each writes a file of its own and then renames it.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

SUFFIX = ".dll" if sys.platform == "win32" else ".so"


def location() -> Path:
    """Where compiled kernels are kept: `MINIGRAD_CACHE`, or minigrad's folder in the user's cache."""
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
            f"the cache folder {path} is not used: it must be a folder of yours that nobody else can write to"
        )
        return None
    return path


def _warn(problem: str) -> None:
    warnings.warn(
        f"minigrad: {problem}; kernels are compiled anew in each process. "
        "MINIGRAD_CACHE names another folder",
        RuntimeWarning,
        stacklevel=2,
    )


def folder() -> Path | None:
    """The cache folder; None where there is none that is safe."""
    return _folder(location())


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory:
    """A folder for this process alone, which goes when it ends."""
    return tempfile.TemporaryDirectory(prefix="minigrad-", ignore_cleanup_errors=True)


def load(name: str) -> ctypes.CDLL | None:
    """The library cached under `name`, if there is one that is whole and ours."""
    place = folder()
    if place is None:
        return None
    for path in sorted(place.glob(f"{name}-*{SUFFIX}")):
        if _is_sound(path):
            try:
                return ctypes.CDLL(str(path))
            except OSError:  # as in a file system that lets nothing be executed
                return None
        warnings.warn(
            f"minigrad: {path} is damaged, or somebody else can write to it; it is not loaded, and the "
            "kernel is compiled anew",
            RuntimeWarning,
            stacklevel=2,
        )
        with contextlib.suppress(OSError):
            path.unlink()
    return None


def _is_sound(path: Path) -> bool:
    """Whether it is a plain file of ours with the content that its name says."""
    try:
        about = path.lstat()
        if not stat.S_ISREG(about.st_mode) or _others_can_write(about):
            return False
        return path.stem.rpartition("-")[2] == _checksum(path)
    except OSError:
        return False


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def make(name: str, write: Callable[[Path], None]) -> ctypes.CDLL:
    """The library that `write` writes to the path it is given, now cached under `name`.

    Where the cache folder takes no files, it is made among the temporary files of this process.

    Raises `OSError` if that fails, too, or what was written cannot be loaded.
    """
    place = folder()
    if place is not None:
        try:
            return _make(place, name, write)
        except OSError as error:
            _warn(f"the cache folder {place} takes no libraries ({error})")
    return _make(Path(_temporary().name), name, write)


def _make(place: Path, name: str, write: Callable[[Path], None]) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="making-", dir=place, ignore_cleanup_errors=True) as work:
        path = Path(work) / f"kernel{SUFFIX}"
        write(path)
        path.chmod(0o700)
        library = ctypes.CDLL(str(path))  # before it is kept: one that cannot be loaded shall not be
        os.replace(path, place / f"{name}-{_checksum(path)}{SUFFIX}")
    return library


def contents() -> list[Path]:
    """The libraries in the cache folder."""
    place = folder()
    return sorted(place.glob(f"*{SUFFIX}")) if place else []
