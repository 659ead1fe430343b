"""Fits a model's `raycompress.model.costs.CostModel`: its sizes as a function of the removed channels.

One block of each channel group is removed from a copy, and the change of every tensor's shape is recorded: parameters
and bytes follow from it. The multiply-adds follow from the axes of each product that a pass computes, a layer's or not.
The whole is checked on two pruned copies (the probes).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from raycompress.bundle.example import Example, distinct
from raycompress.compressors.layer_kinds import is_transposed_linear
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.structure.cut import Cut
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.compressors.structure.groups import channel_groups
from raycompress.compressors.structure.products import Product, products
from raycompress.errors import CompressionError
from raycompress.model.costs import BlockCost, CostModel, LayerWidth, Part
from raycompress.model.groups import ChannelGroup, is_inside

if TYPE_CHECKING:
    from raycompress.compressors.structure.axes.atoms import Ids

_TOLERANCE = 0.01
"""Largest relative error of the predicted sizes of a probe."""
_PARAMETRIZED = ".parametrizations.weight"
"""Where torch.nn.utils.parametrize keeps what it computes a layer's weight of."""
Losses = dict[int, float]
"""Index of a group -> by how much one removed block of it shortens a dimension."""


def cost_model(model: nn.Module, example: Example, blocks: Sequence[str] = ()) -> CostModel:
    """Return the cost of `model` in the channels that are removed from it, and in its residual `blocks`.

    Raises
    ------
    CompressionError
        The model cannot be followed, or the predicted sizes of pruned copies differ from the measured ones.
    """
    one = measure.first_of_batch(example)
    graph = ChannelGraph(model, example)
    groups = list(channel_groups(graph))
    dims, flops = _dimensions(graph, groups), measure.flops(model, one)
    found = products(graph, one)
    known = CostModel(
        tuple(group.summary() for group in groups),
        (*_tensor_parts(model, dims, blocks), *_product_parts(graph, groups, found, one.least, blocks)),
        tuple(_widths(model, dims)),
        measure.parameters(model),
        flops[""],
        measure.size_bytes(model),
        tuple(_of_block(model, block, flops.get(block, 0)) for block in blocks),
    )
    for fraction in (0.5, 0.25) if groups else ():
        _check(known, _Probe(graph, example, groups, fraction))
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
            self.flops = measure.flops(small, one)[""]
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            raise CompressionError(
                f"what a pruned {type(small).__name__} costs cannot be predicted: with channels cut it does not run: "
                f"{(str(error).splitlines() or [type(error).__name__])[0]}",
                fix="sizes written into forward() do not follow the channels; exclude the layer before them",
            ) from error
        self.params = measure.parameters(small)
        self.model = type(small).__name__


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


def _of_block(model: nn.Module, block: str, flops: float) -> BlockCost:
    """Return what a residual block contributes to the dense model; what it shares with the rest stays."""
    own = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    others = {known for name, known in own.items() if not is_inside(name, (block,))}
    inner = model.get_submodule(block)
    params = sum(parameter.numel() for parameter in inner.parameters() if id(parameter) not in others)
    gone = {
        known: tensor for tensor in inner.state_dict(keep_vars=True).values() if (known := id(tensor)) not in others
    }
    stored = sum(tensor.numel() * tensor.element_size() for tensor in gone.values())
    return BlockCost(block, float(params), float(flops), float(stored))


def _inside(name: str, blocks: Sequence[str]) -> str:
    return next((block for block in blocks if is_inside(name, (block,))), "")


def _tensor_parts(
    model: nn.Module, dims: Mapping[tuple[str, str], Sequence[tuple[int, Losses]]], blocks: Sequence[str]
) -> Iterator[Part]:
    """Yield the parameters and bytes of each tensor that a group changes."""
    saved = set(distinct(model.state_dict()))
    seen: set[int] = set()
    for (name, key), tensor in _tensors(model):
        is_parameter = isinstance(tensor, nn.Parameter) and id(tensor) not in seen
        seen.add(id(tensor))
        stored = f"{name}.{key}".lstrip(".") in saved
        size_bytes = tensor.numel() * tensor.element_size() * stored
        yield from _part(tensor.numel() * is_parameter, 0, size_bytes, dims[name, key], _inside(name, blocks))


