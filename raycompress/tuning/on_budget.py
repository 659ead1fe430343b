"""A proposer whose samples keep to the budgets of the experiment: none is trained that cannot count."""

from __future__ import annotations

from raycompress.errors import ExperimentError
from raycompress.experiment.objective import Judgement
from raycompress.experiment.projection import Projection
from raycompress.tuning.policies import Scores
from raycompress.tuning.searchers import Proposer, Sample

_PATIENCE = 1000
"""How many proposals in a row may be rejected."""


class OnBudget:
    """Stands between a proposer and the search.

    Parameters
    ----------
    proposer
        It learns of its own samples what those that they were made into have given.
    projection
        The budgets.
    rejects
        Whether a sample that is over a budget is passed over, instead of being brought to it.
    where
        Of the budgets in the experiment file.
    """

    def __init__(self, proposer: Proposer, projection: Projection, *, rejects: bool, where: str) -> None:
        self._proposer = proposer
        self._projection = projection
        self._rejects = rejects
        self._where = where
        self.repeats = proposer.repeats

    def propose(self, number: int) -> Sample | None:
        """Return the next sample that keeps to the budgets.

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
            self._proposer.learn(number, None, {})
        raise ExperimentError(
            f"{_PATIENCE} proposals in a row were over the budget, and all were rejected",
            where=self._where,
            fix='write "on_budget": "project", or ranges with larger sparsities',
        )

    def learn(self, number: int, score: float | None, scores: Scores, judgement: Judgement | None = None) -> None:
        """Take the score of trial `number`."""
        self._proposer.learn(number, score, scores, judgement)
