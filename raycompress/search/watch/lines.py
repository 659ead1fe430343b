"""What a Python caller sees of a search while it runs: few plain lines, for notebooks and logs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from raycompress.config.objective import Objective
from raycompress.results.journal.journal import Event
from raycompress.states import TrialState
from raycompress.text import printable

_SECONDS_BETWEEN = 10.0
"""How long nothing is printed of trials that are neither the best so far nor failures."""


class LineView:
    """A search as lines of text: what was launched, the dense model, each new best trial, each new failure, the end.

    Of the other trials one line is printed every ten seconds at most.

    Parameters
    ----------
    stream
        Takes the lines; by default stdout in a notebook, where stderr is shown as an error, and stderr elsewhere.
    quiet
        Print nothing at all.
    rename
        What becomes of each text before it is printed.

    Attributes
    ----------
    has_begun
        Whether the journal of a new search has been opened.
    """

    def __init__(
        self, stream: TextIO | None = None, *, quiet: bool = False, rename: Callable[[str], str] = str
    ) -> None:
        self._stream = stream
        self._quiet = quiet
        self._rename = rename
        self._header: Event = {}
        self._scores: dict[int, float | None] = {}
        self._causes: set[str] = set()
        self._ended: set[int] = set()
        self._printed = 0.0
        self.has_begun = False

    def phase(self, text: str) -> None:
        """Print what is being done now."""
        self._print(f"{text} ...")

    def progress(self, done: int, total: int, what: str) -> None:
        """Print nothing: how much of a phase is done changes too often for lines."""

    def note(self, text: str) -> None:
        """Print something worth knowing."""
        self._print(f"note: {text}")

    def history(self, events: Iterable[Event]) -> None:
        """Learn what a search that is resumed has done, and print nothing of it."""
        quiet, self._quiet = self._quiet, True
        for event in events:
            self.event(event)
        self._quiet = quiet

    def event(self, event: Event) -> None:
        """Print what an event of the journal says, if it is worth a line."""
        handle: Callable[[Event], None] | None = getattr(self, f"_on_{event['event']}", None)
        if handle is not None:
            handle(event)

    def _on_experiment(self, event: Event) -> None:
        self.has_begun = True
        self._header = event
        dimensions = len(event["dimensions"])
        search = (
            f"{event['proposer']} over {dimensions} dimension{'s' * (dimensions != 1)}" if dimensions else "one-time"
        )
        trials = f"{event['n_trials']} trial{'s' * (event['n_trials'] != 1)}, {event['n_parallel']} at a time"
        self._print(f"{event['id']}: {event['compressor']}, {search}, {trials}")

    def _on_resumed(self, event: Event) -> None:
        self._header = {**self._header, **event}
        self._print(f"{self._header['id']}: resumed, {len(self._ended)} of {event['n_trials']} trials had ended")

    def _on_ended(self, event: Event) -> None:
        number = event["trial"]
        self._ended.add(number)
        self._scores[number] = event["score"]
        done = f"[{len(self._ended)}/{self._header['n_trials']}]"
        if TrialState(event["state"]).is_failure:
            if event["cause"] not in self._causes:
                self._print(f"{done} trial {number} {event['state']}: {event['cause']}\n    log: {event['log']}")
            self._causes.add(event["cause"])
        elif number == 0 and event["state"] == TrialState.FINISHED:
            self._print(f"{done} dense model: {self._values(event)}")
        elif not event["saved"] and self._is_best(event["score"]):  # of models that are saved the keeper says so
            self._print(f"{done} trial {number} is the best so far: {self._values(event)}")
        elif time.monotonic() - self._printed > _SECONDS_BETWEEN:
            self._print(f"{done} trial {number}: {self._values(event) or event['state']}")

    def _is_best(self, score: float | None) -> bool:
        if score is None:
            return False
        others = [other for number, other in self._scores.items() if number and other is not None]
        return score == (max(others) if self._header["goal"] == "max" else min(others)) and others.count(score) == 1

    def _on_promoted(self, event: Event) -> None:
        which = "best" if event.get("feasible", True) else "nearest to the constraints"
        score = self._scores.get(event["trial"])
        shown = "" if score is None else f", {score:.5g}"
        done = f"[{len(self._ended)}/{self._header['n_trials']}]"
        self._print(f"{done} trial {event['trial']} is the {which} so far{shown}")

    def _on_note(self, event: Event) -> None:
        self.note(event["text"])

    def _on_finished(self, event: Event) -> None:
        seconds = event["t"] - self._header.get("t", event["t"])
        why = f": {event['detail']}" if event["detail"] else ""
        self._print(f"{event['reason']}{why}; {len(self._ended)} trials in {seconds:.0f} s")

    def _values(self, event: Event) -> str:
        values: dict[str, Any] = event["values"] or {}
        sought = [name for name in Objective.from_header(self._header).metrics if name in values]
        return ", ".join(f"{name} {values[name]:.5g}" for name in dict.fromkeys([*sought, *values]))

    def _print(self, text: str) -> None:
        if self._quiet:
            return
        self._printed = time.monotonic()
        in_notebook = "ipykernel" in sys.modules
        stream = self._stream or (sys.stdout if in_notebook else sys.stderr)
        print(printable(self._rename(text), lines=True), file=stream, flush=True)
