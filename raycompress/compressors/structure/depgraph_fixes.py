"""Additions to Torch-Pruning's graph: operations that it does not follow, such as ``qkv[0]`` and ``chunk(3, dim=-1)``.

Torch-Pruning 1.6 maps channels through the flatten of 4 dimensions only, through ``unbind`` but not through the
selection of one part. Through a split it maps them only where no parameter of three dimensions, such as positions, is
added before it, and it numbers the parts in the order of the backward pass, not of the forward one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class _Part:
    """Maps channels between a tensor and one of the equal parts that it is cut into.

    Parameters
    ----------
    place
        Which part.
    size
        Returns the current number of channels of a part.
    back
        True from the part to the whole.
    """

    def __init__(self, place: int, size: Callable[[], int], back: bool) -> None:
        self.place, self.size, self.back = place, size, back

    def __call__(self, indices: list[Any]) -> list[Any]:
        """Return the channels on the other side; those of other parts are left out."""
        size = self.size()
        offset = self.place * size
        if self.back:
            return [index._replace(idx=index.idx + offset) for index in indices]
        return [index._replace(idx=index.idx - offset) for index in indices if offset <= index.idx < offset + size]


def follow_reshapes(graph: Any) -> None:
    """Add the missing index mappings to a built ``DependencyGraph``, in place."""
    from torch_pruning import ops

    for node in list(graph.module2node.values()):
        if node.type == ops.OPTYPE.RESHAPE:
            _flatten(graph, node)
        elif node.type == ops.OPTYPE.ELEMENTWISE and _name(node) == "SelectBackward0":
            _select(graph, node)
        elif node.type == ops.OPTYPE.SPLIT:
            _split(graph, node)


def _flatten(graph: Any, node: Any) -> None:
    from torch_pruning.dependency import index_mapping

    sizes = _sizes(node)
    if len(sizes) not in (3, 5):
        return
    inputs, outputs = (_channels(graph, node, ahead) for ahead in (False, True))
    if inputs is None or outputs is None or sizes[1] != inputs or math.prod(sizes[1:]) != outputs or inputs == outputs:
        return
    stride = outputs // inputs
    _map(
        node,
        index_mapping._FlattenIndexMapping(stride=stride, reverse=True),
        index_mapping._FlattenIndexMapping(stride=stride, reverse=False),
    )


def _select(graph: Any, node: Any) -> None:
    sizes = _sizes(node)
    if len(sizes) != 5 or node.grad_fn._saved_dim != 0 or sizes[0] not in (2, 3):
        return
    parts = sizes[0]
    size = _size_of_part(graph, node, parts)
    if size is not None:
        place = _signed(node.grad_fn._saved_index) % parts
        _map(node, _Part(place, size, back=True), _Part(place, size, back=False))


def _split(graph: Any, node: Any) -> None:
    """Map the channels of equal parts; which part a layer reads is found in autograd's graph."""
    sizes, width = _sizes(node), getattr(node.grad_fn, "_saved_split_size", None)
    if not sizes or not isinstance(width, int):
        return
    whole = sizes[_signed(node.grad_fn._saved_dim) % len(sizes)]
    parts = whole // width
    size = _size_of_part(graph, node, parts) if whole == parts * width == _channels(graph, node, ahead=False) else None
    if size is None:
        return
    node.enable_index_mapping = False  # or Torch-Pruning would restore its own, in its order of the layers
    for taker in dict.fromkeys(node.outputs):
        places = [number for function, number in taker.grad_fn.next_functions if function is node.grad_fn]
        ahead = [dependency for dependency in node.dependencies if dependency.target is taker]
        back = [dependency for dependency in taker.dependencies if dependency.target is node]
        for place, one, other in zip(places, ahead, back, strict=False):
            one.index_mapping[0] = _Part(place, size, back=False)
            other.index_mapping[0] = _Part(place, size, back=True)


def _size_of_part(graph: Any, node: Any, parts: int) -> Callable[[], int] | None:
    """Return a function that returns the number of channels of one of the equal parts at the time of the call."""
    whole = _channels(graph, node, ahead=False)
    if whole is None or whole % parts:
        return None
    return lambda: (_channels(graph, node, ahead=False) or 0) // parts


def _map(node: Any, back: Callable[[list[Any]], list[Any]], ahead: Callable[[list[Any]], list[Any]]) -> None:
    for source in node.inputs:
        for dependency in node.dependencies:
            if dependency.target is source:
                dependency.index_mapping[0] = back
        for dependency in source.dependencies:
            if dependency.target is node:
                dependency.index_mapping[0] = ahead


def _channels(graph: Any, node: Any, ahead: bool) -> int | None:
    """Return the number of channels that reach `node`, or, with `ahead`, that the layers behind it have as inputs."""
    from torch_pruning.dependency import shape_infer

    infer = shape_infer.infer_in_channels_recursively if ahead else shape_infer.infer_out_channels_recursively
    found = (infer(graph, other, [0]) for other in (node.outputs if ahead else node.inputs))
    return next((int(channels) for channels in found if channels is not None), None)


def _sizes(node: Any) -> list[int]:
    """Return the sizes of the operation's input, where autograd has kept them; else an empty list."""
    return [int(size) for size in getattr(node.grad_fn, "_saved_self_sym_sizes", ())]


def _signed(number: int) -> int:
    """Return the signed value of a number that autograd shows as an unsigned one of 64 bits."""
    return number - 2**64 if number >= 2**63 else number


def _name(node: Any) -> str:
    return node.grad_fn.name() if hasattr(node.grad_fn, "name") else ""


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
