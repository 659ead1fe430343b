"""Whole searches without Ray, processes or torch: trials are a function of their sample."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raycompress.backend.fake import FakeBackend, Function
from raycompress.config.experiment import Experiment
from raycompress.results.journal.journal import Event
from raycompress.results.record import SearchRecord
from raycompress.session.launch import launch, resume

X = [{"name": "x", "type": "float", "range": [0, 1]}]
"""A search range for functions such as ``lambda sample: sample["x"]``."""


class Notes:
    """A view that keeps what it is shown."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.events: list[Event] = []

    def phase(self, text: str) -> None:
        pass

    def progress(self, done: int, total: int, what: str) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)

    def history(self, events: Iterable[Event]) -> None:
        self.events += events

    def event(self, event: Event) -> None:
        self.events.append(event)
        if event["event"] == "note":
            self.notes.append(event["text"])


def search(
    folder: Path, function: Function, *, script: str = "", view: Notes | None = None, **keys: Any
) -> SearchRecord:
    """Launch an experiment whose trials are `function`, and return its record.

    Parameters
    ----------
    folder
        Where the experiment file and its results are put.
    function
        Sample -> a score, the scores of its results, or a `FakeRun`; what it raises is the script's failure.
    script
        Text of the script: nobody runs it, but whether it reads ``n_iterations`` counts.
    keys
        Of the experiment file: ``parameter_config=X``, ``n_samples=8``, ``random_seed=1``. There is no dense trial
        unless ``baseline=True``.
    """
    return run(written(folder, script=script, **keys), function, view)


def written(folder: Path, *, script: str = "", **keys: Any) -> Path:
    """Write the experiment file of `search` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "script.py").write_text(script)
    compression = {
        "framework": "torch",
        "type": "pruning",
        "compressor": "l1_filter",
        "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}],
    }
    data = {
        "name": "fake",
        "script": "script.py",
        "compression": compression,
        "baseline": False,
        "storage": str(folder / "raycompress_results"),
        **keys,
    }
    path = folder / "exp.json"
    path.write_text(json.dumps(data, indent=2))
    return path


def run(path: Path, function: Function, view: Notes | None = None) -> SearchRecord:
    """Launch an experiment file on trials that are `function`."""
    return launch(Experiment.load(path), view or Notes(), backend=_maker(function))


class Killed(BaseException):
    """As if the process were gone: nothing is written after it."""


def killed_at(path: Path, start: int, function: Function) -> SearchRecord:
    """Launch a search that dies in the script of its `start`-th trial to run, and return what it left."""
    starts = 0

    def dying(sample: dict[str, Any]) -> Any:
        nonlocal starts
        starts += 1
        if starts == start:
            raise Killed
        return function(sample)

    with contextlib.suppress(Killed):
        run(path, dying)
    (only,) = (path.parent / "raycompress_results").iterdir()
    return SearchRecord.open(only)


def go_on(
    record: SearchRecord, function: Function, *, n_samples: int | None = None, view: Notes | None = None
) -> SearchRecord:
    """Resume a search of `search`, or add trials to it."""
    return resume(record.folder, view or Notes(), n_samples=n_samples, backend=_maker(function))


def _maker(function: Function) -> Any:
    return lambda plan, n_slots: FakeBackend(function, plan, n_slots)
