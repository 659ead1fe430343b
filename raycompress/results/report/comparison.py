"""Table of the best model beside the dense one."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from raycompress.model.measures import label, shown
from raycompress.results.report.formatting import number

if TYPE_CHECKING:
    from raycompress.results.record import SearchRecord


class Row(NamedTuple):
    """One number of both models; `left` is the best one's share of the dense one's, of measures alone."""

    name: str
    dense: Any
    best: Any
    left: float | None


def rows(record: SearchRecord) -> list[Row]:
    """Return what was reported of both models, and then what was measured; empty without a best trial.

    What verification measured, in one fresh process, goes before what the trial did.
    """
    best = record.best
    if best is None:
        return []
    dense: Mapping[str, Any] = (record.baseline.values if record.baseline is not None else None) or {}
    reported = [Row(name, dense.get(name), value, None) for name, value in (best.values or {}).items()]
    verified = record.verified or {}
    before: Mapping[str, Any] = {**(best.before or {}), **(verified.get("before") or {})}
    after: Mapping[str, Any] = {**(best.after or {}), **(verified.get("after") or {})}
    return reported + [
        Row(label(name), before.get(name), after.get(name), _left(before.get(name), after.get(name)))
        for name in shown({**before, **after})  # not the ends of intervals
    ]


def as_table(record: SearchRecord) -> str:
    """Return the rows as an HTML table; a sentence where there is no best trial."""
    found = rows(record)
    if not found or record.best is None:
        return "<p>No trial has finished with a result yet.</p>"
    lines = "".join(
        f'<tr><th scope="row" class="word">{escape(row.name)}</th><td>{escape(number(row.dense))}</td>'
        f"<td>{escape(number(row.best))}</td><td>{_change(row)}</td></tr>"
        for row in found
    )
    return (
        '<table class="compare"><thead><tr><th scope="col" class="word"></th><th scope="col">dense model</th>'
        f'<th scope="col">best, trial {record.best.number}</th><th scope="col">change</th></tr></thead>'
        f"<tbody>{lines}</tbody></table>"
    )


def _left(before: Any, after: Any) -> float | None:
    return after / before if isinstance(before, int | float) and before and isinstance(after, int | float) else None


def _change(row: Row) -> str:
    if row.left is not None:
        width = min(100.0, 100 * row.left)
        return f'<span class="bar"><i style="width:{width:.1f}%"></i></span>{100 * row.left:.0f} % left'
    if isinstance(row.dense, int | float) and isinstance(row.best, int | float):
        return f"{row.best - row.dense:+.4g}"
    return ""
