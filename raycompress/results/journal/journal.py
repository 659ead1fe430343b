"""The record of an experiment: append-only, one JSON event a line, readable with a text editor.

=============  =====================================================================================
event          fields
=============  =====================================================================================
experiment     version, id, name, file, script, compressor, seed, proposer, n_trials, n_parallel, goal,
               dimensions, host, pid
resumed        n_trials, n_parallel, host, pid: another process goes on with the search; file, script: where they
               are by now, if they were moved
started        trial, attempt, sample (dimension -> value), config (what the script got), baseline, slot: which of
               the n_parallel runs it; predicted: the sizes that were foretold, where budgets were; repeat_of: the
               trial whose sample it trains again; once more for a trial that is begun again, of which nothing counts
               that came before, unless it is continued
continued      trial, step: it goes on from its checkpoint, and its results up to this one count; at: what its script
               saved with it, such as the epoch; seconds: what the trial had taken then
intermediate   trial, values, step: how many results there were, or the budget of the run; each step once, also of
               a trial whose failed attempt is made again
rung0          trial, score: of its model before it trains
retried        trial, attempt, state, cause: an attempt that failed and is made again
ended          trial, state, cause, values, score, seconds, before, after, removed, notes, log, saved;
               weights: the hash of the saved weights; unread: hyperparameters that the script did not read; files: what
               it wrote into its own folder; shared: files elsewhere that it wrote and read; seconds: what the trial
               took, of earlier starts as far as to the checkpoint that it went on from; last_start_seconds: of these
               the last start's, where it went on from one (seconds are these alone in journals that lack it)
promoted       trial, score: its candidate is now the best one; feasible: whether it keeps to all constraints
pruned         trial: its candidate was not the best and its files are gone
repeated       finalists: trial, runs, means, spreads (standard deviations) of each; chosen, run: the best of them and
               its trial whose model is kept; ties: those that are as good; spread: of the first objective
verified       trial, relative_difference, before, after: the best bundle, reloaded in a fresh process
note           text: something worth knowing that came up on the way
finished       reason: complete, stopped, failure or time budget; detail: why, in a line
=============  =====================================================================================

Every event carries ``t`` (seconds since 1970). An event is on disk before what it announces counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from pydantic_core import from_json

from raycompress.errors import StorageError
from raycompress.shapes import Shape, fits
from raycompress.states import TrialState

VERSION = 1
_YEAR_10000 = 253402300800
_MEND = "put the file back as raycompress wrote it; without this line it can be read, and what the line said is lost"

Event = dict[str, Any]


class Journal:
    """Writer of a journal; one process at a time holds it.

    Parameters
    ----------
    path
        The journal's file, made if it does not exist.

    Raises
    ------
    StorageError
        Another process writes this journal, or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listeners: list[Callable[[Event], None]] = []
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            fix = "make the folder writable, or free some space"
            raise StorageError(f"cannot write the journal: {error.strerror}", where=str(path), fix=fix) from error
        if not self._is_ours():
            self._file.close()
            raise StorageError(
                "another raycompress writes this experiment",
                where=str(path),
                fix="wait for it to end; `raycompress status` shows how it stands",
            )
        self._cut_torn_line()

    def _is_ours(self) -> bool:
        """Take the lock; False where another writer has it, and not where a reader holds it for the instant it asks."""
        while not _locked(self._file, fcntl.LOCK_EX):
            if not _locked(self._file, fcntl.LOCK_SH):
                return False
            fcntl.flock(self._file, fcntl.LOCK_UN)
            time.sleep(random.uniform(0.001, 0.005))
        return True

    def _cut_torn_line(self) -> None:
        """Remove what a kill left of a line: it announces nothing, and what is written next needs a line of its own."""
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self.path, whole)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with each event once it is on disk."""
        self._listeners.append(listener)

    def append(self, event: str, **fields: Any) -> None:
        """Write one event and wait until it is on disk."""
        self.copy({"t": round(time.time(), 3), "event": event, **fields})

    def copy(self, record: Event) -> None:
        """Write an event of another journal as it is there, and wait until it is on disk."""
        line = json.dumps(_finite(record), ensure_ascii=False, allow_nan=False, default=str)
        try:
            # half of a surrogate pair, as names of files may hold, becomes the escape that it is in JSON
            self._write(line.encode(errors="backslashreplace") + b"\n")
        except OSError as error:
            raise StorageError(
                f"cannot write the journal: {error.strerror}",
                where=str(self.path),
                fix="free some space, or mend the disk; what is written is whole, and `raycompress resume` goes on",
            ) from error
        for listener in self._listeners:
            listener(record)

    def _write(self, data: bytes) -> None:
        """Write `data` and wait until it is on disk; where it does not go there whole, nothing of it stays."""
        before = os.fstat(self._file.fileno()).st_size
        try:
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):  # then the torn line is the last one, which readers leave out
                os.ftruncate(self._file.fileno(), before)
            raise

    def close(self) -> None:
        """Close the journal and release its lock."""
        self._file.close()


def _finite(value: Any) -> Any:
    """Return `value` with None for what is not finite, which JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def read(path: Path) -> Iterator[Event]:
    """Yield the events of the journal at `path`, one a line; a last line that was cut off by a kill is left out.

    Raises
    ------
    StorageError
        The file cannot be read, or a line is no event.
    """
    try:
        *lines, _torn = path.read_bytes().split(b"\n")
    except OSError as error:
        raise StorageError(f"cannot read the journal: {error.strerror}", where=str(path)) from error
    for number, line in enumerate(lines, start=1):
        try:
            event = _parsed(line)
        except (ValueError, RecursionError) as error:
            raise StorageError("this line of the journal is no JSON", where=f"{path}:{number}", fix=_MEND) from error
        if not fits(event, {"t": float, "event": str}) or not 0 <= event["t"] < _YEAR_10000:
            raise StorageError("this line of the journal is no event", where=f"{path}:{number}", fix=_MEND)
        yield _renamed(event)


