"""The table of docs/deployment.md: conversion, parity and speed-up of each network in each runtime."""

from __future__ import annotations

from collections.abc import Sequence

from tests.benchmarks import ROOT
from tests.benchmarks.deployment.measuring import RUNTIMES, Line
from tests.tables import marked

PAGE = ROOT / "docs" / "deployment.md"
COLUMNS = (
    *("network", "runtime", "converting, s", "difference", "dense, CPU ms"),
    *("half: FLOPs left", "faster", "than eager", "quarter: FLOPs left", "faster", "than eager"),
)
_HOW = (
    "*converting*: of the dense model; of eager torch a file is copied, and `torch.compile` compiles when it loads, "
    "which stands in brackets with the proof. *difference*: the largest of the three models, of the outputs to those "
    "in torch, relative to their norm. *faster*: the dense model's CPU time by the pruned one's, in the same runtime, "
    "timed in turn, one thread, batch 1, float32; of one thread it is the time by the clock on a machine that does "
    "nothing else. *than eager*: that speed-up by eager torch's."
)


def write(lines: Sequence[Line], machine: str) -> None:
    """Put the table between its markers.

    Raises
    ------
    ValueError
        The page has no such markers.
    """
    PAGE.write_text(marked.filled(PAGE.read_text(), {"networks": section(lines, machine)}))


def section(lines: Sequence[Line], machine: str) -> str:
    """Return how to read the table, and it, as markdown."""
    rows = ["| " + " | ".join(COLUMNS) + " |", "|---|---|" + "---:|" * (len(COLUMNS) - 2)]
    rows += ["| " + " | ".join(row) + " |" for row in cells(lines)]
    versions = sorted({line["version"] for line in lines if "version" in line})
    return "\n".join(
        [
            "## Six networks in every runtime",
            "",
            _HOW,
            "",
            *rows,
            "",
            f"Measured on {machine}, with {', '.join(versions)}.",
            "",
        ]
    )


def cells(lines: Sequence[Line]) -> list[list[str]]:
    """Return the rows of the table, as text."""
    by = {(line["network"], line["runtime"]): line for line in lines}
    names = list(dict.fromkeys(line["network"] for line in lines))
    found = []
    for name in names:
        eager = _speedups(by[name, "torch"]) if (name, "torch") in by else []
        for runtime in RUNTIMES:
            if (name, runtime) in by:
                found.append(_row(by[name, runtime], eager))
    return found


def _row(line: Line, eager: Sequence[float]) -> list[str]:
    if "error" in line:
        return [line["network"], line["runtime"], line["error"].replace("|", "/")[:120], *[""] * (len(COLUMNS) - 3)]
    converting = f"{line['seconds'][0]:.1f}"
    if line["runtime"] == "torch.compile":
        converting = f"({line['whole_seconds'][0]:.0f})"
    row = [line["network"], line["runtime"], converting, f"{line['difference']:.0e}", f"{line['cpu_ms'][0]:.3g}"]
    for place, faster in enumerate(_speedups(line)):
        against = f"{faster / eager[place]:.2f}" if eager else ""
        row += [f"{line['flops'][place + 1]:.2f}", f"{faster:.2f}", against]
    return row


def _speedups(line: Line) -> list[float]:
    return [] if "error" in line else [line["cpu_ms"][0] / ms for ms in line["cpu_ms"][1:]]
