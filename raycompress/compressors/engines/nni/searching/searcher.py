"""NNI's pruners that search how much each layer loses: sensitivity, net_adapt and simulated_annealing.

NNI searches layer by layer, as if no layers were tied, and its masked candidates keep the BatchNorm shifts of what is
pruned. Here each candidate is what the small model would be: tied layers (a residual network's) are one to the search
and lose the same channels, BatchNorm included. The input that this needs is the one that the evaluator shows the model.
The sparsity is of the weights of all layers of the config_list together.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from raycompress.compressors.engine import PruningDecision, Request
from raycompress.compressors.engines.nni.library import load_nni, quiet, with_contiguous_weights
from raycompress.compressors.engines.nni.searching.annealing import BasePruner, anneal, check_annealing, entries_of
from raycompress.compressors.engines.nni.searching.bounds import Bound, bounded, positions
from raycompress.compressors.engines.nni.searching.net_adapt import Adapted, adapt
from raycompress.compressors.engines.nni.searching.prunable import Prunable
from raycompress.compressors.engines.nni.searching.search import (
    BASES,
    Goal,
    between,
    first_evaluation,
    goal_of,
    own_folder,
)
from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import UsageError

_CALL = ("eval_args", "eval_kwargs", "finetune_args", "finetune_kwargs", "resume_sensitivity")


def load_library() -> None:
    """Import what the searches run on."""
    load_nni()


class NniSearcher:
    """sensitivity, net_adapt and simulated_annealing."""

    def choose(self, request: Request) -> PruningDecision:
        """Return what the search found; see `raycompress.compressors.engine.Engine`.

        Raises
        ------
        CompressionError
            The search did not end in time, the sparsity is out of reach, or the evaluator answers no number.
        ExperimentError
            Arguments or a config_list that the method does not accept.
        """
        with_contiguous_weights(request.model)
        goal = goal_of(request, BASES)
        search = {"sensitivity": _sensitivity, "net_adapt": _net_adapt, "simulated_annealing": _annealing}
        with bounded(request.arguments["search_timeout_s"], request.compressor.name) as bound:
            return search[request.compressor.name](request, goal, bound)


def _annealing(request: Request, goal: Goal, bound: Bound) -> PruningDecision:
    check_annealing(request.arguments)
    model = clean_copy(request.model)
    evaluator = bound.evaluator(request.arguments["evaluator"])
    example = first_evaluation(model, lambda: evaluator(model), request.example)
    prunable = goal.prunable(request, model, example)
    pruning = load_nni()
    with quiet(request):
        shares = anneal(pruning, bound, request.model, goal, prunable, evaluator, request.arguments)
    return prunable.choice(request.model, shares)


def _net_adapt(request: Request, goal: Goal, bound: Bound) -> PruningDecision:
    """Search on copies; the weights that its short trainings led to go into the user's model."""
    arguments = request.arguments
    step = between(arguments, "sparsity_per_iteration", 0, 1)
    model = clean_copy(request.model)
    evaluator = bound.evaluator(arguments["evaluator"])
    example = first_evaluation(model, lambda: evaluator(model), request.example)
    prunable = goal.prunable(request, model, example)
    fine_tuner = bound.call(arguments["short_term_fine_tuner"])
    adapted = adapt(clean_copy(request.model), goal, prunable, fine_tuner, evaluator, step)
    choice = prunable.choice(adapted.model, adapted.shares)
    request.model.load_state_dict(adapted.model.state_dict())
    if arguments["experiment_data_dir"] is not None:
        _record(own_folder(arguments["experiment_data_dir"]), prunable, adapted)
    return choice


