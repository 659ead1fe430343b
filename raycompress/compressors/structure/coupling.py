"""Reduces the channels that an engine chose, layer by layer, to those that all coupled layers can lose."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from raycompress.catalog import CompressorEntry
from raycompress.compressors.engine import PruningDecision
from raycompress.compressors.structure.graph import ChannelGraph, CoupledLayer
from raycompress.compressors.targets.torch import Target
from raycompress.errors import CompressionError


@dataclass(frozen=True)
class Removal:
    """What goes from the whole model: the engine's decision, reduced to what all coupled layers agree on.

    Not a group: it names channels of the layers of the config_list alone, across all groups.

    Attributes
    ----------
    channels
        Target layer -> output channels to remove, in ascending order; may be empty.
    of
        Target layer -> number of output channels that it had.
    """

    channels: dict[str, tuple[int, ...]]
    of: dict[str, int]

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return layer -> (removed, of)."""
        return {name: (len(channels), self.of[name]) for name, channels in self.channels.items()}


def settle(
    graph: ChannelGraph, choice: PruningDecision, targets: Mapping[str, Target], compressor: CompressorEntry
) -> Removal:
    """Return the channels that are removed.

    A channel is removed when every layer that it is coupled to, by an addition for instance, chose its own coupled
    channel: every convolution and linear layer, or where BatchNorms are pruned every BatchNorm. A layer that only
    passes channels on, a depthwise convolution, follows the layer before it where that one is a target as well.

    Raises
    ------
    CompressionError
        A target is the model's output, or a layer that was asked to lose channels loses none.
    """
    wanted = {name: frozenset(choice.channels.get(name, ())) for name in targets}
    producers = frozenset(graph.producers())
    removal: dict[str, set[int]] = {name: set() for name in targets}
    blocked: dict[str, set[str]] = {name: set() for name in targets}
    for name in targets:
        if name not in graph:
            raise CompressionError(
                f'"{name}" takes no part in the forward pass',
                where="config_list",
                fix="leave it out of the config_list",
            )
        if wanted[name] <= removal[name]:
            continue  # nothing, or what its partners in a group that was agreed on lose as well
        members = graph.members(name, sorted(wanted[name]))
        of_kind = _norms(members, graph) if graph.is_norm(name) else producers
        deciders = _deciders(name, [member for member in members if member.name in of_kind], targets)
        if deciders is None:
            continue
        agreed, blocked[name] = _agreed(name, wanted, members, deciders)
        for member in graph.members(name, sorted(agreed)) if agreed else ():
            if member.name in removal:
                removal[member.name] |= {own for _, own in member.pairs}
    settled = Removal(
        {name: tuple(sorted(channels)) for name, channels in removal.items()},
        {name: graph.channels(name) for name in targets},
    )
    _check(settled, choice, targets, blocked, compressor)
    _check_rounded(settled, choice, targets, compressor)
    return settled


def _norms(members: list[CoupledLayer], graph: ChannelGraph) -> frozenset[str]:
    return frozenset(member.name for member in members if member.name and graph.is_norm(member.name))


def _deciders(name: str, members: list[CoupledLayer], targets: Mapping[str, Target]) -> list[CoupledLayer] | None:
    """Return those of `members` that must agree, or None where `name` follows a target that is among them."""
    alike = [member for member in members if member.pairs]
    leaders = [member for member in alike if not member.follows]
    if any(member.name == name and not member.follows for member in alike):
        return leaders
    if any(member.name in targets for member in leaders):
        return None
    return [member for member in alike if member.name in targets]


def _agreed(
    name: str, wanted: Mapping[str, frozenset[int]], members: list[CoupledLayer], deciders: list[CoupledLayer]
) -> tuple[set[int], set[str]]:
    """Return the channels of `name` that all deciders chose, and the layers or reasons that kept the others."""
    refused: set[int] = set()
    blockers: set[str] = set()
    for member in members:
        if member.fixed:
            refused |= {root for root, _ in member.pairs}
            blockers.add(member.fixed)
    for member in deciders:
        against = {root for root, own in member.pairs if own not in wanted.get(member.name, frozenset())}
        if against:
            refused |= against
            blockers.add(f'"{member.name}"')
    return set(wanted[name]) - refused, blockers


def _check(
    removal: Removal,
    choice: PruningDecision,
    targets: Mapping[str, Target],
    blocked: Mapping[str, set[str]],
    compressor: CompressorEntry,
) -> None:
    for name, target in targets.items():
        fixed = sorted(reason for reason in blocked[name] if not reason.startswith('"'))
        if fixed and not removal.channels[name]:
            raise CompressionError(
                f'"{name}" cannot be pruned: {fixed[0]}',
                where=f"config_list[{target.entry}]",
                fix=f"exclude it: {exclusion([name])}",
            )
    if choice.asked:
        empty = [name for name in targets if choice.asked.get(name, 0) >= 1 and not removal.channels[name]]
    else:
        entries = {target.entry for target in targets.values()}
        active = {targets[name].entry for name, channels in removal.channels.items() if channels}
        chosen = {targets[name].entry for name, channels in choice.channels.items() if channels}
        empty = [name for name in targets if targets[name].entry in (entries & chosen) - active]
    for name in empty:
        asked = choice.asked.get(name, len(choice.channels.get(name, ())))
        of = removal.of[name]
        lost = (
            f"can lose none of its {of} channels"
            if asked == of
            else f"was to lose {asked} of {of} channels and loses none"
        )
        raise CompressionError(
            f'"{name}" {lost}: {_why(name, choice, blocked)}',
            where=f"config_list[{targets[name].entry}]",
            fix=_fix(name, compressor),
        )


def _check_rounded(
    removal: Removal, choice: PruningDecision, targets: Mapping[str, Target], compressor: CompressorEntry
) -> None:
    """Raise CompressionError where coupled layers chose different channels, so that no multiple of round_to stays."""
    for name, channels in removal.channels.items():
        left = removal.of[name] - len(channels)
        if channels and left % choice.round_to:
            raise CompressionError(
                f'"{name}" keeps {left} of {removal.of[name]} channels, no multiple of round_to, {choice.round_to}: '
                "layers that are tied chose other ones, or weights are alike",
                where=f"config_list[{targets[name].entry}]",
                fix=_fix(name, compressor),
            )


def exclusion(names: Iterable[str]) -> str:
    """Return the text of a fix that excludes layers."""
    return f"add {json.dumps({'op_names': list(names), 'exclude': True})} to the config_list"


def _fix(name: str, compressor: CompressorEntry) -> str:
    together = 'prune tied layers together: "expand_op_names": "dependency" in the entry that names them all'
    if compressor.argument("dependency_aware") is not None:
        together += ", and dependency_aware=True with dummy_input= in create_compressor"
    if compressor.instead:
        together += f'; "{compressor.instead}" does so for layers of all types'
    return f"{together}; or {exclusion([name])}"


def _why(name: str, choice: PruningDecision, blocked: Mapping[str, set[str]]) -> str:
    partners = sorted(blocker for blocker in blocked[name] if blocker.startswith('"') and blocker != f'"{name}"')
    if partners:
        return f"they are tied to {', '.join(partners)}, which keep or choose other channels"
    if not choice.channels.get(name):
        return "the compressor found none that all layers tied to it could lose"
    return "they follow a layer that keeps its channels"
