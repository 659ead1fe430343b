"""Objectives and constraints: how trials are judged and compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from raycompress.model.costs import SIZES
from raycompress.model.latency_table import LATENCY, Clock
from raycompress.model.measures import MEMORY, measure_of

MEASURED = (*SIZES, LATENCY, MEMORY)
"""What we measure of a model, by the names of an experiment file; every other metric is the script's to report."""


def is_measured(metric: str) -> bool:
    """Tell whether we measure `metric`, of the model as it is or in one of its targets: ``latency_ms@openvino``."""
    return measure_of(metric) in MEASURED


Direction = Literal["max", "min"]
Metrics = Mapping[str, float]
Sizes = Mapping[str, float | None]
"""What was measured of a model: ``params``, ``flops``, ``size_bytes``, and ``latency_ms`` where that was."""
FIRST = ""
"""Stands for the first number that a trial reports, whatever its name."""

LIMITS = ("min", "max", "min_ratio", "max_ratio", "max_drop", "max_rise")
"""What a constraint may say of a metric; the last four compare it with the dense model's."""

_SLACK = 1e-9
_BROKEN = 1e9
"""Larger than any score, for what breaks a constraint."""


@dataclass(frozen=True)
class Goal:
    """One objective: a metric, `FIRST` among them, and which end of it is wanted."""

    metric: str
    direction: Direction

    def cost(self, value: float) -> float:
        """Return `value` as a cost: the smaller, the better."""
        return -value if self.direction == "max" else value


@dataclass(frozen=True)
class Bound:
    """One constraint: a metric, one of `LIMITS`, and its value."""

    metric: str
    limit: str
    value: float

    @property
    def is_relative(self) -> bool:
        """Whether the dense model's value has to be known."""
        return self.limit not in ("min", "max")

    @property
    def is_share(self) -> bool:
        """Whether the limit is a share of the dense model's value."""
        return self.limit.endswith("_ratio")

    def end(self, dense: float) -> float:
        """Return the smallest or largest value that is allowed, by the dense model's."""
        if self.is_share:
            return self.value * dense
        if self.limit == "max_drop":
            return dense - self.value
        return dense + self.value if self.limit == "max_rise" else self.value

    @property
    def is_ceiling(self) -> bool:
        """Whether it keeps values from being larger."""
        return self.limit in ("max", "max_ratio", "max_rise")

    def excess(self, value: float, dense: float) -> float:
        """Return by how much `value` breaks it, as a share of the dense model's or of the limit.

        0 and less where it holds: by how much more could be borne.
        """
        end = self.end(dense)
        beyond = value - end if self.is_ceiling else end - value
        scale = abs(dense) if self.is_relative and dense else abs(end)
        if beyond != beyond:
            return math.inf
        beyond = 0.0 if 0 < beyond <= _SLACK * max(1.0, abs(end)) else beyond
        return beyond / (scale or 1.0)

    def __str__(self) -> str:
        phrases = {
            "min": "at least {}",
            "max": "at most {}",
            "min_ratio": "at least {} of the dense model's",
            "max_ratio": "at most {} of the dense model's",
            "max_drop": "at most {} below the dense model's",
            "max_rise": "at most {} above the dense model's",
        }[self.limit]
        return f"{self.metric} {phrases.format(f'{self.value:g}')}"


@dataclass(frozen=True)
class DenseLatency:
    """The dense model's latency as it was measured before a search.

    Each trial measures its own model and the dense one in turn, and the share of the two times this is its latency: so
    that a load on the machine, or another machine, does not decide which is faster.

    Attributes
    ----------
    metric
        ``latency_ms``, or that in one target, ``latency_ms@openvino``.
    ms
        How long a pass takes.
    clock
        What the share is one of. Of CPU time where one thread computes: other load interrupts a long pass more often
        than a short one, which the clock of the wall counts.
    """

    metric: str
    ms: float
    clock: Clock = LATENCY

    def of(self, before: Sizes, after: Sizes) -> float | None:
        """Return the latency of a trial's model by what was measured of the dense one and of its own."""
        name = self.metric.replace(LATENCY, self.clock)
        dense, own = before.get(name), after.get(name)
        return own / dense * self.ms if dense and own is not None else None


@dataclass(frozen=True)
class Judgement:
    """The costs of a trial, and by how much it breaks each constraint.

    Attributes
    ----------
    costs
        One for each goal; smaller is better.
    excesses
        By how much it breaks each constraint; 0 or less where that holds.
    """

    costs: tuple[float, ...]
    excesses: tuple[float, ...] = ()

    @property
    def violation(self) -> float:
        """By how much it breaks the constraints together; 0 where all hold."""
        return math.fsum(max(0.0, excess) for excess in self.excesses)

    @property
    def is_feasible(self) -> bool:
        """Whether all constraints hold."""
        return not self.violation

    def dominates(self, other: Judgement) -> bool:
        """Tell whether this trial is at least as good as the other in every goal, and better in one."""
        return self.costs != other.costs and all(a <= b for a, b in zip(self.costs, other.costs, strict=True))


