"""Groups of layers whose channels go together."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn

from raycompress.compressors.structure.graph import ChannelGraph, Member


def grouping(
    graph: ChannelGraph, name: str, free: list[int], members: Iterable[Member]
) -> tuple[tuple[tuple[int, ...], ...], int]:
    """Return the channels that only go together, and how many equal parts of the layer each such block is spread over.

    0 parts stand for heads, which nothing rounds.
    """
    heads = graph.heads(name)
    if heads is not None:
        return heads.blocks, 0
    if any(len(_class_of(graph, name, channel)) > 1 for channel in (free[0], free[-1])):
        return _classes(graph, name, free), 1
    groups, per_head = 1, False
    for member in members:
        module = graph.module(member.name) if member.name else None
        if isinstance(module, nn.GroupNorm):
            groups = math.lcm(groups, module.num_groups)
        elif isinstance(module, nn.MultiheadAttention):
            groups, per_head = math.lcm(groups, module.num_heads), True
    if len(free) % groups:
        groups = 1  # the layer is a part of what the norm sees; the proof tells whether that can be sliced
    size = len(free) // groups
    blocks = tuple(tuple(free[group * size + place] for group in range(groups)) for place in range(size))
    return blocks, 1 if per_head else groups


def _class_of(graph: ChannelGraph, name: str, channel: int) -> tuple[int, ...]:
    """Return the channels of a layer that go with one of its own, as the halves of a gated unit do."""
    return tuple(
        sorted({own for member in graph.members(name, [channel]) if member.name == name for _, own in member.pairs})
    )


def _classes(graph: ChannelGraph, name: str, free: Iterable[int]) -> tuple[tuple[int, ...], ...]:
    return tuple(dict.fromkeys(_class_of(graph, name, channel) for channel in free))
