"""What a search distributes a sparsity over: groups of coupled channels, or the single weights of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.catalog import CompressorEntry
from raycompress.catalog.rounding import removed_count
from raycompress.compressors.engine import PruningDecision
from raycompress.compressors.masking.masks import Removed
from raycompress.compressors.structure.coupling import settle
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.compressors.targets.torch import Target
from raycompress.model.groups import Block, Channel, ChannelGroup


class Prunable(Protocol):
    """The interface of what a search prunes: a share to remove for each leader.

    A leader is the first of several layers that are coupled, and represents all of them. Shares are of a leader's
    weights, 0 <= share < 1.
    """

    @property
    def sizes(self) -> Mapping[str, int]:
        """Leader -> number of weights of its layers, in the model's order."""
        ...

    @property
    def pieces(self) -> Mapping[str, int]:
        """Leader -> how many blocks, or single weights, can be removed one by one."""
        ...

    def removed(self, model: nn.Module, shares: Mapping[str, float]) -> Removed:
        """Return the masks on `model` that remove the given share of each leader; leaders left out lose nothing."""
        ...

    def choice(self, model: nn.Module, shares: Mapping[str, float]) -> PruningDecision:
        """Return the same as an engine's choice."""
        ...

    def shares(self, shares: Mapping[str, float]) -> dict[str, float]:
        """Return the share of each layer that loses some, leaders and those tied to them."""
        ...


def _l1(weight: Tensor) -> Tensor:
    return weight.flatten(1).abs().sum(1)


def _l2(weight: Tensor) -> Tensor:
    return weight.flatten(1).square().sum(1).sqrt()


def _fpgm(weight: Tensor) -> Tensor:
    flat = weight.flatten(1)
    # a filter that is pruned already stays the first to go, however far it is from the others
    return torch.cdist(flat, flat).sum(1) * (flat != 0).any(1)


SCORES: dict[str, Callable[[Tensor], Tensor]] = {"l1": _l1, "l2": _l2, "fpgm": _fpgm}
"""base_algo -> how much each filter matters; Li et al., ICLR 2017 (l1), and He et al., CVPR 2019 (fpgm)."""


class TiedChannels:
    """Groups of coupled output channels, such as those of layers whose outputs are added.

    Parameters
    ----------
    base
        Key of `SCORES`. The score of tied channels is the sum of their filters' scores.

    Raises
    ------
    CompressionError
        A layer of `targets` can lose no channel, whatever is chosen: it is tied to one that is left out, or it is the
        model's output.
    """

    def __init__(
        self, model: nn.Module, example: Example, targets: Mapping[str, Target], entry: CompressorEntry, base: str
    ) -> None:
        self._score = SCORES[base]
        graph = ChannelGraph(model, example)
        channels = {name: weight_of(model, name).size(0) for name in targets}
        asked = {name: max(1, removed_count(channels[name], target.sparsity)) for name, target in targets.items()}
        everything = PruningDecision({name: tuple(range(count)) for name, count in channels.items()}, asked=asked)
        removable = settle(graph, everything, targets, entry).channels
        self.groups = {group.root: group for group in _groups(graph, removable)}
        self.sizes = {
            leader: sum(weight_of(model, layer).numel() for layer in group.layers)
            for leader, group in self.groups.items()
        }
        self.pieces = {leader: group.size for leader, group in self.groups.items()}
        self._widths = channels

    def removed(self, model: nn.Module, shares: Mapping[str, float]) -> Removed:
        """Return the masks; see `Prunable`. BatchNorm goes along, so the masked model is what the small one will be."""
        masks: dict[tuple[str, str], Tensor] = {}
        for layer, channel in self._channels_of(model, shares):
            module = model.get_submodule(layer)
            for name, parameter in module.named_parameters(recurse=False):
                mask = masks.setdefault((layer, name), torch.zeros_like(parameter, dtype=torch.bool))
                mask[channel] = True
        return masks

    def choice(self, model: nn.Module, shares: Mapping[str, float]) -> PruningDecision:
        """Return the channels; see `Prunable`."""
        gone = self._channels_of(model, shares)
        return PruningDecision(
            {name: tuple(sorted(channel for layer, channel in gone if layer == name)) for name in self._widths}
        )

    def shares(self, shares: Mapping[str, float]) -> dict[str, float]:
        """Return the share of each layer; see `Prunable`."""
        return {layer: share for leader, share in shares.items() for layer in self.groups[leader].layers}

    def _channels_of(self, model: nn.Module, shares: Mapping[str, float]) -> list[Channel]:
        return [channel for leader, share in shares.items() for channel in self._least(model, leader, share)]

    def _least(self, model: nn.Module, leader: str, share: float) -> list[Channel]:
        """Return the channels of the least important blocks of a group, for a `share` of its blocks.

        Each layer keeps a channel.
        """
        group = self.groups[leader]
        scores = {layer: self._score(weight_of(model, layer).detach().float()) for layer in group.layers}
        totals = torch.stack(
            [
                torch.stack([scores[layer][channel] for layer, channel in block if layer in scores]).sum()
                for block in group.blocks
            ]
        )
        left = {layer: self._widths[layer] for layer in group.layers}
        gone: list[Channel] = []
        count = removed_count(group.size, share)
        for index in torch.argsort(totals, stable=True).tolist():
            if count == 0:
                break
            lost = [layer for layer, _ in group.blocks[index] if layer in left]
            if all(left[layer] > lost.count(layer) for layer in lost):
                gone += group.blocks[index]
                count -= 1
                for layer in lost:
                    left[layer] -= 1
        return gone


