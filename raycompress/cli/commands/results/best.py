"""``raycompress best``: the best model of an experiment, and its verification."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raycompress.cli.options import experiment_argument, json_option, open_record, print_text
from raycompress.errors import BundleError, NoValidTrialError

if TYPE_CHECKING:
    from raycompress.config.places import Storage
    from raycompress.results.record import SearchRecord


@click.command()
@experiment_argument
@click.option("--verify", is_flag=True, help="Reload the model in a fresh process; compare its outputs and hashes.")
@json_option
def best(experiment: str | None, storage: Storage, verify: bool, as_json: bool) -> None:
    """Show the best model of EXPERIMENT: what it measures, and how to load it."""
    from raycompress.cli.view.conclusion import outcome, summary

    record = open_record(experiment, storage)
    if record.best is None:
        raise NoValidTrialError(
            "no trial has finished with a result", where=record.folder.reference, fix="`raycompress status` shows why"
        )
    if verify:
        record.verified = _verify(record)
    if as_json:
        click.echo(json.dumps(outcome(record), indent=2))
        return
    print_text(summary(record))
    if record.folder.is_remote and record.best_number is not None:
        print_text(f"fetch:  raycompress fetch {record.folder.reference}")
    elif record.best_number is not None:
        print_text(f"load:   raycompress.load({str(record.folder.best_link)!r}, YourModel())")


def _verify(record: SearchRecord) -> dict[str, Any]:
    """Check the bundle's hashes, and its outputs in the script's own model, in a fresh process."""
    from raycompress.bundle import bundle
    from raycompress.cli.view.live import LiveView
    from raycompress.config.experiment import Experiment
    from raycompress.session.verify import verify_again

    if record.bundle is None:
        raise BundleError("there is no model to verify: the script saved none", where=record.folder.reference)
    bundle.check_hashes(record.bundle)
    experiment = Experiment.load(record.folder.experiment, home=Path(record.header["file"]).parent)
    with LiveView() as view:
        return verify_again(experiment, record, view)
