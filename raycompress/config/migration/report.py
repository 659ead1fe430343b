"""Report on an experiment file of the old tool: what became of its keys, and the file in today's form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycompress.config.experiment import Experiment
from raycompress.config.migration.advice import advice_on
from raycompress.config.migration.changes import Change, changed, changes_of
from raycompress.config.migration.layout import laid_out
from raycompress.config.migration.table import old_key, pattern
from raycompress.config.text.reader import JsonPath, JsonText, read
from raycompress.config.text.source import text_of
from raycompress.errors import ExperimentError
from raycompress.text import dotted

_OPEN = (
    *((), ("compression",), ("job_failure",), ("resource_args",), ("resource_args", "early_stop"), ("runtime_args",)),
)
"""The objects whose members are keys of their own; what stands under any other key belongs to that key."""


@dataclass(frozen=True)
class Remark:
    """One thing to say of a file.

    Attributes
    ----------
    line
        The line it is about; None for what the file does not have.
    path
        The key, as in ``compression.config_list[0].sparsity``.
    what
        What is so, in words.
    write
        What to write; empty where there is nothing to do, or `raycompress migrate --write` does it.
    """

    line: int | None
    path: str
    what: str
    write: str = ""


@dataclass(frozen=True)
class Migration:
    """What became of one experiment file.

    Attributes
    ----------
    path
        The file, as it was named.
    before, text
        What it says, and what it says in today's form; equal where nothing is to change.
    slips
        What is no JSON in it, and is mended in `text`.
    changes
        Keys that are written differently in `text`, with the same meaning.
    remarks
        Keys that mean more than they did, or something else.
    advice
        What can be better; nothing of it is in `text`.
    kept
        The keys that stay as they are, each once.
    """

    path: Path
    before: str
    text: str
    slips: tuple[Remark, ...]
    changes: tuple[Remark, ...]
    remarks: tuple[Remark, ...]
    advice: tuple[Remark, ...]
    kept: tuple[str, ...]

    @classmethod
    def of(cls, path: str | Path) -> Migration:
        """Read an experiment file of the old tool.

        Raises
        ------
        ExperimentError
            All mistakes of the file at once, as `Experiment.load` tells them. Slips of its JSON are none, as long as
            they can mean one thing only and stand alone.
        """
        before = text_of(Path(path))
        found = read(before)
        _check(found, before, path)
        edits = changes_of(found.value)
        value = changed(found.value, edits)
        text, lost = _written(value, edits, found, before)
        experiment = Experiment.from_text(text, path)
        changes = _by_line([*(Remark(found.lines[edit.path], dotted(edit.path), edit.what) for edit in edits), *lost])
        remarks = tuple(_remarks(value, found))
        reported_paths = {remark.path for remark in (*changes, *remarks)}
        keys = [inner for inner, _ in _keys(found.value) if dotted(inner) not in reported_paths]
        return cls(
            path=Path(path),
            before=before,
            text=text,
            slips=tuple(Remark(flaw.line, dotted(flaw.path), flaw.what, flaw.fix) for flaw in found.flaws),
            changes=changes,
            remarks=remarks,
            advice=_by_line(
                Remark(found.lines.get(advice.path), dotted(advice.path), advice.why, advice.write)
                for advice in advice_on(experiment)
            ),
            kept=tuple(dict.fromkeys(pattern(inner) for inner in keys)),
        )


def _written(value: Any, edits: list[Change], found: JsonText, before: str) -> tuple[str, list[Remark]]:
    """Return the new text, and what to say of comments that go with what they stand by."""
    if not edits and not found.flaws:
        return before, []
    renamed = {(*edit.path[:-1], edit.key): edit.path for edit in edits if edit.key != edit.path[-1]}
    text, lost = laid_out(value, found, before, renamed)
    gone = "a comment goes with what it is about:"
    return text, [Remark(one.line, dotted(one.path), f"{gone} {' '.join(one.text.split())}") for one in lost]


def _by_line(remarks: Iterable[Remark]) -> tuple[Remark, ...]:
    """Put `remarks` in the order of their lines, those on what is absent last."""
    return tuple(sorted(remarks, key=lambda remark: (remark.line is None, remark.line or 0)))


def _check(found: JsonText, text: str, path: str | Path) -> None:
    """Raise the mistakes of the file, its slips among them; slips alone, and understood for sure, are none."""
    try:
        Experiment.from_text(json.dumps(found.value) if found.flaws and found.sure else text, path)
    except ExperimentError:
        Experiment.from_text(text, path)  # once more: all of it, with the lines of the file
        raise


def _keys(value: Any, path: JsonPath = ()) -> Iterator[tuple[JsonPath, Any]]:
    """Yield path and value of each key."""
    plain = tuple(part for place, part in enumerate(path) if place != 1 or isinstance(part, str))  # whatever the stage
    if isinstance(value, Mapping) and (plain in _OPEN or plain[:-1] == ("compression", "config_list")):
        for key, inner in value.items():
            yield from _keys(inner, (*path, key))
    elif value and isinstance(value, list) and plain in (("compression",), ("compression", "config_list")):
        for index, inner in enumerate(value):
            yield from _keys(inner, (*path, index))
    else:
        yield path, value


def _remarks(value: Any, found: JsonText) -> Iterator[Remark]:
    """Yield what the table says of the keys that mean more than they did, or something else."""
    for path, inner in _keys(value):
        row = old_key(path, inner)
        if row is not None and row.value and row.fate in ("more than it was", "read as"):
            yield Remark(found.lines.get(path), dotted(path), f'"{inner}": {row.became}')
