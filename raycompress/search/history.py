"""The trials of earlier runs of a search, read from its journal: which need not be run again, and their results."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from raycompress.config.objective import Judgement, Objective, metrics_of
from raycompress.results.record import SearchRecord
from raycompress.results.trial import TrialRecord
from raycompress.search.outcome import is_outside
from raycompress.search.stopping.policies import Scores
from raycompress.states import TrialState


@dataclass(frozen=True)
class PastTrial:
    """A trial that was started before.

    Attributes
    ----------
    sample
        The proposed sample.
    ended
        Whether it need not be run again; of a trial that was running or stopped only `sample`, `scores` and `step` are
        set.
    score
        The score that a proposer learns; None where there is none.
    scores
        Number of iterations -> score, at each point where the trial could have been ended.
    judgement
        Costs and excesses; None where they are not known.
    step
        The last result that the journal has.
    rung0, final
        Score before training, and the last score of a finished trial; None where there is none.
    """

    sample: dict[str, Any]
    ended: bool
    score: float | None = None
    scores: Scores = field(default_factory=dict)
    judgement: Judgement | None = None
    step: int = 0
    rung0: float | None = None
    final: float | None = None


@dataclass(frozen=True)
class SearchHistory:
    """The trials of earlier runs, by number; empty for a new search.

    Attributes
    ----------
    trials
        Trial number -> trial, the dense model's (0) included, repeats left out.
    dense
        The metrics that the dense model's trial has reported.
    repeats
        Number of a repeat -> (trial that it repeats, whether it need not be run again).
    """

    trials: Mapping[int, PastTrial] = field(default_factory=dict)
    dense: Mapping[str, float] | None = None
    repeats: Mapping[int, tuple[int, bool]] = field(default_factory=dict)

    @classmethod
    def of(cls, record: SearchRecord, lost: Collection[int] = ()) -> SearchHistory:
        """Return the history of a search from the record of its journal.

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

        judged, objective = record.ranking.judged, record.objective
        return cls(
            {
                number: _past_trial(trial, again(trial), judged.get(number), objective)
                for number, trial in record.records.items()
                if trial.repeat_of is None
            },
            None if record.baseline is None else record.baseline.values,
            {
                number: (trial.repeat_of, not again(trial))
                for number, trial in record.records.items()
                if trial.repeat_of is not None
            },
        )

    @cached_property
    def ended(self) -> dict[int, PastTrial]:
        """Trials that need not be run again, the dense model's included."""
        return {number: trial for number, trial in sorted(self.trials.items()) if trial.ended}

    @cached_property
    def results(self) -> dict[int, PastTrial]:
        """Trials that need not be run again and that a proposer learns from: `ended` without the dense model's."""
        return {number: trial for number, trial in self.ended.items() if number}

    @cached_property
    def unfinished(self) -> dict[int, PastTrial]:
        """Trials that a proposer has made and that are run again with the same sample."""
        return {number: trial for number, trial in sorted(self.trials.items()) if number and not trial.ended}


def _past_trial(trial: TrialRecord, again: bool, judgement: Judgement | None, objective: Objective) -> PastTrial:
    if again and not trial.steps and trial.earlier is not None:  # its last start was lost before it reported anything
        trial = replace(trial, intermediate=trial.earlier.intermediate, steps=trial.earlier.steps)
    scores = {step: _score(values, objective) for step, values in zip(trial.steps, trial.intermediate, strict=True)}
    known = {step: score for step, score in scores.items() if score is not None}
    if again:
        return PastTrial(trial.sample, ended=False, scores=known, step=max(scores, default=0))
    last = trial.score if trial.score is not None else known.get(max(known, default=0))
    ended_early = trial.state == TrialState.ENDED_EARLY
    if judgement is not None and last is not None:
        last = objective.scalar(last, judgement)
    return PastTrial(
        trial.sample,
        ended=True,
        score=last if trial.state == TrialState.FINISHED or ended_early else None,
        scores=known,
        judgement=judgement,
        rung0=trial.rung0,
        final=trial.score if trial.state == TrialState.FINISHED else None,
    )


def _score(values: Mapping[str, float], objective: Objective) -> float | None:
    score = objective.score(metrics_of(values, None))
    return score if score is not None and math.isfinite(score) else None
