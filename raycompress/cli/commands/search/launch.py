"""``raycompress launch`` and ``raycompress run``: run an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raycompress.cli.commands.search.from_script import (
    ScriptOptions,
    script_options,
    with_target,
    write_experiment,
)
from raycompress.cli.options import cluster_options, dashboard_option, job_options, ray_of, watching
from raycompress.cli.view.conclusion import conclude
from raycompress.errors import UsageError

if TYPE_CHECKING:
    from raycompress.config.experiment import Experiment


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
    script: ScriptOptions,
    **cluster_settings: Any,
) -> None:
    """Run the experiment in FILE, one-time or automatic, on this machine or with --cluster on a Ray cluster.

    FILE may be a training script instead, with what is wanted of its model: --target-flops 0.5 --max-drop 0.01. Its
    experiment file is written, printed and run; with --dry-run it is not run.

    The best model and its mask are kept as one bundle; everything else of the trials but their logs is deleted.
    Ctrl-C stops the search and keeps the best model so far.
    """
    from raycompress.config.checks.preflight import load_checked
    from raycompress.session.launch import launch as launch_search

    if script.is_script(file):
        file = write_experiment(file, script)
        if cluster is None and cluster_settings["dry_run"]:
            return
    elif script.target is not None:
        file = with_target(file, script)
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
    from raycompress.config.checks.preflight import load_checked

    experiment = load_checked(file)
    if experiment.is_automatic:
        raise UsageError(
            "this experiment has search ranges, and `run` takes one without",
            where=str(file),
            fix=f"`raycompress launch {file}`, or write values where the ranges stand",
        )
    _run(experiment, dashboard, as_json)


def _run(experiment: Experiment, dashboard: bool, as_json: bool) -> None:
    from raycompress.session.launch import launch as launch_search

    if dashboard and experiment.proposer == "passive":
        raise UsageError(
            "a passive trial runs without Ray, which has no dashboard then",
            where="--dashboard",
            fix="leave --dashboard out, or take another proposer",
        )
    with watching(False, live=experiment.proposer != "passive") as view:  # there the terminal is the script's
        record = launch_search(experiment, view, ray=ray_of(None, dashboard))
    conclude(record, as_json)
