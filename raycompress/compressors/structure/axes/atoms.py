"""Atoms: the elements of parameters' dimensions, which of them go together, and which cannot go at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from raycompress.compressors.structure.axes.allowance import Allowance, need_room

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]

_MOST_WAITING = 1 << 23
"""Pairs that are kept before they are joined: 128 MiB of them."""

FIXED = 0
"""The atom of whatever cannot be removed: a constant, a padded channel, a position in space."""


@dataclass(frozen=True)
class Broadcast:
    """A joint array of two axes met an array of some of them only; which axis survives is decided at the end.

    Attributes
    ----------
    joint
        Atoms over several axes of a tensor, such as (heads, width of a head).
    other
        Atoms over some of these axes, with length 1 along the others.
    reason
        The operation.
    """

    joint: Ids
    other: Ids
    reason: str


class AtomTable:
    """Collects couplings while a pass is followed; `components` settles them.

    Couplings are pairs of atoms, kept as arrays: no Python loop runs over channels.
    """

    def __init__(self) -> None:
        self.count = 1  # atom 0 is FIXED
        self.allowance = Allowance()
        self._pairs: list[tuple[Ids, Ids]] = []
        self._waiting = 0
        self._parent: Ids = np.arange(1, dtype=np.int64)  # atom -> one of its component that is not greater
        self._reasons: list[tuple[Ids, str]] = []
        self._joints: list[tuple[Ids, str]] = []
        self._broadcasts: list[Broadcast] = []
        self._stays = np.zeros(1, dtype=bool)  # which components cannot be removed, by what was frozen up to `_frozen`
        self._frozen = 0
        self.unknown: set[str] = set()
        """Operations that had no rule."""

    def create(self, number: int) -> Ids:
        """Return `number` new atoms."""
        number = int(number)  # a traced size would make a trace of the count, longer with each tensor
        self.count += number
        return np.arange(self.count - number, self.count, dtype=np.int64)

    def tie(self, first: Ids, second: Ids, reason: str) -> None:
        """Say that the atoms at equal positions go together only; one that is tied to FIXED stays."""
        first, second = np.broadcast_arrays(first, second)
        need_room(first.shape)
        first, second = first.reshape(-1), second.reshape(-1)
        different = first != second
        first, second = first[different], second[different]
        fixed = (first == FIXED) | (second == FIXED)
        if fixed.any():
            self.freeze(np.maximum(first[fixed], second[fixed]), reason)
            first, second = first[~fixed], second[~fixed]
        if len(first):
            self._pairs.append((first, second))
            self._waiting += len(first)
            if self._waiting > _MOST_WAITING:
                self._unite()

    def freeze(self, atoms: Ids, reason: str) -> None:
        """Say that atoms, and whatever is tied to them, cannot be removed."""
        atoms = np.unique(atoms)
        atoms = atoms[atoms != FIXED]
        if len(atoms):
            self._reasons.append((atoms, reason))

    def collapse(self, array: Ids, axis: int, reason: str) -> Ids:
        """Tie all atoms along an axis, which must keep its length, and return the atoms of the others."""
        first = array.take([0], axis)
        self.tie(first, array, reason)
        collapsed: Ids = first.squeeze(axis)
        return collapsed

    def remember_joint(self, array: Ids, reason: str) -> None:
        """Note an array over several axes: what stays of it must be a rectangle."""
        self._joints.append((array, reason))

    def defer(self, joint: Ids, other: Ids, reason: str) -> None:
        """Note that `other` runs along some axes of `joint`, to be settled once the hard couplings are known."""
        self._broadcasts.append(Broadcast(joint, other, reason))

    def components(self) -> Components:
        """Settle what was deferred and return the components.

        Hard couplings come first. An axis of a joint array along which all atoms are one component by then is *rigid*:
        what runs along it alone keeps its length. So is one that meets what cannot be removed at all. Otherwise the
        first meeting decides. What is still free keeps its longest axis free, since that leaves the finest groups.
        """
        for broadcast in self._broadcasts:
            self.allowance.check(broadcast.reason)
            self._settle_broadcast(broadcast)
        for joint, reason in self._joints:
            self.allowance.check(reason)
            self._settle_joint(joint, reason)
        found = self._find(np.arange(self.count, dtype=np.int64))
        self._parent = found.copy()
        reasons: dict[int, str] = {}
        for atoms, reason in self._reasons:
            for component in np.unique(found[atoms]).tolist():
                reasons.setdefault(component, reason)
        return Components(found, reasons)

    def _find(self, atoms: Ids) -> Ids:
        """Return the component of each atom as far as is known: the least atom of it."""
        self._unite()
        found = self._parent[atoms]
        while True:
            above = self._parent[found]
            if bool((above == found).all()):
                return found
            found = above

    def _unite(self) -> None:
        """Join what was tied since the last time; the cost is that of these ties, however many atoms there are."""
        if len(self._parent) < self.count:
            new = np.arange(len(self._parent), self.count, dtype=np.int64)
            self._parent = np.concatenate([self._parent, new])
            self._stays = np.concatenate([self._stays, np.zeros(len(new), dtype=bool)])
        if not self._pairs:
            return
        pairs, self._pairs, self._waiting = self._pairs, [], 0
        first = self._find(np.concatenate([pair[0] for pair in pairs]))
        second = self._find(np.concatenate([pair[1] for pair in pairs]))
        nodes, ends = _numbered(first, second, self.count)
        graph = coo_matrix((np.ones(len(first), dtype=np.int8), ends), shape=(len(nodes),) * 2)
        labels = connected_components(graph, directed=False)[1]
        least = nodes[np.unique(labels, return_index=True)[1]]
        self._parent[nodes] = least[labels]
        stay = np.zeros(len(least), dtype=bool)
        np.logical_or.at(stay, labels, self._stays[nodes])
        self._stays[least] = stay

    def _settle_broadcast(self, broadcast: Broadcast) -> None:
        joint, other = broadcast.joint, broadcast.other
        if joint.size == 0:
            return
        roots = self._find(joint)
        rigid = [axis for axis in range(joint.ndim) if joint.shape[axis] > 1 and _is_constant(roots, axis)]
        along = [axis for axis in range(joint.ndim) if other.shape[axis] > 1]
        if len(along) == 1 and self._are_staying(other):
            self.collapse(joint, along[0], broadcast.reason)  # the axis keeps its length; the others may lose elements
            return
        if any(axis in rigid for axis in along):
            for axis in (axis for axis in along if axis in rigid):
                self.tie(other.take([0], axis), other, broadcast.reason)
                other = other.take([0], axis)
            if all(length == 1 for length in other.shape):
                self.freeze(broadcast.other, broadcast.reason)
                return
        self.tie(joint, other, broadcast.reason)

    def _are_staying(self, atoms: Ids) -> bool:
        """Tell whether all of them are in components that cannot be removed, by what was frozen so far."""
        found = self._find(atoms)
        if self._frozen < len(self._reasons):
            fresh = [frozen for frozen, _ in self._reasons[self._frozen :]]
            self._stays[self._find(np.concatenate(fresh))] = True
            self._frozen = len(self._reasons)
        return bool(self._stays[found].all())

    def _settle_joint(self, joint: Ids, reason: str) -> None:
        roots = self._find(joint)
        free = [axis for axis in range(joint.ndim) if joint.shape[axis] > 1 and not _is_constant(roots, axis)]
        if len(free) < 2:
            return
        kept = max(free, key=lambda axis: joint.shape[axis])
        for axis in free:
            if axis != kept:
                self.tie(joint.take([0], axis), joint, reason)


@dataclass(frozen=True)
class Components:
    """Which atoms go together.

    Attributes
    ----------
    root
        Atom -> the component that it belongs to.
    reasons
        Component -> why it cannot be removed; free ones are missing.
    """

    root: Ids
    reasons: dict[int, str]


def _numbered(first: Ids, second: Ids, count: int) -> tuple[Ids, tuple[Ids, Ids]]:
    """Return the distinct numbers of two arrays, all below `count`, and both arrays as places in them."""
    if len(first) < count // 50:
        nodes, places = np.unique(np.concatenate([first, second]), return_inverse=True)
        return nodes, (places[: len(first)], places[len(first) :])
    used = np.zeros(count, dtype=bool)
    used[first] = used[second] = True
    order = np.cumsum(used) - 1
    return np.flatnonzero(used), (order[first], order[second])


def _is_constant(array: Ids, axis: int) -> bool:
    return bool((array == array.take([0], axis)).all())
