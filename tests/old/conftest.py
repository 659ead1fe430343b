"""A copy of the experiments with weights to start from, and the processes that their trials are forked from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.old.harness import Bench
from tests.old.weights import write_weights

EXPERIMENTS = Path(__file__).parent / "experiments"


def files_of_the_old_tool(pattern: str) -> list[Path]:
    """Return its scripts and experiment files, which lie here in folders by kind; all names are different."""
    found = sorted(path for path in EXPERIMENTS.rglob(pattern) if path.is_file() and path.suffix in (".py", ".json"))
    assert len({path.name for path in found}) == len(found)
    return found


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy all experiments into one folder, with weights beside them, as the users of the old tool had them."""
    folder = tmp_path_factory.mktemp("old") / "experiments"
    folder.mkdir()
    for file in files_of_the_old_tool("*"):
        shutil.copy(file, folder)
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
