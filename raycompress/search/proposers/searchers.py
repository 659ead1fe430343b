"""Proposer name -> samples: what the trials of `raycompress.search.proposals` try."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from raycompress.catalog.proposers import PROPOSERS
from raycompress.config.dimension import Dimension
from raycompress.config.objective import Judgement, Objective
from raycompress.config.search_space import SearchSpace
from raycompress.search.history import SearchHistory
from raycompress.search.stopping.policies import Scores
from raycompress.search.trials import Sample as Sample


class Proposer(Protocol):
    """Interface of a proposer: proposes samples, and learns from their scores.

    Attributes
    ----------
    repeats
        Whether its proposals do not depend on results. A resumed search then replays them; other proposers are given
        the search's history when they are made.
    note
        A line for the user about how the search goes on; empty where there is nothing to say.
    """

    repeats: bool

    @property
    def note(self) -> str:
        """See above."""

    def propose(self, number: int) -> Sample | None:
        """Return the sample for trial `number`, or None when there are no more."""

    def learn(self, number: int, score: float | None, scores: Scores, judgement: Judgement | None = None) -> None:
        """Learn the score of trial `number`; None when the trial failed.

        Parameters
        ----------
        score
            One number for all objectives, worse where constraints are broken; see `Objective.scalar`.
        scores
            The score after each number of iterations at which the trial could have been ended.
        judgement
            The cost of each objective and the excess over each constraint; None where they are not known, as of a
            trial that was ended early.
        """


def make_proposer(
    name: str,
    space: SearchSpace,
    *,
    objective: Objective,
    seed: int | None,
    bohb: Mapping[str, Any] | None = None,
    history: SearchHistory = SearchHistory(),  # noqa: B008 - it cannot be changed
) -> Proposer:
    """Return the proposer that an experiment file calls `name`.

    Parameters
    ----------
    name
        One of `raycompress.catalog.proposers.PROPOSERS`; ``hyperband`` is random: what makes it HyperBand is its
        scheduler.
    space
        The dimensions; without one there is a single, empty sample.
    objective
        The goals and constraints of the search.
    seed
        The same seed gives the same proposals; None a new start each time.
    bohb
        Settings of BOHB's model, by the names of HpBandSter.
    history
        What an earlier run of the same search has tried.

    Raises
    ------
    PluginError
        It is a plug-in that cannot be used.
    """
    if not space.dimensions:
        return _Points(iter(({},)))
    options: dict[str, Any] = {"objective": objective, "seed": seed, "history": history}
    if (plugin := PROPOSERS.plugin(name)) is not None:
        from raycompress.search.proposers.plugin import PluginProposer

        return PluginProposer(plugin, PROPOSERS.load(name), space, options)
    (entry,) = PROPOSERS.find(name)
    if name == "bohb":
        options["settings"] = bohb or {}
    module, _, make = entry.make.partition(":")
    made: Proposer = getattr(importlib.import_module(module), make)(space, **options)
    return made


def random_samples(space: SearchSpace, *, seed: int | None, **_options: Any) -> Proposer:
    """Return the proposer ``random``."""
    return _Random(space, seed)


def grid(space: SearchSpace, **_options: Any) -> Proposer:
    """Return the proposer ``sequence``: the grid of `space`, in order."""
    return _Points(space.grid())


def centre(space: SearchSpace, **_options: Any) -> Proposer:
    """Return the proposer of a single sample: the middle of every range."""
    return _Points(iter((space.centre(),)))


class _Points:
    """Given points, in their order: a grid, or the one point of a one-time experiment."""

    repeats = True
    note = ""

    def __init__(self, points: Iterator[Sample]) -> None:
        self._points = points

    def propose(self, number: int) -> Sample | None:
        return next(self._points, None)

    def learn(self, number: int, score: float | None, scores: Scores, judgement: Judgement | None = None) -> None:
        """Ignore the result: the points are given."""


class _Random:
    """Each dimension by itself, uniform, or uniform of the logarithm; the same numbers as Ray Tune draws of a seed."""

    repeats = True
    note = ""

    def __init__(self, space: SearchSpace, seed: int | None) -> None:
        self._space = space
        self._random = np.random.RandomState(seed)

    def propose(self, number: int) -> Sample | None:
        return {one.name: plain_value(one, self._draw(one)) for one in self._space.dimensions}

    def learn(self, number: int, score: float | None, scores: Scores, judgement: Judgement | None = None) -> None:
        """Ignore the result: samples are independent."""

    def _draw(self, dimension: Dimension) -> float:
        if dimension.choices is not None:
            return int(self._random.choice(len(dimension.choices)))
        low, high = dimension.low, dimension.high
        assert low is not None and high is not None
        if dimension.kind == "int":  # the upper end is one of the values
            high = int(high) + 1
            if not dimension.log:
                return int(self._random.randint(int(low), high))
        if not dimension.log:
            return float(self._random.uniform(low, high))
        drawn = float(np.exp(self._random.uniform(np.log(low), np.log(high))))
        return float(np.floor(drawn)) if dimension.kind == "int" else drawn


def plain_value(dimension: Dimension, raw: float) -> Any:
    """Turn what was drawn, of a choice its place, into a plain Python value of the dimension's own."""
    if dimension.choices is not None:
        return copy.deepcopy(dimension.choices[int(raw)])
    return int(raw) if dimension.kind == "int" else float(raw)
