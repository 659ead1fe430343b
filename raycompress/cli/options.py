"""Options and arguments that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from raycompress.printable import printable

if TYPE_CHECKING:
    from raycompress.cli.live import LiveView
    from raycompress.results.record import Experiment
    from raycompress.tuning.launch import RayHere
    from raycompress.tuning.relay import RelayView

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_STORAGE = "raycompress_results"

storage_option = click.option(
    "--storage",
    type=click.Path(path_type=Path),
    default=DEFAULT_STORAGE,
    show_default=True,
    help="The results folder to look in.",
)
dashboard_option = click.option("--dashboard", is_flag=True, help="Start Ray's dashboard, and its metrics, beside it.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def job_options(command: Command) -> Command:
    """Add what a job of a cluster is told by the `launch --cluster` that submitted it; not for people."""
    on_ray = click.option("--on-ray", metavar="ADDRESS", hidden=True, help="Run on this Ray cluster; auto: on its own.")
    events = click.option(
        "--events", is_flag=True, hidden=True, help="Print what happens for another raycompress to read."
    )
    return on_ray(events(command))


def experiment_argument(command: Command) -> Command:
    """Add the optional EXPERIMENT argument and where to look for it."""
    return click.argument("experiment", required=False)(storage_option(command))


def say(text: str, *, err: bool = False) -> None:
    """Print words for people: whatever a script, a file or a journal put into them, no control character."""
    click.echo(printable(text, lines=True), err=err)


def open_record(experiment: str | None, storage: Path) -> Experiment:
    """Return the record of the experiment that a verb was given; the newest one without a name."""
    from raycompress.results import store
    from raycompress.results.record import Experiment

    return Experiment(store.find(experiment, storage))


def watching(events: bool, *, live: bool = True) -> LiveView | RelayView:
    """Return who watches a search: the terminal, or whoever reads this job's output."""
    from raycompress.cli.live import LiveView
    from raycompress.tuning.relay import RelayView

    return RelayView() if events else LiveView(live=live)


def ray_of(on_ray: str | None, dashboard: bool) -> RayHere:
    """Return the Ray to run on, not started: this machine's own, or a cluster's."""
    if on_ray is not None:
        from raycompress.tuning.cluster_ray import ClusterRay

        return ClusterRay(on_ray)
    from raycompress.tuning.dashboard import check_libraries
    from raycompress.tuning.local_ray import LocalRay, machine_cpus

    if dashboard:
        check_libraries()
    return LocalRay(machine_cpus(), dashboard=dashboard)
