"""What a section of the benchmarks found: a table, targets that were reached or missed, and the raw figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Target:
    """A figure, the most that it may be, and the least that it can be unless the measurement was disturbed."""

    what: str
    value: float
    limit: float
    unit: str = ""
    least: float = 0.0

    @property
    def reached(self) -> bool:
        return self.least <= self.value <= self.limit

    @property
    def verdict(self) -> str:
        if self.value < self.least:
            return "UNCLEAR"  # the machine was not quiet: measure again, with more repeats
        return "reached" if self.reached else "MISSED "

    def __str__(self) -> str:
        return f"{self.verdict}  {self.what}: {self.value:.3g}{self.unit} (at most {self.limit:g}{self.unit})"


@dataclass
class Outcome:
    """One section.

    Attributes
    ----------
    columns, rows
        The table, as text.
    notes
        How to read it.
    raw
        Everything measured, for the JSON file.
    failed
        Whether a part of it ended with an error.
    """

    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    failed: bool = False

    def to_json(self) -> dict[str, Any]:
        targets = [{**vars(target), "verdict": target.verdict.strip()} for target in self.targets]
        table = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"table": table, "targets": targets, "notes": self.notes, "raw": self.raw}

    def __str__(self) -> str:
        cells = [list(self.columns), *self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            ).rstrip()
            for row in cells
        ]
        rule = "-" * max(len(line) for line in lines)
        return "\n".join(["", self.title, rule, lines[0], rule, *lines[1:], rule, *map(str, self.targets), *self.notes])


def median(values: Sequence[float]) -> float:
    """Return the median; NaN of none."""
    return statistics.median(values) if values else float("nan")


def seconds(value: float, digits: int = 1) -> str:
    """Return `value` as a cell; a dash where there is none."""
    return "-" if value != value else f"{value:.{digits}f}"


def ratio(value: float, reference: float) -> str:
    """Return the quotient as a cell; a dash where there is none."""
    return "-" if value != value or reference != reference else f"{value / reference:.2f}"
