from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raycompress.script import context
from raycompress.script.context import Mode, Trial


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def enter(tmp_path: Path) -> Iterator[Callable[..., tuple[Trial, list[dict[str, Any]]]]]:
    """Make this process a trial of a mode; returns the trial and the messages that it sends."""

    def start(mode: Mode, **more: Any) -> tuple[Trial, list[dict[str, Any]]]:
        sent: list[dict[str, Any]] = []
        trial = Trial(mode, tmp_path / "candidate", lambda message: sent.append(dict(message)), **more)
        context.enter(trial)
        return trial, sent

    yield start
    context.enter(None)