class SingleWeights:
    """The weights of each layer by themselves, the smallest first; Han et al., NeurIPS 2015."""

    def __init__(self, model: nn.Module, targets: Mapping[str, Target]) -> None:
        self.sizes = {name: weight_of(model, name).numel() for name in targets}
        self.pieces = self.sizes

    def removed(self, model: nn.Module, shares: Mapping[str, float]) -> Removed:
        """Return the masks; see `Prunable`."""
        return {(name, "weight"): mask for name, mask in self.choice(model, shares).weights.items()}

    def choice(self, model: nn.Module, shares: Mapping[str, float]) -> PruningDecision:
        """Return the masks by layer; see `Prunable`."""
        weights = {}
        for name, share in shares.items():
            weight = weight_of(model, name).detach()
            count = min(removed_count(weight.numel(), share), weight.numel() - 1)
            mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
            mask[weight.abs().flatten().argsort(stable=True)[:count]] = True
            weights[name] = mask.reshape(weight.shape)
        return PruningDecision(weights=weights)

    def shares(self, shares: Mapping[str, float]) -> dict[str, float]:
        """Return the share of each layer; see `Prunable`."""
        return dict(shares)


def weight_of(model: nn.Module, name: str) -> Tensor:
    """Return the weight of a layer that has one."""
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def _groups(graph: ChannelGraph, removable: Mapping[str, tuple[int, ...]]) -> list[ChannelGroup]:
    """Return the groups that the removable channels of some layers make up, in the order of those layers.

    Blocks are the connected components of coupled channels; a group joins the blocks that have a layer of `removable`
    in common, so that layers whose outputs are concatenated in front of one layer may be in one group. The layers of a
    group are those of `removable`, and the first of them is its root.
    """
    groups: list[tuple[set[str], list[Block]]] = []
    for block in _components(graph, removable):
        layers = {layer for layer, _ in block if layer in removable}
        joined = [group for group in groups if group[0] & layers]
        groups = [group for group in groups if not group[0] & layers]
        blocks = [block, *(other for group in joined for other in group[1])]
        groups.append((layers.union(*(group[0] for group in joined)), blocks))
    order = {name: place for place, name in enumerate(removable)}
    found = []
    for layers, blocks in groups:
        names = tuple(sorted(layers, key=order.__getitem__))
        norms = dict.fromkeys(layer for block in blocks for layer, _ in block if graph.is_norm(layer))
        found.append(ChannelGroup(names, tuple(norms), len(blocks), root=names[0], blocks=tuple(sorted(blocks))))
    return sorted(found, key=lambda group: order[group.root])


def _components(graph: ChannelGraph, removable: Mapping[str, tuple[int, ...]]) -> list[Block]:
    """Return the blocks that the removable channels of some layers belong to, each in ascending order."""
    every = np.concatenate([graph.components(name, channels) for name, channels in removable.items()])
    blocks: dict[int, list[Channel]] = {component: [] for component in dict.fromkeys(every.tolist())}
    for layer in graph.members(every):
        if graph.output_axis(layer.name)[1] == 0:
            for channel, component in zip(layer.channels.tolist(), layer.components.tolist(), strict=True):
                blocks[component].append((layer.name, channel))
    return [tuple(sorted(block)) for block in blocks.values()]
