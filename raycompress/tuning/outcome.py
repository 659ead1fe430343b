"""What becomes of a trial that has ended: the facts for the journal, and its candidate, sealed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raycompress.errors import BundleError, RaycompressError
from raycompress.results.states import TrialState
from raycompress.results.store import ExperimentFolder
from raycompress.tuning.protocol import Ending

FACTS = ("state", "cause", "values", "score", "seconds", "before", "after", "removed", "notes", "saved")
"""What the journal's event ``ended`` says beside the trial's number and its log."""

NOTHING: Mapping[str, Any] = {**dict.fromkeys(FACTS), "removed": {}, "notes": [], "saved": False}
"""The facts of a trial that left nothing."""


def facts_of(ending: Ending, *, baseline: bool, seconds: float) -> dict[str, Any]:
    """Return the facts of a trial, or of one of its runs.

    Parameters
    ----------
    baseline
        Whether it is the dense model's, which keeps nothing.
    seconds
        What the trial has taken so far, all its runs together.
    """
    finished = ending.state == TrialState.FINISHED
    candidate = ending.candidate if finished else None
    return {
        "state": ending.state,
        "cause": ending.cause,
        "values": ending.values,
        "score": first(ending.values) if finished else None,
        "seconds": round(seconds, 4),
        "before": candidate and candidate["before"],
        "after": candidate and candidate["after"],
        "removed": candidate["removed"] if candidate else {},
        "notes": candidate["notes"] if candidate else [],
        "saved": candidate is not None and not baseline,
    }


def sealed(folder: ExperimentFolder, trial: Mapping[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Write what is known of a trial into its candidate: ``number``, ``sample`` and ``seed`` of `trial`, and facts.

    Returns
    -------
    The facts; those of a failure where the candidate is not whole, or not as it was saved.
    """
    from raycompress.results import bundle

    candidate = folder.candidate(trial["number"])
    about = {name: trial[name] for name in ("sample", "seed")}
    measured = {"metrics": facts["values"], "seconds": facts["seconds"]}
    try:
        bundle.seal(candidate, {"experiment": folder.id, "trial": trial["number"], **about, **measured})
        bundle.check_hashes(candidate)
    except BundleError as error:
        return failed(error.problems[0].what, facts)
    except OSError as error:
        return failed(f"its model cannot be kept: {error.strerror}", facts)
    return facts


def delivered(folder: ExperimentFolder, number: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Have the log of trial `number`, and what it saved, where the search looks for them.

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
    """Return the facts of a trial that came to nothing after `facts` were known of it."""
    told = {"values": facts["values"], "seconds": facts["seconds"]}
    return {**NOTHING, **told, "state": TrialState.FAILED, "cause": cause}


def first(values: Mapping[str, float] | None) -> float | None:
    """Return the objective among the values of a result: the first; None without a result."""
    return next(iter(values.values()), None) if values else None
