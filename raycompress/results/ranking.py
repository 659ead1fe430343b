"""Ranking of trials by an objective: feasible ones first, then by the goals."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from raycompress.config.objective import Judgement, Metrics, Objective, Sizes, metrics_of


class Ranking:
    """Judges and ranks trials by an objective.

    Parameters
    ----------
    objective
        What the search is after.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._dense: dict[str, float] = {}
        self._known: dict[int, tuple[Metrics, Metrics]] = {}
        self.judged: dict[int, Judgement] = {}

    def add_dense(self, values: Metrics | None) -> None:
        """Add what the script reported of the dense model."""
        self._dense = metrics_of(values, None)
        for number in self.waiting:
            self._judge(number)

    def add(self, number: int, values: Metrics | None, before: Sizes | None, after: Sizes | None) -> None:
        """Add what was reported of a trial's model, and measured of the dense one and of its own."""
        metrics = self.objective.metrics_of
        # what a script reports by the name of a measure of ours may be in another unit, as its dense report is
        dense = {name: value for name, value in metrics(None, before, before).items() if name not in (values or {})}
        self._known[number] = (metrics(values, before, after), dense)
        self.judged.pop(number, None)
        self._judge(number)

    def forget(self, number: int) -> None:
        """Leave a trial out from now on."""
        self._known.pop(number, None)
        self.judged.pop(number, None)

    @property
    def waiting(self) -> list[int]:
        """The trials that cannot be judged yet, since the dense model's trial has not ended."""
        return [number for number in self._known if number not in self.judged]

    @property
    def ranked(self) -> list[int]:
        """The trials that are worth keeping, the best first."""
        return self.objective.select(self.judged)

    def metrics(self, number: int) -> Metrics:
        """Return all metrics of a trial that was added."""
        return self._known[number][0]

    def dense(self, number: int) -> Metrics:
        """Return all known metrics of the dense model, for comparison with a trial."""
        return {**self._known[number][1], **self._dense}

    def _judge(self, number: int) -> None:
        found = self.objective.judge(self.metrics(number), self.dense(number))
        if found is not None:
            self.judged[number] = found


def rank_correlation(pairs: Iterable[tuple[float, float]]) -> float:
    """Return Spearman's rank correlation, equal values sharing their mean rank; 0 where there is no order to compare.

    Examples
    --------
    >>> rank_correlation([(1, 10), (2, 20), (3, 15)])
    0.5
    """
    known = list(pairs)
    if len(known) < 2:
        return 0.0
    first, second = (_ranks(values) for values in zip(*known, strict=True))
    if len(set(first)) == 1 or len(set(second)) == 1:
        return 0.0
    return statistics.correlation(first, second)


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(values)
    ends = {value: (order.index(value), len(order) - 1 - order[::-1].index(value)) for value in set(values)}
    return [sum(ends[value]) / 2 for value in values]
