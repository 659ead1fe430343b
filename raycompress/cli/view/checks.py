"""Checks as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raycompress.cli.options import print_text
from raycompress.clusters.file.check import Check, Estimate, State
from raycompress.errors import Problem
from raycompress.text import printable

_NAME_WIDTH = 24
_STYLES = {State.OK: "green", State.WARNING: "yellow", State.FAILED: "bold red", State.NOT_CHECKED: "dim"}


def show(checks: Sequence[Check]) -> None:
    """Print `checks` as a table on stdout, and then where each fault is and its fix: whole, to be copied."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("")
    table.add_column("looked at", max_width=_NAME_WIDTH, overflow="fold")
    table.add_column("found", overflow="fold")
    for check in checks:
        table.add_row(
            Text(check.state, _STYLES[check.state]), Text(printable(check.name)), Text(printable(check.detail))
        )
    Console(highlight=False).print(table)
    for check in checks:
        if check.problem is not None and (check.problem.where or check.problem.fix):
            print_text(f"\n{check.name} {check.state}: {check.problem.what}")
            print_text("\n".join(_remedy(check.problem)))


def _remedy(problem: Problem) -> Iterator[str]:
    if problem.where:
        yield f" where: {problem.where}"
    if problem.fix:
        yield f"   fix: {problem.fix}"


def show_price(estimate: Estimate | None) -> None:
    """Print what a cluster costs on stdout, machine by machine."""
    console = Console(highlight=False)
    if estimate is None:
        console.print("\nwhat it costs is not known here")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_footer=True)
    table.add_column("nodes", "together")
    table.add_column("machine")
    table.add_column("at most", justify="right")
    table.add_column("$ an hour each", justify="right")
    table.add_column("$ an hour", _dollars(estimate.dollars_per_hour), justify="right")
    for line in estimate.lines:
        each = line.dollars_per_hour
        machine = Text(printable(line.instance) + (", spot" if line.spot else ""))
        together = _dollars(None if each is None else line.count * each)
        table.add_row(Text(printable(line.node_type)), machine, str(line.count), _dollars(each), together)
    console.print("", table, Text(f"\nfrom {printable(estimate.source)}; disks and traffic come on top"))


def _dollars(amount: float | None) -> str:
    return "not known" if amount is None else f"{amount:.3f}"


def has_failed(checks: Sequence[Check]) -> bool:
    """Tell whether one of `checks` says that it will not work."""
    return any(check.state is State.FAILED for check in checks)


def as_data(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """Return `checks` as JSON data."""
    return [check.as_json() for check in checks]
