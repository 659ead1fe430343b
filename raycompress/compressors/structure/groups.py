"""The channel groups of a model: which layers lose their channels together, and in which blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from torch import nn

from raycompress.compressors.structure.graph import ChannelGraph, CoupledLayer
from raycompress.model.groups import Block, Channel, ChannelGroup

Channels = tuple[int, ...]
"""Channels of one layer."""


def group_of(graph: ChannelGraph, root: str, channels: Sequence[int]) -> ChannelGroup:
    """Return the group that `channels` of layer `root` belong to.

    Parameters
    ----------
    channels
        Output channels of `root`, in ascending order, at least one: all of them, or those that are in no other group
        yet.
    """
    coupled = graph.members(root, channels)
    fixed = next((layer.fixed for layer in coupled if layer.fixed), "")
    blocks, parts = (tuple((channel,) for channel in channels), 1) if fixed else _blocks(graph, root, channels, coupled)
    named = [layer for layer in coupled if layer.name]
    layers = tuple(layer.name for layer in named if not layer.follows and graph.is_producer(layer.name))
    places: dict[int, list[Channel]] = {}
    for layer in named:
        for channel, own in layer.pairs:
            places.setdefault(channel, []).append((layer.name, own))
    return ChannelGroup(
        layers=layers or (root,),
        norms=tuple(layer.name for layer in named if graph.is_norm(layer.name)),
        size=len(blocks),
        parts=parts,
        root=root,
        blocks=tuple(_block(root, block, places) for block in blocks),
        followers=frozenset(layer.name for layer in named if layer.follows),
        fixed=fixed,
    )


def channel_groups(graph: ChannelGraph) -> Iterator[ChannelGroup]:
    """Yield each group of the model from which blocks can be removed, in the model's order.

    Groups of one block are left out: a layer keeps at least one channel.
    """
    producers = graph.producers()
    covered: set[Channel] = set()
    for name in producers:
        free = [channel for channel in range(graph.channels(name)) if (name, channel) not in covered]
        if free:
            group = group_of(graph, name, free)
            covered.update(channel for block in group.blocks for channel in block)
            if group.size > 1 and not group.fixed:
                yield group


def _block(root: str, channels: Channels, places: dict[int, list[Channel]]) -> Block:
    own = [(root, channel) for channel in channels]
    return tuple(dict.fromkeys([*own, *(place for channel in channels for place in places.get(channel, ()))]))


def _blocks(
    graph: ChannelGraph, root: str, channels: Sequence[int], coupled: Iterable[CoupledLayer]
) -> tuple[tuple[Channels, ...], int]:
    """Return the channels of `root` in each block, and the group's ``parts``."""
    heads = graph.heads(root)
    if heads is not None:
        return heads.blocks, 0
    if any(len(_tied(graph, root, channel)) > 1 for channel in (channels[0], channels[-1])):
        return tuple(dict.fromkeys(_tied(graph, root, channel) for channel in channels)), 1
    parts, per_head = 1, False
    for layer in coupled:
        module = graph.module(layer.name) if layer.name else None
        if isinstance(module, nn.GroupNorm):
            parts = math.lcm(parts, module.num_groups)
        elif isinstance(module, nn.MultiheadAttention):
            parts, per_head = math.lcm(parts, module.num_heads), True
    if len(channels) % parts:
        parts = 1  # the layer is a part of what the norm sees; the proof of slicing decides whether that can be cut
    size = len(channels) // parts
    blocks = tuple(tuple(channels[part * size + place] for part in range(parts)) for place in range(size))
    return blocks, 1 if per_head else parts


def _tied(graph: ChannelGraph, root: str, channel: int) -> Channels:
    """Return the channels of `root` that go with one of its own, as the halves of a gated unit do."""
    layers = (layer for layer in graph.members(root, [channel]) if layer.name == root)
    return tuple(sorted({own for layer in layers for _, own in layer.pairs}))
