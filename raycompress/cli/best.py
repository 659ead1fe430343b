"""``raycompress best``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from raycompress.cli.options import experiment_argument, json_option, open_record
from raycompress.errors import NoValidTrialError


@click.command()
@experiment_argument
@click.option("--verify", is_flag=True, help="Reload the model in a fresh process; compare its outputs and hashes.")
@json_option
def best(experiment: str | None, storage: Path, verify: bool, as_json: bool) -> None:
    """Show the best model of EXPERIMENT: what it measures, and how to load it."""
    from raycompress.cli.launch import outcome, summary
    from raycompress.results.store import ExperimentFolder

    record = open_record(experiment, storage)
    if record.best is None:
        raise NoValidTrialError(
            "no trial has finished with a result", where=str(record.folder.root), fix="`raycompress status` shows why"
        )
    if verify:
        record.verified = _verify(record.folder)
    if as_json:
        click.echo(json.dumps(outcome(record), indent=2))
        return
    click.echo(summary(record))
    assert isinstance(record.folder, ExperimentFolder)
    if record.bundle is not None:
        click.echo(f"load:   raycompress.load({str(record.folder.best_link)!r}, YourModel())")


def _verify(folder: object) -> dict[str, object]:
    return {}
