"""Checkpoints: what is saved and restored, that it is all or nothing, which files stay, and Ctrl-C."""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ctrl_c_as_usual

import minigrad as mg
from minigrad import nn
from minigrad.io import FormatError


@pytest.fixture(autouse=True)
def _ctrl_c():
    with ctrl_c_as_usual():
        yield


class Counter:
    """An object of the user's: its state dict is its own memory, and it loads one value after the other."""

    def __init__(self, **values):
        vars(self).update(values)

    def state_dict(self):
        return vars(self)

    def load_state_dict(self, state):
        for key, value in state.items():
            if value == "bad":
                raise RuntimeError(f"{key} is bad")
            setattr(self, key, value)


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def numbers(folder: Path) -> list[int]:
    return sorted(int(p.stem.removeprefix("step-")) for p in folder.glob("step-*.safetensors"))


def everything(seed: int) -> dict[str, Any]:
    """A part of each kind, which differ with the seed."""
    mg.random.seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    optimizer = mg.optim.RAdam(model.parameters(), lr=0.1 / (seed + 1))
    data = mg.data.batches(mg.ones((6, 3)) * mg.arange(6)[:, None], size=2, seed=seed)
    parts = {
        "model": model,
        "optimizer": optimizer,
        "schedule": mg.optim.CosineAnnealingLR(optimizer, T_max=10 + seed),
        "data": data,
        "counter": Counter(n=seed, names=[str(seed)]),
        "history": {"loss": [seed + 0.5], "array": np.arange(seed)},
        "log": [seed, (seed, None)],
        "drawn": np.random.default_rng(seed),
        "old": np.random.Generator(np.random.MT19937(seed)),
        "fixed": ("digits", 3, float("nan"), None),
    }
    for x in data:
        optimizer.zero_grad()
        mg.square(model(x)).sum().backward()
        optimizer.step()
        parts["schedule"].step()
        break
    return parts


def draws() -> list[Any]:
    """The next random numbers of all that share them."""
    return [mg.random.normal(3).tolist(), random.random(), np.random.standard_normal(3).tolist()]  # noqa: NPY002


def bytes_of(parts: dict[str, Any], folder: Path) -> bytes:
    """All of the state of the parts and the random numbers, as a file has it."""
    path = mg.Checkpoints(mg.Checkpoints.unused(str(folder / "look")), **parts).save(0)
    return path.read_bytes()


# --- saving and restoring -------------------------------------------------------------------------------


def test_all_parts_come_back(tmp_path):
    parts = everything(1)
    wanted = bytes_of(parts, tmp_path)
    run = mg.Checkpoints(tmp_path / "run", **parts)
    path = run.save(7, score=mg.tensor(0.5))
    assert path == tmp_path / "run" / "step-7.safetensors"
    tree = mg.load(path)
    assert (tree["step"], tree["score"]) == (7, 0.5)
    assert list(tree["model"]) == list(parts["model"].state_dict())
    after = [*draws(), parts["drawn"].random(), parts["old"].random(), [x.tolist() for x in parts["data"]]]

    others = everything(2)
    assert bytes_of(others, tmp_path) != wanted
    history, log = others["history"], others["log"]
    run = mg.Checkpoints(tmp_path / "run", **others)
    assert run.restore() == run.step == 7
    assert bytes_of(others, tmp_path) == wanted
    assert history["loss"] == [1.5]
    assert log == [1, (1, None)]
    assert [
        *draws(),
        others["drawn"].random(),
        others["old"].random(),
        [x.tolist() for x in others["data"]],
    ] == after


def test_a_file_is_the_same_each_time(tmp_path):
    assert bytes_of(everything(3), tmp_path) == bytes_of(everything(3), tmp_path)


def test_nothing_to_restore(tmp_path):
    parts = everything(1)
    before = bytes_of(parts, tmp_path)
    run = mg.Checkpoints(tmp_path / "run", best="max", **parts)
    assert (run.restore(), run.step) == (0, 0)
    for which in ("last", "best"):
        with pytest.raises(FileNotFoundError, match=f"there is no checkpoint.* in {tmp_path / 'run'}"):
            run.path(which)
    with pytest.raises(FileNotFoundError):
        run.restore("best")
    with pytest.raises(FileNotFoundError):
        run.restore(tmp_path / "none.safetensors")
    assert bytes_of(parts, tmp_path) == before
    assert not (tmp_path / "run").exists()


