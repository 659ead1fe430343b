"""The channel groups that Torch-Pruning's methods rank, with the sparsity that the config_list asks of each.

Everything that would keep a group from being pruned is found here, before anything is ranked or trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycompress.catalog.rounding import rounded
from raycompress.compressors.structure.coupling import exclusion, without_whole_layers
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.compressors.structure.groups import group_of
from raycompress.compressors.targets.torch import Target
from raycompress.errors import CompressionError
from raycompress.model.groups import Channel, ChannelGroup


@dataclass(frozen=True)
class GroupTarget:
    """A group of coupled channels, and what the config_list asks of it.

    Attributes
    ----------
    group
        The group; its root is a target.
    layers
        The layers of the group that the config_list has to name: those that compute the channels (for ``bn_scale``:
        the BatchNorms that weigh them).
    entry
        Index of the config_list entry that rules it: of those of its layers, the one that asks for least.
    sparsity
        Share of the blocks to remove.
    round_to
        The number of blocks that stay is a multiple of it.
    """

    group: ChannelGroup
    layers: tuple[str, ...]
    entry: int
    sparsity: float
    round_to: int

    @property
    def name(self) -> str:
        """The root of the group."""
        return self.group.root


def find_group_targets(
    graph: ChannelGraph, targets: Mapping[str, Target], norms: bool, round_to: int
) -> list[GroupTarget]:
    """Return the groups that the targets make up, in the order of the targets; those of sparsity 0 are left out.

    Parameters
    ----------
    norms
        Whether the targets are BatchNorm layers, not the layers before them.
    round_to
        What the number of channels that stay should be a multiple of.

    Raises
    ------
    CompressionError
        A target is not part of the model's forward pass, or makes its outputs; a layer that a target is coupled to is
        no target; a layer has too few channels to lose any.
    """
    targets = without_whole_layers(graph, targets)
    unused = [name for name in targets if name not in graph]
    if unused:
        raise _refused(unused, targets, "takes no part in the forward pass")
    covered: set[Channel] = set()
    found: list[GroupTarget] = []
    fixed: dict[str, list[str]] = {}
    for name in targets:
        free = [channel for channel in range(graph.channels(name)) if (name, channel) not in covered]
        if not free:
            continue
        group = group_of(graph, name, free)
        if group.fixed:
            fixed.setdefault(group.fixed, []).append(name)
            continue
        covered.update(channel for block in group.blocks for channel in block)
        layers = tuple(norm for norm in group.norms if norm not in group.followers) if norms else group.layers
        ruling = _ruling(name, layers or (name,), targets)
        if ruling.sparsity > 0:
            multiple = group.multiple(round_to)
            found.append(GroupTarget(group, layers or (name,), ruling.entry, ruling.sparsity, multiple))
            _need_some(found[-1], round_to)
    for reason, names in fixed.items():
        raise _refused(names, targets, f"cannot be pruned: {reason}")
    return found


def _ruling(name: str, layers: Sequence[str], targets: Mapping[str, Target]) -> Target:
    """Return the target that asks for least of the layers of the group that `name` is in; all must be targets."""
    missing = [layer for layer in layers if layer not in targets]
    if not missing:
        return min((targets[layer] for layer in layers), key=lambda target: target.sparsity)
    named = [layer for layer in layers if layer in targets] or [name]
    first = targets[named[0]]
    entry = {"sparsity": first.sparsity, "op_names": missing}
    what = (
        f"the channels of {_listed(named)} are tied to those of {_listed(missing)}, which keep theirs: nothing could "
        "be removed"
    )
    raise CompressionError(
        what,
        where=f"config_list[{first.entry}]",
        fix=f"add {json.dumps(entry)} to the config_list, or leave the group out: {exclusion(named)}",
    )


def _need_some(target: GroupTarget, round_to: int) -> None:
    group = target.group
    if rounded(0, group.size, target.round_to) < group.size:
        return
    width = len(group.root_blocks[0])
    if target.round_to == 1:
        what = f'"{target.name}" has one channel, or one head of attention, which cannot go'
        fix = ""
    else:
        count = f"{group.size} channels" + (f" in each of {width} groups or heads" if width > 1 else "")
        what = f'"{target.name}" can lose nothing: it has {count}, and what stays is a multiple of round_to, {round_to}'
        fix = f'write "arguments": {{"round_to": {max(1, group.size // 4)}}}, or '
    where = f"config_list[{target.entry}]"
    raise CompressionError(what, where=where, fix=f"{fix}exclude it: {exclusion(target.layers)}")


def _refused(names: list[str], targets: Mapping[str, Target], why: str) -> CompressionError:
    return CompressionError(
        f"{_listed(names)} {why}",
        where=f"config_list[{targets[names[0]].entry}]",
        fix=f"exclude {'them' if len(names) > 1 else 'it'}: {exclusion(names)}",
    )


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(f'"{name}"' for name in names)
