"""Formatting of numbers and tables on the terminal."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from raycompress.config.places import is_remote
from raycompress.model.measures import label, shown
from raycompress.results.record import SearchRecord
from raycompress.results.trial import TrialRecord


def number(value: float | None) -> str:
    """Return a metric's value in at most five digits."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def duration(seconds: float) -> str:
    """Return seconds as ``0:07``, ``12:40`` or ``3:05:00``; none where a clock was put back meanwhile."""
    whole = max(0, int(seconds + 0.5))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def share(part: float | None, whole: float | None) -> str:
    """Return what is left of `whole` in percent."""
    return f"{100 * part / whole:.0f} %" if part is not None and whole else ""


def value(raw: Any) -> str:
    """Return a proposed value, short."""
    return f"{raw:.3g}" if isinstance(raw, float) else str(raw)


def display_path(path: Path | str) -> str:
    """Return a path relative to the current folder if it is inside; an address as it is."""
    if is_remote(str(path)):
        return str(path)
    path = Path(path)
    path = path.parent.resolve() / path.name
    inside = path.is_relative_to(Path.cwd()) and path != Path.cwd()
    return str(path.relative_to(Path.cwd())) if inside else str(path)


def before_and_after(record: SearchRecord) -> list[tuple[str, str, str, str]]:
    """Return rows of (what, dense, best, what is left) for the best trial of an experiment.

    Reported metrics of the dense model are those of trial 0; sizes are measured on both models in the same process.
    """
    best = record.best
    if best is None:
        return []
    dense = (record.baseline.values if record.baseline is not None else None) or {}
    rows = [(name, number(dense.get(name)), number(after), "") for name, after in (best.values or {}).items()]
    return rows + [row for row in _measured(record, best) if row[1] != "-" or row[2] != "-"]


def _measured(record: SearchRecord, best: TrialRecord) -> list[tuple[str, str, str, str]]:
    before: Mapping[str, float] = (record.verified or {}).get("before") or best.before or {}
    after: Mapping[str, float] = (record.verified or {}).get("after") or best.after or {}
    return [
        (label(name), number(before.get(name)), number(after.get(name)), share(after.get(name), before.get(name)))
        for name in shown(after)
    ]


def columns(rows: Sequence[tuple[str, ...]], *, indent: int = 2, left: Container[int] = (0,)) -> str:
    """Lay `rows` out in columns, those of the positions in `left` to the left and the others to the right."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((" " * indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)
