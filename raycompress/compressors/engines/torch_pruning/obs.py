"""group_obs: channels go in the order that leaves least error in the layers that read them, once these are refitted.

Hassibi and Stork, Second Order Derivatives for Network Pruning: Optimal Brain Surgeon, NeurIPS 1992; layer by layer
Frantar and Alistarh, Optimal Brain Compression, NeurIPS 2022; structured Kurtic et al., ZipLM, NeurIPS 2023. The loss
is the squared error of a layer's outputs, as in ThiNet (Luo et al., ICCV 2017).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.compressors.compensation.equations import NormalEquations
from raycompress.compressors.compensation.readers import LARGEST, ROWS, Reader, stages, why_not, with_bias
from raycompress.compressors.compensation.watching import gather, in_order
from raycompress.compressors.engine import PruningDecision, Request
from raycompress.compressors.engines.torch_pruning.calibrated import calibration_inputs
from raycompress.compressors.engines.torch_pruning.elimination import Fit, removal_order
from raycompress.compressors.engines.torch_pruning.engine import check_arguments, groups_of, removed_by, when_known
from raycompress.compressors.engines.torch_pruning.group_targets import GroupTarget
from raycompress.compressors.engines.torch_pruning.noise import noise_sensitivities
from raycompress.compressors.engines.torch_pruning.ranking import block_scores
from raycompress.compressors.engines.torch_pruning.scored_layers import ScoredLayer, scored_layers
from raycompress.compressors.layer_kinds import is_weighted, output_dim
from raycompress.compressors.measure.sizes import flops
from raycompress.compressors.structure.cut import Cut
from raycompress.compressors.structure.graph import clean_copy
from raycompress.text import join_names

RIDGE = 1e-2
"""Penalty on what a refit changes, relative to the mean of the Gram matrix's diagonal."""


class OptimalBrainSurgeon:
    """group_obs.

    A survey asks `orders` of an engine that has them for the channels that its trials will remove.
    """

    @staticmethod
    def orders(
        dense: nn.Module, targets: Sequence[GroupTarget], inputs: Sequence[Example], *, across: bool
    ) -> RemovalOrders:
        """Return the orders in which the channels of groups go."""
        return RemovalOrders(dense, targets, inputs, across=across)

    def choose(self, request: Request) -> PruningDecision:
        """Return what goes, by the weights as they are now and the inputs of ``calibration``; see `Engine`."""
        check_arguments(request.arguments)
        return when_known(request, lambda example: _chosen(request, example))


def _chosen(request: Request, example: Example) -> PruningDecision:
    model = clean_copy(request.model)
    inputs = calibration_inputs(model, request.arguments["calibration"], request.arguments["samples"])
    groups, _ = groups_of(request, example)
    across = bool(request.arguments["global"] or request.arguments["isomorphic"])
    orders = RemovalOrders(clean_copy(model), groups, inputs, across=across)
    decision = removed_by(request, example, model, orders, orders.renew)
    return replace(decision, notes=orders.notes())


@dataclass(frozen=True)
class _Group:
    """A group of channels with the layers that read them and whose inputs can be watched."""

    target: GroupTarget
    layers: tuple[ScoredLayer, ...]
    readers: tuple[Reader, ...]


