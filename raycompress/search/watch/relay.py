"""Relays the view of a search that is a cluster job: events as lines of its output there, replayed in a view here.

A line of the job's output that begins with the record separator (RFC 7464) is JSON for the view; all others are words.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from raycompress import errors
from raycompress.errors import ClusterError, Problem, RaycompressError
from raycompress.results.journal.journal import Event
from raycompress.search.watch.view import SearchView

_MARK = "\x1e"


class RelayView:
    """View of a search on the cluster's side: writes everything as lines to `stream`."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def __enter__(self) -> RelayView:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RaycompressError):
            self.error(error)

    def _send(self, **message: Any) -> None:
        self._stream.write(f"{_MARK}{json.dumps(message)}\n")
        self._stream.flush()

    def phase(self, text: str) -> None:
        """Pass on what is being done now."""
        self._send(phase=text)

    def progress(self, done: int, total: int, what: str) -> None:
        """Pass on how much of the phase is done."""
        self._send(progress=[done, total, what])

    def note(self, text: str) -> None:
        """Pass on something worth knowing."""
        self._send(note=text)

    def history(self, events: Iterable[Event]) -> None:
        """Pass on what stands in the journal of a search that is resumed."""
        for event in events:
            self._send(past=event)

    def event(self, event: Event) -> None:
        """Pass on an event of the journal."""
        self._send(event=event)

    def error(self, error: RaycompressError) -> None:
        """Pass on why the search ended before its end."""
        problems = [{"what": problem.what, "where": problem.where, "fix": problem.fix} for problem in error.problems]
        self._send(error=type(error).__name__, problems=problems)


def replay(line: str, view: SearchView) -> RaycompressError | str | None:
    """Show one line of the job's output in `view`.

    Returns
    -------
    The error that the search ended with, where the line is one; the line itself, where it is no message for a view;
    otherwise None.
    """
    if not line.startswith(_MARK):
        return line
    message = json.loads(line[len(_MARK) :])
    if "error" in message:
        return _error(message)
    if "event" in message:
        view.event(message["event"])
    elif "past" in message:
        view.history([message["past"]])
    elif "phase" in message:
        view.phase(message["phase"])
    elif "progress" in message:
        view.progress(*message["progress"])
    else:
        view.note(message["note"])
    return None


def _error(message: dict[str, Any]) -> RaycompressError:
    kind: type[RaycompressError] = getattr(errors, message["error"], ClusterError)
    return kind.of([Problem(**problem) for problem in message["problems"]])
