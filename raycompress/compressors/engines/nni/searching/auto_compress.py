"""NNI's auto_compress: rounds of simulated annealing, ADMM training and slicing; the model comes back small.

Annealing and ADMM are NNI's. Between the rounds our slicing makes the model small, tied layers together, so all kinds
of networks that can be sliced at all go through; NNI's own speed-up crashes or hangs on some of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn

from raycompress.bundle.example import Example
from raycompress.compressors.engine import PruningDecision, Request
from raycompress.compressors.engines.nni.library import load_nni, quiet, with_contiguous_weights
from raycompress.compressors.engines.nni.searching.annealing import anneal, check_annealing
from raycompress.compressors.engines.nni.searching.bounds import Bound, bounded, has_argument
from raycompress.compressors.engines.nni.searching.prunable import SCORES, TiedChannels
from raycompress.compressors.engines.nni.searching.search import Goal, between, first_evaluation, goal_of, whole
from raycompress.compressors.structure import slicing
from raycompress.compressors.structure.cut import Sliced
from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import CompressionError


def load_library() -> None:
    """Import what the rounds run on."""
    load_nni()


class AutoCompressPruner:
    """auto_compress."""

    def choose(self, request: Request) -> PruningDecision:
        """Compress a copy, put what it learnt into the user's model, and return which of its channels are gone.

        Raises
        ------
        CompressionError
            No ``dummy_input``; the search did not end in time; the evaluator answers no number.
        ExperimentError
            Arguments or a config_list that the method does not accept.
        """
        with_contiguous_weights(request.model)
        goal = goal_of(request, tuple(SCORES))
        rounds = whole(request.arguments, "num_iterations")
        check_annealing(request.arguments)
        if request.example is None:
            raise CompressionError(
                "auto_compress needs to know an input: it makes the model small between its rounds",
                where="create_compressor",
                fix="pass dummy_input=, such as torch.randn(1, 3, 32, 32)",
            )
        # the same share of what is left, each time
        share = 1 - (1 - goal.sparsity) ** (1 / rounds)
        small = clean_copy(request.model)
        original = _Original(request.model)
        with bounded(request.arguments["search_timeout_s"], request.compressor.name) as bound:
            evaluator = bound.evaluator(request.arguments["evaluator"])
            first_evaluation(small, lambda: evaluator(small), request.example)
            goal.prunable(request, small, request.example)  # what cannot be sliced is an error before any training
            pruning = load_nni()
            for _ in range(rounds):
                this = dataclasses.replace(goal, sparsity=share)
                cut = _round(pruning, request, bound, small, this, request.example, evaluator)
                original.follow(cut)
                cut.apply(small)
            evaluator(small)
        return original.fill(small)


def _round(
    pruning: ModuleType,
    request: Request,
    bound: Bound,
    small: nn.Module,
    goal: Goal,
    example: Example,
    evaluator: Callable[[nn.Module], float],
) -> slicing.Slicing:
    """Search the spread, train `small` towards it, and return how to slice it."""
    prunable = TiedChannels(small, example, goal.targets, request.compressor, goal.base)
    with quiet(request):
        shares = anneal(pruning, bound, small, goal, prunable, evaluator, request.arguments)
        _admm(pruning, request, bound, small, goal, prunable.shares(shares))
    choice = prunable.choice(small, shares)
    return slicing.make(small, example, choice, goal.targets, request.compressor)


def _admm(
    pruning: ModuleType,
    request: Request,
    bound: Bound,
    model: nn.Module,
    goal: Goal,
    shares: Mapping[str, float],
) -> None:
    """Train `model` with NNI's ADMM towards losing these shares; nothing is masked yet."""
    arguments = request.arguments
    entries = [
        {"sparsity": share, "op_types": [goal.targets[name].type], "op_names": [name]} for name, share in shares.items()
    ]
    old_name = arguments["admm_training_epochs"]
    pruner = pruning.ADMMPruner(
        model,
        entries,
        trainer=_trainer(bound, arguments["trainer"]),
        criterion=nn.CrossEntropyLoss() if arguments["criterion"] is None else arguments["criterion"],
        num_iterations=whole(arguments, "admm_num_iterations"),
        epochs_per_iteration=whole(
            arguments, "admm_epochs_per_iteration" if old_name is None else "admm_training_epochs"
        ),
        row=between(arguments, "row", 0, float("inf")),
        base_algo=goal.base,
    )
    pruner.update_mask = lambda: None  # the channels are chosen afterwards, the same for tied layers
    try:
        pruner.compress()
    finally:
        pruner._unwrap_model()


def _trainer(bound: Bound, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the script's trainer; one with an argument ``callback`` gets a function that does nothing."""
    trainer = bound.call(function)
    more = {"callback": lambda: None} if has_argument(function, "callback") else {}

    def train(model: nn.Module, **arguments: Any) -> None:
        trainer(model, **arguments, **more)

    return train


class _Original:
    """The user's full-size model, and the places in it of the small model's values."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kept: dict[tuple[str, str], Sliced] = {}
        self._channels: dict[str, list[int]] = {}
        self._removed: dict[str, list[int]] = {}

    def follow(self, cut: slicing.Slicing) -> None:
        """Record one more slicing, of the model as the previous one left it."""
        for (module, name), sliced in cut.tensors.items():
            if sliced.factor is not None:
                raise CompressionError(
                    f'auto_compress cannot prune the attention "{module}" round by round',
                    where="config_list",
                    fix="exclude the layers before it, or use group_l1",
                )
            before = self._kept.get((module, name))
            self._kept[module, name] = sliced if before is None else sliced.after(before)
        for layer, gone in cut.removal.channels.items():
            left = self._channels.setdefault(layer, list(range(cut.removal.of[layer])))
            self._removed.setdefault(layer, []).extend(left[channel] for channel in gone)
            self._channels[layer] = [channel for place, channel in enumerate(left) if place not in set(gone)]

    def fill(self, small: nn.Module) -> PruningDecision:
        """Put the weights of `small` where they come from, zero where it has none, and return what is removed."""
        modules = dict(small.named_modules())
        with torch.no_grad():
            for name, module in self._model.named_modules():
                for key, tensor in {**module._parameters, **module._buffers}.items():
                    if tensor is None:
                        continue
                    value = getattr(modules[name], key).detach().to(tensor.device)
                    kept = self._kept.get((name, key))
                    if kept is None:
                        tensor.copy_(value)
                        continue
                    # statistics of channels that are gone stay: a variance of zero would be none
                    if isinstance(tensor, nn.Parameter):
                        tensor.zero_()
                    kept.put(tensor, value)
        return PruningDecision({layer: tuple(sorted(gone)) for layer, gone in self._removed.items()})
