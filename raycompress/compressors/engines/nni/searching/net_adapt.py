"""NetAdapt: in each step, weights are removed from the layer whose loss costs the least accuracy.

Yang et al., NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications, ECCV 2018. The arguments are
NNI's. The loop is not: NNI's books the same amount for every step, also for one that removed nothing, starts the next
module for the next layer, and does not end where no layer is large enough for a step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from raycompress.compressors.engines.nni.searching.prunable import Prunable
from raycompress.compressors.engines.nni.searching.search import Goal
from raycompress.compressors.masking.masks import Masks
from raycompress.errors import CompressionError


@dataclass(frozen=True)
class Adapted:
    """What the steps led to.

    Attributes
    ----------
    model
        The copy that was fine-tuned on the way; what is removed is zero in it.
    shares
        Leader -> share that is removed.
    performance
        The evaluator's answer after the last step.
    """

    model: nn.Module
    shares: Mapping[str, float]
    performance: float


def adapt(
    model: nn.Module,
    goal: Goal,
    prunable: Prunable,
    fine_tuner: Callable[[nn.Module], Any],
    evaluator: Callable[[nn.Module], float],
    step: float,
) -> Adapted:
    """Remove at least `step` of all weights at a time, each time from the layer with the best answer afterwards.

    Where no layer can lose as much, the step is halved.

    Parameters
    ----------
    model
        Where to start; it is left as it is.
    fine_tuner
        Trains a masked copy for a short while; the copy of the chosen layer is where the next step starts.
    step
        Share of the weights of all layers together, 0 < step < 1.

    Raises
    ------
    CompressionError
        The sparsity is out of reach: no layer can lose more.
    """
    total = sum(prunable.sizes.values())
    pieces = dict.fromkeys(prunable.sizes, 0)
    best = Adapted(model, {}, math.nan)
    while (reached := _reached(prunable, pieces)) < goal.sparsity - 1e-9:
        wanted = min(step, goal.sparsity - reached)
        candidates = _next(prunable, pieces, wanted * total)
        while not candidates and wanted * total >= 1:
            wanted /= 2
            candidates = _next(prunable, pieces, wanted * total)
        if not candidates:
            raise CompressionError(
                f"sparsity {goal.sparsity:g} is out of reach: at {reached:.3f} no layer can lose more",
                where="config_list",
                fix="a smaller sparsity, or more layers",
            )
        tried = []
        for leader, count in candidates.items():
            shares = _shares(prunable, {**pieces, leader: count})
            tried.append((leader, count, _try(best.model, prunable, shares, fine_tuner, evaluator)))
        leader, count, best = max(tried, key=lambda one: goal.sign * one[2].performance)
        pieces[leader] = count
    return best


def _try(
    model: nn.Module,
    prunable: Prunable,
    shares: Mapping[str, float],
    fine_tuner: Callable[[nn.Module], Any],
    evaluator: Callable[[nn.Module], float],
) -> Adapted:
    candidate = copy.deepcopy(model)
    masks = Masks(candidate)
    masks.hold(prunable.removed(candidate, shares))
    fine_tuner(candidate)
    masks.apply()
    performance = evaluator(candidate)
    masks.apply()
    masks.release()
    return Adapted(candidate, shares, performance)


def _next(prunable: Prunable, pieces: Mapping[str, int], weights: float) -> dict[str, int]:
    """Return, for each leader that can lose `weights` more and keep a piece, how many pieces it then has lost."""
    result = {}
    for leader, size in prunable.sizes.items():
        count = pieces[leader] + max(1, math.ceil(weights * prunable.pieces[leader] / size - 1e-9))
        if count < prunable.pieces[leader]:
            result[leader] = count
    return result


def _reached(prunable: Prunable, pieces: Mapping[str, int]) -> float:
    gone = sum(size * pieces[leader] / prunable.pieces[leader] for leader, size in prunable.sizes.items())
    return gone / sum(prunable.sizes.values())


def _shares(prunable: Prunable, pieces: Mapping[str, int]) -> dict[str, float]:
    return {leader: count / prunable.pieces[leader] for leader, count in pieces.items() if count}
