"""When a trial is ended because its intermediate results are poor: what the experiment file says of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass


@dataclass(frozen=True)
class EarlyStop:
    """A policy and its settings, in the words of the file.

    Attributes
    ----------
    policy
        ``bandit``, ``median``, ``truncation``, ``curve_fitting`` or ``asha``.
    steps
        Look at every so many results of a trial.
    warmup
        So many first results are never looked at.
    bandit_factor, truncation_percentage, curve_fitting_threshold, curve_fitting_timeout_s
        See `raycompress.config.schema.keys.EarlyStopKeys`; the last in seconds.
    curve_fitting_max_iters
        How many results a trial reports; None: the most that one has reported.
    """

    policy: str
    steps: int = 1
    warmup: int = 0
    bandit_factor: float = 0.5
    truncation_percentage: float = 0.3
    curve_fitting_threshold: float = 0.95
    curve_fitting_timeout_s: float = 30.0
    curve_fitting_max_iters: int | None = None


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
