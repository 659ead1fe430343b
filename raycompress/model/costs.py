"""The size of a pruned model as a function of the removed channels: parameters, multiply-adds and bytes.

`raycompress.compressors.structure.costing` fits the function when the script is inspected; it is evaluated here for
each proposal, in microseconds, before anything is pruned or trained.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raycompress.model.groups import ChannelGroup

SIZES = ("params", "flops", "size_bytes")
"""The sizes that are computed for a proposal before it is trained, by the names of an experiment file."""


Losses = tuple[tuple[int, float], ...]
"""(index of a group, by how much one removed block of that group shortens a dimension)."""


@dataclass(frozen=True)
class LayerWidth:
    """The dense number of input and output channels of one layer, and how much of them each group removes."""

    name: str
    inputs: tuple[int, Losses]
    outputs: tuple[int, Losses]

    def at(self, removed: Sequence[int]) -> tuple[int, int]:
        """Return the numbers of input and output channels that are left."""
        one, other = (round(size - lost(losses, removed)) for size, losses in (self.inputs, self.outputs))
        return one, other


def lost(losses: Losses, removed: Sequence[int]) -> float:
    """Return by how much the removed blocks shorten a dimension."""
    return sum(each * removed[group] for group, each in losses)


@dataclass(frozen=True)
class BlockCost:
    """What a residual block contributes to the dense model: nothing of it is left where it is dropped."""

    name: str
    params: float
    flops: float
    size_bytes: float


@dataclass(frozen=True)
class Part:
    """A summand of the model's cost that is proportional to each of its dimensions, such as one weight tensor.

    Attributes
    ----------
    params, flops, size_bytes
        What the part contributes in the dense model.
    dims
        Size of each dimension of its tensor, and by how much one removed block of each group shortens it.
    inside
        The residual block that it is a part of; empty for none.
    """

    params: float
    flops: float
    size_bytes: float
    dims: tuple[tuple[int, Losses], ...]
    inside: str = ""


@dataclass(frozen=True)
class CostModel:
    """The sizes of a model as a function of how many blocks of each channel group are removed.

    Attributes
    ----------
    groups
        What can be removed: summaries, without the channels.
    parts
        The summands that removing blocks changes; the rest of the model is constant.
    widths
        The layers whose width changes.
    params, flops, size_bytes
        Of the whole dense model.
    blocks
        The residual blocks that can be dropped as a whole, where they were asked for.
    """

    groups: tuple[ChannelGroup, ...]
    parts: tuple[Part, ...]
    widths: tuple[LayerWidth, ...]
    params: int
    flops: int
    size_bytes: int
    blocks: tuple[BlockCost, ...] = ()

    @property
    def dense(self) -> dict[str, float]:
        """The dense model's sizes, by name."""
        return {name: float(getattr(self, name)) for name in SIZES}

    def sizes(self, removed: Sequence[int], dropped: Container[str] = ()) -> dict[str, float]:
        """Return the sizes of the model without `removed` blocks of each group, and the residual blocks `dropped`."""
        found = self.dense
        for block in self.blocks:
            for name in SIZES if block.name in dropped else ():
                found[name] -= getattr(block, name)
        for part in self.parts:
            if part.inside in dropped:
                continue
            left = 1.0
            for size, losses in part.dims:
                left *= max(0.0, size - lost(losses, removed)) / size
            for name in SIZES:
                found[name] -= getattr(part, name) * (1.0 - left)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` is its inverse."""
        return {**asdict(self), "groups": [group.to_json() for group in self.groups]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CostModel:
        """Rebuild what `to_json` returned."""
        groups = tuple(map(ChannelGroup.from_json, data["groups"]))
        parts = tuple(
            Part(
                **{name: part[name] for name in SIZES},
                dims=tuple(map(_dimension, part["dims"])),
                inside=part.get("inside", ""),
            )
            for part in data["parts"]
        )
        widths = tuple(
            LayerWidth(one["name"], _dimension(one["inputs"]), _dimension(one["outputs"])) for one in data["widths"]
        )
        blocks = tuple(BlockCost(**block) for block in data.get("blocks", ()))
        return cls(groups, parts, widths, **{name: data[name] for name in SIZES}, blocks=blocks)


def _dimension(data: Sequence[Any]) -> tuple[int, Losses]:
    size, losses = data
    return size, tuple((group, each) for group, each in losses)
