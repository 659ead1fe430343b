"""``raycompress logs``: the log of a trial, or a search on a cluster as it runs."""

from __future__ import annotations

import re
import shutil
import sys
from typing import TYPE_CHECKING, BinaryIO

import click

from raycompress.cli.options import experiment_argument, open_record, print_text
from raycompress.errors import UsageError

if TYPE_CHECKING:
    from raycompress.config.places import Storage

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@click.command()
@experiment_argument
@click.option("--trial", type=int, help="Its number; by default the last one that failed, or else the last.")
@click.option("-f", "--follow", is_flag=True, help="Follow a search on a cluster to its end, and fetch its results.")
def logs(experiment: str | None, storage: Storage, trial: int | None, follow: bool) -> None:
    """Print what a trial of EXPERIMENT printed, or with --follow what happens in a search on a cluster."""
    record = open_record(experiment, storage)
    if follow:
        from raycompress.cli.commands.search.on_cluster import follow_on_cluster

        follow_on_cluster(record.folder)
        return
    if trial is None:
        failed = [number for number, one in record.records.items() if one.state.is_failure]
        trial = max(failed or record.records, default=None)
    if trial is None or trial not in record.records:
        numbers = f"0 to {max(record.records)}" if record.records else "none so far"
        raise UsageError(f"no trial {trial}", where=record.folder.reference, fix=f"its trials: {numbers}")
    log = record.folder.fetch_log(trial)
    print_text(f"trial {trial}, {record.records[trial].state}: {record.folder.place(log)}", err=True)
    if log.exists():
        with log.open("rb") as file:
            _show(file)


def _show(log: BinaryIO) -> None:
    """Copy a log as it is; to a terminal, what it can be trusted with: no colours, nothing that moves the cursor."""
    if not sys.stdout.isatty():
        shutil.copyfileobj(log, sys.stdout.buffer)
        return
    for line in log:
        text = _COLOURS.sub("", line.decode(errors="replace"))
        print_text(text.rstrip("\r\n").replace("\r", "\n"))
