"""The seam between raycompress and the libraries that decide what to prune."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from raycompress.compressors.catalog import CompressorEntry
from raycompress.compressors.example import Example
from raycompress.compressors.targets import Target


@dataclass(frozen=True)
class Request:
    """What an engine is asked for.

    Attributes
    ----------
    compressor
        The catalogue's entry.
    model
        The user's model; an engine leaves it as it was, unless the method itself trains it.
    targets
        The layers to prune, by name.
    arguments
        The compressor's arguments, by the names in the catalogue.
    example
        One input of the model, or None when none is known yet.
    """

    compressor: CompressorEntry
    model: nn.Module
    targets: Mapping[str, Target]
    arguments: Mapping[str, Any]
    example: Example | None


@dataclass(frozen=True)
class Choice:
    """What an engine chose to remove.

    Attributes
    ----------
    channels
        Layer -> output channels to remove, for compressors that remove channels.
    weights
        Layer -> bool tensor of the weight's shape, True where a single weight is removed, for those that do not.
    asked
        Layer -> how many channels its entry asked for; of a method that compares channels across the layers of an
        entry no layer is in it.
    """

    channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    asked: Mapping[str, int] = field(default_factory=dict)


class Engine(Protocol):
    """Chooses what to remove."""

    def choose(self, request: Request) -> Choice:
        """Return what to remove; raises CompressionError where the method cannot work on this model."""
        ...
