"""Torch-Pruning as an engine: its measures of importance, for whole groups of tied layers.

Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.engine import DeferredDecision, PruningDecision, PruningSchedule, Request
from raycompress.compressors.engines.torch_pruning.group_targets import GroupTarget, find_group_targets
from raycompress.compressors.engines.torch_pruning.ranking import (
    BlockScores,
    Importance,
    Way,
    block_scores,
    remove_least,
)
from raycompress.compressors.engines.torch_pruning.scored_layers import ScoredLayer
from raycompress.compressors.engines.torch_pruning.statistics import Gradients, by_trainer, no_gradient
from raycompress.compressors.engines.torch_pruning.uniform import check_uniform
from raycompress.compressors.layer_kinds import weight_names
from raycompress.compressors.structure import slicing
from raycompress.compressors.structure.cut import Cut
from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import ExperimentError

_GRADIENTS = {"group_taylor": False, "group_hessian": True}


def load_library() -> None:
    """Import the library ahead of time."""
    import torch_pruning  # noqa: F401


class TorchPruning:
    """group_l1, group_l2, group_taylor, group_fpgm, group_lamp, group_hessian, bn_scale and random."""

    def choose(self, request: Request) -> PruningDecision | PruningSchedule:
        """Return what goes, by the weights as they are now, or once gradients are known; see `Engine`."""
        check_arguments(request.arguments)
        squared = _GRADIENTS.get(request.compressor.name)
        if squared is None:
            return when_known(request, lambda example: rank(request, example, None))
        wanted = request.arguments["statistics_batch_num"]
        trainer = request.arguments["trainer"]
        if trainer is None:
            return _Gathering(request, Gradients(request.model, squared, wanted))

        def choose(example: Example) -> PruningDecision:
            rank(request, example, None)  # raises for what cannot be pruned before the trainer runs
            gradients = by_trainer(request.model, trainer, request.arguments["criterion"], squared, wanted)
            return rank(request, example, gradients)

        return when_known(request, choose)


def when_known(request: Request, choose: Callable[[Example], PruningDecision]) -> PruningDecision:
    """Return the decision, or one that is made once an input of the model is known."""
    return DeferredDecision(choose=choose) if request.example is None else choose(request.example)


class _Gathering(PruningSchedule):
    """Gathers gradients while the script trains, then chooses."""

    def __init__(self, request: Request, gradients: Gradients) -> None:
        self._request, self._gradients = request, gradients
        self._example = request.example

    def start(self) -> PruningDecision:
        """Remove nothing yet; a model that cannot be pruned is an error as soon as an input is known."""
        return DeferredDecision(choose=self._rehearse)

    def after_step(self) -> PruningDecision | None:
        """Add the gradients of the step; after the last batch, return the decision."""
        if self._gradients.complete or self._example is None:
            return None
        self._gradients.add()
        return rank(self._request, self._example, self._gradients) if self._gradients.complete else None

    def missing(self) -> tuple[str, str]:
        """Return how many batches are still missing, and what to do."""
        seen, wanted = self._gradients.seen, self._gradients.wanted
        if self._gradients.complete:
            return "", ""
        fix = "train on after compress(), or lower statistics_batch_num, or pass trainer= and dummy_input="
        return f"gradients of {seen} of {wanted} batches were seen", fix

    def _rehearse(self, example: Example) -> PruningDecision:
        self._example = example
        request = self._request
        for name, target in request.targets.items():
            layer = request.model.get_submodule(name)
            weight = getattr(layer, weight_names(layer)[0])
            if target.sparsity > 0 and isinstance(weight, nn.Parameter) and not weight.requires_grad:
                raise no_gradient(f'no gradient reaches "{name}", which is frozen', target.entry)
        decision, graph = rank(request, example, None), request.graph(example)
        slicing.make(request.model, example, decision, request.targets, request.compressor, graph)
        return PruningDecision()


def rank(request: Request, example: Example, gradients: Gradients | None) -> PruningDecision:
    """Return the decision; where the method's gradients are not given, by the weights' magnitude."""
    model = request.model if gradients is None and request.arguments["steps"] == 1 else clean_copy(request.model)
    if gradients is not None:
        groups, _ = groups_of(request, example)
        gradients.fill(model, {layer: target.entry for target in groups for layer in target.layers})
    importance = _importance(request.compressor.name, gradients)
    return removed_by(request, example, model, functools.partial(block_scores, importance=importance))


def removed_by(
    request: Request,
    example: Example,
    model: nn.Module,
    scores_of: BlockScores,
    renew: Callable[[], None] = lambda: None,
) -> PruningDecision:
    """Return the decision by the scores of blocks; see `remove_least`."""
    arguments, graph = request.arguments, request.graph(example)
    groups, narrow = groups_of(request, example)
    way = Way(
        bool(arguments["global"]), bool(arguments["isomorphic"]), arguments["steps"], bool(arguments.get("uniform"))
    )
    if way.uniform:
        check_uniform(graph, groups)
    cut = Cut(graph)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(arguments.get("seed", 0))
        remove_least(cut, model, groups, scores_of, way, renew)
    channels = {name: cut.removed(name) for name in request.targets if name in graph}
    asked = {name: len(removed) for name, removed in channels.items()}
    return PruningDecision(channels=channels, asked=asked, spared=narrow)


def groups_of(request: Request, example: Example) -> tuple[list[GroupTarget], dict[str, str]]:
    """Return the groups that are to lose channels, and layers that are too narrow -> why."""
    is_of_norms = request.compressor.name == "bn_scale"
    return find_group_targets(request.graph(example), request.targets, is_of_norms, request.arguments["round_to"])


def _importance(name: str, gradients: Gradients | None) -> Importance:
    from torch_pruning.pruner import importance

    if name in _GRADIENTS and gradients is None:
        name = "group_l2"
    found: Importance = {
        "group_l1": lambda: importance.GroupMagnitudeImportance(p=1),
        "group_l2": lambda: importance.GroupMagnitudeImportance(p=2),
        "group_taylor": importance.GroupTaylorImportance,
        "group_fpgm": importance.FPGMImportance,
        "group_lamp": importance.LAMPImportance,
        "group_hessian": importance.GroupHessianImportance,
        "bn_scale": importance.BNScaleImportance,
        "random": importance.RandomImportance,
    }[name]()
    # a weight that a parametrization computes has no gradient of its own
    return found if name not in _GRADIENTS else lambda layers: found([one for one in layers if _has_gradient(one)])


def _has_gradient(layer: ScoredLayer) -> bool:
    weight = getattr(layer.dep.layer, "weight", None)
    return weight is None or weight.grad is not None


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise ExperimentError for numbers that are none."""
    for name in ("round_to", "steps", "statistics_batch_num", "samples"):
        value = arguments.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ExperimentError(f'"{name}" is a whole number from 1 on, not {value!r}', where=f"arguments.{name}")
