"""Ranks the blocks of each channel group by Torch-Pruning's importance, and removes the least important ones.

Torch-Pruning's own pruner rounds what stays down, to nothing in a layer of fewer than ``round_to`` channels, and passes
over what it cannot prune. So the counting is done here, and only the importance is Torch-Pruning's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raycompress.catalog.rounding import removable, removed_count, rounded
from raycompress.compressors.engines.torch_pruning.group_targets import GroupTarget
from raycompress.compressors.engines.torch_pruning.parts import Parts
from raycompress.compressors.engines.torch_pruning.scored_layers import ScoredLayer, scored_layers
from raycompress.compressors.engines.torch_pruning.uniform import by_role
from raycompress.compressors.structure.cut import Cut
from raycompress.errors import CompressionError

Importance = Callable[[Sequence[ScoredLayer]], Tensor | None]
"""Torch-Pruning's importance: group -> one number a channel, or None where it has nothing to measure."""
BlockScores = Callable[[Cut, nn.Module, GroupTarget], Mapping[int, float]]
"""Takes what is cut already, the model whose weights count and a group to a number for each block that is left."""


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
    uniform
        Whether repeated blocks lose equally many: the mean of what each would lose by itself.
    """

    across: bool
    isomorphic: bool
    steps: int
    uniform: bool = False


def remove_least(
    cut: Cut,
    model: nn.Module,
    targets: Sequence[GroupTarget],
    scores_of: BlockScores,
    way: Way,
    renew: Callable[[], None] = lambda: None,
) -> None:
    """Remove the least important channels of all groups from `cut`.

    Parameters
    ----------
    model
        The model whose weights, and gradients where the method needs them, are measured: the user's or a copy of it.
        With several steps it is a copy: what is removed is set to zero before the next step.
    renew
        Called after that, for scores that were measured of the model as it was.
    """
    scopes = _scopes(cut, targets, way)
    parts = Parts(cut.graph, targets)
    for step in range(1, way.steps + 1):
        if step > 1:
            _clear(model, cut)
            renew()
        scores = {target.name: scores_of(cut, model, target) for target in targets}
        counts: dict[str, int] = {}
        for scope in scopes:
            if way.across or way.isomorphic:
                found = _across(scope, scores, step, way.steps)
            else:
                found = [_alone(target, len(scores[target.name]), step, way.steps) for target in scope]
            counts.update(zip((target.name for target in scope), found, strict=True))
        if way.uniform:
            counts = _evened(targets, counts, scores)
        for target in targets:
            least = parts.least(target.name, scores[target.name], counts[target.name])
            blocks = target.group.root_blocks
            cut.remove(target.name, [channel for block in least for channel in blocks[block]])


def _clear(model: nn.Module, cut: Cut) -> None:
    modules = dict(model.named_modules())
    for (name, key), sliced in cut.tensors().items():
        tensor = getattr(modules[name], key)
        tensor.data.masked_fill_(sliced.removed(tensor), 0)


def _scopes(cut: Cut, targets: Sequence[GroupTarget], way: Way) -> list[list[GroupTarget]]:
    """Return the groups whose channels are compared with one another."""
    scopes: dict[Any, list[GroupTarget]] = {}
    for target in targets:
        if way.isomorphic:
            kinds = tuple(layer.kind for layer in scored_layers(cut.graph, target.name, cut.graph.model, every=True))
            scopes.setdefault((target.entry, target.group.parts, kinds), []).append(target)
        else:
            scopes.setdefault(target.entry if way.across else target.name, []).append(target)
    return list(scopes.values())


def block_scores(cut: Cut, model: nn.Module, target: GroupTarget, importance: Importance) -> dict[int, float]:
    """Return the importance of each block that is left, by its index: the mean of its channels'.

    Raises
    ------
    CompressionError
        No layer of the group has anything that the method measures.
    """
    left = cut.remaining(target.name)
    values = importance(scored_layers(cut.graph, target.name, model, left))
    if values is None:
        raise CompressionError(
            f'no layer that "{target.name}" is tied to has anything that this compressor measures',
            where=f"config_list[{target.entry}]",
            fix="use another compressor, such as group_l2",
        )
    places = {channel: place for place, channel in enumerate(left)}
    known = torch.nan_to_num(values.detach().double().cpu())  # a group of zeros only, divided by its mean
    alone: list[float] = known.tolist()
    return {
        index: alone[places[block[0]]]
        if len(block) == 1
        else float(known[[places[channel] for channel in block]].mean())
        for index, block in enumerate(target.group.root_blocks)
        if block[0] in places
    }


def _alone(target: GroupTarget, left: int, step: int, steps: int) -> int:
    """Return how many of the `left` blocks of one group go in this step."""
    total = target.group.size
    return max(0, left - total + removable(total, target.sparsity, target.round_to) * step // steps)


def _across(
    scope: Sequence[GroupTarget], scores: Mapping[str, Mapping[int, float]], step: int, steps: int
) -> list[int]:
    """Return how many blocks of each group of a scope go in this step: the least important of all."""
    width = {target.name: len(target.group.root_blocks[0]) for target in scope}
    total = sum(target.group.size * width[target.name] for target in scope)
    gone = sum((target.group.size - len(scores[target.name])) * width[target.name] for target in scope)
    budget = removed_count(total, scope[0].sparsity) * step // steps - gone
    counts = dict.fromkeys(width, 0)
    by_name = {target.name: target for target in scope}
    pool = sorted((score, name) for name in width for score in scores[name].values())
    for _, name in pool:
        stays = len(scores[name]) - counts[name] - 1
        if width[name] <= budget and stays >= by_name[name].round_to:
            counts[name] += 1
            budget -= width[name]
    if step == steps:
        return [_rounded(target, len(scores[target.name]), counts[target.name]) for target in scope]
    return [counts[target.name] for target in scope]


def _evened(
    targets: Sequence[GroupTarget], counts: Mapping[str, int], scores: Mapping[str, Mapping[int, float]]
) -> dict[str, int]:
    """Return how many blocks of each group go where those of repeated blocks lose equally many."""
    found: dict[str, int] = {}
    for alike in by_role(targets):
        mean = round(sum(counts[target.name] for target in alike) / len(alike))
        found |= {target.name: _rounded(target, len(scores[target.name]), mean) for target in alike}
    return found


def _rounded(target: GroupTarget, left: int, count: int) -> int:
    """Return the number of blocks to remove of the `left` ones that is nearest to `count` and leaves a multiple."""
    kept = rounded(left - count, target.group.size, target.round_to)
    if kept > left:
        kept = left // target.round_to * target.round_to
    return left - kept
