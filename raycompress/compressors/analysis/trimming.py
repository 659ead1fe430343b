"""Small copies of a model at any sparsities, made in one go: what is scored before anything is trained."""

from __future__ import annotations

import torch
from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.structure.costing import groups_of
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.forecast.forecast import Config, Forecast


class Trimmer:
    """Cuts channels out of copies of a model, those with the smallest magnitude in all layers that they are tied to.

    What a trial will cut may be chosen by another method; that as many go from each layer is the same.

    Parameters
    ----------
    model
        It is left as it is.
    example
        One input of it.
    forecast
        Tells how many channels a config asks for.

    Raises
    ------
    CompressionError
        Torch-Pruning cannot follow the model.
    """

    def __init__(self, model: nn.Module, example: Example, forecast: Forecast) -> None:
        self._model, self._example, self._forecast = model, example, forecast
        graph = ChannelGraph(model, example)
        found = dict(groups_of(graph))
        self._order = [
            (name, _by_magnitude(graph, name, blocks))
            for name, blocks in (found[group] for group in forecast.costs.groups)
        ]

    def small(self, config: Config) -> nn.Module:
        """Return a new model, in eval mode, without the channels that `config` asks to remove."""
        graph = ChannelGraph(self._model, self._example)
        for (name, blocks), count in zip(self._order, self._forecast.removed(config), strict=True):
            graph.remove(name, [channel for block in blocks[:count] for channel in block])
        return graph.copy


def _by_magnitude(graph: ChannelGraph, name: str, blocks: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
    """Return the blocks of channels of a layer, the least important first."""
    from torch_pruning.pruner.importance import GroupMagnitudeImportance

    values = GroupMagnitudeImportance(p=1)(graph.group(name))
    known = torch.nan_to_num(values.detach().double().cpu())
    return sorted(blocks, key=lambda block: float(known[list(block)].mean()))
