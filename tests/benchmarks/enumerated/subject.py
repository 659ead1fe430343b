"""The network of the enumerated space, its task, and how a point of the space is trained and deployed."""

from __future__ import annotations

import copy
import functools
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import raycompress as rc
from raycompress.bundle import bundle
from raycompress.bundle.example import Example
from raycompress.compressors.analysis.imitation import Imitation

LAYERS = ("stem", "conv2", "conv3", "fc1")
"""The layers whose widths are searched; the last convolution of the block has the width of the stem."""
BLOCK = "block"
SPARSITIES = (0.0, 0.5, 0.75, 0.875)
KINDS = ("Conv2d", "Linear")
BITS = (32, 8, 4)
"""Of the weights of all layers of one of `KINDS`."""
N_TRAIN, N_HELD_OUT, N_CALIBRATION, BATCH = 500, 1297, 200, 50
NOISE = 0.2
PRETRAINING, FINE_TUNING = 30, 12
"""Epochs."""
SPREAD = 1.0
"""Standard deviation of the logarithms of the factors by which the ranges of channels differ."""
TIED = {"stem": ("stem", f"{BLOCK}.conv2")}
"""Layers whose outputs are added, so that one width is that of all."""


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))


class Net(nn.Module):
    """Three convolutions, a residual block and two linear layers: 62,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.block = Block(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32)
        self.conv3, self.bn3 = nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.fc1, self.fc2 = nn.Linear(256, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(F.relu(self.bn0(self.stem(x))))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.max_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


@functools.cache
def data() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return (images, labels) to train on and held out: digits [N, 1, 8, 8] under noise, always the same."""
    digits = load_digits()
    random = torch.Generator().manual_seed(0)
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    images = images + NOISE * torch.randn(images.shape, generator=random)
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=random)
    train, held_out = order[:N_TRAIN], order[N_TRAIN:]
    return (images[train], labels[train]), (images[held_out], labels[held_out])


