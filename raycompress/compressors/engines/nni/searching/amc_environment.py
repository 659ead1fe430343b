"""AMC's environment: the agent removes channels of a network, group by group, down to a share of its FLOPs.

He et al., AMC: AutoML for Model Compression and Acceleration on Mobile Devices, ECCV 2018. As there: an action
is the share of channels that stays, bounded so that the FLOPs can still be met; the channels with the smallest
input weights go; what reads them pointwise is fitted by least squares to its former outputs; the reward comes last.

NNI's own environment knows chains of layers and the connections of one MobileNetV2. Here the model's graph shows which
layers read which channels, so one action decides about a group of coupled channels, and the FLOPs are those of the
small model.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raycompress.bundle.example import Example, evaluating
from raycompress.compressors.engine import PruningDecision
from raycompress.compressors.engines.nni.searching.prunable import TiedChannels, weight_of
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.structure.graph import ChannelGraph
from raycompress.errors import CompressionError
from raycompress.model.groups import ChannelGroup

Observation = NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """Limits of the actions: shares of FLOPs and channels that stay, and the multiple that these are rounded up to."""

    flops_ratio: float
    lbound: float
    rbound: float
    channel_round: int


def groups_with_readers(model: nn.Module, example: Example, groups: Sequence[ChannelGroup]) -> list[ChannelGroup]:
    """Return `groups` with the layers that read their channels, in the model's order."""
    graph = ChannelGraph(model, example)
    found = []
    for group in groups:
        components = [graph.components(group.root, block)[0] for block in group.root_blocks]
        index_of = {int(component): index for index, component in enumerate(components)}
        readers: dict[str, list[list[int]]] = {}
        for name, channels, own in graph.readers(np.array(components)):
            inputs = readers.setdefault(name, [[] for _ in group.blocks])
            for channel, component in zip(channels.tolist(), own.tolist(), strict=True):
                inputs[index_of[component]].append(channel)
        found.append(group.with_readers({name: tuple(map(tuple, inputs)) for name, inputs in readers.items()}))
    return found


def writers(group: ChannelGroup) -> set[str]:
    """Return the layers that the channels of a group belong to, norms included."""
    return {layer for block in group.blocks for layer, _ in block}


