"""Turns what happens to trials into the journal, and hands candidates to the keeper of the best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal.journal import Journal
from raycompress.search import outcome as faults
from raycompress.search.keeper import BestKeeper
from raycompress.search.outcome import FACTS, NOTHING
from raycompress.search.trials import Continued, Ended, Lost, Result, TrialRequest
from raycompress.states import TrialState


class Recorder:
    """Writes events of the journal, and hands candidates over.

    Parameters
    ----------
    stop
        Called with a line that says why, when a failed trial ends the search.
    ignore_failures
        Whether a failed trial leaves the search going.
    needs_dense
        Whether no trial can be judged where the dense model's has failed.
    samples
        Those of trials that an earlier run of the search has started.
    steps
        The last result that the journal has of each trial of an earlier run.

    Attributes
    ----------
    samples
        Number of each trial that has started, in whatever run of the search -> its sample.
    """

    def __init__(
        self,
        folder: ExperimentFolder,
        journal: Journal,
        keeper: BestKeeper,
        *,
        stop: Callable[[str], None],
        ignore_failures: bool,
        needs_dense: bool = False,
        samples: Mapping[int, Any] = MappingProxyType({}),
        steps: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self._folder = folder
        self._journal = journal
        self._keeper = keeper
        self._stop = stop
        self._ignore_failures = ignore_failures
        self._needs_dense = needs_dense
        self._running: dict[int, TrialRequest] = {}
        self._deaths: Counter[int] = Counter()
        self._steps: dict[int, int] = {}
        self._carried: dict[int, float] = {}  # seconds before the checkpoint, of trials that go on from one
        self._earlier = dict(steps)  # of lives of a trial that are over
        self.samples: dict[int, Any] = dict(samples)

    def start(self, trial: TrialRequest, slot: int | None) -> None:
        """Write that a trial runs."""
        self._running[trial.number] = trial
        self._earlier[trial.number] = self._steps.pop(trial.number, self._earlier.get(trial.number, 0))
        self._carried.pop(trial.number, None)
        self.samples[trial.number] = trial.sample
        more = {"predicted": trial.predicted, "repeat_of": trial.repeat_of}
        self._journal.append(
            "started",
            trial=trial.number,
            attempt=1,
            sample=trial.sample,
            config=trial.config,
            baseline=trial.baseline,
            slot=slot,
            **{name: value for name, value in more.items() if value is not None},
        )

    def go_on(self, event: Continued) -> None:
        """Write that a trial goes on from its checkpoint: of what came before, the results up to there count."""
        if event.unused:
            text = f"trial {event.number} starts at its beginning, its checkpoint is left aside: {event.unused}"
            self._journal.append("note", text=text)
            self._carried.pop(event.number, None)
            return
        self._carried[event.number] = event.seconds
        known = max(self._steps.get(event.number, 0), self._earlier.get(event.number, 0))
        self._steps[event.number] = min(known, event.step)
        facts = {"step": event.step, "at": event.at, "seconds": event.seconds}
        self._journal.append("continued", trial=event.number, **facts)

    def has(self, result: Result) -> bool:
        """Tell whether the journal has this result: of a trial that goes on from a checkpoint some come twice."""
        is_plain = not result.rung0 and result.facts is None
        return is_plain and result.step <= self._steps.get(result.number, 0)

    def add_result(self, result: Result, *, goes_on: bool) -> None:
        """Write what a trial reports; of a run that is the trial's last the end alone tells."""
        if result.rung0:
            self._journal.append("rung0", trial=result.number, score=result.score)
        elif goes_on or result.facts is None:
            self._steps[result.number] = result.step
            self._journal.append("intermediate", trial=result.number, step=result.step, values=result.values)

    def end_early(self, result: Result, why: str) -> None:
        """Write the end of a trial that was stopped at a result; after a whole run with that run's facts."""
        if result.facts is not None:
            self._write_attempts(result.number, result.attempts)
            self._end(result.number, {**{name: result.facts[name] for name in FACTS}, "cause": f"ended {why}"})
            return
        values, seconds = (None, 0.0) if result.rung0 else (result.values, result.seconds)
        facts = {"values": values, "seconds": seconds, "cause": why, "state": TrialState.ENDED_EARLY}
        self._end(result.number, {**NOTHING, **facts})

    def end(self, ended: Ended) -> None:
        """Write the end of a trial that came to it by itself."""
        if ended.held and ended.step > self._steps.get(ended.number, 0):
            self._journal.append("intermediate", trial=ended.number, step=ended.step, values=ended.facts["values"])
        self._write_attempts(ended.number, ended.attempts)
        self._end(ended.number, {name: ended.facts[name] for name in FACTS})

    def lose(self, lost: Lost, trial: TrialRequest) -> None:
        """Write that the process of a trial has died."""
        death = {"state": lost.state, "cause": lost.cause}
        if lost.begins_again:
            if lost.number in self._running:  # else it was given a dead process, and has not begun
                self._deaths[lost.number] += 1
                self._journal.append("retried", trial=lost.number, attempt=self._deaths[lost.number], **death)
            return
        if lost.number not in self._running:
            self.start(trial, None)
        self._end(lost.number, {**NOTHING, **death})

    def end_stopped(self, cause: str) -> None:
        """Write the end of the trials that were running when the search was stopped."""
        for number in sorted(self._running):
            self._end(number, {**NOTHING, "state": TrialState.STOPPED, "cause": cause})

    def _write_attempts(self, number: int, attempts: Any) -> None:
        for attempt in attempts:
            self._journal.append("retried", trial=number, **attempt)

    def _end(self, number: int, facts: dict[str, Any]) -> None:
        trial = self._running.pop(number, None)
        carried, failed = self._carried.pop(number, None), TrialState(facts["state"]).is_failure
        if carried is not None and facts["seconds"] is not None:
            facts = {**facts, "last_start_seconds": round(facts["seconds"] - carried, 4)}
        if failed:
            facts = {**facts, "cause": faults.named(facts["cause"], self._folder.root)}
        self._journal.append("ended", trial=number, log=self._folder.place(self._folder.log(number)), **facts)
        if number == 0:
            self._keeper.add_dense(facts["values"])
        elif facts["saved"] and facts["score"] is not None:
            repeat_of = None if trial is None else trial.repeat_of
            self._keeper.add(number, facts["values"], facts["before"], facts["after"], repeat_of=repeat_of)
        else:
            self._folder.remove_candidate(number)
        if facts["state"] != TrialState.STOPPED and not faults.is_outside(facts["cause"]):  # else it is begun again
            self._folder.remove_checkpoint(number)
        if failed and (faults.is_outside(facts["cause"]) or self._ends_search(number)):
            self._stop(f"trial {number} failed: {facts['cause']}")

    def _ends_search(self, number: int) -> bool:
        """Tell whether a failure of trial `number` is the end of all."""
        return not self._ignore_failures if number else self._needs_dense
