"""``raycompress doctor``: checks this machine and a cluster file."""

from __future__ import annotations

import json

import click

from raycompress.cli.options import DEFAULT_STORAGE, json_option


@click.command()
@click.option("--cluster", metavar="FILE", help="Check this cluster file too, and ask its provider.")
@click.option("--storage", default=DEFAULT_STORAGE, show_default=True, help="Where results are to go.")
@click.option("--deep", is_flag=True, help="Start Ray, too, which takes some seconds.")
@json_option
def doctor(cluster: str | None, storage: str, deep: bool, as_json: bool) -> int:
    """Check what works on this machine, and with a cluster file; each fault comes with its fix.

    Exit code 1 when something will not work. Without --cluster no network is asked.
    """
    from raycompress.cli.view import checks
    from raycompress.doctor.examine import examine

    found = list(examine(storage, cluster, deep=deep))
    if as_json:
        click.echo(json.dumps(checks.as_data(found), indent=2))
    else:
        checks.show(found)
    return 1 if checks.has_failed(found) else 0