class Environment:
    """The environment with the interface, reset() and step(), that NNI's training of its agent calls.

    Parameters
    ----------
    model
        A copy, which is the environment's own.
    judge
        Returns the accuracy of a model.
    reward
        Function of accuracy and FLOPs.
    batches
        Inputs for the least squares.
    points
        How many positions of a feature map serve for it.

    Attributes
    ----------
    best_reward, best_strategy
        Of the best episode so far; the strategy is the share that stays of each group.
    strategy
        Of this episode.

    Raises
    ------
    CompressionError
        Not even the fewest channels that may stay meet the FLOPs.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Example,
        prunable: TiedChannels,
        limits: Limits,
        judge: Callable[[nn.Module], float],
        reward: Callable[[float, float], float],
        batches: Sequence[Tensor],
        points: int,
    ) -> None:
        self.model, self._limits, self._judge, self._reward = model, limits, judge, reward
        self._dense = copy.deepcopy(model.state_dict())
        self._layers = [layer for group in prunable.groups.values() for layer in group.layers]
        self.groups = groups_with_readers(model, example, list(prunable.groups.values()))
        leaves = {name for name, module in model.named_modules() if name and not any(module.children())}
        counts = measure.flops(model, example)
        self._flops = {name: count for name, count in counts.items() if count and name in leaves}
        self._total = sum(self._flops.values())
        self._least = [self._rounded(group, limits.lbound) for group in self.groups]
        least = self._left(self._least) / self._total
        if least > limits.flops_ratio:
            raise CompressionError(
                f"flops_ratio {limits.flops_ratio:g} is out of reach: with lbound {limits.lbound:g} and channel_round "
                f"{limits.channel_round} at least {least:.3f} of the FLOPs stay",
                where="compression.arguments.flops_ratio",
                fix="a larger flops_ratio, a smaller lbound or channel_round, or more layers in the config_list",
            )
        self._samples = _samples(model, self._pointwise(), batches, points)
        self._embedding = self._embed()
        self.best_reward, self.best_strategy = -math.inf, list[float]()
        self.best_choice, self.best_state = PruningDecision(), self._dense
        self.strategy: list[float] = []
        self.reset()

    @property
    def width(self) -> int:
        """How many numbers an observation has."""
        return int(self._embedding.shape[1])

    def reset(self) -> Observation:
        """Begin an episode with the dense model."""
        self.model.load_state_dict(self._dense)
        self.strategy = []
        self._kept = list(self._least)
        self._gone: list[list[int]] = []
        self._embedding[:, -3:] = (0.0, 0.0, 1.0)
        first: Observation = self._embedding[0].copy()
        return first

    def step(self, action: Any) -> tuple[Observation, float, bool, dict[str, float] | None]:
        """Prune the next group so that the share `action` stays, or less where the limit of the FLOPs demands it."""
        index = len(self.strategy)
        group = self.groups[index]
        share = min(max(float(np.asarray(action).ravel()[0]), 0.0), self._limits.rbound)
        self._kept[index] = max(self._least[index], self._rounded(group, share))
        while (
            self._left(self._kept) > self._limits.flops_ratio * self._total and self._kept[index] > self._least[index]
        ):
            self._kept[index] -= 1
        self._gone.append(self._remove(group, group.size - self._kept[index]))
        self.strategy.append(self._kept[index] / group.size)
        if len(self.strategy) == len(self.groups):
            return self._embedding[index].copy(), *self._end()
        later = {name for group in self.groups[index + 1 :] for name in writers(group)}
        self._embedding[index + 1, -3:] = (
            1 - self._left(self._kept) / self._total,
            sum(count for name, count in self._flops.items() if name in later) / self._total,
            self.strategy[-1],
        )
        return self._embedding[index + 1].copy(), 0.0, False, None

    def _end(self) -> tuple[float, bool, dict[str, float]]:
        accuracy, left = self._judge(self.model), self._left(self._kept)
        reward = self._reward(accuracy, left)
        if reward > self.best_reward:
            self.best_reward, self.best_strategy = reward, self.strategy.copy()
            self.best_state = copy.deepcopy(self.model.state_dict())
            places = [
                place
                for group, gone in zip(self.groups, self._gone, strict=True)
                for index in gone
                for place in group.blocks[index]
            ]
            gone = {name: tuple(sorted(c for layer, c in places if layer == name)) for name in self._layers}
            self.best_choice = PruningDecision(gone)
        return reward, True, {"accuracy": accuracy, "compress_ratio": left / self._total}

    def _rounded(self, group: ChannelGroup, share: float) -> int:
        """Return how many blocks stay, at least one, rounded up to a multiple of ``channel_round`` where there are."""
        step, whole = self._limits.channel_round, group.size
        return min(whole, max(1, math.ceil(whole * share / step - 1e-9)) * step)

    def _left(self, kept: Sequence[int]) -> float:
        """Return the multiply-adds when so many blocks of each group stay."""
        factors = dict.fromkeys(self._flops, 1.0)
        for group, count in zip(self.groups, kept, strict=True):
            gone = 1 - count / group.size
            for name in writers(group) & factors.keys():
                own = sum(layer == name for block in group.blocks for layer, _ in block)
                factors[name] *= 1 - gone * own / weight_of(self.model, name).size(0)
            for name in group.readers.keys() & factors.keys():
                factors[name] *= 1 - gone * sum(map(len, group.readers[name])) / weight_of(self.model, name).size(1)
        return sum(self._flops[name] * factor for name, factor in factors.items())

    def _remove(self, group: ChannelGroup, count: int) -> list[int]:
        """Zero the blocks whose readers have the smallest weights for them; returns which."""
        if not count:
            return []
        scores = torch.zeros(group.size)
        for name, places in group.readers.items():
            weight = weight_of(self.model, name)
            by_input = weight.detach().abs().transpose(0, 1).flatten(1).sum(1).cpu()
            scores += torch.stack([by_input[list(own)].sum() for own in places])
        gone: list[int] = torch.argsort(scores, stable=True)[:count].tolist()
        with torch.no_grad():
            for layer, channel in (place for index in gone for place in group.blocks[index]):
                for parameter in self.model.get_submodule(layer).parameters(recurse=False):
                    parameter[channel] = 0
            for name, places in group.readers.items():
                self._refit(name, [own for index in gone for own in places[index]])
        return gone

    def _refit(self, name: str, gone: list[int]) -> None:
        """Zero the weights for input channels that are gone; those of a pointwise layer are fitted anew."""
        weight = weight_of(self.model, name)
        weight[:, gone] = 0
        if name not in self._samples:
            return
        inputs, outputs = self._samples[name]
        alive = (weight.flatten(1) != 0).any(0).nonzero().flatten().cpu()
        fitted = torch.linalg.lstsq(inputs[:, alive], outputs).solution
        if torch.isfinite(fitted).all():
            weight[:, alive.to(weight.device)] = fitted.t().to(weight).reshape(-1, len(alive), *weight.shape[2:])

    def _pointwise(self) -> list[str]:
        """Return the layers whose weights can be fitted: what reads a group and sees one position at a time."""
        names = dict.fromkeys(name for group in self.groups for name in group.readers)
        modules = {name: self.model.get_submodule(name) for name in names}
        return [
            name
            for name, module in modules.items()
            if isinstance(module, nn.Linear)
            or (isinstance(module, nn.Conv2d) and module.weight[0].numel() == module.in_channels and _plain(module))
        ]

    def _embed(self) -> Observation:
        """Describe each group by its first writer as AMC does a layer; the last three numbers change as it goes."""
        rows = []
        for place, group in enumerate(self.groups):
            name = next(layer for layer, _ in group.blocks[0] if layer in self._flops)
            module, weight = self.model.get_submodule(name), weight_of(self.model, name)
            stride, kernel = (module.stride[0], module.kernel_size[0]) if isinstance(module, nn.Conv2d) else (0, 1)
            sizes = [weight.size(1), group.size, stride, kernel, weight.numel()]
            rows.append([place, not isinstance(module, nn.Conv2d), *sizes, 0, 0, 1])
        embedding = np.array(rows, dtype=float)
        low, high = embedding.min(0), embedding.max(0)
        spread = np.where(high > low, high - low, 1.0)
        return np.where(high > low, (embedding - low) / spread, embedding)


def _samples(
    model: nn.Module, names: Sequence[str], batches: Sequence[Tensor], points: int
) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Return, by layer, what goes in and what comes out without the bias: one row a sample, in float32 on the CPU."""
    rows: dict[str, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in names}
    generator = torch.Generator().manual_seed(0)

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        bias = getattr(module, "bias", None)
        before, after = inputs[0].detach(), output.detach()
        if isinstance(module, nn.Conv2d):
            where = torch.randint(0, after[0, 0].numel(), (points,), generator=generator).to(after.device)
            before, after = (tensor.flatten(2)[:, :, where].transpose(1, 2) for tensor in (before, after))
        after = after if bias is None else after - bias.detach()
        rows[name][0].append(before.reshape(-1, before.size(-1)).float().cpu())
        rows[name][1].append(after.reshape(-1, after.size(-1)).float().cpu())

    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: note(name, module, inputs, output))
        for name, module in model.named_modules()
        if name in rows
    ]
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches:
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: (torch.cat(before), torch.cat(after)) for name, (before, after) in rows.items() if before}


def _plain(module: nn.Conv2d) -> bool:
    """Whether each output of a pointwise convolution has the position of its input."""
    return module.stride == (1, 1) and module.groups == 1 and module.padding in ((0, 0), "valid", "same")
