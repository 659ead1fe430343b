"""What kept a search from its end, or from a trial that counts, as an error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from raycompress.config.objective import Bound
from raycompress.errors import NoValidTrialError, RaycompressError, StoppedError
from raycompress.search.outcome import FULL, GONE, is_outside

if TYPE_CHECKING:
    from raycompress.results.record import SearchRecord

_NEAREST = 3
_MENDS = {FULL: "free some space", GONE: "put the script back"}
"""What to do about a failure, by how its cause begins."""


def failure(record: SearchRecord, resume: str) -> RaycompressError | None:
    """Return the error that says why a search has no best trial, or was stopped; None where all is well.

    Parameters
    ----------
    resume
        What goes on with the search: a command or a call.
    """
    detail = record.finished_detail
    if record.state == "stopped":
        kept = "the best model so far is kept" if record.best_number is not None else "the results so far are kept"
        again = "launch again" if record.header["proposer"] == "passive" else f"{resume} goes on with it"
        stopped = StoppedError(f"the search was {detail}; {kept}", where=record.folder.reference, fix=again)
        if record.best is None:
            stopped.exit_code = 130
        return stopped
    failures = [trial for trial in record.records.values() if trial.state.is_failure]
    failed = max(failures, key=lambda trial: trial.started + (trial.last_start_seconds or 0), default=None)
    if record.state == "failure" and failed is not None:
        mend = next((fix for cause, fix in _MENDS.items() if failed.cause.startswith(cause)), "mend the script")
        is_needed = failed.baseline and record.objective.needs_dense_result  # no trial can be judged without
        outside = is_outside(failed.cause) or is_needed
        otherwise = "" if outside else '; "job_failure": {"ignore_fail": true} goes on after failures'
        return NoValidTrialError(
            f"{detail}; the search was ended there",
            where=record.folder.place(record.folder.log(failed.number)),
            fix=f"{mend}, and {resume} makes it again{otherwise}",
        )
    if (error := infeasible(record)) is not None:
        return error
    if record.best is None:
        folder = record.folder
        where = folder.place(folder.log(failed.number)) if failed is not None else folder.reference
        return NoValidTrialError(
            "no trial finished with a result" + (f"; trial {failed.number}: {failed.cause}" if failed else ""),
            where=where,
            fix="read the log of the trial, or raise time_budget_s or trial_timeout_s where time ran out",
        )
    return None


def infeasible(record: SearchRecord) -> NoValidTrialError | None:
    """Return the error of a search in which no trial keeps to all constraints; None where one does."""
    judged = record.ranking.judged
    if not record.objective.bounds or not judged or any(one.is_feasible for one in judged.values()):
        return None
    nearest = sorted(judged, key=lambda trial: (judged[trial].violation, judged[trial].costs, trial))[:_NEAREST]
    details = [f"        {line}" for trial in nearest for line in _broken(record, trial)]
    fix = "relax what the nearest trials break, or search on (`raycompress resume --n-samples N`):"
    return NoValidTrialError(
        f"no trial of {len(judged)} keeps to all constraints; the nearest is trial {nearest[0]}",
        where=record.folder.reference,
        fix="\n".join([fix, *details]),
    )


def _broken(record: SearchRecord, trial: int) -> Iterator[str]:
    metrics, dense, judged = record.ranking.metrics(trial), record.ranking.dense(trial), record.ranking.judged[trial]
    for bound, excess in zip(record.objective.bounds, judged.excesses, strict=True):
        if excess > 0:
            value, reference = metrics[bound.metric], dense.get(bound.metric, math.nan)
            yield (
                f"trial {trial}: {bound.metric} is {number(value)}, and {number(bound.end(reference))} "
                f"{'is the most' if bound.is_ceiling else 'is the least'}; "
                f'"{bound.limit}": {_relaxed(bound, value, reference):.4g} would allow it'
            )


def _relaxed(bound: Bound, value: float, dense: float) -> float:
    """Return the value of the constraint that `value` just keeps to, rounded to its side."""
    exact = {
        "min": value,
        "max": value,
        "min_ratio": value / dense if dense else math.nan,
        "max_ratio": value / dense if dense else math.nan,
        "max_drop": dense - value,
        "max_rise": value - dense,
    }[bound.limit]
    if not math.isfinite(exact) or exact == 0:
        return exact
    step = 10.0 ** (math.floor(math.log10(abs(exact))) - 2)
    down = bound.limit in ("min", "min_ratio")
    return (math.floor(exact / step) if down else math.ceil(exact / step)) * step


def number(value: float) -> str:
    """Return a metric's value in at most five digits, whole ones in full."""
    return f"{int(value):,}" if float(value).is_integer() else f"{value:.5g}"
