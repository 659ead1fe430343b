"""Candidates for a budget before any trial: first guesses, random ones, and those that a fitted model proposes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from raycompress.config.dimension import Dimension
from raycompress.forecast.amounts import changed, kept
from raycompress.forecast.prior import (
    Alike,
    Curves,
    Goal,
    Prior,
    Project,
    Sample,
    Scored,
    anywhere,
    by_values,
    first_guesses,
)
from raycompress.forecast.projection import Projection

_PARENTS = 5
"""The best samples so far, from which others are made."""
_CHANGED, _ANYWHERE = 48, 16
"""Of the samples that a proposal is chosen among: changed parents, and random ones."""
_SPREAD = 0.4
"""Standard deviation of a change, of the logarithm of a kept share."""
_OPTIMISM = 0.5
"""How many standard deviations of a prediction count for a sample, since it may be better than expected."""


class Surrogate:
    """Predicts the scores of samples, and proposes those on the budget that it expects most of.

    Bayesian linear regression on the logarithms of the kept shares, their squares and their products in pairs
    (MacKay, Bayesian Interpolation, 1992): what two groups lose together is not the sum of what each loses alone, and
    the prior on the weights lets only those pairs count that the scores speak for. Samples are made by changing what is
    kept in two or four dimensions of one of the best (as in EvoPress, Sieberling et al., 2025), and at random.

    Parameters
    ----------
    dimensions
        Sparsities, bits and blocks.
    goal
        Which scores are better.
    project
        Puts a sample onto the budget.
    seed
        The same seed and the same scores give the same proposals.
    alike
        Equal for samples that come to the same model.
    """

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        goal: Goal,
        project: Project,
        seed: int | None,
        alike: Alike = by_values,
    ) -> None:
        self._dimensions, self._project, self._alike = tuple(dimensions), project, alike
        self._sign = 1.0 if goal == "max" else -1.0
        self._random = np.random.default_rng(seed)
        self._scored: list[Scored] = []

    def add(self, one: Scored) -> None:
        """Add the score of a sample that was measured."""
        self._scored.append(one)

    def propose(self, more: Sequence[Scored] = ()) -> Sample:
        """Return a sample on the budget that has no score yet; `more` counts as added for this one proposal."""
        known = [*self._scored, *more]
        seen = {self._alike(one.sample) for one in known}
        best = sorted(known, key=lambda one: -self._sign * one.score)[:_PARENTS]
        pool = self.pool([one.sample for one in best], _CHANGED, _ANYWHERE)
        pool = [sample for sample in pool if self._alike(sample) not in seen]
        if not pool:
            return self._project(self._anywhere())
        scores = self._sign * np.array([one.score for one in known])
        if len(known) < 2 or np.ptp(scores) == 0:
            return pool[0]
        return pool[int(np.argmax(self.expected(known, pool)))]

    def pool(self, parents: Sequence[Sample], number: int, anywhere: int) -> list[Sample]:
        """Return `number` samples that are changed from the parents in turn, and random ones, within the budget."""
        each = range(number if parents else 0)
        changed = [self._changed(parents[place % len(parents)]) for place in each]
        return [self._project(one) for one in (*changed, *(self._anywhere() for _ in range(anywhere)))]

    def _anywhere(self) -> Sample:
        return anywhere(self._dimensions, self._random)

    def _changed(self, sample: Sample) -> Sample:
        """Return the sample with more or less kept of two dimensions, or of four."""
        number = min(len(self._dimensions), 2 * int(self._random.integers(1, 3)))
        found = dict(sample)
        for place in self._random.choice(len(self._dimensions), size=number, replace=False):
            one = self._dimensions[int(place)]
            found[one.name] = changed(one, found[one.name], self._random, _SPREAD)
        return found

    def expected(self, known: Sequence[Scored], pool: Sequence[Sample]) -> NDArray[np.float64]:
        """Return what is expected of samples by known scores, with optimism; larger is better."""
        from sklearn.linear_model import BayesianRidge

        scores = self._sign * np.array([one.score for one in known])
        features = self._features([one.sample for one in known])
        mean, spread = features.mean(0), features.std(0) + 1e-9
        model = BayesianRidge().fit((features - mean) / spread, scores)
        found, deviation = model.predict((self._features(pool) - mean) / spread, return_std=True)
        return np.asarray(found + _OPTIMISM * deviation)

    def _features(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        left = np.log([[kept(one, sample[one.name]) for one in self._dimensions] for sample in samples])
        pairs = itertools.combinations_with_replacement(range(len(self._dimensions)), 2)
        return np.column_stack([left, *(left[:, one] * left[:, other] for one, other in pairs)])


def score_cheaply(
    dimensions: Sequence[Dimension],
    first: Sequence[Sample],
    *,
    cheap: Callable[[Sample], float],
    project: Project,
    goal: Goal,
    number: int = 48,
    explorers: float = 0.125,
    seed: int | None = None,
    alike: Alike | None = None,
) -> list[Scored]:
    """Score `number` candidates cheaply: the first guesses, random ones, then those that a `Surrogate` proposes.

    Parameters
    ----------
    first
        From `first_guesses`.
    cheap
        The score of a sample, without a trial; what it costs is `number` times this.
    project
        Puts a sample onto the budget.
    explorers
        Share of the candidates that are random.
    alike
        Equal for samples that come to the same model, which is scored once.

    Returns
    -------
    list of Scored
        In the order in which they were scored; each candidate once.
    """
    key = alike or by_values
    random = np.random.default_rng(seed)
    surrogate = Surrogate(dimensions, goal, project, seed, key)
    known: dict[Hashable, Scored] = {}

    def look(sample: Sample) -> None:
        if key(sample) not in known:
            known[key(sample)] = Scored(sample, cheap(sample))
            surrogate.add(known[key(sample)])

    anyhow = [*first, *(anywhere(dimensions, random) for _ in range(round(explorers * number)))][:number]
    for sample in anyhow:
        look(project(sample))
    for _ in range(number - len(anyhow)):
        look(surrogate.propose())
    return list(known.values())


def guesses_at(level: Projection, prior: Prior, *, goal: Goal, errors: Curves | None = None) -> list[Sample]:
    """Return the `first_guesses` of a search within the budgets of `level`."""
    whole = level.space.centre()
    return first_guesses(
        level.space.guided,
        prior,
        cost=lambda sample: level.ratio({**whole, **sample}),
        project=lambda sample: projected(level, sample),
        goal=goal,
        errors=errors,
        fits=lambda sample: level.fits({**whole, **sample}),
    )


def score_at(
    level: Projection,
    first: Sequence[Sample],
    *,
    cheap: Callable[[Sample], float],
    goal: Goal,
    number: int,
    seed: int | None,
) -> list[Scored]:
    """Return what `score_cheaply` finds of a search within the budgets of `level`."""
    whole = level.space.centre()
    return score_cheaply(
        level.space.guided,
        first,
        cheap=cheap,
        project=lambda sample: projected(level, sample),
        goal=goal,
        number=number,
        seed=seed,
        alike=lambda sample: level.cuts({**whole, **sample}),
    )


def projected(level: Projection, sample: Sample) -> Sample:
    """Return the values of the guided dimensions of the nearest sample within the budgets."""
    projected = level.project({**level.space.centre(), **sample})
    return {one.name: projected[one.name] for one in level.space.guided}
