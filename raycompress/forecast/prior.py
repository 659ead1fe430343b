"""What is known of pruning ratios before any trial: layer sensitivities, and candidates that were scored cheaply.

Cheaply means without a trial: the candidate is pruned, what reads the removed channels is refitted, it is trained for a
handful of steps to answer as the dense model does, and it is measured.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from raycompress.config.dimension import Dimension
from raycompress.forecast.amounts import Sample as Sample
from raycompress.forecast.amounts import high, is_sparsity, kept, low, options, random_value, whole
from raycompress.forecast.solver import solve

Goal = Literal["max", "min"]
Project = Callable[[Sample], Sample]
"""Puts a sample onto the budget."""
Alike = Callable[[Sample], Hashable]
"""Equal for samples that come to the same model."""
Curves = Mapping[str, Sequence[tuple[Any, float]]]
"""Name of a dimension -> (value, what is measured with that alone pruned or quantized), in any order."""
Cost = Callable[[Sample], float]
"""The budgeted cost of a sample, as a share of the dense model's."""

_POWERS = (1.0, 2.0)
_STEP = 0.025
_FARTHEST = 4


@dataclass(frozen=True)
class Scored:
    """A whole candidate and its cheap score."""

    sample: Sample
    score: float


@dataclass(frozen=True)
class Prior:
    """The prior of a search: sensitivity curves, and candidates with cheap scores.

    Attributes
    ----------
    dense
        The metric of the dense model.
    curves
        The metric with each dimension alone pruned.
    candidates
        Whole candidates on the budget with their cheap scores; may be empty.
    """

    dense: float
    curves: Curves
    candidates: Sequence[Scored] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` is its inverse."""
        return {
            "dense": self.dense,
            "curves": {name: [list(point) for point in curve] for name, curve in self.curves.items()},
            "candidates": [{"sample": dict(one.sample), "score": one.score} for one in self.candidates],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Prior:
        """Rebuild what `to_json` returned."""
        curves = {name: [(point[0], point[1]) for point in curve] for name, curve in data["curves"].items()}
        return cls(data["dense"], curves, tuple(Scored(one["sample"], one["score"]) for one in data["candidates"]))


class Losses:
    """The loss of the metric by each dimension alone; it does not fall where less is left.

    Parameters
    ----------
    dimensions
        Those of which a curve is about bits or blocks; the others are sparsities, whose loss is interpolated.
    """

    def __init__(self, prior: Prior, goal: Goal, dimensions: Sequence[Dimension] = ()) -> None:
        sign = 1.0 if goal == "max" else -1.0
        kinds = {one.name: one for one in dimensions}
        self._curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._tables: dict[str, dict[Any, float]] = {}
        for name, curve in prior.curves.items():
            lost = {value: sign * (prior.dense - metric) for value, metric in curve if np.isfinite(metric)}
            dimension = kinds.get(name)
            if dimension is None or is_sparsity(dimension):
                shares, losses = zip((0.0, 0.0), *sorted(lost.items()), strict=True)
                self._curves[name] = np.array(shares), np.maximum.accumulate(losses)
            else:
                values = options(dimension)
                worst = itertools.accumulate((lost.get(value, 0.0) for value in values), max)
                self._tables[name] = dict(zip(values, worst, strict=True))

    def of(self, name: str, value: Any) -> float:
        """Return the loss of one dimension; nothing for one without a curve."""
        if name in self._tables:
            return self._tables[name][value]
        return float(np.interp(value, *self._curves[name])) if name in self._curves else 0.0

    def __call__(self, sample: Sample) -> float:
        """Return the sum over the dimensions of a sample."""
        return sum(self.of(name, value) for name, value in sample.items())


def first_guesses(
    dimensions: Sequence[Dimension],
    prior: Prior,
    *,
    cost: Cost,
    project: Project,
    goal: Goal,
    errors: Curves | None = None,
    fits: Callable[[Sample], bool] | None = None,
) -> list[Sample]:
    """Return the first candidates: greedy ones by the sensitivities, the uniform one, and ones between them.

    Where bits or blocks are among the dimensions, the first is the sample of least loss by the sum of the
    sensitivities, as an exact solver finds it; see `solve`.

    Parameters
    ----------
    fits
        Whether the budgets allow a sample; without it those that cost as much as the uniform one are allowed.
    errors
        What of the model's outputs changes with each dimension alone pruned, where that is known: one more greedy
        candidate, which goes by outputs where the sensitivities go by the metric.
    """
    uniform = project(middle(dimensions))
    budget = cost(uniform)
    losses = Losses(prior, goal, dimensions)
    greedy = [project(_greedy(dimensions, losses, cost, budget, power)) for power in _POWERS]
    rest: Sample = {}
    if not all(map(is_sparsity, dimensions)):
        allowed = fits or (lambda sample: cost(sample) <= budget * (1 + 1e-9))
        solved = solve(dimensions, losses.of, allowed, [one for one in (*greedy, uniform) if allowed(one)])
        greedy.insert(0, solved.sample)
        rest = {one.name: solved.sample[one.name] for one in dimensions if not is_sparsity(one)}
    if errors:  # of the channels that go: bits and blocks are the solver's
        sparsities = [one for one in dimensions if is_sparsity(one)]
        by_error = Losses(Prior(0.0, errors), "min")
        found = _greedy(sparsities, by_error, lambda sample: cost({**sample, **rest}), budget, 1.0)
        greedy.append(project({**{one.name: None for one in dimensions}, **found, **rest}))
    between = [project(_between(dimensions, uniform, point)) for point in greedy]
    return _distinct([*greedy, *between, uniform])


def middle(dimensions: Sequence[Dimension]) -> Sample:
    """Return the same sparsity of every dimension, the middle one of several bits, and all blocks; not projected."""
    sparsities = [one for one in dimensions if is_sparsity(one)]
    share = float(np.mean([(low(one) + high(one)) / 2 for one in sparsities])) if sparsities else 0.0
    return {one.name: _middle(one, share) for one in dimensions}


def _middle(dimension: Dimension, share: float) -> Any:
    if is_sparsity(dimension):
        return dimension.plain(min(max(share, low(dimension)), high(dimension)))
    known = options(dimension)
    return known[0] if dimension.choices is None or isinstance(known[0], bool) else known[len(known) // 2]


def anywhere(dimensions: Sequence[Dimension], random: np.random.Generator) -> Sample:
    """Return a random sample, not on the budget yet."""
    return {dimension.name: random_value(dimension, random) for dimension in dimensions}


def _greedy(dimensions: Sequence[Dimension], losses: Losses, cost: Cost, budget: float, power: float) -> Sample:
    """Prune further where the loss per saved cost is least, step by step, until the budget is met.

    `power` above 1 makes a great loss in one place worse than small ones in several. What a step of a dimension is
    worth changes little by the steps of others: it is looked at again when it seems the best (Minoux, Accelerated
    Greedy Algorithms for Maximizing Submodular Set Functions, 1978).
    """

    def loss(dimension: Dimension, value: Any) -> float:
        less = float(value) if is_sparsity(dimension) else 1 - kept(dimension, value)
        return float(max(losses.of(dimension.name, value), 0.0) ** power) + 1e-4 * less

    def best_step(dimension: Dimension) -> tuple[float, Any] | None:
        """Return (loss for what is saved, value) of the best step; None where none saves anything."""
        name = dimension.name
        if not is_sparsity(dimension):
            known = options(dimension)
            found = [
                ((loss(dimension, then) - loss(dimension, sample[name])) / saved, place, then)
                for place, then in enumerate(known)
                if place > known.index(sample[name]) and (saved := left - cost({**sample, name: then})) > 0
            ]
            return min(found)[::2] if found else None
        now, most = float(sample[name]), high(dimension)
        steps: list[tuple[float, float]] = []
        stride, then = 1, now
        # further than `_FARTHEST` only where no step saves anything yet: one of four heads is a quarter of them
        while then < most and (stride <= _FARTHEST or not steps):
            then = min(now + stride * _STEP, most)
            saved = left - cost({**sample, name: then})
            if saved > 0:
                steps.append(((loss(dimension, then) - loss(dimension, now)) / saved, then))
            stride *= 2
        return min(steps, default=None)

    sample = {dimension.name: whole(dimension) for dimension in dimensions}
    left = cost(sample)
    queue = [(-math.inf, place) for place in range(len(dimensions))]
    while left > budget and queue:
        _, place = heapq.heappop(queue)
        step = best_step(dimensions[place])
        if step is None:
            continue
        if queue and step[0] > queue[0][0]:
            heapq.heappush(queue, (step[0], place))
            continue
        sample[dimensions[place].name] = step[1]
        left = cost(sample)
        heapq.heappush(queue, (step[0], place))
    return sample


def _between(dimensions: Sequence[Dimension], first: Sample, second: Sample) -> Sample:
    """Return the sample whose kept shares are the geometric means of the two; bits and blocks are the second's."""
    return {
        one.name: 1 - ((1 - first[one.name]) * (1 - second[one.name])) ** 0.5 if is_sparsity(one) else second[one.name]
        for one in dimensions
    }


def _distinct(samples: Sequence[Sample]) -> list[Sample]:
    return list({tuple(sample.values()): sample for sample in samples}.values())


def by_values(sample: Sample) -> Hashable:
    """Return a key that is equal for equal samples."""
    return tuple(sample.items())
