"""Keys that are none: told with what was meant.

They are read as what was meant, so that the rest can be checked; what that says of the guess itself is no mistake of
the file, see `Spelled.is_derived`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from raycompress.catalog import CompressorEntry, find
from raycompress.catalog.instead import SELECTION
from raycompress.config.compression import first_stage
from raycompress.config.schema.fields import Keys
from raycompress.config.schema.foreign import foreign_entry_key, foreign_top_key
from raycompress.config.schema.foreign_ranges import FOREIGN_KEYS, meant_parameters, meant_range
from raycompress.config.schema.keys import (
    CompressionKeys,
    ConstraintKeys,
    DepthKeys,
    EarlyStopKeys,
    Entry,
    ExperimentKeys,
    JobFailureKeys,
    Parameter,
    ResourceArgsKeys,
    ResourceKeys,
    RuntimeArgsKeys,
    SchedulerKeys,
    TargetKeys,
)
from raycompress.config.schema.ranges import KEYS as RANGE_KEYS
from raycompress.config.schema.ranges import Finding, Note, is_range
from raycompress.config.text.reader import JsonPath
from raycompress.errors import PluginError
from raycompress.text import closest_name, dotted, join_names

_INSIDE: Mapping[type[Keys], Mapping[str, type[Keys]]] = {
    ExperimentKeys: {
        "compression": CompressionKeys,
        "parameter_config": Parameter,
        "resource": ResourceKeys,
        "job_failure": JobFailureKeys,
        "resource_args": ResourceArgsKeys,
        "runtime_args": RuntimeArgsKeys,
        "scheduler": SchedulerKeys,
        "target": TargetKeys,
    },
    CompressionKeys: {"config_list": Entry, "depth": DepthKeys},
    ResourceArgsKeys: {"early_stop": EarlyStopKeys},
}


_ENTRIES: JsonPath = ("compression", "config_list")


@dataclass
class Spelled:
    """An experiment with every key spelled as it is known.

    Attributes
    ----------
    data
        The experiment; keys that nothing can be made of are left out.
    findings
        What was changed or left out, by the path in the file.
    notes
        Keys that are taken and have no meaning, by the path in the file.
    compressor
        The catalogue's entry of the compressor that the file names, of the stage that is looked at; None where it names
        none.
    """

    data: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    compressor: CompressorEntry | None = None
    _written: dict[JsonPath, JsonPath] = field(default_factory=dict)
    _unsure: set[JsonPath] = field(default_factory=set)
    """Objects in which a key is not known, and may stand for one that is missing."""
    _elsewhere: set[JsonPath] = field(default_factory=set)
    """Objects of which a key stands elsewhere, by their paths without numbers."""

    def is_guess(self, path: JsonPath) -> bool:
        """Tell whether the key at `path` in `data` is a guess, and not what the file says."""
        return path in self._written and self._written[path][-1] != path[-1]

    def is_derived(self, finding: Finding) -> bool:
        """Tell whether `finding`, by its path in `data`, follows from a guess alone.

        That is what is said of the value of a guessed key, and what is missing where a key is not known, or stands
        elsewhere: it may be what that key was meant for.
        """
        path = finding.path
        if self.is_guess(path) or any(
            self.is_guess(path[:end]) and not _has_keys(path[:end]) for end in range(len(path))
        ):
            return True
        if path in self._unsure or (path[:-1] in self._unsure and not self._holds(path)):
            return True
        is_entry = bool(path) and isinstance(path[-1], int)
        return (_plain(path) in self._elsewhere and is_entry) or (
            _plain(path)[:-1] in self._elsewhere and not self._holds(path)
        )

    def _holds(self, path: JsonPath) -> bool:
        value: Any = self.data
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return False
        return True

    def written(self, path: JsonPath) -> JsonPath:
        """Return the path in the file of what is at `path` in `data`."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._written:
                return self._written[path[:length]] + path[length:]
        return path


def respell(data: Mapping[str, Any]) -> Spelled:
    """Spell every key of the experiment `data` as it is known."""
    spelled = Spelled(compressor=_compressor(first_stage(data)))
    spelled.data = _object(data, ExperimentKeys, (), spelled)
    return spelled


