"""Which channels go, by their scores: layer by layer, or the same ones of layers that are tied.

What is equal is treated as NNI 2.10 treats it: by a norm all go that are equal to the last one that goes, by the other
scores those that come first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raycompress.catalog.rounding import removed_count

Pick = Callable[[Tensor, int], Tensor]
"""(scores, count) -> bool tensor, True for the `count` least; `count` is at least 1."""


def up_to_threshold(scores: Tensor, count: int) -> Tensor:
    """Return all that are no larger than the `count`-th least: more than `count` where scores are equal."""
    threshold = torch.topk(scores.flatten(), count, largest=False)[0].max()
    return ~(scores > threshold)


def first_of_equals(scores: Tensor, count: int) -> Tensor:
    """Return exactly `count`; of equal ones those that come first."""
    return _marked(scores, torch.sort(scores, stable=True)[1][:count])


def in_sorted_order(scores: Tensor, count: int) -> Tensor:
    """Return exactly `count`; of equal ones those that torch sorts first."""
    return _marked(scores, torch.argsort(scores)[:count])


def _marked(scores: Tensor, places: Tensor) -> Tensor:
    marked = torch.zeros_like(scores, dtype=torch.bool)
    marked[places] = True
    return marked


@dataclass(frozen=True)
class Tie:
    """Layers for which ``dependency_aware`` prefers the same channels.

    Not a `raycompress.model.groups.ChannelGroup`: NNI's analysis finds the layers, it does not know which channels are
    coupled, and each layer may lose others as well.

    Attributes
    ----------
    layers
        Those of them that are pruned.
    is_whole
        Whether these are all that are tied; otherwise each chooses for itself.
    parts
        Into how many equal parts the channels fall that lose as many each, for grouped convolutions.
    """

    layers: tuple[str, ...]
    is_whole: bool
    parts: int = 1


def least(
    scores: Mapping[str, Tensor], sparsities: Mapping[str, float], pick: Pick, ties: Sequence[Tie] = ()
) -> dict[str, Tensor]:
    """Return layer -> bool tensor of shape (channels,), True for what is removed: `removed_count` of each.

    Layers that are tied first agree on as many as the one that is asked for least, by the sum of their scores.
    """
    common = {name: mask for tie in ties for name, mask in _agreed(tie, scores, sparsities).items()}
    removed = {}
    for name, values in scores.items():
        count = removed_count(len(values), sparsities[name])
        if len(values) < 2 or count < 1:
            removed[name] = torch.zeros_like(values, dtype=torch.bool)
        else:
            removed[name] = pick(values * common[name] if name in common else values, count)
    return removed


def _agreed(tie: Tie, scores: Mapping[str, Tensor], sparsities: Mapping[str, float]) -> dict[str, Tensor]:
    """Return for each layer of a tie a mask that is False for the channels that go from all of them."""
    first = scores[tie.layers[0]]
    total = torch.zeros(len(first), device=first.device)
    for name in tie.layers:
        total += scores[name]
    sparsity = min(sparsities[name] for name in tie.layers) if tie.is_whole else 0
    per_part = removed_count(len(total), sparsity) // tie.parts
    kept = [
        ~up_to_threshold(part, per_part) if per_part else torch.ones_like(part, dtype=torch.bool)
        for part in torch.split(total, math.ceil(len(total) / tie.parts))
    ]
    return dict.fromkeys(tie.layers, torch.cat(kept))
