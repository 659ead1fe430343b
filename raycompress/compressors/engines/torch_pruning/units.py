"""What Torch-Pruning's methods choose from: groups of tied layers, and the channels in them that go together.

Everything that would keep a group from being pruned is found here, before anything is ranked or trained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from raycompress.catalog.rounding import rounded
from raycompress.compressors.structure.coupling import exclusion
from raycompress.compressors.structure.graph import ChannelGraph, Member
from raycompress.compressors.structure.groups import grouping
from raycompress.compressors.targets.torch import Target
from raycompress.errors import CompressionError


@dataclass(frozen=True)
class Unit:
    """Tied layers that lose their channels together.

    Attributes
    ----------
    name
        The layer that the group is asked of.
    layers
        All layers of the group that make channels (for ``bn_scale``: that weigh them).
    entry
        Index of the config_list entry that rules it: of those of its layers, the one that asks for least.
    sparsity
        Share of the channels to remove.
    blocks
        Channels of `name` that only go together: one each, or those of an attention head, or one of each group of a
        GroupNorm, or one of each half of a gated unit.
    round_to
        The number of blocks that stay is a multiple of it.
    """

    name: str
    layers: tuple[str, ...]
    entry: int
    sparsity: float
    blocks: tuple[tuple[int, ...], ...]
    round_to: int


def find_units(graph: ChannelGraph, targets: Mapping[str, Target], norms: bool, round_to: int) -> list[Unit]:
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
        A target is not part of the model's forward pass, or makes its outputs; a layer that a target is tied to is no
        target; a layer has too few channels to lose any.
    """
    unused = [name for name in targets if name not in graph]
    if unused:
        raise _refused(unused, targets, "takes no part in the forward pass")
    producers = set(graph.producers())
    covered: dict[str, set[int]] = {name: set() for name in targets}
    units: list[Unit] = []
    fixed: dict[str, list[str]] = {}
    for name in targets:
        free = [channel for channel in range(graph.channels(name)) if channel not in covered[name]]
        members = graph.members(name, free) if free else []
        leaders = [
            member.name
            for member in members
            if not member.follows
            and (bool(member.name) and graph.is_norm(member.name) if norms else member.name in producers)
        ]
        for member in members:
            if member.name in covered and not member.fixed:
                covered[member.name].update(own for _, own in member.pairs)
        reasons = [member.fixed for member in members if member.fixed]
        if reasons:
            fixed.setdefault(reasons[0], []).append(name)
        elif members:
            layers = leaders or [name]
            ruling = _ruling(name, layers, targets)
            if ruling.sparsity > 0:
                blocks, multiple = _blocks(graph, name, free, members, round_to)
                units.append(Unit(name, tuple(layers), ruling.entry, ruling.sparsity, blocks, multiple))
                _need_some(units[-1], round_to)
    for reason, names in fixed.items():
        raise _refused(names, targets, f"cannot be pruned: {reason}")
    return units


def _blocks(
    graph: ChannelGraph, name: str, free: list[int], members: Iterable[Member], round_to: int
) -> tuple[tuple[tuple[int, ...], ...], int]:
    """Return the channels that go together, and what the number of such blocks should be a multiple of."""
    blocks, divides = grouping(graph, name, free, members)
    return blocks, round_to // math.gcd(divides, round_to) if divides else 1


def _ruling(name: str, layers: list[str], targets: Mapping[str, Target]) -> Target:
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


def _need_some(unit: Unit, round_to: int) -> None:
    if rounded(0, len(unit.blocks), unit.round_to) < len(unit.blocks):
        return
    width = len(unit.blocks[0])
    if unit.round_to == 1:
        what = f'"{unit.name}" has one channel, or one head of attention, which cannot go'
        fix = ""
    else:
        count = f"{len(unit.blocks)} channels" + (f" in each of {width} groups or heads" if width > 1 else "")
        what = f'"{unit.name}" can lose nothing: it has {count}, and what stays is a multiple of round_to, {round_to}'
        fix = f'write "arguments": {{"round_to": {max(1, len(unit.blocks) // 4)}}}, or '
    raise CompressionError(what, where=f"config_list[{unit.entry}]", fix=f"{fix}exclude it: {exclusion(unit.layers)}")


def _refused(names: list[str], targets: Mapping[str, Target], why: str) -> CompressionError:
    return CompressionError(
        f"{_listed(names)} {why}",
        where=f"config_list[{targets[names[0]].entry}]",
        fix=f"exclude {'them' if len(names) > 1 else 'it'}: {exclusion(names)}",
    )


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(f'"{name}"' for name in names)
