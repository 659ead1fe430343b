"""Which Python `make` takes, and what it installs for which target; nothing is installed here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.launching import REPOSITORY


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


def make(clone: Path, *words: str, path: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}", "PYENV_ROOT": str(clone / "pyenv"), **env}
    for name in ("MAKEFLAGS", "MAKELEVEL", "PYTHON"):
        environ.pop(name, None)
    return subprocess.run(["make", *words], cwd=clone, env=environ, capture_output=True, text=True)


def interpreter(path: Path, script: str) -> Path:
    """Write what is called as an interpreter."""
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path.parent


def test_the_demo_installs_the_core_alone(clone: Path) -> None:
    demo = make(clone, "-n", "demo").stdout
    assert "--editable '.[demo]'" in demo
    assert "[dev]" not in demo
    assert "--editable '.[dev]'" in make(clone, "-n", "test").stdout


@pytest.mark.parametrize(
    ("python", "folder"),
    [("python3.11", ".venv"), ("python3.12", ".venv-3.12"), ("/opt/some/python3.13", ".venv-3.13")],
)
def test_each_version_has_an_environment_of_its_own(clone: Path, python: str, folder: str) -> None:
    assert f"{folder}/bin/raycompress launch" in make(clone, "-n", "demo", f"PYTHON={python}").stdout


def test_a_shim_that_does_not_start_gives_way_to_the_newest_of_pyenv(clone: Path) -> None:
    shims = interpreter(clone / "shims" / "python3.99", "exit 127")
    for version in ("3.99.2", "3.99.10", "3.99.11t"):
        interpreter(clone / "pyenv" / "versions" / version / "bin" / "python3.99", 'echo "$0 $*" >&2; exit 1')
    done = make(clone, "demo", "PYTHON=python3.99", path=str(shims))
    assert done.returncode != 0
    assert "versions/3.99.10/bin/python3.99 -m venv .venv-3.99" in done.stderr


def test_a_python_that_is_nowhere_is_told_with_its_fix(clone: Path) -> None:
    done = make(clone, "demo", "PYTHON=python3.99")
    assert done.returncode != 0
    assert "there is no python3.99 on the PATH and no Python 3.99 of pyenv's" in done.stderr
    assert "fix: pyenv install 3.99" in done.stderr
    assert "no-such-python does not start" in make(clone, "demo", "PYTHON=no-such-python").stderr


def test_an_environment_of_another_python_is_not_reused(clone: Path) -> None:
    interpreter(clone / ".venv" / "bin" / "python", "echo Python 3.10.4")
    done = make(clone, "demo")
    assert done.returncode != 0
    assert ".venv was made with another Python than 3.11" in done.stderr
    assert "fix: make clean" in done.stderr
