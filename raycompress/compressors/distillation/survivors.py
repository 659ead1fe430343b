"""Which channels and heads of the dense model a pruned one still has, as its slicing says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.compressors.structure.slicing import Slicing


@dataclass(frozen=True)
class Heads:
    """The blocks of neighbouring channels of a layer that can only go together: heads of attention.

    Attributes
    ----------
    count
        How many there were.
    kept
        Indices of those that stay, ascending.
    """

    count: int
    kept: Tensor


@dataclass(frozen=True)
class Survivors:
    """What of the dense model stays.

    Attributes
    ----------
    channels
        Layer -> indices of the output channels that stay, ascending, of those that lose any.
    heads
        Layer that makes queries, keys or values -> its heads.
    """

    channels: Mapping[str, Tensor] = field(default_factory=dict)
    heads: Mapping[str, Heads] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: ChannelGraph, slicing: Slicing) -> Survivors:
        """Return what `slicing` leaves of the model of `graph`."""
        channels, heads = {}, {}
        for name in graph.layers:
            kept = _kept(slicing, *graph.output_axis(name))
            if kept is not None:
                channels[name] = kept
                found = _heads(graph.components(name), kept)
                if found is not None:
                    heads[name] = found
        root = graph.couplings.components.root
        for name, module in graph.model.named_modules():
            if isinstance(module, nn.MultiheadAttention):
                for key in ("in_proj_weight", "q_proj_weight"):
                    tensor = f"{name}.{key}".lstrip(".")
                    kept = _kept(slicing, tensor, 0)
                    if kept is not None and (found := _heads(root[graph.couplings.axes[tensor][0]], kept)) is not None:
                        heads[name] = found
        return cls(channels, heads)

    def heads_of(self, attention: str, count: int) -> Tensor | None:
        """Return which of the `count` heads of the module `attention` stay; None where all do."""
        prefix = f"{attention}." if attention else ""
        inside = (found for name, found in self.heads.items() if name == attention or name.startswith(prefix))
        fitting = next((one for one in inside if count % one.count == 0), None)
        if fitting is None:
            return None
        width = count // fitting.count  # of keys that several heads of queries share
        return (fitting.kept[:, None] * width + torch.arange(width)).flatten()


def _kept(slicing: Slicing, tensor: str, dim: int) -> Tensor | None:
    module, _, key = tensor.rpartition(".")
    sliced = slicing.tensors.get((module, key))
    return None if sliced is None else sliced.kept[dim]


def _heads(components: np.ndarray, kept: Tensor) -> Heads | None:
    """Return the heads that channels with these components are made of; None where neighbours go one by one."""
    order = list(dict.fromkeys(components.tolist()))
    if len(order) == len(components) or components[0] != components[1]:
        return None
    staying = set(components[kept.numpy()].tolist())
    return Heads(len(order), torch.tensor([place for place, one in enumerate(order) if one in staying]))


_OF: WeakKeyDictionary[nn.Module, Survivors] = WeakKeyDictionary()


def remember(teacher: nn.Module, survivors: Survivors) -> None:
    """Record what the student of `teacher` has of it."""
    _OF[teacher] = survivors


def survivors_of(teacher: nn.Module) -> Survivors:
    """Return what the student of `teacher` has of it: all, where nothing else is recorded."""
    return _OF.get(teacher, Survivors())
