"""Rules of operations that only move elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycompress.compressors.structure.axes.allowance import need_room
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
        lengths, arguments = _narrowed(call, source, block)
        for result in call.results if lengths == list(source.shape) else ():
            need_room(result.shape)
        need_room(lengths)
        atoms = torch.from_numpy(np.broadcast_to(spread(block, len(lengths)), lengths).copy())
        outcome = call.function(atoms, *arguments, **call.kwargs)
        for place, result in enumerate(value for value in flat([outcome]) if isinstance(value, Tensor)):
            blocks = gathered(result.numpy())
            if not blocks and result.numel():  # one element alone, which cannot go
                call.table.freeze(result.reshape(-1)[:1].numpy(), call.reason)
            found[place] += blocks
    return [_disjoint(result.shape, blocks, call) for result, blocks in zip(call.results, found, strict=True)]


_CUTTING = frozenset(
    ["slice", "split", "split_with_sizes", "unsafe_split", "select", "unbind", "narrow", "index", "roll", "flip"]
)
_RESHAPING = frozenset(["view", "_unsafe_view", "reshape", "_reshape_alias"])


def _narrowed(call: Call, source: Labels, block: Block) -> tuple[list[int], list[Any]]:
    """Return lengths and arguments under which an operation does to a block what it does, at the least cost.

    Dimensions without atoms that the operation leaves alone have length 1.
    """
    arguments = _without_values(call)[1:]
    lengths, rank = list(source.shape), len(source.shape)
    if call.name in _CUTTING:
        named = _positions(call, rank) or _dims(call)
        touched = {dim % rank for dim in named} | set(block.dims)
        lengths = [length if dim in touched else 1 for dim, length in enumerate(lengths)]
    elif call.name.endswith(("pad_nd", "pad1d", "pad2d", "pad3d")):
        # what is written outside of the atoms' dimensions is the same at all of them
        pads = list(arguments[0])
        for place in range(len(pads) // 2):
            dim = rank - 1 - place
            if dim not in block.dims:
                pads[2 * place : 2 * place + 2] = [0, 0]
                lengths[dim] = 1
        arguments = [pads, *arguments[1:]]
    elif call.name in _RESHAPING and 0 not in lengths:
        after = list(call.shape)
        for into, out in _factored(source.shape, call.shape):
            if not set(into) & set(block.dims):
                for dim in into:
                    lengths[dim] = 1
                for dim in out:
                    after[dim] = 1
        arguments = [after]
    return lengths, arguments


def _dims(call: Call) -> list[int]:
    given = call.argument("dims") if call.name == "flip" else call.argument("dim")
    return list(given) if isinstance(given, (list, tuple)) else [int(given or 0)]


def _factored(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the smallest groups of dimensions of two shapes of equal size that have equal products."""
    groups: list[tuple[list[int], list[int]]] = []
    into: list[int] = []
    out: list[int] = []
    one = two = 1
    first, second = 0, 0
    while first < len(before) or second < len(after):
        if second >= len(after) or (first < len(before) and one <= two):
            one *= before[first]
            into.append(first)
            first += 1
        else:
            two *= after[second]
            out.append(second)
            second += 1
        if one == two and into and out:
            groups.append((into, out))
            into, out, one, two = [], [], 1, 1
    if into or out:
        groups.append((into, out))
    return groups


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


def written(call: Call) -> Sequence[Labels]:
    """Elements are written at positions: along these the tensor keeps its length, along the others it meets them."""
    target = call.labels(call.args[0])
    rank = len(target.shape)
    indices = call.args[1]
    named = [place for place, index in enumerate(indices) if index is not None] if isinstance(indices, list) else []
    masked = any(index is not None and index.dtype == torch.bool for index in indices) if named else False
    dims = named if named and not masked else list(range(rank))
    target = target.rigid(dims, call.table, call.reason)
    free = [dim for dim in range(rank) if dim not in dims]
    for value in [call.labels(value) for value in flat((call.args[2:], call.kwargs)) if isinstance(value, Tensor)]:
        shift = rank - len(value.shape)
        kept = value.rigid([d for d in range(len(value.shape)) if d + shift not in free], call.table, call.reason)
        target = unify(target.shape, [target, kept], call.table, call.reason) if kept.blocks else target
    return call.plain(target)


def fixed(call: Call) -> Sequence[Labels]:
    """What answers positions, or one number for all: nothing of what it is given can go."""
    for value in flat((call.args, call.kwargs)):
        if isinstance(value, Tensor):
            call.table.freeze(call.labels(value).atoms, call.reason)
    return call.plain()


def _positions(call: Call, rank: int) -> list[int]:
    """Return the dimensions along which an operation names positions."""
    if call.name == "index":
        indices = call.args[1]
        masked = any(index is not None and index.dtype == torch.bool for index in indices)
        return list(range(rank)) if masked else [place for place, index in enumerate(indices) if index is not None]
    if call.name == "diagonal":
        return list(range(rank))
    if call.name == "roll":
        return list(call.argument("dims")) or list(range(rank))
    if call.name == "unfold":
        return [int(call.argument("dimension"))]
    if call.name in ("select", "unbind", "index_select", "gather", "take_along_dim"):
        return [int(call.argument("dim") or 0)]
    return []


def _parted(call: Call, source: Labels) -> Labels:
    """Tie the elements at equal positions of the equal parts that an operation cuts a dimension into."""
    if call.name == "channel_shuffle":
        return _tied(call, source, 1, int(call.args[1]))
    if call.name not in ("slice", "split", "split_with_sizes", "chunk", "narrow", "unsafe_split", "unsafe_chunk"):
        return source
    dim = int(call.argument("dim") or 0) % len(source.shape)
    block, length = source.at(dim), source.shape[dim]
    sizes = {result.shape[dim] for result in call.results}
    if block is None or sizes == {length}:
        return source
    step = call.argument("step") or 1
    if call.sized and call.name in ("slice", "split_with_sizes") and step == 1:
        return source  # the lengths of the parts are checked where they were given
    whole = len(call.results) > 1 and sum(result.shape[dim] for result in call.results) == length
    size = min(sizes) if whole else max(sizes)
    start = int(call.argument("start") or 0) if call.name in ("slice", "narrow") else 0
    start = min(length, start + length if start < 0 else start)
    if not size or any(other % size for other in (*sizes, length, start)) or step != 1:
        return source.rigid([dim], call.table, call.reason)
    return _tied(call, source, dim, length // size)


def _tied(call: Call, source: Labels, dim: int, n_parts: int) -> Labels:
    """Tie the elements at equal positions of `n_parts` equal parts of a dimension."""
    block = source.at(dim)
    if block is not None:
        atoms = np.moveaxis(block.atoms, block.dims.index(dim), 0)
        parts = atoms.reshape(n_parts, len(atoms) // n_parts, -1)
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
    need_room(with_length(lengths, dim, call.shape[dim]))
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
