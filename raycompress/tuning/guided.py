"""A proposer for pruning under a budget: it starts from what is known before, and lets go of it where that errs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from raycompress.experiment.dimension import Dimension
from raycompress.tuning.guesses import (
    Cost,
    Goal,
    Losses,
    Model,
    Prior,
    Project,
    Sample,
    Scored,
    anywhere,
    first_guesses,
)

_ENOUGH = 6
"""Trials with both a guess and a score, before the guesses are judged."""
_HELPS = 0.1
"""Rank correlation from which on guesses are better than none."""


class Guided:
    """Proposes samples on a budget, guided by a prior as long as that helps.

    The first trial is the best candidate of the prior. Of those that follow, a share explores: random ones. The others
    are, in turns, the best candidate left and what Optuna's TPE proposes; it is told the trials' scores, and the
    prior's candidates with their cheap scores put on the trials' scale. After a few trials the guesses are
    compared with the scores. Where their ranks do not go together the prior is dropped, and TPE knows the trials
    alone; should they agree later, it comes back.

    Parameters
    ----------
    dimensions
        One sparsity for each group, ``float``.
    prior
        What is known before the search. Without scored candidates the first guesses stand in for them, and the sum of
        the sensitivities for their scores.
    cost
        The budgeted cost of a sample, as a share of the dense model's.
    project
        Puts a sample onto the budget.
    goal
        ``max`` or ``min``, of the trials' scores and of the prior's alike.
    seed
        The same seed and the same scores give the same proposals.
    exploration
        Share of the trials that are random.
    """

    repeats = False

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        *,
        prior: Prior,
        cost: Cost,
        project: Project,
        goal: Goal,
        seed: int | None,
        exploration: float = 0.25,
    ) -> None:
        self._dimensions = tuple(dimensions)
        self._project = project
        self._sign = 1.0 if goal == "max" else -1.0
        self._exploration = exploration
        self._random = np.random.default_rng(seed)
        self._model = Model(dimensions, goal, seed)
        self._losses = Losses(prior, goal)
        self._candidates = list(prior.candidates) or [
            Scored(sample, prior.dense - self._sign * self._losses(sample))
            for sample in first_guesses(dimensions, prior, cost=cost, project=project, goal=goal)
        ]
        self._candidates.sort(key=lambda one: -self._sign * one.score)
        self._guesses = {_key(one.sample): one.score for one in self._candidates}
        self._proposed: dict[int, Sample] = {}
        self._scores: dict[int, float] = {}
        self._turn = 0

    @property
    def agreement(self) -> float | None:
        """Rank correlation of the guesses with the trials' scores; None while there are too few."""
        pairs = self._pairs()
        if len(pairs) < _ENOUGH:
            return None
        guesses, scores = zip(*pairs, strict=True)
        if len(set(guesses)) < 2 or len(set(scores)) < 2:
            return 0.0
        return float(spearmanr(guesses, scores).statistic)

    @property
    def trusts(self) -> bool:
        """Whether the prior still guides."""
        agreement = self.agreement
        return agreement is None or agreement >= _HELPS

    @property
    def note(self) -> str:
        """What people should know of the prior; empty while it guides."""
        if self.trusts:
            return ""
        return (
            f"what was measured before the search does not foretell the trials (rank correlation {self.agreement:.2f} "
            f"over {len(self._pairs())}): they go by the trials' results alone"
        )

    def propose(self, number: int) -> Sample | None:
        """Return the sample for trial `number`, on the budget."""
        taken = {_key(sample) for sample in self._proposed.values()}
        for _ in range(8):  # a projection may bring different samples to the same point
            sample = self._next(taken)
            if _key(sample) not in taken:
                break
        self._proposed[number] = sample
        return dict(sample)

    def learn(self, number: int, score: float | None, scores: Mapping[int, float] | None = None) -> None:
        """Take the score of trial `number`; None when it failed."""
        if score is not None and np.isfinite(score) and number in self._proposed:
            self._scores[number] = score
            self._model.tell(self._proposed[number], score)

    def _next(self, taken: set[tuple[Any, ...]]) -> Sample:
        number = len(self._proposed)
        # explorers are spread evenly: number n is one where the whole part of n * exploration grows
        if number and int(number * self._exploration) > int((number - 1) * self._exploration):
            return self._explorer(taken)
        self._turn += 1
        left = [one for one in self._candidates if _key(one.sample) not in taken]
        if left and self.trusts and (self._turn % 2 or not self._scores):
            return left[0].sample
        return self._project(self._model.propose(self._calibrated() if self.trusts else ()))

    def _explorer(self, taken: set[tuple[Any, ...]]) -> Sample:
        """Return a new random sample, or any candidate of the prior's: its guess is known, and can be judged."""
        left = [one for one in self._candidates if _key(one.sample) not in taken]
        if left and self._random.random() < 0.5:
            return left[int(self._random.integers(len(left)))].sample
        return self._project(anywhere(self._dimensions, self._random))

    def _calibrated(self) -> list[Scored]:
        """Return the prior's candidates, their scores on the scale of the trials': a line through what both know."""
        pairs = self._pairs()
        if len(pairs) < 2:
            return list(self._candidates)
        guesses, scores = np.array(pairs).T
        spread = guesses.std()
        slope = max(0.0, float(np.cov(guesses, scores, ddof=0)[0, 1]) / spread**2) if spread else 0.0
        return [
            Scored(one.sample, float(scores.mean() + slope * (one.score - guesses.mean()))) for one in self._candidates
        ]

    def _pairs(self) -> list[tuple[float, float]]:
        """Return (guess, score) of each trial whose sample the prior knows."""
        return [
            (self._guesses[key], score)
            for number, score in self._scores.items()
            if (key := _key(self._proposed[number])) in self._guesses
        ]


def _key(sample: Sample) -> tuple[Any, ...]:
    return tuple(sample.values())
