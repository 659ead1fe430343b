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


def round_to_of(compressor: CompressorEntry, arguments: Mapping[str, Any]) -> int:
    """Return what the number of channels that stay is a multiple of; 1 where that is searched."""
    argument = compressor.argument("round_to")
    value = 1 if argument is None else arguments.get("round_to", argument.default)
    return value if isinstance(value, int) and value > 0 else 1


def ruled(
    config_list: Sequence[Entry], index: int, model: ModelInfo, compressor: CompressorEntry, round_to: int = 1
) -> list[Layer]:
    """Return the layers that entry `index` matches and no later entry does, in the model's order; see `spared`."""
    later = config_list[index + 1 :]
    left_out = {name for _, name in spared(config_list, model, compressor, round_to)}
    return [
        layer
        for layer in model.layers
        if layer.name not in left_out
        and matches(config_list[index], layer, compressor)
        and not any(matches(entry, layer, compressor) for entry in later)
    ]


def is_narrow(layer: Layer, round_to: int) -> bool:
    """Tell whether a layer has no more channels than have to stay."""
    return 0 < layer.channels <= round_to > 1


def is_half_taken(tie: Sequence[str], model: ModelInfo, compressor: CompressorEntry) -> bool:
    """Tell whether a compressor takes some of the types of layers that are tied, and others not."""
    takes = [compressor.takes(layer.type, layer.base) for layer in map(model.layer, tie) if layer is not None]
    return any(takes) and not all(takes)


def spared(
    config_list: Sequence[Entry], model: ModelInfo, compressor: CompressorEntry, round_to: int = 1
) -> list[tuple[int, str]]:
    """Return (entry, layer) of the layers that stay as they are though the type ``default`` of an entry matches.

    It stands for what can be compressed: not for layers whose weights are computed, where the compressor refuses those.
    Where it removes channels, not for layers either that make the model's outputs, that no input reaches, that have
    no more channels than have to stay, or that are tied to layers of a type that the compressor does not take. Where
    nothing else would be compressed there are none: that is a mistake to be told.
    """
    by_default = any("default" in entry.get("op_types", ()) and "op_names" not in entry for entry in config_list)
    if not by_default:  # as of every trial of a search over named layers
        return []
    whole = {layer.name for layer in model.layers if layer.is_computed and compressor.refuses_computed}
    if compressor.removes_channels:
        whole |= {*model.output_layers, *model.whole_layers}
        whole |= {layer.name for layer in model.layers if is_narrow(layer, round_to)}
        whole |= {name for tie in model.ties or () if is_half_taken(tie, model, compressor) for name in tie}
    if not whole:
        return []
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
