"""Inspects a model without training it: layers, sizes, coupled channels."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.compressors.layer_kinds import (
    is_transposed_linear,
    made_plain_by,
    output_dim,
    stacked_weights,
    torch_base,
)
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.errors import CompressionError
from raycompress.model.info import Layer, ModelInfo


def inspect(model: nn.Module, example: Example | None) -> ModelInfo:
    """Return the layers, sizes and coupled layers of `model`.

    Parameters
    ----------
    example
        One input; without it FLOPs, ties and shapes are unknown. Where the model cannot be followed, ties are
        unknown and no output layer is named.
    """
    flops = None if example is None else measure.flops(model, example)
    ties: tuple[tuple[str, ...], ...] | None = None
    outputs: tuple[str, ...] = ()
    whole: dict[str, str] = {}
    if example is not None:
        try:
            graph = ChannelGraph(model, example)
            ties, outputs, whole = _ties(graph), graph.output_layers(), graph.whole_layers
        except CompressionError:
            ties = None  # unknown, which is not the same as "none" to the caller
    return ModelInfo(
        layers=_layers(model, flops),
        ties=ties,
        output_layers=outputs,
        whole_layers=whole,
        parameters=measure.parameters(model),
        flops=None if flops is None else flops[""],
        size_bytes=measure.size_bytes(model),
        input_shapes=None if example is None else example.shapes,
    )


def _layers(model: nn.Module, flops: dict[str, int] | None) -> tuple[Layer, ...]:
    layers = []
    for name, module in model.named_modules():
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if name and (own or not any(module.children())):
            weight = getattr(module, next(iter(stacked_weights(module)), "weight"), None)
            shape = tuple(weight.shape) if isinstance(weight, Tensor) else ()
            counted = None if flops is None else flops.get(name, 0)
            kind, base = type(module).__name__, torch_base(module)
            is_computed = bool(made_plain_by(name, module))
            layers.append(Layer(name, kind, _channels(module, shape), own, counted, shape, base, is_computed))
    return tuple(layers)


def _channels(module: nn.Module, shape: tuple[int, ...]) -> int:
    if is_transposed_linear(module) or stacked_weights(module):
        return shape[output_dim(module)]
    for attribute in ("out_channels", "out_features", "num_features", "num_channels"):
        value = getattr(module, attribute, None)
        if isinstance(value, int):
            return value
    return shape[0] if len(shape) == 1 else 0


def _ties(graph: ChannelGraph) -> tuple[tuple[str, ...], ...]:
    """Return the sets of two or more layers, convolutions with linear layers and norms, whose channels are coupled."""
    parent = {name: name for name in graph.layers}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for of_kind in (graph.is_producer, graph.is_norm):
        first: dict[int, str] = {}
        for name in graph.layers:
            for component in np.unique(graph.components(name)).tolist() if of_kind(name) else ():
                parent[root(name)] = root(first.setdefault(component, name))
    groups: dict[str, list[str]] = {}
    for name in graph.layers:
        groups.setdefault(root(name), []).append(name)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)
