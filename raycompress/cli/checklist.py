"""Checks as lines of a terminal, each with its fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raycompress.cli.options import say

if TYPE_CHECKING:
    from raycompress.clusters.check import Check


def print_checks(checks: Sequence[Check]) -> None:
    """Print a line for each check; under what failed or warns, where and the fix."""
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        say(f"{check.state:<11}  {check.name:<{width}}  {check.detail}")
        if check.problem is not None and check.problem.where:
            say(f"{'':<11}  {'where:':>{width}}  {check.problem.where}")
        if check.problem is not None and check.problem.fix:
            say(f"{'':<11}  {'fix:':>{width}}  {check.problem.fix}")
