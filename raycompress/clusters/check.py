"""What a check before the start found, and what a cluster costs."""

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
class NodePrice:
    """What the nodes of one type cost.

    Attributes
    ----------
    count
        How many there will be at most.
    dollars
        Of one node, an hour; None where nobody says.
    source
        Where that comes from.
    """

    node_type: str
    instance_type: str
    count: int
    spot: bool
    dollars: float | None
    source: str


@dataclass(frozen=True)
class Estimate:
    """What a cluster costs an hour, with as many workers as it may have; disks and traffic are not in it."""

    nodes: tuple[NodePrice, ...]

    @property
    def dollars_an_hour(self) -> float | None:
        """The sum; None where one price is not known."""
        if any(node.dollars is None for node in self.nodes):
            return None
        return sum(node.count * (node.dollars or 0.0) for node in self.nodes)

    @property
    def source(self) -> str:
        """Where the prices come from, each place once."""
        return ", ".join(dict.fromkeys(node.source for node in self.nodes))

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "dollars_an_hour": self.dollars_an_hour, "source": self.source}
