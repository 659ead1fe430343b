"""Networks on the digits, pruned to a budget of multiply-adds; for the benchmarks of accuracy and speed."""

from __future__ import annotations

import copy
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from raycompress import create_compressor

N_TRAIN = 1197
BATCH = 64
DUMMY = torch.zeros(1, 1, 8, 8)
_OTHER_THAN_PRUNED = {"op_names": ["fc"], "exclude": True}


class Digits:
    """The digits made hard, shuffled and split by a seed: each image is moved by up to a pixel and covered with noise.

    As they are, a network of a quarter of the size reads as many as the dense one, whatever was removed.
    """

    NOISE = 0.3
    DRAWS = 5

    def __init__(self, seed: int) -> None:
        images, labels = load_digits(return_X_y=True)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        self.images = (torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16)[order]
        self.labels = torch.tensor(labels)[order]

    def train(self, model: nn.Module, epochs: int, optimizer: torch.optim.Optimizer, seed: int) -> None:
        """Train on the first part, in an order that the seed alone decides."""
        generator = torch.Generator().manual_seed(seed)
        model.train()
        for _ in range(epochs):
            for batch in torch.randperm(N_TRAIN, generator=generator).split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(model(self._hard(self.images[batch], generator)), self.labels[batch]).backward()
                optimizer.step()

    def sample(self, number: int) -> list[tuple[Tensor, Tensor]]:
        """Return hard images of the first part with their labels, in batches, always the same."""
        images = self._hard(self.images[:number], torch.Generator().manual_seed(1))
        return list(zip(images.split(BATCH), self.labels[:number].split(BATCH), strict=True))

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Return the share of the held-out images, each drawn several times, that are read rightly."""
        model.eval()
        generator = torch.Generator().manual_seed(0)
        right = [
            model(self._hard(self.images[N_TRAIN:], generator)).argmax(1) == self.labels[N_TRAIN:]
            for _ in range(self.DRAWS)
        ]
        return float(torch.cat(right).float().mean())

    def _hard(self, images: Tensor, generator: torch.Generator) -> Tensor:
        padded = F.pad(images, (1, 1, 1, 1))
        down, right = torch.randint(0, 3, (2, len(images)), generator=generator)
        moved = torch.stack([image[:, y : y + 8, x : x + 8] for image, y, x in zip(padded, down, right, strict=True)])
        return moved + self.NOISE * torch.randn(moved.shape, generator=generator)


def compressor(model: nn.Module, name: str, sparsity: float, **more: Any) -> Any:
    """Return the compressor `name` for all channels of `model` but the outputs."""
    types = ["BatchNorm2d"] if name in ("slim", "bn_scale") else ["Conv2d"]
    config_list = [{"sparsity": sparsity, "op_types": types}, _OTHER_THAN_PRUNED]
    return create_compressor(model, {"compressor": name, "config_list": config_list}, dummy_input=DUMMY, **more)


def sparsity_for(model: nn.Module, name: str, flops_ratio: float, **more: Any) -> float:
    """Return the sparsity of all layers at which `flops_ratio` of the multiply-adds are left, by bisection."""
    low, high = 0.0, 0.95
    for _ in range(7):
        middle = (low + high) / 2
        small = copy.deepcopy(model)
        found = compressor(small, name, middle, **more)
        before, _, _ = found.count_flops_params(DUMMY)
        found.compress()
        found.apply_speedup()
        after, _, _ = found.count_flops_params(DUMMY)
        low, high = (middle, high) if after > flops_ratio * before else (low, middle)
    return (low + high) / 2
