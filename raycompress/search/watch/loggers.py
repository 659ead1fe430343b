"""Feeds Tune's loggers (TensorBoard, MLflow, W&B) from the journal, in a thread that cannot block the search.

What they are told comes from the journal, through a thread of their own. A logger that cannot start is an error before
the first trial; one that fails later is left out from there on, and a note says so.
"""

from __future__ import annotations

import json
import math
import queue
import re
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal.journal import Event, Journal
from raycompress.states import TrialState

PATIENCE_S = 90.0
"""How long a logger may be silent at the end of a search before it is left behind."""


@contextmanager
def notified(loggers: Mapping[str, Any], folder: ExperimentFolder, journal: Journal) -> Iterator[None]:
    """Pass the journal's events to `loggers` inside the ``with`` statement; wait for them at its end."""
    if not loggers:
        yield
        return
    thread = _LoggerThread(loggers, folder)

    def on_event(event: Event) -> None:
        thread.events.put(event)
        _record_notes(thread, journal)

    journal.listen(on_event)
    thread.start()
    try:
        yield
    except BaseException:
        thread.finish(patience_s=5)
        raise
    thread.finish(patience_s=PATIENCE_S)
    _record_notes(thread, journal)


def _record_notes(thread: _LoggerThread, journal: Journal) -> None:
    """Write the notes of the thread into the journal, which has one writing thread."""
    with suppress(queue.Empty):
        while True:
            journal.append("note", text=thread.notes.get_nowait())


@dataclass(eq=False)
class _Trial:
    """Stand-in for Tune's Trial with the attributes that its loggers read."""

    name: str
    config: dict[str, Any]
    folder: ExperimentFolder
    step: int = 0
    experiment_dir_name: str = field(init=False)
    trial_id: str = field(init=False)
    local_path: str = field(init=False)

    def __post_init__(self) -> None:
        self.experiment_dir_name = self.folder.id
        self.trial_id = f"{self.folder.id}-{self.name}"
        self.local_path = str(self.folder.logs)

    def __str__(self) -> str:
        return self.name

    @property
    def evaluated_params(self) -> dict[str, Any]:
        """The hyperparameters."""
        return self.config

    def init_local_path(self) -> None:
        """Make a folder of its own; TensorBoard's logger asks for one, each trial being one to TensorBoard."""
        self.local_path = str(self.folder.logs / "tensorboard" / self.name)
        Path(self.local_path).mkdir(parents=True, exist_ok=True)


class _LoggerThread:
    """Passes each event to each logger in a thread of its own; input queue `events`, output queue `notes`."""

    def __init__(self, loggers: Mapping[str, Any], folder: ExperimentFolder) -> None:
        self.events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self.notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._loggers = dict(loggers)
        self._folder = folder
        self._trials: dict[int, _Trial] = {}
        self._given_up = False
        self._steps = 0
        self._thread = threading.Thread(target=self._run, name="loggers", daemon=True)
        self.start = self._thread.start

    def finish(self, *, patience_s: float) -> None:
        """Wait until all events are handled, as long as there is progress every `patience_s` seconds."""
        self.events.put(None)
        while self._thread.is_alive() and not self._given_up:
            before = self._steps
            self._thread.join(patience_s)
            self._given_up = self._steps == before and self._thread.is_alive()
        if self._given_up:
            names = " and ".join(self._loggers)
            self.notes.put(f"{names} did not take everything within {patience_s:g} s; what is missing is left out")

    def _run(self) -> None:
        while not self._given_up:
            event = self.events.get()
            if event is None:
                self._each(lambda logger: logger.on_experiment_end(list(self._trials.values())))
                return
            self._dispatch(event)

    def _dispatch(self, event: Event) -> None:
        kind = event["event"]
        if kind not in ("started", "intermediate", "ended"):
            return
        if kind == "started":
            trial = self._trials[event["trial"]] = self._made(event)
            self._each(lambda logger: logger.log_trial_start(trial))
            return
        trial = self._trials[event["trial"]]
        trial.step = event.get("step", max(1, trial.step))
        result = {**_numbers(event), "training_iteration": trial.step}
        self._each(lambda logger: logger.log_trial_result(trial.step, trial, dict(result)))
        if kind == "ended":
            failed = TrialState(event["state"]).is_failure or event["state"] == TrialState.STOPPED
            self._each(lambda logger: logger.log_trial_end(trial, failed=failed))

    def _made(self, event: Event) -> _Trial:
        name = f"trial-{event['trial']:04d}"
        if event["baseline"]:  # its sample is of no meaning: nothing is compressed
            return _Trial(f"{name}-dense", {}, self._folder)
        return _Trial(name, {_key(name): _plain(value) for name, value in event["sample"].items()}, self._folder)

    def _each(self, act: Callable[[Any], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                act(logger)
            except Exception as error:  # noqa: BLE001 - whatever a logger raises, the search goes on
                del self._loggers[name]
                self.notes.put(f'the logger "{name}" failed and is left out from here on: {in_a_line(error)}')
            self._steps += 1


def _numbers(event: Event) -> dict[str, float]:
    """Return what an event says of a trial in finite numbers, flat."""
    measures = {
        f"{when}/{name}": value for when in ("before", "after") for name, value in (event.get(when) or {}).items()
    }
    numbers = {**(event["values"] or {}), **measures, "seconds": event.get("seconds")}
    return {_key(name): value for name, value in numbers.items() if value is not None and math.isfinite(value)}


def _key(name: str) -> str:
    """Return a name that every logger takes: ``[conv1,conv2].sparsity`` is ``conv1 conv2.sparsity``."""
    plain = re.sub(r"[^\w\-. /]", "_", name.replace("[", "").replace("]", "").replace(",", " "))
    return plain if len(plain) <= 200 else f"{plain[:190]}-{zlib.crc32(plain.encode()):08x}"


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | bool | int | float) else json.dumps(value, default=str)


def in_a_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any("ray::" in line for line in lines):  # from an actor: its traceback, in which the cause stands by itself
        causes = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        return [*lines, *causes][-1][:300]
    return ": ".join([type(error).__name__, *lines[:1]])[:300]
