"""Rules of operations that compute: element by element, over a dimension, as products of matrices."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from raycompress.compressors.structure.axes.call import Call, flat, with_length
from raycompress.compressors.structure.axes.labels import Block, Labels, unify


def pointwise(call: Call) -> Sequence[Labels]:
    """Element by element, with broadcasting."""
    operands = [call.labels(value) for value in flat((call.args, call.kwargs)) if isinstance(value, Tensor)]
    return call.plain(unify(call.shape, operands, call.table, call.reason))


def rigid_along_dim(call: Call) -> Sequence[Labels]:
    """Elements along one dimension act on each other, as in a softmax."""
    labels = call.labels(call.args[0])
    dim = call.argument("dim")
    dims = range(len(labels.shape)) if dim is None else [dim]
    labels = labels.rigid(list(dims), call.table, call.reason)
    return [Labels(tuple(result.shape), _unchanged(labels, result.shape)) for result in call.results]


def _unchanged(labels: Labels, shape: Sequence[int]) -> tuple[Block, ...]:
    same = len(shape) == len(labels.shape)
    return labels.blocks if same and all(shape[d] == labels.shape[d] for b in labels.blocks for d in b.dims) else ()


def reduced(call: Call) -> Sequence[Labels]:
    """A sum, mean or maximum over dimensions: they are gone."""
    labels = call.labels(call.args[0])
    rank = len(labels.shape)
    given = call.argument("dim")
    dims = range(rank) if given is None or given == [] else ([given] if isinstance(given, int) else given)
    gone = {dim % rank for dim in dims}
    for dim in gone:
        block = labels.at(dim)
        if block is not None and len(block.dims) > 1:
            labels = labels.rigid([dim], call.table, call.reason)
    blocks = [block for block in labels.blocks if not set(block.dims) & gone]
    keeps = len(call.shape) == rank
    left = [dim for dim in range(rank) if dim not in gone]
    place = {dim: dim if keeps else index for index, dim in enumerate(left)}
    result = Labels(labels.shape, tuple(blocks)).resized(call.shape, place.get)
    return [Labels(tuple(one.shape), result.blocks if tuple(one.shape) == call.shape else ()) for one in call.results]


def spatial(call: Call) -> Sequence[Labels]:
    """Pooling and resizing: the last dimensions keep their positions, the others pass."""
    labels = call.labels(call.args[0])
    rank = len(labels.shape)
    digits = [character for character in call.name if character.isdigit()]
    count = int(digits[0]) if digits else 2
    labels = labels.rigid(list(range(rank - count, rank)), call.table, call.reason)
    return [Labels(tuple(result.shape), labels.blocks) for result in call.results]


def contract(call: Call, left: Labels, right: Labels, place: int, other: int) -> tuple[Labels, Labels]:
    """Sum over dimension `place` of `left` and `other` of `right`: what goes from one goes from the other."""
    one, two = left.at(place), right.at(other)
    if one is None or two is None or len(one.dims) > 1 or len(two.dims) > 1:
        return left.rigid([place], call.table, call.reason), right.rigid([other], call.table, call.reason)
    call.table.tie(one.atoms, two.atoms, call.reason)
    return Labels(left.shape, left.without(one)), Labels(right.shape, right.without(two))


def product(call: Call, left: Labels, right: Labels) -> Labels:
    """A matrix product, of a batch of matrices where there are three dimensions."""
    rank = len(left.shape)
    left, right = contract(call, left, right, rank - 1, len(right.shape) - 2)
    left = left.rigid([rank - 1], call.table, call.reason)
    right = right.rigid([len(right.shape) - 2], call.table, call.reason)
    shape = (*left.shape[:-1], right.shape[-1])
    rows = Labels(with_length(shape, rank - 1, 1), left.blocks)
    columns = Labels(with_length(shape, rank - 2, 1), right.blocks)
    return unify(shape, [rows, columns], call.table, call.reason)


def multiplied(call: Call) -> Sequence[Labels]:
    """``mm`` and ``bmm``."""
    return call.plain(product(call, call.labels(call.args[0]), call.labels(call.args[1])))


def multiplied_and_added(call: Call) -> Sequence[Labels]:
    """``addmm`` and ``baddbmm``."""
    found = product(call, call.labels(call.args[1]), call.labels(call.args[2]))
    return call.plain(unify(call.shape, [call.labels(call.args[0]), found], call.table, call.reason))


def matrix_vector(call: Call) -> Sequence[Labels]:
    """``mv`` and ``dot``."""
    left, right = call.labels(call.args[0]), call.labels(call.args[1])
    left, _ = contract(call, left, right, len(left.shape) - 1, 0)
    return call.plain(Labels(call.shape, left.blocks if len(left.shape) > 1 else ()))


def grouped_product(call: Call) -> Sequence[Labels]:
    """``_grouped_mm``: rows, sorted by expert, times the matrix of their expert."""
    left, right = call.labels(call.args[0]), call.labels(call.args[1])
    if len(left.shape) != 2 or len(right.shape) != 3:
        for labels in (left, right):
            call.table.freeze(labels.atoms, call.reason)
        return call.plain()
    left, right = contract(call, left.rigid([0], call.table, call.reason), right, 1, 1)
    right = right.rigid([0], call.table, call.reason)
    found = right.at(2)
    return call.plain(Labels(call.shape, () if found is None else (Block((1,), found.atoms),)))
