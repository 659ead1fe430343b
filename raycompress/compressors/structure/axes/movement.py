"""Rules of operations that only move elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycompress.compressors.structure.axes.call import Call, flat, with_length
from raycompress.compressors.structure.axes.labels import Block, Labels, gathered, spread, unify


def passed(call: Call) -> Sequence[Labels]:
    """The first result has the atoms of the first operand."""
    return call.plain(call.labels(call.args[0]))


def moved(call: Call) -> Sequence[Labels]:
    """Elements change places only: the operation is executed on the atoms.

    What names a position along a dimension (an index, a shift, a window) makes that dimension rigid; what takes equal
    parts of one needs as many elements in every part.
    """
    source = call.labels(call.args[0])
    source = source.rigid(_positions(call, len(source.shape)), call.table, call.reason)
    source = _parted(call, source)
    found: list[list[Block]] = [[] for _ in call.results]
    for block in source.blocks:
        atoms = torch.from_numpy(np.broadcast_to(spread(block, len(source.shape)), source.shape).copy())
        outcome = call.function(atoms, *_without_values(call)[1:], **call.kwargs)
        for place, result in enumerate(value for value in flat([outcome]) if isinstance(value, Tensor)):
            found[place] += gathered(result.numpy())
    return [_disjoint(result.shape, blocks, call) for result, blocks in zip(call.results, found, strict=True)]


def permuted(call: Call) -> Sequence[Labels]:
    """Dimensions change places, or are added or dropped with length 1; the atoms need not be laid out for that."""
    source = call.labels(call.args[0])
    rank = len(source.shape)
    if call.name == "permute":
        order = [int(dim) % rank for dim in call.args[1]]
    elif call.name in ("transpose", "t"):
        order = list(range(rank))
        one, two = (int(dim) % rank for dim in call.args[1:3]) if call.name == "transpose" else (0, rank - 1)
        order[one], order[two] = two, one
    elif call.name == "unsqueeze":
        new = int(call.args[1]) % (rank + 1)
        return call.plain(source.resized(call.shape, lambda dim: dim if dim < new else dim + 1))
    else:  # squeeze: a dimension of length 1 has no atoms
        kept = [dim for dim in range(rank) if source.shape[dim] > 1]
        places = [dim for dim, length in enumerate(call.shape) if length > 1]
        return call.plain(source.resized(call.shape, dict(zip(kept, places, strict=True)).get))
    return call.plain(source.resized(call.shape, order.index))


def expanded(call: Call) -> Sequence[Labels]:
    """Dimensions of length 1 are repeated, and new ones stand in front."""
    source = call.labels(call.args[0])
    shift = len(call.shape) - len(source.shape)
    kept = {dim + shift for dim, length in enumerate(source.shape) if length > 1 and dim not in source.repeated}
    moved_to = source.resized(call.shape, lambda dim: dim + shift)
    repeated = frozenset(dim for dim, length in enumerate(call.shape) if length > 1 and dim not in kept)
    return call.plain(Labels(moved_to.shape, moved_to.blocks, repeated))


def restrided(call: Call) -> Sequence[Labels]:
    """``as_strided``, followed only where it changes nothing but the layout in memory."""
    source, result = call.args[0], call.results[0]
    long = [dim for dim, length in enumerate(source.shape) if length > 1]
    labels = call.labels(source)
    if source.shape == result.shape and all(source.stride(dim) == result.stride(dim) for dim in long):
        return call.plain(labels)
    call.table.freeze(labels.atoms, call.reason)
    return call.plain()


def _positions(call: Call, rank: int) -> list[int]:
    """Return the dimensions along which an operation names positions."""
    if call.name == "index":
        indices = call.args[1]
        masked = any(index is not None and index.dtype == torch.bool for index in indices)
        return list(range(rank)) if masked else [place for place, index in enumerate(indices) if index is not None]
    if call.name in ("im2col", "diagonal"):
        return list(range(rank))
    if call.name == "roll":
        return list(call.argument("dims")) or list(range(rank))
    if call.name == "unfold":
        return [int(call.argument("dimension"))]
    if call.name in ("select", "unbind", "index_select", "gather", "take_along_dim"):
        return [int(call.argument("dim") or 0)]
    return []


def _parted(call: Call, source: Labels) -> Labels:
    """Tie the elements at equal positions of the equal parts that ``split`` and ``slice`` cut a dimension into."""
    if call.name not in ("slice", "split", "split_with_sizes", "chunk", "narrow", "unsafe_split", "unsafe_chunk"):
        return source
    dim = int(call.argument("dim") or 0) % len(source.shape)
    block, length = source.at(dim), source.shape[dim]
    sizes = {result.shape[dim] for result in call.results}
    if block is None or sizes == {length}:
        return source
    size = max(sizes)
    start = int(call.argument("start") or 0) if call.name in ("slice", "narrow") else 0
    start = min(length, start + length if start < 0 else start)
    if len(sizes) > 1 or not size or length % size or start % size or (call.argument("step") or 1) != 1:
        return source.rigid([dim], call.table, call.reason)
    axis = block.dims.index(dim)
    parts = np.moveaxis(block.atoms, axis, 0).reshape(length // size, size, -1)
    call.table.tie(parts, parts[:1], call.reason)
    return source


def _without_values(call: Call) -> list[Any]:
    """Return the arguments, with 0, that is FIXED, for the number that padding writes."""
    names = [argument.name for argument in call.function._schema.arguments]
    values = list(call.args)
    if call.name == "constant_pad_nd" and len(values) > 2:
        values[names.index("value")] = 0
    return values


def _disjoint(shape: Sequence[int], blocks: list[Block], call: Call) -> Labels:
    kept: list[Block] = []
    for block in blocks:
        if any(set(block.dims) & set(other.dims) for other in kept):
            call.table.freeze(block.atoms.reshape(-1), f"{call.reason}, which mixes two axes")
            for other in [other for other in kept if set(block.dims) & set(other.dims)]:
                call.table.freeze(other.atoms.reshape(-1), f"{call.reason}, which mixes two axes")
                kept.remove(other)
        else:
            kept.append(block)
            if len(block.dims) > 1:
                call.table.remember_joint(block.atoms, call.reason)
    return Labels(tuple(shape), tuple(kept))


def concatenated(call: Call) -> Sequence[Labels]:
    """``cat``: operands one after another along a dimension; ``stack``: along a new one."""
    operands = [call.labels(tensor) for tensor in call.args[0]]
    dim = int(call.argument("dim") or 0) % len(call.shape)
    if call.name == "stack":
        operands = [_unsqueezed(labels, dim) for labels in operands]
    else:  # an old exception of torch's: empty tensors of one dimension are passed over
        operands = [labels for labels in operands if len(labels.shape) == len(call.shape)]
    along = {
        dim,
        *(place for labels in operands for block in labels.blocks if dim in block.dims for place in block.dims),
    }
    rest = [_outside(labels, dim) for labels in operands]
    apart = [Labels(labels.shape, tuple(b for b in labels.blocks if not set(b.dims) & along)) for labels in rest]
    common = Labels(call.shape)
    if any(labels.blocks for labels in apart):
        common = unify(with_length(call.shape, dim, 1), apart, call.table, call.reason)
    parts = []
    for labels in operands:
        shape = [length if place in along else 1 for place, length in enumerate(labels.shape)]
        own = labels.at(dim) or next((block for block in labels.blocks if set(block.dims) & along), None)
        array = np.zeros(shape, dtype=np.int64) if own is None else spread(own, len(shape))
        parts.append(np.broadcast_to(array, np.broadcast_shapes(array.shape, tuple(shape))))
    lengths = [max(part.shape[place] for part in parts) for place in range(len(call.shape))]
    parts = [
        np.broadcast_to(part, [part.shape[place] if place == dim else length for place, length in enumerate(lengths)])
        for part in parts
    ]
    return call.plain(_disjoint(call.shape, [*gathered(np.concatenate(parts, axis=dim)), *common.blocks], call))


def _unsqueezed(labels: Labels, dim: int) -> Labels:
    shape = (*labels.shape[:dim], 1, *labels.shape[dim:])
    return labels.resized(shape, lambda place: place if place < dim else place + 1)


def _outside(labels: Labels, dim: int) -> Labels:
    """Return labels with length 1 along `dim`, and without what covers it."""
    blocks = tuple(block for block in labels.blocks if dim not in block.dims)
    return Labels(with_length(labels.shape, dim, 1), blocks)