def test_frozen_half_precision_shared_and_not_persistent(tmp_path):
    class Net(nn.Module):
        def __init__(self, seed):
            mg.random.seed(seed)
            self.first = nn.Linear(2, 2).to(mg.float16)
            self.second = nn.Linear(2, 2)
            self.second.weight.requires_grad_(False)
            self.shared = self.first
            self.note = nn.Buffer(float(seed), persistent=False)

    def new(seed):
        net = Net(seed)
        named = [p for p in net.named_parameters() if p[1].requires_grad]
        groups = [{"params": named[:1], "name": "half"}, {"params": named[1:], "lr": 0.5, "name": "rest"}]
        optimizer = mg.optim.Adam(groups, amsgrad=True)
        for _ in range(seed):
            for _, p in named:
                p.grad = mg.ones_like(p)
            optimizer.step()
        return {"net": net, "optimizer": optimizer}

    first, second = new(2), new(3)
    mg.Checkpoints(tmp_path / "run", **first).save(1)
    mg.Checkpoints(tmp_path / "run", **second).restore()
    assert bytes_of(first, tmp_path) == bytes_of(second, tmp_path)
    assert second["net"].note.item() == 3  # documented
    assert not second["net"].second.weight.requires_grad


# What does not fit, and what the error says of it.
MISFITS = {
    "model": (nn.Linear(3, 4), "missing"),
    "optimizer": (mg.optim.SGD([mg.ones(3)], 0.1), "parameters"),
    "data": (mg.data.batches(np.ones((7, 3)), size=2, seed=0), "rows is 7, and was 6"),
    "counter": ([1], "it is a list, and was saved as a dict"),
    "history": ([], "it is a list, and was saved as a dict"),
    "log": ({}, "it is a dict, and was saved as a list"),
    "drawn": (np.random.Generator(np.random.Philox(0)), "PCG64|Philox"),
    "fixed": (("digits", True, float("nan"), None), "it is .'digits', True, nan, None.*and was .'digits', 3"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_changes_nothing(name, tmp_path):
    mg.Checkpoints(tmp_path / "run", **everything(1)).save(7)
    part, message = MISFITS[name]
    others = {**everything(2), name: part}
    before, ids = bytes_of(others, tmp_path), [id(v) for v in others["history"]]
    run = mg.Checkpoints(tmp_path / "run", **others)
    with pytest.raises(ValueError, match=f"step-7.safetensors: '{name}' does not fit: .*({message})"):
        run.restore()
    assert bytes_of(others, tmp_path) == before
    assert [id(v) for v in others["history"]] == ids
    assert run.step == 0


def test_dtypes_are_not_converted(tmp_path):
    mg.Checkpoints(tmp_path, model=nn.Linear(2, 2).to(mg.float64)).save(1)
    with pytest.raises(ValueError, match="'model' does not fit: its weight is float32, and was float64"):
        mg.Checkpoints(tmp_path, model=nn.Linear(2, 2)).restore()


def test_a_part_that_fails_in_its_midst_is_put_back_as_well(tmp_path):
    """Also one whose state dict is no copy."""
    saved = {"first": [1], "counter": Counter(n=1, more="bad"), "last": [1]}
    mg.Checkpoints(tmp_path / "run", **saved).save(1)
    parts = {"first": [2], "counter": Counter(n=2, more="good"), "last": [2]}
    before, stream = bytes_of(parts, tmp_path), mg.random.get_state()
    with pytest.raises(ValueError, match="'counter' does not fit: more is bad"):
        mg.Checkpoints(tmp_path / "run", **parts).restore()
    assert (parts["first"], vars(parts["counter"]), parts["last"]) == ([2], {"n": 2, "more": "good"}, [2])
    assert mg.random.get_state() == stream
    assert bytes_of(parts, tmp_path) == before


def test_ctrl_c_while_restoring(tmp_path):
    class Interrupted(Counter):
        def load_state_dict(self, state):
            super().load_state_dict(state)
            if state["n"] == 1:
                raise KeyboardInterrupt

    mg.Checkpoints(tmp_path, log=[1], part=Interrupted(n=1)).save(1)
    log, part = [2], Interrupted(n=2)
    with pytest.raises(KeyboardInterrupt):
        mg.Checkpoints(tmp_path, log=log, part=part).restore()
    assert (log, part.n) == ([2], 2)  # pyright: ignore[reportAttributeAccessIssue]


def test_parts_must_be_the_same(tmp_path):
    mg.Checkpoints(tmp_path, log=[1], other=[2]).save(1)
    log = [3]
    with pytest.raises(ValueError, match=r"lacks the parts \['more'\], and has \['other'\]"):
        mg.Checkpoints(tmp_path, log=log, more=[4]).restore()
    assert log == [3]
    mg.save(tmp_path / "step-2.safetensors", {"log": [1]})
    with pytest.raises(ValueError, match=r"step-2.safetensors is something else than a checkpoint"):
        mg.Checkpoints(tmp_path, log=log).restore()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"keep": 0}, ValueError, "keep must be"),
        ({"best": "lowest"}, ValueError, "best must be"),
        ({"step": []}, ValueError, r"\['step'\] are names of its own"),
        ({"x": np.ones(2)}, TypeError, "'x' is ndarray"),
        ({"x": ("a", [])}, TypeError, "'x' is tuple"),
    ],
)
def test_bad_arguments(arguments, error, message, tmp_path):
    with pytest.raises(error, match=message):
        mg.Checkpoints(tmp_path, **arguments)
    run = mg.Checkpoints(tmp_path)
    with pytest.raises(ValueError, match="number from 0 up"):
        run.save(-1)
    with pytest.raises(ValueError, match="every must be"):
        run.steps(3, every=0)
    with pytest.raises(ValueError, match="which must be"):
        run.path("first")
    with pytest.raises(ValueError, match="there is no best one unless"):
        run.restore("best")
    with pytest.raises(TypeError):
        run.save(1.5)  # pyright: ignore[reportArgumentType]
    assert files(tmp_path) == []


