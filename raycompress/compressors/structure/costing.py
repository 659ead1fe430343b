"""Fits a model's `raycompress.model.costs.CostModel`: its sizes as a function of the removed channels.

One block of each channel group is removed from a copy, and the change of every tensor's shape is recorded. Parameters
and bytes follow from the shapes, the multiply-adds of a convolution or linear layer from the shape of its weight. What
a module computes without a weight of its own, such as the products of an attention, is fitted to two pruned copies
(the probes), on which the whole cost model is checked as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from raycompress.bundle.example import Example, distinct
from raycompress.compressors.layer_kinds import is_transposed_linear, is_weighted
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.structure.cut import Cut
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.compressors.structure.groups import channel_groups
from raycompress.errors import CompressionError
from raycompress.model.costs import CostModel, LayerWidth, Part
from raycompress.model.groups import ChannelGroup

_TOLERANCE = 0.01
"""Largest relative error of the predicted sizes of a probe."""
_FITTED = 1e-6
"""Largest absolute error of a fitted share of the multiply-adds."""
Losses = dict[int, float]
"""Index of a group -> by how much one removed block of it shortens a dimension."""


def cost_model(model: nn.Module, example: Example) -> CostModel:
    """Return the cost of `model` in the channels that are removed from it.

    Raises
    ------
    CompressionError
        The model cannot be followed, or the predicted sizes of pruned copies differ from the measured ones.
    """
    one = measure.first_of_batch(example)
    graph = ChannelGraph(model, example)
    groups = list(channel_groups(graph))
    own = _own_flops(model, measure.flops(model, one))
    dims = _dimensions(graph, groups)
    known = CostModel(
        tuple(group.summary() for group in groups),
        tuple(_tensor_parts(model, dims, own)),
        tuple(_widths(model, dims)),
        measure.parameters(model),
        sum(own.values()),
        measure.size_bytes(model),
    )
    probes = [_Probe(graph, example, groups, fraction) for fraction in (0.5, 0.25)] if groups else []
    unweighted = {name: count for name, count in own.items() if not is_weighted(model.get_submodule(name))}
    for name, count in unweighted.items():
        parts = _fitted(name, count, model, dims, probes)
        known = replace(known, parts=(*known.parts, *parts))
    for probe in probes:
        _check(known, probe)
    return known


class _Probe:
    """A pruned copy, and its measured sizes.

    Parameters
    ----------
    fraction
        Of the blocks of each group; every other group loses half of that.
    """

    def __init__(self, graph: ChannelGraph, example: Example, groups: Sequence[ChannelGroup], fraction: float) -> None:
        cut = Cut(graph)
        self.removed: list[int] = []
        for index, group in enumerate(groups):
            count = min(group.size - 1, max(1, int(group.size * fraction / (1 + index % 2))))
            cut.remove(group.root, [channel for block in group.root_blocks[:count] for channel in block])
            self.removed.append(count)
        one = measure.first_of_batch(example)
        small = cut.small()
        try:
            self.flops = _own_flops(small, measure.flops(small, one))
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            raise CompressionError(
                f"what a pruned {type(small).__name__} costs cannot be predicted: with channels cut it does not run: "
                f"{(str(error).splitlines() or [type(error).__name__])[0]}",
                fix="sizes written into forward() do not follow the channels; exclude the layer before them",
            ) from error
        self.params = measure.parameters(small)
        self.model = type(small).__name__


def _own_flops(model: nn.Module, counted: Mapping[str, int]) -> dict[str, int]:
    """Return the multiply-adds of each module without those of the modules inside it."""
    own = {}
    for name, module in model.named_modules():
        if left := counted.get(name, 0) - (_inside(name, module, counted) if name in counted else 0):
            own[name] = left
    return own


def _inside(name: str, module: nn.Module, counted: Mapping[str, int]) -> int:
    """Return the multiply-adds of the modules in a module; a ModuleList is never called, and what is in it is."""
    prefix = f"{name}." if name else ""
    children = ((f"{prefix}{child}", inner) for child, inner in module.named_children())
    return sum(counted[child] if child in counted else _inside(child, inner, counted) for child, inner in children)


def _dimensions(graph: ChannelGraph, groups: Sequence[ChannelGroup]) -> dict[tuple[str, str], list[tuple[int, Losses]]]:
    """Return each dimension of each tensor: its size, and by how much one block of each group shortens it."""
    dims: dict[tuple[str, str], list[tuple[int, Losses]]] = {
        key: [(size, {}) for size in tensor.shape] for key, tensor in _tensors(graph.model)
    }
    for index, group in enumerate(groups):
        for key, lost in Cut(graph, {group.root: group.root_blocks[0]}).lost().items():
            for place, count in enumerate(lost):
                if count:
                    dims[key][place][1][index] = float(count)
    return dims


def _tensors(model: nn.Module) -> Iterator[tuple[tuple[str, str], Tensor]]:
    for name, module in model.named_modules():
        for key, tensor in {**module._parameters, **module._buffers}.items():
            if tensor is not None:
                yield (name, key), tensor


def _tensor_parts(
    model: nn.Module, dims: Mapping[tuple[str, str], Sequence[tuple[int, Losses]]], own: Mapping[str, int]
) -> Iterator[Part]:
    saved = set(distinct(model.state_dict()))
    seen: set[int] = set()
    for (name, key), tensor in _tensors(model):
        is_parameter = isinstance(tensor, nn.Parameter) and id(tensor) not in seen
        seen.add(id(tensor))
        flops = own.get(name, 0) if key == "weight" and is_weighted(model.get_submodule(name)) else 0
        stored = f"{name}.{key}".lstrip(".") in saved
        yield from _part(
            tensor.numel() * is_parameter, flops, tensor.numel() * tensor.element_size() * stored, dims[name, key]
        )


def _widths(model: nn.Module, dims: Mapping[tuple[str, str], Sequence[tuple[int, Losses]]]) -> Iterator[LayerWidth]:
    """Yield the width of each layer whose weight gets smaller with any group."""
    for (name, key), found in dims.items():
        if key == "weight" and any(losses for _, losses in found):
            outputs, inputs = found[0], found[1] if len(found) > 1 else found[0]
            layer = model.get_submodule(name)
            if isinstance(layer, nn.modules.conv._ConvTransposeNd) or is_transposed_linear(layer):
                inputs, outputs = outputs, inputs
            one, other = ((size, tuple(losses.items())) for size, losses in (inputs, outputs))
            yield LayerWidth(name, one, other)


def _part(params: float, flops: float, size_bytes: float, dims: Sequence[tuple[int, Losses]]) -> Iterator[Part]:
    """Yield the part, unless no group changes any of its dimensions."""
    changing = tuple((size, tuple(losses.items())) for size, losses in dims if losses)
    if changing:
        yield Part(float(params), float(flops), float(size_bytes), changing)


def _fitted(
    name: str,
    count: int,
    model: nn.Module,
    dims: Mapping[tuple[str, str], Sequence[tuple[int, Losses]]],
    probes: Sequence[_Probe],
) -> Iterator[Part]:
    """Yield the parts of what a module computes outside of the layers in it.

    The model is a sum of two terms: one proportional to the size of the weights that the module itself multiplies with,
    as torch's attention does, and one proportional to one width of the layers in it. The first width that explains
    both probes is used.
    """
    prefix = f"{name}." if name else ""
    weights = [value for key, value in dims.items() if len(value) == 2 and (key[0] == name)]
    if isinstance(model.get_submodule(name), nn.MultiheadAttention):
        weights += [value for key, value in dims.items() if key == (f"{prefix}out_proj", "weight")]
    widths = [[dim] for key, value in dims.items() if key[0].startswith(prefix) for dim in value if dim[1]]
    counts = [probe.flops.get(name, 0) for probe in probes]
    if all(other == count for other in counts):
        return
    whole = [sum(_left(value, probe.removed) for value in weights) for probe in probes]
    total = sum(math.prod(size for size, _ in value) for value in weights)
    for width in widths:
        share = _share(count, counts, total, whole, [_left(width, probe.removed) / width[0][0] for probe in probes])
        if share is not None:
            for value in weights:
                yield from _part(0, share * count * math.prod(size for size, _ in value) / total, 0, value)
            yield from _part(0, (1 - share) * count, 0, width)
            return
    raise CompressionError(
        f'how the multiply-adds of "{name or type(model).__name__}" follow from its channels is not known',
        fix="compute with layers (Linear, Conv2d, MultiheadAttention) what is computed with bare matrix products there",
    )


def _left(dims: Sequence[tuple[int, Losses]], removed: Sequence[int]) -> float:
    return math.prod(size - sum(each * removed[group] for group, each in losses.items()) for size, losses in dims)


def _share(
    count: int, counts: Sequence[int], total: float, whole: Sequence[float], widths: Sequence[float]
) -> float | None:
    """Return the share of `count` that is in proportion to the weights, where that explains all probes; else None."""
    if not total:
        share = 0.0
    elif abs(whole[0] / total - widths[0]) < _FITTED:
        return None
    else:
        share = (counts[0] / count - widths[0]) / (whole[0] / total - widths[0])
    predicted = [
        share * (left / total if total else 0.0) + (1 - share) * width
        for left, width in zip(whole, widths, strict=True)
    ]
    fits = all(abs(one - other / count) < _FITTED for one, other in zip(predicted, counts, strict=True))
    return share if fits and -_FITTED <= share <= 1 + _FITTED else None


def _check(known: CostModel, probe: _Probe) -> None:
    """Raise CompressionError where the predicted sizes of a probe are not the measured ones, to 1 %."""
    predicted = known.sizes(probe.removed)
    for name, measured in (("params", probe.params), ("flops", sum(probe.flops.values()))):
        if abs(predicted[name] - measured) > _TOLERANCE * max(1, measured):
            raise CompressionError(
                f"the {name} of a pruned {probe.model} cannot be predicted: "
                f"{predicted[name]:,.0f} where {measured:,} are measured",
                fix="leave the budget out, or use a model whose layers are torch's own",
            )
