"""The channel groups of a model: which layers lose their channels together, and in which blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from raycompress.compressors.structure.graph import ChannelGraph, CoupledLayer
from raycompress.model.groups import Channel, ChannelGroup

if TYPE_CHECKING:
    from raycompress.compressors.structure.axes.atoms import Ids


def group_of(graph: ChannelGraph, root: str, channels: Sequence[int]) -> ChannelGroup:
    """Return the group that `channels` of layer `root` belong to; those that cannot be removed are left out.

    Parameters
    ----------
    channels
        Output channels of `root`, in ascending order, at least one: all of them, or those that are in no other group
        yet.
    """
    own = graph.components(root, channels)
    free = own[~graph.fixed(own)]
    if not len(free):
        return ChannelGroup((root,), (), len(own), root=root, fixed=graph.reasons(own)[0])
    order = list(dict.fromkeys(free.tolist()))
    coupled = graph.members(free)
    layers = tuple(layer.name for layer in coupled if not layer.follows and graph.is_producer(layer.name))
    blocks: dict[int, list[Channel]] = {component: [] for component in order}
    for layer in sorted(coupled, key=lambda layer: layer.name != root):  # the root's own channels first
        for channel, component in zip(layer.channels.tolist(), layer.components.tolist(), strict=True):
            blocks[component].append((layer.name, channel))
    return ChannelGroup(
        layers=layers or (root,),
        norms=tuple(layer.name for layer in coupled if graph.is_norm(layer.name)),
        size=len(blocks),
        parts=_parts(graph, root, free, coupled),
        root=root,
        blocks=tuple(map(tuple, blocks.values())),
        followers=frozenset(layer.name for layer in coupled if layer.follows),
    )


def channel_groups(graph: ChannelGraph) -> Iterator[ChannelGroup]:
    """Yield each group of the model from which blocks can be removed, in the model's order.

    Groups of one block are left out: a layer keeps at least one channel.
    """
    covered: set[Channel] = set()
    for name in graph.producers():
        free = [channel for channel in range(graph.channels(name)) if (name, channel) not in covered]
        if free:
            group = group_of(graph, name, free)
            if not group.fixed:
                covered.update(channel for block in group.blocks for channel in block)
            if group.size > 1 and not group.fixed:
                yield group


def _parts(graph: ChannelGraph, root: str, components: Ids, coupled: Sequence[CoupledLayer]) -> int:
    """Return the group's ``parts``: 0 where neighbours go together, as those of a head do."""
    every = graph.components(root)
    first = np.flatnonzero(every == components[0])
    if len(first) > 1 and len(np.unique(components)) > 1 and (np.diff(first) == 1).any():
        return 0
    norms = [graph.module(layer.name) for layer in coupled]
    groups = [norm.num_groups for norm in norms if isinstance(norm, nn.GroupNorm)]
    parts = math.lcm(1, *groups)
    return parts if len(components) % parts == 0 else 1
