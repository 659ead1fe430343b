"""Coupled channels: `ChannelGroup`, the one type for channels of several layers that can only be removed together."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from raycompress.catalog.rounding import removable

Channel = tuple[str, int]
"""A layer and the index of one of its output channels."""

Block = tuple[Channel, ...]
"""Channels that are removed together or not at all."""


def role(layer: str) -> str:
    """Return a layer's name with a star for each number: the same for the layers that repeated blocks have in common.

    Examples
    --------
    >>> role("model.layers.11.mlp.up_proj")
    'model.layers.*.mlp.up_proj'
    """
    return ".".join("*" if part.isdigit() else part for part in layer.split("."))


def is_inside(name: str, modules: Iterable[str]) -> bool:
    """Tell whether a module, or a tensor, of this name is one of `modules` or inside of one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


@dataclass(frozen=True)
class ChannelGroup:
    """Layers whose output channels are coupled, as blocks of channels that can only be removed together.

    Where the outputs of two convolutions of 16 channels are added and a BatchNorm follows, channel i of one cannot go
    without channel i of the others. They are a group of 16 blocks::

        layers = ("conv1", "conv2")
        norms = ("bn",)
        blocks = ((("conv1", 0), ("conv2", 0), ("bn", 0)), (("conv1", 1), ("conv2", 1), ("bn", 1)), ...)

    Attributes
    ----------
    layers
        The layers that compute the channels: convolutions and linear layers.
    norms
        The BatchNorms that the channels pass through.
    size
        Number of blocks.
    parts
        Number of equal parts of a layer that each block has one channel in: 1 for most groups; N before a GroupNorm
        of N groups, which all have to lose equally many. 0 where a block is a head of attention: ``round_to``, which
        counts channels, does not apply to heads.
    root
        The layer that the group was looked up from: each block holds at least one of its channels.
    blocks
        The channels of each block, of all layers. Empty in a `summary`.
    followers
        Those of `norms` and of the depthwise convolutions that only pass channels on: which channels go is decided by
        the other layers.
    readers
        Layer that has the channels as inputs -> for each block, the indices of its input channels. Only AMC asks
        for them; empty elsewhere.
    fixed
        Why no block can be removed; empty where they can.
    """

    layers: tuple[str, ...]
    norms: tuple[str, ...]
    size: int
    parts: int = 1
    root: str = ""
    blocks: tuple[Block, ...] = ()
    followers: frozenset[str] = frozenset()
    readers: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict, hash=False)
    fixed: str = ""

    @functools.cached_property
    def root_blocks(self) -> tuple[tuple[int, ...], ...]:
        """The channels of `root` in each block."""
        return tuple(tuple(channel for layer, channel in block if layer == self.root) for block in self.blocks)

    def multiple(self, round_to: int) -> int:
        """Return what the number of blocks that stay is a multiple of, where that of channels is one of `round_to`."""
        return round_to // math.gcd(self.parts, round_to) if self.parts else 1

    def removable(self, sparsity: float, round_to: int) -> int:
        """Return how many blocks go at `sparsity`; see `raycompress.catalog.rounding.removable`."""
        return removable(self.size, sparsity, self.multiple(round_to))

    def summary(self) -> ChannelGroup:
        """Return the group without its channels: what a forecast needs, and what journals keep."""
        return ChannelGroup(self.layers, self.norms, self.size, self.parts)

    def with_readers(self, readers: Mapping[str, tuple[tuple[int, ...], ...]]) -> ChannelGroup:
        """Return the group with `readers`."""
        return replace(self, readers=readers)

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain JSON data, under the keys that journals have had from the start."""
        return {"layers": list(self.layers), "norms": list(self.norms), "blocks": self.size, "divides": self.parts}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ChannelGroup:
        """Rebuild the summary that `to_json` returned."""
        return cls(tuple(data["layers"]), tuple(data["norms"]), data["blocks"], data["divides"])