@dataclass(frozen=True)
class Objective:
    """The goals and constraints of a search.

    Attributes
    ----------
    goals
        The first is the one that proposers with a single objective learn.
    bounds
        What a trial must keep to, to be the best.
    kept
        How many candidates are worth keeping: of several goals the front's, of one the best.
    dense
        The dense model's latencies that trials' own are shares of; a latency of no such metric is what was measured.
    """

    goals: tuple[Goal, ...]
    bounds: tuple[Bound, ...] = ()
    kept: int = 1
    dense: tuple[DenseLatency, ...] = ()

    @classmethod
    def of_score(cls, direction: Direction) -> Objective:
        """Return the goal of an experiment that names none: the ``max`` or the ``min`` of the first number."""
        return cls((Goal(FIRST, direction),))

    @classmethod
    def from_keys(
        cls, target: Direction, objectives: Mapping[str, Any], constraints: Mapping[str, Any], kept: int = 1
    ) -> Objective:
        """Read the keys of an experiment file, which a journal's first event holds as well."""
        goals = tuple(Goal(metric, direction) for metric, direction in objectives.items())
        bounds = tuple(
            Bound(metric, limit, float(each[limit]))
            for metric, each in constraints.items()
            for limit in LIMITS
            if each.get(limit) is not None
        )
        return cls(goals or (Goal(FIRST, target),), bounds, kept)

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> Objective:
        """Read the first event of a journal."""
        known = cls.from_keys(
            header["goal"], header.get("objectives", {}), header.get("constraints", {}), header.get("kept", 1)
        )
        plain = header.get("dense_latency_ms")
        before = [] if plain is None else [{"metric": LATENCY, "ms": plain}]  # all that older journals have
        return replace(known, dense=tuple(DenseLatency(**one) for one in header.get("dense_latencies", before)))

    def to_header(self) -> dict[str, Any]:
        """Return what a journal's first event says of it beside ``goal``; nothing where that is all there is."""
        constraints: dict[str, dict[str, float]] = {}
        for bound in self.bounds:
            constraints.setdefault(bound.metric, {})[bound.limit] = bound.value
        objectives = {goal.metric: goal.direction for goal in self.goals if goal.metric}
        fields: dict[str, Any] = {"objectives": objectives, "constraints": constraints}
        fields["dense_latency_ms"] = next((one.ms for one in self.dense if one.metric == LATENCY), None)
        fields["dense_latencies"] = [asdict(one) for one in self.dense]
        kept = {"kept": self.kept} if self.kept > 1 else {}
        return {**{name: value for name, value in fields.items() if value}, **kept}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of all metrics that it looks at, each once."""
        return tuple(dict.fromkeys([*(goal.metric for goal in self.goals), *(bound.metric for bound in self.bounds)]))

    @property
    def needs_dense_result(self) -> bool:
        """Whether a trial can be judged only once the dense model's trial has ended."""
        return any(bound.is_relative and not is_measured(bound.metric) for bound in self.bounds)

    @property
    def goal(self) -> Direction:
        """Which end of a score is wanted."""
        return self.goals[0].direction

    def metrics_of(self, values: Metrics | None, before: Sizes | None, after: Sizes | None) -> dict[str, float]:
        """Return all metrics of a trial by name; see `metrics_of`.

        Parameters
        ----------
        values
            As reported.
        before, after
            What was measured of the dense model and of the trial's own; its own None for the dense model's metrics.
        """
        found = metrics_of(values, after)
        for one in self.dense:
            latency = one.of(before or {}, after or {})
            if latency is not None and one.metric not in (values or {}):
                found[one.metric] = latency
        return found

    def score(self, metrics: Metrics) -> float | None:
        """Return the value of the first goal; None where it is not known."""
        return metrics.get(self.goals[0].metric)

    def lacking(self, metrics: Metrics) -> list[str]:
        """Return the metrics that it looks at and that are not there."""
        return [name for name in self.metrics if name not in metrics]

    def undecided(self, metrics: Metrics) -> list[str]:
        """Return the metrics that are lacking for a judgement.

        A model that breaks a constraint on what the script reports is not measured in its target: what is measured
        there is not lacking then.
        """
        is_broken = any(
            bound.excess(metrics[bound.metric], 0.0) > 0
            for bound in self.bounds
            if not bound.is_relative and not is_measured(bound.metric) and bound.metric in metrics
        )
        return [name for name in self.lacking(metrics) if not (is_broken and is_measured(name))]

    def judge(self, metrics: Metrics, dense: Metrics) -> Judgement | None:
        """Return what a trial is worth; None where a metric of it, or of the dense model, is not known.

        Parameters
        ----------
        metrics, dense
            See `metrics_of`.
        """
        if self.undecided(metrics) or any(bound.is_relative and bound.metric not in dense for bound in self.bounds):
            return None
        costs = tuple(goal.cost(metrics.get(goal.metric, math.nan)) for goal in self.goals)
        costs = tuple(math.inf if cost != cost else cost for cost in costs)
        excesses = tuple(
            bound.excess(metrics[bound.metric], dense.get(bound.metric, math.nan)) if bound.metric in metrics else 0.0
            for bound in self.bounds
        )
        return Judgement(costs, excesses)

    def scalar(self, score: float, judgement: Judgement) -> float:
        """Return one number for searchers that know one only, and look at ranks; its better end is that of `score`.

        What breaks a constraint comes after all that keeps to them. Of several goals it is the sum of the logarithms,
        so that a tenth more of one weighs as much as a tenth more of another.
        """
        sign = 1.0 if self.goal == "max" else -1.0
        if judgement.violation:
            return -sign * _BROKEN * (1 + min(judgement.violation, _BROKEN))
        if len(self.goals) > 1:
            return -sign * math.fsum(math.copysign(math.log1p(abs(cost)), cost) for cost in judgement.costs)
        return score

    def select(self, judged: Mapping[int, Judgement]) -> list[int]:
        """Return the trials that are worth keeping, the best first: feasible ones before others.

        Of equal ones the first is better, so that the order in which trials end does not matter. With several goals
        they are the Pareto front, its knee first; where no trial is feasible, those that break the constraints least.
        """
        ranked = sorted(judged, key=lambda number: (judged[number].violation, judged[number].costs, number))
        feasible = [number for number in ranked if judged[number].is_feasible]
        if len(self.goals) == 1 or not feasible:
            return ranked[: self.kept]
        front = [one for one in feasible if not any(judged[other].dominates(judged[one]) for other in feasible)]
        distinct = list({judged[number].costs: number for number in sorted(front, reverse=True)}.values())
        return thinned({number: judged[number].costs for number in sorted(distinct)}, self.kept)


