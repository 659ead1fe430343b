"""Networks on the digits, pruned group by group to a budget of multiply-adds; for the benchmark of proposers."""

from __future__ import annotations

import copy
import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch_pruning.pruner.importance import GroupMagnitudeImportance

from raycompress.bundle.example import Example
from raycompress.catalog.rounding import removable
from raycompress.compressors.analysis.imitation import STEPS, Imitation
from raycompress.compressors.compensation.compensate import compensate
from raycompress.compressors.engines.torch_pruning.group_targets import GroupTarget, find_group_targets
from raycompress.compressors.engines.torch_pruning.ranking import Importance, block_scores
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.structure.coupling import Removal
from raycompress.compressors.structure.cut import Cut
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.compressors.structure.plan import SlicingPlan
from raycompress.compressors.structure.slicing import Slicing
from raycompress.compressors.targets.torch import Target
from raycompress.config.dimension import Dimension
from tests.benchmarks.compression.pruned import DUMMY, ResNet
from tests.support.models.networks import Vit

Sample = dict[str, Any]
Counts = tuple[int, ...]
"""Blocks of channels that go, group by group."""

HIGH = 0.9
"""The largest sparsity of a group."""


class MobileNet(nn.Module):
    """A stem and two inverted bottlenecks, the second of stride 2: five groups, two with a depthwise layer."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, 12, 3, 1, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6()]
        for inputs, inner, outputs, stride in ((12, 32, 16, 1), (16, 64, 32, 2)):
            layers += [nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()]
            layers += [
                nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
                nn.BatchNorm2d(inner),
                nn.ReLU6(),
            ]
            layers += [nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean([2, 3]))


class Task:
    """The digits made hard, split by a seed into three: to train on, to select by, and to report."""

    NOISE = 0.3
    PARTS = (997, 400, 400)
    DRAWS = (3, 5)
    BATCH = 32

    def __init__(self, seed: int) -> None:
        images, labels = load_digits(return_X_y=True)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        pixels = (torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16)[order]
        parts = list(zip(pixels.split(self.PARTS), torch.tensor(labels)[order].split(self.PARTS), strict=True))
        self.images, self.labels = parts[0]
        generator = torch.Generator().manual_seed(0)
        self.validation, self.held_out = (
            (_hard(part.repeat(draws, 1, 1, 1), self.NOISE, generator), answers.repeat(draws))
            for (part, answers), draws in zip(parts[1:], self.DRAWS, strict=True)
        )

    def train(
        self,
        model: nn.Module,
        epochs: int,
        seed: int,
        lr: float = 2e-3,
        loss: Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor] | None = None,
    ) -> None:
        """Train with Adam, in an order and with a noise that the seed alone decides; by the labels, or by `loss`."""
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        model.train()
        for _ in range(epochs):
            for batch in torch.randperm(len(self.images), generator=generator).split(self.BATCH):
                optimizer.zero_grad()
                images = _hard(self.images[batch], self.NOISE, generator)
                labels = self.labels[batch]
                found = F.cross_entropy(model(images), labels) if loss is None else loss(model, (images, labels))
                found.backward()
                optimizer.step()
        model.eval()

    def sample(self, number: int) -> Tensor:
        """Return hard images of the first part, always the same."""
        return _hard(self.images[:number], self.NOISE, torch.Generator().manual_seed(1))

    @staticmethod
    @torch.no_grad()
    def accuracy(model: nn.Module, part: tuple[Tensor, Tensor]) -> float:
        """Return the share of `part` that is read rightly."""
        model.eval()
        right = [
            model(images).argmax(1) == labels for images, labels in zip(*(x.split(500) for x in part), strict=True)
        ]
        return float(torch.cat(right).float().mean())


def _hard(images: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Move each image by up to a pixel and cover it with noise."""
    padded = F.pad(images, (1, 1, 1, 1))
    down, right = torch.randint(0, 3, (2, len(images), 1, 1), generator=generator)
    place = torch.arange(8)
    moved = padded[torch.arange(len(images))[:, None, None], 0, down + place[:, None], right + place[None, :]]
    return moved[:, None] + noise * torch.randn(images.shape, generator=generator)


NETWORKS = {"resnet": lambda: ResNet(8), "mobilenet": MobileNet, "vit": lambda: Vit(32, 4)}
OUTPUTS = {"resnet": "fc", "mobilenet": "head", "vit": "head"}

IMPORTANCES: Mapping[str, Callable[[nn.Module, Sequence[Example]], Importance]] = {
    "group_l1": lambda _model, _inputs: GroupMagnitudeImportance(p=1),
}
"""How channels are ranked, of a dense model and unlabelled inputs of it."""


@dataclass(frozen=True)
class Trained:
    """How well a small model does, and the CPU seconds of making, training and measuring it."""

    accuracy: float
    cpu_s: float


