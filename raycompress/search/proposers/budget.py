"""Proposer for pruning under a fixed budget: starts from a prior, and drops the prior if trials contradict it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from raycompress.config.dimension import Dimension
from raycompress.config.objective import Judgement
from raycompress.forecast.candidates import Surrogate
from raycompress.forecast.prior import (
    Alike,
    Cost,
    Goal,
    Losses,
    Prior,
    Project,
    Sample,
    Scored,
    anywhere,
    by_values,
    first_guesses,
    middle,
)

_ENOUGH = 2
"""Trials that explore, and trials of the prior's, before the prior is judged."""

_ATTEMPTS = 32
"""At a sample that was not proposed before."""


class BudgetProposer:
    """Proposes samples that meet the budget, guided by a prior as long as its trials beat exploring ones.

    The first trial is the best candidate of the prior. Of the following trials, a share `exploration` explores: first
    the uniform sample, then random ones. The others alternate between a `Surrogate` and the best candidate left. It
    learns the trials' scores, and those of the prior's candidates, rescaled to the trials' scores. Trials of the prior
    are compared with exploring ones; while they win less than half of the comparisons, the prior is not used, and the
    surrogate learns from trials alone.

    Parameters
    ----------
    dimensions
        Sparsities, bits and blocks.
    prior
        Sensitivities and scored candidates that were measured before the search. Without candidates, first guesses
        are used, scored by the sum of their sensitivities.
    cost
        Sample -> its budgeted cost, as a share of the dense model's.
    project
        Sample -> the nearest sample within the budget.
    goal
        ``max`` or ``min``: which scores are better, of trials and of the prior.
    seed
        The same seed and the same scores give the same proposals.
    exploration
        Share of the trials that explore.
    alike
        Sample -> a key that is equal for samples that give the same model, which is not tried twice.
    fits
        Sample -> whether the budget allows it. `project` drops no residual block, which may be the only way.
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
        alike: Alike = by_values,
        fits: Callable[[Sample], bool] = lambda _sample: True,
    ) -> None:
        self._dimensions = tuple(dimensions)
        self._project = project
        self._sign = 1.0 if goal == "max" else -1.0
        self._exploration = exploration
        # others than those that were scored cheaply with the same seed
        self._random = np.random.default_rng(None if seed is None else (seed, 1))
        self._surrogate = Surrogate(dimensions, goal, project, seed, alike)
        losses = Losses(prior, goal, dimensions)
        scored = list(prior.candidates) or [
            Scored(sample, prior.dense - self._sign * losses(sample))
            for sample in first_guesses(dimensions, prior, cost=cost, project=project, goal=goal)
        ]
        self._alike, self._fits = alike, fits
        # predicted sizes may be others than when these were scored
        within = [one if fits(one.sample) else Scored(project(one.sample), one.score) for one in scored]
        distinct = {alike(one.sample): one for one in within if fits(one.sample)}.values()
        self._left = sorted(distinct, key=lambda one: -self._sign * one.score)
        self._candidates = tuple(self._left)
        self._guessed: dict[int, float] = {}
        self._explorers: set[int] = set()
        self._proposed: dict[int, Sample] = {}
        self._scores: dict[int, float] = {}
        self._is_exhausted = False

    @property
    def advantage(self) -> float | None:
        """Share of (prior trial, exploring trial) pairs that the prior trial wins; None with fewer than two of each."""
        prior = [self._sign * score for number, score in self._scores.items() if number in self._guessed]
        random = [self._sign * score for number, score in self._scores.items() if number in self._explorers]
        if min(len(prior), len(random)) < _ENOUGH:
            return None
        difference = np.subtract.outer(prior, random)
        return float((difference > 0).mean() + 0.5 * (difference == 0).mean())

    @property
    def trusts(self) -> bool:
        """Whether the prior is still used."""
        advantage = self.advantage
        return advantage is None or advantage >= 0.5

    @property
    def note(self) -> str:
        """Note for the user once the prior is dropped or no model is left to try; empty before."""
        if self._is_exhausted:
            return "the search ends here: the models that the budget leaves have all been tried, or all that were found"
        if self.trusts:
            return ""
        return (
            "what was measured before the search does not foretell its results: the trials that it proposed won "
            f"{self.advantage:.0%} of the comparisons with those that explore; the search goes by its results alone"
        )

    def propose(self, number: int) -> Sample | None:
        """Return the sample for trial `number`, on the budget."""
        proposed = {self._alike(sample) for sample in self._proposed.values()}
        for attempt in range(_ATTEMPTS):  # different samples may come to the same model
            if attempt < _ATTEMPTS // 2:
                sample = self._next(number)
            else:
                sample = self._project(anywhere(self._dimensions, self._random))
            if self._alike(sample) not in proposed and self._fits(sample):
                break
            self._drop(sample)
        else:
            self._is_exhausted = True
            return None
        self.add_proposed(number, sample)
        return dict(sample)

    def add_proposed(self, number: int, sample: Sample) -> None:
        """Record a sample that an earlier run proposed for trial `number`."""
        if self._explores(len(self._proposed)):
            self._explorers.add(number)
        self._proposed[number] = dict(sample)
        self._guessed.update((number, one.score) for one in self._left if one.sample == sample)
        self._drop(sample)

    def replace_proposed(self, number: int, sample: Sample) -> None:
        """Replace the sample proposed for trial `number` by the one that is really tried."""
        self._proposed[number] = dict(sample)

    def _drop(self, sample: Sample) -> None:
        """Take a candidate, and those that come to the same model, off the list."""
        self._left = [one for one in self._left if self._alike(one.sample) != self._alike(sample)]

    def learn(
        self,
        number: int,
        score: float | None,
        scores: Mapping[int, float] | None = None,
        judgement: Judgement | None = None,
    ) -> None:
        """Learn the score of trial `number`; None when it failed."""
        broken = judgement is not None and not judgement.is_feasible
        if broken and self._scores:  # worse than all others, on their scale
            known = self._sign * np.array([*self._scores.values()])
            score = float(self._sign * (known.min() - 0.1 * max(float(np.ptp(known)), 1e-3)))
        elif broken:
            score = None
        if score is not None and np.isfinite(score) and number in self._proposed:
            self._scores[number] = score
            self._surrogate.add(Scored(self._proposed[number], score))

    def _next(self, number: int) -> Sample:
        place = len(self._proposed)
        if self._explores(place):
            uniform = self._project(middle(self._dimensions)) if not self._explorers else None
            if uniform is not None and uniform not in self._proposed.values():
                return uniform
            return self._project(anywhere(self._dimensions, self._random))
        modelled = (place - len(self._explorers)) % 2 and self._scores
        if self._left and self.trusts and not modelled:
            best = self._left[0]
            self._guessed[number] = best.score
            return best.sample
        if not self._scores and not self._left:
            return self._project(anywhere(self._dimensions, self._random))
        return self._surrogate.propose(self._calibrated() if self.trusts else ())

    def _explores(self, place: int) -> bool:
        """Tell which trials do: spread evenly, the first of them soon, since the prior cannot be judged before."""
        return place > 0 and int(place * self._exploration + 0.5) > int((place - 1) * self._exploration + 0.5)

    def _calibrated(self) -> Sequence[Scored]:
        """Return the candidates not tried, their guesses on the scale of the trials: a line through what both know."""
        known = [(guess, self._scores[number]) for number, guess in self._guessed.items() if number in self._scores]
        if not known:
            return self._left
        every = np.array([one.score for one in self._candidates])
        guesses, scores = np.array(known).T
        results = np.array([*self._scores.values()])
        # few trials of nearly equal guesses say little about the slope: the spreads of all say more
        slope = float(results.std() / every.std()) if every.std() > 0 else 0.0
        return [Scored(one.sample, float(scores.mean() + slope * (one.score - guesses.mean()))) for one in self._left]
