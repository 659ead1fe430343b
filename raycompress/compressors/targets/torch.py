"""Which layers of a torch model a config_list names, and how much of each it asks to remove."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from raycompress.catalog import CompressorEntry
from raycompress.compressors.layer_kinds import made_plain_by, stacked_weights, torch_base
from raycompress.compressors.targets.selection import Layers, Target, choose

__all__ = ["Target", "layers_of", "select"]


def select(
    model: nn.Module, config_list: Sequence[Mapping[str, Any]], compressor: CompressorEntry
) -> dict[str, Target]:
    """Return the layers to prune by name; see `raycompress.compressors.targets.selection.choose`."""
    layers = {name: module for name, module in model.named_modules() if name}
    weighted = {name for name, layer in layers.items() if isinstance(getattr(layer, "weight", None), nn.Parameter)}
    if compressor.removes_channels:
        weighted |= {name for name, layer in layers.items() if stacked_weights(layer)}
    return choose(layers_of(layers, weighted), config_list, compressor)


def layers_of(modules: Mapping[str, nn.Module], weighted: Collection[str]) -> Layers:
    """Return what a config_list can name of these modules."""
    types = {name: type(module).__name__ for name, module in modules.items()}
    bases = {name: base for name, module in modules.items() if (base := torch_base(module))}
    computed = {name: call for name, module in modules.items() if (call := made_plain_by(name, module))}
    return Layers(types, weighted, bases, computed)