def metrics_of(values: Metrics | None, sizes: Sizes | None) -> dict[str, float]:
    """Return all metrics of a model by name: what the script reported, and what was measured.

    Parameters
    ----------
    values
        As reported; the first of them stands under `FIRST` as well. What the script reports under a name of `MEASURED`
        counts instead of our measure.
    sizes
        ``params``, ``flops``, ``size_bytes``, and ``latency_ms`` where that was measured.
    """
    measured = {name: float(value) for name, value in (sizes or {}).items() if is_measured(name) and value is not None}
    reported = dict(values or {})
    first = {FIRST: next(iter(reported.values()))} if reported else {}
    return {**measured, **reported, **first}


def thinned(front: Mapping[int, tuple[float, ...]], most: int) -> list[int]:
    """Return at most so many members of a front, its knee first, then from one end of the first goal to the other.

    The best of each goal stay; the others go as they are nearest to their neighbours (crowding distance, Deb et al., A
    Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II, 2002).
    """
    left = dict(front)
    while len(left) > max(1, most):
        crowded = _crowding(left)
        middle = knee(left)
        free = [number for number in left if number != middle and crowded[number] < math.inf] or [
            number for number in left if number != middle
        ]
        del left[min(free, key=lambda number: (crowded[number], -number))]
    if not left:
        return []
    first = knee(left)
    return [first, *sorted((number for number in left if number != first), key=lambda number: (left[number], number))]


def knee(front: Mapping[int, tuple[float, ...]]) -> int:
    """Return the member of a front that is farthest from the line, or plane, through its ends, towards the ideal.

    Each cost is scaled to the front's range. Das, On Characterizing the "Knee" of the Pareto Curve, 1999.
    """
    ends = [(min(column), max(column)) for column in zip(*front.values(), strict=True)]

    def lost(costs: tuple[float, ...]) -> float:
        return math.fsum(
            (cost - low) / (high - low) for cost, (low, high) in zip(costs, ends, strict=True) if high > low
        )

    return min(front, key=lambda number: (round(lost(front[number]), 12), front[number], number))


def _crowding(front: Mapping[int, tuple[float, ...]]) -> dict[int, float]:
    crowded = dict.fromkeys(front, 0.0)
    for goal in range(len(next(iter(front.values())))):
        order = sorted(front, key=lambda number: (front[number][goal], number))
        span = front[order[-1]][goal] - front[order[0]][goal]
        crowded[order[0]] = crowded[order[-1]] = math.inf
        for before, number, after in zip(order, order[1:], order[2:], strict=False):
            crowded[number] += (front[after][goal] - front[before][goal]) / span if span else 0.0
    return crowded