def test_between_devices(tmp_path):
    def new(seed, device):
        mg.random.seed(seed)
        with mg.use_backend(device):
            model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
            optimizer = mg.optim.RAdam(model.parameters(), lr=0.1)
            mg.square(model(mg.ones((4, 3)))).sum().backward()
        optimizer.step()
        return {"model": model, "optimizer": optimizer}

    parts = new(1, "numpy")
    path = mg.Checkpoints(tmp_path / "numpy", **parts).save(5)
    there = new(2, "strict")
    run = mg.Checkpoints(tmp_path / "strict", **there)
    assert run.restore(path) == 5
    assert all(p.device == "strict" for p in there["model"].parameters())
    again = run.save(5)
    assert again.read_bytes() == path.read_bytes()
    back = new(3, "numpy")
    mg.Checkpoints(tmp_path / "back", **back).restore(again)
    assert bytes_of(back, tmp_path) == bytes_of(parts, tmp_path)


# --- files ----------------------------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize(
    ("keep", "best", "scores", "stay"),
    [
        (None, None, [None] * 5, [1, 2, 3, 4, 5]),
        (2, None, [9, 1, 2, 1, 1], [4, 5]),
        (1, "max", [9, 1, 2, 1, 1], [1, 5]),
        (2, "min", [9, 1, 0, 1, 1], [3, 4, 5]),
        (1, "max", [1, 2, 2, 2, None], [2, 5]),
        (1, "min", [NAN, 3, 3, NAN, NAN], [2, 5]),
        (1, "max", [NAN, None, -np.inf, NAN, None], [3, 5]),
        (1, "max", [1, None, np.inf, NAN, 5], [3, 5]),
        (1, "max", [None] * 5, [5]),
        (1, "max", [1, 2, 3, 4, 5], [5]),
    ],
)
def test_the_last_and_the_best_stay(keep, best, scores, stay, tmp_path):
    log = [0]
    run = mg.Checkpoints(tmp_path, keep=keep, best=best, log=log)
    for i, score in enumerate(scores):
        log[0] = i + 1
        run.save(i + 1, score)
    assert numbers(tmp_path) == stay
    others = mg.Checkpoints(tmp_path, keep=keep, best=best, log=log)
    assert others.restore() == 5
    if best and any(s is not None and s == s for s in scores):
        wanted = stay[0]
        assert others.restore("best") == wanted
        assert log == [wanted]


