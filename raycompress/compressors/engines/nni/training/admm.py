"""NNI's admm: it trains the weights towards what pruning would leave of them, then prunes."""

from __future__ import annotations

from typing import Any

from torch import nn

from raycompress.compressors.engine import PruningDecision, Request
from raycompress.compressors.engines.nni.library import config_of, load_nni, positive
from raycompress.compressors.engines.nni.masks import FILTERS, check_aware, final_masks
from raycompress.compressors.engines.nni.rounding import chosen, rounded
from raycompress.compressors.engines.nni.training.trainer import check_epochs, train
from raycompress.errors import CompressionError

__all__ = ["AdmmPruner", "load_library"]

load_library = load_nni

_BASES = ("level", "l1", "l2", "fpgm")


class AdmmPruner:
    """admm."""

    def choose(self, request: Request) -> PruningDecision:
        """Train the model as NNI does, and return what it masks; see `Engine`."""
        request = rounded(request)
        arguments = request.arguments
        base, row = arguments["base_algo"], arguments["row"]
        if base not in _BASES:
            raise CompressionError(
                f'admm has no base_algo "{base}"', where="create_compressor", fix=f"it has {', '.join(_BASES)}"
            )
        check_aware(request, base, FILTERS)
        if isinstance(row, bool) or not isinstance(row, (int, float)) or row < 0:
            raise CompressionError(f"row is a number from 0 on, not {row!r}", where="create_compressor", fix="row=1e-4")
        old = arguments["training_epochs"] is not None
        name = "training_epochs" if old else "epochs_per_iteration"
        if old and arguments["epochs_per_iteration"] not in (5, arguments["training_epochs"]):
            raise CompressionError(
                "training_epochs and epochs_per_iteration are the same thing and differ",
                where="create_compressor",
                fix="pass one of the two",
            )
        iterations, epochs = check_epochs(request, "num_iterations", name)
        pruning, steps = load_nni(), []
        config_list = [config_of(name, request.targets[name]) for name in positive(request.targets)]
        criterion = arguments.get("criterion") or nn.CrossEntropyLoss()

        def make(trainer: Any) -> Any:
            pruner = pruning.ADMMPruner(request.model, config_list, trainer, criterion, iterations, epochs, row, base)
            pruner.optimizer.register_step_post_hook(lambda *_: steps.append(1))
            return pruner

        pruner = train(request, make)
        if not steps:
            raise CompressionError(
                "trainer never called step() of the optimizer that it was handed, by which admm acts",
                where="compress",
                fix="train with the optimizer that trainer gets, not with one of your own",
            )
        masks = final_masks(request, base, pruner)
        if base == "level":
            return PruningDecision(weights={name: mask == 0 for name, mask in masks.items()})
        return chosen(request, masks)
