"""The coupled channels of one model, by Torch-Pruning's dependency graph.

The graph is built on a copy in eval mode. To find which values of each tensor stay when channels are removed, the
copy's values are replaced by their own flat indices and the copy is sliced: the indices that are left are what stays.
Masks and slices are thereby derived from the same operation, for every kind of layer that Torch-Pruning knows.

Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from raycompress.bundle.example import Example, evaluating, tensors_in
from raycompress.compressors.masking import masked_calls
from raycompress.compressors.masking.masks import drop_hooks
from raycompress.compressors.structure.attention import Heads, heads_of, owners
from raycompress.compressors.structure.depgraph_fixes import follow_reshapes, keep_order
from raycompress.errors import CompressionError

OUTPUTS = "its channels are the model's outputs"
"""Why a layer at the model's end cannot be pruned."""


@dataclass(frozen=True)
class CoupledLayer:
    """One layer of the graph's answer to `ChannelGraph.members`: what it loses with given channels of another.

    Not a group but a row of one: `raycompress.compressors.structure.groups.group_of` puts the rows of a layer together
    to a `raycompress.model.groups.ChannelGroup`.

    Attributes
    ----------
    name
        The layer, as in ``named_modules()``; empty for the model's outputs.
    pairs
        (channel of the layer that was asked about, output channel of this layer that goes with it).
    follows
        True for what only passes its input's channels on: a depthwise convolution, the BatchNorm behind it.
    fixed
        Why no channel of this layer can go; empty where they can.
    """

    name: str
    pairs: tuple[tuple[int, int], ...]
    follows: bool
    fixed: str


@dataclass(frozen=True)
class Sliced:
    """What is left of one tensor.

    Attributes
    ----------
    kept
        Flat indices into the original tensor, in the order of the small one, on the CPU.
    shape
        Shape of the small tensor.
    factor
        What the small tensor is multiplied by, of a shape that broadcasts to `shape`; None where it is not. Torch's
        attention divides by the root of a head's width, so queries of narrower heads are scaled to make up for it.
    """

    kept: Tensor
    shape: tuple[int, ...]
    factor: Tensor | None = None


