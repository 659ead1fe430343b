"""What each event of a journal must hold to be understood; `raycompress.results.journal.journal` says what it means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raycompress.shapes import Shape, fits
from raycompress.states import TrialState

_VALUES: Shape = {str: (float, None)}
_PROCESS: Shape = {"host": str, "pid": int}
SHAPES: Mapping[str, Shape] = {
    "experiment": {
        **{"version": int, "id": str, "name": str, "file": str, "script": str, "compressor": str, "proposer": str},
        **{"n_trials": int, "n_parallel": int, "goal": ("max", "min"), "dimensions": [str], **_PROCESS},
    },
    "resumed": {"n_trials": int, "n_parallel": int, **_PROCESS, "file": (str, ...), "script": (str, ...)},
    "started": {"trial": int, "sample": dict, "config": dict, "baseline": bool},
    "intermediate": {"trial": int, "step": int, "values": _VALUES},
    "rung0": {"trial": int, "score": float},
    "retried": {"trial": int, "attempt": int, "state": str, "cause": str},
    "ended": {
        **{"trial": int, "state": tuple(TrialState), "cause": str, "values": (_VALUES, None), "score": (float, None)},
        **{"seconds": (float, None), "before": (_VALUES, None), "after": (_VALUES, None), "removed": {str: [int]}},
        "saved": bool,
    },
    "repeated": {
        **{"chosen": int, "run": int, "ties": [int], "spread": float},
        "finalists": [{"trial": int, "runs": [int], "means": _VALUES, "spreads": _VALUES}],
    },
    "note": {"text": str},
    "promoted": {"trial": int, "score": float},
    "pruned": {"trial": int},
    "verified": {"trial": int, "relative_difference": float, "before": _VALUES, "after": _VALUES},
    "finished": {"reason": str, "detail": str},
}


def lacking(event: Mapping[str, Any]) -> list[str]:
    """Return the fields of a known event that are not there, or are not what they should be."""
    # ... is the shape of a field that may be left out
    return [name for name, shape in SHAPES[event["event"]].items() if not fits(event.get(name, ...), shape)]
