"""Objectives, constraints, repeats and the Pareto front as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from raycompress.cli.view.tables import columns
from raycompress.config.objective import Goal
from raycompress.results.report.goals import constraint_rows, rung_zero_correlation, rung_zero_pairs
from raycompress.session.ending import number
from raycompress.states import TrialState

if TYPE_CHECKING:
    from raycompress.results.record import SearchRecord

_SHOWN = 12


def lines(record: SearchRecord) -> list[str]:
    """Return lines on constraints, rung 0, repeats and the front of `record`; none where it has none of them."""
    best, objective = record.best, record.objective
    if best is None or best.number not in record.ranking.judged:
        return []
    found: list[str] = []
    if objective.bounds:
        found += ["", "constraints:", columns(constraint_rows(record, best.number), left=(0,))]
    if "rung0" in record.header:
        found += [line for text in _rung_zero(record) for line in ("", textwrap.fill(text, 79))]
    if record.repeated is not None:
        found += ["", *_repeated(record, record.repeated)]
    if len(objective.goals) > 1:
        found += ["", *_front(record)]
    return found


def _rung_zero(record: SearchRecord) -> Iterator[str]:
    """Yield how well rung 0 has ranked the trials, where two or more have been trained to their end."""
    scored = [trial for trial in record.searched if trial.rung0 is not None]
    ended = sum(trial.state is TrialState.ENDED_EARLY and trial.values is None for trial in scored)
    if len(rung_zero_pairs(record)) > 1:
        yield (
            f"rung 0: {ended} of {len(scored)} trials ended before they trained; of the others its ranks and those "
            f"after training have a correlation of {rung_zero_correlation(record):.2f}"
        )


def _repeated(record: SearchRecord, repeated: Mapping[str, Any]) -> Iterator[str]:
    """Yield what training the finalists again has shown."""
    metric = record.objective.goals[0].metric or next(iter(repeated["finalists"][0]["means"]))
    yield f"trained again with other seeds, {metric}:"
    rows = []
    for one in repeated["finalists"]:
        remark = (
            "chosen" if one["trial"] == repeated["chosen"] else "as good" if one["trial"] in repeated["ties"] else ""
        )
        mean, spread = number(one["means"][metric]), number(one["spreads"][metric])
        rows.append((f"trial {one['trial']}", f"{len(one['runs'])} runs", f"{mean} ± {spread}", remark))
    yield columns(rows, left=(0, 3))
    if len(repeated["ties"]) > 1:
        yield f"less than the spread, {number(repeated['spread'])}, is no difference: the smallest is chosen"
    if not repeated["spread"] and any(len(one["runs"]) > 1 for one in repeated["finalists"]):
        yield 'all runs gave the same: the script sets a seed itself, and could take config["random_seed"]'


def _front(record: SearchRecord) -> Iterator[str]:
    front, goals = record.pareto, record.objective.goals
    if not front:
        return
    yield f"front: {len(front)} trial{'s' * (len(front) != 1)} that no other beats in " + " and ".join(map(name, goals))
    rows = [("trial", *map(name, goals), "")]
    ordered = sorted(front, key=lambda one: record.ranking.judged[one.number].costs)
    for trial in ordered[:_SHOWN]:
        values = [number(record.ranking.metrics(trial.number)[goal.metric]) for goal in goals]
        remark = "knee" if trial.number == record.best_number else "" if trial.saved else "not kept"
        rows.append((str(trial.number), *values, remark))
    yield columns(rows, left=(len(goals) + 1,))
    if len(front) > _SHOWN:
        yield f"  ... and {len(front) - _SHOWN} more: raycompress report"
    if len(front) > 1:
        yield "the knee gives up least of every objective, each measured by the front's own range"


def name(goal: Goal) -> str:
    """Return what an objective is called."""
    return goal.metric or "the score"
