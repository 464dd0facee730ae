"""The loop over the steps of a run, which saves as it goes, and when it is to stop."""

import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .run import Checkpoints


class Steps:
    """What `Checkpoints.steps` gives: to be gone through once, with a length for progress bars."""

    def __init__(self, run: "Checkpoints", total: int, every: int | None, resume: str):
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
                if not noted and self.every and (step % self.every == 0 or step == self.total):
                    run._save_once(step)
            if noted:  # which may have come while it was saving
                run._save_once(step, anywhere=True)
        if noted:
            where = f"after step {step} of {self.total}, which is saved in {run.folder}"
            resume = self.resume.replace("FOLDER", shlex.quote(os.path.relpath(run.folder)))
            raise KeyboardInterrupt(f"stopped {where}; to go on: {resume}")


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Note the first SIGINT or SIGTERM in a list, and say so; a second does what it did before."""
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
        with suppress(OSError):  # past sys.stderr, which may be in the middle of a write of its own
            os.write(2, b"\nstopping when this step is done and saved; a second Ctrl-C stops at once\n")

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: of something else than Python
                before[number] = signal.signal(number, note)
    try:
        yield noted
    finally:
        put_back()