def _record(folder: Path, prunable: Prunable, adapted: Adapted) -> None:
    """Write what NNI's net_adapt writes."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [{"sparsity": share, "op_names": [name]} for name, share in prunable.shares(adapted.shares).items()]
    result = {"performance": adapted.performance, "config_list": json.dumps(found)}
    (folder / "search_result.json").write_text(json.dumps(result), encoding="utf-8")


def _sensitivity(request: Request, goal: Goal, bound: Bound) -> PruningDecision:
    """Search on the user's model itself, which the script's functions may hold on to.

    With a finetuner it keeps what it learnt; without one, and where the search fails, it gets its weights back.
    """
    call = _call_of(request)
    model, arguments = request.model, request.arguments
    before = copy.deepcopy(model.state_dict())
    evaluator, finetuner = arguments["evaluator"], arguments["finetuner"]
    kept = False
    try:
        evaluate = bound.evaluator(_bound_to(model, evaluator, call.get("eval_args"), call.get("eval_kwargs")))
        example = first_evaluation(model, evaluate, request.example)
        prunable = goal.prunable(request, model, example)
        tune = None
        if finetuner is not None:
            tune = bound.call(_bound_to(model, finetuner, call.get("finetune_args"), call.get("finetune_kwargs")))
        pruning = load_nni()
        with quiet(request):
            search = _sensitivity_pruner(pruning, request, goal, prunable, evaluate, tune)
            if arguments["sparsity_proportion_calc"] is not None:
                search.sparsity_proportion_calc = bound.call(arguments["sparsity_proportion_calc"])
            search.compress(resume_sensitivity=call.get("resume_sensitivity"))
        choice = prunable.choice(model, search.analyzer.already_pruned)
        kept = tune is not None
        return choice
    finally:
        if not kept:
            model.load_state_dict(before)


def _sensitivity_pruner(
    pruning: ModuleType,
    request: Request,
    goal: Goal,
    prunable: Prunable,
    evaluate: Callable[[], float],
    tune: Callable[[], Any] | None,
) -> Any:
    """Return NNI's pruner, which looks at the leaders of `prunable` only and stops at the sparsity, not beyond it."""
    arguments = request.arguments
    checkpoints = arguments["checkpoint_dir"]
    search = pruning.SensitivityPruner(
        request.model,
        entries_of(goal, prunable),
        evaluate,
        finetuner=tune,
        base_algo=goal.base,
        sparsity_per_iter=between(arguments, "sparsity_per_iter", 0, 1),
        acc_drop_threshold=between(arguments, "acc_drop_threshold", -math.inf, math.inf),
        checkpoint_dir=None if checkpoints is None else str(own_folder(checkpoints)),
    )
    search.analyzer.target_layer = {name: request.model.get_submodule(name) for name in prunable.sizes}
    search.analyzer.already_pruned = dict.fromkeys(prunable.sizes, 0.0)
    search.weight_count = dict(prunable.sizes)
    search.weight_sum = sum(prunable.sizes.values())

    def base(model: nn.Module, config_list: list[dict[str, Any]]) -> BasePruner:
        return BasePruner(prunable, model, config_list)

    normalize = search.normalize

    def no_further(ratios: dict[str, float], step: float) -> Any:
        return normalize(ratios, min(step, goal.sparsity - search.current_sparsity() + 1e-9))

    search.Pruner = search.analyzer.Pruner = base
    search.normalize = no_further
    return search


def _call_of(request: Request) -> Mapping[str, Any]:
    unknown = [key for key in request.call if key not in _CALL]
    if unknown:
        raise UsageError(
            f"compress() of sensitivity takes no argument {', '.join(unknown)}",
            where="compress()",
            fix="it takes " + ", ".join(_CALL),
        )
    return request.call


def _bound_to(model: nn.Module, function: Callable[..., Any], args: Any, kwargs: Any) -> Callable[[], Any]:
    """Return `function` with the arguments that compress() was given for it; with none, it gets the model."""
    if args is None and not kwargs:
        args = (model,) if positions(function, 1) else ()

    def call() -> Any:
        return function(*(args or ()), **(kwargs or {}))

    return call
