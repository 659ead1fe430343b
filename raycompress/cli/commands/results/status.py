"""``raycompress status``: the state of an experiment, trial by trial."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from raycompress.cli.options import experiment_argument, json_option, open_record, print_text

if TYPE_CHECKING:
    from raycompress.config.places import Storage
    from raycompress.results.record import SearchRecord
    from raycompress.results.trial import TrialRecord


@click.command()
@experiment_argument
@json_option
def status(experiment: str | None, storage: Storage, as_json: bool) -> None:
    """Show how EXPERIMENT (its id, the beginning of one, or its folder; the newest by default) stands."""
    from raycompress.cli.commands.search.on_cluster import brought_up_to_date
    from raycompress.results.record import SearchRecord

    with brought_up_to_date(open_record(experiment, storage).folder) as folder:
        record = SearchRecord(folder)
        _show(record, as_json)


def _show(record: SearchRecord, as_json: bool) -> None:
    if as_json:
        trials = [_as_json(trial) for _, trial in sorted(record.records.items())]
        click.echo(json.dumps({"id": record.id, "state": record.state, "trials": trials}, indent=2))
        return
    print_text(_text(record))


def _as_json(trial: TrialRecord) -> dict[str, Any]:
    names = ("number", "baseline", "state", "cause", "values", "score", "seconds", "sample", "before", "after")
    more = ("last_start_seconds", "removed", "notes", "files", "saved", "attempts")
    return {name: getattr(trial, name) for name in (*names, *more)}


def _text(record: SearchRecord) -> str:
    from raycompress.cli.view.tables import columns, number, share, value
    from raycompress.states import TrialState
    from raycompress.text import join_names

    header = record.header
    ended = [trial for trial in record.records.values() if trial.seconds is not None]
    detail = "`raycompress resume` goes on with it" if record.state == "interrupted" else record.finished_detail
    lines = [
        f"{record.id}: {record.state}" + (f" ({detail})" if detail else ""),
        f"{header['compressor']}, {header['proposer']}, {len(ended)} of {header['n_trials']} trials ended",
    ]
    if header["dimensions"]:
        lines.append("proposal: " + ", ".join(header["dimensions"]))
    rows = [("trial", "state", "score", "size", "time", "proposal")]
    best = record.best
    for _, trial in sorted(record.records.items()):
        left = share((trial.after or {}).get("size_bytes"), (trial.before or {}).get("size_bytes"))
        proposal = "dense model" if trial.baseline else " ".join(value(raw) for raw in trial.sample.values())
        seconds = "" if trial.seconds is None else f"{trial.seconds:.1f} s"
        if trial.carried and trial.last_start_seconds is not None:
            seconds += f" ({trial.last_start_seconds:.1f} s since its checkpoint)"
        name = f"{trial.number}{' *' if best is not None and trial.number == best.number else ''}"
        lost = trial.state is TrialState.RUNNING and record.state != "running"
        rows.append((name, "interrupted" if lost else str(trial.state), number(trial.score), left, seconds, proposal))
    lines += ["", columns(rows, indent=0, left=(1, 5))]
    lines += [f"trial {trial.number} {trial.state}: {trial.cause}" for trial in record.searched if trial.cause]
    for trial in record.records.values():
        if trial.files:
            place = record.folder.place(record.folder.files(trial.number))
            lines.append(f"trial {trial.number} wrote {join_names(trial.files)} (in {place})")
    return "\n".join(lines)
