"""Formatting of numbers, names and states in the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raycompress.states import TrialState


@dataclass(frozen=True)
class Look:
    """Sign, marker, pattern and colour of a trial state; states differ without their colours too.

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


Sizes = Mapping[str, float | None]
"""``flops``, and where they were measured ``latency_ms``, ``latency_low_ms`` and ``latency_high_ms`` of a model."""


def warning(before: Sizes | None, after: Sizes | None) -> str:
    """Say that the FLOPs fell and the latency did not; an empty text where it did, or where it was not measured.

    Parameters
    ----------
    before, after
        The dense model and the compressed one. The latency fell where the intervals of the two do not meet.

    Examples
    --------
    >>> warning(
    ...     {"flops": 100, "latency_ms": 2.0, "latency_low_ms": 1.9, "latency_high_ms": 2.1},
    ...     {"flops": 41, "latency_ms": 1.96, "latency_low_ms": 1.88, "latency_high_ms": 2.05},
    ... ).partition(":")[0]
    "FLOPs fell to 41 % and latency did not (98 % of the dense model's)"
    """
    flops, latency = _share(before, after, "flops"), _share(before, after, "latency_ms")
    low, high = (before or {}).get("latency_low_ms"), (after or {}).get("latency_high_ms")
    if flops is None or latency is None or low is None or high is None or flops >= 0.9 or high < low:
        return ""
    return (
        f"FLOPs fell to {100 * flops:.0f} % and latency did not ({100 * latency:.0f} % of the dense model's): channels "
        'that are no multiple of 8, or layers too small to matter; "round_to": 8 and fewer, wider cuts help'
    )


def _share(before: Sizes | None, after: Sizes | None, name: str) -> float | None:
    whole, rest = (before or {}).get(name), (after or {}).get(name)
    return rest / whole if whole and rest is not None else None
