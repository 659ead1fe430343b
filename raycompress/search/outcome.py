"""The outcome of a trial: the fields of its journal event ``ended``, and its candidate sealed and delivered."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raycompress.config.objective import Objective, is_measured
from raycompress.deployment.target import AWAY
from raycompress.errors import BundleError, RaycompressError
from raycompress.results.folder import ExperimentFolder
from raycompress.runtime.protocol import Ending
from raycompress.states import TrialState
from raycompress.text import join_names

FACTS = (
    *("state", "cause", "values", "score", "seconds", "before", "after", "removed", "notes", "saved"),
    *("weights", "unread", "files", "shared"),
)
"""What the journal's event ``ended`` says beside the trial's number and its log."""

NOTHING: Mapping[str, Any] = {
    **dict.fromkeys(FACTS),
    **{"removed": {}, "notes": [], "saved": False},
    **{"weights": "", "unread": [], "files": [], "shared": []},
}
"""The facts of a trial that left nothing."""


def facts_of(ending: Ending, objective: Objective, *, baseline: bool, seconds: float) -> dict[str, Any]:
    """Return the fields of the event ``ended`` for a trial, or for one run of it.

    A trial that does not report what the objective is about has failed.

    Parameters
    ----------
    objective
        What the search is after.
    baseline
        Whether it is the dense model's, which keeps nothing.
    seconds
        What the trial has taken so far, all its runs together.
    """
    finished = ending.state == TrialState.FINISHED
    candidate = ending.candidate if finished else None
    facts = {
        "state": ending.state,
        "cause": ending.cause,
        "values": ending.values,
        "score": None,
        "seconds": round(seconds, 4),
        "before": candidate and candidate["before"],
        "after": candidate and candidate["after"],
        "removed": candidate["removed"] if candidate else {},
        "notes": candidate["notes"] if candidate else [],
        "saved": candidate is not None and not baseline,
        "weights": "",
        **{name: ending.left[name] if finished and ending.left else [] for name in ("unread", "shared")},
        "files": list(ending.files),
    }
    if not finished:
        return facts
    metrics = objective.metrics_of(ending.values, candidate and candidate["before"], candidate and candidate["after"])
    lacking = [name for name in objective.undecided(metrics) if not (baseline and is_measured(name))]
    if lacking:
        return {**failed(_missing_metric_cause(lacking, ending.values), facts), "state": TrialState.BAD_RESULT}
    return {**facts, "score": objective.score(metrics)}


def _missing_metric_cause(lacking: Sequence[str], values: Mapping[str, float] | None) -> str:
    if is_measured(lacking[0]):
        return f'no model was saved whose "{lacking[0]}" could be measured: call export_model at the end of the script'
    reported = f"it reports {join_names(values or ())}"
    return f'the script reports no "{lacking[0]}", which the objectives or constraints name: {reported}'


def sealed(folder: ExperimentFolder, trial: Mapping[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Write number, sample, seed and metrics of a trial into its candidate, and check the hashes of its files.

    Returns
    -------
    The facts; those of a failure where the candidate is not whole, or not as it was saved.
    """
    from raycompress.bundle import bundle

    candidate = folder.candidate(trial["number"])
    about = {name: trial[name] for name in ("sample", "seed")}
    measured = {"metrics": facts["values"], "seconds": facts["seconds"]}
    try:
        bundle.seal(candidate, {"experiment": folder.id, "trial": trial["number"], **about, **measured})
        bundle.check_hashes(candidate)
        files = bundle.read(candidate).files  # what computes in int8 holds its weights in the ONNX file alone
        weights = files.get(bundle.INT8_ONNX, files.get(bundle.WEIGHTS))
    except BundleError as error:
        return failed(error.problems[0].what, facts)
    except OSError as error:
        return failed(f"its model cannot be kept: {error.strerror}", facts)
    return {**facts, "weights": weights.sha256 if weights is not None and weights.bytes else ""}


def delivered(folder: ExperimentFolder, number: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Move the log and the candidate of trial `number` to where the results are kept.

    Returns
    -------
    The facts; those of a failure where this cannot be done.
    """
    try:
        folder.deliver(number, saved=facts["saved"])
    except (RaycompressError, OSError) as error:
        cause = error.problems[0].what if isinstance(error, RaycompressError) else f"its files cannot be kept: {error}"
        return failed(cause, facts)
    return dict(facts)


def failed(cause: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a trial that failed after `facts` were known."""
    known = {"values": facts["values"], "seconds": facts["seconds"], "files": facts["files"]}
    return {**NOTHING, **known, "state": TrialState.FAILED, "cause": cause}


FULL = "the disk is full"
GONE = "cannot run the script"
"""How the causes of such failures begin."""

_DISK_FULL_MESSAGES = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
_NEXT_TO_NOTHING = 64 << 10
"""Bytes that are free; what failed to be written whole has filled the disk up to less, unless it was deleted since."""


def named(cause: str, folder: Path) -> str:
    """Return the cause of a failure, preceded by "the disk is full" where the disk of `folder` is.

    Not every library says so: torch's words are "file write failed".
    """
    return f"{FULL}: {cause}" if any(message in cause for message in _DISK_FULL_MESSAGES) or _is_full(folder) else cause


def is_outside(cause: str) -> bool:
    """Tell whether a failure comes from outside the trial (full disk, missing script, device); see `named`."""
    return cause.startswith((FULL, GONE, AWAY))


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _NEXT_TO_NOTHING
    except FileNotFoundError:
        return False
