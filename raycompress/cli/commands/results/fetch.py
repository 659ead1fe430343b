"""``raycompress fetch``: downloads a model of an experiment and checks its hashes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raycompress.cli.options import experiment_argument, json_option, open_record, print_text
from raycompress.disk import translate_os_errors
from raycompress.errors import NoValidTrialError, UsageError
from raycompress.text import join_names

if TYPE_CHECKING:
    from raycompress.config.places import Storage
    from raycompress.results.record import SearchRecord


@click.command()
@experiment_argument
@click.option("--trial", "number", type=int, help="Another trial's model: one of the front; the best by default.")
@click.option("--to", type=click.Path(path_type=Path), help="The folder to make; the cache of results by default.")
@json_option
def fetch(experiment: str | None, storage: Storage, number: int | None, to: Path | None, as_json: bool) -> None:
    """Download the best model of EXPERIMENT, or that of a trial, compare its hashes, and say where it is."""
    from raycompress.bundle import bundle
    from raycompress.cli.commands.search.on_cluster import bring_here
    from raycompress.cli.view.tables import display_path

    record = bring_here(open_record(experiment, storage))
    if to is not None and to.exists():
        raise UsageError("there is something already", where=str(to), fix="--to takes a folder that is made by it")
    trial = _wanted(record, number)
    found = record.folder.fetch_candidate(trial)
    place = found if to is None else to
    if to is not None:
        with translate_os_errors("cannot write", to):
            shutil.copytree(found, to)
    bundle.check_hashes(place)
    if as_json:
        click.echo(json.dumps({"experiment": record.id, "trial": trial, "bundle": str(place.resolve())}, indent=2))
        return
    print_text(
        f"model:  {display_path(place)}\n        of trial {trial}; every file has the hash that it was saved with"
    )
    print_text(f"load:   raycompress.load({str(place.resolve())!r}, YourModel())")
    if others := [one for one in record.kept if one != trial]:
        print_text(f"kept as well: {join_names(map(str, others))}; `--trial {others[0]}` fetches that one's")


def _wanted(record: SearchRecord, number: int | None) -> int:
    """Return the trial whose model is fetched.

    Raises
    ------
    NoValidTrialError
        There is no model, or none of that trial.
    """
    fix = "`raycompress status` shows which trials there are"
    if record.best_number is None:
        raise NoValidTrialError("no trial has saved a model yet", where=record.folder.reference, fix=fix)
    if number is None:
        return record.best_number
    if number not in record.kept:
        what = f"no model of trial {number} is kept"
        fix = f"those of {join_names(map(str, record.kept))} are" if record.kept else fix
        raise NoValidTrialError(what, where=record.folder.reference, fix=fix)
    return number
