"""When a trial is ended because its results are poor: policies, and the budgets of hyperband, bohb and asha."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from raycompress.config.options import option


@dataclass(frozen=True)
class EarlyStop:
    """When a trial is ended because its intermediate results are poor: a policy, and the settings of all policies.

    Attributes
    ----------
    policy
        ``bandit``, ``median``, ``truncation``, ``curve_fitting`` or ``asha``.
    """

    policy: str
    steps: int = option(1, "Look at every so many results of a trial.", key="aup_policy_steps", ge=1)
    warmup: int = option(0, "So many first results are never looked at.", ge=0)
    bandit_factor: float = option(0.5, "bandit: worse than this of the best.", gt=0, le=1)
    truncation_percentage: float = option(0.3, "truncation: this share of the trials, the worst, is ended.", gt=0, lt=1)
    curve_fitting_threshold: float = option(
        0.95, "curve_fitting: the predicted end is worse than this of the best.", gt=0, le=1
    )
    curve_fitting_timeout_s: float = option(
        30.0, "curve_fitting: seconds that one prediction may take.", key="curve_fitting_timeout", gt=0
    )
    curve_fitting_max_iters: int | None = option(
        None,
        "curve_fitting: how many results a trial reports; by default the most that one has reported.",
        ge=1,
    )


@dataclass(frozen=True)
class Scheduler(EarlyStop):
    """The same, with what the old tool had not."""

    rung0: bool = option(
        False, "Score each trial before it trains, by the script's evaluator, and end the worst there."
    )


@dataclass(frozen=True)
class Budgets:
    """The budgets of a search, in iterations: whatever the script counts by, such as epochs.

    A trial belongs to a bracket and climbs its rungs; at each rung one trial of `eta` goes on, with `eta` times the
    budget.

    Attributes
    ----------
    eta
        One trial of so many goes on.
    max_iter
        The budget of the last rung.

    Examples
    --------
    >>> budgets = Budgets(eta=3, max_iter=27)
    >>> [budgets.rungs(bracket) for bracket in range(budgets.brackets)]
    [(1, 3, 9, 27), (3, 9, 27), (9, 27), (27,)]
    >>> [budgets.bracket_of(number) for number in (1, 27, 28, 39, 40, 45, 46, 49, 50)]
    [0, 0, 1, 1, 2, 2, 3, 3, 0]
    """

    eta: int
    max_iter: int

    @property
    def brackets(self) -> int:
        """How many brackets there are; the first begins with the smallest budget."""
        count = 0
        while self.eta**count <= self.max_iter:
            count += 1
        return count

    def rungs(self, bracket: int) -> tuple[int, ...]:
        """Return the budgets of a bracket, ascending, the last of them `max_iter`."""
        return (*(self.eta**rung for rung in range(bracket, self.brackets - 1)), self.max_iter)

    def size(self, bracket: int) -> int:
        """Return how many trials a bracket begins with: those of the first rungs together cost as much as any other."""
        halvings = self.brackets - 1 - bracket
        return int(-(-self.brackets * self.eta**halvings // (halvings + 1)))

    def bracket_of(self, number: int) -> int:
        """Return the bracket of trial `number`, counted from 1: the brackets are filled in turn, again and again."""
        sizes = [self.size(bracket) for bracket in range(self.brackets)]
        place = (number - 1) % sum(sizes)
        return next(bracket for bracket, end in enumerate(itertools.accumulate(sizes)) if place < end)
