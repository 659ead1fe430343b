"""The Pareto front of trials by score and measured sizes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from raycompress.states import TrialState

if TYPE_CHECKING:
    from raycompress.results.trial import TrialRecord


MEASURES = ("params", "flops", "size_bytes", "latency_ms", "cpu_ms")
"""What is compared of saved models; beside it they may hold intervals, which are no measures of their own."""


def measures(trials: Iterable[TrialRecord]) -> list[str]:
    """Return the names of what was measured on the saved model of every one of `trials`, in the order measured."""
    measured = [trial.after for trial in trials if trial.after]
    known = [name for name in (measured[0] if measured else {}) if name in MEASURES]
    return [name for name in known if all(is_number(after.get(name)) for after in measured)]


def front(trials: Iterable[TrialRecord], goal: str, names: Iterable[str] | None = None) -> list[TrialRecord]:
    """Return the finished trials that are not dominated, the best score first.

    A trial is dominated where another one is at least as good in the score and in every measure, and better in one.

    Parameters
    ----------
    trials
        What is compared. Left out are those that have not finished with a score and, where any has a measured model,
        those without one.
    goal
        ``max`` or ``min``: what a better score is. Of a measure the smaller number is better.
    names
        The measures of ``after`` to compare; by default all that each of the compared trials has.

    Returns
    -------
    list of TrialRecord
        Equal ones are all there, in the order of their numbers.
    """
    scored = [trial for trial in trials if trial.state is TrialState.FINISHED and trial.score is not None]
    compared = [trial for trial in scored if trial.after] or scored
    names = measures(compared) if names is None else list(names)
    compared = [trial for trial in compared if all(is_number((trial.after or {}).get(name)) for name in names)]
    sign = -1.0 if goal == "max" else 1.0
    costs = {
        trial.number: (sign * (trial.score or 0.0), *(float((trial.after or {})[name]) for name in names))
        for trial in compared
    }
    kept: list[TrialRecord] = []
    # in this order nothing is dominated by a later one, so the front so far is all there is to look at
    for trial in sorted(compared, key=lambda trial: (costs[trial.number], trial.number)):
        if not any(_dominates(costs[other.number], costs[trial.number]) for other in kept):
            kept.append(trial)
    return kept


def _dominates(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return first != second and all(one <= other for one, other in zip(first, second, strict=True))


def is_number(value: object) -> bool:
    """Tell whether `value` can be compared as a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
