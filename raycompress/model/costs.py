"""What a pruned model costs, before there is one: parameters, multiply-adds and bytes from the channels that go.

Written by the inspection of the script (`raycompress.compressors.structure.costing`), which follows the model's
channels; evaluated here for each proposal, in microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raycompress.model.groups import ChannelGroup

SIZES = ("params", "flops", "size_bytes")
"""What is known of a proposal before it is trained, by the names of an experiment file."""


Takes = tuple[tuple[int, float], ...]
"""Group -> what one removed block of it takes off a dimension."""


@dataclass(frozen=True)
class LayerWidth:
    """How wide one layer is: the inputs and outputs that its weight has, and what each group takes off them."""

    name: str
    inputs: tuple[int, Takes]
    outputs: tuple[int, Takes]

    def at(self, removed: Sequence[int]) -> tuple[int, int]:
        """Return the numbers of input and output channels that are left."""
        one, other = (round(size - taken(takes, removed)) for size, takes in (self.inputs, self.outputs))
        return one, other


def taken(takes: Takes, removed: Sequence[int]) -> float:
    """Return what the removed blocks take off a dimension."""
    return sum(each * removed[group] for group, each in takes)


@dataclass(frozen=True)
class Part:
    """A piece of the model whose cost is in proportion to each of its dimensions.

    Attributes
    ----------
    params, flops, size_bytes
        Of the dense model's.
    dims
        Size of a dimension, and what one removed block of a group, by its index, takes off it.
    """

    params: float
    flops: float
    size_bytes: float
    dims: tuple[tuple[int, Takes], ...]


@dataclass(frozen=True)
class CostModel:
    """The cost of a model in what is removed of its groups of channels.

    Attributes
    ----------
    groups
        What can be removed: summaries, without the channels.
    parts
        What that changes; all else costs what it did.
    widths
        The layers whose width changes.
    params, flops, size_bytes
        Of the whole dense model.
    """

    groups: tuple[ChannelGroup, ...]
    parts: tuple[Part, ...]
    widths: tuple[LayerWidth, ...]
    params: int
    flops: int
    size_bytes: int

    @property
    def dense(self) -> dict[str, float]:
        """The dense model's sizes, by name."""
        return {name: float(getattr(self, name)) for name in SIZES}

    def sizes(self, removed: Sequence[int]) -> dict[str, float]:
        """Return the sizes of the model without `removed` blocks of each group."""
        found = self.dense
        for part in self.parts:
            left = 1.0
            for size, takes in part.dims:
                left *= max(0.0, size - taken(takes, removed)) / size
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
            )
            for part in data["parts"]
        )
        widths = tuple(
            LayerWidth(one["name"], _dimension(one["inputs"]), _dimension(one["outputs"])) for one in data["widths"]
        )
        return cls(groups, parts, widths, **{name: data[name] for name in SIZES})


def _dimension(data: Sequence[Any]) -> tuple[int, Takes]:
    size, takes = data
    return size, tuple((group, each) for group, each in takes)
