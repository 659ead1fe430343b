"""Proposer for searches without one fixed budget: proposes models of many sizes, from dense to smallest.

What each layer bears gives good models of every size; what is sought is the size, or all of them for a Pareto front.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from raycompress.config.dimension import Dimension
from raycompress.config.objective import Judgement, Objective, is_measured
from raycompress.forecast.candidates import projected
from raycompress.forecast.prior import Goal, Prior, Sample, Scored, anywhere, first_guesses
from raycompress.forecast.projection import Projection
from raycompress.search.proposers.front import front_model
from raycompress.search.proposers.optuna_proposer import OptunaProposer
from raycompress.search.stopping.policies import Scores

_STEEP = 1.05
"""Two sizes that are nearer than this factor need no one between them."""
_ALIKE = 1.15
"""Candidates whose sizes differ by less are of one size."""
_CAUTION = 0.02
_ATTEMPTS = 8
_FIRST = 4
"""So many of the best candidates of a size take turns."""


class TradeOffProposer:
    """Proposes models of many sizes, measured by the first size or latency in the objectives and constraints.

    With several objectives the sizes are spread evenly on a log scale. With one objective and constraints they close in
    on the border of feasibility, where the best model lies: the smallest candidates that are expected to be feasible
    come first. Otherwise the best candidates of about the wanted size, by their scores before the search, take turns.
    A share `exploration` of the trials is random. Of the others one in three is a proposal of `model`, which learns
    from all trials; with a metric and a known size as goals each is a `FrontModel`'s, once that has enough to go by.

    Parameters
    ----------
    dimensions
        Sparsities, bits and blocks.
    whole
        A sample with a value for every dimension of the search; a proposed sample replaces those of `dimensions`.
    prior
        Sensitivities and scored candidates that were measured before the search.
    projection
        Computes the sizes of samples.
    objective
        The goals and constraints of the search.
    goal
        Whether the prior's metric is better when large (``max``) or small (``min``).
    model
        A sampler of Optuna's over the same dimensions.
    """

    repeats = False
    note = ""

    def __init__(
        self,
        dimensions: tuple[Dimension, ...],
        whole: Mapping[str, Any],
        *,
        prior: Prior,
        projection: Projection,
        objective: Objective,
        goal: Goal,
        model: OptunaProposer,
        seed: int | None,
        exploration: float,
    ) -> None:
        self._dimensions, self._whole = dimensions, dict(whole)
        self._prior, self._projection, self._objective, self._goal = prior, projection, objective, goal
        self._model = model
        self._front = front_model(
            dimensions, self._whole, projection, objective, prior.candidates, goal=goal, seed=seed
        )
        self._exploration = exploration
        self._random = np.random.default_rng(seed)
        self._axis = projection.axis(objective)
        self._smallest, self._largest = projection.span(self._axis)
        self._ratios: dict[int, float] = {}
        self._feasible: dict[int, bool] = {}
        self._broken: dict[int, float] = {}
        self._tried: dict[int, Scored] = {}
        self._border = _border(objective)
        self._levels = self._by_size(prior)
        self._scored = {projection.cuts({**self._whole, **one.sample}): one for _, ones in self._levels for one in ones}
        self._cuts: set[tuple[int, ...]] = set()
        self._turn = 0

    def propose(self, number: int) -> Sample | None:
        """Return the sample for trial `number`."""
        proposed = self._model.propose(number)
        assert proposed is not None
        for _ in range(_ATTEMPTS):  # different samples may come to the same model
            self._turn += 1
            sample = self._next(number, proposed)
            if self._projection.cuts(sample) not in self._cuts and self._projection.fits(sample):
                break
        self._cuts.add(self._projection.cuts(sample))
        self._ratios[number] = self._ratio(sample)
        found = {one.name: sample[one.name] for one in self._dimensions}
        if self._front is not None:
            self._front.add_proposed(number, found)
        return found

    def _next(self, number: int, proposed: Sample) -> Sample:
        explores = int(self._turn * self._exploration) > int((self._turn - 1) * self._exploration)
        if not explores and self._front is not None and (widening := self._front.propose()) is not None:
            return {**self._whole, **widening}
        if not explores and self._turn % 3 == 0 and self._turn > 5:
            return self._projection.project({**self._whole, **proposed})
        best = None if explores else self._at_the_border()
        return self._of_size(self._size(), explores) if best is None else self._take_candidate(number, best)

    def add_proposed(self, number: int, sample: Sample) -> None:
        """Record a sample that an earlier run proposed for trial `number`."""
        self._turn += 1
        self._model.add_proposed(number, sample)
        cuts = self._projection.cuts({**self._whole, **sample})
        self._cuts.add(cuts)
        if cuts in self._scored:
            self._tried[number] = self._scored[cuts]
        self._ratios[number] = self._ratio(sample)
        if self._front is not None:
            self._front.add_proposed(number, sample)

    def replace_proposed(self, number: int, sample: Sample) -> None:
        """Replace the sample proposed for trial `number` by the one that is really tried."""
        self._ratios[number] = self._ratio(sample)
        if self._front is not None:
            self._front.add_proposed(number, sample)

    def learn(self, number: int, score: float | None, scores: Scores, judgement: Judgement | None = None) -> None:
        """Learn the result of trial `number`."""
        self._model.learn(number, score, scores, judgement)
        if judgement is not None and self._front is not None:
            self._front.learn(number, judgement.costs)
        if judgement is not None:
            self._feasible[number] = judgement.is_feasible
            if self._border is not None:
                self._broken[number] = judgement.excesses[self._border]

    def _at_the_border(self) -> Scored | None:
        """Return the smallest candidate that is expected to keep to the constraints; None where nobody can tell.

        Expected is what it breaks them by before training, and the median of what training has changed in that so far.
        """
        if self._border is None:
            return None
        changes = [
            self._broken[number] - self._before_training(one)
            for number, one in self._tried.items()
            if number in self._broken
        ]
        change = statistics.median(changes) if changes else 0.0
        pending = len(self._tried) - len(changes)
        change += _CAUTION * (2**pending - 1)  # of those whose results are to come, not all are to err in one way
        kept = min((self._ratios[number] for number, feasible in self._feasible.items() if feasible), default=math.inf)
        left = [one for size, ones in self._levels if size < kept for one in ones if one not in self._tried.values()]
        return next((one for one in left if self._before_training(one) + change <= 0), None)

    def _before_training(self, one: Scored) -> float:
        assert self._border is not None
        return self._objective.bounds[self._border].excess(one.score, self._prior.dense)

    def _take_candidate(self, number: int, one: Scored) -> Sample:
        self._tried[number] = one
        return self._projection.project({**self._whole, **one.sample})

    def _by_size(self, prior: Prior) -> list[tuple[float, list[Scored]]]:
        """Return the candidates that were scored before the search by their size, those of each the best first."""
        levels: dict[float, list[Scored]] = {}
        for one in sorted(prior.candidates, key=lambda one: self._ratio(one.sample)):
            ratio = self._ratio(one.sample)
            home = next((size for size in levels if ratio / size < _ALIKE), ratio)
            levels.setdefault(home, []).append(one)
        sign = -1.0 if self._goal == "max" else 1.0
        return [(size, sorted(ones, key=lambda one: sign * one.score)) for size, ones in levels.items()]

    def _of_size(self, ratio: float, explores: bool) -> Sample:
        """Return a sample of about this share of the dense model's size."""
        project = functools.partial(projected, self._projection.at(self._axis, ratio))
        if explores:
            found = project(anywhere(self._dimensions, self._random))
        elif self._levels:
            _, near = min(self._levels, key=lambda one: abs(math.log(one[0] / ratio)))
            found = project(near[(self._turn // 4) % min(len(near), _FIRST)].sample)
        else:
            guesses = first_guesses(self._dimensions, self._prior, cost=self._ratio, project=project, goal=self._goal)
            found = guesses[(self._turn // 2) % len(guesses)]
        return self._projection.project({**self._whole, **found})

    def _size(self) -> float:
        """Return the share of the dense model's size that is to be tried next."""
        low, high = self._smallest, self._largest
        if len(self._objective.goals) == 1 and self._objective.bounds:
            kept = [self._ratios[number] for number, feasible in self._feasible.items() if feasible]
            broken = [self._ratios[number] for number, feasible in self._feasible.items() if not feasible]
            high = min([high, *kept])
            low = max([low, *(ratio for ratio in broken if ratio < high)])
            if high / max(low, 1e-9) < _STEEP:  # the border is found: models of its size, some a little smaller
                return high * (1 - 0.1 * _spread(self._turn))
        return float(low ** (1 - _spread(self._turn)) * high ** _spread(self._turn)) if low > 0 else high

    def _ratio(self, sample: Mapping[str, Any]) -> float:
        return self._projection.share({**self._whole, **sample}, self._axis)


def _border(objective: Objective) -> int | None:
    """Return the place of the constraint on what the script reports, where there is one, and one objective."""
    places = [place for place, bound in enumerate(objective.bounds) if not is_measured(bound.metric)]
    return places[0] if len(objective.goals) == 1 and len(places) == 1 else None


def _spread(number: int) -> float:
    """Return number `number` of a sequence that fills 0..1 ever more evenly: 1/2, 1/4, 3/4, 1/8, ...

    Van der Corput, Verteilungsfunktionen, 1935.
    """
    value, digit = 0.0, 0.5
    while number:
        value += digit * (number % 2)
        number //= 2
        digit /= 2
    return value if math.isfinite(value) else 0.5