class ChannelGraph:
    """The coupled channels of a model.

    Parameters
    ----------
    model
        The user's model; it is copied and left as it is.
    example
        One input of it.

    Raises
    ------
    CompressionError
        The model cannot be copied, or Torch-Pruning cannot follow it. What the model itself raises on the example
        passes through.
    """

    def __init__(self, model: nn.Module, example: Example) -> None:
        import torch_pruning

        self._tp = torch_pruning
        self.copy = clean_copy(model).eval()
        for parameter in self.copy.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        self.names: dict[nn.Module, str] = {module: name for name, module in self.copy.named_modules()}
        self._modules: dict[str, nn.Module] = dict(self.copy.named_modules())
        self._remaining: dict[str, list[int]] = {}
        self._of: dict[str, int] = {}
        with evaluating(self.copy), torch.enable_grad():
            outputs = [tensor for tensor in tensors_in(example.call(self.copy)) if tensor.requires_grad]
            if not outputs:
                raise CompressionError(
                    f"{type(model).__name__} answers no tensor that depends on its weights",
                    fix="return the logits from forward(), not what is derived from them without a gradient",
                )
            del outputs
            try:
                self._graph = torch_pruning.DependencyGraph()
                keep_order(self._graph)
                self._graph.build_dependency(self.copy, example, forward_fn=_traced, verbose=False)
                follow_reshapes(self._graph)
            except Exception as error:
                raise CompressionError(
                    f"the channels of {type(model).__name__} cannot be followed: {type(error).__name__}: {error}",
                    fix='forward() has operations that Torch-Pruning cannot trace; "level" needs no tracing',
                ) from error

    def __contains__(self, name: str) -> bool:
        module = self._modules.get(name)
        return module in self._graph.module2node and self._output_pruner(module) is not None

    def module(self, name: str) -> nn.Module:
        """Return a layer of the copy."""
        module: nn.Module = self._modules[name]
        return module

    def type_of(self, name: str) -> str:
        """Return the class name of a layer."""
        return type(self._modules[name]).__name__

    def is_norm(self, name: str) -> bool:
        """Tell whether a layer is a BatchNorm."""
        return isinstance(self._modules[name], nn.modules.batchnorm._BatchNorm)

    def channels(self, name: str) -> int:
        """Return the number of output channels of a layer."""
        return int(self._graph.get_out_channels(self._modules[name]))

    def members(self, name: str, channels: Sequence[int]) -> list[CoupledLayer]:
        """Return all layers whose output channels go when `channels` of layer `name` go, itself included."""
        members = []
        for item in self._group(name, channels):
            node = item.dep.target
            outgoing = self._graph.is_out_channel_pruning_fn(item.dep.handler)
            fixed = self._fixed(node, outgoing)
            label = self.names.get(node.module, "")
            if fixed or (outgoing and label):
                pairs = tuple(zip(item.root_idxs, item.idxs, strict=True)) if len(item.idxs) else ()
                members.append(CoupledLayer(label, pairs, self._follows(node), fixed))
        return members

    def slice(self, removal: dict[str, tuple[int, ...]]) -> dict[tuple[str, str], Sliced]:
        """Remove `removal` (layer -> output channels) and return what is left of each tensor that changed.

        Afterwards the copy has the small model's shapes and indices for values; the graph cannot be used again.
        """
        original = {key: tuple(tensor.shape) for key, tensor in _tensors(self.copy)}
        widths = {
            name: module.head_dim for name, module in self._modules.items() if isinstance(module, nn.MultiheadAttention)
        }
        _number(self.copy)
        for name, channels in removal.items():
            self.remove(name, channels)
        left = {key: tensor for key, tensor in _tensors(self.copy) if tuple(tensor.shape) != original[key]}
        return {
            (name, key): Sliced(
                tensor.detach().reshape(-1).round().long().cpu(),
                tuple(tensor.shape),
                self._query_factor(name, key, widths),
            )
            for (name, key), tensor in left.items()
        }

    def remove(self, name: str, channels: Iterable[int]) -> None:
        """Remove output channels of a layer, in the original's numbering, and all that goes with them, from the copy.

        Channels that were removed before are ignored.
        """
        places = {channel: place for place, channel in enumerate(self.remaining(name))}
        positions = [places[channel] for channel in channels if channel in places]
        if not positions:
            return
        heads = self.heads(name)
        with following(name):
            self._prune(self._group(name, positions))
        if heads is not None:
            heads.shrink(self.channels(name))

    def _prune(self, group: Any) -> None:
        for item in group:
            label = self.names.get(item.dep.target.module, "")
            if label and self._graph.is_out_channel_pruning_fn(item.dep.handler) and label in self:
                gone = set(item.idxs)
                self._of.setdefault(label, self.channels(label))
                left = [channel for place, channel in enumerate(self.remaining(label)) if place not in gone]
                self._remaining[label] = left
        group.prune(record_history=False)

    def remaining(self, name: str) -> list[int]:
        """Return the output channels of a layer that are left, in the original's numbering."""
        return self._remaining.get(name, list(range(self.channels(name))))

    def removed(self, name: str) -> tuple[int, ...]:
        """Return the output channels of a layer that were removed, in the original's numbering."""
        left = set(self.remaining(name))
        return tuple(channel for channel in range(self._of.get(name, 0)) if channel not in left)

    def norms(self) -> dict[str, Tensor]:
        """Return the channels that are left of each LayerNorm and GroupNorm that lost some."""
        return {
            name: torch.tensor(left)
            for name, left in self._remaining.items()
            if isinstance(self._modules[name], (nn.LayerNorm, nn.GroupNorm))
        }

    def group(self, name: str) -> Any:
        """Return Torch-Pruning's group of all channels that a layer has left, with indices in ascending order."""
        group = self._group(name, range(self.channels(name)))
        for place, item in enumerate(group):
            order = sorted(range(len(item.idxs)), key=item.idxs.__getitem__)
            ordered = type(item)(item.dep, [item.idxs[index] for index in order])
            ordered.root_idxs = [item.root_idxs[index] for index in order]
            group[place] = ordered
        return group

    def heads(self, name: str) -> Heads | None:
        """Return the heads that a layer's channels belong to, or None where it feeds no attention written by hand."""
        if not isinstance(self._modules[name], nn.Linear) or not owners(name, self._modules):
            return None
        group = self._group(name, range(self.channels(name)))
        behind = [
            len(set(item.idxs))
            for item in group
            if isinstance(item.dep.target.module, nn.Linear)
            and not self._graph.is_out_channel_pruning_fn(item.dep.handler)
        ]
        return heads_of(name, group, self._modules, max(behind, default=0))

    def is_producer(self, name: str) -> bool:
        """Tell whether a layer is a convolution or a linear layer that the forward pass uses."""
        return isinstance(self._modules[name], (nn.modules.conv._ConvNd, nn.Linear)) and name in self

    def producers(self) -> list[str]:
        """Return the convolutions and linear layers of the graph, in the model's order."""
        return [name for name in self._modules if self.is_producer(name)]

    def _query_factor(self, name: str, key: str, widths: dict[str, int]) -> Tensor | None:
        module = self._modules[name]
        if not isinstance(module, nn.MultiheadAttention) or module.head_dim == widths[name]:
            return None
        if key not in ("in_proj_weight", "in_proj_bias", "q_proj_weight"):
            return None
        tensor = getattr(module, key)
        factor = torch.ones(tensor.size(0))
        factor[: module.embed_dim] = math.sqrt(module.head_dim / widths[name])
        return factor.reshape(-1, *[1] * (tensor.dim() - 1))

    def _group(self, name: str, channels: Iterable[int]) -> Any:
        module = self._modules[name]
        with following(name):
            return self._graph.get_pruning_group(module, self._output_pruner(module), list(channels))

    def _output_pruner(self, module: nn.Module | None) -> Any:
        pruner = None if module is None else self._graph.get_pruner_of_module(module)
        return None if pruner is None or pruner.get_out_channels(module) is None else pruner.prune_out_channels

    def _fixed(self, node: Any, outgoing: bool) -> str:
        if node.type == self._tp.ops.OPTYPE.OUTPUT or (outgoing and not node.outputs):
            return OUTPUTS
        module = node.module
        if isinstance(module, nn.modules.conv._ConvNd) and module.groups > 1 and not _depthwise(module):
            return f'its channels meet the grouped convolution "{self.names[module]}" (groups={module.groups})'
        if isinstance(module, nn.Module) and is_parametrized(module):
            return f'its channels meet "{self.names[module]}", whose weight is computed by a parametrization'
        if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
            return (
                f'its channels meet "{self.names[module]}", a LayerNorm over {len(module.normalized_shape)} dimensions'
            )
        return ""

    def _follows(self, node: Any) -> bool:
        if _depthwise(node.module):
            return True
        is_norm = isinstance(node.module, nn.modules.batchnorm._BatchNorm)
        return is_norm and any(_depthwise(source.module) for source in node.inputs)


