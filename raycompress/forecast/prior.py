"""What is known of pruning ratios before any trial: layer sensitivities, and candidates that were scored cheaply.

Cheaply means without a trial: the candidate is pruned, what reads the removed channels is refitted, it is trained for a
handful of steps to answer as the dense model does, and it is measured.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from raycompress.config.dimension import Dimension

Sample = dict[str, Any]
Goal = Literal["max", "min"]
Project = Callable[[Sample], Sample]
"""Puts a sample onto the budget."""
Alike = Callable[[Sample], Hashable]
"""Equal for samples that come to the same model."""
Curves = Mapping[str, Sequence[tuple[float, float]]]
"""Name of a dimension -> (sparsity, what is measured with that alone pruned), in any order."""
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
    """The loss of the metric by each dimension alone, interpolated; it does not decrease with the sparsity."""

    def __init__(self, prior: Prior, goal: Goal) -> None:
        sign = 1.0 if goal == "max" else -1.0
        self._curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name, curve in prior.curves.items():
            known = [(share, sign * (prior.dense - metric)) for share, metric in sorted(curve) if np.isfinite(metric)]
            shares, losses = zip((0.0, 0.0), *known, strict=True)
            self._curves[name] = np.array(shares), np.maximum.accumulate(losses)

    def of(self, name: str, sparsity: float) -> float:
        """Return the loss of one dimension; nothing for one without a curve."""
        return float(np.interp(sparsity, *self._curves[name])) if name in self._curves else 0.0

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
) -> list[Sample]:
    """Return the first candidates: greedy ones by the sensitivities, the uniform one, and ones between them.

    Parameters
    ----------
    errors
        What of the model's outputs changes with each dimension alone pruned, where that is known: one more greedy
        candidate, which goes by outputs where the sensitivities go by the metric.
    """
    uniform = project(middle(dimensions))
    budget = cost(uniform)
    losses = Losses(prior, goal)
    greedy = [project(_greedy(dimensions, losses, cost, budget, power)) for power in _POWERS]
    if errors:
        greedy.append(project(_greedy(dimensions, Losses(Prior(0.0, errors), "min"), cost, budget, 1.0)))
    between = [project(_between(uniform, point)) for point in greedy]
    return _distinct([*greedy, *between, uniform])


def middle(dimensions: Sequence[Dimension]) -> Sample:
    """Return the same share of every dimension, not on the budget yet."""
    share = float(np.mean([(low(dimension) + high(dimension)) / 2 for dimension in dimensions]))
    return {
        dimension.name: dimension.plain(min(max(share, low(dimension)), high(dimension))) for dimension in dimensions
    }


def anywhere(dimensions: Sequence[Dimension], random: np.random.Generator) -> Sample:
    """Return a random sample, not on the budget yet."""
    return {
        dimension.name: dimension.plain(random.uniform(low(dimension), high(dimension))) for dimension in dimensions
    }


def _greedy(dimensions: Sequence[Dimension], losses: Losses, cost: Cost, budget: float, power: float) -> Sample:
    """Prune further where the loss per saved cost is least, step by step, until the budget is met.

    `power` above 1 makes a great loss in one place worse than small ones in several. What a step of a dimension is
    worth changes little by the steps of others: it is looked at again when it seems the best (Minoux, Accelerated
    Greedy Algorithms for Maximizing Submodular Set Functions, 1978).
    """

    def loss(name: str, sparsity: float) -> float:
        return float(max(losses.of(name, sparsity), 0.0) ** power) + 1e-4 * sparsity

    def best_step(dimension: Dimension) -> tuple[float, float] | None:
        """Return (loss for what is saved, sparsity) of the best step; None where none saves anything."""
        name, now, most = dimension.name, float(sample[dimension.name]), high(dimension)
        steps: list[tuple[float, float]] = []
        stride, then = 1, now
        # further than `_FARTHEST` only where no step saves anything yet: one of four heads is a quarter of them
        while then < most and (stride <= _FARTHEST or not steps):
            then = min(now + stride * _STEP, most)
            saved = left - cost({**sample, name: then})
            if saved > 0:
                steps.append(((loss(name, then) - loss(name, now)) / saved, then))
            stride *= 2
        return min(steps, default=None)

    sample = {dimension.name: low(dimension) for dimension in dimensions}
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


def _between(one: Sample, other: Sample) -> Sample:
    """Return the sample whose kept shares are the geometric means of the two."""
    return {name: 1 - ((1 - value) * (1 - other[name])) ** 0.5 for name, value in one.items()}


def _distinct(samples: Sequence[Sample]) -> list[Sample]:
    return list({tuple(sample.values()): sample for sample in samples}.values())


def low(dimension: Dimension) -> float:
    """Return the least sparsity of a dimension."""
    assert dimension.low is not None
    return float(dimension.low)


def high(dimension: Dimension) -> float:
    """Return the largest sparsity of a dimension."""
    assert dimension.high is not None
    return float(dimension.high)


def by_values(sample: Sample) -> Hashable:
    """Return a key that is equal for equal samples."""
    return tuple(sample.items())
