"""Norms over channels, torch's own and written by hand: masked, trained, sliced."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raycompress import create_compressor
from raycompress.bundle.example import Example
from raycompress.compressors.measure.difference import TOLERANCE, relative_difference
from tests.support.models.networks import DUMMY, train

EXAMPLE = Example.from_dummy(DUMMY)
WIDTH = 24


class ByMoments(nn.Module):
    """LayerNorm over the channels of an image, by ``mean`` and ``pow``, as ConvNeXt writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(WIDTH) + 0.5), nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ByRoot(nn.Module):
    """RMSNorm whose weight is an offset of 1, as Gemma writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)
        return x.movedim(-1, 1)


class ByDeviation(nn.Module):
    """``std`` and ``mean`` without parameters, the mean as a method and the other as a function."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(dim=1, keepdim=True)) / (torch.std(x, 1, keepdim=True) + 1e-3)


class ToLength(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x - x.mean((1,), True), dim=1) * 4


class Last(nn.Module):
    """A norm over the last dimension, for images."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "moments": ByMoments,
    "root": ByRoot,
    "deviation": ByDeviation,
    "length": ToLength,
    "layer": lambda: Last(nn.LayerNorm(WIDTH)),
    "plain": lambda: Last(nn.LayerNorm(WIDTH, elementwise_affine=False)),
    "rms": lambda: Last(nn.RMSNorm(WIDTH)),
    "group": lambda: nn.GroupNorm(3, WIDTH),
    "one group": lambda: nn.GroupNorm(1, WIDTH),
}


class Net(nn.Module):
    """The norm between two convolutions, and a mean over channels outside of any module but the model itself."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, WIDTH, 3, padding=1)
        self.norm = norm
        self.b = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x))
        x = self.b(x) + x
        return self.head((x - x.mean(1, keepdim=True)).mean([2, 3]))


@pytest.mark.parametrize("name", NORMS)
def test_a_masked_norm_is_the_sliced_one(name: str) -> None:
    torch.manual_seed(0)
    model = Net(NORMS[name]())
    config = {"compressor": "group_l1", "config_list": [{"sparsity": 0.5, "op_names": ["a", "b"]}], "arguments": {}}
    pruner = create_compressor(model, {**config, "arguments": {"round_to": 1}}, dummy_input=DUMMY)
    pruner.compress()
    train(model, 3)
    masked = copy.deepcopy(model)
    twin: Any = pruner.apply_speedup()
    assert twin.a.out_channels == twin.head.in_features == WIDTH // 2
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for example in (EXAMPLE, EXAMPLE.random(3)):
        assert relative_difference(example.outputs(masked), example.outputs(model)) <= TOLERANCE
    images = torch.randn(4, *DUMMY.shape[1:])
    gradients = []
    for one in (masked.train(), model.train()):
        one.zero_grad()
        one(images).square().sum().backward()
        gradients.append([parameter.grad for parameter in one.parameters()])
    for whole, part in zip(*gradients, strict=True):
        assert torch.isclose(whole.abs().sum(), part.abs().sum(), rtol=1e-3) or whole.shape != part.shape


class Standardized(nn.Conv2d):
    """A convolution that standardizes its weights by a BatchNorm over them, as NFNets do."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.gain = nn.Parameter(torch.rand(outputs, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, weight=self.gain.view(-1), training=True, momentum=0.0, eps=1e-6)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, padding=self.padding)


def test_standardized_weights_are_masked_as_they_are_sliced() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), Standardized(16, 24), nn.BatchNorm2d(24), nn.ReLU(), Standardized(24, 16)
    )
    model.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.Linear(16, 10))
    config = {"compressor": "group_l1", "config_list": [{"sparsity": 0.5, "op_types": ["default"]}]}
    pruner = create_compressor(model, config, dummy_input=DUMMY)
    pruner.compress()
    train(model, 2)
    masked = copy.deepcopy(model)
    small: Any = pruner.apply_speedup()
    assert (small[1].in_channels, small[1].out_channels, small[4].out_channels) == (8, 16, 8)
    for example in (EXAMPLE, EXAMPLE.random(3)):
        assert relative_difference(example.outputs(masked), example.outputs(small)) <= TOLERANCE


def test_a_module_that_raises_leaves_nothing_behind() -> None:
    model = Net(ByMoments())
    config = {"compressor": "group_l1", "config_list": [{"sparsity": 0.5, "op_names": ["a", "b"]}]}
    create_compressor(model, config, dummy_input=DUMMY).compress()
    with pytest.raises(RuntimeError):
        model.norm(torch.zeros(1, 5, 8, 8))
    wide = torch.randn(1, WIDTH, 8, 8)
    assert torch.equal(wide.mean(1), wide.sum(1) / WIDTH) or torch.allclose(wide.mean(1), wide.sum(1) / WIDTH)
