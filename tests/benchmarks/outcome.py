"""What a section of the benchmarks found: a table, targets reached or missed, the raw figures, and the machine."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.benchmarks import ROOT

_PACKAGES = ("raycompress", "ray", "torch", "nni", "torch-pruning", "optuna")


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


def describe_machine() -> dict[str, str]:
    """Return the machine, the versions, the commit and the date, in words."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "commit": _commit(),
        "machine": f"{model or platform.machine()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB",
        "system": platform.platform(),
        "load": "load average before: " + " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "python": f"{platform.python_version()} ({sys.executable})",
        "versions": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _commit() -> str:
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + (" with changes" if changed.stdout.strip() else "")
