"""Reduces the channels that an engine chose, layer by layer, to those that all coupled layers can lose."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from raycompress.catalog import CompressorEntry
from raycompress.compressors.engine import PruningDecision
from raycompress.compressors.structure.graph import OUTPUTS, ChannelGraph
from raycompress.compressors.targets.torch import Target
from raycompress.errors import CompressionError
from raycompress.text import join_names

if TYPE_CHECKING:
    from raycompress.compressors.structure.axes.atoms import Ids


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
    whole
        Layer that ``default`` matches and that can lose no channel -> why.
    notes
        Of the engine's decision.
    """

    channels: dict[str, tuple[int, ...]]
    of: dict[str, int]
    whole: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return layer -> (removed, of)."""
        return {name: (len(channels), self.of[name]) for name, channels in self.channels.items()}


@dataclass(frozen=True)
class SettledDecision(PruningDecision):
    """A decision that was settled in another process: the trial's before it was lost, or its first worker's.

    Attributes
    ----------
    of
        As in `Removal`.
    """

    of: Mapping[str, int] = field(default_factory=dict)

    def removal(self, graph: ChannelGraph) -> Removal:
        """Return what goes; CompressionError where the model is another one than it was then."""
        for name, count in self.of.items():
            if name not in graph or graph.channels(name) != count:
                raise self.misfit(name)
        return Removal(dict(self.channels), dict(self.of), self.spared, tuple(self.notes))

    @staticmethod
    def misfit(name: str) -> CompressionError:
        """Return the error for a layer that is not what it was."""
        return CompressionError(
            f'what goes was decided for another model: "{name}" is not the same in the trial\'s checkpoint, or in its '
            "first worker",
            where="compress",
            fix="build the model from the trial's configuration alone, so that it is the same each time",
        )


def settle(
    graph: ChannelGraph, choice: PruningDecision, targets: Mapping[str, Target], compressor: CompressorEntry
) -> Removal:
    """Return the channels that are removed.

    A channel is removed when every layer that it is coupled to, by an addition for instance, chose its own coupled
    channel: every convolution and linear layer, or where BatchNorms are pruned every BatchNorm. A layer that only
    passes channels on, a depthwise convolution, follows the layer before it where that one is a target as well. Where
    channels of one layer go together, as heads do, as many whole blocks go as there were channels chosen for.

    A layer that ``default`` matches and that loses none of the channels that were chosen, for one of these reasons,
    stays whole where others lose some: `Removal.whole` says why.

    Raises
    ------
    CompressionError
        A target is the model's output, or a layer that was asked to lose channels loses none.
    """
    if isinstance(choice, SettledDecision):
        return choice.removal(graph)
    every, targets = targets, without_whole_layers(graph, targets)
    for name in targets:
        if name not in graph:
            raise CompressionError(
                f'"{name}" takes no part in the forward pass',
                where="config_list",
                fix="leave it out of the config_list",
            )
    wanted = {name: whole_blocks(graph, name, choice.channels.get(name, ())) for name in targets}
    touched = _joined(components for components in wanted.values())
    refusals = _refusals(graph, touched, wanted, targets)
    refused = _joined(refusals.values())
    agreed = np.setdiff1d(touched[~graph.fixed(touched)], refused)
    removal = {name: np.flatnonzero(np.isin(graph.components(name), agreed)) for name in targets}
    channels = {name: tuple(gone.tolist()) for name, gone in removal.items()}
    blocked = {
        name: {
            *(f'"{other}"' for other, components in refusals.items() if np.isin(components, wanted[name]).any()),
            *graph.reasons(wanted[name]),
        }
        for name in targets
    }
    left = _left_whole(channels, choice, targets, blocked, compressor)
    whole = {name: graph.whole_layers.get(name, OUTPUTS) for name in every if name not in targets}
    of = {name: graph.channels(name) for name in targets}
    settled = Removal(channels, of, whole | dict(choice.spared) | left, choice.notes)
    strict = {name: target for name, target in targets.items() if name not in left}
    _check(settled, choice, strict, blocked, compressor)
    _check_rounded(settled, choice, strict, compressor)
    return settled


def _left_whole(
    channels: Mapping[str, tuple[int, ...]],
    choice: PruningDecision,
    targets: Mapping[str, Target],
    blocked: Mapping[str, set[str]],
    compressor: CompressorEntry,
) -> dict[str, str]:
    """Return the layers that ``default`` matches and that lose nothing though they were asked to, and why."""
    if not any(channels.values()):
        return {}
    tied = "layers that it is tied to keep their channels, or choose other ones"
    if compressor.argument("dependency_aware") is not None:
        tied += "; with dependency_aware=True they choose the same ones"
    found = {}
    for name, target in targets.items():
        fixed = sorted(reason for reason in blocked[name] if not reason.startswith('"'))
        if target.by_default and not channels[name] and (fixed or choice.asked.get(name, 0) >= 1):
            found[name] = fixed[0] if fixed else tied
    return found


def without_whole_layers(graph: ChannelGraph, targets: Mapping[str, Target]) -> Mapping[str, Target]:
    """Return the targets without those that ``default`` does not stand for: layers that can lose no channel.

    Where nothing would be left, all are returned: there is no model of which nothing was to be compressed.
    """
    spared = {*graph.output_layers(), *graph.whole_layers}
    left = {name: target for name, target in targets.items() if not (target.by_default and name in spared)}
    return left or targets


def whole_blocks(graph: ChannelGraph, name: str, channels: Iterable[int]) -> Ids:
    """Return the components of a layer that a choice of its channels is for.

    Where channels go together in blocks and the choice has parts of some, the blocks with the largest chosen shares
    are removed, as many as the chosen channels are enough for.
    """
    every = graph.components(name)
    components, sizes = np.unique(every, return_counts=True)
    chosen = np.zeros(len(every), dtype=bool)
    chosen[np.fromiter(channels, dtype=np.int64)] = True
    counts = np.zeros(len(components), dtype=np.int64)
    np.add.at(counts, np.searchsorted(components, every[chosen]), 1)
    if (counts[counts > 0] == sizes[counts > 0]).all():
        found: Ids = components[counts > 0]
        return found
    free = ~graph.fixed(components)
    order = np.argsort(-counts / sizes, kind="stable")
    order = order[free[order] & (counts[order] > 0)]
    fitting = np.cumsum(sizes[order]) <= int(chosen.sum())
    partly: Ids = components[order[fitting]]
    return partly


def first_blocks(graph: ChannelGraph, name: str, count: int) -> tuple[int, ...]:
    """Return the channels of a layer's first free blocks: about `count` of them, and those of one block at least."""
    every = graph.components(name)
    free = every[~graph.fixed(every)]
    order = list(dict.fromkeys(free.tolist()))
    sizes = np.cumsum([int((every == component).sum()) for component in order])
    fitting = max(1, int(np.searchsorted(sizes, count, "right"))) if order else 0
    fitting = min(fitting, len(order) - 1)
    return tuple(np.flatnonzero(np.isin(every, order[: max(0, fitting)])).tolist())


