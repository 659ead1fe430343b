"""Proposers that are Ray Tune's own searchers: HyperOpt and BOHB."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.sample import Domain

from raycompress.config.dimension import Dimension
from raycompress.config.objective import Judgement, Objective
from raycompress.config.search_space import SearchSpace
from raycompress.search.history import SearchHistory
from raycompress.search.proposers.searchers import Proposer, plain_value
from raycompress.search.stopping.policies import Scores
from raycompress.search.trials import Sample


def hyperopt(space: SearchSpace, *, objective: Objective, seed: int | None, history: SearchHistory) -> Proposer:
    """Return hyperopt's TPE."""
    return _FromTune(_hyperopt, space, goal=objective.goal, seed=seed, history=history)


def bohb(
    space: SearchSpace,
    *,
    objective: Objective,
    seed: int | None,
    history: SearchHistory,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> Proposer:
    """Return BOHB's model of the results, with its settings by the names of HpBandSter."""
    return _Bohb(space, objective.goal, seed, settings, history)


class _FromTune:
    """One of Tune's searchers.

    Dimensions go by their position inside it (``d0``, ``d1``, ...): their names may hold characters, such as a slash,
    that the libraries read as structure.

    What an earlier run has tried is told through the libraries' own doors for known points: their models know it, and
    nothing is computed for each of it. With a seed, what they propose then is not what an unbroken search would have
    proposed.
    """

    repeats = False
    note = ""

    def __init__(
        self, make: Callable[..., Searcher], space: SearchSpace, *, goal: str, seed: int | None, history: SearchHistory
    ) -> None:
        self._dimensions = {f"d{index}": dimension for index, dimension in enumerate(space.dimensions)}
        domains = {key: _domain(dimension) for key, dimension in self._dimensions.items()}
        # else its first random proposals would be those of the past once more
        seed = None if seed is None else seed + len(history.results)
        first = {**history.results, **history.unfinished}
        self._searcher: Any = make(domains, goal, seed, [self._point(trial.sample) for trial in first.values()])
        for number, trial in first.items():
            self._searcher.suggest(str(number))
            if trial.ended:
                self.learn(number, trial.score, trial.scores)

    def _point(self, sample: Sample) -> dict[str, Any]:
        """Return a sample as the searcher writes it; see `_domain` for choices."""
        point = {}
        for key, dimension in self._dimensions.items():
            value = sample[dimension.name]
            point[key] = value if dimension.choices is None else dimension.choices.index(value)
        return point

    def propose(self, number: int) -> Sample | None:
        proposal = self._searcher.suggest(str(number))
        if proposal is None or isinstance(proposal, str):
            return None
        return {self._dimensions[key].name: plain_value(self._dimensions[key], raw) for key, raw in proposal.items()}

    def learn(self, number: int, score: float | None, scores: Scores, judgement: Judgement | None = None) -> None:
        if score is None:
            self._searcher.on_trial_complete(str(number), error=True)
        else:
            self._searcher.on_trial_complete(str(number), {"score": score, "training_iteration": 1})


class _Bohb(_FromTune):
    """Tune's BOHB: a model of the results with the largest budget that has enough of them.

    Falkner et al., BOHB: Robust and Efficient Hyperparameter Optimization at Scale, ICML 2018. HpBandSter draws from
    numpy's global random numbers: with a seed they are its own while it proposes.
    """

    def __init__(
        self, space: SearchSpace, goal: str, seed: int | None, settings: Mapping[str, Any], history: SearchHistory
    ) -> None:
        self._state = None if seed is None else np.random.RandomState(seed + len(history.results)).get_state()
        super().__init__(functools.partial(_tune_bohb, settings), space, goal=goal, seed=seed, history=history)

    def propose(self, number: int) -> Sample | None:
        with self._own_random_numbers(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of statsmodels, to HpBandSter
            return super().propose(number)

    @contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        if self._state is None:
            yield
            return
        outside = np.random.get_state()
        np.random.set_state(self._state)
        try:
            yield
        finally:
            self._state = np.random.get_state()
            np.random.set_state(outside)

    def learn(self, number: int, score: float | None, scores: Scores, judgement: Judgement | None = None) -> None:
        for iterations, value in sorted(scores.items()):
            result = {"score": value, "hyperband_info": {"budget": iterations}}
            self._searcher.on_trial_result(str(number), result)
        super().learn(number, score, scores, judgement)


def _tune_bohb(
    settings: Mapping[str, Any], domains: dict[str, Domain], goal: str, seed: int | None, points: list[dict[str, Any]]
) -> Searcher:
    from ray.tune.search.bohb import TuneBOHB

    space = TuneBOHB.convert_search_space(domains)
    return TuneBOHB(
        space, bohb_config=dict(settings), metric="score", mode=goal, seed=seed, points_to_evaluate=points or None
    )


def _hyperopt(domains: dict[str, Domain], goal: str, seed: int | None, points: list[dict[str, Any]]) -> Searcher:
    from ray.tune.search.hyperopt import HyperOptSearch

    space = HyperOptSearch.convert_search_space(domains)
    known: Any = {"points_to_evaluate": points} if points else {}
    return HyperOptSearch(space, metric="score", mode=goal, random_state_seed=seed, **known)


def _domain(dimension: Dimension) -> Domain:
    low, high = dimension.low, dimension.high
    domain: Domain
    if dimension.choices is not None:
        domain = tune.choice(list(range(len(dimension.choices))))
        return domain
    assert low is not None and high is not None
    if dimension.kind == "int":  # Tune leaves the upper end out, an experiment file means it
        ends = int(low), int(high) + 1
        domain = tune.lograndint(*ends) if dimension.log else tune.randint(*ends)
    else:
        domain = tune.loguniform(low, high) if dimension.log else tune.uniform(low, high)
    return domain
