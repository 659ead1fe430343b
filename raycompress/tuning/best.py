"""The callback that writes the journal and keeps only the best model and mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune import Callback

from raycompress.experiment.objective import Objective
from raycompress.results.journal import Journal
from raycompress.results.states import TrialState
from raycompress.results.store import ExperimentFolder, write_json
from raycompress.tuning.stop import DriverOnly


class BestKeeper:
    """Promotes a candidate that is better than the best so far, and deletes the one that lost.

    The order makes any kill harmless: the pointer is replaced in one step after the new candidate is whole, and before
    the old one goes.
    """

    def __init__(self, folder: ExperimentFolder, journal: Journal, objective: Objective) -> None:
        self._folder = folder
        self._journal = journal
        self._objective = objective
        self.number: int | None = None
        self.score: float | None = None

    def consider(self, number: int, score: float) -> None:
        """Take the saved candidate of trial `number`: it becomes the best, or it goes."""
        if not self._is_better(number, score):
            self._prune(number)
            return
        loser = self.number
        self.number, self.score = number, score
        bundle = self._folder.candidate(number).relative_to(self._folder.root)
        write_json(self._folder.best_pointer, {"trial": number, "score": score, "bundle": str(bundle)})
        self._folder.link_best(number)
        self._journal.append("promoted", trial=number, score=score)
        if loser is not None:
            self._prune(loser)

    def _is_better(self, number: int, score: float) -> bool:
        if self.number is None or self.score is None:
            return True
        if score == self.score:  # whichever ended first, the same search has the same best
            return number < self.number
        return self._objective.better(score, self.score)

    def _prune(self, number: int) -> None:
        self._folder.remove_candidate(number)
        self._journal.append("pruned", trial=number)


class Recorder(DriverOnly, Callback):
    """Turns what Tune tells of trials into events of the journal, and candidates into the best one.

    Parameters
    ----------
    stop
        Called with a line that says why, when a failed trial ends the search.
    ignore_failures
        Whether a failed trial leaves the search going.
    """

    def __init__(
        self,
        folder: ExperimentFolder,
        journal: Journal,
        keeper: BestKeeper,
        *,
        stop: Callable[[str], None],
        ignore_failures: bool,
    ) -> None:
        self._folder = folder
        self._journal = journal
        self._keeper = keeper
        self._stop = stop
        self._ignore_failures = ignore_failures
        self._running: dict[int, Any] = {}
        self._steps: dict[int, int] = {}

    @property
    def running(self) -> dict[int, Any]:
        """Tune's trials that have started and not ended, by number."""
        return self._running

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial was given a slot."""
        config = trial.config
        self._running[config["number"]] = trial
        self._journal.append(
            "started",
            trial=config["number"],
            attempt=1,
            sample=config["sample"],
            config=config["config"],
            baseline=config["baseline"],
        )

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An intermediate result, or the end."""
        number = trial.config["number"]
        if not result["done"]:
            self._steps[number] = self._steps.get(number, 0) + 1
            self._journal.append("intermediate", trial=number, step=self._steps[number], values=result["values"])
            return
        for attempt in result["attempts"]:
            self._journal.append("retried", trial=number, **attempt)
        self._end(number, {name: result[name] for name in _ENDED})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The actor itself, not the script, failed: the node, or Ray."""
        cause = trial.get_pickled_error() if hasattr(trial, "get_pickled_error") else None
        text = f"the trial's actor died: {str(cause).strip().splitlines()[-1] if cause else 'no cause given'}"
        self._end(trial.config["number"], {**_NOTHING, "state": TrialState.KILLED, "cause": text})

    def _end(self, number: int, facts: dict[str, Any]) -> None:
        self._running.pop(number, None)
        self._journal.append("ended", trial=number, log=str(self._folder.log(number)), **facts)
        if number == 0:
            return
        if facts["saved"] and facts["score"] is not None:
            self._keeper.consider(number, facts["score"])
        else:
            self._folder.remove_candidate(number)
        if TrialState(facts["state"]).is_failure and not self._ignore_failures:
            self._stop(f"trial {number} failed: {facts['cause']}")

    def end_stopped(self, cause: str) -> None:
        """Write the end of the trials that were running when the search was stopped."""
        for number in sorted(self._running):
            self._end(number, {**_NOTHING, "state": TrialState.STOPPED, "cause": cause})


_ENDED = ("state", "cause", "values", "score", "seconds", "before", "after", "removed", "notes", "saved")
_NOTHING: dict[str, Any] = {**dict.fromkeys(_ENDED), "removed": {}, "notes": [], "saved": False}
