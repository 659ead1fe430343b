"""Networks pruned group by group to a budget of multiply-adds; for the benchmark of proposers."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_pruning.pruner.importance import GroupMagnitudeImportance

from raycompress.bundle.example import Example
from raycompress.catalog.rounding import removable
from raycompress.compressors.analysis.imitation import STEPS, Imitation
from raycompress.compressors.compensation.compensate import compensate
from raycompress.compressors.engines.torch_pruning.group_targets import GroupTarget, find_group_targets
from raycompress.compressors.engines.torch_pruning.obs import RemovalOrders
from raycompress.compressors.engines.torch_pruning.ranking import BlockScores, Way, block_scores, remove_least
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.structure.cut import Cut
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.compressors.structure.slicing import Slicing
from raycompress.compressors.targets.torch import Target
from raycompress.config.dimension import Dimension
from tests.benchmarks.compression.networks import EPOCHS, NETWORKS, OUTPUTS
from tests.benchmarks.compression.tasks import TASKS

Sample = dict[str, Any]
Counts = tuple[int, ...]
"""Blocks of channels that go, group by group."""

HIGH = 0.9
"""The largest sparsity of a group."""

_AT_ONCE = 128
"""Inputs in a batch of those that are compensated on: small batches cost more than they compute."""
_POINTS = 40
"""Small models by which multiply-adds are fitted: more than a layer has products of two of its groups."""


ACROSS = "group_obs, global"
IMPORTANCES: Mapping[str, Callable[[nn.Module, Sequence[GroupTarget], Sequence[Example]], BlockScores]] = {
    "group_l1": lambda *_: functools.partial(block_scores, importance=GroupMagnitudeImportance(p=1)),
    "group_obs": RemovalOrders,
    ACROSS: functools.partial(RemovalOrders, across=True),
}
"""How channels are ranked, of a dense model, its groups and unlabelled inputs."""


@dataclass(frozen=True)
class Trained:
    """How well a small model does, and the CPU seconds of making, training and measuring it.

    Of one that was trained to the end also what it did before any training, and after one epoch.
    """

    accuracy: float
    cpu_s: float
    before: float = math.nan
    one_epoch: float = math.nan


class Subject:
    """A trained network, its groups of tied channels, and what of them is left at a sample.

    Which channels of a group go first is what `importance` says: the groups' blocks, least first.

    Attributes
    ----------
    inputs
        `CALIBRATION` unlabelled inputs of the first part, for what sees data without training.
    is_refitted
        Whether its trials are compensated: where the importance counts on it.
    """

    FINAL = 6
    CALIBRATION = 512

    def __init__(self, network: str, seed: int, importance: str = "group_l1") -> None:
        self.network, self.seed = network, seed
        self.is_refitted = importance.startswith("group_obs")
        torch.manual_seed(seed)
        self.task, self.dense = TASKS[network](seed), NETWORKS[network]()
        self.task.train(self.dense, EPOCHS[network], seed)
        self.example = Example.from_dummy(self.task.dummy)
        seen = self.task.sample(self.CALIBRATION).split(self.task.BATCH)
        self.inputs = [Example((inputs,), {}) for inputs in seen]
        self._merged = [Example((inputs,), {}) for inputs in torch.cat(seen).split(_AT_ONCE)]
        self._graph = ChannelGraph(self.dense, self.example)
        self.groups = _groups(self._graph, OUTPUTS[network])
        self._rank(importance)
        self.dimensions = tuple(Dimension(target.name, "float", 0.0, HIGH) for target in self.groups)
        self._imitation = Imitation(self.dense, self.inputs)
        self._compensated: dict[Counts, tuple[nn.Module, float]] = {}
        self._trials: dict[tuple[Counts, bool], Trained] = {}
        self._finals: dict[tuple[Counts, bool], Trained] = {}

    def _rank(self, importance: str) -> None:
        scores_of = IMPORTANCES[importance](self.dense, self.groups, self.inputs)
        self._scores = {target.name: scores_of(Cut(self._graph), self.dense, target) for target in self.groups}
        self._order = [sorted(score, key=score.__getitem__) for score in self._scores.values()]

    def ranked_by(self, importance: str) -> Subject:
        """Return the same network, whose channels go in another order."""
        other = copy.copy(self)
        other._rank(importance)
        other.is_refitted = importance.startswith("group_obs")
        other._compensated, other._trials, other._finals = {}, {}, {}
        return other

    def counts(self, sample: Sample) -> Counts:
        """Return how many blocks of each group go."""
        return tuple(removable(target.group.size, sample[target.name]) for target in self.groups)

    def counts_across(self, budget: float) -> Counts:
        """Return how many blocks of each group go with ``global``, by the least share of channels for the budget."""
        low, high = 0.0, 1.0
        while high - low > 1e-3:
            middle = (low + high) / 2
            fits = self.cost(self._across(middle)) <= budget
            low, high = (low, middle) if fits else (middle, high)
        return self.counts(self._across(high))

    def _across(self, sparsity: float) -> Sample:
        targets = [replace(target, sparsity=sparsity) for target in self.groups]
        cut = Cut(self._graph)
        remove_least(
            cut, self.dense, targets, lambda _cut, _model, target: self._scores[target.name], Way(True, False, 1)
        )
        gone = {
            one.name: len(cut.removed(one.name)) / len(one.group.root_blocks[0]) / one.group.size for one in targets
        }
        return {name: min(share, HIGH) for name, share in gone.items()}

    @functools.cached_property
    def error_curves(self) -> dict[str, list[tuple[float, float]]]:
        """Group -> (share that is gone, what that changes in the outputs), by `group_obs`."""
        orders, curves = RemovalOrders(self.dense, self.groups, self.inputs, across=True), {}
        for target in self.groups:
            added = sorted(orders.errors(Cut(self._graph), self.dense, target).values())
            total = itertools.accumulate(added)
            curves[target.name] = [((gone + 1) / len(added), error) for gone, error in enumerate(total)]
        return curves

    def counts_of(self, model: nn.Module) -> Counts:
        """Return how many blocks of each group are gone from a small model."""
        left = [model.get_submodule(target.name).weight for target in self.groups]
        assert all(isinstance(weight, Tensor) for weight in left)
        sizes = [
            len(weight) // len(target.group.root_blocks[0]) for weight, target in zip(left, self.groups, strict=True)
        ]
        return tuple(target.group.size - size for target, size in zip(self.groups, sizes, strict=True))

    def small(self, counts: Counts, compensated: bool = False) -> nn.Module:
        """Return a copy of the dense model without what `counts` says; with the layers that read it refitted.

        What is compensated once, on `CALIBRATION` unlabelled inputs, is kept; each caller has a copy of its own.
        """
        if not compensated:
            return self._cut(counts).small()
        if counts not in self._compensated:
            started = time.thread_time()
            self._compensated[counts] = self._compensate(counts), time.thread_time() - started
        return copy.deepcopy(self._compensated[counts][0])

    def _compensate(self, counts: Counts) -> nn.Module:
        slicing, model = Slicing.of_cut(self._cut(counts)), self.copy()
        compensate(model, slicing, self._merged)
        slicing.apply(model)
        return model

    def _cut(self, counts: Counts) -> Cut:
        removal = {
            target.name: tuple(
                sorted(channel for block in order[:count] for channel in target.group.root_blocks[block])
            )
            for target, order, count in zip(self.groups, self._order, counts, strict=True)
            if count
        }
        return Cut(self._graph, removal)

    def copy(self) -> nn.Module:
        """Return a copy of the dense model."""
        return copy.deepcopy(self.dense)

    def trial(self, counts: Counts, compensated: bool = False) -> Trained:
        """Train for an epoch, and measure on what is there to select by; each candidate once.

        What was compensated before counts with its seconds, since a trial would do it again.
        """
        key = counts, compensated
        if key not in self._trials:
            before = self._compensated[counts][1] if compensated and counts in self._compensated else 0.0
            started = time.thread_time()
            model = self.small(*key)
            self.task.train(model, 1, self.seed)
            accuracy = self.task.accuracy(model, self.task.validation)
            self._trials[key] = Trained(accuracy, time.thread_time() - started + before)
        return self._trials[key]

    def final(self, counts: Counts, compensated: bool = False) -> Trained:
        """Train for long, and measure on what was held out; each candidate once."""
        key = counts, compensated
        if key not in self._finals:
            self._finals[key] = self.finish(self.small(*key))
        return self._finals[key]

    def finish(self, model: nn.Module, epochs: int = FINAL) -> Trained:
        """Train a small model for long, and measure it on what was held out; that is not in the seconds."""
        accuracies, cpu_s = [self.task.accuracy(model, self.task.held_out)], 0.0

        def measured(epoch: int) -> None:
            nonlocal cpu_s, started
            cpu_s += time.thread_time() - started
            if epoch in (1, epochs):
                accuracies.append(self.task.accuracy(model, self.task.held_out))
            started = time.thread_time()

        started = time.thread_time()
        self.task.train(model, epochs, self.seed, after=measured)
        return Trained(accuracies[-1], cpu_s, accuracies[0], accuracies[1])

    def cheaply(self, counts: Counts, steps: int = STEPS) -> Trained:
        """Measure without a trial: after compensation and `steps` towards the dense model's answers.

        Without steps BatchNorm's statistics alone are new.
        """
        started = time.thread_time()
        model = self.small(counts, compensated=steps > 0)
        self._imitation(model, steps)
        return Trained(self.task.accuracy(model, self.task.validation), time.thread_time() - started)

    @functools.cached_property
    def _flops(self) -> tuple[np.ndarray, float]:
        """Multiply-adds as a quadratic function of the groups' blocks, fitted to small models: it is exact.

        It is fitted layer by layer, each of which hangs on few groups, so that few small models do.
        """
        sizes = np.array([target.group.size for target in self.groups])
        without = [self._by_layer(np.eye(len(sizes), dtype=int)[place]) for place in range(len(sizes))]
        random = np.random.default_rng(0)
        points = [np.zeros_like(sizes), *(random.integers(0, sizes) for _ in range(_POINTS))]
        measured = [self._by_layer(point) for point in points]
        weights = np.zeros((len(sizes) + 1, len(sizes) + 1))
        for layer, whole in measured[0].items():
            own = [place for place, found in enumerate(without) if found[layer] != whole]
            rows = np.array([_terms((sizes - point)[own]) for point in points])
            found, *_ = np.linalg.lstsq(rows, np.array([one[layer] for one in measured]), rcond=None)
            places = itertools.combinations_with_replacement([0, *(place + 1 for place in own)], 2)
            for place, weight in zip(places, found, strict=True):
                weights[place] += weight
        return weights, float(sum(measured[0].values()))

    def _by_layer(self, removed: Sequence[int] | np.ndarray) -> dict[str, int]:
        """Return the multiply-adds of each layer of a small model, without those of layers inside of it."""
        small = self.small(tuple(int(count) for count in removed))
        totals = measure.flops(small, self.example)
        own = dict(totals)
        for name in totals:
            if name:
                parent = name.rpartition(".")[0]
                own[parent] = own.get(parent, 0) - totals[name]
        return own

    def flops(self, model: nn.Module) -> int:
        """Return the multiply-adds of any model of the task, measured."""
        return measure.flops(model, self.example)[""]

    def measured(self, counts: Counts) -> int:
        """Return the multiply-adds of a small model, measured."""
        return self.flops(self.small(counts))

    def cost(self, sample: Sample) -> float:
        """Return the share of the multiply-adds that is left."""
        weights, dense = self._flops
        kept = [target.group.size - count for target, count in zip(self.groups, self.counts(sample), strict=True)]
        one = np.array([1.0, *kept])
        return float(one @ weights @ one) / dense

    def project(self, sample: Sample, budget: float) -> Sample:
        """Scale all kept shares by one factor, within the ranges: the largest that the budget allows."""
        low, high = -3.0, 3.0
        for _ in range(14):
            middle = (low + high) / 2
            fits = self.cost(_scaled(sample, 10**middle)) <= budget
            low, high = (middle, high) if fits else (low, middle)
        return _scaled(sample, 10**low)


def _scaled(sample: Sample, factor: float) -> Sample:
    return {name: min(max(1 - (1 - value) * factor, 0.0), HIGH) for name, value in sample.items()}


def _terms(kept: Sequence[float] | np.ndarray) -> np.ndarray:
    pairs = itertools.combinations_with_replacement([1.0, *kept], 2)
    return np.array([one * other for one, other in pairs])


def _groups(graph: ChannelGraph, outputs: str) -> list[GroupTarget]:
    targets = {name: Target(0, 0.5, graph.type_of(name)) for name in graph.producers() if name != outputs}
    return find_group_targets(graph, targets, norms=False, round_to=1)[0]