def _compressor(compression: Mapping[str, Any]) -> CompressorEntry | None:
    try:
        return find(str(compression.get("compressor")), str(compression.get("framework")))
    except PluginError:  # told by the checks
        return None


def _object(data: Mapping[str, Any], model: type[Keys], path: JsonPath, spelled: Spelled) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in data.items():
        known = _known_key(key, data, model, path, spelled)
        if known is None or known in found:
            continue
        inner = (*path, known)
        if known != key:
            spelled._written[inner] = (*spelled.written(path), key)
        found[known] = _value(value, known, model, inner, spelled)
    return found


def _value(value: Any, key: str, model: type[Keys], path: JsonPath, spelled: Spelled) -> Any:
    if (model, key) == (ExperimentKeys, "constraints") and isinstance(value, dict):
        return {
            metric: _object(each, ConstraintKeys, (*path, metric), spelled) if isinstance(each, dict) else each
            for metric, each in value.items()
        }
    inside = _INSIDE.get(model, {}).get(key)
    if inside is Parameter:
        value = _parameters(value, path, spelled)
    if inside is not None and isinstance(value, dict):
        return _object(value, inside, path, spelled)
    if inside is CompressionKeys and isinstance(value, list):
        return _stages(value, path, spelled)
    if inside is not None and isinstance(value, list):
        return [
            _object(item, inside, (*path, index), spelled) if isinstance(item, dict) else item
            for index, item in enumerate(value)
        ]
    if model is Entry:
        return _range_keys(value, path, spelled)
    return value


def _stages(value: list[Any], path: JsonPath, spelled: Spelled) -> list[Any]:
    """Spell the keys of each stage, whose entries have the keys of its own compressor."""
    first, found = spelled.compressor, []
    for index, stage in enumerate(value):
        if isinstance(stage, dict):
            spelled.compressor = _compressor(stage)
            stage = _object(stage, CompressionKeys, (*path, index), spelled)
        found.append(stage)
    spelled.compressor = first
    return found


def _known_key(key: str, data: Mapping[str, Any], model: type[Keys], path: JsonPath, spelled: Spelled) -> str | None:
    """Return the key that `key` is or was meant to be; None where it is to be left out."""
    known = list(names(model))
    where = (*spelled.written(path), key)
    if key in known:
        return key
    if key in model.meaningless:
        what = f'"{dotted(where)}" has no meaning here: Ray does what it was for'
        spelled.notes.append(Note(where, what))
        return None
    fix, meant = _meaning(key, data, model, spelled)
    spelled.findings.append(Finding(where, f'unknown key "{key}"', fix))
    if model is Entry or foreign(key, data[key], model, spelled.compressor):
        spelled._unsure.add(path)
    if meant is not None and _has_keys((*path, meant)):
        spelled._unsure.add((*path, meant))
    return meant


def _meaning(key: str, data: Mapping[str, Any], model: type[Keys], spelled: Spelled) -> tuple[str, str | None]:
    """Return what to do about the unknown `key` of `data`, and the key that it was meant to be, if it is misspelled."""
    known = list(names(model))
    if model is Entry and spelled.compressor is not None:
        known = [name for name in known if name in SELECTION or name in spelled.compressor.keys]
    if fix := foreign(key, data[key], model, spelled.compressor):
        there = re.match(r'write "(\w+)"', fix)
        return (f'remove it: "{there[1]}" is there as well' if there and there[1] in data else fix), None
    for place, names_there in homes():
        if key in names_there and not (model is SchedulerKeys and key == "name"):
            compressor = spelled.compressor
            if place == _ENTRIES and compressor and key not in (*SELECTION, *compressor.keys):
                return f"remove it; {compressor.name} has {join_names(compressor.keys) or 'no such settings'}", None
            spelled._elsewhere.add(place)
            return f'it belongs in "{dotted(place)}"' if place else "it belongs at the top of the file", None
    meant = closest_name(key, known)
    if model is Parameter and key in ("parameter", "param", "key", "variable", "hyperparameter"):
        meant = "name"
    if model is SchedulerKeys and key in ("name", "algorithm", "policy", "kind"):
        meant = "type"
    if meant in data:
        return f'remove it: "{meant}" is there as well', None
    return (f'did you mean "{meant}"?' if meant else f"remove it; the keys here are {join_names(known, 20)}"), meant