def _renamed(event: Event) -> Event:
    """Return the event with ``size_bytes`` where older versions wrote ``bytes``."""
    for field in ("before", "after"):
        sizes = event.get(field)
        if isinstance(sizes, dict) and "bytes" in sizes:
            event[field] = {"size_bytes" if name == "bytes" else name: value for name, value in sizes.items()}
    return event


def _parsed(line: bytes) -> Any:
    try:
        return from_json(line)  # twice as fast as json, which takes half a surrogate pair as well
    except ValueError:
        return json.loads(line)


def is_written(path: Path) -> bool:
    """Tell whether a process holds the journal at `path` for writing, that is, whether the experiment runs."""
    try:
        with path.open("rb") as file:
            return not _locked(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _locked(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_VALUES: Shape = {str: (float, None)}
_PROCESS: Shape = {"host": str, "pid": int}
SHAPES: Mapping[str, Shape] = {
    "experiment": {
        **{"version": int, "id": str, "name": str, "file": str, "script": str, "compressor": str, "proposer": str},
        **{"n_trials": int, "n_parallel": int, "goal": ("max", "min"), "dimensions": [str], **_PROCESS},
    },
    "resumed": {"n_trials": int, "n_parallel": int, **_PROCESS, "file": (str, ...), "script": (str, ...)},
    "started": {"trial": int, "sample": dict, "config": dict, "baseline": bool},
    "intermediate": {"trial": int, "step": int, "values": _VALUES},
    "continued": {"trial": int, "step": int, "at": dict, "seconds": float},
    "rung0": {"trial": int, "score": float},
    "retried": {"trial": int, "attempt": int, "state": str, "cause": str},
    "ended": {
        **{"trial": int, "state": tuple(TrialState), "cause": str, "values": (_VALUES, None), "score": (float, None)},
        **{"seconds": (float, None), "before": (_VALUES, None), "after": (_VALUES, None), "removed": {str: [int]}},
        **{"saved": bool, "files": ([str], ...), "last_start_seconds": (float, ...)},
    },
    "repeated": {
        **{"chosen": int, "run": int, "ties": [int], "spread": float},
        "finalists": [{"trial": int, "runs": [int], "means": _VALUES, "spreads": _VALUES}],
    },
    "note": {"text": str},
    "promoted": {"trial": int, "score": float},
    "pruned": {"trial": int},
    "verified": {"trial": int, "relative_difference": float, "before": _VALUES, "after": _VALUES},
    "finished": {"reason": str, "detail": str},
}


def lacking(event: Mapping[str, Any]) -> list[str]:
    """Return the fields of a known event that are missing or have a wrong type."""
    # ... is the shape of a field that may be left out
    return [name for name, shape in SHAPES[event["event"]].items() if not fits(event.get(name, ...), shape)]
