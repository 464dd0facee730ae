"""What all tests share: array-api-strict as a backend, and a check that none leaves a mode switched."""

import os
import sys

# Several tests run at a time, and have no use for threads of libraries, which spin while they wait. (Kernels
# keep theirs.) Read when NumPy and torch are loaded.
for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import array_api_strict as strict
import numpy as np
import pytest
from helpers import torch_or_skip
from hypothesis import HealthCheck, settings

import minigrad as mg
from minigrad.backend import Backend, register

# What tests compile is kept from one run to the next, but not among the kernels of the user.
os.environ.setdefault("MINIGRAD_CACHE", str(Path(__file__).parent.parent / ".pytest_cache" / "kernels"))

# Read by SciPy when it is first imported, and by scikit-learn: whether to take other arrays than NumPy's.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

# Hypothesis draws the same examples in every run, unless it is told to draw more; and however slow it goes.
settings.register_profile(
    "minigrad",
    derandomize=not int(os.environ.get("MINIGRAD_EXAMPLES", "0")),
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("minigrad")

# Not on the device that NumPy can read: from this one every silent conversion to NumPy raises, as from
# a GPU. What passes here uses nothing beyond the standard, and mixes no host arrays in.
DEVICE = strict.Device("device1")
CREATION = ["asarray", "arange", "empty", "eye", "full", "linspace", "ones", "zeros"]


def to_strict(array: np.ndarray) -> Any:
    return strict.asarray(array, device=DEVICE)


def from_strict(array: Any) -> np.ndarray:
    return np.asarray(array.to_device(strict.Device("CPU_DEVICE")))


def _on_device(name: str) -> Any:
    """A function of the namespace that makes arrays on DEVICE, and takes NumPy's dtypes, as CuPy does."""

    def make(*args: Any, dtype: Any = None, device: Any = DEVICE, **kwargs: Any) -> Any:
        own = None if dtype is None else getattr(strict, np.dtype(dtype).name) if _is_numpy(dtype) else dtype
        return getattr(strict, name)(*args, dtype=own, device=device, **kwargs)

    return make


def _is_numpy(dtype: Any) -> bool:
    return isinstance(dtype, (type, np.dtype))


def _astype(x: Any, dtype: Any) -> Any:
    return strict.astype(x, getattr(strict, np.dtype(dtype).name) if _is_numpy(dtype) else dtype)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that the flag is experimental
    strict.set_array_api_strict_flags(api_version="2024.12")

register(
    Backend(
        "strict",
        SimpleNamespace(
            **{
                **vars(strict),
                **{name: _on_device(name) for name in CREATION},
                "astype": _astype,
                "linalg": strict.linalg,  # which is loaded when it is asked for
            }
        ),
        type(to_strict(np.zeros(1))),
        to_strict,
        from_strict,
    )
)


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """Whatever tests ran before it in its process."""
    mg.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def torch() -> Any:
    return torch_or_skip()


@pytest.fixture(autouse=True)
def _modes_are_restored():
    """A test that leaves a switch turned would make others fail, or pass."""
    yield
    assert mg.is_grad_enabled()
    assert mg.backend() == "numpy"
    assert mg.ops.default_dtype() == np.float32


# --- the tests that need torch, for a second run beside it ------------------------------------------------

_without_torch: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Of a run without torch, note what was skipped for that; and in one beside torch do that alone."""
    parser.addoption("--note-skipped", metavar="FILE", help="write there which tests lacked torch")
    parser.addoption("--only-noted", metavar="FILE", help="run those that are noted there, and no others")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple) and "torch" in report.longrepr[2]:
        _without_torch.append(report.nodeid)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if file := config.getoption("--only-noted"):
        noted = set(Path(file).read_text().splitlines())
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in noted])
        items[:] = [item for item in items if item.nodeid in noted]


def pytest_sessionfinish(session: pytest.Session) -> None:
    file = session.config.getoption("--note-skipped")
    if file and not hasattr(session.config, "workerinput"):  # the workers report to this process
        Path(file).write_text("".join(f"{name}\n" for name in _without_torch))
