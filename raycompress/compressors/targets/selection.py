"""Which layers a config_list names, and how much of each it asks to remove; of any framework."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raycompress import catalog
from raycompress.catalog import WEIGHTED_TYPES, CompressorEntry
from raycompress.catalog.instead import SELECTION, recommended
from raycompress.catalog.quantizers import is_of_activations, value_such_as
from raycompress.compressors.create import closest
from raycompress.errors import ExperimentError, Problem


@dataclass(frozen=True)
class Target:
    """One layer to compress.

    Attributes
    ----------
    entry
        Index of the config_list entry that rules it.
    sparsity
        Share to remove, 0 <= sparsity < 1; of an entry with ``final_sparsity`` that one, 0 of one with neither.
    type
        Class name of the layer.
    settings
        The other keys of its entry (``quant_bits``, ``frequency`` ...).
    by_default
        Whether its entry matches it by the type ``default`` alone, which stands for the layers that can be compressed.
    """

    entry: int
    sparsity: float
    type: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    by_default: bool = False


@dataclass(frozen=True)
class Layers:
    """What a config_list can name.

    Attributes
    ----------
    types
        Name of each layer -> its class name, in the model's order.
    weighted
        The names of those that have a weight to compress.
    bases
        Name of a layer -> the library's class that its class is derived from, of those that have one.
    made_plain_by
        Name of a layer whose weight is computed from others -> the call that gives it one of its own.
    """

    types: Mapping[str, str]
    weighted: Collection[str]
    bases: Mapping[str, str] = field(default_factory=dict)
    made_plain_by: Mapping[str, str] = field(default_factory=dict)


def choose(layers: Layers, config_list: Sequence[Mapping[str, Any]], compressor: CompressorEntry) -> dict[str, Target]:
    """Return the layers to compress by name, in the model's order; the last entry that matches a layer rules it.

    Raises
    ------
    ExperimentError
        All mistakes of the list at once: unknown keys, names, sparsities, layers that the compressor does not support,
        an entry that matches nothing.
    """
    if not isinstance(config_list, (list, tuple)) or not config_list:
        needs = [need if isinstance(need, str) else need[0] for need in compressor.needs]
        example = {**{key: value_such_as(key, compressor.name) for key in needs}, "op_types": ["default"]}
        raise ExperimentError(
            "config_list is empty: nothing would be compressed",
            where="config_list",
            fix=f"write at least one entry, such as {json.dumps(example)}",
        )
    problems = [
        problem
        for index, entry in enumerate(config_list)
        for problem in _entry_problems(index, entry, layers.types, compressor)
    ]
    targets: dict[str, Target] = {}
    if not problems:
        problems, targets = _match(layers, config_list, compressor)
    if problems:
        raise ExperimentError.of(problems)
    return targets


def _entry_problems(index: int, entry: Any, layers: Mapping[str, str], compressor: CompressorEntry) -> list[Problem]:
    where, known = f"config_list[{index}]", (*compressor.keys, *SELECTION)
    if not isinstance(entry, Mapping):
        return [Problem(f"an entry is an object, not {type(entry).__name__}", where)]
    problems = [
        Problem(f'unknown key "{key}"', f"{where}.{key}", _instead(str(key), entry, known, compressor))
        for key in entry
        if key not in known and not entry.get("exclude", False)
    ]
    for key in ("op_types", "op_names"):
        names = entry.get(key, ())
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            problems.append(Problem(f"{key} is a list of strings", f"{where}.{key}", f'write ["{names}"]'))
            return problems
    if "op_types" not in entry and "op_names" not in entry:
        problems.append(Problem("an entry needs op_types or op_names", where, 'add "op_types": ["default"]'))
    for name in entry.get("op_names", ()):
        if name not in layers:
            fix = closest(name, layers) or "the layers are " + ", ".join(list(layers)[:20])
            problems.append(Problem(f'the model has no layer "{name}"', f"{where}.op_names", fix))
    if not entry.get("exclude", False):
        problems += _settings_problems(entry, where, compressor)
    return problems


def _instead(key: str, entry: Mapping[str, Any], known: Sequence[str], compressor: CompressorEntry) -> str:
    """Return what to write in place of a key that the compressor does not have."""
    others = (catalog.find(name, compressor.framework) for name in catalog.names(compressor.framework))
    if any(other is not None and key in other.keys for other in others):
        return f"remove it; {compressor.name} takes {', '.join(known)}"
    return closest(key, [name for name in known if name not in entry]) or f"remove it; the keys are {', '.join(known)}"


def _settings_problems(entry: Mapping[str, Any], where: str, compressor: CompressorEntry) -> list[Problem]:
    problems = []
    for need in compressor.needs:
        either = (need,) if isinstance(need, str) else need
        if not any(key in entry for key in either):
            what = f"{' or '.join(either)} is missing"
            example = value_such_as(either[0], compressor.name)
            problems.append(Problem(what, where, f'add "{either[0]}": {json.dumps(example)}'))
    for key in ("sparsity", "initial_sparsity", "final_sparsity"):
        value = entry.get(key, 0)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= float(value) < 1:
            fix = f'"{key}": 0.5 is one half'
            problems.append(Problem(f"{key} is a number from 0 to below 1, not {value!r}", where, fix))
    return problems


def _match(
    layers: Layers, config_list: Sequence[Mapping[str, Any]], compressor: CompressorEntry
) -> tuple[list[Problem], dict[str, Target]]:
    default = compressor.layer_types or WEIGHTED_TYPES
    problems: list[Problem] = []
    idle: list[Problem] = []
    targets: dict[str, Target] = {}
    for index, entry in enumerate(config_list):
        matched = [
            name
            for name, kind in layers.types.items()
            if ("op_types" not in entry or compressor.is_named(entry["op_types"], kind, layers.bases.get(name, "")))
            and ("op_names" not in entry or name in entry["op_names"])
        ]
        for name in matched:
            targets.pop(name, None)
        if entry.get("exclude", False):
            continue
        where = f"config_list[{index}]"
        if not matched:
            is_spare = compressor.kind == "quantization" and is_of_activations(entry)
            (idle if is_spare else problems).append(_nothing(where, layers, default, compressor))
        by_default = "op_names" not in entry and "default" in entry["op_types"]
        for name in matched:
            unfit = _unfit(name, layers, compressor, where)
            if by_default and name in layers.made_plain_by and unfit:
                idle += unfit  # "default" stands for what can be compressed
                continue
            problems += unfit
            sparsity = entry.get("sparsity", entry.get("final_sparsity", 0.0))
            settings = {key: entry[key] for key in compressor.keys if key in entry}
            targets[name] = Target(index, float(sparsity), layers.types[name], settings, by_default)
    if not targets:
        problems += idle
    return problems, {name: targets[name] for name in layers.types if name in targets}


def _nothing(where: str, layers: Layers, types: tuple[str, ...], compressor: CompressorEntry) -> Problem:
    present = set(layers.types.values())
    if fitting := sorted(present & set(types)):
        return Problem("the entry matches no layer", where, f"the model has {', '.join(fitting)}")
    others = sorted(kind for kind in present if recommended(compressor, [kind]))
    others.sort(key=lambda kind: f'"{compressor.instead}"' not in recommended(compressor, [kind]))
    other = recommended(compressor, others[:1]) if others else ""
    fix = f"{other} takes {others[0]}" if other else "`raycompress compressors` lists others"
    what = f"the entry matches no layer: {compressor.name} takes {', '.join(types)}, and the model has none"
    return Problem(what, where, fix)


def _unfit(name: str, layers: Layers, compressor: CompressorEntry, where: str) -> list[Problem]:
    kind, base = layers.types[name], layers.bases.get(name, "")
    if not compressor.takes(kind, base):
        takes = ", ".join(compressor.layer_types)
        what = f'{compressor.name} takes {takes} only, and "{name}" is {kind}'
        fix = f'name layers of type {takes}, or add {{"op_names": ["{name}"], "exclude": true}}'
        if other := recommended(compressor, [kind]) or (base and recommended(compressor, [base])):
            fix = f"{fix}; {other} takes {kind}"
        if call := layers.made_plain_by.get(name, ""):
            fix = f"{call} before create_compressor; or {fix}"
        return [Problem(what, where, fix)]
    if name not in layers.weighted or (compressor.refuses_computed and name in layers.made_plain_by):
        what = f'"{name}" ({kind}) has no weight to {"prune" if compressor.kind == "pruning" else "quantize"}'
        call = layers.made_plain_by.get(name, "")
        if call:
            return [Problem(f"{what}: it is computed", where, f"{call} before create_compressor; or name other layers")]
        return [Problem(what, where, "name layers that have one")]
    return []
