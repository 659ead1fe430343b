"""The best of several finalists that were trained repeatedly: by the mean of the runs; of tied ones the smallest."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from raycompress.config.objective import Judgement, Metrics, Objective

_SIZES = ("flops", "params", "size_bytes")


@dataclass(frozen=True)
class Finalist:
    """A sample that was trained several times.

    Attributes
    ----------
    number
        The trial that was first.
    runs
        The trials that trained it, the first included, and what each of them measured.
    """

    number: int
    runs: Mapping[int, Metrics]

    @property
    def means(self) -> dict[str, float]:
        """The mean of every metric that all runs have."""
        known = set.intersection(*(set(metrics) for metrics in self.runs.values()))
        return {name: statistics.fmean(metrics[name] for metrics in self.runs.values()) for name in sorted(known)}

    def spread(self, metric: str) -> float:
        """Return the standard deviation of a metric over the runs; 0 of a single one."""
        values = [metrics[metric] for metrics in self.runs.values() if metric in metrics]
        return statistics.stdev(values) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class Verdict:
    """Which finalist is chosen, and by what spread.

    Attributes
    ----------
    chosen
        The finalist that is the best.
    run
        The trial whose model is kept: of the chosen one's the best.
    ties
        The finalists whose mean is within the spread of the best mean, the chosen one included.
    spread
        The standard deviation of the first objective over the runs of one finalist, of all of them together.
    """

    chosen: int
    run: int
    ties: tuple[int, ...]
    spread: float


def choose(
    objective: Objective, finalists: Sequence[Finalist], dense: Metrics, kept: Collection[int] | None = None
) -> Verdict | None:
    """Choose the best finalist; None where none can be judged.

    Finalists whose means keep to all constraints come first. Those of them whose mean of the objective is within one
    spread of the best mean are tied with it, and of these the one with the fewest multiply-adds is chosen. Of its runs
    the best whose model is `kept` is taken; all are by default.
    """
    judged: dict[int, Judgement] = {}
    for one in finalists:
        if (found := objective.judge(one.means, dense)) is not None:
            judged[one.number] = found
    if not judged:
        return None
    by_number = {one.number: one for one in finalists}
    metric = objective.goals[0].metric
    spread = _pooled([by_number[number].spread(metric) for number in judged if len(by_number[number].runs) > 1])
    best = min(judged, key=lambda number: (judged[number].violation, judged[number].costs, number))
    ties = [
        number
        for number in sorted(judged)
        if judged[number].is_feasible == judged[best].is_feasible
        and judged[number].violation <= judged[best].violation
        and judged[number].costs[0] - judged[best].costs[0] <= spread
    ]
    chosen = min(ties, key=lambda number: (_size(by_number[number].means), judged[number].costs, number))
    runs = {run: metrics for run, metrics in by_number[chosen].runs.items() if kept is None or run in kept}
    of_runs = {number: found for number, one in runs.items() if (found := objective.judge(one, dense)) is not None}
    run = min(of_runs, key=lambda number: (of_runs[number].violation, of_runs[number].costs, number))
    return Verdict(chosen, run, tuple(ties), spread)


def _size(means: Metrics) -> tuple[float, ...]:
    return tuple(means.get(name, math.inf) for name in _SIZES)


def _pooled(deviations: Sequence[float]) -> float:
    return math.sqrt(statistics.fmean(one * one for one in deviations)) if deviations else 0.0
