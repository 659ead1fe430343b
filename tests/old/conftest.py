"""A copy of the experiments with weights to start from, and the processes that their trials are forked from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.old.harness import Bench
from tests.old.weights import write_weights

EXPERIMENTS = Path(__file__).parent / "experiments"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the experiments; beside the scripts lie weights, as the users of the old tool had them."""
    folder = tmp_path_factory.mktemp("old") / "experiments"
    shutil.copytree(EXPERIMENTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    write_weights(folder)
    return folder


@pytest.fixture(scope="module")
def bench(home: Path) -> Iterator[Callable[[str], Bench]]:
    """Return the process that the trials of a framework are forked from; it is started when first asked for."""
    started: dict[str, Bench] = {}

    def of(framework: str) -> Bench:
        if framework not in started:
            started[framework] = Bench(home, framework)
        return started[framework]

    yield of
    for each in started.values():
        each.close()