def test_steps_are_ordered_as_numbers_and_other_files_left_alone(tmp_path):
    foreign = ["step-1.txt", "step-07.safetensors", "step-x.safetensors", "xstep-1.safetensors", "notes"]
    for name in foreign:
        (tmp_path / name).write_text("mine")
    (tmp_path / "step-3").mkdir()
    run = mg.Checkpoints(tmp_path, keep=2)
    for step in (8, 9, 10, 100):
        run.save(step)
    assert files(tmp_path) == sorted([*foreign, "step-3", "step-10.safetensors", "step-100.safetensors"])
    assert run.path() == tmp_path / "step-100.safetensors"
    run.save(5)  # an earlier one is not removed as soon as it is there
    assert (tmp_path / "step-5.safetensors").exists()


def test_old_ones_go_when_the_new_one_is_there(tmp_path, monkeypatch):
    run = mg.Checkpoints(tmp_path, keep=1)
    run.save(1)
    before = (tmp_path / "step-1.safetensors").read_bytes()

    def fail(path, tree):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("minigrad.checkpoints.run.save", fail)
        with pytest.raises(OSError, match="No space"):
            run.save(2)
    assert files(tmp_path) == ["step-1.safetensors"]
    assert (tmp_path / "step-1.safetensors").read_bytes() == before
    assert run.step == 1
    run.save(2)
    assert files(tmp_path) == ["step-2.safetensors"]


def in_a_process(program: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE)


def test_what_a_killed_process_left_goes_when_another_step_is_saved(tmp_path):
    program = f"""if True:
        import os, minigrad as mg
        from minigrad.io import durable
        run = mg.Checkpoints({str(tmp_path)!r}, log=[1])
        run.save(1)
        durable._sync = lambda descriptor: os.kill(os.getpid(), 9)
        run.save(2)
    """
    assert in_a_process(program).returncode == -signal.SIGKILL
    assert len(files(tmp_path)) == 2
    log = [0]
    run = mg.Checkpoints(tmp_path, log=log)
    assert run.restore() == 1
    assert log == [1]
    run.save(3)
    assert files(tmp_path) == ["step-1.safetensors", "step-3.safetensors"]


