"""`python -m minigrad`: what it prints of this machine."""

import subprocess
import sys

import numpy as np
import pytest

import minigrad as mg
from minigrad.kernels import compiler


def printed(monkeypatch, **environment: str) -> dict[str, str]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "minigrad"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    return {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}


def test_it_names_versions_compiler_and_cache(monkeypatch):
    said = printed(monkeypatch, MINIGRAD_KERNELS="on")
    assert said["minigrad"] == mg.__version__
    assert said["NumPy"].startswith(f"{np.__version__}, BLAS: ")
    assert said["backend"] == "numpy"
    assert said["CuPy"]
    if compiler.works() is None:
        assert "compiled, up to" in said["kernels"]
        assert "-ffp-contract=fast" in said["flags"] or "-O2" in said["flags"]
        assert "libraries" in said["cache"]
        assert said["compiler"]


@pytest.mark.parametrize(
    ("environment", "words"),
    [({"MINIGRAD_KERNELS": "off"}, "off, by MINIGRAD_KERNELS"), ({"CXX": "", "PATH": ""}, "no C++ compiler")],
)
def test_it_says_why_kernels_are_not_compiled(environment, words, monkeypatch):
    monkeypatch.setenv("MINIGRAD_KERNELS", "on")
    said = printed(monkeypatch, **environment)
    assert words in said["kernels"]
    assert "cache" not in said


def test_it_says_how_to_make_products_faster(monkeypatch):
    openblas = pytest.importorskip("threadpoolctl").threadpool_info()
    cores = [lib["architecture"] for lib in openblas if lib["internal_api"] == "openblas"]
    said = printed(monkeypatch)["NumPy"]
    if cores:
        assert f"for {cores[0]}" in said
    advised = "OPENBLAS_CORETYPE=SKYLAKEX" in said
    assert advised == ("avx512f" in compiler.about_cpu() and cores[:1] in (["Haswell"], ["Zen"]))
    if advised:
        said = printed(monkeypatch, OPENBLAS_CORETYPE="SKYLAKEX")["NumPy"]
        assert "for SkylakeX" in said
        assert "CORETYPE" not in said
