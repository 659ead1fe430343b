"""Keys that are none: told with what was meant, and read as that, so that what stands under them is checked too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from raycompress.config.schema.fields import Keys
from raycompress.config.schema.keys import (
    CompressionKeys,
    ConstraintKeys,
    EarlyStopKeys,
    Entry,
    ExperimentKeys,
    JobFailureKeys,
    Parameter,
    ResourceArgsKeys,
    ResourceKeys,
    RuntimeArgsKeys,
    SchedulerKeys,
)
from raycompress.config.schema.ranges import KEYS as RANGE_KEYS
from raycompress.config.schema.ranges import Finding, Note, is_range
from raycompress.config.text.reader import JsonPath
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
    },
    CompressionKeys: {"config_list": Entry},
    ResourceArgsKeys: {"early_stop": EarlyStopKeys},
}


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
    """

    data: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    _written: dict[JsonPath, JsonPath] = field(default_factory=dict)

    def written(self, path: JsonPath) -> JsonPath:
        """Return the path in the file of what is at `path` in `data`."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._written:
                return self._written[path[:length]] + path[length:]
        return path


def respell(data: Mapping[str, Any]) -> Spelled:
    """Spell every key of the experiment `data` as it is known."""
    spelled = Spelled()
    spelled.data = _object(data, ExperimentKeys, (), spelled)
    return spelled


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
    if inside is not None and isinstance(value, dict):
        return _object(value, inside, path, spelled)
    if inside is not None and isinstance(value, list):
        return [
            _object(item, inside, (*path, index), spelled) if isinstance(item, dict) else item
            for index, item in enumerate(value)
        ]
    if model is Entry:
        return _range_keys(value, path, spelled)
    return value


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
    home = next((dotted(place) for place, names_there in homes() if key in names_there), None)
    meant = closest_name(key, known) if home is None else None
    if home is not None:
        fix = f'it belongs in "{home}"' if home else "it belongs at the top of the file"
    elif meant is not None:
        fix = f'did you mean "{meant}"?'
    else:
        fix = f"remove it; the keys here are {join_names(known, 20)}"
    spelled.findings.append(Finding(where, f'unknown key "{key}"', fix))
    return meant if meant not in data else None


def _range_keys(value: Any, path: JsonPath, spelled: Spelled) -> Any:
    """Spell the keys of search ranges inside an entry's value."""
    if not isinstance(value, dict):
        return value
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
    yield ("compression", "config_list"), list(names(Entry))
    yield ("resource_args", "early_stop"), list(names(EarlyStopKeys))
