"""Makes the samples of any proposer meet the experiment's budgets: projects them, or rejects and redraws."""

from __future__ import annotations

from raycompress.config.objective import Judgement, Objective
from raycompress.errors import ExperimentError
from raycompress.forecast.projection import Projection
from raycompress.search.proposers.searchers import Proposer
from raycompress.search.stopping.policies import Scores
from raycompress.search.trials import Sample

_PATIENCE = 1000
"""How many proposals in a row may be rejected."""


class BudgetEnforcer:
    """Wraps a proposer so that every sample meets the budgets.

    The proposer learns a rejected sample as infeasible and as bad as the worst result so far; otherwise one with a
    model would propose it again.

    Parameters
    ----------
    proposer
        The wrapped proposer; it learns the result of a projected sample as that of its own.
    projection
        Computes sizes, and projects samples onto the budgets.
    objective
        The goals and constraints of the search.
    rejects
        Whether a sample over a budget is rejected and another one drawn, instead of being projected.
    where
        Place of the budgets in the experiment file, for errors.
    """

    def __init__(
        self, proposer: Proposer, projection: Projection, objective: Objective, *, rejects: bool, where: str
    ) -> None:
        self._proposer = proposer
        self._projection = projection
        self._objective = objective
        self._rejects = rejects
        self._worst: Judgement | None = None
        self._where = where
        self.repeats = proposer.repeats

    @property
    def note(self) -> str:
        """The wrapped proposer's note."""
        return self._proposer.note

    def propose(self, number: int) -> Sample | None:
        """Return the next sample that meets the budgets.

        Raises
        ------
        ExperimentError
            A thousand samples in a row were over the budget.
        """
        for _ in range(_PATIENCE):
            sample = self._proposer.propose(number)
            if sample is None:
                return None
            if not self._rejects:
                return self._projection.project(sample)
            if self._projection.fits(sample):
                return sample
            self._teach_rejected(number, sample)
        raise ExperimentError(
            f"{_PATIENCE} proposals in a row were over the budget, and all were rejected",
            where=self._where,
            fix='write "on_budget": "project", or ranges with larger sparsities',
        )

    def learn(self, number: int, score: float | None, scores: Scores, judgement: Judgement | None = None) -> None:
        """Pass the score of trial `number` on, and remember the worst result."""
        if judgement is None and score is not None and len(self._objective.goals) == 1:
            judgement = Judgement((self._objective.goals[0].cost(score),))
        if judgement is not None:
            known = self._worst.costs if self._worst is not None else judgement.costs
            self._worst = Judgement(tuple(map(max, known, judgement.costs)))
        self._proposer.learn(number, score, scores, judgement)

    def _teach_rejected(self, number: int, sample: Sample) -> None:
        if self._worst is None:
            self._proposer.learn(number, None, {})
            return
        over = self._projection.fullness(sample) - 1
        bounds = self._objective.bounds
        judgement = Judgement(
            self._worst.costs, tuple(over if bound in self._projection.ceilings else 0.0 for bound in bounds)
        )
        first = self._objective.goals[0].cost(self._worst.costs[0])  # a cost twice over is the value again
        self._proposer.learn(number, self._objective.scalar(first, judgement), {}, judgement)
