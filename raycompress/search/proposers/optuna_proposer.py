"""Optuna's samplers as proposers, with every objective and every constraint."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from raycompress.config.dimension import Dimension
from raycompress.config.objective import Judgement, Objective
from raycompress.config.search_space import SearchSpace
from raycompress.search.history import PastTrial, SearchHistory
from raycompress.search.stopping.policies import Scores

Sample = dict[str, Any]
_FAR = 1e6


def sampler_of(name: str, seed: int | None) -> BaseSampler:
    """Return the sampler of a proposer: a Gaussian process for ``spearmint``, TPE for the others.

    Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011; Watanabe, Tree-Structured Parzen
    Estimator, 2023; Snoek et al., Practical Bayesian Optimization of Machine Learning Algorithms, NeurIPS 2012.
    """
    return GPSampler(seed=seed) if name == "spearmint" else TPESampler(seed=seed, multivariate=True)


def tpe(space: SearchSpace, *, objective: Objective, seed: int | None, history: SearchHistory) -> OptunaProposer:
    """Return Optuna's TPE."""
    return OptunaProposer("tpe", space, objective, seed, history)


def gaussian_process(
    space: SearchSpace, *, objective: Objective, seed: int | None, history: SearchHistory
) -> OptunaProposer:
    """Return Optuna's Gaussian process."""
    return OptunaProposer("spearmint", space, objective, seed, history)


class OptunaProposer:
    """Proposes by one of Optuna's samplers, through Optuna's ask-and-tell interface.

    Parameters
    ----------
    name
        The proposer; see `sampler_of`.
    space
        The dimensions.
    objective
        The goals, which are minimised as costs, and the constraints.
    seed
        The same seed gives the same proposals.
    past
        What an earlier run of the same search has tried.
    """

    repeats = False
    note = ""

    def __init__(
        self, name: str, space: SearchSpace, objective: Objective, seed: int | None, history: SearchHistory
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._objective = objective
        self._dimensions = {f"d{index}": dimension for index, dimension in enumerate(space.dimensions)}
        self._distributions = {key: _distribution(dimension) for key, dimension in self._dimensions.items()}
        # else its first random proposals would be those of the past once more
        seed = None if seed is None else seed + len(history.results)
        self._study = optuna.create_study(
            directions=["minimize"] * len(objective.goals), sampler=sampler_of(name, seed)
        )
        self._asked: dict[int, optuna.Trial] = {}
        for trial in history.results.values():
            self._study.add_trial(self._known(trial))
        for number, trial in history.unfinished.items():
            self.add_proposed(number, trial.sample)

    def propose(self, number: int) -> Sample | None:
        """Return the sample for trial `number`."""
        trial = self._study.ask(self._distributions)
        self._asked[number] = trial
        return {one.name: _value(one, trial.params[key]) for key, one in self._dimensions.items()}

    def add_proposed(self, number: int, sample: Mapping[str, Any]) -> None:
        """Record a sample that an earlier run proposed for trial `number`."""
        self._study.enqueue_trial(self._point(sample))
        self.propose(number)

    def learn(self, number: int, score: float | None, scores: Scores, judgement: Judgement | None = None) -> None:
        """Learn the result of trial `number`."""
        trial = self._asked.pop(number)
        judged = _judgement_of(self._objective, score, judgement)
        if judged is None:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for key, excess in self._constraints(judged).items():
            trial.set_constraint(key, excess)
        self._study.tell(trial, list(judged.costs))

    def _point(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return a sample as Optuna writes it; of a choice the place."""
        return {
            key: one.choices.index(sample[one.name]) if one.choices is not None else sample[one.name]
            for key, one in self._dimensions.items()
        }

    def _known(self, trial: PastTrial) -> FrozenTrial:
        judged = _judgement_of(self._objective, trial.score, trial.judgement)
        point: Any = {"params": self._point(trial.sample), "distributions": self._distributions}
        if judged is None:
            return create_trial(state=TrialState.FAIL, **point)
        return create_trial(values=list(judged.costs), constraints=self._constraints(judged), **point)

    def _constraints(self, judged: Judgement) -> dict[str, float]:
        bounds = self._objective.bounds
        excesses = judged.excesses or (0.0,) * len(bounds)
        return {str(bound): min(excess, _FAR) for bound, excess in zip(bounds, excesses, strict=True)}


def _judgement_of(objective: Objective, score: float | None, judgement: Judgement | None) -> Judgement | None:
    """Return the judgement that the sampler learns; None for a failed trial.

    A trial that was ended early has no sizes, so that its score is all that is learnt.
    """
    if score is None or judgement is not None:
        return judgement
    return Judgement((objective.goals[0].cost(score),)) if len(objective.goals) == 1 else None


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choices is not None:
        return CategoricalDistribution(list(range(len(dimension.choices))))
    low, high = dimension.low, dimension.high
    assert low is not None and high is not None
    if dimension.kind == "int":
        return IntDistribution(int(low), int(high), log=dimension.log)
    return FloatDistribution(low, high, log=dimension.log)


def _value(dimension: Dimension, raw: Any) -> Any:
    """Turn what Optuna drew into a plain Python value of the dimension's own."""
    if dimension.choices is not None:
        return copy.deepcopy(dimension.choices[int(raw)])
    return int(raw) if dimension.kind == "int" else float(raw)
