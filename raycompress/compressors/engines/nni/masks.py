"""NNI's masks at a given sparsity, by the current magnitudes of a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from raycompress.compressors.engine import Request
from raycompress.compressors.engines.nni.library import (
    aware_options,
    config_of,
    load_nni,
    masks_of,
    positive,
    quiet,
    with_contiguous_weights,
)
from raycompress.compressors.structure.graph import clean_copy
from raycompress.errors import CompressionError

FILTERS = {"l1": "L1FilterPruner", "l2": "L2FilterPruner", "fpgm": "FPGMPruner"}
"""NNI's name of a method that ranks filters -> its pruner."""


def masks_at(request: Request, algorithm: str, sparsities: Mapping[str, float]) -> dict[str, Tensor]:
    """Return NNI's weight masks, 1 where a weight stays; the model is left as it is.

    What is zero already is masked again, so that masks grow from call to call.

    Parameters
    ----------
    algorithm
        ``level``, ``slim`` or a key of `FILTERS`.
    sparsities
        By layer; layers with a sparsity of 0 have no mask.
    """
    model = with_contiguous_weights(clean_copy(request.model)).eval()
    configs = {
        name: {**config_of(name, request.targets[name]), "sparsity": sparsity}
        for name, sparsity in sparsities.items()
        if sparsity > 0
    }
    options = aware_options(request)
    pruning = load_nni()
    with quiet(request):
        if algorithm == "level":
            return masks_of(pruning.LevelPruner(model, list(configs.values())))
        if algorithm == "slim":
            return _slim(request, model, configs)
        return masks_of(only_grow(getattr(pruning, FILTERS[algorithm])(model, list(configs.values()), **options)))


def final_masks(request: Request, algorithm: str, pruner: Any) -> dict[str, Tensor]:
    """Return the masks of a pruner that has trained the model; with ``dependency_aware`` those of its last weights.

    NNI's pruners that train look at each layer by itself. The layers that are added together are compared here, by
    NNI's pruner of the same method that does not train.
    """
    wrappers = pruner.get_modules_wrapper()
    if not request.arguments["dependency_aware"]:
        return {wrapper.name: wrapper.weight_mask.detach().cpu() for wrapper in wrappers}
    return masks_at(request, algorithm, {name: request.targets[name].sparsity for name in positive(request.targets)})


def check_aware(request: Request, algorithm: str, known: Collection[str]) -> None:
    """Raise CompressionError for ``dependency_aware`` with an algorithm that is not `known`, or without an input."""
    if request.arguments["dependency_aware"] and algorithm not in known:
        raise CompressionError(
            f"{request.compressor.name} with {algorithm} cannot be dependency_aware here",
            where="create_compressor",
            fix=f"leave it out, or choose one of {', '.join(known)}",
        )
    aware_options(request)


def only_grow(pruner: Any) -> Any:
    """Make filters that are zero rank last in every method: in fpgm a zero filter may be far from the others."""
    rank = pruner.masker.get_channel_sum

    def ranked(wrapper: Any, index: int) -> Tensor:
        weight = wrapper.module.weight.data * wrapper.weight_mask
        ranks: Tensor = rank(wrapper, index) * weight.flatten(1).any(dim=1)
        return ranks

    pruner.masker.get_channel_sum = ranked
    return pruner


def _slim(request: Request, model: nn.Module, configs: Mapping[str, dict[str, Any]]) -> dict[str, Tensor]:
    """Compare the layers of each entry: NNI compares all of them against the first entry's sparsity."""
    masks: dict[str, Tensor] = {}
    for entry in sorted({request.targets[name].entry for name in configs}):
        members = [name for name in configs if request.targets[name].entry == entry]
        config = {**configs[members[0]], "op_names": members}
        total = sum(weight.numel() for name in members for weight in [model.get_parameter(f"{name}.weight")])
        if int(total * config["sparsity"]) >= 1:  # as NNI counts
            pruner = load_nni().SlimPruner(model, [config], None, None, None, sparsifying_training_epochs=0)
            masks.update(masks_of(pruner))
    return masks
