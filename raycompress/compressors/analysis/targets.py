"""The targets of a sensitivity analysis: single layers, or layers whose channels are coupled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.catalog import WEIGHTED_TYPES
from raycompress.compressors.masking import masked_calls
from raycompress.compressors.masking.masked_calls import Reductions
from raycompress.compressors.structure.cut import Cut
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.compressors.structure.inspection import inspect
from raycompress.errors import CompressionError
from raycompress.results.analysis.data import Dependency


@dataclass(frozen=True)
class Masks:
    """The masks of what is removed from a model.

    Attributes
    ----------
    size
        How many channels, or weights.
    removed
        (module, parameter) -> bool tensor of the parameter's shape, True where it goes.
    reductions
        What stays of its reductions over channels, such as norms.
    """

    size: int
    removed: Mapping[tuple[str, str], Tensor]
    reductions: Reductions = field(default_factory=Reductions)

    def apply(self, model: nn.Module) -> None:
        """Set what is removed to zero; norms compute their mean and variance over the rest, until `release`."""
        for (module, name), removed in self.removed.items():
            getattr(model.get_submodule(module), name).data.masked_fill_(removed, 0)
        if self.reductions:
            masked_calls.hold(model, self.reductions, {})

    def release(self, model: nn.Module) -> None:
        """Remove the hooks of `apply`; the weights stay zero."""
        if self.reductions:
            masked_calls.release(model)


@dataclass(frozen=True)
class SensitivityTarget:
    """What a sensitivity analysis prunes at once, and how it masks it.

    Not a `raycompress.model.groups.ChannelGroup`: it may be the single weights of one layer, and of coupled layers it
    holds whole layers, of which some channels may be fixed.

    Attributes
    ----------
    layers
        In the model's order.
    size
        How many channels, or weights, it has.
    masks
        Yields the masks for each of some ascending numbers of channels, or weights: the least important ones, and as
        many of them as can go.
    fixed
        Why nothing can go; empty where something can.
    """

    layers: tuple[str, ...]
    size: int
    masks: Callable[[Sequence[int]], Iterator[Masks]]
    fixed: str = ""


def channel_dependency(model: nn.Module, dummy_input: Any) -> Dependency:
    """Return which layers' output channels are tied, by additions, depthwise convolutions and the like.

    Parameters
    ----------
    model
        It is left as it is.
    dummy_input
        A tensor with the batch first, a tuple of arguments, or a dict of keyword arguments.

    Raises
    ------
    CompressionError
        The model's channels cannot be followed.
    """
    example = dummy_input if isinstance(dummy_input, Example) else Example.for_model(dummy_input, model)
    return Dependency(_sets(ChannelGraph(model, example), model, example))


def channels(model: nn.Module, example: Example | None) -> list[SensitivityTarget]:
    """Return the sets of layers that lose channels together; the channels with the smallest L1 norms go first.

    The norm of a channel is summed over the layers that lose it together, as NNI's dependency-aware pruner does. Of
    what feeds an attention written by hand, whole heads go.

    Raises
    ------
    CompressionError
        As in `channel_dependency`, or no input is known.
    """
    if example is None:
        raise CompressionError(
            "no input of the model is known: evaluate(model) never called it",
            fix="pass dummy_input=, such as torch.randn(1, 3, 32, 32), or call the model that evaluate is given",
        )
    graph = ChannelGraph(model, example)
    return [_coupled(graph, layers) for layers in _sets(graph, model, example)]


def weights(model: nn.Module, _example: Example | None) -> list[SensitivityTarget]:
    """Return each layer with a weight by itself; its smallest weights go first."""
    layers = {
        name: module.weight
        for name, module in model.named_modules()
        if type(module).__name__ in WEIGHTED_TYPES and isinstance(module.weight, nn.Parameter)
    }
    return [
        SensitivityTarget((name,), weight.numel(), functools.partial(_smallest, name, weight))
        for name, weight in layers.items()
        if weight.numel() > 1
    ]


METHODS: Mapping[str, Callable[[nn.Module, Example | None], list[SensitivityTarget]]] = {
    "l1": channels,
    "level": weights,
}


def _sets(graph: ChannelGraph, model: nn.Module, example: Example) -> tuple[tuple[str, ...], ...]:
    producers = graph.producers()
    info = inspect(model, example)
    sets = [tuple(name for name in info.tie_of(producer) if name in producers) for producer in producers]
    return tuple(dict.fromkeys(sets))


def _coupled(graph: ChannelGraph, layers: tuple[str, ...]) -> SensitivityTarget:
    # the widest layer, whose channels cover those of the others; of equals, one that does not only pass channels on
    root = max(layers, key=lambda name: (graph.channels(name), not graph.follows(name)))
    every = graph.components(root)
    order, places = np.unique(every, return_inverse=True)
    scores = np.zeros(len(order))
    for member in graph.members(every):
        if member.name in layers and not member.follows:
            own = _norms(graph.module(member.name))[torch.from_numpy(member.channels)].numpy()
            np.add.at(scores, np.searchsorted(order, member.components), own)
    free = [index for index in dict.fromkeys(places.tolist()) if not graph.fixed(order[[index]]).any()]
    free.sort(key=lambda index: float(scores[index]))
    blocks = [tuple(np.flatnonzero(places == index).tolist()) for index in free]
    masks = functools.partial(_cut, graph, root, blocks)
    return SensitivityTarget(layers, len(every), masks, "" if free else graph.reasons(every)[0])


def _norms(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    # a transposed convolution has its outputs second
    outputs = weight.transpose(0, 1) if isinstance(layer, nn.modules.conv._ConvTransposeNd) else weight
    return outputs.detach().double().abs().flatten(1).sum(dim=1).cpu()


def _cut(graph: ChannelGraph, root: str, blocks: Sequence[tuple[int, ...]], counts: Sequence[int]) -> Iterator[Masks]:
    """Yield the masks of what slicing would remove: of weights, norms, and inputs of the layers behind them.

    `blocks` are the channels in the order in which they go; those of one head of an attention go at once.
    """
    cut, gone, waiting = Cut(graph), 0, list(blocks)
    for count in counts:
        while waiting and gone + len(waiting[0]) <= count:
            block = waiting.pop(0)
            cut.remove(root, block)
            gone += len(block)
        masks = {}
        for (module, name), sliced in cut.tensors().items():
            tensor = getattr(graph.module(module), name)
            if isinstance(tensor, nn.Parameter):
                masks[module, name] = sliced.removed(tensor)
        yield Masks(gone, masks, cut.reductions())


def _smallest(name: str, weight: nn.Parameter, counts: Sequence[int]) -> Iterator[Masks]:
    order = weight.detach().abs().flatten().argsort(stable=True)
    for count in counts:
        mask = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
        mask[order[:count]] = True
        yield Masks(count, {(name, "weight"): mask.reshape(weight.shape)})
