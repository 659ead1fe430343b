"""The protocol between the pruning compressor and the engines: libraries that decide what to prune."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.catalog import CompressorEntry
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.compressors.structure.graph_cache import GraphCache
from raycompress.compressors.targets.torch import Target


@dataclass(frozen=True)
class Request:
    """The arguments of one call of `Engine.choose`.

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
    call
        What the script passed to ``compress()`` by name.
    graphs
        The coupled channels of the model, shared with the compressor; see `graph`.
    """

    compressor: CompressorEntry
    model: nn.Module
    targets: Mapping[str, Target]
    arguments: Mapping[str, Any]
    example: Example | None
    call: Mapping[str, Any] = field(default_factory=dict)
    graphs: GraphCache | None = None

    def graph(self, example: Example) -> ChannelGraph:
        """Return the coupled channels of the model for one input of it, without following it twice."""
        return (self.graphs or GraphCache(self.model)).graph(example)


@dataclass(frozen=True)
class PruningDecision:
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
    round_to
        What the number of channels that stay has to be a multiple of, in each layer that loses any.
    spared
        Layer that ``default`` matches and that this method leaves whole -> why.
    notes
        What the user should know of the choice, for the notes of the saved model.
    """

    channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    asked: Mapping[str, int] = field(default_factory=dict)
    round_to: int = 1
    spared: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class PruningSchedule:
    """Decides while the script trains, at steps, epochs or rounds; this base never removes anything.

    Each method that returns a `PruningDecision` replaces the one before it. An engine removes its hooks from the model
    once it no longer needs them.

    Attributes
    ----------
    needs
        The method of the compressor that a script has to call for the schedule to come to its end; empty for none.
    """

    needs: str = ""

    @property
    def rounds(self) -> int:
        """How many rounds of prune and train `get_prune_iterations` offers the script."""
        return 1

    def start(self) -> PruningDecision | None:
        """Return what to remove from the start, in ``compress()``."""
        return None

    def after_step(self) -> PruningDecision | None:
        """Return what to remove from now on; called after each step of an optimizer that trains the model."""
        return None

    def at_epoch(self, epoch: int) -> PruningDecision | None:
        """Return what to remove from now on; called by ``update_epoch(epoch)``."""
        return None

    def at_round(self) -> PruningDecision | None:
        """Return what to remove from now on; called by ``prune_iteration_start()``."""
        return None

    def missing(self) -> tuple[str, str]:
        """Return (what the decision still waits for, what the script should do); empty texts where it is final."""
        return "", ""


class Engine(Protocol):
    """A method of pruning: decides which channels or weights to remove."""

    def choose(self, request: Request) -> PruningDecision | PruningSchedule:
        """Return what to remove, or a schedule that will; raises CompressionError where the method cannot work.

        Compressors that mask single weights return a `PruningDecision` of weights, all others one of channels.
        """
        ...


def engine_of(entry: CompressorEntry) -> Engine:
    """Return a new engine of a compressor of the catalogue."""
    module, _, name = entry.engine.partition(":")
    engine: Engine = getattr(importlib.import_module(module), name)()
    return engine


def _nothing(_example: Example) -> PruningDecision:
    return PruningDecision()


@dataclass(frozen=True)
class DeferredDecision(PruningDecision):
    """A decision that needs an input of the model: `raycompress.compressors.structure.slicing.make` asks for it.

    Attributes
    ----------
    choose
        Returns the decision for an input.
    """

    choose: Callable[[Example], PruningDecision] = _nothing
