"""What several tests share: experiments in a folder of their own, and launches of them as a user would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from raycompress.results.record import SearchRecord
from raycompress.results.s3 import objects
from tests.support import s3server

pytest_plugins = ["tests.support.loading", "tests.support.workers"]

REPOSITORY = Path(__file__).parent.parent
DIGITS = REPOSITORY / "configs" / "digits"
RESNET = REPOSITORY / "configs" / "digits_resnet"

# `make nightly` takes the second one: more examples, and other ones each night
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True, database=None)
settings.register_profile("nightly", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile("ci")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell's background job: what the tests start would inherit it, and no Ctrl-C would reach them
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def is_nightly(pytestconfig: pytest.Config) -> bool:
    """Whether there is time for many more kills, as for many more examples."""
    return bool(pytestconfig.getoption("--hypothesis-profile") == "nightly")


@dataclass
class Launched:
    """A command that has ended."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def record(self) -> SearchRecord:
        (only,) = self.folder.glob("raycompress_results/*/")
        return SearchRecord.open(only)


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "raycompress", *map(str, words)]


def raycompress(folder: Path, *words: str | Path, timeout: float = 240) -> Launched:
    """Run the command line in `folder`, to its end."""
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(command(*words), cwd=folder, capture_output=True, text=True, timeout=timeout, env=environment)
    return Launched(done.returncode, done.stdout, done.stderr, folder)


def digits_experiment(folder: Path, name: str = "auto_l1.json", home: Path = DIGITS, **changes: Any) -> Path:
    """Write a shipped experiment into `folder`, changed; its script stays where it is."""
    data = {**json.loads((home / name).read_text()), "workingdir": str(home), **changes}
    path = folder / "exp.json"
    path.write_text(json.dumps(data, indent=2))
    return path


def number_experiment(folder: Path, script: str, **changes: Any) -> Path:
    """Write an experiment whose script, given here, reports numbers and compresses nothing."""
    (folder / "script.py").write_text(script)
    data = {
        "name": "numbers",
        "script": "script.py",
        "compression": {
            "framework": "torch",
            "type": "pruning",
            "compressor": "l1_filter",
            "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}],
        },
        "baseline": False,
        **changes,
    }
    path = folder / "exp.json"
    path.write_text(json.dumps(data, indent=2))
    return path


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., Launched]:
    """Launch an experiment file in a folder of its own."""
    return lambda path, *words: raycompress(tmp_path, "launch", path, *words)


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3server.S3]:
    """Serve S3, to this process and to the commands that it runs, with a cache folder of the test's own."""
    with s3server.server() as server:
        more = {"AWS_ENDPOINT_URL": server.url, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        for name, value in {**s3server.ENVIRONMENT, **more}.items():
            monkeypatch.setenv(name, value)
        objects.new_client()
        yield server
