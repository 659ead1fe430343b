"""Matches layers to entries of a config_list, by NNI's rule: the last entry that matches counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raycompress.catalog import WEIGHTED_TYPES, CompressorEntry
from raycompress.model.info import Layer, ModelInfo

Entry = Mapping[str, Any]


def types_of(entry: Entry, compressor: CompressorEntry) -> tuple[str, ...] | None:
    """Return the layer types that `entry` names, ``default`` spelled out; None where it names none."""
    if "op_types" not in entry:
        return None
    default = compressor.layer_types or WEIGHTED_TYPES
    return tuple(kind for name in entry["op_types"] for kind in (default if name == "default" else (name,)))


def matches(entry: Entry, layer: Layer, compressor: CompressorEntry) -> bool:
    """Tell whether `entry` speaks of `layer`: every one of op_names and op_types that it has must."""
    fits = "op_types" not in entry or compressor.is_named(entry["op_types"], layer.type, layer.base)
    return fits and ("op_names" not in entry or layer.name in entry["op_names"])


def ruled(config_list: Sequence[Entry], index: int, model: ModelInfo, compressor: CompressorEntry) -> list[Layer]:
    """Return the layers that entry `index` matches and no later entry does, in the model's order; see `spared`."""
    later = config_list[index + 1 :]
    left_out = {name for _, name in spared(config_list, model, compressor)}
    return [
        layer
        for layer in model.layers
        if layer.name not in left_out
        and matches(config_list[index], layer, compressor)
        and not any(matches(entry, layer, compressor) for entry in later)
    ]


def spared(config_list: Sequence[Entry], model: ModelInfo, compressor: CompressorEntry) -> list[tuple[int, str]]:
    """Return (entry, layer) of the layers that keep their channels though the type ``default`` of an entry matches.

    It stands for what can lose channels: not for layers that make the model's outputs, or that no input reaches.
    Where nothing else would be compressed there are none: that is a mistake to be told.
    """
    by_default = any("default" in entry.get("op_types", ()) and "op_names" not in entry for entry in config_list)
    if not (compressor.removes_channels and by_default):  # as of every trial of a search over named layers
        return []
    whole = {*model.output_layers, *model.whole_layers}
    found: list[tuple[int, str]] = []
    is_all = True
    for layer in model.layers:
        ruling = [index for index, entry in enumerate(config_list) if matches(entry, layer, compressor)]
        entry: Entry = config_list[ruling[-1]] if ruling else {"exclude": True}
        if "exclude" in entry:
            continue
        if layer.name in whole and "default" in entry.get("op_types", ()) and "op_names" not in entry:
            found.append((ruling[-1], layer.name))
        else:
            is_all = False
    return [] if is_all else found


def overruled_by_name(config_list: Sequence[Entry], index: int, name: str) -> bool:
    """Tell, without a model, whether a later entry surely takes the layer `name` from entry `index`."""
    return any("op_types" not in entry and name in entry.get("op_names", ()) for entry in config_list[index + 1 :])
