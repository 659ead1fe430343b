"""Parts of a group of channels that something reads by themselves, of which one channel has to stay.

A layer's output may be split, and its halves go to different layers: they are ranked together, and none of the halves
may be left empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from raycompress.compressors.engines.torch_pruning.group_targets import GroupTarget
from raycompress.compressors.structure.graph import ChannelGraph


class Parts:
    """The parts of groups.

    Parameters
    ----------
    graph, targets
        The groups, and the graph that they are of.
    """

    def __init__(self, graph: ChannelGraph, targets: Sequence[GroupTarget]) -> None:
        root = graph.couplings.components.root
        owner, block_of = np.full(len(root), -1, dtype=np.int64), np.zeros(len(root), dtype=np.int64)
        for place, target in enumerate(targets):
            firsts = graph.components(target.name)[[block[0] for block in target.group.root_blocks]]
            known = firsts < len(root)
            owner[firsts[known]], block_of[firsts[known]] = place, np.flatnonzero(known)
        found: dict[int, set[frozenset[int]]] = {}
        for axis in graph.couplings.lengths():
            if len(axis) and axis.all():  # what is fixed stays anyway
                components = np.unique(root[axis])
                first = int(owner[components[0]])
                if first >= 0 and (owner[components] == first).all() and len(components) < targets[first].group.size:
                    found.setdefault(first, set()).add(frozenset(block_of[components].tolist()))
        self._of: Mapping[str, set[frozenset[int]]] = {targets[place].name: parts for place, parts in found.items()}

    def least(self, name: str, scores: Mapping[int, float], count: int) -> list[int]:
        """Return the `count` blocks of least score of a group, without the last one of any of its parts."""
        parts = [part & scores.keys() for part in self._of.get(name, ())]
        left = [len(part) for part in parts]
        chosen: list[int] = []
        for block in _ascending(scores):
            inside = [place for place, part in enumerate(parts) if block in part]
            if len(chosen) < count and all(left[place] > 1 for place in inside):
                chosen.append(block)
                for place in inside:
                    left[place] -= 1
        return chosen


def _ascending(scores: Mapping[int, float]) -> Iterable[int]:
    return (block for block, _ in sorted(scores.items(), key=lambda scored: scored[1]))