def _product_parts(
    graph: ChannelGraph, groups: Sequence[ChannelGroup], found: Sequence[Product], samples: int, blocks: Sequence[str]
) -> Iterator[Part]:
    """Yield the multiply-adds of the products of so many samples, those of equal dimensions as one, for one sample."""
    group_of = {int(graph.components(group.root, group.root_blocks[0][:1])[0]): i for i, group in enumerate(groups)}
    together: dict[tuple[str, tuple[tuple[int, tuple[tuple[int, float], ...]], ...]], float] = {}
    for product in found:
        dims = tuple(sorted((len(axis), _losses(axis, group_of)) for axis in product.axes))
        key = _inside(product.module, blocks), dims
        together[key] = together.get(key, 0.0) + product.flops
    for (inside, dims), count in together.items():
        yield from _part(0, count / samples, 0, [(size, dict(losses)) for size, losses in dims], inside)


def _losses(axis: Ids, group_of: Mapping[int, int]) -> tuple[tuple[int, float], ...]:
    """Return by how much a block of each group shortens an axis: the first one, which stands for all of them."""
    components, counts = np.unique(axis, return_counts=True)
    pairs = zip(components.tolist(), counts.tolist(), strict=True)
    return tuple((group_of[component], float(count)) for component, count in pairs if component in group_of)


def _widths(model: nn.Module, dims: Mapping[tuple[str, str], Sequence[tuple[int, Losses]]]) -> Iterator[LayerWidth]:
    """Yield the width of each layer whose weight gets smaller with any group."""
    for (owner, key), found in dims.items():
        name = _weighted_by(owner, key, len(found))
        if name is not None and any(losses for _, losses in found):
            outputs, inputs = found[0], found[1] if len(found) > 1 else found[0]
            layer = model.get_submodule(name)
            if isinstance(layer, nn.modules.conv._ConvTransposeNd) or is_transposed_linear(layer):
                inputs, outputs = outputs, inputs
            one, other = ((size, tuple(losses.items())) for size, losses in (inputs, outputs))
            yield LayerWidth(name, one, other)


def _weighted_by(owner: str, key: str, dims: int) -> str | None:
    """Return the layer whose weight a tensor is, or has the shape of where it is computed; None for other tensors."""
    if key == "weight" or (key in ("weight_v", "weight_orig") and dims > 1):  # spectral_norm has a vector weight_v
        return owner
    is_original = owner.endswith(_PARAMETRIZED) and key in ("original", "original1")
    return owner.removesuffix(_PARAMETRIZED) if is_original else None


def _part(
    params: float, flops: float, size_bytes: float, dims: Sequence[tuple[int, Losses]], inside: str
) -> Iterator[Part]:
    """Yield the part, unless no group changes any of its dimensions."""
    changing = tuple((size, tuple(losses.items())) for size, losses in dims if losses)
    if changing:
        yield Part(float(params), float(flops), float(size_bytes), changing, inside)


def _check(known: CostModel, probe: _Probe) -> None:
    """Raise CompressionError where the predicted sizes of a probe are not the measured ones, to 1 %."""
    predicted = known.sizes(probe.removed)
    for name, measured in (("params", probe.params), ("flops", probe.flops)):
        if abs(predicted[name] - measured) > _TOLERANCE * max(1, measured):
            raise CompressionError(
                f"the {name} of a pruned {probe.model} cannot be predicted: "
                f"{predicted[name]:,.0f} where {measured:,} are measured",
                fix="leave the budget out, or use a model whose layers are torch's own",
            )
