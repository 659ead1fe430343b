"""Proposes what is expected to widen the front of a metric and a size: the size is known, the metric is predicted."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycompress.config.dimension import Dimension
from raycompress.config.objective import Objective, is_measured
from raycompress.forecast.amounts import kept
from raycompress.forecast.candidates import Surrogate, projected
from raycompress.forecast.prior import Goal, Sample, Scored, by_values
from raycompress.forecast.projection import Projection

_FEWEST = 8
"""Trials that have ended before anything is predicted."""
_CHANGED, _ANYWHERE = 112, 16
"""Of the samples that a proposal is chosen among: changed members of the front, and random ones."""
_MANY = 80
"""From so many trials on a Gaussian process predicts better than a regression on shares and their products."""
_OPTIMISM = 0.5
"""How many standard deviations of a prediction count for a sample, since it may be better than expected."""
_REFIT = 1.3
"""So many times as many scores as before want a new kernel."""


class FrontModel:
    """Chooses the sample by which the hypervolume of the front is expected to grow most.

    The hypervolume is that of the metric and the logarithm of the size, as in the search of an expected improvement of
    it (Emmerich et al., Hypervolume-based Expected Improvement, 2011). The metric is what a model of the trials
    expects of a sample, and a part of its standard deviation more; the size is what the forecast computes.

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
        self._dimensions = tuple(dimensions)
        self._seen: dict[Hashable, tuple[Hashable, float]] = {}
        self._kernel: Any = None
        self._fitted_to = 0
        sign = 1.0 if goal == "max" else -1.0
        self._cheap = {self._alike(one.sample): Scored(one.sample, sign * one.score) for one in candidates}
        self._surrogate = Surrogate(dimensions, "max", functools.partial(projected, projection), seed, self._alike)
        self._proposed: dict[int, Sample] = {}
        self._known: list[Scored] = []
        self._tried: set[Hashable] = set()

    def add_proposed(self, number: int, sample: Sample) -> None:
        """Record what trial `number` tries."""
        self._proposed[number] = dict(sample)
        self._tried.add(self._alike(sample))

    def learn(self, number: int, costs: Sequence[float]) -> None:
        """Learn the costs of trial `number`, by goal; smaller is better."""
        if number in self._proposed and math.isfinite(costs[self._place]):
            self._known.append(Scored(self._proposed[number], -costs[self._place]))

    def propose(self) -> Sample | None:
        """Return a sample that was not tried; None where too little is known, or nothing is expected to be gained."""
        if len(self._known) < _FEWEST:
            return None
        scores = np.array([one.score for one in self._known])
        sizes = np.array([self._look(one.sample)[1] for one in self._known])
        front = _front(scores, sizes)
        pool = self._surrogate.pool([self._known[place].sample for place in front], _CHANGED, _ANYWHERE)
        fresh = {self._alike(sample): sample for sample in pool}
        left = [sample for key, sample in fresh.items() if key not in self._tried]
        if not left or np.ptp(scores) == 0:
            return None
        gains = _gains(
            scores[front],
            sizes[front],
            self._expected([*self._known, *self._foretold()], left),
            [self._look(sample)[1] for sample in left],
            least=float(scores.min()),
            largest=float(sizes.max()),
        )
        best = int(np.argmax(gains))
        return left[best] if gains[best] > 0 else None

    def _expected(self, known: Sequence[Scored], pool: Sequence[Sample]) -> NDArray[np.float64]:
        """Return what is expected of samples, with optimism.

        Of few trials by the regression of the `Surrogate`, of many by a Gaussian process, whose coordinates are the
        logarithms of the kept shares, each with a length scale of its own.
        """
        if len(self._known) < _MANY:
            return self._surrogate.expected(known, pool)
        points, others = self._coordinates([one.sample for one in known]), self._coordinates(pool)
        mean, spread = points.mean(0), points.std(0) + 1e-9
        scores = np.array([one.score for one in known])
        level, scale = float(scores.mean()), float(scores.std()) + 1e-12
        model = self._fitted((points - mean) / spread, (scores - level) / scale)
        found, deviation = model.predict((others - mean) / spread, return_std=True)
        return np.asarray(level + scale * (found + _OPTIMISM * deviation))

    def _fitted(self, points: NDArray[np.float64], scores: NDArray[np.float64]) -> Any:
        """Return a Gaussian process through scores; its kernel is fitted again when there are a third more of them."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        if self._kernel is not None and len(scores) < _REFIT * self._fitted_to:
            return GaussianProcessRegressor(self._kernel, optimizer=None).fit(points, scores)
        lengths = Matern([2.0] * points.shape[1], (0.3, 30.0), nu=2.5)
        kernel = ConstantKernel(1.0, (0.1, 100.0)) * lengths + WhiteKernel(0.05, (1e-4, 1.0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound: the dimension hardly counts
            found = GaussianProcessRegressor(kernel, random_state=0).fit(points, scores)
        self._kernel, self._fitted_to = found.kernel_, len(scores)
        return found

    def _coordinates(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        return np.log([[kept(one, sample[one.name]) for one in self._dimensions] for sample in samples])

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
        return self._look(sample)[0]

    def _look(self, sample: Sample) -> tuple[Hashable, float]:
        """Return what is equal for samples of the same model, and the logarithm of the size; each is computed once."""
        key = by_values(sample)
        if key not in self._seen:
            asked = {**self._whole, **sample}
            size = self._projection.sizes(asked)[self._size]
            self._seen[key] = self._projection.cuts(asked), math.log(max(size, 1.0))
        return self._seen[key]


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
