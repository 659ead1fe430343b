"""Sliced copies of a model at any sparsities, to score before anything is trained."""

from __future__ import annotations

import torch
from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.compressors.structure.groups import channel_groups
from raycompress.forecast.forecast import Config, Forecast
from raycompress.model.groups import ChannelGroup


class Trimmer:
    """Removes channels from copies of a model: those of the smallest magnitude over all coupled layers.

    A trial may remove other channels, by another method, but as many from each layer.

    Parameters
    ----------
    model
        It is left as it is.
    example
        One input of it.
    forecast
        Computes how many channels a config removes.

    Raises
    ------
    CompressionError
        Torch-Pruning cannot follow the model.
    """

    def __init__(self, model: nn.Module, example: Example, forecast: Forecast) -> None:
        self._model, self._example, self._forecast = model, example, forecast
        graph = ChannelGraph(model, example)
        found = {group.summary(): group for group in channel_groups(graph)}
        groups = [found[summary] for summary in forecast.costs.groups]
        self._order = [(group.root, _by_magnitude(graph, group)) for group in groups]

    def small(self, config: Config) -> nn.Module:
        """Return a new model, in eval mode, without the channels that `config` asks to remove."""
        graph = ChannelGraph(self._model, self._example)
        for (name, blocks), count in zip(self._order, self._forecast.removed(config), strict=True):
            graph.remove(name, [channel for block in blocks[:count] for channel in block])
        return graph.copy


def _by_magnitude(graph: ChannelGraph, group: ChannelGroup) -> list[tuple[int, ...]]:
    """Return the channels of the root in each block, those of least magnitude first."""
    from torch_pruning.pruner.importance import GroupMagnitudeImportance

    values = GroupMagnitudeImportance(p=1)(graph.group(group.root))
    known = torch.nan_to_num(values.detach().double().cpu())
    return sorted(group.root_blocks, key=lambda block: float(known[list(block)].mean()))
