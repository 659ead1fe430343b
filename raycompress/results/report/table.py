"""HTML table of all trials."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from raycompress.model.measures import label, shown, targets_in
from raycompress.results.report.formatting import LOOKS, duration, number, short
from raycompress.states import TrialState

if TYPE_CHECKING:
    from raycompress.results.record import SearchRecord
    from raycompress.results.trial import TrialRecord

CELLS = 25_000
"""How many cells a browser sorts at once without a wait."""
PRINTED = 6
"""How many dimensions have room on paper."""
_AT_LEAST = 8


@dataclass(frozen=True)
class _Column:
    title: str
    value: Callable[[TrialRecord], Any]
    show: Callable[[Any], str] = number
    word: bool = False
    kind: str = ""


def fitting_dimensions(record: SearchRecord, dimensions: Sequence[str]) -> list[str]:
    """Return the first of `dimensions`, as many as the table has room for."""
    return list(dimensions[: max(_AT_LEAST, CELLS // max(1, len(record.records)))])


def as_table(record: SearchRecord, dimensions: Sequence[str], front: Collection[int]) -> str:
    """Return every trial as a row of an HTML table, which ``page.js`` sorts.

    Parameters
    ----------
    dimensions
        The dimensions that get a column.
    front
        The numbers of the trials that no other one dominates.
    """
    trials = [trial for _, trial in sorted(record.records.items())]
    columns = _columns(record, trials, dimensions, front)
    head = "".join(
        f'<th scope="col"{_class(column)} aria-sort="none" data-title="{escape(short(column.title, 28))}">'
        f'<button type="button" title="{escape(column.title)}">{escape(short(column.title, 28))}</button></th>'
        for column in columns
    )
    best = record.best
    rows = "".join(
        ('<tr class="best">' if best is not None and trial.number == best.number else "<tr>")
        + "".join(_cell(column, trial) for column in columns)
        + "</tr>"
        for trial in trials
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="all trials">'
        f'<table id="trials"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _columns(
    record: SearchRecord, trials: Sequence[TrialRecord], dimensions: Sequence[str], front: Collection[int]
) -> list[_Column]:
    best = record.best
    star = None if best is None else best.number

    def name(number_: int) -> str:
        return f"{number_}{' ★' if number_ == star else ''}{' ◆' if number_ in front else ''}"

    columns = [
        _Column("trial", lambda trial: trial.number, name),
        _Column("state", lambda trial: trial.state, _state, word=True),
        _Column("score", lambda trial: trial.score),
        _Column("time", lambda trial: trial.seconds, duration),
    ]
    if any(trial.carried for trial in trials):
        columns.append(
            _Column("since checkpoint", lambda trial: trial.last_start_seconds if trial.carried else None, duration)
        )
    # the first value is the score
    others = list(dict.fromkeys(key for trial in trials for key in list(trial.values or {})[1:]))
    sizes = list(dict.fromkeys(key for trial in trials for key in trial.after or {}))
    sizes = [key for key in sizes if key in shown(dict.fromkeys(sizes))] if targets_in(sizes) else sizes
    columns += [_Column(key, _of("values", key)) for key in others]
    columns += [_Column(label(key), _of("after", key)) for key in sizes]
    if any(trial.cause for trial in trials):
        columns.append(_Column("cause", lambda trial: trial.cause, word=True, kind="cause"))
    columns += [
        _Column(key, _sampled(key), _proposed, kind="unprinted" if place >= PRINTED else "")
        for place, key in enumerate(dimensions)
    ]
    return columns


def _of(attribute: str, key: str) -> Callable[[TrialRecord], Any]:
    return lambda trial: (getattr(trial, attribute) or {}).get(key)


def _sampled(key: str) -> Callable[[TrialRecord], Any]:
    """Return what reads the proposal; the dense model's sample is never applied."""
    return lambda trial: None if trial.baseline else trial.sample.get(key)


def _proposed(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else number(value)


def sign(state: TrialState) -> str:
    """Return the sign of `state` as HTML: no part of the text, which is what is read aloud and sorted."""
    look = LOOKS[state]
    return f'<span class="sign {look.colour[2:]}" data-sign="{look.sign}" aria-hidden="true"></span>'


def _state(state: TrialState) -> str:
    return f"{sign(state)}{state}"


def _class(column: _Column) -> str:
    kinds = " ".join(kind for kind in ("word" if column.word else "", column.kind) if kind)
    return f' class="{kinds}"' if kinds else ""


def _cell(column: _Column, trial: TrialRecord) -> str:
    value = column.value(trial)
    inner = column.show(value)
    if column.show is not _state:
        inner = escape(short(inner, 400))
    numeric = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    key = "" if not numeric else f' data-value="{"" if value is None else value}"'
    return f"<td{_class(column)}{key}>{inner}</td>"
