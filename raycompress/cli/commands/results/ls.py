"""``raycompress ls``: the experiments in a results folder."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from raycompress.cli.options import json_option, print_text, storage_option
from raycompress.errors import StorageError

if TYPE_CHECKING:
    from raycompress.config.places import Storage


@click.command()
@storage_option
@json_option
def ls(storage: Storage, as_json: bool) -> None:
    """List the experiments in a results folder, the newest first."""
    from raycompress.cli.view.tables import columns, number
    from raycompress.results import store
    from raycompress.results.record import SearchRecord

    records = []
    for folder in store.list_folders(storage):
        try:
            records.append(SearchRecord(folder))
        except StorageError as error:  # the others are worth listing
            click.echo(str(error), err=True)
    if as_json:
        rows = [
            {
                "id": record.id,
                "state": record.state,
                "trials": len(record.searched),
                "best": record.best.score if record.best is not None else None,
                "started": record.header["t"],
                "folder": record.folder.reference,
            }
            for record in records
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    if not records:
        print_text(f"no experiment in {storage}", err=True)
        return
    table = [("experiment", "state", "trials", "best", "started")]
    for record in records:
        best = record.best.score if record.best is not None else None
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.header["t"]))
        table.append((record.id, record.state, str(len(record.searched)), number(best), started))
    print_text(columns(table, indent=0, left=(0, 1, 4)))
