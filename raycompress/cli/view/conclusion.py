"""The conclusion of a search: its summary for people, its outcome as JSON, and the error that ended it."""

from __future__ import annotations

import json
import shlex
import textwrap
from typing import TYPE_CHECKING

import click

from raycompress.cli.options import print_text
from raycompress.cli.view import goals
from raycompress.cli.view.tables import display_path
from raycompress.session.ending import failure, infeasible
from raycompress.text import join_names

if TYPE_CHECKING:
    from raycompress.results.record import SearchRecord


def conclude(record: SearchRecord, as_json: bool = False, *, quiet: bool = False) -> None:
    """Print what a search found, unless `quiet`, and raise what kept it from its end."""
    text = f"{summary(record)}\nnext:   raycompress best {shlex.quote(display_path(record.folder.reference))}"
    if as_json:
        click.echo(json.dumps(outcome(record), indent=2))
    elif not quiet:
        print_text(text)
    error = failure(record, f"raycompress resume {shlex.quote(display_path(record.folder.reference))}")
    if error is not None:
        raise error


def outcome(record: SearchRecord) -> dict[str, object]:
    """Return what a launch found, as JSON data."""
    best = record.best
    states: dict[str, int] = {}
    for trial in record.searched:
        states[str(trial.state)] = states.get(str(trial.state), 0) + 1
    return {
        "experiment": record.id,
        "state": record.state,
        "trials": states,
        "best": None
        if best is None
        else {
            "trial": best.number,
            "values": best.values,
            "sample": best.sample,
            "removed": best.removed,
            "notes": best.notes,
            "feasible": record.is_feasible(best),
        },
        "front": [trial.number for trial in record.pareto] if len(record.objective.goals) > 1 else None,
        "baseline": record.baseline.values if record.baseline is not None else None,
        "verified": record.verified,
        "bundle": _bundle(record),
    }


def _bundle(record: SearchRecord) -> str | None:
    number, folder = record.best_number, record.folder
    return None if number is None else folder.place(folder.candidate(number))


def summary(record: SearchRecord) -> str:
    """Return what a launch found, for people."""
    from raycompress.cli.view.tables import before_and_after, columns
    from raycompress.results.report import formatting

    best = record.best
    if best is None:
        return f"{record.id}: no trial finished with a result"
    again = "" if best.repeat_of is None else f" (trial {best.repeat_of} again, with another seed)"
    word = "nearest" if infeasible(record) is not None else "best"
    lines = [
        f"{word} of {len(record.searched)} trial{'s' * (len(record.searched) != 1)}: trial {best.number}{again}",
        "",
    ]
    lines.append(columns([("", "dense", "best", "left"), *before_and_after(record)]))
    lines += goals.lines(record)
    if best.removed:
        gone = (best.after or {}).get("params") != (best.before or {}).get("params")
        what = "channels removed" if gone else 'channels masked, none cut out (no apply_speedup, no "slice")'
        narrower = [f"{layer} {count} of {of}" for layer, (count, of) in best.removed.items() if 0 < count < of]
        whole = [layer for layer, (count, of) in best.removed.items() if count == of]
        for title, items in (("layers gone with their blocks", whole), (what, narrower)):
            if items:
                lines += ["", textwrap.fill(f"{title}: {', '.join(items)}", 79, subsequent_indent="    ")]
    measured = record.verified or {}
    slow = formatting.warning(measured.get("before"), measured.get("after"))
    for note in (*best.notes, *([slow] if slow else [])):
        lines += ["", textwrap.fill(f"note: {note}", 79, subsequent_indent="    ")]
    if (bundle := _bundle(record)) is not None:
        lines += ["", f"model:  {bundle if record.folder.is_remote else display_path(record.folder.best_link)}"]
        if record.verified is not None:
            difference = record.verified["relative_difference"]
            lines.append(
                f"        reloaded in a fresh process; its outputs differ by {difference:.1g} from the saved ones"
            )
    else:
        lines += ["", "model:  none; the script saved none"]
    if best.files:
        place = record.folder.place(record.folder.files(best.number))
        lines.append(f"files:  {join_names(best.files)}, which the script wrote, in {display_path(place)}")
    return "\n".join(lines)
