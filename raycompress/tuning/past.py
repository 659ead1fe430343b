"""What earlier runs of a search have left: which trials it need not make again, and what they have taught."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from raycompress.results.record import Experiment as Record
from raycompress.results.record import TrialRecord
from raycompress.results.states import TrialState
from raycompress.tuning.faults import is_outside
from raycompress.tuning.policies import Scores


@dataclass(frozen=True)
class PastTrial:
    """A trial that was started before.

    Attributes
    ----------
    sample
        What was proposed.
    ended
        Whether it need not be made again; of one that was running or stopped only `sample` counts.
    score
        The result that a searcher learns from; None where there is none.
    scores
        The score after each number of iterations at which the trial could have been ended.
    """

    sample: dict[str, Any]
    ended: bool
    score: float | None = None
    scores: Scores = field(default_factory=dict)


@dataclass(frozen=True)
class Past:
    """All trials that were started before, by number; none for a new search."""

    trials: Mapping[int, PastTrial] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Record, lost: Collection[int] = ()) -> Past:
        """Read the past off a journal.

        A trial that was running or was stopped is made again, and so is one whose failure ended the search, or lay
        outside it: whoever resumes has mended what was wrong.

        Parameters
        ----------
        lost
            Trials that are made again because their model is gone.
        """
        unfinished = {TrialState.RUNNING, TrialState.STOPPED}
        redo_failed = record.finished == "failure"

        def again(trial: TrialRecord) -> bool:
            failed = trial.state.is_failure and (redo_failed or is_outside(trial.cause))
            return failed or trial.number in {*lost, *record.mended} or trial.state in unfinished

        return cls({number: _past_trial(trial, again(trial)) for number, trial in record.records.items()})

    @cached_property
    def ended(self) -> dict[int, PastTrial]:
        """The trials that need not be made again."""
        return {number: trial for number, trial in sorted(self.trials.items()) if trial.ended}

    @cached_property
    def taught(self) -> dict[int, PastTrial]:
        """Those of them that a searcher has proposed: without the dense model's."""
        return {number: trial for number, trial in self.ended.items() if number}

    @cached_property
    def begun(self) -> dict[int, PastTrial]:
        """The trials that a searcher has proposed and that are made again."""
        return {number: trial for number, trial in sorted(self.trials.items()) if number and not trial.ended}


def _past_trial(trial: TrialRecord, again: bool) -> PastTrial:
    if again:
        return PastTrial(trial.sample, ended=False)
    scores = {step: _first(values) for step, values in zip(trial.steps, trial.intermediate, strict=True)}
    known = {step: score for step, score in scores.items() if score is not None}
    last = trial.score if trial.score is not None else known.get(max(known, default=0))
    ended_early = trial.state == TrialState.ENDED_EARLY
    return PastTrial(
        trial.sample,
        ended=True,
        score=last if trial.state == TrialState.FINISHED or ended_early else None,
        scores=known,
    )


def _first(values: Mapping[str, float]) -> float | None:
    score = next(iter(values.values()), None)
    return score if score is not None and math.isfinite(score) else None
