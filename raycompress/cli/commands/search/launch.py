"""``raycompress launch`` and ``raycompress run``: the main road."""

from __future__ import annotations

import json
import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raycompress.cli.commands.search.from_script import Asked, experiment_of, script_options
from raycompress.cli.options import cluster_options, dashboard_option, job_options, ray_of, say, watching
from raycompress.cli.view import goals
from raycompress.cli.view.tables import shown as _shown
from raycompress.errors import NoValidTrialError, RaycompressError, StoppedError, UsageError
from raycompress.tuning.faults import FULL, GONE, is_outside

if TYPE_CHECKING:
    from raycompress.experiment.schema import Experiment
    from raycompress.results.record import Experiment as Record

_MENDS = {FULL: "free some space", GONE: "put the script back"}
"""What to do about a failure, by how its cause begins."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@script_options
@dashboard_option
@job_options
@cluster_options
@click.option("--id", "name", hidden=True, help="What the experiment is to be called.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def launch(
    file: Path,
    dashboard: bool,
    on_ray: str | None,
    events: bool,
    name: str | None,
    as_json: bool,
    cluster: str | None,
    asked: Asked,
    **cluster_settings: Any,
) -> None:
    """Run the experiment in FILE, one-time or automatic, on this machine or with --cluster on a Ray cluster.

    FILE may be a training script instead, with what is wanted of its model: --target-flops 0.5 --max-drop 0.01. Its
    experiment file is written, printed and run; with --dry-run it is not run.

    The best model and its mask are kept as one bundle; everything else of the trials but their logs is deleted.
    Ctrl-C stops the search and keeps the best model so far.
    """
    from raycompress.experiment.preflight import load_checked
    from raycompress.tuning.launch import launch as launch_search

    if asked.is_script(file):
        file = experiment_of(file, asked)
        if cluster is None and cluster_settings["dry_run"]:
            return
    if cluster is not None:
        from raycompress.cli.commands.search.on_cluster import Options, launch_on_cluster

        launch_on_cluster(file, cluster, Options(**cluster_settings, as_json=as_json))
        return
    if events:
        with watching(events) as view:
            conclude(launch_search(load_checked(file), view, ray=ray_of(on_ray, dashboard), name=name), quiet=True)
        return
    if cluster_settings["dry_run"]:
        from raycompress.cli.commands.experiment.plan import show

        show(load_checked(file), as_json)
        return
    _run(load_checked(file), dashboard, as_json)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@dashboard_option
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def run(file: Path, dashboard: bool, as_json: bool) -> None:
    """Run the one-time experiment in FILE: every value is given, so there is one trial beside the dense model's."""
    from raycompress.experiment.preflight import load_checked

    experiment = load_checked(file)
    if experiment.is_automatic:
        raise UsageError(
            "this experiment has search ranges, and `run` takes one without",
            where=str(file),
            fix=f"`raycompress launch {file}`, or write values where the ranges stand",
        )
    _run(experiment, dashboard, as_json)


def _run(experiment: Experiment, dashboard: bool, as_json: bool) -> None:
    from raycompress.tuning.launch import launch as launch_search

    if dashboard and experiment.proposer == "passive":
        raise UsageError(
            "a passive trial runs without Ray, which has no dashboard then",
            where="--dashboard",
            fix="leave --dashboard out, or take another proposer",
        )
    with watching(False, live=experiment.proposer != "passive") as view:  # there the terminal is the script's
        record = launch_search(experiment, view, ray=ray_of(None, dashboard))
    conclude(record, as_json)


def conclude(record: Record, as_json: bool = False, *, quiet: bool = False) -> None:
    """Print what a search found, unless `quiet`, and raise what kept it from its end."""
    text = f"{summary(record)}\nnext:   raycompress best {shlex.quote(_shown(record.folder.reference))}"
    if as_json:
        click.echo(json.dumps(outcome(record), indent=2))
    elif not quiet:
        say(text)
    failure = _failure(record)
    if failure is not None:
        raise failure


def outcome(record: Record) -> dict[str, object]:
    """Return what a launch found, as JSON data."""
    best = record.best
    states: dict[str, int] = {}
    for trial in record.searched:
        states[str(trial.state)] = states.get(str(trial.state), 0) + 1
    return {
        "experiment": record.id,
        "state": record.state,
        "trials": states,
        "best": None
        if best is None
        else {
            "trial": best.number,
            "values": best.values,
            "sample": best.sample,
            "removed": best.removed,
            "notes": best.notes,
            "feasible": record.is_feasible(best),
        },
        "front": [trial.number for trial in record.pareto] if len(record.objective.goals) > 1 else None,
        "baseline": record.baseline.values if record.baseline is not None else None,
        "verified": record.verified,
        "bundle": _bundle(record),
    }


def _bundle(record: Record) -> str | None:
    number, folder = record.best_number, record.folder
    return None if number is None else folder.place(folder.candidate(number))


def summary(record: Record) -> str:
    """Return what a launch found, for people."""
    from raycompress.cli.view.tables import before_and_after, columns
    from raycompress.results import latency

    best = record.best
    if best is None:
        return f"{record.id}: no trial finished with a result"
    again = "" if best.repeat_of is None else f" (trial {best.repeat_of} again, with another seed)"
    word = "nearest" if goals.infeasible(record) is not None else "best"
    lines = [
        f"{word} of {len(record.searched)} trial{'s' * (len(record.searched) != 1)}: trial {best.number}{again}",
        "",
    ]
    lines.append(columns([("", "dense", "best", "left"), *before_and_after(record)]))
    lines += goals.lines(record)
    if best.removed:
        gone = (best.after or {}).get("params") != (best.before or {}).get("params")
        removed = ", ".join(f"{layer} {count} of {of}" for layer, (count, of) in best.removed.items())
        words = "channels removed" if gone else "channels masked, none cut out (no apply_speedup)"
        lines += ["", textwrap.fill(f"{words}: {removed}", 79, subsequent_indent="    ")]
    measured = record.verified or {}
    slow = latency.warning(measured.get("before"), measured.get("after"))
    for note in (*best.notes, *([slow] if slow else [])):
        lines += ["", textwrap.fill(f"note: {note}", 79, subsequent_indent="    ")]
    if (bundle := _bundle(record)) is not None:
        lines += ["", f"model:  {bundle if record.folder.is_remote else _shown(record.folder.best_link)}"]
        if record.verified is not None:
            difference = record.verified["relative_difference"]
            lines.append(
                f"        reloaded in a fresh process; its outputs differ by {difference:.1g} from the saved ones"
            )
    else:
        lines += ["", "model:  none; the script saved none"]
    return "\n".join(lines)


def _failure(record: Record) -> RaycompressError | None:
    detail = record.finished_detail
    resume = f"raycompress resume {shlex.quote(_shown(record.folder.reference))}"
    if record.state == "stopped":
        kept = "the best model so far is kept" if record.best_number is not None else "the results so far are kept"
        again = "launch again" if record.header["proposer"] == "passive" else f"{resume} goes on with it"
        stopped = StoppedError(f"the search was {detail}; {kept}", where=record.folder.reference, fix=again)
        if record.best is None:
            stopped.exit_code = 130
        return stopped
    failures = [trial for trial in record.records.values() if trial.state.is_failure]
    failed = max(failures, key=lambda trial: trial.started + (trial.seconds or 0), default=None)
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
    if (error := goals.infeasible(record)) is not None:
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
