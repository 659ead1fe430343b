"""What of a model's depth goes: as a configuration says it, and for one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.compressors.depth.dropped_block import drop_blocks
from raycompress.compressors.depth.finding import ResidualBlock, residual_blocks
from raycompress.compressors.depth.influence import block_influence
from raycompress.compressors.layer_kinds import makes_channels, output_dim, stacked_weights
from raycompress.errors import CompressionError, ExperimentError
from raycompress.model.groups import is_inside
from raycompress.text import did_you_mean, join_names

_FIX = 'write {"drop": ["layer3.1"]}, or {"drop": 1}'


@dataclass(frozen=True)
class Depth:
    """The part ``depth`` of a trial's configuration.

    Attributes
    ----------
    drop
        The blocks that go, or how many: those of least influence.
    blocks
        The blocks to choose among; empty for all.
    """

    drop: int | tuple[str, ...]
    blocks: tuple[str, ...] = ()

    @classmethod
    def of(cls, value: Any) -> Depth | None:
        """Return what a configuration says; None where it says nothing.

        Raises
        ------
        ExperimentError
            It is nothing that can be done without a search.
        """
        if value is None:
            return None
        given = value if isinstance(value, Mapping) and set(value) <= {"drop", "blocks"} else {}
        drop, blocks = given.get("drop"), given.get("blocks", "auto")
        is_number = type(drop) is int and drop >= 0
        if not (is_number or _is_names(drop)) or not (blocks == "auto" or _is_names(blocks)):
            what = f"the depth must say which blocks go, or how many, not {value!r:.80}"
            raise ExperimentError(what, where="depth", fix=_FIX)
        return cls(drop if isinstance(drop, int) else tuple(drop or ()), () if blocks == "auto" else tuple(blocks))


def _is_names(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) and name for name in value)


@dataclass(frozen=True)
class Dropping:
    """The blocks of one model that go.

    Attributes
    ----------
    blocks
        Name -> what it returns, see `DroppedBlock`.
    masks
        ``module.parameter`` -> zeros of its shape, of the parameters inside them.
    removed
        Layer inside them -> (removed, of) output channels.
    """

    blocks: Mapping[str, int] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    removed: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, blocks: Mapping[str, int]) -> Dropping:
        """Return how `blocks` go of `model`, which has them yet."""
        masks = {
            name: torch.zeros(parameter.shape, dtype=torch.uint8)
            for name, parameter in model.named_parameters()
            if is_inside(name, blocks)
        }
        layers = {name: layer for name, layer in model.named_modules() if name and is_inside(name, blocks)}
        counts = {name: count for name, layer in layers.items() if (count := _channels(layer))}
        return cls(dict(blocks), masks, {name: (count, count) for name, count in counts.items()})

    def apply(self, model: nn.Module) -> list[nn.Parameter]:
        """Drop the blocks, in place; return the parameters that the model lost."""
        return drop_blocks(model, self.blocks)

    def has(self, layer: str) -> bool:
        """Tell whether a layer goes with one of the blocks."""
        return is_inside(layer, self.blocks)


def _channels(layer: nn.Module) -> int:
    weight = getattr(layer, next(iter(stacked_weights(layer)), "weight"), None)
    return weight.shape[output_dim(layer)] if makes_channels(layer) and isinstance(weight, Tensor) else 0


def choose_blocks(model: nn.Module, depth: Depth, example: Example, inputs: Sequence[Example]) -> dict[str, int]:
    """Return the blocks of `model` that go -> what each returns.

    Parameters
    ----------
    example
        An input, which shows the blocks.
    inputs
        What influence is measured on, where a number is asked for.

    Raises
    ------
    CompressionError
        A name is that of no residual block, or more blocks are to go than there are.
    """
    found = {block.name: block for block in residual_blocks(model, example)}
    named = depth.drop if isinstance(depth.drop, tuple) else depth.blocks
    for name in named:
        if name not in found:
            raise _no_block(name, model, found)
    if isinstance(depth.drop, tuple):
        return {name: found[name].returns for name in depth.drop}
    among = depth.blocks or tuple(found)
    if depth.drop > len(among):
        raise CompressionError(
            f"{depth.drop} blocks are to go, and {type(model).__name__} has {len(among)} that can",
            where="depth",
            fix=f'write a "drop" of at most {len(among)}',
        )
    order = by_influence(model, among, inputs or [example]) if depth.drop else []
    return {name: found[name].returns for name in among if name in order[: depth.drop]}


def by_influence(model: nn.Module, blocks: Sequence[str], inputs: Sequence[Example]) -> list[str]:
    """Return blocks in the order in which they go, those of least influence first; see `block_influence`."""
    influence = block_influence(model, blocks, inputs)
    return sorted(blocks, key=influence.__getitem__)


def _no_block(name: str, model: nn.Module, found: Mapping[str, ResidualBlock]) -> CompressionError:
    if not found:
        return CompressionError(
            f"{type(model).__name__} has no residual block: no module computes x + f(x) of its input x",
            where="depth",
            fix='remove "depth"',
        )
    return CompressionError(
        f'"{name}" is no residual block of {type(model).__name__}, whose output would be x + f(x) of its input x',
        where="depth",
        fix=did_you_mean(name, list(found)) or f"the blocks are {join_names(found)}",
    )
