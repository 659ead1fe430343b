"""Reading of the messages of a script's process: lines of its pipe, checked, since anything can write to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from raycompress.shapes import Shape, fits
from raycompress.states import TrialState

_SIZES: Shape = {"params": int, "flops": (int, None), "size_bytes": int}
_MEASURED: Shape = {**_SIZES, "latency_ms": float, "cpu_ms": float}
_LAYER: Shape = {
    **{"name": str, "type": str, "channels": int, "parameters": int},
    **{"flops": (int, None), "weight_shape": [int]},
}
_MODEL: Shape = {
    "layers": [_LAYER],
    "ties": ([[str]], None),
    "output_layers": [str],
    "parameters": int,
    "flops": (int, None),
    "size_bytes": int,
    "input_shapes": ([[int]], None),
}
_CURVE: Shape = {"layers": [str], "size": int, "removed": [int], "values": [(float, None)]}
_COST: Shape = {"name": str, "type": str, "channels": int, "params": int, "flops": int, "cpu_ms": float, "share": float}
_ANALYSIS: Shape = {
    "model": str,
    "sensitivity": {
        **{"metric": str, "method": str, "dense": (float, None), "sparsities": [float], "curves": [_CURVE]},
        "left_out": {str: str},
    },
    "dependency": ({"sets": [[str]]}, None),
    "cost": {"layers": [_COST], "params": int, "flops": int, "size_bytes": int, "latency_ms": float, "cpu_ms": float},
    "notes": [str],
}
_PRIOR: Shape = {
    **{"dense": float, "curves": {str: [[(float, bool)]]}, "candidates": [{"sample": dict, "score": float}]},
    **{"metric": str, "seconds": float},
}
_RESULT: Shape = {str: (int, float, "nan", "inf", "-inf")}
SHAPES: Mapping[str, Shape] = {
    "done": {},
    "result": {"values": _RESULT},
    "candidate": {"before": _SIZES, "after": _SIZES, "removed": {str: [int]}, "notes": [str]},
    "failure": {
        **{
            "state": (TrialState.FAILED, TrialState.BAD_RESULT, TrialState.OUT_OF_MEMORY, TrialState.OVER_BUDGET),
            "error": str,
            "message": str,
            "frame": str,
        },
        "exit_code": int,
    },
    "model": {"model": _MODEL},
    "verified": {"relative_difference": float, "before": _MEASURED, "after": _MEASURED},
    "progress": {"done": int, "total": int, "layer": str},
    "analysis": {"analysis": _ANALYSIS},
    "rung0": {"score": float},
    "checkpoint": {"results": int},
    "agreed": {"number": int},
    "continued": {
        **{"results": int, "at": dict, "seconds": float, "unused": str},
        **{"values": _RESULT, "history": [_RESULT]},
    },
    "prior": {"prior": _PRIOR},
    "given": {"differs": dict, "where": str},
    "left": {"reads": ([str], None), "unread": [str], "shared": [str]},
    "refused": {"problems": [{"what": str, "where": str, "fix": str}]},
}
"""Type of a message -> what it holds; docs/architecture.md says what it means."""


def parse_message(line: bytes) -> dict[str, Any] | None:
    """Return the message in a line of JSON; None where it is not a known message."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if is_valid(message) else None


def is_valid(message: Any) -> bool:
    """Tell whether `message` has a known type and the fields of that type."""
    if not fits(message, {"type": str}) or not fits(message, SHAPES.get(message["type"], ())):
        return False
    if message["type"] == "result":
        return bool(message["values"])
    return message["type"] != "candidate" or _is_sound(message)


def _is_sound(candidate: dict[str, Any]) -> bool:
    """Tell whether all that a candidate's sizes hold, latencies among them, are numbers, and what it lost are pairs."""
    measured = all(fits(candidate[side], {str: (float, None)}) for side in ("before", "after"))
    return measured and all(len(pair) == 2 for pair in candidate["removed"].values())


class Lines:
    """Cuts a stream of bytes into lines.

    Parameters
    ----------
    limit
        Of a line that is longer only the last part is kept: whoever writes without an end fills no memory.
    """

    def __init__(self, limit: int = 256 << 20) -> None:
        self._rest = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that `data` completes, without their ends."""
        self._rest += data
        if b"\n" not in data:
            if len(self._rest) > self._limit:
                del self._rest[: self._limit // 2]
            return
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        yield from lines
