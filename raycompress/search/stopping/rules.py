"""Rules that end trials early, by the results of all trials so far.

What is a rule of Ray Tune's in the experiment file decides here as Tune's own class does: the tests compare them.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from typing import Protocol

import numpy as np

from raycompress.config.stopping import Budgets, EarlyStop
from raycompress.search.stopping import policies
from raycompress.search.stopping.policies import Policy, Scores


class Rule(Protocol):
    """Something that judges a trial by its results; `score` is finite, the larger the better."""

    def add(self, number: int) -> None:
        """A trial was made."""

    def see(self, number: int, step: int, score: float) -> None:
        """Take a result, whether the trial is judged by it or not."""

    def judge(self, number: int, step: int, score: float) -> str:
        """Return why the trial is to end after this result, or an empty string."""

    def end(self, number: int, step: int, score: float) -> None:
        """A trial has ended, with this result."""


class SuccessiveHalving:
    """HyperBand, asynchronous: each bracket of it is asynchronous successive halving.

    Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020: a trial is judged when it reaches a
    rung, by those that were there before; no trial waits for others.
    """

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self._rungs: list[dict[int, dict[int, float]]] = []
        for bracket in range(budgets.brackets):
            step, rungs = budgets.rungs(bracket)[0], {}
            while step <= budgets.max_iter:
                rungs[step] = dict[int, float]()
                step *= budgets.eta
            self._rungs.append(rungs)

    def add(self, number: int) -> None:
        """Nothing: a trial's bracket is known by its number."""

    def see(self, number: int, step: int, score: float) -> None:
        """Nothing: a result counts where it is judged."""

    def judge(self, number: int, step: int, score: float) -> str:
        """See `Rule.judge`; a trial that has had its whole budget is never stopped."""
        if step >= self._budgets.max_iter or not self._is_below(number, step, score):
            return ""
        return f"after {step} of {self._budgets.max_iter} iterations: not in the best 1/{self._budgets.eta}"

    def end(self, number: int, step: int, score: float) -> None:
        """Others are judged by this trial from now on."""
        self._is_below(number, step, score)

    def _is_below(self, number: int, step: int, score: float) -> bool:
        """Put a trial on the highest rung that it has reached; tell whether it is in the worse part of those there."""
        rungs = self._rungs[self._budgets.bracket_of(number)]
        reached = [rung for rung in rungs if rung <= step]
        if not reached or number in rungs[max(reached)]:
            return False
        there = rungs[max(reached)]
        cutoff = np.percentile([*there.values()], (1 - 1 / self._budgets.eta) * 100) if there else -math.inf
        there[number] = score
        return bool(score < cutoff)


class Median:
    """The median stopping rule: a trial ends whose best result is below the median of the others' running averages.

    Golovin et al., Google Vizier: A Service for Black-Box Optimization, KDD 2017.
    """

    _FEWEST = 2
    """Other trials that have come as far."""

    def __init__(self, warmup: int) -> None:
        self._warmup = warmup
        self._results: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)

    def add(self, number: int) -> None:
        """Nothing: a trial counts from its first result on."""

    def see(self, number: int, step: int, score: float) -> None:
        """Nothing: a result counts where it is judged."""

    def judge(self, number: int, step: int, score: float) -> str:
        """See `Rule.judge`."""
        # a trial that was lost and begun again reports some steps twice
        self._results[number] = [*(one for one in self._results[number] if one[0] < step), (step, score)]
        if step <= self._warmup:
            return ""
        averages = [
            float(np.mean(counted))
            for other, results in self._results.items()
            if other != number and results[-1][0] >= step
            if (counted := [value for at, value in results if self._warmup < at <= step])
        ]
        best = max(value for _, value in self._results[number])
        if len(averages) < self._FEWEST or best >= np.median(averages):
            return ""
        return f"after {step} results worse than the median of the other trials"

    def end(self, number: int, step: int, score: float) -> None:
        """Others are judged by this result too."""
        self._results[number].append((step, score))


class ByPolicy:
    """Keeps the scores of all trials for a policy of the old tool."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._scores: dict[int, Scores] = {}

    def add(self, number: int) -> None:
        """A trial has no scores yet."""
        self._scores[number] = {}

    def see(self, number: int, step: int, score: float) -> None:
        """Keep a score."""
        self._scores[number][step] = score

    def judge(self, number: int, step: int, score: float) -> str:
        """Ask the policy."""
        others = [scores for other, scores in self._scores.items() if other != number and scores]
        return self._policy(self._scores[number], others)

    def end(self, number: int, step: int, score: float) -> None:
        """Keep the last score."""
        self.see(number, step, score)


def policy_of(stop: EarlyStop) -> Policy:
    """Return a policy of the old tool with the settings of the experiment file."""
    if stop.policy == "bandit":
        return functools.partial(policies.bandit, factor=stop.bandit_factor)
    if stop.policy == "truncation":
        return functools.partial(policies.truncation, percentage=stop.truncation_percentage)
    return functools.partial(
        policies.curve_fitting,
        threshold=stop.curve_fitting_threshold,
        end=stop.curve_fitting_max_iters,
        timeout_s=stop.curve_fitting_timeout_s,
    )
