"""`Check` and `Estimate`: the result of a check, and the price of a cluster."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from raycompress.errors import Problem


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    name
        What was looked at, in a word or two: ``key pair``.
    detail
        What was found, in one line.
    problem
        With the fix, where it failed or is to be warned of.
    """

    name: str
    state: State
    detail: str
    problem: Problem | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def failed(name: str, what: str, *, where: str = "", fix: str = "") -> Check:
    """Return a check that failed."""
    return Check(name, State.FAILED, what, Problem(what, where, fix))


def warning(name: str, what: str, *, where: str = "", fix: str = "") -> Check:
    """Return a check that warns."""
    return Check(name, State.WARNING, what, Problem(what, where, fix))


@dataclass(frozen=True)
class EstimateLine:
    """Machines of one kind.

    Attributes
    ----------
    count
        How many, at most.
    dollars_per_hour
        Of one of them; None where it is not known.
    """

    node_type: str
    instance: str
    count: int
    dollars_per_hour: float | None
    spot: bool = False


@dataclass(frozen=True)
class Estimate:
    """What a cluster costs an hour, with as many workers as it may have; disks and traffic are not in it.

    Attributes
    ----------
    source
        Where the prices come from, with their date.
    """

    lines: tuple[EstimateLine, ...]
    source: str

    @property
    def dollars_per_hour(self) -> float | None:
        """The sum; None where a price is not known."""
        if any(line.dollars_per_hour is None for line in self.lines):
            return None
        return sum(line.count * (line.dollars_per_hour or 0.0) for line in self.lines)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "dollars_per_hour": self.dollars_per_hour}
