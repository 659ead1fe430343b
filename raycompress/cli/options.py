"""Options and arguments that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from raycompress.config.places import S3Address, Storage, is_remote
from raycompress.text import printable

if TYPE_CHECKING:
    from raycompress.cli.view.live import LiveView
    from raycompress.results.record import SearchRecord
    from raycompress.search.watch.relay import RelayView
    from raycompress.session.launch import RayHere

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_STORAGE = "raycompress_results"


class _StorageType(click.ParamType[Storage]):
    name = "PATH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Storage:
        if not isinstance(value, str) or not is_remote(value):
            return Path(value)
        try:
            return S3Address.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


storage_option = click.option(
    "--storage",
    type=_StorageType(),
    default=DEFAULT_STORAGE,
    show_default=True,
    help="The results folder to look in, or s3://bucket/prefix.",
)
dashboard_option = click.option("--dashboard", is_flag=True, help="Start Ray's dashboard, and its metrics, beside it.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def job_options(command: Command) -> Command:
    """Add the hidden options that `launch --cluster` gives to the job that it submits."""
    on_ray = click.option("--on-ray", metavar="ADDRESS", hidden=True, help="Run on this Ray cluster; auto: on its own.")
    events = click.option(
        "--events", is_flag=True, hidden=True, help="Print what happens for another raycompress to read."
    )
    return on_ray(events(command))


def cluster_options(command: Command) -> Command:
    """Add the options of a search on a cluster."""
    options = (
        click.option("--cluster", metavar="FILE|ADDRESS", help="A Ray cluster file, or the URL of a Jobs API."),
        click.option("-y", "--yes", is_flag=True, help="Start the cluster without asking."),
        click.option("--dry-run", is_flag=True, help="Check and show the plan; start nothing."),
        click.option("--max-cost", type=float, metavar="DOLLARS", help="Start no cluster that costs more an hour."),
        click.option("--keep", is_flag=True, help="Leave the cluster up afterwards."),
        click.option(
            "--detach", is_flag=True, help="Return once the search has begun; it runs on without this command."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def experiment_argument(command: Command) -> Command:
    """Add the optional EXPERIMENT argument and where to look for it."""
    return click.argument("experiment", required=False)(storage_option(command))


def print_text(text: str, *, err: bool = False) -> None:
    """Print text for people, with control characters escaped, since it may come from a script or a file."""
    click.echo(printable(text, lines=True), err=err)


def open_record(experiment: str | None, storage: Storage) -> SearchRecord:
    """Return the record of the experiment that a verb was given; the newest one without a name."""
    from raycompress.results import store
    from raycompress.results.record import SearchRecord

    return SearchRecord(store.find(experiment, storage))


def watching(events: bool, *, live: bool = True) -> LiveView | RelayView:
    """Return the view of a search: the terminal's, or the one of a cluster job."""
    if events:  # as a job, whose nodes need not have what a terminal's view takes
        from raycompress.search.watch.relay import RelayView

        return RelayView()
    from raycompress.cli.view.live import LiveView

    return LiveView(live=live)


def ray_of(on_ray: str | None, dashboard: bool) -> RayHere:
    """Return the Ray to run on, not started: this machine's own, or a cluster's."""
    if on_ray is not None:
        from raycompress.backend.ray.cluster import ClusterRay

        return ClusterRay(on_ray)
    from raycompress.backend.ray.dashboard import check_libraries
    from raycompress.backend.ray.local import LocalRay
    from raycompress.runtime.machine import machine_cpus

    if dashboard:
        check_libraries()
    return LocalRay(machine_cpus(), dashboard=dashboard)
