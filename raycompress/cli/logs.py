"""``raycompress logs``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from raycompress.cli.options import experiment_argument, open_record
from raycompress.errors import UsageError


@click.command()
@experiment_argument
@click.option("--trial", type=int, help="Its number; the last one that failed, or else the last one, by default.")
def logs(experiment: str | None, storage: Path, trial: int | None) -> None:
    """Print what a trial of EXPERIMENT printed."""
    record = open_record(experiment, storage)
    if trial is None:
        failed = [number for number, one in record.records.items() if one.state.is_failure]
        trial = max(failed or record.records, default=None)
    if trial is None or trial not in record.records:
        numbers = f"0 to {max(record.records)}" if record.records else "none so far"
        raise UsageError(f"no trial {trial}", where=str(record.folder.root), fix=f"its trials: {numbers}")
    log = record.folder.log(trial)
    click.echo(f"trial {trial}, {record.records[trial].state}: {log}", err=True)
    if log.exists():
        with log.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
