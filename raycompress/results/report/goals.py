"""Tables of constraints, the Pareto front, repeats and rung 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from raycompress.model.measures import label
from raycompress.results.ranking import rank_correlation
from raycompress.results.report.formatting import number as _number

if TYPE_CHECKING:
    from raycompress.results.record import SearchRecord

_MOST = 24


def number(value: float) -> str:
    """Return a metric's value in at most five digits, whole ones in full."""
    return _number(int(value) if float(value).is_integer() else value)


def as_html(record: SearchRecord) -> str:
    """Return the tables; empty where the search was after one number and nothing else."""
    return "".join((*_constraints(record), *_front(record), *_repeats(record)))


def constraint_rows(record: SearchRecord, trial: int) -> list[tuple[str, str, str]]:
    """Return (constraint, value, whether it is kept) of a trial that was judged.

    Where the limit is a share of the dense model's value, so is the value. What has broken another constraint may not
    have been measured.
    """
    metrics, dense, judged = record.ranking.metrics(trial), record.ranking.dense(trial), record.ranking.judged[trial]
    rows = []
    for bound, excess in zip(record.objective.bounds, judged.excesses, strict=True):
        value, whole = metrics.get(bound.metric), dense.get(bound.metric, 0.0)
        if value is None:
            rows.append((str(bound), "-", "not measured"))
            continue
        shown = number(value / whole if bound.is_share and whole > 0 else value)
        rows.append((str(bound), shown, f"broken by {excess:.1%}" if excess > 0 else "kept"))
    return rows


def rung_zero_pairs(record: SearchRecord) -> list[tuple[int, float, float]]:
    """Return (trial, score before training, score after it) of the trials that have both."""
    return [
        (trial.number, trial.rung0, trial.score)
        for trial in record.searched
        if trial.rung0 is not None and trial.score is not None and trial.repeat_of is None
    ]


def rung_zero_correlation(record: SearchRecord) -> float:
    """Return the rank correlation of the scores before and after training, both turned so that larger is better."""
    sign = 1.0 if record.header.get("rung0") == record.header["goal"] else -1.0
    return rank_correlation((sign * before, after) for _, before, after in rung_zero_pairs(record))


def rung_zero_summary(record: SearchRecord) -> str:
    """Return how well the scores before training have ranked the trials, in two sentences."""
    scored = sum(trial.rung0 is not None for trial in record.searched)
    return (
        f"{scored} trials were scored before they trained. Of the {len(rung_zero_pairs(record))} that were trained to "
        f"their end, the two orders have a rank correlation of {rung_zero_correlation(record):.2f}; 1 is the same "
        "order, 0 is chance."
    )


def _constraints(record: SearchRecord) -> Iterator[str]:
    best, bounds = record.best, record.objective.bounds
    if best is None or not bounds or best.number not in record.ranking.judged:
        return
    rows = constraint_rows(record, best.number)
    feasible = sum(one.is_feasible for one in record.ranking.judged.values())
    yield _table(("constraint", f"trial {best.number}", ""), rows)
    yield f'<p class="quiet">{feasible} of {len(record.ranking.judged)} finished trials keep to all of them.</p>'


def _front(record: SearchRecord) -> Iterator[str]:
    goals = record.objective.goals
    if len(goals) == 1 or not record.pareto:
        return
    front = sorted(record.pareto, key=lambda trial: record.ranking.judged[trial.number].costs)
    rows = [
        (
            str(trial.number),
            *(number(record.ranking.metrics(trial.number)[goal.metric]) for goal in goals),
            "the knee, and the best" if trial.number == record.best_number else "kept" if trial.saved else "",
        )
        for trial in front[:_MOST]
    ]
    yield _table(("trial", *(label(goal.metric) for goal in goals), ""), rows)
    more = f" {len(front) - _MOST} more are in the table of all trials." if len(front) > _MOST else ""
    yield (
        '<p class="quiet">The front: no trial is better in all of these at once. The knee gives up least of every '
        f"objective, each measured by the range that the front has of it.{more}</p>"
    )


def _repeats(record: SearchRecord) -> Iterator[str]:
    repeated = record.repeated
    if repeated is None:
        return
    metric = record.objective.goals[0].metric or next(iter(repeated["finalists"][0]["means"]))
    rows = [
        (
            str(one["trial"]),
            ", ".join(map(str, one["runs"])),
            f"{number(one['means'][metric])} ± {number(one['spreads'][metric])}",
            "chosen" if one["trial"] == repeated["chosen"] else "as good" if one["trial"] in repeated["ties"] else "",
        )
        for one in repeated["finalists"]
    ]
    yield _table(("finalist", "trained in trials", f"{metric}, mean and standard deviation", ""), rows)
    yield (
        f'<p class="quiet">The finalists were trained again with other seeds. What differs by less than the spread, '
        f"{number(repeated['spread'])}, counts as no difference, and of those the smallest is chosen.</p>"
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    first = f'<th scope="col" class="word">{escape(heads[0])}</th>'
    head = first + "".join(f'<th scope="col">{escape(one)}</th>' for one in heads[1:])
    lines = "".join(
        f'<tr><th scope="row" class="word">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f'<table class="compare"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'
