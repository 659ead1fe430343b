"""Guided search of the enumerated space: what it measures before its first trial is looked up, as trials are."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields
from typing import Any

from raycompress.forecast.amounts import options
from raycompress.forecast.candidates import guesses_at, score_at
from raycompress.forecast.forecast import Forecast
from raycompress.forecast.prior import Prior, Scored
from raycompress.forecast.projection import Projection
from raycompress.search.history import SearchHistory
from raycompress.search.proposers.guided import GuidedProposer
from raycompress.session.survey import LEVELS, candidates_of
from tests.benchmarks.enumerated.space import Sample, Task, experiment, model_info


@dataclass(frozen=True)
class Remembered(Projection):
    """A projection that computes the sizes of each point of the space once, and what is cut in it."""

    known: dict[tuple[Any, ...], tuple[dict[str, float], tuple[int, ...]]] = field(repr=False, compare=False)

    def sizes(self, sample: Sample) -> dict[str, float]:
        """See `Projection.sizes`."""
        return self._of(sample)[0]

    def cuts(self, sample: Sample) -> tuple[int, ...]:
        """See `Projection.cuts`."""
        return self._of(sample)[1]

    def _of(self, sample: Sample) -> tuple[dict[str, float], tuple[int, ...]]:
        key = tuple([sample[one.name] for one in self.space.dimensions])
        if key not in self.known:
            self.known[key] = super().sizes(sample), super().cuts(sample)
        return self.known[key]


@functools.cache
def projection_of(task: Task) -> Remembered:
    """Return the projection of searches of all seeds."""
    asked, model = experiment(), model_info()
    assert model.costs is not None
    plain = Projection.of(asked, task.space, Forecast.of(asked, model, model.costs))
    given = {one.name: getattr(plain, one.name) for one in fields(plain)}
    return Remembered(**given, known={})


def guided(task: Task, seed: int, _trials: int) -> GuidedProposer:
    """Return the proposer ``guided``, with a prior of the table's cheap scores."""
    projection = projection_of(task)
    return GuidedProposer(experiment(seed), task.space, projection, prior(task, projection, seed), SearchHistory())


def curves_of(task: Task) -> Prior:
    """Return the curve of each dimension alone, as a survey finds it."""
    largest = task.space.largest()

    def cheap(sample: Sample) -> float:
        return task.row({**largest, **sample}).cheap

    curves = {one.name: [(value, cheap({one.name: value})) for value in options(one)[1:]] for one in task.space.guided}
    return Prior(cheap({}), curves)


def prior(task: Task, projection: Projection, seed: int) -> Prior:
    """Return the curves, and whole candidates of several sizes, as a survey finds them."""
    largest, found = task.space.largest(), curves_of(task)

    def cheap(sample: Sample) -> float:
        return task.row({**largest, **sample}).cheap

    axis = projection.axis(task.objective)
    low, high = projection.span(axis)
    candidates: list[Scored] = []
    for place in range(LEVELS):
        level = projection.at(axis, low * (high / low) ** ((place + 0.5) / LEVELS))
        first = guesses_at(level, found, goal="max")
        number = candidates_of(experiment(seed)) // 4
        candidates += score_at(level, first, cheap=cheap, goal="max", number=number, seed=seed * 100 + place)
    return Prior(found.dense, found.curves, candidates)
