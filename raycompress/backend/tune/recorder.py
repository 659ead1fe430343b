"""The callback that turns what Ray Tune tells into the journal, and hands candidates to the keeper of the best."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ray.tune import Callback

from raycompress.backend.tune.scheduler import RUNG0, TIME
from raycompress.backend.tune.stop import DriverOnly
from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal.journal import Journal
from raycompress.search import outcome as faults
from raycompress.search.keeper import BestKeeper
from raycompress.search.outcome import FACTS, NOTHING
from raycompress.states import TrialState


class Recorder(DriverOnly, Callback):
    """Turns what Tune tells of trials into events of the journal, and candidates into the best one.

    Parameters
    ----------
    stop
        Called with a line that says why, when a failed trial ends the search.
    abandon
        Kills the script of one of Tune's trials that the scheduler has ended.
    lost
        Called when an actor has died.
    why
        Says why the scheduler has ended a trial, by its number; empty where it has not.
    ignore_failures
        Whether a failed trial leaves the search going.
    needs_dense
        Whether no trial can be judged where the dense model's has failed.
    samples
        Those of trials that an earlier run of the search has started.

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
        abandon: Callable[[Any], None],
        lost: Callable[[], None],
        why: Callable[[int], str],
        ignore_failures: bool,
        needs_dense: bool = False,
        samples: Mapping[int, Any] = MappingProxyType({}),
    ) -> None:
        self._folder = folder
        self._journal = journal
        self._keeper = keeper
        self._stop = stop
        self._abandon = abandon
        self._lost = lost
        self._why = why
        self._ignore_failures = ignore_failures
        self._needs_dense = needs_dense
        self._running: dict[int, Any] = {}
        self._deaths: Counter[int] = Counter()
        self.samples: dict[int, Any] = dict(samples)

    @property
    def running(self) -> dict[int, Any]:
        """Tune's trials that have started and not ended, by number."""
        return self._running

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial was given a slot."""
        config = trial.config
        self._running[config["number"]] = trial
        self.samples[config["number"]] = config["sample"]
        self._journal.append(
            "started",
            trial=config["number"],
            attempt=1,
            sample=config["sample"],
            config=config["config"],
            baseline=config["baseline"],
            slot=config["slot"],
            **{name: config[name] for name in ("predicted", "repeat_of") if config.get(name) is not None},
        )

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An intermediate result, or the end: of itself, or because the scheduler has said so."""
        number, running = trial.config["number"], result["state"] == TrialState.RUNNING
        if result.get(RUNG0):
            self._journal.append("rung0", trial=number, score=result["score"])
            if result["done"]:
                self._end_early(trial, None, 0.0)
            return
        if running or result["held"] or not result["done"]:
            self._journal.append("intermediate", trial=number, step=result[TIME], values=result["values"])
        if not result["done"]:
            return
        for attempt in result["attempts"]:
            self._journal.append("retried", trial=number, **attempt)
        if running:
            self._end_early(trial, result["values"], result["seconds"])
            return
        facts = {name: result[name] for name in FACTS}
        if why := self._why(number):
            facts["cause"] = f"ended {why}"
        self._end(number, facts)

    def _end_early(self, trial: Any, values: Any, seconds: float) -> None:
        """Write the end of a trial that the scheduler has ended."""
        self._abandon(trial)  # before its folder is cleaned
        told = {"values": values, "seconds": seconds, "cause": self._why(trial.config["number"])}
        self._end(trial.config["number"], {**NOTHING, **told, "state": TrialState.ENDED_EARLY})

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The actor itself failed, and the trial is begun again with another."""
        self._lost()
        number = trial.config["number"]
        if number in self._running:  # else it was given a dead one, and has not begun
            self._deaths[number] += 1
            self._journal.append("retried", trial=number, attempt=self._deaths[number], **_death(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The actor itself, not the script, failed once too often: the node, or Ray."""
        if trial.config["number"] not in self._running:
            self.on_trial_start(iteration, trials, trial)
        self._end(trial.config["number"], {**NOTHING, **_death(trial)})

    def _end(self, number: int, facts: dict[str, Any]) -> None:
        trial = self._running.pop(number, None)
        repeat_of = None if trial is None else trial.config.get("repeat_of")
        failed = TrialState(facts["state"]).is_failure
        if failed:
            facts = {**facts, "cause": faults.named(facts["cause"], self._folder.root)}
        self._journal.append("ended", trial=number, log=self._folder.place(self._folder.log(number)), **facts)
        if number == 0:
            self._keeper.add_dense(facts["values"])
        elif facts["saved"] and facts["score"] is not None:
            self._keeper.consider(number, facts["values"], facts["before"], facts["after"], repeat_of=repeat_of)
        else:
            self._folder.remove_candidate(number)
        if failed and (faults.is_outside(facts["cause"]) or self._ends_search(number)):
            self._stop(f"trial {number} failed: {facts['cause']}")

    def _ends_search(self, number: int) -> bool:
        """Tell whether a failure of trial `number` is the end of all."""
        return not self._ignore_failures if number else self._needs_dense

    def end_stopped(self, cause: str) -> None:
        """Write the end of the trials that were running when the search was stopped."""
        for number in sorted(self._running):
            self._end(number, {**NOTHING, "state": TrialState.STOPPED, "cause": cause})


def _death(trial: Any) -> dict[str, Any]:
    """Return the state of a trial whose actor died, and why, as Ray's last error of the trial says it."""
    said = Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure # ")[2].splitlines()[1:]
    words = re.sub(r" [0-9a-f]{24,}", "", " ".join(" ".join(said).split()))  # the ids of Ray
    state = TrialState.OUT_OF_MEMORY if "running low on memory" in words else TrialState.KILLED
    return {"state": state, "cause": f"the trial's actor died: {words[:300]}"}
