"""Proposer name -> proposals: what each trial of a search tries.

`Proposals` is the one searcher that Ray Tune sees. It numbers the trials, puts the dense model first, tells the
proposer of failures as failures, and, with a seed, of results in the order of the trials, so that the same seed gives
the same proposals however fast each trial was.
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.sample import Domain

from raycompress.experiment.dimension import Dimension
from raycompress.experiment.search_space import SearchSpace
from raycompress.tuning.policies import Scores
from raycompress.tuning.schedulers import TIME
from raycompress.tuning.stop import DriverOnly

Sample = dict[str, Any]


class Proposer(Protocol):
    """Something that proposes samples and learns from their scores."""

    def propose(self, number: int) -> Sample | None:
        """Return the sample for trial `number`, or None when there are no more."""

    def learn(self, number: int, score: float | None, scores: Scores) -> None:
        """Take the score of trial `number`; None when the trial failed.

        Parameters
        ----------
        scores
            The score after each number of iterations at which the trial could have been ended.
        """


def make_proposer(
    name: str, space: SearchSpace, *, goal: str, seed: int | None, bohb: Mapping[str, Any] | None = None
) -> Proposer:
    """Return the proposer that an experiment file calls `name`.

    Parameters
    ----------
    name
        ``random``, ``sequence``, ``hyperopt``, ``optuna``, ``tpe``, ``spearmint``, ``hyperband`` (random: what makes it
        HyperBand is its scheduler) or ``bohb``.
    space
        What there is to search; without a dimension every proposal is the empty sample.
    goal
        ``max`` or ``min``.
    seed
        The same seed gives the same proposals; None a new start each time.
    bohb
        Settings of BOHB's model, by the names of HpBandSter.
    """
    if not space.dimensions:
        return _Points(iter(({},)))
    if name == "sequence":
        return _Points(space.grid())
    if name in ("random", "hyperband"):
        return _Random(space, seed)
    if name == "bohb":
        return _Bohb(space, goal, seed, bohb or {})
    return _FromTune(_TUNE_SEARCHERS[name], space, goal=goal, seed=seed)


class _Points:
    """Given points, in their order: a grid, or the one point of a one-time experiment."""

    def __init__(self, points: Iterator[Sample]) -> None:
        self._points = points

    def propose(self, number: int) -> Sample | None:
        return next(self._points, None)

    def learn(self, number: int, score: float | None, scores: Scores) -> None:
        """Nothing: the points are given."""


class _Random:
    """Tune's own random sampling of each dimension."""

    def __init__(self, space: SearchSpace, seed: int | None) -> None:
        self._space = space
        self._random = np.random.RandomState(seed)

    def propose(self, number: int) -> Sample | None:
        return {
            dimension.name: _value(dimension, _domain(dimension).sample(random_state=self._random))
            for dimension in self._space.dimensions
        }

    def learn(self, number: int, score: float | None, scores: Scores) -> None:
        """Nothing: samples are independent."""


class _FromTune:
    """One of Tune's searchers.

    Dimensions go by their position inside it (``d0``, ``d1``, ...): their names may hold characters, such as a slash,
    that the libraries read as structure.
    """

    def __init__(self, make: Callable[..., Searcher], space: SearchSpace, *, goal: str, seed: int | None) -> None:
        self._dimensions = {f"d{index}": dimension for index, dimension in enumerate(space.dimensions)}
        domains = {key: _domain(dimension) for key, dimension in self._dimensions.items()}
        self._searcher = make(domains, goal, seed)

    def propose(self, number: int) -> Sample | None:
        proposal = self._searcher.suggest(str(number))
        if proposal is None or isinstance(proposal, str):
            return None
        return {self._dimensions[key].name: _value(self._dimensions[key], raw) for key, raw in proposal.items()}

    def learn(self, number: int, score: float | None, scores: Scores) -> None:
        if score is None:
            self._searcher.on_trial_complete(str(number), error=True)
        else:
            self._searcher.on_trial_complete(str(number), {"score": score, "training_iteration": 1})


class _Bohb(_FromTune):
    """Tune's BOHB: a model of the results with the largest budget that has enough of them.

    Falkner et al., BOHB: Robust and Efficient Hyperparameter Optimization at Scale, ICML 2018. HpBandSter draws from
    numpy's global random numbers: with a seed they are its own while it proposes.
    """

    def __init__(self, space: SearchSpace, goal: str, seed: int | None, settings: Mapping[str, Any]) -> None:
        super().__init__(functools.partial(_tune_bohb, settings), space, goal=goal, seed=seed)
        self._state = None if seed is None else np.random.RandomState(seed).get_state()

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

    def learn(self, number: int, score: float | None, scores: Scores) -> None:
        for iterations, value in sorted(scores.items()):
            told = {"score": value, "hyperband_info": {"budget": iterations}}
            self._searcher.on_trial_result(str(number), told)
        super().learn(number, score, scores)


