"""``raycompress doctor``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raycompress.cli.options import json_option, storage_option

if TYPE_CHECKING:
    from raycompress.clusters.check import Check


@click.command()
@click.option("--cluster", "reference", metavar="FILE", help="Look at this cluster file, and what it needs, as well.")
@click.option("--deep", is_flag=True, help="Import torch and start Ray too; takes some seconds.")
@storage_option
@json_option
def doctor(reference: str | None, deep: bool, storage: Path, as_json: bool) -> int:
    """Show what works on this machine, and what does not, each with its fix. The exit code is 1 if something failed."""
    from raycompress.cli.checklist import print_checks

    checks = [*_machine(storage), *(_deep() if deep else ()), *(_cluster(reference) if reference else ())]
    if as_json:
        click.echo(json.dumps([check.as_json() for check in checks], indent=2))
    else:
        print_checks(checks)
    return 1 if any(check.state == "failed" for check in checks) else 0


def _machine(storage: Path) -> list[Check]:
    from raycompress.clusters.aws.credentials import credentials
    from raycompress.doctor import libraries, machine

    software = [*libraries.python(), *libraries.required(), *libraries.extras()]
    hardware = [*machine.processors(), *machine.memory(), *machine.shared_memory(), *machine.gpus()]
    return [*software, *hardware, *machine.disk(storage), *machine.ports(), *machine.programs(), *credentials()]


def _deep() -> list[Check]:
    from raycompress.doctor import deep, machine

    has_gpu = any(check.name == "GPUs" and not check.detail.startswith("none") for check in machine.gpus())
    return [*deep.torch(has_gpu), *deep.ray()]


def _cluster(reference: str) -> list[Check]:
    """Return the static mistakes of a cluster file as failures, or what its cloud says."""
    from raycompress.clusters import cloud, files
    from raycompress.clusters.check import Check, State
    from raycompress.errors import ClusterError

    try:
        loaded = files.load(files.find(reference))
    except ClusterError as error:
        return [Check("cluster file", State.FAILED, problem.what, problem) for problem in error.problems]
    return [Check("cluster file", State.OK, str(loaded.path)), *cloud.checks(loaded, "")]