def test_new_folders_are_made_to_last(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("minigrad.io.durable.sync_folder", made.append)
    mg.Checkpoints(tmp_path / "a" / "b").save(1)
    assert made == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")]


def test_what_an_error_left_whole_is_of_this_run(tmp_path, monkeypatch):
    """The file had its name when the folder could not be made to last."""
    run = mg.Checkpoints(tmp_path)

    def fail(folder):
        raise OSError("no disk")

    with monkeypatch.context() as patch:
        patch.setattr("minigrad.io.durable.sync_folder", fail)
        with pytest.raises(OSError, match="no disk"):
            run.save(1)
    run.save(1)
    run.save(2)
    assert numbers(tmp_path) == [1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_that_was_forked_while_saving_holds_no_lock(tmp_path):
    class Forking:
        child = 0

        def state_dict(self):
            if not self.child:
                self.child = os.fork()
                if not self.child:
                    threading.Event().wait(60)
                    os._exit(0)
            return {}

        def load_state_dict(self, state):
            pass

    part = Forking()
    run = mg.Checkpoints(tmp_path, part=part)
    try:
        run.save(1)
        saving = threading.Thread(target=run.save, args=(2,), daemon=True)
        saving.start()
        saving.join(20)
        assert numbers(tmp_path) == [1, 2]
    finally:
        os.kill(part.child, signal.SIGKILL)
        os.waitpid(part.child, 0)


def changed(folder: Path, parts: dict[str, Any], change: Any) -> None:
    """Save, make a change to the file, and restore."""
    path = mg.Checkpoints(folder, **parts).save(1)
    tree = mg.load(path)
    change(tree)
    mg.save(path, tree)
    mg.Checkpoints(folder, **parts).restore()


@pytest.mark.parametrize("at", [-1, 625, 10**8, 1.0, True])
def test_no_random_numbers_from_beyond_what_a_stream_has_in_store(tmp_path, at):
    """NumPy would read there, and the process would end."""
    with pytest.raises(ValueError, match="'random' does not fit: its 'pos' must be from 0 to 624"):
        changed(tmp_path, {}, lambda tree: tree["random"]["numpy"]["state"].update(pos=at))
    part = {"rng": np.random.Generator(np.random.MT19937(0))}
    with pytest.raises(ValueError, match="'rng' does not fit: its 'pos'"):
        changed(tmp_path / "a", part, lambda tree: tree["rng"]["state"].update(pos=at))
    part = {"rng": np.random.Generator(np.random.Philox(0))}
    with pytest.raises(ValueError, match="'rng' does not fit: its 'buffer_pos'"):
        changed(tmp_path / "b", part, lambda tree: tree["rng"].update(buffer_pos=at))


def laughs() -> Any:
    tree: Any = [1.0]
    for _ in range(60):
        tree = [tree, tree]
    return tree


LAUGHS = {
    "fixed": (("lr",), "it is 0.1, and was"),
    "optimizer": (("opt", "param_groups", 0, "lr"), "lr must be"),
    "its arrays": (("opt", "state", 0, "momentum_buffer"), "a list, and no array"),
    "schedule": (("schedule", "step_size"), "step_size must be"),
    "random": (("random", "minigrad", "inc"), "'inc' must be"),
    "batches": (("data", "pass"), "the saved pass must be"),
    "module": (("model", "weight"), "its weight is an array, and was a list"),
}


@pytest.mark.parametrize(("place", "message"), LAUGHS.values(), ids=LAUGHS)
def test_no_message_has_all_of_what_is_in_a_small_file_very_often(tmp_path, place, message):
    """To write out 2 ** 60 numbers would take for ever."""
    model = nn.Linear(2, 1)
    optimizer = mg.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(mg.ones(2)).sum().backward()
    optimizer.step()
    schedule = mg.optim.StepLR(optimizer, 1)
    data = mg.data.batches(np.zeros(6), size=2)
    parts = {"lr": 0.1, "model": model, "opt": optimizer, "schedule": schedule, "data": data}

    def change(tree):
        for key in place[:-1]:
            tree = tree[key]
        tree[place[-1]] = laughs()

    with pytest.raises(ValueError, match=message):
        changed(tmp_path, parts, change)


def test_a_module_takes_arrays_alone_from_a_file(tmp_path):
    mg.save(tmp_path / "x", {"weight": laughs(), "bias": laughs()})
    with pytest.raises(TypeError, match="'weight', which is no array, but a list"):
        nn.Linear(2, 2).load_state_dict(tmp_path / "x")


def test_a_damaged_last_one_is_named_and_no_older_one_taken(tmp_path):
    log = [1]
    run = mg.Checkpoints(tmp_path, best="max", log=log)
    run.save(1, 1.0)
    log[0] = 2
    path = run.save(2, 2.0)
    path.write_bytes(path.read_bytes()[:-1])
    log[0] = 3
    again = mg.Checkpoints(tmp_path, best="max", log=log)
    for which in ("last", path):
        with pytest.raises(FormatError, match=r"step-2.safetensors.*move it away, and restore\(\) goes on"):
            again.restore(which)
    with pytest.raises(FormatError, match=r"step-2.safetensors"):
        again.restore("best")
    assert (log, again.step) == ([3], 0)
    run.save(3, 0.0)  # one that was damaged later does not end the run, and stays
    run.save(4, 0.0)
    run.save(5, 0.0)
    run.save(6, 0.0)
    assert numbers(tmp_path) == [1, 2, 4, 5, 6]
    path.rename(tmp_path / "away")
    assert again.restore("best") == 1


def test_a_new_run_is_refused_where_another_has_been(tmp_path):
    mg.Checkpoints(tmp_path).save(5)
    before = (tmp_path / "step-5.safetensors").read_bytes()
    run = mg.Checkpoints(tmp_path, keep=1, log=[])
    for begin in (lambda: run.steps(10, every=5), lambda: run.save(5), lambda: run.save(9)):
        with pytest.raises(FileExistsError, match=r"step-5.safetensors is not of this run"):
            begin()
    assert files(tmp_path) == ["step-5.safetensors"]
    assert (tmp_path / "step-5.safetensors").read_bytes() == before


def test_an_older_one_restored_does_not_overwrite_the_later_ones(tmp_path):
    run = mg.Checkpoints(tmp_path / "run", best="max")
    for step, score in enumerate([0, 2, 1, 1]):
        run.save(step, score)
    run = mg.Checkpoints(tmp_path / "run", best="max")
    assert run.restore("best") == 1
    with pytest.raises(FileExistsError, match=r"step-3.safetensors .*later than what it restored"):
        run.steps(10, every=1)
    elsewhere = mg.Checkpoints(tmp_path / "new", best="max")
    assert elsewhere.restore(run.path("best")) == 1
    assert list(elsewhere.steps(3, every=1)) == [2, 3]
    assert numbers(tmp_path / "new") == [2, 3]
    assert numbers(tmp_path / "run") == [1, 2, 3]


def test_the_model_of_the_best_one_alone(tmp_path):
    model = nn.Linear(2, 1)
    run = mg.Checkpoints(tmp_path, best="min", keep=1, model=model, log=[])
    best = model.state_dict()
    run.save(1, 0.5)
    model.load_state_dict({"weight": np.zeros((1, 2)), "bias": np.zeros(1)})
    run.save(2, 0.75)
    model.load_state_dict(mg.load(run.path("best"))["model"])
    assert all((array == best[name]).all() for name, array in model.state_dict().items())


def test_one_of_another_folder_gives_no_right_to_this_one(tmp_path):
    mg.Checkpoints(tmp_path / "a").save(5)
    mg.Checkpoints(tmp_path / "b").save(5)
    run = mg.Checkpoints(tmp_path / "b")
    run.restore(tmp_path / "a" / "step-5.safetensors")
    with pytest.raises(FileExistsError):
        run.save(6)


def test_of_several_that_begin_at_once_one_saves(tmp_path):
    """Locks are between files opened, so threads show what processes would do."""
    for trial in range(20):
        folder, barrier, outcomes = tmp_path / str(trial), threading.Barrier(3), []

        def save(n, folder=folder, barrier=barrier, outcomes=outcomes):
            run = mg.Checkpoints(folder, who=[n])
            barrier.wait()
            try:
                run.save(1 + n % 2)
                outcomes.append(n)
            except FileExistsError:
                outcomes.append(None)

        threads = [threading.Thread(target=save, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [n for n in outcomes if n is not None]
        assert mg.load(mg.Checkpoints(folder).path())["who"] == [winner]
        assert len(numbers(folder)) == 1


def test_folders_that_are_relative_long_and_new(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    long = "ü" * 100
    run = mg.Checkpoints(f"a/{long}/b")
    run.save(1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    run.save(2)
    assert numbers(tmp_path / "a" / long / "b") == [1, 2]
    assert files(tmp_path / "elsewhere") == []
    assert mg.Checkpoints.unused("run") == "run"
    Path("run").mkdir()
    Path("run_2").touch()
    assert mg.Checkpoints.unused("run") == "run_3"


# --- the loop -------------------------------------------------------------------------------------------


def loop(steps, body):
    for step in steps:
        body(step)


def test_steps_count_what_is_done(tmp_path):
    run = mg.Checkpoints(tmp_path, keep=None)
    steps = run.steps(7, every=3)
    assert len(steps) == 7
    assert list(steps) == [1, 2, 3, 4, 5, 6, 7]
    assert numbers(tmp_path) == [3, 6, 7]
    assert len(run.steps(7, every=3)) == 0
    assert list(run.steps(7, every=3)) == list(run.steps(2, every=3)) == []
    assert list(run.steps(8, every=3)) == [8]
    again = mg.Checkpoints(tmp_path)
    again.restore()
    assert list(again.steps(9, every=None)) == [9]
    assert numbers(tmp_path) == [3, 6, 7, 8]
    assert again.step == 9


def test_break_and_errors_save_nothing(tmp_path):
    run = mg.Checkpoints(tmp_path)
    for step in run.steps(9, every=2):
        if step == 4:
            break
    assert (numbers(tmp_path), run.step) == ([2], 3)
    with pytest.raises(ZeroDivisionError):
        loop(run.steps(9, every=2), lambda step: 1 // 0)
    assert (numbers(tmp_path), run.step) == ([2], 3)


def test_what_the_body_has_saved_is_not_saved_again(tmp_path):
    run = mg.Checkpoints(tmp_path, best="max")
    for step in run.steps(2, every=1):
        run.save(step, score=-step)
    assert [mg.load(tmp_path / f"step-{n}.safetensors")["score"] for n in (1, 2)] == [-1, -2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("every", [None, 1, 100])
def test_the_first_ctrl_c_saves(number, every, tmp_path, capfd):
    done, run = [], mg.Checkpoints(tmp_path)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    wanted = f"stopped after step 3 of 9, which is saved in {tmp_path}; to go on: run --resume"

    def body(step):
        if step == 3:
            signal.raise_signal(number)
        done.append(step)

    with pytest.raises(KeyboardInterrupt, match=wanted):
        loop(run.steps(9, every=every, resume="run --resume"), body)
    assert (
        capfd.readouterr().err
        == "\nstopping when this step is done and saved; a second Ctrl-C stops at once\n"
    )
    assert done == [1, 2, 3]
    assert numbers(tmp_path)[-1] == 3
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert list(run.steps(4, every=1)) == [4]


def test_the_second_ctrl_c_interrupts_at_once(tmp_path):
    done, run = [], mg.Checkpoints(tmp_path)
    before = signal.getsignal(signal.SIGINT)

    def body(step):
        signal.raise_signal(signal.SIGINT)
        done.append(step)
        signal.raise_signal(signal.SIGINT)
        done.append("never")

    with pytest.raises(KeyboardInterrupt) as caught:
        loop(run.steps(9, every=None), body)
    assert done == [1]
    assert str(caught.value) == ""
    assert files(tmp_path) == []
    assert signal.getsignal(signal.SIGINT) == before


def test_ctrl_c_while_it_saves(tmp_path, monkeypatch):
    """The first one lets the saving be done, in the last step, too; a second one leaves the old files."""

    def slow(path, tree, times=1):
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        mg.save(path, tree)

    run = mg.Checkpoints(tmp_path)
    monkeypatch.setattr("minigrad.checkpoints.run.save", slow)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 2 of 2"):
        list(run.steps(2, every=2))
    assert numbers(tmp_path) == [2]
    monkeypatch.setattr("minigrad.checkpoints.run.save", lambda path, tree: slow(path, tree, 2))
    with pytest.raises(KeyboardInterrupt) as caught:
        list(run.steps(4, every=2))
    assert str(caught.value) == ""
    assert files(tmp_path) == ["step-2.safetensors"]


def test_ctrl_c_right_after_it_was_asked_whether_to_save(tmp_path):
    class Every(int):
        def __rmod__(self, step):
            signal.raise_signal(signal.SIGINT)
            return 1

    with pytest.raises(KeyboardInterrupt, match="stopped after step 1 of 9"):
        list(mg.Checkpoints(tmp_path).steps(9, every=Every(5)))
    assert numbers(tmp_path) == [1]


def test_handlers_of_others(tmp_path):
    """They come back, also where the loop is left early; the second Ctrl-C is theirs; ignored is ignored."""
    seen, run = [], mg.Checkpoints(tmp_path)
    old = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        ours = signal.getsignal(signal.SIGINT)
        for _ in run.steps(5, every=None):
            assert signal.getsignal(signal.SIGINT) != ours
            break
        assert signal.getsignal(signal.SIGINT) == ours

        def body(step):
            signal.raise_signal(signal.SIGINT)
            assert seen == []
            signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt, match="stopped after step 1"):
            loop(run.steps(5, every=None), body)
        assert seen == [signal.SIGINT]
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for _ in run.steps(4, every=None):
            signal.raise_signal(signal.SIGINT)
        assert run.step == 4
    finally:
        signal.signal(signal.SIGINT, old)


def test_a_loop_that_was_left_does_not_swallow_ctrl_c(tmp_path):
    """Also if somebody, such as a progress bar, still holds what `steps` gave."""
    steps = mg.Checkpoints(tmp_path).steps(5, every=None)
    before = signal.getsignal(signal.SIGINT)
    for _ in zip(steps, range(9), strict=False):
        break
    assert signal.getsignal(signal.SIGINT) == before


def test_a_process_that_is_forked_in_the_loop_can_be_ended(tmp_path):
    """As pools of workers are."""
    program = f"""if True:
        import os, signal, minigrad as mg
        for step in mg.Checkpoints({str(tmp_path)!r}).steps(1, every=None):
            child = os.fork()
            if not child:
                signal.raise_signal(signal.SIGTERM)
                os._exit(0)
            print(os.WTERMSIG(os.waitpid(child, 0)[1]))
    """
    assert int(in_a_process(program).stdout) == signal.SIGTERM


def test_steps_in_another_thread(tmp_path):
    done, before = [], signal.getsignal(signal.SIGINT)

    def train():
        for step in mg.Checkpoints(tmp_path).steps(3, every=1):
            done.append((step, signal.getsignal(signal.SIGINT) == before))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert done == [(1, True), (2, True), (3, True)]
    assert numbers(tmp_path) == [1, 2, 3]


def test_nothing_is_left_open(tmp_path):
    run = mg.Checkpoints(tmp_path, best="max", log=[])
    run.save(1)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for step in range(2, 5):
        run.save(step, step)
        run.restore("best")
    assert (len(os.listdir("/proc/self/fd")) if before else 0) == before


def test_a_stop_when_another_run_has_come_to_save_in_the_folder(tmp_path, monkeypatch):
    """What was learned goes into a folder of its own, which the message names."""
    monkeypatch.chdir(tmp_path)
    run, other = mg.Checkpoints("a run", log=[1]), mg.Checkpoints("a run", log=[2])

    def body(step: int) -> None:
        if step == 2:
            other.save(2)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="to go on: train --resume 'a run_2' now"):
        loop(run.steps(5, every=None, resume="train --resume FOLDER now"), body)
    assert mg.load("a run/step-2.safetensors")["log"] == [2]
    assert mg.load("a run_2/step-2.safetensors")["log"] == [1]


def test_a_run_with_settings_that_no_load_would_take_is_put_back(tmp_path):
    """It has come to a rate that is NaN, and what it is to restore does not fit."""
    x = mg.ones(2, requires_grad=True)
    optimizer, log = mg.optim.SGD([x], lr=0.1), [1]
    schedule = mg.optim.StepLR(optimizer, 3)
    path = mg.Checkpoints(tmp_path, optimizer=optimizer, schedule=schedule, log=log, n=1).save(1)
    optimizer.param_groups[0]["lr"] = float("nan")
    log[:] = [2]
    schedule.last_epoch = 7
    with pytest.raises(ValueError, match="'n' does not fit"):
        mg.Checkpoints(tmp_path, optimizer=optimizer, schedule=schedule, log=log, n=2).restore(path)
    assert np.isnan(optimizer.param_groups[0]["lr"])
    assert (log, schedule.last_epoch) == ([2], 7)


def test_what_cannot_be_saved_is_known_before_the_first_step(tmp_path):
    run = mg.Checkpoints(tmp_path / "run", log=[b"bytes"])
    with pytest.raises(TypeError, match=r"tree\['log'\]\[0\] is a builtins.bytes"):
        run.steps(3, every=None)
    assert not (tmp_path / "run").exists()