@contextmanager
def following(name: str) -> Iterator[None]:
    """Raise CompressionError for what Torch-Pruning raises where it cannot follow the channels of layer `name`."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AssertionError) as error:
        raise CompressionError(
            f'the channels of "{name}" cannot be followed through the model: {type(error).__name__}: {error}',
            where="config_list",
            fix=f'exclude it: add {{"op_names": ["{name}"], "exclude": true}} to the config_list',
        ) from error


def clean_copy(model: nn.Module) -> nn.Module:
    """Return a deep copy of `model` without our hooks; raises CompressionError where it holds what cannot be copied."""
    try:
        copied = copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise CompressionError(
            f"{type(model).__name__} cannot be copied: {error}",
            fix="keep no tensors with a history, locks, files or generators as attributes of the model",
        ) from error
    drop_hooks(copied)
    masked_calls.release(copied)
    return copied


def _traced(model: nn.Module, example: Example) -> list[Tensor]:
    return [tensor for tensor in tensors_in(example.call(model)) if tensor.grad_fn is not None]


def _depthwise(module: Any) -> bool:
    return (
        isinstance(module, nn.modules.conv._ConvNd) and 1 < module.groups == module.out_channels == module.in_channels
    )


def _tensors(model: nn.Module) -> list[tuple[tuple[str, str], Tensor]]:
    """Return ((module, tensor name), tensor) of all floating-point parameters and buffers."""
    return [
        ((name, key), tensor)
        for name, module in model.named_modules()
        for key, tensor in {**module._parameters, **module._buffers}.items()
        if tensor is not None and tensor.is_floating_point()
    ]


def _number(model: nn.Module) -> None:
    """Replace each value by its position in its tensor; float64 counts exactly up to 2**53."""
    for _, tensor in _tensors(model):
        positions = torch.arange(tensor.numel(), dtype=torch.float64, device=tensor.device)
        tensor.data = positions.reshape(tensor.shape)