def _tune_bohb(settings: Mapping[str, Any], domains: dict[str, Domain], goal: str, seed: int | None) -> Searcher:
    from ray.tune.search.bohb import TuneBOHB

    space = TuneBOHB.convert_search_space(domains)
    return TuneBOHB(space, bohb_config=dict(settings), metric="score", mode=goal, seed=seed)


def _hyperopt(domains: dict[str, Domain], goal: str, seed: int | None) -> Searcher:
    from ray.tune.search.hyperopt import HyperOptSearch

    space = HyperOptSearch.convert_search_space(domains)
    return HyperOptSearch(space, metric="score", mode=goal, random_state_seed=seed)


def _optuna(domains: dict[str, Domain], goal: str, seed: int | None) -> Searcher:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
    return OptunaSearch(OptunaSearch.convert_search_space(domains), metric="score", mode=goal, sampler=sampler)


def _gaussian_process(domains: dict[str, Domain], goal: str, seed: int | None) -> Searcher:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.GPSampler(seed=seed)
    return OptunaSearch(OptunaSearch.convert_search_space(domains), metric="score", mode=goal, sampler=sampler)


_TUNE_SEARCHERS: Mapping[str, Callable[..., Searcher]] = {
    "hyperopt": _hyperopt,
    "optuna": _optuna,
    "tpe": _optuna,
    "spearmint": _gaussian_process,
}


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


def _value(dimension: Dimension, raw: Any) -> Any:
    """Turn what a searcher drew into a plain Python value of the dimension's own."""
    if dimension.kind == "choice":
        assert dimension.choices is not None
        return copy.deepcopy(dimension.choices[int(raw)])
    return int(raw) if dimension.kind == "int" else float(raw)


class Proposals(DriverOnly, Searcher):
    """The trials of an experiment, one after another.

    Parameters
    ----------
    proposer
        Where samples come from.
    n_samples
        How many samples at most, the dense model not counted.
    baseline
        A sample to run the dense model with, as trial 0; None to leave it out.
    n_slots
        How many trials run at a time; each is given a free slot, counted from 0.
    make_config
        Makes what the trial actor needs of a trial's number and sample; a new object each time.
    lag
        With a seed: proposal `n` knows exactly the results of the trials up to ``n - lag``, and waits for them. None:
        it knows whatever is in.
    """

    def __init__(
        self,
        proposer: Proposer,
        *,
        n_samples: int,
        baseline: Sample | None,
        lag: int | None,
        n_slots: int,
        make_config: Callable[[int, Sample], dict[str, Any]],
    ) -> None:
        super().__init__(metric="score", mode="max")
        self._proposer = proposer
        self._numbers = iter(range(1, n_samples + 1))
        self._next: int | None = next(self._numbers, None)
        self._baseline = baseline
        self._lag = lag
        self._make_config = make_config
        self._number_of: dict[str, int] = {}
        self._free_slots = list(range(n_slots))
        self._slot_of: dict[str, int] = {}
        self._scores: defaultdict[int, Scores] = defaultdict(dict)
        self._ended: dict[int, float | None] = {}
        self._learnt = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the config of the next trial; None: not yet; Tune's FINISHED: no more."""
        no_more: Any = Searcher.FINISHED
        if not self._free_slots:
            return None
        if self._baseline is not None:
            sample, self._baseline = self._baseline, None
            return self._trial(trial_id, 0, sample)
        if self._next is None:
            return no_more  # type: ignore[no-any-return]
        if not self._learn_up_to(self._next):
            return None
        sample_or_none = self._proposer.propose(self._next)
        if sample_or_none is None:
            self._next = None
            return no_more  # type: ignore[no-any-return]
        number, self._next = self._next, next(self._numbers, None)
        return self._trial(trial_id, number, sample_or_none)

    def _trial(self, trial_id: str, number: int, sample: Sample) -> dict[str, Any]:
        self._number_of[trial_id] = number
        self._slot_of[trial_id] = self._free_slots.pop(0)
        return {**self._make_config(number, copy.deepcopy(sample)), "slot": self._slot_of[trial_id]}

    def _learn_up_to(self, number: int) -> bool:
        """Teach the proposer what it may know before proposal `number`; False when it has to wait."""
        if self._lag is None:
            return True
        while self._learnt < number - self._lag:
            if self._learnt + 1 not in self._ended:
                return False
            self._learnt += 1
            self._learn(self._learnt)
        return True

    def _learn(self, number: int) -> None:
        self._proposer.learn(number, self._ended[number], self._scores.pop(number, {}))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep an intermediate result for the trial's end."""
        score = result.get("score")
        if score is not None and math.isfinite(score):
            self._scores[self._number_of[trial_id]][result[TIME]] = score

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take the end of a trial; a failed one has no score."""
        number = self._number_of[trial_id]
        self._free_slots.append(self._slot_of.pop(trial_id))
        if number == 0:
            return
        score = None if result is None or error else result.get("score")
        valid = score is not None and math.isfinite(score)
        self._ended[number] = score if valid else None
        if valid and result is not None:
            self.on_trial_result(trial_id, result)
        if self._lag is None:
            self._learn(number)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the truth, and a resumed search is told from it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as `save`."""
