"""The networks of the benchmarks of accuracy: on the digits, and an encoder on text. They need torch alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.models.networks import Block, Vit


class ResNet(nn.Module):
    """Three stages of `blocks` blocks, of `width`, twice and four times as many channels; all of a stage are tied."""

    def __init__(self, width: int, blocks: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        widths = (width, width, 2 * width, 4 * width)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    Block(inputs, outputs, 1 if inputs == outputs else 2),
                    *(Block(outputs, outputs, 1) for _ in range(blocks - 1)),
                )
                for inputs, outputs in itertools.pairwise(widths)
            )
        )
        self.fc = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(F.relu(self.bn1(self.conv1(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


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


class _Attention(nn.Module):
    """Self-attention with a layer each for queries, keys and values, as BERT has it."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        samples, tokens, _ = x.shape
        q, k, v = (
            layer(x).reshape(samples, tokens, self.num_heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(q, k, v)
        return self.output(seen.transpose(1, 2).reshape(samples, tokens, -1))


class _EncoderBlock(nn.Module):
    """Norms stand behind the sums, as in BERT."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = _Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 2 * dim)
        self.fc2 = nn.Linear(2 * dim, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.fc2(F.gelu(self.fc1(x))))


class Bert(nn.Module):
    """Embeddings of tokens and of positions, encoder blocks, a head on their mean."""

    def __init__(self, dim: int, heads: int, blocks: int, *, words: int, length: int, classes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, dim)
        self.positions = nn.Parameter(torch.randn(1, length, dim) * 0.02)
        self.norm = nn.LayerNorm(dim)
        self.blocks = nn.Sequential(*(_EncoderBlock(dim, heads) for _ in range(blocks)))
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.norm(self.words(x) + self.positions)).mean(1))


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "resnet": lambda: ResNet(8),
    "mobilenet": MobileNet,
    "vit": lambda: Vit(32, 4),
    "resnet56": lambda: ResNet(6, 9),
    "bert": lambda: Bert(32, 4, 3, words=512, length=32, classes=6),
}
OUTPUTS = {"resnet": "fc", "mobilenet": "head", "vit": "head", "resnet56": "fc", "bert": "head"}
EPOCHS = {"resnet": 30, "mobilenet": 60, "vit": 100, "resnet56": 50, "bert": 50}
"""How long the dense networks train."""