def foreign(key: str, value: Any, model: type[Keys], compressor: CompressorEntry | None) -> str:
    """Return what to write for a key that another tool has in such a place; empty for all others."""
    if model is Entry:
        return foreign_entry_key(key, value, compressor)
    return foreign_top_key(key) if model is ExperimentKeys else ""


def _range_keys(value: Any, path: JsonPath, spelled: Spelled) -> Any:
    """Spell the keys of search ranges inside an entry's value."""
    if not isinstance(value, dict):
        return value
    if ours := _foreign_range(value):
        fix = f"write {json.dumps(ours, ensure_ascii=False)}"
        spelled.findings.append(Finding(spelled.written(path), "a search range as other tools write it", fix))
        return ours
    if not any(closest_name(key, ("type", "range")) for key in value):
        return {key: _range_keys(inner, (*path, key), spelled) for key, inner in value.items()}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        meant = key if key in RANGE_KEYS else closest_name(key, RANGE_KEYS)
        if meant is None or meant == key or meant in value:
            found[key] = inner
            continue
        where = (*spelled.written(path), key)
        spelled.findings.append(Finding(where, f'unknown key "{key}" in a search range', f'did you mean "{meant}"?'))
        spelled._written[(*path, meant)] = where
        found[meant] = inner
    return found if is_range(found) else value


def _parameters(value: Any, path: JsonPath, spelled: Spelled) -> Any:
    """Return ``parameter_config`` with what other tools write in its place, or in place of its ranges, as ours."""
    where = spelled.written(path)
    if meant := meant_parameters(value):
        what = '"parameter_config" must be a list, not an object'
        spelled.findings.append(Finding(where, what, f"write {json.dumps(meant, ensure_ascii=False)}"))
        return meant
    if not isinstance(value, list):
        return value
    found = []
    for index, item in enumerate(value):
        ranged = _foreign_range({key: one for key, one in item.items() if key != "name"}) if _is_named(item) else None
        if ranged:
            item = {"name": item["name"], **ranged}
            fix = f"write {json.dumps(item, ensure_ascii=False)}"
            spelled.findings.append(Finding((*where, index), "a search range as other tools write it", fix))
        found.append(item)
    return found


def _is_named(item: Any) -> bool:
    return isinstance(item, dict) and "name" in item


def _foreign_range(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the range that an object in another tool's words stands for; not for one with a slip in a word of ours."""
    others = [key for key in value if key not in RANGE_KEYS]
    if others and all(closest_name(key, RANGE_KEYS) and key not in FOREIGN_KEYS for key in others):
        return None
    return meant_range(value)


def inside(model: type[Keys]) -> Mapping[str, type[Keys]]:
    """Return the keys of an object of the file that hold objects, or lists of them, with keys of their own."""
    return _INSIDE.get(model, {})


def names(model: type[Keys]) -> Iterator[str]:
    """Yield the keys of an object of the file."""
    for name, info in model.model_fields.items():
        yield info.alias or name


def homes() -> Iterator[tuple[JsonPath, list[str]]]:
    """Yield where each object of the file stands, and the keys that only it has."""
    yield (), list(names(ExperimentKeys))
    for key, model in _INSIDE[ExperimentKeys].items():
        if model is not Parameter:
            yield (key,), list(names(model))
    yield _ENTRIES, list(names(Entry))
    yield ("resource_args", "early_stop"), list(names(EarlyStopKeys))


def _objects(model: type[Keys], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, inner in _INSIDE.get(model, {}).items():
        yield (*path, key)
        yield from _objects(inner, (*path, key))


def _plain(path: JsonPath) -> JsonPath:
    return tuple(part for part in path if isinstance(part, str))


def _has_keys(path: JsonPath) -> bool:
    return _plain(path) in _OBJECTS


_OBJECTS = {*_objects(ExperimentKeys), ("constraints",)}
"""The keys, by their paths without numbers, whose values are objects with keys of their own, or lists of them."""
