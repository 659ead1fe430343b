"""How much of the front of the enumerated space each proposer finds, by the number of its trials; ten seeds."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks.enumerated.proposers import ENTRIES, Entry
from tests.benchmarks.enumerated.space import Task, front_of, hypervolume, largest_of, point_of
from tests.benchmarks.enumerated.table import Point, Row
from tests.benchmarks.outcome import Outcome, Target

SHARES = (0.01, 0.02, 0.05, 0.1)
"""Of the points of the space, as many trials."""
ENOUGH = 0.95
OURS = "guided"
_PATIENCE = 2
"""A search ends after so many proposals for each trial."""


def found(entry: Entry, task: Task, seed: int, trials: int) -> list[Row]:
    """Return what each trial of a search finds.

    A point that is proposed again is answered from its first trial and is none, whoever proposes it.
    """
    proposer = entry.make(task, seed, trials)
    rows: dict[Point, Row] = {}
    for number in range(1, _PATIENCE * trials):
        sample = None if len(rows) == trials else proposer.propose(number)
        if sample is None:
            break
        row = rows.setdefault(point_of(sample), task.row(sample))
        judgement = task.judge(row)
        proposer.learn(number, task.objective.scalar(row.accuracy, judgement), {}, judgement)
    return list(rows.values())


@dataclass(frozen=True)
class Reached:
    """How far one search came.

    Attributes
    ----------
    shares
        Of the true front's hypervolume, after each number of trials.
    enough
        After how many trials the share was `ENOUGH`; None where it never was, or where one number of trials is planned
        for.
    """

    shares: list[float]
    enough: int | None


def reached(entry: Entry, task: Task, seed: int, numbers: Sequence[int]) -> Reached:
    """Search by one proposer, for so many trials."""
    largest = largest_of(task.table)
    whole = hypervolume(task.table.values(), largest)
    if entry.plans:
        return Reached([hypervolume(found(entry, task, seed, one), largest) / whole for one in numbers], None)
    rows = found(entry, task, seed, max(numbers))
    every = [hypervolume(rows[:number], largest) / whole for number in range(1, len(rows) + 1)]
    enough = next((number for number, share in enumerate(every, 1) if share >= ENOUGH), None)
    return Reached([every[min(number, len(rows)) - 1] for number in numbers], enough)


def measure(
    seeds: int, say: Callable[[str], None], entries: Mapping[str, Entry] = ENTRIES, shares: Sequence[float] = SHARES
) -> Outcome:
    """Search the space by each proposer, each seed once."""
    task = Task.whole()
    numbers = [round(share * len(task.table)) for share in shares]
    figures: dict[str, list[Reached]] = {}
    for name, entry in entries.items():
        began = time.monotonic()
        figures[name] = [reached(entry, task, seed, numbers) for seed in range(seeds)]
        say(f"{name}: {time.monotonic() - began:.1f} s")
    return outcome(figures, numbers, task)


def outcome(figures: Mapping[str, Sequence[Reached]], numbers: Sequence[int], task: Task) -> Outcome:
    """Return the table of the shares that were reached, seed by seed in `figures`."""
    rows = [
        [name, *(_cell([one.shares[place] for one in seeds]) for place in range(len(numbers))), _enough(seeds, name)]
        for name, seeds in figures.items()
    ]
    seeds = len(next(iter(figures.values())))
    return Outcome(
        f"Widths, a block and bits, every point known: share of the true front's hypervolume, {seeds} seeds",
        ["proposer", *(f"{number} trials" for number in numbers), f"trials to {ENOUGH:g}"],
        rows,
        targets=_targets(figures, numbers),
        notes=[
            f"{len(task.table)} points, {len(front_of(task.table))} on the front",
            "mean of the seeds, the worst in brackets; a point that is proposed again is no further trial",
            "hypervolume: accuracy above .5 by the logarithm of bytes below those of the dense network in float",
            "the last column: the median of the seeds, and the number of those that came so far",
        ],
        raw={
            "trials": list(numbers),
            "searches": {name: [vars(one) for one in each] for name, each in figures.items()},
        },
    )


def _cell(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.3f} ({min(values):.3f})"


def _enough(seeds: Sequence[Reached], name: str) -> str:
    if ENTRIES[name].plans:
        return ""
    known = [one.enough for one in seeds if one.enough is not None]
    middle = statistics.median(one.enough if one.enough is not None else math.inf for one in seeds)
    return f"{'never' if middle == math.inf else f'{middle:.0f}'} ({len(known)})"


def _targets(figures: Mapping[str, Sequence[Reached]], numbers: Sequence[int]) -> list[Target]:
    """Return what ours is to reach: almost all with a tenth of the trials, and until then more than any other."""
    if OURS not in figures:
        return []
    ours = figures[OURS]
    missed = sum(one.shares[-1] < ENOUGH for one in ours)
    targets = [Target(f"{OURS}: seeds below {ENOUGH:g} of the hypervolume after {numbers[-1]} trials", missed, 0)]
    done = [all(one.shares[place] >= ENOUGH for one in ours) for place in range(len(numbers))]
    until = done.index(True) + 1 if True in done else len(numbers)
    for name, others in figures.items():
        for place, number in enumerate(numbers[:until] if name != OURS else ()):
            ahead = statistics.mean(
                mine.shares[place] - other.shares[place] for mine, other in zip(ours, others, strict=True)
            )
            targets.append(Target(f"{OURS} behind {name} after {number} trials, in the mean", -ahead, 0.0, least=-1.0))
    return targets
