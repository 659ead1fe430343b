from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycompress.config.experiment import Experiment
from raycompress.errors import ExperimentError, Problem
from tests.support.experiments import experiment_with


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Experiment]:
    return lambda *entries, **keys: experiment_with(tmp_path, list(entries) or None, **keys)


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., list[Problem]]:
    """Load an experiment that must not load, and return its problems."""

    def problems(*entries: Any, **keys: Any) -> list[Problem]:
        with pytest.raises(ExperimentError) as caught:
            experiment_with(tmp_path, list(entries) or None, **keys)
        return list(caught.value.problems)

    return problems


@pytest.fixture
def refused_text(tmp_path: Path) -> Callable[[str], list[Problem]]:
    """Load a file with this text, which must not load, and return its problems."""

    def problems(text: str) -> list[Problem]:
        file = tmp_path / "exp.json"
        file.write_text(text)
        with pytest.raises(ExperimentError) as caught:
            Experiment.load(file)
        return list(caught.value.problems)

    return problems