def train(model: nn.Module, epochs: int, rate: float) -> None:
    """Train with Adam whose rate falls linearly to nothing; seeds are fixed."""
    images, labels = data()[0]
    random = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    steps = epochs * (N_TRAIN // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(N_TRAIN, generator=random).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Return the share of held-out digits read rightly."""
    images, labels = data()[1]
    return float((model.eval()(images).argmax(1) == labels).float().mean())


@functools.cache
def dense() -> Net:
    """Return the pretrained dense network, whose channels have ranges as different as those of MobileNets."""
    torch.manual_seed(0)
    model = Net()
    train(model, PRETRAINING, 3e-3)
    _spread_ranges(model)
    return model.eval()


@torch.no_grad()
def _spread_ranges(model: Net) -> None:
    """Multiply each channel by a factor of its own, and divide what reads it by the same: outputs stay as they are.

    Weights of one row then share a scale that suits few of them, so that fewer bits cost accuracy. Nagel et al.,
    Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, find such ranges in trained networks
    and undo them.
    """
    random = torch.Generator().manual_seed(0)
    writers: list[tuple[nn.Module, ...]] = [(model.bn0, model.block.bn2), (model.bn2,), (model.bn3,), (model.fc1,)]
    readers = [(model.block.conv1, model.conv2), (model.conv3,), (model.fc1,), (model.fc2,)]
    for those, others in zip(writers, readers, strict=True):
        factors = torch.exp(SPREAD * torch.randn(len(those[0].bias), generator=random))
        for writer in those:
            writer.weight.mul_(factors.view(-1, *[1] * (writer.weight.dim() - 1)))
            writer.bias.mul_(factors)
        for reader in others:
            each = factors.repeat_interleave(reader.weight.shape[1] // len(factors))
            reader.weight.div_(each.view(1, -1, *[1] * (reader.weight.dim() - 2)))


@dataclass(frozen=True)
class Shape:
    """What is left of the network.

    Attributes
    ----------
    sparsities
        The share of the channels that each of `LAYERS` loses.
    keep
        Whether the residual block stays.
    """

    sparsities: tuple[float, ...]
    keep: bool

    @property
    def config_list(self) -> list[dict[str, Any]]:
        """The layers and their sparsities, as an experiment file has them."""
        pairs = zip(LAYERS, self.sparsities, strict=True)
        return [{"op_names": list(TIED.get(layer, (layer,))), "sparsity": sparsity} for layer, sparsity in pairs]

    @property
    def is_dense(self) -> bool:
        """Whether nothing is removed."""
        return self.keep and not any(self.sparsities)


def shapes() -> Iterator[Shape]:
    """Yield every combination of widths, with the block and without it."""
    for keep in (True, False):
        for sparsities in itertools.product(SPARSITIES, repeat=len(LAYERS)):
            yield Shape(sparsities, keep)


def fine_tune(model: nn.Module) -> None:
    """Train as every point of the space is trained."""
    train(model, FINE_TUNING, 2e-3)


def cut(shape: Shape, **arguments: Any) -> nn.Module:
    """Return the network of a shape, not trained yet: what ``group_l1`` and the drop of the block leave."""
    model: nn.Module = copy.deepcopy(dense())
    if shape.is_dense:
        return model
    depth = {} if shape.keep else {"compression_depth": {"drop": [BLOCK]}}
    config = {"compressor": "group_l1", "config_list": shape.config_list, "arguments": {"round_to": 1}, **depth}
    compressor = rc.create_compressor(model, config, dummy_input=data()[0][0][:1], **arguments)
    compressor.compress()
    small: nn.Module = compressor.apply_speedup()
    return small


def trained(shape: Shape) -> nn.Module:
    """Return the network of a shape, fine-tuned."""
    model = cut(shape)
    fine_tune(model)
    return model.eval()


@functools.cache
def _imitation() -> Imitation:
    """Return the few steps of training of a survey, at the rate that suits the network of half the widths."""
    batches = [Example.for_model(batch, dense()) for batch in data()[0][0].split(BATCH)]
    imitation = Imitation(dense(), batches)
    imitation.choose_rate(cut(Shape((0.5,) * len(LAYERS), True), calibration=data()[0][0].split(BATCH)))
    return imitation


def imitated(shape: Shape) -> nn.Module:
    """Return the network of a shape as a survey scores it: refitted, and trained for a few steps without labels."""
    model = cut(shape, calibration=data()[0][0].split(BATCH)) if not shape.is_dense else cut(shape)
    _imitation()(model)
    return model.eval()


def quantizer(bits: Sequence[Any]) -> dict[str, Any]:
    """Return the stage that quantizes weights: of each of `KINDS` to so many bits, of which 32 leave them float."""
    return {
        "compressor": "ptq_static",
        "config_list": [{"op_types": [kind], "quant_bits": own} for kind, own in zip(KINDS, bits, strict=True)],
        "arguments": {"reduce_range": True},  # the same numbers on every processor
    }


def quantized(model: nn.Module, bits: Sequence[int]) -> Any:
    """Return the compressor of a copy of a network that has quantized it."""
    inputs, stage = data()[0][0], quantizer(bits)
    given = {"calibration_data": inputs[:N_CALIBRATION], "dummy_input": inputs[:1]}
    compressor = rc.create_compressor(copy.deepcopy(model), stage, **given)
    compressor.compress()
    return compressor


def deployed(model: nn.Module, bits: Sequence[int]) -> tuple[float, int]:
    """Quantize a trained network; return the accuracy of what is saved, and the bytes of its ONNX file."""
    compressor = quantized(model, bits)
    with tempfile.TemporaryDirectory(prefix="enumerated-") as folder:
        compressor.export_model("model.pth", folder_name=folder, bundle_path=f"{folder}/bundle")
        return accuracy(compressor.model), (Path(folder) / "bundle" / bundle.INT8_ONNX).stat().st_size
