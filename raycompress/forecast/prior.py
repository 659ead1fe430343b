"""What is known of pruning ratios before any trial: layer sensitivities, and candidates that were scored cheaply.

Cheaply means without a trial: the candidate is pruned, trained for a handful of steps to answer as the dense model
does, its BatchNorm statistics are recomputed, and it is measured.
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
Cost = Callable[[Sample], float]
"""The budgeted cost of a sample, as a share of the dense model's."""

_POWERS = (1.0, 2.0)
_BALANCE = 0.5
"""What the width counts for, against the cheap score, each in its own spread."""
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
        Name of a dimension -> (sparsity, metric with that alone pruned), in any order.
    candidates
        Whole candidates on the budget with their cheap scores; may be empty.
    """

    dense: float
    curves: Mapping[str, Sequence[tuple[float, float]]]
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


class Guesses:
    """Estimates a candidate's score: its cheap score, and a bonus for the channels that it keeps in every group.

    A handful of steps favours candidates that keep the dense model's features, one wide layer for many narrow ones;
    long training favours those that have room everywhere. So the mean logarithm of the kept shares counts too, in
    the measure in which the two differ among `candidates`.
    """

    def __init__(self, candidates: Sequence[Scored], goal: Goal, balance: float = _BALANCE) -> None:
        widths, scores = [_width(one.sample) for one in candidates], [one.score for one in candidates]
        spread = float(np.std(widths)) if candidates else 0.0
        sign = 1.0 if goal == "max" else -1.0
        self._bonus = sign * balance * float(np.std(scores)) / spread if spread > 0 else 0.0

    def __call__(self, one: Scored) -> Scored:
        """Return the candidate with its estimated score, on the scale of the cheap scores."""
        return Scored(one.sample, one.score + self._bonus * _width(one.sample))


def _width(sample: Sample) -> float:
    return float(np.mean(np.log([max(1.0 - value, 1e-3) for value in sample.values()])))


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
    dimensions: Sequence[Dimension], prior: Prior, *, cost: Cost, project: Project, goal: Goal
) -> list[Sample]:
    """Return the first candidates: greedy ones by the sensitivities, the uniform one, and ones between them."""
    uniform = project(middle(dimensions))
    budget = cost(uniform)
    losses = Losses(prior, goal)
    greedy = [project(_greedy(dimensions, losses, cost, budget, power)) for power in _POWERS]
    between = [project(_between(uniform, point)) for point in greedy]
    return _distinct([*greedy, *between, uniform])


def score_cheaply(
    dimensions: Sequence[Dimension],
    first: Sequence[Sample],
    *,
    cheap: Callable[[Sample], float],
    project: Project,
    goal: Goal,
    number: int = 48,
    explorers: float = 0.25,
    seed: int | None = None,
    alike: Alike | None = None,
) -> list[Scored]:
    """Score `number` candidates cheaply: the first guesses, random ones, then those that Optuna's TPE proposes.

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
    random = np.random.default_rng(seed)
    model = Model(dimensions, goal, seed)
    known: dict[Hashable, Scored] = {}

    def look(sample: Sample) -> Scored:
        projected = project(sample)
        key = (alike or by_values)(projected)
        if key not in known:
            known[key] = Scored(projected, cheap(projected))
        return known[key]

    anyhow = [*first, *(anywhere(dimensions, random) for _ in range(round(explorers * number)))][:number]
    start = [look(sample) for sample in anyhow]
    guess = Guesses(start, goal)
    for one in start:
        model.tell(guess(one))
    for _ in range(number - len(start)):
        model.tell(guess(look(model.propose())))
    return list(known.values())


class Model:
    """Optuna's TPE over samples on the budget.

    It is given each score with the sample that was measured, the projected one, not the one that it proposed.

    Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011.
    """

    def __init__(self, dimensions: Sequence[Dimension], goal: Goal, seed: int | None) -> None:
        import optuna

        self._optuna = optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space: dict[str, Any] = {
            dimension.name: optuna.distributions.FloatDistribution(_low(dimension), _high(dimension))
            for dimension in dimensions
        }
        self._sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=1)
        self._direction: Literal["maximize", "minimize"] = "maximize" if goal == "max" else "minimize"
        self._scored: list[Scored] = []

    def tell(self, one: Scored) -> None:
        """Add the score of a sample."""
        self._scored.append(one)

    def propose(self, more: Sequence[Scored] = ()) -> Sample:
        """Return a sample; `more` counts as added for this one proposal."""
        study = self._optuna.create_study(direction=self._direction, sampler=self._sampler)
        for one in (*self._scored, *more):
            study.add_trial(
                self._optuna.trial.create_trial(params=one.sample, distributions=self._space, value=one.score)
            )
        return dict(study.ask(self._space).params)


def middle(dimensions: Sequence[Dimension]) -> Sample:
    """Return the same share of every dimension, not on the budget yet."""
    share = float(np.mean([(_low(dimension) + _high(dimension)) / 2 for dimension in dimensions]))
    return {
        dimension.name: dimension.plain(min(max(share, _low(dimension)), _high(dimension))) for dimension in dimensions
    }


def anywhere(dimensions: Sequence[Dimension], random: np.random.Generator) -> Sample:
    """Return a random sample, not on the budget yet."""
    return {
        dimension.name: dimension.plain(random.uniform(_low(dimension), _high(dimension))) for dimension in dimensions
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
        name, now, high = dimension.name, float(sample[dimension.name]), _high(dimension)
        steps: list[tuple[float, float]] = []
        stride, then = 1, now
        # further than `_FARTHEST` only where no step saves anything yet: one of four heads is a quarter of them
        while then < high and (stride <= _FARTHEST or not steps):
            then = min(now + stride * _STEP, high)
            saved = left - cost({**sample, name: then})
            if saved > 0:
                steps.append(((loss(name, then) - loss(name, now)) / saved, then))
            stride *= 2
        return min(steps, default=None)

    sample = {dimension.name: _low(dimension) for dimension in dimensions}
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


def _low(dimension: Dimension) -> float:
    assert dimension.low is not None
    return float(dimension.low)


def _high(dimension: Dimension) -> float:
    assert dimension.high is not None
    return float(dimension.high)


def by_values(sample: Sample) -> Hashable:
    """Return a key that is equal for equal samples."""
    return tuple(sample.items())