class RemovalOrders:
    """The scores of the blocks of channel groups by the error that their removal leaves, in the order in which they go.

    A block's score is the squared error that its removal adds after those before it are gone, in units of the variance
    of what the layers put out that read it, summed over these; it never falls along the order.

    Scores that are compared across groups count what an error of a layer changes in the model's outputs
    (`noise_sensitivities`), by the multiply-adds that a block saves. They are divided by the share of the group that is
    left, since small errors of many layers add, and a large one of a single layer ends the model.

    Parameters
    ----------
    dense
        The model whose layers' outputs are to stay what they are.
    targets
        The groups.
    inputs
        Inputs of the model.
    across
        Whether scores are compared across groups.
    """

    def __init__(
        self, dense: nn.Module, targets: Sequence[GroupTarget], inputs: Sequence[Example], *, across: bool = False
    ) -> None:
        self._dense, self._targets, self._inputs, self._across = dense, targets, inputs, across
        self._scores: dict[str, Mapping[int, float]] = {}
        self._sensitivities: dict[str, float] = {}
        self._unseen: dict[str, None] = {}
        self._is_dense = True

    def __call__(self, cut: Cut, model: nn.Module, target: GroupTarget) -> Mapping[int, float]:
        """Return the score of each block of a group that is left; see `ranking.BlockScores`."""
        errors = self.errors(cut, model, target)
        if not self._across:
            return errors
        saved = self._saved(cut, target)
        return {block: error / saved for block, error in errors.items()}

    def errors(self, cut: Cut, model: nn.Module, target: GroupTarget) -> Mapping[int, float]:
        """Return what the removal of each block of a group that is left adds, whatever it saves."""
        if not self._scores:
            small = self._dense if self._is_dense else model
            for stage in stages(self._watched(cut, small), self._room):
                self._scores |= self._measured(cut, small, stage)
        return self._scores[target.name]

    def renew(self) -> None:
        """Measure again before the next answer: the model has changed."""
        self._scores, self._is_dense = {}, False

    def notes(self) -> tuple[str, ...]:
        """Return what the user should know of the scores."""
        if not self._unseen:
            return ()
        names = join_names(list(self._unseen), 3)
        return (f"group_obs: no layer that reads the channels of {names} can be refitted: they go by group_l1",)

    def _room(self, group: _Group) -> int:
        return sum(reader.inputs(self._dense) ** 2 for reader in group.readers)

    def _watched(self, cut: Cut, model: nn.Module) -> list[_Group]:
        """Return the groups with those readers that can be refitted, as many as their matrices leave room for."""
        found = []
        for target in self._targets:
            listed = scored_layers(cut.graph, target.name, model, cut.remaining(target.name))
            layers = [layer for layer in listed if layer.reads and not why_not(model.get_submodule(layer.name))]
            readers = {layer.name: Reader(layer.name, layer.name) for layer in layers}
            fitting = [one for one in readers.values() if one.inputs(self._dense) <= LARGEST + 1]
            room = sum(one.inputs(self._dense) ** 2 for one in fitting) / (LARGEST + 1) ** 2
            chosen = fitting[:: max(1, math.ceil(room))]
            names = {reader.name for reader in chosen}
            found.append(_Group(target, tuple(one for one in layers if one.name in names), tuple(chosen)))
        return found

    def _measured(self, cut: Cut, small: nn.Module, stage: Sequence[_Group]) -> dict[str, Mapping[int, float]]:
        """Return the scores of some groups."""
        watched = list({reader.name: reader for group in stage for reader in group.readers}.values())
        order = in_order(self._dense, watched, self._inputs[0]) if watched else []
        sums = {reader: NormalEquations() for reader in order}
        most = ROWS // max(8, len(self._inputs))
        for number, batch in enumerate(self._inputs if sums else ()):
            gather(self._dense, small, {}, batch, sums, most, seed=number)
        inverses: dict[str, tuple[Tensor, Tensor]] = {}
        if self._across:
            new = [reader for reader in sums if reader.name not in self._sensitivities]
            self._sensitivities |= noise_sensitivities(self._dense, new, self._inputs[0])
        for reader, equations in sums.items():
            module = small.get_submodule(reader.name)
            solved = _solved(module, equations, bool(reader.norm)) if equations.gram.numel() else None
            if solved is not None:
                inverse, weight = solved
                inverses[reader.name] = inverse, weight * math.sqrt(self._sensitivity(reader.name))
        found: dict[str, Mapping[int, float]] = {}
        for group in stage:
            blocks = _left(cut, group.target)
            fits = [
                Fit(*inverses[layer.name], _places(layer, small.get_submodule(layer.name), blocks))
                for layer in group.layers
                if layer.name in inverses
            ]
            scores = self._ordered(fits, list(blocks)) if fits else self._by_weights(cut, small, group)
            found[group.target.name] = _by_share_left(scores, group.target.group.size) if self._across else scores
        return found

    def _sensitivity(self, name: str) -> float:
        """Return what an error of a layer counts: 1 for all of them where layers are not compared with one another.

        It is the mean of all where it cannot be measured, and where channels go by their weights.
        """
        if not self._across or not self._sensitivities:
            return 1.0
        return self._sensitivities.get(name, fmean(self._sensitivities.values()))

    def _saved(self, cut: Cut, target: GroupTarget) -> float:
        """Return the multiply-adds of the dense model that one block of a group has a share in."""
        layers: dict[str, float] = {}
        for layer in scored_layers(cut.graph, target.name, self._dense, every=True):
            module = self._dense.get_submodule(layer.name)
            if is_weighted(module):
                share = len(layer.idxs) / _width(module, reads=layer.reads)
                layers[layer.name] = max(layers.get(layer.name, 0.0), share)  # depthwise, it is listed twice
        return max(1.0, sum(self._flops.get(name, 0) * share for name, share in layers.items()) / target.group.size)

    @functools.cached_property
    def _flops(self) -> Mapping[str, int]:
        return flops(self._dense, self._inputs[0])

    @staticmethod
    def _ordered(fits: Sequence[Fit], blocks: Sequence[int]) -> dict[int, float]:
        scores, last = {}, 0.0
        for place, cost in removal_order(fits, len(blocks)):
            last = max(cost, math.nextafter(last, math.inf))
            scores[blocks[place]] = last
        return scores

    def _by_weights(self, cut: Cut, model: nn.Module, group: _Group) -> dict[int, float]:
        """Return group_l1's scores, brought to the size of the others: together they are all of a layer's variance."""
        from torch_pruning.pruner.importance import GroupMagnitudeImportance

        self._unseen |= dict.fromkeys(group.target.layers)
        found = block_scores(cut, model, group.target, GroupMagnitudeImportance(p=1))
        total = sum(found.values()) or 1.0
        return {block: score / total * self._sensitivity("") for block, score in found.items()}


