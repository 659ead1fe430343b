"""An experiment in a cell of a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from raycompress.results.report import comparison

if TYPE_CHECKING:
    from raycompress.results.record import SearchRecord


def as_html(record: SearchRecord) -> str:
    """Return its state and its best model beside the dense one."""
    ended = sum(trial.seconds is not None for trial in record.records.values())
    told = f"{record.state}, {ended} of {record.header['n_trials']} trials ended, {len(record.pareto)} on the front"
    return f"<div><p><strong>{escape(record.id)}</strong>: {escape(told)}</p>{comparison.as_table(record)}</div>"
