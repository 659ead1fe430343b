"""Changes that bring an experiment file of the old tool into today's form, each with its reason."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raycompress.catalog import find
from raycompress.config.checks.keys import notes
from raycompress.config.compression import stages_in
from raycompress.config.migration.table import old_key
from raycompress.config.schema.spelling import respell
from raycompress.config.text.reader import JsonPath
from raycompress.text import dotted

GONE = object()
"""Stands for the value of a key that goes."""


@dataclass(frozen=True)
class Change:
    """One change: the key at `path` is called `key` afterwards and has `value`, or is `GONE`."""

    path: JsonPath
    what: str
    key: str
    value: Any


def changes_of(data: Mapping[str, Any]) -> list[Change]:
    """Return what is to change in the experiment `data`, in which there is no mistake; the meaning stays the same."""
    found: dict[JsonPath, Change] = {}
    for change in (*_renamed(data), *_engine(data), *_entries(data), *_noted(data)):
        found.setdefault(change.path, change)
    return list(found.values())


def changed(value: Any, changes: list[Change]) -> Any:
    """Copy the experiment `value` with the changes made, its keys in their order; objects that they empty go too."""
    return _changed(value, {change.path: change for change in changes}, ())


def _changed(value: Any, changes: Mapping[JsonPath, Change], path: JsonPath) -> Any:
    if isinstance(value, list):
        return [_changed(inner, changes, (*path, index)) for index, inner in enumerate(value)]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for key, inner in value.items():
        here = (*path, key)
        if here in changes:
            change = changes[here]
            if change.value is not GONE:
                found[change.key] = copy.deepcopy(change.value)
            continue
        kept = _changed(inner, changes, here)
        if kept != {} or inner == {}:
            found[key] = kept
    return found


def _goes(path: JsonPath, why: str) -> Change:
    return Change(path, f'"{dotted(path)}" goes: {why}', str(path[-1]), GONE)


def _renamed(data: Mapping[str, Any]) -> Iterator[Change]:
    if "cwd" in data:
        yield Change(("cwd",), '"cwd" becomes "workingdir"', "workingdir", data["cwd"])


def _engine(data: Mapping[str, Any]) -> Iterator[Change]:
    """Random sampling, which hyperopt was asked for, has a name of its own."""
    if data.get("proposer") == "hyperopt" and data.get("engine") in ("random", "rand"):
        what = f'the proposer "hyperopt" with the engine "{data["engine"]}" becomes "random"'
        yield Change(("proposer",), what, "proposer", "random")
        yield _goes(("engine",), 'the proposer "random" says it')


def _entries(data: Mapping[str, Any]) -> Iterator[Change]:
    for home, stage in stages_in(data):
        yield from _entries_of_stage(stage, (*home, "config_list"))


def _entries_of_stage(stage: Mapping[str, Any], path: JsonPath) -> Iterator[Change]:
    entries = stage["config_list"]
    compressor = find(stage["compressor"], stage["framework"])
    if entries == [] and compressor is not None and compressor.without_entries:
        explicit = [dict(entry) for entry in compressor.without_entries]
        what = f"an empty config_list becomes what {compressor.name} takes it for: {json.dumps(explicit)}"
        yield Change(path, what, "config_list", explicit)
    for index, entry in enumerate(entries):
        if entry.get("exclude") is False:
            yield _goes((*path, index, "exclude"), "layers are left alone only where it is true")


def _noted(data: Mapping[str, Any]) -> Iterator[Change]:
    """What loading the file makes a note of: a name that is read as another, or a key that means nothing."""
    for path, what in (*respell(data).notes, *notes(data)):
        row = old_key(path, data.get(str(path[0])))
        if path == ("resource",):
            assert row is not None, "every resource that is read as another is in the table"
            yield Change(path, f'the resource "{data["resource"]}" becomes {row.became}', "resource", "cpu")
        elif path == ("engine",) and data.get("proposer") == "hyperopt":
            yield _goes(path, f'"{data["engine"]}" is read as "tpe", and so is its absence')
        elif row is not None and row.fate == "no meaning":
            yield _goes(path, row.became)
        else:
            yield _goes(path, "it is " + what.partition('" is ')[2])
