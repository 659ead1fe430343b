"""LayerNorms that lose channels, in a dependency graph of Torch-Pruning.

Torch-Pruning 1.6 means to sort the channels that a LayerNorm keeps, but sorts a copy of them. They come in the order of
a set, which is ascending by chance only: where 232 of 768 are left, say, the norm's weights are those of others.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def keep_order(graph: Any) -> None:
    """Make a ``DependencyGraph``, built or not, keep the order of a LayerNorm's channels; in place."""
    from torch_pruning import ops
    from torch_pruning.pruner.function import LayernormPruner

    class Ordered(LayernormPruner):  # type: ignore[misc]
        def _prune_parameter_and_grad(self, weight: Tensor, keep_idxs: Tensor, pruning_dim: int) -> nn.Parameter:
            pruned: nn.Parameter = super()._prune_parameter_and_grad(weight, keep_idxs.sort().values, pruning_dim)
            return pruned

    pruner = Ordered()
    graph.REGISTERED_PRUNERS[ops.OPTYPE.LN] = pruner
    graph._in_channel_pruning_fn.add(pruner.prune_in_channels)
    graph._out_channel_pruning_fn.add(pruner.prune_out_channels)
