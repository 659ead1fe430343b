"""What `raycompress.compress` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

from torch import nn

from raycompress.model.measures import label, shown


@dataclass(frozen=True)
class Compressed:
    """A compressed model, its bundle, and what was measured.

    Attributes
    ----------
    model
        The small model: of the class of the original, on its device.
    bundle
        The folder to be read by `raycompress.load`.
    compressor
        The compressor's name.
    before, after
        ``params``, ``flops`` (multiply-adds of one pass), ``size_bytes`` of the weights, ``latency_ms`` with the ends
        of its interval ``latency_low_ms`` and ``latency_high_ms``, and ``cpu_ms``: of the original, and of the bundle
        when it was reloaded.
    removed
        Layer -> (removed, of) output channels.
    notes
        What a person should know of the model.
    metric_before, metric_after
        What the evaluator returned; None without one.
    relative_difference
        Of the outputs of the reloaded bundle and of the model.
    """

    model: nn.Module
    bundle: Path
    compressor: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    removed: Mapping[str, tuple[int, int]]
    notes: tuple[str, ...]
    metric_before: float | None
    metric_after: float | None
    relative_difference: float

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return (what, of the original, of this one, what is left), as they are shown."""
        found = []
        if self.metric_before is not None and self.metric_after is not None:
            found.append(("metric", f"{self.metric_before:.5g}", f"{self.metric_after:.5g}", ""))
        for key in shown(self.after):
            if key in self.before and key != "cpu_ms":
                before, after = self.before[key], self.after[key]
                left = f"{100 * after / before:.0f} %" if before else ""
                found.append((label(key), _number(before), _number(after), left))
        return found

    def __str__(self) -> str:
        rows = [("", "original", self.compressor, "left"), *self.rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(pairs))
            for pairs in (list(zip(row, widths, strict=True)) for row in rows)
        ]
        removed = ", ".join(f"{layer} {count} of {of}" for layer, (count, of) in self.removed.items() if count)
        more = [f"channels removed: {removed}"] * bool(removed) + [f"note: {note}" for note in self.notes]
        return "\n".join([*(line.rstrip() for line in lines), *more, f"bundle: {self.bundle}"])

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        head = "".join(f"<th>{escape(name)}</th>" for name in ("", "original", self.compressor, "left"))
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows())
        notes = "".join(f"<p>note: {escape(note)}</p>" for note in self.notes)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"<div>{table}{notes}<p>bundle: <code>{escape(str(self.bundle))}</code></p></div>"


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
