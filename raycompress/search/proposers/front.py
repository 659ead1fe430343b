"""Proposes what is expected to widen the front of a metric and a size: the size is known, the metric is predicted."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from raycompress.config.dimension import Dimension
from raycompress.config.objective import Objective, is_measured
from raycompress.forecast.candidates import Surrogate
from raycompress.forecast.prior import Goal, Sample, Scored
from raycompress.forecast.projection import Projection

_FEWEST = 8
"""Trials that have ended before anything is predicted."""
_CHANGED, _ANYWHERE = 56, 8
"""Of the samples that a proposal is chosen among: changed members of the front, and random ones."""


class FrontModel:
    """Chooses the sample by which the hypervolume of the front is expected to grow most.

    The hypervolume is that of the metric and the logarithm of the size, as in the search of an expected improvement of
    it (Emmerich et al., Hypervolume-based Expected Improvement, 2011). The metric is what a `Surrogate` expects of a
    sample, and a part of its standard deviation more; the size is what the forecast computes.

    Parameters
    ----------
    dimensions
        What is searched.
    whole
        A sample with a value for every dimension of the search.
    projection
        Computes the sizes of samples, and puts them within the budgets.
    candidates
        What was scored cheaply before the search.
    goal
        Whether those scores are better when large.
    place, size
        The goal, by its place, that the script reports, and the name of the size in the other one.
    seed
        The same seed and the same results give the same proposals.
    """

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        whole: Sample,
        projection: Projection,
        candidates: Sequence[Scored],
        *,
        goal: Goal,
        place: int,
        size: str,
        seed: int | None,
    ) -> None:
        self._whole, self._projection, self._place, self._size = whole, projection, place, size
        names = {one.name for one in dimensions}

        def project(sample: Sample) -> Sample:
            found = projection.project({**whole, **sample})
            return {name: value for name, value in found.items() if name in names}

        sign = 1.0 if goal == "max" else -1.0
        self._cheap = {self._alike(one.sample): Scored(one.sample, sign * one.score) for one in candidates}
        self._surrogate = Surrogate(dimensions, "max", project, seed, self._alike)
        self._proposed: dict[int, Sample] = {}
        self._known: list[Scored] = []
        self._sizes: list[float] = []
        self._tried: set[Hashable] = set()

    def add_proposed(self, number: int, sample: Sample) -> None:
        """Record what trial `number` tries."""
        self._proposed[number] = dict(sample)
        self._tried.add(self._alike(sample))

    def learn(self, number: int, costs: Sequence[float]) -> None:
        """Learn the costs of trial `number`, by goal; smaller is better."""
        if number in self._proposed and math.isfinite(costs[self._place]):
            self._known.append(Scored(self._proposed[number], -costs[self._place]))
            self._sizes.append(self._log_size(self._proposed[number]))

    def propose(self) -> Sample | None:
        """Return a sample that was not tried; None where too little is known, or nothing is expected to be gained."""
        if len(self._known) < _FEWEST:
            return None
        scores = np.array([one.score for one in self._known])
        sizes = np.array(self._sizes)
        front = _front(scores, sizes)
        pool = self._surrogate.pool([self._known[place].sample for place in front], _CHANGED, _ANYWHERE)
        fresh = {self._alike(sample): sample for sample in pool}
        left = [sample for key, sample in fresh.items() if key not in self._tried]
        if not left or np.ptp(scores) == 0:
            return None
        gains = _gains(
            scores[front],
            sizes[front],
            self._surrogate.expected([*self._known, *self._foretold()], left),
            [*map(self._log_size, left)],
            least=float(scores.min()),
            largest=float(sizes.max()),
        )
        best = int(np.argmax(gains))
        return left[best] if gains[best] > 0 else None

    def _foretold(self) -> list[Scored]:
        """Return the candidates that were not tried, their scores on the scale of the trials: a line through both."""
        known = {self._alike(one.sample): one.score for one in self._known}
        pairs = [(one.score, known[key]) for key, one in self._cheap.items() if key in known]
        if len(pairs) < _FEWEST // 2:
            return []
        cheap, real = np.array(pairs).T
        spread = float(cheap.var())
        slope = max(0.0, float(((cheap - cheap.mean()) * (real - real.mean())).mean()) / spread) if spread else 0.0
        return [
            Scored(one.sample, float(real.mean() + slope * (one.score - cheap.mean())))
            for key, one in self._cheap.items()
            if key not in self._tried
        ]

    def _alike(self, sample: Sample) -> Hashable:
        return self._projection.cuts({**self._whole, **sample})

    def _log_size(self, sample: Sample) -> float:
        return math.log(max(self._projection.sizes({**self._whole, **sample})[self._size], 1.0))


def front_model(
    dimensions: Sequence[Dimension],
    whole: Sample,
    projection: Projection,
    objective: Objective,
    candidates: Sequence[Scored],
    *,
    goal: Goal,
    seed: int | None,
) -> FrontModel | None:
    """Return the model of the front of a search with two goals: a metric, and a size that is known beforehand."""
    metrics = [place for place, goal in enumerate(objective.goals) if not is_measured(goal.metric)]
    sizes = [goal.metric for goal in objective.goals if is_measured(goal.metric)]
    if len(metrics) != 1 or len(sizes) != 1 or sizes[0] not in projection.sizes(whole):
        return None
    return FrontModel(dimensions, whole, projection, candidates, goal=goal, place=metrics[0], size=sizes[0], seed=seed)


def _front(scores: NDArray[np.float64], sizes: NDArray[np.float64]) -> list[int]:
    """Return the places of what nothing beats in both, the smallest first."""
    found: list[int] = []
    for place in np.lexsort((-scores, sizes)).tolist():
        if not found or scores[place] > scores[found[-1]]:
            found.append(place)
    return found


def _gains(
    scores: NDArray[np.float64],
    sizes: NDArray[np.float64],
    expected: NDArray[np.float64],
    others: Sequence[float],
    *,
    least: float,
    largest: float,
) -> NDArray[np.float64]:
    """Return by how much each of the others widens a front, which comes by rising size and score.

    Parameters
    ----------
    scores, sizes
        Of the front.
    expected, others
        Scores and sizes of the others.
    least, largest
        The score and the size that the hypervolume is measured from.
    """
    ends = np.append(sizes[1:], max(largest, float(sizes[-1])))
    found = np.zeros(len(expected))
    for place, (score, size) in enumerate(zip(expected, others, strict=True)):
        gain = max(0.0, float(sizes[0]) - size) * max(0.0, score - least)
        starts = np.maximum(sizes, size)
        gain += float((np.maximum(0.0, ends - starts) * np.maximum(0.0, score - scores)).sum())
        found[place] = gain
    return found
