"""``raycompress doctor``: checks this machine and a cluster file, or deployment targets."""

from __future__ import annotations

import json

import click

from raycompress.cli.options import DEFAULT_STORAGE, json_option


@click.command()
@click.option("--cluster", metavar="FILE", help="Check this cluster file too, and ask its provider.")
@click.option(
    "--target",
    metavar="FILE|RUNTIME|JSON",
    help="Examine deployment targets instead: those of an experiment file, a runtime, or a target as JSON.",
)
@click.option("--storage", default=DEFAULT_STORAGE, show_default=True, help="Where results are to go.")
@click.option("--deep", is_flag=True, help="Start Ray, too, which takes some seconds.")
@json_option
def doctor(cluster: str | None, target: str | None, storage: str, deep: bool, as_json: bool) -> int:
    """Check what works on this machine, with a cluster file, or in a deployment target; each fault comes with its fix.

    Exit code 1 when something will not work. Without --cluster, or a target on another machine, no network is asked.
    """
    from raycompress.cli.view import checks
    from raycompress.doctor.examine import examine

    found = [] if target and not (cluster or deep) else list(examine(storage, cluster, deep=deep))
    if target is not None:
        from raycompress.doctor.targets import examine_targets

        found += examine_targets(target)
    if as_json:
        click.echo(json.dumps(checks.as_data(found), indent=2))
    else:
        checks.show(found)
    return 1 if checks.has_failed(found) else 0
