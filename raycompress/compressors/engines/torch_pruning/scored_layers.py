"""What Torch-Pruning's measures of importance read: the layers of a group, and which of their channels belong to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from raycompress.compressors.layer_kinds import is_transposed_linear, output_dim, stacked_weights
from raycompress.compressors.structure.graph import ChannelGraph

if TYPE_CHECKING:
    from raycompress.compressors.structure.axes.atoms import Ids


@dataclass
class _Target:
    module: nn.Module


@dataclass
class _Dependency:
    """As much of Torch-Pruning's ``Dependency`` as its importance reads."""

    layer: nn.Module
    pruning_fn: Any

    @property
    def target(self) -> _Target:
        return _Target(self.layer)

    @property
    def handler(self) -> Any:
        return self.pruning_fn


@dataclass
class ScoredLayer:
    """One layer of a group, as an item of Torch-Pruning's ``Group``.

    Attributes
    ----------
    dep
        The layer, and Torch-Pruning's function that would remove the channels: it tells inputs from outputs.
    idxs
        Channels of the layer, ascending.
    root_idxs
        For each of them the place, among the channels of the group's root that are left, that it counts for.
    kind
        Class of the layer, and whether its inputs or its outputs belong to the group.
    name
        The layer, as in ``named_modules()``.
    """

    dep: _Dependency
    idxs: list[int]
    root_idxs: list[int]
    kind: tuple[str, str]
    name: str = ""

    @property
    def reads(self) -> bool:
        """Whether the layer has the group's channels as its inputs."""
        return self.kind[1] == "in"

    def __iter__(self) -> Iterator[Any]:
        return iter((self.dep, self.idxs))


def scored_layers(
    graph: ChannelGraph, root: str, model: nn.Module, left: Sequence[int] | None = None, *, every: bool = False
) -> list[ScoredLayer]:
    """Return the layers of the group of `root`, itself first.

    Parameters
    ----------
    model
        The model whose weights count: the graph's, or a copy.
    left
        The channels of the root that are left; None for all.
    every
        Whether layers are listed that Torch-Pruning measures nothing of.
    """
    own = graph.components(root, range(graph.channels(root)) if left is None else left)
    outputs = sorted(graph.members(own), key=lambda layer: layer.name != root)
    found = [(layer.name, layer.channels, layer.components, "out") for layer in outputs]
    found += [(name, channels, components, "in") for name, channels, components in graph.readers(own)]
    modules = dict(model.named_modules())
    layers = []
    for name, channels, components, side in found:
        function = _function(modules[name], side)
        if function is not None or every:
            roots = np.arange(len(own)) if (name, side) == (root, "out") else _paired(own, components)
            dependency = _Dependency(_measured(modules[name]), function)
            kind = (type(modules[name]).__name__, side)
            layers.append(ScoredLayer(dependency, channels.tolist(), roots.tolist(), kind, name))
    return layers


def _paired(own: Ids, components: Ids) -> Ids:
    """Return for each channel a place in `own` of the same component; several channels are spread over several."""
    order = np.argsort(own, kind="stable")
    ordered = own[order]
    starts = np.searchsorted(ordered, components, "left")
    counts = np.searchsorted(ordered, components, "right") - starts
    theirs = np.argsort(components, kind="stable")
    ranks = np.empty(len(components), dtype=np.int64)
    ranks[theirs] = np.arange(len(components)) - np.searchsorted(components[theirs], components[theirs], "left")
    totals = np.bincount(np.unique(components, return_inverse=True)[1])[np.unique(components, return_inverse=True)[1]]
    found: Ids = order[starts + ranks * counts // totals]
    return found


def _measured(module: nn.Module) -> nn.Module:
    """Return the module, or a linear layer with the weights and gradients of one that holds them in another order.

    Of a mixture of experts it has the inputs of all experts side by side.
    """
    stacked = stacked_weights(module)
    if not stacked and not is_transposed_linear(module):
        return module
    weight, dim = module.get_parameter(stacked[0] if stacked else "weight"), output_dim(module)
    layer = nn.Linear(1, 1, bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach().movedim(dim, 0).flatten(1))
    layer.weight.grad = None if weight.grad is None else weight.grad.movedim(dim, 0).flatten(1)
    return layer


def _function(module: nn.Module, side: str) -> Any:
    """Return Torch-Pruning's function for a layer that it measures; None for others."""
    from torch_pruning.pruner import function

    if isinstance(module, nn.modules.conv._ConvNd):
        if 1 < module.groups == module.out_channels == module.in_channels:
            return function.prune_depthwise_conv_out_channels
        return function.prune_conv_out_channels if side == "out" else function.prune_conv_in_channels
    if stacked_weights(module):  # as what they read is, for each expert, read by other weights: by outputs alone
        return function.prune_linear_out_channels if side == "out" else None
    if isinstance(module, nn.Linear) or is_transposed_linear(module):
        return function.prune_linear_out_channels if side == "out" else function.prune_linear_in_channels
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return function.prune_batchnorm_out_channels
    if isinstance(module, nn.LayerNorm):
        return function.prune_layernorm_out_channels
    if isinstance(module, nn.GroupNorm):
        return function.prune_groupnorm_out_channels
    return None
