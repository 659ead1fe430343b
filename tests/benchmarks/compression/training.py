"""What a training step costs: of the dense model, of the masked one, and of the sliced one that it is the same as."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raycompress import create_compressor
from raycompress.bundle.example import Example
from raycompress.compressors.measure.sizes import flops
from tests.benchmarks.outcome import Outcome, median
from tests.support.models.networks import Attention, EncoderBlock

SIDE = 96
BATCH = 8
CLASSES = 100
SPARSITIES = {"a half": 0.3, "a quarter": 0.5}
"""Of every layer; what a layer computes falls with its inputs and its outputs."""
DUMMY = torch.zeros(1, 3, SIDE, SIDE)


class Bottleneck(nn.Module):
    """Three convolutions, the second with the stride, and a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        return F.relu(out + self.shortcut(x))


class ResNet50(nn.Module):
    """He et al., Deep Residual Learning for Image Recognition, CVPR 2016: 3, 4, 6 and 3 blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        blocks, inputs = [], 64
        for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for place in range(count):
                blocks.append(Bottleneck(inputs, width, stride if place == 0 else 1))
                inputs = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.head(self.blocks(x).mean((2, 3)))


class VitS(nn.Module):
    """Twelve blocks of width 384 with six heads, on patches of 8 pixels; as wide and deep as ViT-S."""

    def __init__(self, dim: int = 384, heads: int = 6, depth: int = 12, patch: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, patch, patch)
        self.pos_embed = nn.Parameter(torch.randn(1, (SIDE // patch) ** 2, dim) * 0.02)
        self.blocks = nn.Sequential(*[EncoderBlock(dim, Attention(dim, heads)) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.pos_embed
        return self.head(self.norm(self.blocks(x)).mean(1))


NETWORKS: dict[str, type[nn.Module]] = {"ResNet-50": ResNet50, "ViT-S": VitS}


@dataclass
class Subject:
    """A model in training, and what it took to make it: seconds in ``compress()``."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    compressing: float = 0.0

    def step(self) -> float:
        """Train one batch; return the CPU seconds of it, of this thread, which is the only one."""
        images, labels = torch.randn(BATCH, *DUMMY.shape[1:]), torch.randint(CLASSES, (BATCH,))
        begin = time.thread_time()
        self.optimizer.zero_grad()
        F.cross_entropy(self.model.train()(images), labels).backward()
        self.optimizer.step()
        return time.thread_time() - begin


def measure(steps: int, say: Callable[[str], None]) -> Outcome:
    """Train each network dense, masked and sliced, a step of each in turn."""
    torch.set_num_threads(1)
    rows: list[list[str]] = []
    raw: dict[str, Any] = {}
    for name, network in NETWORKS.items():
        torch.manual_seed(0)
        subjects = _subjects(network())
        say(f"{name}: networks made")
        for subject in subjects.values():
            subject.step()  # the first one allocates
        times: dict[str, list[float]] = {kind: [] for kind in subjects}
        for _ in range(steps):
            for kind, subject in subjects.items():
                times[kind].append(subject.step())
        say(f"{name}: {steps} steps of each done")
        found, raw[name] = _rows(name, subjects, times)
        rows += found
    return Outcome(
        f"Training step, batch {BATCH}, {SIDE} x {SIDE}, one torch thread, in turn; median of {steps}, CPU seconds",
        ["network", "model", "FLOPs", "step s", "of dense", "of masked", "compress() s"],
        rows,
        raw=raw,
    )


def _subjects(dense: nn.Module) -> dict[str, Subject]:
    found = {"dense": Subject(dense, _sgd(dense))}
    for share, sparsity in SPARSITIES.items():
        for way, when in (("masked", "after"), ("sliced", "before")):
            model = copy.deepcopy(dense)
            optimizer = _sgd(model)  # as a script makes it, before anything is pruned
            config_list = [
                {"sparsity": sparsity, "op_types": ["Conv2d", "Linear"]},
                {"exclude": True, "op_names": ["head"]},
            ]
            config = {"compressor": "group_l1", "config_list": config_list, "compression_slice": when}
            compressor = create_compressor(model, config, dummy_input=DUMMY)
            begin = time.thread_time()
            compressor.compress()
            found[f"{share}, {way}"] = Subject(model, optimizer, time.thread_time() - begin)
    return found


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)


def _rows(
    name: str, subjects: dict[str, Subject], times: dict[str, list[float]]
) -> tuple[list[list[str]], dict[str, Any]]:
    """Return the rows of a network, and its figures; ratios are of steps of the same round."""
    example = Example.from_dummy(DUMMY)
    computed = {kind: flops(subject.model, example)[""] for kind, subject in subjects.items()}
    rows, raw = [], {}
    for kind, subject in subjects.items():
        # a masked model computes as many as the dense one; what is left of it is what its sliced twin computes
        masked = kind.replace("sliced", "masked")
        of_dense = median([one / dense for one, dense in zip(times[kind], times["dense"], strict=True)])
        of_masked = median([one / other for one, other in zip(times[kind], times[masked], strict=True)])
        raw[kind] = {"seconds": times[kind], "flops": computed[kind], "compressing": subject.compressing}
        last = f"{of_masked:.2f}" if "sliced" in kind else ""
        spent = f"{subject.compressing:.1f}" if kind != "dense" else ""
        share = f"{computed[kind] / computed['dense']:.3f}"
        rows.append([name, kind, share, f"{median(times[kind]):.2f}", f"{of_dense:.2f}", last, spent])
    return rows, raw