class Subject:
    """A trained network, its groups of tied channels, and what of them is left at a sample.

    Which channels of a group go first is what `importance` says: the groups' blocks, least first.
    """

    EPOCHS: Mapping[str, int] = {"resnet": 30, "mobilenet": 60, "vit": 100}
    FINAL = 6
    CALIBRATION = 512
    EXAMPLE = Example.from_dummy(DUMMY)

    def __init__(self, network: str, seed: int, importance: str = "group_l1") -> None:
        self.network, self.seed = network, seed
        torch.manual_seed(seed)
        self.task, self.dense = Task(seed), NETWORKS[network]()
        self.task.train(self.dense, self.EPOCHS[network], seed)
        seen = self.task.sample(self.CALIBRATION).split(self.task.BATCH)
        self._seen = [Example((images,), {}) for images in seen]
        self._graph = ChannelGraph(self.dense, self.EXAMPLE)
        self.groups, self._order = _groups(
            self._graph, OUTPUTS[network], IMPORTANCES[importance](self.dense, self._seen)
        )
        self.dimensions = tuple(Dimension(target.name, "float", 0.0, HIGH) for target in self.groups)
        self._imitation = Imitation(self.dense, self._seen)
        self._compensated: dict[Counts, nn.Module] = {}
        self._trials: dict[Counts, Trained] = {}
        self._finals: dict[Counts, Trained] = {}

    def counts(self, sample: Sample) -> Counts:
        """Return how many blocks of each group go."""
        return tuple(removable(target.group.size, sample[target.name]) for target in self.groups)

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
            self._compensated[counts] = self._compensate(counts)
        return copy.deepcopy(self._compensated[counts])

    def _compensate(self, counts: Counts) -> nn.Module:
        cut, model = self._cut(counts), self.copy()
        tensors = cut.tensors()
        slicing = Slicing(Removal({}, {}), tensors, SlicingPlan(cut.changes(tensors), {}), cut.reductions())
        compensate(model, slicing, self._seen)
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

    def trial(self, counts: Counts) -> Trained:
        """Train for an epoch, and measure on what is there to select by; each candidate once."""
        if counts not in self._trials:
            started = time.thread_time()
            model = self.small(counts)
            self.task.train(model, 1, self.seed)
            accuracy = self.task.accuracy(model, self.task.validation)
            self._trials[counts] = Trained(accuracy, time.thread_time() - started)
        return self._trials[counts]

    def final(self, counts: Counts) -> Trained:
        """Train for long, and measure on what was held out; each candidate once."""
        if counts not in self._finals:
            self._finals[counts] = self.finish(self.small(counts))
        return self._finals[counts]

    def finish(self, model: nn.Module) -> Trained:
        """Train a small model for long, and measure it on what was held out."""
        started = time.thread_time()
        self.task.train(model, self.FINAL, self.seed)
        return Trained(self.task.accuracy(model, self.task.held_out), time.thread_time() - started)

    def cheaply(self, counts: Counts, steps: int = STEPS) -> Trained:
        """Measure without a trial: after `steps` towards the dense model's answers, with BatchNorm's statistics new."""
        started = time.thread_time()
        model = self.small(counts)
        self._imitation(model, steps)
        return Trained(self.task.accuracy(model, self.task.validation), time.thread_time() - started)

    @functools.cached_property
    def _flops(self) -> tuple[np.ndarray, float]:
        """Multiply-adds as a quadratic function of the groups' blocks, fitted to small models: it is exact."""
        sizes = [target.group.size for target in self.groups]
        random = np.random.default_rng(0)
        points = [tuple(int(random.integers(0, size)) for size in sizes) for _ in range(2 * len(_terms(sizes)))]
        rows = np.array([_terms([s - c for s, c in zip(sizes, point, strict=True)]) for point in points])
        values = np.array([self.measured(point) for point in points])
        weights, *_ = np.linalg.lstsq(rows, values, rcond=None)
        return weights, float(self.measured(tuple(0 for _ in sizes)))

    def measured(self, counts: Counts) -> int:
        """Return the multiply-adds of a small model, measured."""
        return measure.flops(self.small(counts), self.EXAMPLE)[""]

    def cost(self, sample: Sample) -> float:
        """Return the share of the multiply-adds that is left."""
        weights, dense = self._flops
        kept = [target.group.size - count for target, count in zip(self.groups, self.counts(sample), strict=True)]
        return float(weights @ _terms(kept)) / dense

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


def _terms(kept: Sequence[float]) -> np.ndarray:
    pairs = itertools.combinations_with_replacement(kept, 2)
    return np.array([1.0, *kept, *(one * other for one, other in pairs)])


def _groups(graph: ChannelGraph, outputs: str, importance: Importance) -> tuple[list[GroupTarget], list[list[int]]]:
    """Return the groups, and the order in which their blocks go."""
    targets = {name: Target(0, 0.5, graph.type_of(name)) for name in graph.producers() if name != outputs}
    groups, _ = find_group_targets(graph, targets, norms=False, round_to=1)
    scores = [block_scores(Cut(graph), graph.model, target, importance) for target in groups]
    return groups, [sorted(score, key=score.__getitem__) for score in scores]
