"""How many channels of each group go, and which: those of the least importance, as Torch-Pruning measures it.

Torch-Pruning's own pruner rounds what stays down, to nothing in a layer of fewer than ``round_to`` channels, and passes
over what it cannot prune. So the counting is done here, and the importance and the graph are Torch-Pruning's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raycompress.catalog.rounding import removable, removed_count, rounded
from raycompress.compressors.engines.torch_pruning.units import Unit
from raycompress.compressors.structure.graph import ChannelGraph, following
from raycompress.errors import CompressionError

Importance = Callable[[Any], Tensor | None]
"""Torch-Pruning's importance: group -> one number a channel, or None where it has nothing to measure."""


@dataclass(frozen=True)
class Way:
    """How channels are compared.

    Attributes
    ----------
    across
        Whether the channels of all groups of an entry are compared with one another.
    isomorphic
        The same, among the groups that are built alike (Fang et al., Isomorphic Pruning, ECCV 2024).
    steps
        In how many steps they go, ranked anew after each.
    """

    across: bool
    isomorphic: bool
    steps: int


def remove_least(graph: ChannelGraph, units: Sequence[Unit], importance: Importance, way: Way) -> None:
    """Remove the least important channels of all units from the graph's copy."""
    scopes = _scopes(graph, units, way)
    for step in range(1, way.steps + 1):
        scores = {unit.name: _scores(graph, unit, importance) for unit in units}
        for scope in scopes:
            if way.across or way.isomorphic:
                counts = _across(scope, scores, step, way.steps)
            else:
                counts = [_alone(unit, len(scores[unit.name]), step, way.steps) for unit in scope]
            for unit, count in zip(scope, counts, strict=True):
                least = sorted(scores[unit.name].items(), key=lambda scored: scored[1])[:count]
                graph.remove(unit.name, [channel for block, _ in least for channel in unit.blocks[block]])


def _scopes(graph: ChannelGraph, units: Sequence[Unit], way: Way) -> list[list[Unit]]:
    scopes: dict[Any, list[Unit]] = {}
    for unit in units:
        if way.isomorphic:
            kinds = tuple(
                (type(item.dep.target.module).__name__, item.dep.handler.__name__) for item in graph.group(unit.name)
            )
            scopes.setdefault((unit.entry, kinds), []).append(unit)
        else:
            scopes.setdefault(unit.entry if way.across else unit.name, []).append(unit)
    return list(scopes.values())


def _scores(graph: ChannelGraph, unit: Unit, importance: Importance) -> dict[int, float]:
    """Return the importance of each block that is left: the mean of its channels'."""
    with following(unit.name):
        values = importance(graph.group(unit.name))
    if values is None:
        raise CompressionError(
            f'no layer that "{unit.name}" is tied to has anything that this compressor measures',
            where=f"config_list[{unit.entry}]",
            fix="take another compressor, such as group_l2",
        )
    places = {channel: place for place, channel in enumerate(graph.remaining(unit.name))}
    known = torch.nan_to_num(values.detach().double().cpu())  # a group of zeros only, divided by its mean
    return {
        number: float(known[[places[channel] for channel in block]].mean())
        for number, block in enumerate(unit.blocks)
        if block[0] in places
    }


def _alone(unit: Unit, left: int, step: int, steps: int) -> int:
    """Return how many of the `left` blocks of one unit go in this step."""
    total = len(unit.blocks)
    return max(0, left - total + removable(total, unit.sparsity, unit.round_to) * step // steps)


def _across(scope: Sequence[Unit], scores: dict[str, dict[int, float]], step: int, steps: int) -> list[int]:
    """Return how many blocks of each unit of a scope go in this step: the least important of all."""
    size = {unit.name: len(unit.blocks[0]) for unit in scope}
    total = sum(len(unit.blocks) * size[unit.name] for unit in scope)
    gone = sum((len(unit.blocks) - len(scores[unit.name])) * size[unit.name] for unit in scope)
    budget = removed_count(total, scope[0].sparsity) * step // steps - gone
    counts = dict.fromkeys(size, 0)
    by_name = {unit.name: unit for unit in scope}
    pool = sorted((score, name) for name in size for score in scores[name].values())
    for _, name in pool:
        stays = len(scores[name]) - counts[name] - 1
        if size[name] <= budget and stays >= by_name[name].round_to:
            counts[name] += 1
            budget -= size[name]
    if step == steps:
        return [_rounded(unit, len(scores[unit.name]), counts[unit.name]) for unit in scope]
    return [counts[unit.name] for unit in scope]


def _rounded(unit: Unit, left: int, count: int) -> int:
    """Return the number of blocks to remove of the `left` ones that is nearest to `count` and leaves a multiple."""
    kept = rounded(left - count, len(unit.blocks), unit.round_to)
    if kept > left:
        kept = left // unit.round_to * unit.round_to
    return left - kept
