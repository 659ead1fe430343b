"""``raycompress measure``: a bundle in the runtimes of deployment targets."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raycompress.cli.options import json_option, open_record, print_text, storage_option
from raycompress.errors import UsageError

if TYPE_CHECKING:
    from raycompress.compressors.deploying.measuring import Measured
    from raycompress.config.places import Storage


@click.command()
@click.argument("bundle", required=False)
@click.option("--target", "targets", multiple=True, required=True, metavar="RUNTIME|JSON", help="Where it is to run.")
@click.option("--seconds", type=float, default=10.0, show_default=True, help="How long it is timed at most.")
@storage_option
@json_option
def measure(bundle: str | None, targets: tuple[str, ...], seconds: float, storage: Storage, as_json: bool) -> None:
    """Run and time BUNDLE in the runtime of each --target; it is a bundle's folder, or an experiment's best.

    What the bundle holds for a target is run; otherwise its ONNX file is converted.
    """
    from raycompress.cli.view.tables import columns
    from raycompress.compressors.deploying.measuring import measure as measured_in

    folder = _folder(bundle, storage)
    found = [measured_in(folder, target, seconds=seconds) for target in targets]
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
        return
    heads = ("target", "ms", "from", "to", "bytes", "difference", "runtime")
    print_text(columns([heads, *map(_row, found)], left=(0, 6)))
    for one in found:
        for note in one.notes:
            print_text(f"note: {one.target}: {note}")


def _folder(bundle: str | None, storage: Storage) -> Path:
    if bundle is not None and Path(bundle, "manifest.json").is_file():
        return Path(bundle)
    record = open_record(bundle, storage)
    if record.bundle is None:
        raise UsageError(
            "the experiment has saved no model", where=record.folder.reference, fix="`raycompress status` shows why"
        )
    return record.bundle


def _row(one: Measured) -> tuple[str, ...]:
    times = (one.latency_ms, one.latency_low_ms, one.latency_high_ms)
    return (
        one.target,
        *(f"{time:.4g}" for time in times),
        f"{one.size_bytes:,}",
        f"{one.relative_difference:.2g}",
        one.version,
    )
