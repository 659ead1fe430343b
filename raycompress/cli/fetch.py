"""``raycompress fetch``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raycompress.cli.options import experiment_argument, json_option, open_record, say
from raycompress.errors import NoValidTrialError, UsageError
from raycompress.results.disk import told

if TYPE_CHECKING:
    from raycompress.experiment.address import Storage


@click.command()
@experiment_argument
@click.option("--to", type=click.Path(path_type=Path), help="The folder to make; the cache of results by default.")
@json_option
def fetch(experiment: str | None, storage: Storage, to: Path | None, as_json: bool) -> None:
    """Download the best model of EXPERIMENT, compare its hashes, and say where it is."""
    from raycompress.cli.on_cluster import bring_here
    from raycompress.cli.words import shown
    from raycompress.results import bundle

    record = bring_here(open_record(experiment, storage))
    if to is not None and to.exists():
        raise UsageError("there is something already", where=str(to), fix="--to takes a folder that is made by it")
    if (found := record.bundle) is None:
        fix = "`raycompress status` shows which trials there are"
        raise NoValidTrialError("no trial has saved a model yet", where=record.folder.reference, fix=fix)
    place = found if to is None else to
    if to is not None:
        with told("cannot write", to):
            shutil.copytree(found, to)
        bundle.check_hashes(to)
    trial = record.best_number
    if as_json:
        click.echo(json.dumps({"experiment": record.id, "trial": trial, "bundle": str(place.resolve())}, indent=2))
        return
    say(f"model:  {shown(place)}\n        of trial {trial}; every file has the hash that it was saved with")
    say(f"load:   raycompress.load({str(place.resolve())!r}, YourModel())")
