"""Options and arguments that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from raycompress.experiment.address import S3Address, Storage, is_remote
from raycompress.printable import printable

if TYPE_CHECKING:
    from raycompress.results.record import Experiment
    from raycompress.tuning.local_ray import LocalRay

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


def experiment_argument(command: Command) -> Command:
    """Add the optional EXPERIMENT argument and where to look for it."""
    return click.argument("experiment", required=False)(storage_option(command))


def say(text: str, *, err: bool = False) -> None:
    """Print words for people: whatever a script, a file or a journal put into them, no control character."""
    click.echo(printable(text, lines=True), err=err)


def open_record(experiment: str | None, storage: Storage) -> Experiment:
    """Return the record of the experiment that a verb was given; the newest one without a name."""
    from raycompress.results import store
    from raycompress.results.record import Experiment

    return Experiment(store.find(experiment, storage))


def local_ray(dashboard: bool) -> LocalRay:
    """Return the Ray of this machine, not started; one with a dashboard needs the libraries for it."""
    from raycompress.tuning.dashboard import check_libraries
    from raycompress.tuning.local_ray import LocalRay, machine_cpus

    if dashboard:
        check_libraries()
    return LocalRay(machine_cpus(), dashboard=dashboard)
