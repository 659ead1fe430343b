"""Small networks that the suites compress, and one step of training for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10


class PlainNet(nn.Module):
    """Two convolutions with BatchNorm, a flatten over several positions, two linear layers; input (n, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(16)
        self.fc1 = nn.Linear(16 * 4, 20)
        self.fc2 = nn.Linear(20, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, of shape (n, 10)."""
        images = functional.max_pool2d(functional.relu(self.bn1(self.conv1(images))), 2)
        images = functional.max_pool2d(functional.relu(self.bn2(self.conv2(images))), 2)
        logits: Tensor = self.fc2(functional.relu(self.fc1(images.flatten(1))))
        return logits


class ResidualNet(nn.Module):
    """Two convolutions whose outputs are added, so that their channels are tied, and one that is free."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.inner = nn.Conv2d(16, 12, 3, padding=1)
        self.bn = nn.BatchNorm2d(12)
        self.outer = nn.Conv2d(12, 16, 3, padding=1)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, of shape (n, 10)."""
        images = functional.relu(self.stem(images))
        images = functional.relu(images + self.outer(functional.relu(self.bn(self.inner(images)))))
        logits: Tensor = self.fc(images.mean([2, 3]))
        return logits


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {"plain": PlainNet, "residual": ResidualNet}
"""What a suite tries where a subclass names no networks of its own."""


def fresh(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Return a network with seeded weights; its BatchNorm layers have statistics and weights that differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)
                assert module.running_mean is not None and module.running_var is not None
                nn.init.normal_(module.running_mean, 0, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def images(count: int = 4, seed: int = 0) -> Tensor:
    """Return seeded inputs, of shape (count, 3, 8, 8)."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3, seed: int = 0) -> None:
    """Take some steps on seeded images and labels."""
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for step in range(steps):
        labels = torch.randint(0, CLASSES, (16,), generator=generator)
        optimizer.zero_grad()
        functional.cross_entropy(model(images(16, seed + step)), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
