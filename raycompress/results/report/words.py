"""Numbers, names and states in the words of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raycompress.states import TrialState

_MEASURES = {
    "params": "parameters",
    "flops": "FLOPs (multiply-adds)",
    "bytes": "bytes of weights",
    "latency_ms": "latency, ms",
    "cpu_ms": "CPU time, ms",
}


@dataclass(frozen=True)
class Look:
    """How a state is told from the others: by its sign and its pattern, and only then by its colour.

    Attributes
    ----------
    sign, symbol, pattern
        The character in tables, Plotly's marker and the filling of Plotly's bars.
    colour
        The name of a variable of ``page.css``, one for light and one for dark.
    """

    sign: str
    symbol: str
    pattern: str
    colour: str


LOOKS = {
    TrialState.FINISHED: Look("●", "circle", "", "--finished"),
    TrialState.RUNNING: Look("▶", "triangle-right", ".", "--running"),
    TrialState.ENDED_EARLY: Look("▼", "triangle-down", "/", "--ended"),
    TrialState.OVER_BUDGET: Look("▽", "triangle-down-open", "", "--ended"),
    TrialState.STOPPED: Look("■", "square", "-", "--ended"),
    TrialState.FAILED: Look("✖", "x", "x", "--failed"),
    TrialState.TIMED_OUT: Look("◔", "hourglass", "|", "--failed"),
    TrialState.KILLED: Look("✚", "cross", "+", "--failed"),
    TrialState.OUT_OF_MEMORY: Look("▲", "triangle-up", "/", "--failed"),
    TrialState.NO_RESULT: Look("○", "circle-open", "\\", "--odd"),
    TrialState.NOT_A_NUMBER: Look("◇", "diamond-open", "/", "--odd"),
    TrialState.BAD_RESULT: Look("□", "square-open", "x", "--odd"),
}


def measure(name: str) -> str:
    """Return what the measure `name` is called."""
    return _MEASURES.get(name, name)


def number(value: Any) -> str:
    """Return a number in at most five digits, whole ones in full, anything else as it is."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def duration(seconds: float | None) -> str:
    """Return seconds as ``7.3 s``, ``12:40`` or ``3:05:00``."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def short(name: str, width: int = 36) -> str:
    """Return `name` with its middle left out where it is longer than `width`."""
    return name if len(name) <= width else f"{name[: width // 2 - 1]}…{name[-(width // 2) :]}"
