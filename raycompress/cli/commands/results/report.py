"""``raycompress report``: an experiment as an HTML page or as an Optuna study."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raycompress.cli.options import experiment_argument, open_record

if TYPE_CHECKING:
    from raycompress.config.places import Storage
    from raycompress.results.record import SearchRecord

EVERY_S = 5.0
_IDLE = 20
"""How many times longer than a page takes to write the writer rests: the cores belong to the trials."""


@click.command()
@experiment_argument
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The file to write; report.html in its folder by default."
)
@click.option("--live", is_flag=True, help="Write it again while the search runs; the open page follows.")
@click.option("--optuna", "study", help="Copy the trials into an Optuna study instead: an SQLite file, or an URL.")
def report(experiment: str | None, storage: Storage, output: Path | None, live: bool, study: str | None) -> None:
    """Write EXPERIMENT (its id, the beginning of one, or its folder; the newest by default) as one HTML page.

    The page holds everything and needs no network.
    """
    from raycompress.results.report import page

    record = open_record(experiment, storage)
    if study is not None:
        copied = record.to_optuna(storage=study)
        click.echo(f"{study}: study {copied.study_name}, {len(copied.trials)} trials")
        return
    page.check_libraries()
    path = output or record.folder.report
    if live:
        _follow(record, path)
    else:
        page.write(record, path)
        click.echo(str(path))


def _follow(record: SearchRecord, path: Path) -> None:
    """Write the page whenever the journal has grown, until the search has ended; the last one stays as it is."""
    from raycompress.results.report import page

    size, written, due, pause = -1, 0, 0.0, EVERY_S
    try:
        while record.state == "running":
            if size != written and time.monotonic() >= due:
                began = time.process_time()
                page.write(record, path, reload=round(pause, 1))
                pause = max(EVERY_S, _IDLE * (time.process_time() - began))
                due = time.monotonic() + pause
                if not written:
                    click.echo(str(path))
                written = size
            time.sleep(EVERY_S)
            record.folder.refresh()
            size = record.folder.journal.stat().st_size  # before what it holds is read: it may grow in between
            record = type(record)(record.folder)
    finally:  # a person who has seen enough leaves a page that stands still
        page.write(type(record)(record.folder), path)
        if not written:
            click.echo(str(path))
