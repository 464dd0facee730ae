"""Exact resume: N steps, a fresh process, and N more give what 2N steps at once give, byte for byte.

Examples take long to begin, so they run with kernels or without, whichever this run of the tests has;
`MINIGRAD_RESUME=10 pytest tests/test_resume.py` runs them both ways, and all ten times as long.
"""

import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ctrl_c_as_usual

import minigrad as mg

ROOT = Path(__file__).parent.parent
LONGER = os.environ.get("MINIGRAD_RESUME", "1")
RUNS = {"nets": ["nets"], "examples": ["digits", "digits_cnn", "series_lstm", "char_gpt"]}
BOTH = ["on", "off"]
AS_HERE = BOTH if "MINIGRAD_RESUME" in os.environ else [os.environ.get("MINIGRAD_KERNELS", "on")]
CASES = [("nets", kernels) for kernels in BOTH] + [("examples", kernels) for kernels in AS_HERE]


def start(*arguments: str, kernels: str = "on", **settings: Any) -> subprocess.Popen:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "MINIGRAD_KERNELS": kernels, "TQDM_MININTERVAL": "0"}
    return subprocess.Popen([sys.executable, *arguments], env=env, stderr=subprocess.PIPE, **settings)


def run(*arguments: str, **settings: Any) -> None:
    process = start(*arguments, stdout=subprocess.DEVNULL, **settings)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()


def steps(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*"))


def differences(a: Any, b: Any, place: str = "") -> list[str]:
    """Where two checkpoints differ, for the message of a failure."""
    if isinstance(a, dict) and isinstance(b, dict) and list(a) == list(b):
        return [d for key in a for d in differences(a[key], b[key], f"{place}.{key}")]
    x, y = (one.tobytes() if isinstance(one, np.ndarray) else repr(one) for one in (a, b))
    return [place] if x != y else []


@pytest.mark.parametrize(("what", "kernels"), CASES)
def test_resumed_in_a_fresh_process_it_goes_on_as_if_it_had_not_stopped(what, kernels, tmp_path):
    program = str(ROOT / "tests" / "resuming.py")
    run(program, str(tmp_path / "whole"), LONGER, *RUNS[what], kernels=kernels)
    runs = sorted({path.parent.relative_to(tmp_path / "whole") for path in tmp_path.rglob("step-*")})
    assert len(runs) == {"nets": 7, "examples": 4}[what]
    last = {}
    for name in runs:
        all_steps = steps(tmp_path / "whole" / name)
        half, last[name] = all_steps[len(all_steps) // 2 - 1], all_steps[-1]
        assert half * 2 == last[name]
        (tmp_path / "parts" / name).mkdir(parents=True)
        file = f"step-{half}.safetensors"
        shutil.copy(tmp_path / "whole" / name / file, tmp_path / "parts" / name / file)
    run(program, str(tmp_path / "parts"), LONGER, *RUNS[what], kernels=kernels)
    for name in runs:
        whole, parts = (tmp_path / p / name / f"step-{last[name]}.safetensors" for p in ("whole", "parts"))
        if whole.read_bytes() != parts.read_bytes():
            pytest.fail(f"{name} differs in {differences(mg.load(whole), mg.load(parts))}")


def comparable(path: Path) -> bytes:
    """A checkpoint without the random numbers that an example neither seeds nor uses."""
    tree = mg.load(path)
    del tree["random"]["python"], tree["random"]["numpy"]
    mg.save(path.with_name("comparable"), tree)
    return path.with_name("comparable").read_bytes()


def test_ctrl_c_in_the_midst_of_an_example(tmp_path):
    """A real one, in the middle of an epoch; then the command that the message gives."""
    (tmp_path / "my programs").mkdir()
    program = shutil.copy(ROOT / "examples" / "digits_cnn.py", tmp_path / "my programs")
    settings = ["--epochs", "6", "--seed", "7", "--out", "a picture.png"]
    run(program, *settings, "--save", "whole run", cwd=tmp_path)

    # Into so small a pipe it can write no more than some lines of progress that are not read yet.
    with ctrl_c_as_usual():
        process = start(program, *settings, stdout=subprocess.DEVNULL, cwd=tmp_path, pipesize=4096)
    assert process.stderr is not None
    errors, stopped = b"", False
    while part := os.read(process.stderr.fileno(), 512):
        errors += part
        if not stopped and re.search(rb"\b3[0-9]/138", errors):
            process.send_signal(signal.SIGINT)
            stopped = True
    process.stderr.close()
    assert process.wait() == 130
    message = errors.decode().splitlines()[-1]
    assert "Traceback" not in errors.decode()
    found = re.fullmatch(r"stopped after step (\d+) of 138, which is saved in (.*); to go on: (.*)", message)
    assert found
    assert found[2] == str(tmp_path / "digits_cnn_run")
    assert steps(tmp_path / "digits_cnn_run") == [int(found[1])]
    assert int(found[1]) < 138

    python, *command = shlex.split(found[3])
    assert python == "python"
    (tmp_path / "a picture.png").unlink()
    run(*command, cwd=tmp_path)
    assert (tmp_path / "a picture.png").exists()
    whole, parts = (tmp_path / name / "step-138.safetensors" for name in ("whole run", "digits_cnn_run"))
    assert comparable(whole) == comparable(parts)
    assert len(mg.load(parts)["history"]["loss"]) == 6


SMALL = """if True:
    import itertools, random, sys
    import numpy as np
    import minigrad as mg

    for stream in (random, np.random, mg.random):
        stream.seed(0)
    x = np.linspace(-1, 1, 44, dtype=np.float32).reshape(11, 4)
    model = mg.nn.Sequential(mg.nn.Linear(4, 8), mg.nn.Dropout(0.5), mg.nn.Linear(8, 1))
    optimizer = mg.optim.RAdam(model.parameters(), lr=0.01)
    batches, losses = mg.data.batches(x, size=4), []
    run = mg.Checkpoints(sys.argv[1], keep=2, model=model, optimizer=optimizer, data=batches, losses=losses)
    print(run.restore(), flush=True)
    passes = itertools.chain.from_iterable(itertools.repeat(batches))
    for step, rows in zip(run.steps(int(sys.argv[2]), every=1), passes):
        print(step - 1, flush=True)  # which are saved now
        optimizer.zero_grad()
        loss = mg.square(model(mg.tensor(rows)) - 1).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
"""


def test_killed_again_and_again_it_gets_to_the_same_end(tmp_path):
    """What was saved is there, whenever it is killed; and in the end there is nothing else."""
    kills = 6 * int(LONGER)
    total = str(10 * kills)
    run("-c", SMALL, str(tmp_path / "whole"), total)
    chance = random.Random(0)
    saved = 0
    for _ in range(kills):
        process = start("-c", SMALL, str(tmp_path / "killed"), total, stdout=subprocess.PIPE)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(chance.randint(1, 5))]
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        rest, errors = process.communicate()
        restored, *later = b"".join([*lines, rest]).split()
        assert saved <= int(restored) <= saved + 1, errors.decode()
        saved = int([restored, *later][-1])
    assert saved > 0
    run("-c", SMALL, str(tmp_path / "killed"), total)
    whole, killed = (sorted((tmp_path / name).iterdir()) for name in ("whole", "killed"))
    assert [p.name for p in whole] == [p.name for p in killed]
    assert [p.read_bytes() for p in whole] == [p.read_bytes() for p in killed]
