"""Torch-Pruning's own pruners, global and isomorphic, down to a budget of multiply-adds."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch_pruning
from torch import Tensor, nn

WAYS = {"tp global": False, "tp isomorphic": True}
"""Row -> whether channels are compared among groups alike alone: Fang et al., Isomorphic Pruning, ECCV 2024."""
STEPS = 400
_FUSED, _APART = ("qkv",), ("query", "key", "value")


def prune(
    model: nn.Module,
    dummy: Tensor,
    flops: Callable[[nn.Module], int],
    budget: int,
    *,
    outputs: str,
    isomorphic: bool,
    most: float,
    steps: int = STEPS,
) -> None:
    """Prune `model` in place until no more than `budget` multiply-adds are left, by the importance that is the default.

    Channels go in `steps` small steps, of which as many are taken as it needs; a layer loses a share of `most` at most.

    Raises
    ------
    ValueError
        The pruner removes nothing more above the budget, or leaves a model that does not run.
    """
    heads = _heads(model)
    pruner = torch_pruning.pruner.BasePruner(
        model,
        dummy,
        importance=torch_pruning.importance.GroupMagnitudeImportance(),
        global_pruning=True,
        isomorphic=isomorphic,
        pruning_ratio=most,
        max_pruning_ratio=most,
        iterative_steps=steps,
        ignored_layers=[model.get_submodule(outputs)],
        num_heads=heads,
        unwrapped_parameters=[(one, one.dim() - 1) for one in model.parameters(recurse=False)],
    )
    for _ in range(steps):
        pruner.step()
        if flops(model) <= budget:
            break
    else:
        raise ValueError(f"{flops(model) / budget:.2f} of the budget are left when all that it removes is gone")
    with torch.no_grad():
        model(dummy)


def _heads(model: nn.Module) -> dict[nn.Module, int]:
    """Return the layers of queries, keys and values, with the number of heads of each."""
    return {
        layer: owner.num_heads
        for owner in model.modules()
        for name, layer in owner.named_children()
        if name in (*_FUSED, *_APART) and isinstance(getattr(owner, "num_heads", None), int)
    }