def _refusals(
    graph: ChannelGraph, touched: Ids, wanted: Mapping[str, Ids], targets: Mapping[str, Target]
) -> dict[str, Ids]:
    """Return layer -> the components that it keeps, of those that some target wants to lose."""
    norms = any(graph.is_norm(name) for name in targets)
    of_kind = graph.is_norm if norms else graph.is_producer
    members = [member for member in graph.members(touched) if of_kind(member.name)]
    led = _joined(
        member.components for member in members if not member.follows and member.name in targets
    )  # by a target: there, what only passes channels on is not asked
    refusals = {}
    for member in members:
        if member.follows and member.name not in targets:
            continue
        asked = (np.setdiff1d if member.follows else np.intersect1d)(member.components, led)
        kept = np.setdiff1d(asked, wanted.get(member.name, np.empty(0, dtype=np.int64)))
        if len(kept):
            refusals[member.name] = kept
    return refusals


def _joined(arrays: Iterable[Ids]) -> Ids:
    found: Ids = np.unique(np.concatenate([*arrays, np.empty(0, dtype=np.int64)]))
    return found


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
            f'"{name}" {lost}: {_why(name, choice, targets, blocked)}',
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


def _why(name: str, choice: PruningDecision, targets: Mapping[str, Target], blocked: Mapping[str, set[str]]) -> str:
    partners = sorted(blocker for blocker in blocked[name] if blocker.startswith('"') and blocker != f'"{name}"')
    if partners:
        keeping = [partner for partner in partners if partner.strip('"') not in targets]
        if keeping:
            return f"they are tied to {join_names(keeping)}, which keep theirs"
        return f"they are tied to {join_names(partners)}, which keep or choose other channels"
    if not choice.channels.get(name):
        return "the compressor found none that all layers tied to it could lose"
    return "they follow a layer that keeps its channels"
