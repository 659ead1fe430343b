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

    @property
    def is_narrow(self) -> bool:
        """Whether it can lose nothing, since as many blocks have to stay as there are."""
        return rounded(0, self.group.size, self.round_to) >= self.group.size


def find_group_targets(
    graph: ChannelGraph, targets: Mapping[str, Target], norms: bool, round_to: int
) -> tuple[list[GroupTarget], dict[str, str]]:
    """Return the groups that the targets make up, in the order of the targets; those of sparsity 0 are left out.

    With them come the layers that ``default`` matches and that are too narrow to lose any channel, and why: it stands
    for layers that can.

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
            if len(free) == graph.channels(name):  # else the others go with layers before it
                fixed.setdefault(group.fixed, []).append(name)
            continue
        covered.update(channel for block in group.blocks for channel in block)
        layers = tuple(norm for norm in group.norms if norm not in group.followers) if norms else group.layers
        ruling = _ruling(name, layers or (name,), targets)
        if ruling.sparsity > 0:
            multiple = group.multiple(round_to)
            found.append(GroupTarget(group, layers or (name,), ruling.entry, ruling.sparsity, multiple))
    for reason, names in fixed.items():
        raise _refused(names, targets, f"cannot be pruned: {reason}")
    return _without_narrow(found, targets, round_to)


def _without_narrow(
    found: Sequence[GroupTarget], targets: Mapping[str, Target], round_to: int
) -> tuple[list[GroupTarget], dict[str, str]]:
    wide = [target for target in found if not target.is_narrow]
    losing = {layer for target in wide for layer in target.layers}
    spared: dict[str, str] = {}
    for target in found:
        if target.is_narrow and not losing.issuperset(target.layers):
            if not wide or not all(targets[layer].by_default for layer in target.layers):
                raise _too_narrow(target, round_to)
            spared |= dict.fromkeys(target.layers, _width_of(target, round_to))
    return wide, spared


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


def _width_of(target: GroupTarget, round_to: int) -> str:
    """Return why a group is too narrow to lose anything."""
    if target.round_to == 1:
        return "it has one channel, or one head of attention, which cannot go"
    width = len(target.group.root_blocks[0])
    count = f"{target.group.size} channels" + (f" in each of {width} groups or heads" if width > 1 else "")
    return f"it has {count}, and what stays is a multiple of round_to, {round_to}"


def _too_narrow(target: GroupTarget, round_to: int) -> CompressionError:
    fix = f"exclude it: {exclusion(target.layers)}"
    if target.round_to > 1:
        fix = f'write "arguments": {{"round_to": {max(1, target.group.size // 4)}}}, or {fix}'
    return CompressionError(
        f'"{target.name}" can lose nothing: {_width_of(target, round_to)}',
        where=f"config_list[{target.entry}]",
        fix=fix,
    )


def _refused(names: list[str], targets: Mapping[str, Target], why: str) -> CompressionError:
    return CompressionError(
        f"{_listed(names)} {why}",
        where=f"config_list[{targets[names[0]].entry}]",
        fix=f"exclude {'them' if len(names) > 1 else 'it'}: {exclusion(names)}",
    )


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(f'"{name}"' for name in names)
