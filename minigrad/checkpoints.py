"""Checkpoints of a training run: all that it needs to go on, in a file each, restored whole or not at all."""

import copy
import math
import operator
import os
import random as random_of_python
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy

from . import random
from .io import FormatError, durable, load, outline, save

try:
    import fcntl
except ImportError:  # Windows has no such locks: there two processes must not save into one folder
    fcntl: Any = None

_NAME = re.compile(r"step-(0|[1-9][0-9]*)\.safetensors")


class Checkpoints:
    """The checkpoints of a training run in a folder: the last few, and the best.

    Args:
        folder: where they are, as `step-<number>.safetensors`; made when the first one is saved. Other files
            in it are left alone.
        keep: how many of the last ones stay; None keeps all.
        best: "max" or "min": the one with the highest or lowest score stays, too. Of equal ones it is the
            first; NaN is never the best.
        **parts: what belongs to the run, under names of your choice:

            - what has `state_dict` and `load_state_dict`: modules, optimizers, schedules, `data.batches`,
              and objects of your own;
            - dicts and lists of what `mg.save` takes, which are filled anew, with new objects in them;
            - generators of NumPy's (`numpy.random.Generator`);
            - numbers, strings, bools, None, and tuples of them, which must be what they were.

    The states of `mg.random` in this thread and of the shared random numbers of Python and NumPy go along.
    Not saved are gradients, whether a module is in training mode, buffers that are not persistent, and how
    many steps an optimizer has skipped.

    On the same machine, with the same libraries and as many threads, a run that was restored goes on as if it
    had never stopped, to the last bit. Devices may change: state dicts are NumPy's.

    Nothing of another run is ever overwritten or removed: where the folder has checkpoints that this run has
    not saved, nor found there up to the one that it restored, it is refused, at the beginning if they are
    there by then.

    Attributes:
        folder: the path, which stays the same whatever becomes the working folder.
        step: how many steps were done when it was last saved or restored, or by `steps`.

    Raises:
        TypeError, ValueError: a part that is none of these, or a name or a setting that cannot be.

    >>> import minigrad as mg, tempfile
    >>> def train(folder, total):
    ...     model, losses = mg.nn.Linear(2, 1), []
    ...     optimizer = mg.optim.RAdam(model.parameters(), lr=0.1)
    ...     run = mg.Checkpoints(folder, model=model, optimizer=optimizer, losses=losses)
    ...     print("begins after step", run.restore())
    ...     for step in run.steps(total, every=2):
    ...         optimizer.zero_grad()
    ...         loss = mg.square(model(mg.ones(2))).sum()
    ...         loss.backward()
    ...         optimizer.step()
    ...         losses.append(loss.item())
    ...     print(len(losses), "losses")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     train(folder, 2)
    ...     train(folder, 5)
    begins after step 0
    2 losses
    begins after step 2
    5 losses
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        /,
        *,
        keep: int | None = 3,
        best: str | None = None,
        **parts: Any,
    ):
        if keep is not None and (not isinstance(keep, int) or keep < 1):
            raise ValueError(f"Checkpoints: keep must be a whole number from 1 up, or None, got {keep!r}")
        if best not in ("max", "min", None):
            raise ValueError(f"Checkpoints: best must be 'max', 'min' or None, got {best!r}")
        if taken := {"step", "score", "random"} & set(parts):
            raise ValueError(f"Checkpoints: {sorted(taken)} are names of its own; give the parts others")
        for name, part in parts.items():
            if not _is_part(part):
                raise TypeError(
                    f"Checkpoints: {name!r} is {type(part).__name__}, which has no state_dict and "
                    "load_state_dict, and is no dict, list, numpy.random.Generator, number or string"
                )
        self.folder = Path(os.path.abspath(folder))
        self.step = 0
        self._keep, self._best, self._parts = keep, best, {"random": _Streams(), **parts}
        self._own: set[int] = set()  # the steps that this run has saved, or found up to the one restored
        self._saved: int | None = None  # the last of them

    @staticmethod
    def unused(folder: str) -> str:
        """The first of `folder`, `folder_2`, `folder_3`, … that is not there yet."""
        n, name = 1, folder
        while os.path.lexists(name):
            n, name = n + 1, f"{folder}_{n + 1}"
        return name

    # --- which there are ---------------------------------------------------------------------------

    def path(self, which: str = "last") -> Path:
        """The file of the "last" checkpoint in the folder, or of the "best".

        Raises:
            FileNotFoundError: there is none.
            FormatError: one that cannot be read may be the best.
        """
        if which not in ("last", "best"):
            raise ValueError(f"Checkpoints: which must be 'last' or 'best', got {which!r}")
        steps = self._steps()
        if which == "best":
            steps = self._ranked({step: _score(self._path(step)) for step in steps})
        if not steps:
            what = "no checkpoint" if which == "last" else "no checkpoint with a score"
            raise FileNotFoundError(f"Checkpoints: there is {what} in {self.folder}")
        return self._path(steps[-1])

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step}.safetensors"

    def _steps(self) -> list[int]:
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        return sorted(int(found[1]) for found in map(_NAME.fullmatch, names) if found)

    def _ranked(self, scores: dict[int, float | None]) -> list[int]:
        """The steps that have a score, from the worst to the best."""
        if self._best is None:
            raise ValueError("Checkpoints: there is no best one unless best='max' or best='min' is given")
        sign = 1 if self._best == "max" else -1
        known = {step: score for step, score in scores.items() if score is not None and not math.isnan(score)}
        return sorted(known, key=lambda step: (sign * known[step], -step))

    def _refuse_others(self) -> None:
        if others := [step for step in self._steps() if step not in self._own]:
            raise FileExistsError(
                f"Checkpoints: {self._path(others[-1])} is not of this run, or later than what it restored; "
                "restore() to go on from the last one, or move it away, or take another folder"
            )

    # --- saving and restoring ----------------------------------------------------------------------

    def save(self, step: int, score: Any = None) -> Path:
        """Save a checkpoint; when it is safely on the disk, remove those that are no longer to be kept.

        Inside a loop over `steps` this belongs at the end of the body: the same step is not saved again.

        Args:
            step: how many steps are done.
            score: a number that says how good it is.

        Returns:
            The file.

        Raises:
            FileExistsError: the folder has checkpoints of another run.
            OSError, TypeError, ValueError: as for `mg.save`. The checkpoints are as they were.
        """
        step = operator.index(step)
        if step < 0:
            raise ValueError(f"Checkpoints: a step must be a number from 0 up, got {step}")
        head = {"step": step, "score": None if score is None else float(score)}
        _make(self.folder)
        with _alone_in(self.folder):
            self._refuse_others()
            durable.sweep(str(self.folder))  # what was left by a process that was killed in another step
            save(self._path(step), head | {name: _state(part) for name, part in self._parts.items()})
            self._own.add(step)
            self._saved = self.step = step
            self._remove_old()
        return self._path(step)

    def _remove_old(self) -> None:
        steps = self._steps()
        stay = {self.step, *(steps if self._keep is None else steps[-self._keep :])}
        if self._best:
            scores = {}
            for step in steps:
                try:
                    scores[step] = _score(self._path(step))
                except FormatError:
                    stay.add(step)  # it may be the best, and somebody may repair it
            stay.update(self._ranked(scores)[-1:])
        for step in steps:
            if step not in stay:
                self._path(step).unlink(missing_ok=True)

    def restore(self, which: str | os.PathLike[str] = "last") -> int:
        """Make all parts, and the random numbers, what they were in a checkpoint.

        Args:
            which: "last", "best", or the path of a checkpoint.

        Returns:
            How many steps were done; 0, with nothing changed, if the last one is wanted and there is none.

        Raises:
            ValueError: the file is damaged, or does not fit: other parts, kinds, shapes. All parts are then
                as they were; no other checkpoint is taken instead.
            OSError: there is no such file, or it cannot be read.
        """
        if which == "last" and not self._steps():
            return 0
        path = self.path(str(which)) if which in ("last", "best") else Path(os.path.abspath(which))
        try:
            tree = load(path)
        except FormatError as error:
            raise FormatError(f"{error}; move it away, and restore() goes on from the one before") from error
        self._check(path, tree)
        before = {name: _state(part, copied=True) for name, part in self._parts.items()}
        begun: list[str] = []
        try:
            for name, part in self._parts.items():
                begun.append(name)
                _set(part, tree[name], before[name])
        except BaseException as error:
            for name in begun:
                _set(self._parts[name], before[name], before[name])
            if not isinstance(error, Exception):
                raise
            why = error.args[0] if error.args else error  # a KeyError as text would be in quotes
            raise ValueError(f"Checkpoints: {path}: {begun[-1]!r} does not fit: {why}") from error
        self._saved = self.step = tree["step"]
        self._own = {n for n in self._steps() if n <= self.step} if path.parent == self.folder else set()
        return self.step

    def _check(self, path: Path, tree: Any) -> None:
        """Raise `ValueError` unless `tree` is a checkpoint with these parts."""
        names = set(tree) if isinstance(tree, dict) else set()
        if not names >= {"step", "score", "random"} or type(tree["step"]) is not int or tree["step"] < 0:
            raise ValueError(f"Checkpoints: {path} is something else than a checkpoint")
        wanted = {"step", "score", *self._parts}
        if names != wanted:
            raise ValueError(
                f"Checkpoints: {path} lacks the parts {sorted(wanted - names)}, and has "
                f"{sorted(names - wanted, key=str)}, which are not here"
            )

    # --- the loop ----------------------------------------------------------------------------------

    def steps(self, total: int, every: int | None, resume: str = "restore()") -> "Steps":
        """The numbers of the steps that are left, up to `total`: from 1, or from what was restored.

        A step is done when the body of the loop is. After every so many of them, and the last, it is saved.
        At the first Ctrl-C (or SIGTERM) the step is made to its end and saved, and `KeyboardInterrupt`
        says so; a second one interrupts at once. This needs the main thread, where Python handles signals,
        and leaves those alone that are ignored. `break` and errors save nothing.

        Args:
            total: how many steps there are in all.
            every: after how many of them to save; None is at Ctrl-C only.
            resume: what `KeyboardInterrupt` says is to be done to go on.

        Raises:
            FileExistsError: the folder has checkpoints of another run.
        """
        if every is not None and (not isinstance(every, int) or every < 1):
            raise ValueError(f"Checkpoints: every must be a whole number from 1 up, or None, got {every!r}")
        self._refuse_others()
        return Steps(self, operator.index(total), every, resume)

    def _save_once(self, step: int) -> None:
        if self._saved != step:
            self.save(step)


class Steps:
    """What `Checkpoints.steps` gives: to be gone through once, with a length for progress bars."""

    def __init__(self, run: Checkpoints, total: int, every: int | None, resume: str):
        self.run, self.total, self.every, self.resume = run, total, every, resume

    def __len__(self) -> int:
        """How many are left."""
        return max(0, self.total - self.run.step)

    def __iter__(self) -> Iterator[int]:
        run, step = self.run, self.run.step
        with _noted_signals() as noted:
            while step < self.total and not noted:
                step += 1
                yield step
                run.step = step
                if noted or (self.every and (step % self.every == 0 or step == self.total)):
                    run._save_once(step)
            if noted:  # which may have come while it was saving
                run._save_once(step)
        if noted:
            where = f"after step {step} of {self.total}, which is saved in {run.folder}"
            raise KeyboardInterrupt(f"stopped {where}; to go on: {self.resume}")


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Note the first SIGINT or SIGTERM in a list; a second one does what it would have done before."""
    noted: list[int] = []
    before: dict[int, Any] = {}
    process = os.getpid()

    def put_back() -> None:
        while before:
            signal.signal(*before.popitem())

    def note(number: int, frame: Any) -> None:
        if noted or os.getpid() != process:  # a process that was forked has no steps to end
            put_back()
            signal.raise_signal(number)
        noted.append(number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: of something else than Python
                before[number] = signal.signal(number, note)
    try:
        yield noted
    finally:
        put_back()


def _make(folder: Path) -> None:
    """Make a folder, so that a crash does not lose it."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        durable.sync_folder(str(folder.parent))


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process saves into a folder, and keep others waiting."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# --- parts -------------------------------------------------------------------------------------------


class _Streams:
    """The random numbers that all share, as a part."""

    def state_dict(self) -> dict[str, Any]:
        version, words, gauss = random_of_python.getstate()
        return {
            "minigrad": random.get_state(),
            "python": {"version": version, "words": numpy.array(words, numpy.uint32), "gauss": gauss},
            "numpy": numpy.random.get_state(legacy=False),  # noqa: NPY002 - others may draw from it
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        random.set_state(state["minigrad"])
        python = state["python"]
        random_of_python.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
        numpy.random.set_state(state["numpy"])  # noqa: NPY002


def _is_part(part: Any) -> bool:
    if hasattr(part, "state_dict") and hasattr(part, "load_state_dict"):
        return True
    return isinstance(part, (dict, list, numpy.random.Generator)) or _is_fixed(part)


def _is_fixed(part: Any) -> bool:
    if isinstance(part, tuple):
        return all(map(_is_fixed, part))
    return part is None or isinstance(part, (bool, int, float, str))


def _state(part: Any, copied: bool = False) -> Any:
    """What to save of a part, or to put back."""
    if hasattr(part, "state_dict"):
        return copy.deepcopy(part.state_dict()) if copied else part.state_dict()
    if isinstance(part, numpy.random.Generator):
        return part.bit_generator.state
    return copy.copy(part)


def _set(part: Any, state: Any, now: Any) -> None:
    """Make a part what it was, from what it is now. Raises errors of any kind if the state does not fit."""
    if hasattr(part, "state_dict"):
        if isinstance(now, dict):
            _check_kind(state, dict)
            _check_dtypes(state, now)
        part.load_state_dict(state)
    elif isinstance(part, numpy.random.Generator):
        part.bit_generator.state = state
    elif isinstance(part, dict):
        _check_kind(state, dict)
        part.clear()
        part.update(state)
    elif isinstance(part, list):
        _check_kind(state, list)
        part[:] = state
    elif repr(part) != repr(state):  # by which NaN is what it was, and True is not 1
        raise ValueError(f"it is {part!r}, and was {state!r}")


def _check_kind(state: Any, kind: type) -> None:
    if not isinstance(state, kind):
        raise TypeError(f"it is a {kind.__name__}, and was saved as a {type(state).__name__}")


def _check_dtypes(state: dict[Any, Any], now: dict[Any, Any]) -> None:
    """A module would convert what it loads; but then it would not go on as it did."""
    for key, value in state.items():
        old = now.get(key)
        if isinstance(value, numpy.ndarray) and isinstance(old, numpy.ndarray) and value.dtype != old.dtype:
            raise TypeError(f"its {key} is {old.dtype}, and was {value.dtype}")


def _score(path: Path) -> float | None:
    """The score that a checkpoint was saved with, from its header."""
    tree = outline(path)
    score = tree.get("score") if isinstance(tree, dict) else None
    return score if isinstance(score, float) else None
