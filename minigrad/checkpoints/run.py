"""The checkpoints of a run: which there are, saving them, and going back to one."""

import math
import operator
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..io import FormatError, durable, load, outline, save
from ..io.tree import flattened
from .loop import Steps
from .parts import Streams, is_part, set_state, state_of, way_back

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

    One file is what `mg.load` gives back as a dict: `mg.load(run.path("best"))["model"]` is the state of the
    model alone.

    On the same machine, with the same libraries and as many threads, a run that was restored goes on as if it
    had never stopped, to the last bit. Devices may change: state dicts are NumPy's. Settings of an
    optimizer or a schedule, such as `lr` and `T_max`, are restored, too, whatever they are in this program.

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
        if keep is not None and (type(keep) is not int or keep < 1):
            raise ValueError(f"Checkpoints: keep must be a whole number from 1 up, or None, got {keep!r}")
        if best not in ("max", "min", None):
            raise ValueError(f"Checkpoints: best must be 'max', 'min' or None, got {best!r}")
        if taken := {"step", "score", "random"} & set(parts):
            raise ValueError(f"Checkpoints: {sorted(taken)} are names of its own; give the parts others")
        for name, part in parts.items():
            if not is_part(part):
                raise TypeError(
                    f"Checkpoints: {name!r} is {type(part).__name__}, which has no state_dict and "
                    "load_state_dict, and is no dict, list, numpy.random.Generator, number or string "
                    "(put an array into a dict)"
                )
        self.folder = Path(os.path.abspath(folder))
        self.step = 0
        self._keep, self._best, self._parts = keep, best, {"random": Streams(), **parts}
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
        tree = self._tree(step, score)
        durable.make_folder(str(self.folder))
        with durable.alone_in(str(self.folder)):
            self._refuse_others()
            durable.sweep(str(self.folder))  # what was left by a process that was killed in another step
            self._own.add(step)
            try:
                save(self._path(step), tree)
            except BaseException:  # after the last step of saving, the file is there, and this run's
                if not self._path(step).exists():
                    self._own.discard(step)
                raise
            self._saved = self.step = step
            self._remove_old()
        return self._path(step)

    def _tree(self, step: int, score: Any) -> dict[str, Any]:
        head = {"step": step, "score": None if score is None else float(score)}
        return head | {name: state_of(part) for name, part in self._parts.items()}

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
            which: "last", "best", or the path of a checkpoint, also of another folder.

        From one that is not the last a run does not go on in this folder, where the later ones would be mixed
        with its own, but in another: `Checkpoints("other", …).restore(run.path("best"))`.

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
        ways_back = {name: way_back(part) for name, part in self._parts.items()}
        begun: list[str] = []
        try:
            for name, part in self._parts.items():
                begun.append(name)
                set_state(part, tree[name])
        except BaseException as error:
            lost = [name for name in begun if not _went(ways_back[name])]
            if lost:
                error.add_note(f"Checkpoints: {lost} could not be put back to what they were")
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
        Take batches in the body, or by `zip(run.steps(…), batches)`: `zip(batches, run.steps(…))` would take
        one before the step before it is saved, and lose it.

        At the first Ctrl-C (or SIGTERM) the step is made to its end and saved, and `KeyboardInterrupt`
        says so; a second one interrupts at once. This needs the main thread, where Python handles signals,
        and leaves those alone that are ignored. `break` and errors save nothing.

        Args:
            total: how many steps there are in all.
            every: after how many of them to save; None is at Ctrl-C only.
            resume: what `KeyboardInterrupt` says is to be done to go on; FOLDER in it stands for the folder.

        Raises:
            FileExistsError: the folder has checkpoints of another run.
        """
        if every is not None and (not isinstance(every, int) or every < 1):
            raise ValueError(f"Checkpoints: every must be a whole number from 1 up, or None, got {every!r}")
        self._refuse_others()
        flattened(self._tree(self.step, None))  # what cannot be saved is an error now, and not after hours
        return Steps(self, operator.index(total), every, resume)

    def _save_once(self, step: int, anywhere: bool = False) -> None:
        """Save unless the body of the loop has; if need be, and `anywhere`, in a folder beside this one."""
        if self._saved == step:
            return
        try:
            self.save(step)
        except FileExistsError:  # another run has come to save here
            if not anywhere:
                raise
            self.folder = Path(self.unused(str(self.folder)))
            self.save(step)


def _went(way_back: Callable[[], Any]) -> bool:
    try:
        way_back()
    except Exception:  # of an object of the user's; the others are to be put back all the same
        return False
    return True


def _score(path: Path) -> float | None:
    """The score that a checkpoint was saved with, from its header."""
    tree = outline(path)
    score = tree.get("score") if isinstance(tree, dict) else None
    return score if isinstance(score, float) else None
