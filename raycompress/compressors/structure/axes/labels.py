"""The atoms of a tensor: arrays over some of its dimensions, and what operations do to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raycompress.compressors.structure.axes.atoms import FIXED, AtomTable

if TYPE_CHECKING:
    from raycompress.compressors.structure.axes.atoms import Ids


@dataclass(frozen=True)
class Block:
    """Atoms over some dimensions of a tensor.

    Attributes
    ----------
    dims
        The dimensions, ascending.
    atoms
        One atom for each position in these dimensions; the element of the tensor is gone where its atom is.
    """

    dims: tuple[int, ...]
    atoms: Ids


@dataclass(frozen=True)
class Labels:
    """The atoms of a tensor.

    Attributes
    ----------
    shape
        The tensor's shape.
    blocks
        Blocks of different dimensions. A dimension of no block is fixed: it keeps its length.
    repeated
        Dimensions along which one element was repeated: they are as long as whatever they meet.
    """

    shape: tuple[int, ...]
    blocks: tuple[Block, ...] = ()
    repeated: frozenset[int] = frozenset()

    @property
    def atoms(self) -> Ids:
        """All atoms."""
        arrays = [block.atoms.reshape(-1) for block in self.blocks]
        return np.unique(np.concatenate(arrays)) if arrays else np.empty(0, dtype=np.int64)

    def at(self, dim: int) -> Block | None:
        """Return the block that covers a dimension."""
        dim %= max(1, len(self.shape))
        return next((block for block in self.blocks if dim in block.dims), None)

    def without(self, block: Block) -> tuple[Block, ...]:
        """Return the other blocks."""
        return tuple(other for other in self.blocks if other is not block)

    def rigid(self, dims: Sequence[int], table: AtomTable, reason: str) -> Labels:
        """Return the labels after an operation under which `dims` have to keep their lengths."""
        labels = self
        for dim in {dim % max(1, len(self.shape)) for dim in dims}:
            block = labels.at(dim)
            if block is None:
                continue
            rest = labels.without(block)
            if len(block.dims) == 1:
                table.freeze(block.atoms, reason)
            else:
                axis = block.dims.index(dim)
                left = tuple(other for other in block.dims if other != dim)
                rest = (*rest, Block(left, table.collapse(block.atoms, axis, reason)))
            labels = Labels(self.shape, rest)
        return labels

    def resized(self, shape: Sequence[int], moved: Callable[[int], int | None]) -> Labels:
        """Return labels of a tensor whose dimensions are these ones, reordered or dropped; see `moved`.

        Parameters
        ----------
        moved
            The new place of a dimension; None for one that is gone, which no block may cover.
        """
        blocks = []
        for block in self.blocks:
            places = [moved(dim) for dim in block.dims]
            known = [place for place in places if place is not None]
            assert len(known) == len(places)
            order = sorted(range(len(known)), key=known.__getitem__)
            blocks.append(Block(tuple(sorted(known)), block.atoms.transpose(order)))
        return Labels(tuple(shape), tuple(blocks))


def spread(block: Block, rank: int) -> Ids:
    """Return a block's atoms with one axis for each of a tensor's `rank` dimensions, of length 1 where it has none."""
    shape = [1] * rank
    for dim, length in zip(block.dims, block.atoms.shape, strict=True):
        shape[dim] = length
    return block.atoms.reshape(shape)


def gathered(array: Ids) -> tuple[Block, ...]:
    """Return the block of an array over all dimensions: those along which it varies."""
    if array.size == 0:
        return ()
    for axis in range(array.ndim):
        if array.shape[axis] > 1 and bool((array == array.take([0], axis)).all()):
            array = array.take([0], axis)
    dims = tuple(axis for axis in range(array.ndim) if array.shape[axis] > 1)
    atoms = np.ascontiguousarray(array.reshape([array.shape[axis] for axis in dims]))
    return (Block(dims, atoms),) if dims and (atoms != FIXED).any() else ()


def unify(shape: Sequence[int], operands: Sequence[Labels], table: AtomTable, reason: str) -> Labels:
    """Return the labels of what is computed element by element from `operands`, broadcast to `shape`.

    An operand of length 1 along a dimension says nothing about it; one of full length without atoms fixes it.
    """
    rank = len(shape)
    aligned = []
    for labels in operands:
        shift = rank - len(labels.shape)
        aligned.append([Block(tuple(dim + shift for dim in block.dims), block.atoms) for block in labels.blocks])
    result: list[Block] = []
    pending = [block for blocks in aligned for block in blocks]
    present = [_present(labels, shape) for labels in operands]
    fixed = {
        dim
        for labels, dims in zip(operands, present, strict=True)
        for dim in dims
        if labels.at(dim - rank + len(labels.shape)) is None
    }
    while pending:
        block = pending.pop()
        touching = [other for other in result if set(other.dims) & set(block.dims)]
        if not touching:
            result.append(block)
            continue
        other = touching[0]
        result.remove(other)
        pending.append(_met(block, other, rank, table, reason))
    for dim in fixed:
        result = list(Labels(tuple(shape), tuple(result)).rigid([dim], table, reason).blocks)
    met = {dim for dims in present for dim in dims}
    return Labels(tuple(shape), tuple(result), frozenset(d for d in range(rank) if shape[d] > 1 and d not in met))


def _present(labels: Labels, shape: Sequence[int]) -> set[int]:
    """Return the dimensions of `shape` along which an operand has elements of its own."""
    shift = len(shape) - len(labels.shape)
    return {
        place + shift
        for place, length in enumerate(labels.shape)
        if length > 1 and length == shape[place + shift] and place not in labels.repeated
    }


def _met(one: Block, two: Block, rank: int, table: AtomTable, reason: str) -> Block:
    """Tie two blocks that share a dimension; return the block of what both cover."""
    first, second = spread(one, rank), spread(two, rank)
    if one.dims == two.dims:
        table.tie(first, second, reason)
        return one
    wide, narrow = (one, two) if len(one.dims) >= len(two.dims) else (two, one)
    if set(narrow.dims) < set(wide.dims):
        table.defer(spread(wide, rank), spread(narrow, rank), reason)
        return wide
    table.tie(first, second, reason)
    for axis in set(one.dims) - set(two.dims):
        first = first.take([0], axis)
    return gathered(first)[0] if gathered(first) else one