def _by_share_left(scores: Mapping[int, float], size: int) -> dict[int, float]:
    """Return each block's score by the share of its group that is left when its turn comes."""
    by_turn = sorted(scores.items(), key=lambda item: item[1])
    return {block: score * size / (len(scores) - turn) for turn, (block, score) in enumerate(by_turn)}


def _left(cut: Cut, target: GroupTarget) -> dict[int, list[int]]:
    """Return the blocks that are left -> the places of their channels among the root's that are left."""
    places = {channel: place for place, channel in enumerate(cut.remaining(target.name))}
    return {
        index: [places[channel] for channel in block]
        for index, block in enumerate(target.group.root_blocks)
        if block[0] in places
    }


def _solved(module: nn.Module, equations: NormalEquations, is_normed: bool) -> tuple[Tensor, Tensor] | None:
    """Return the inverse of the Gram matrix, and the refitted weights, in units of what the outputs vary by.

    That is the standard deviation of all outputs together; with `is_normed`, where a BatchNorm divides each output by
    its own, of each. None where there is no inverse, or nothing that varies.
    """
    gram = equations.gram
    factor, weight = equations.factor(RIDGE), equations.solve(with_bias(module).to(gram), RIDGE)
    rows = float(gram[0, -1, -1])
    varied = (equations.square[0] - (equations.cross[0, -1].square() / rows if rows else 0.0)).clamp_min(0)
    total = varied.sum()
    if factor is None or weight is None or not total > 0:
        return None
    units = varied.clamp_min(1e-6 * float(total)) * len(varied) if is_normed else total
    return torch.cholesky_inverse(factor)[0], weight[0] / units.sqrt()


def _width(module: nn.Module, *, reads: bool) -> int:
    """Return how many inputs (`reads`) or outputs a layer with a weight has."""
    weight, output = module.weight, output_dim(module)
    assert isinstance(weight, Tensor)
    return int(weight.size(1 - output) * getattr(module, "groups", 1)) if reads else int(weight.size(output))


def _places(layer: ScoredLayer, module: nn.Module, blocks: Mapping[int, Sequence[int]]) -> Tensor:
    """Return the places of each block's inputs among those of the layer; see `Fit`."""
    each = math.prod(module.kernel_size) if isinstance(module, nn.modules.conv._ConvNd) else 1
    of_channel = {channel: place for place, block in enumerate(blocks.values()) for channel in block}
    found: list[list[int]] = [[] for _ in blocks]
    for channel, root in zip(layer.idxs, layer.root_idxs, strict=True):
        found[of_channel[root]] += range(channel * each, (channel + 1) * each)
    most = max(map(len, found))
    return torch.tensor([places + [-1] * (most - len(places)) for places in found])
