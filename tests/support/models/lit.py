"""A tiny CNN in a LightningModule, which tells in which half of an image there is more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

lightning = pytest.importorskip("lightning")
LightningModule: Any = lightning.LightningModule
IMAGE = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)


def net() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(4), nn.Flatten(), nn.Linear(48, 2)),
    )


class Lit(LightningModule):
    """Logs a loss of the training, and loss and accuracy of the validation."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = net()

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self.net(images.unsqueeze(1)), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        images, labels = batch
        outputs = self.net(images.unsqueeze(1))
        self.log("val_loss", F.cross_entropy(outputs, labels), sync_dist=True)
        self.log("accuracy", (outputs.argmax(dim=1) == labels).float().mean(), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def loader(samples: int, batch: int = 8, seed: int = 0, *, mixed: bool = False) -> DataLoader:
    """Return a loader in the order of the samples, or in the one that Lightning gives several processes."""
    images = torch.randn(samples, 8, 8, generator=torch.Generator().manual_seed(seed))
    labels = (images[:, :4].sum((1, 2)) > images[:, 4:].sum((1, 2))).long()
    data = TensorDataset(images, labels)
    return DataLoader(data, batch, sampler=DistributedSampler(data, 1, 0) if mixed else None)


DATA = loader(64), loader(32, seed=1)


def trainer(folder: Path, epochs: int = 2, callbacks: tuple[Any, ...] = (), **more: Any) -> Any:
    """Return a Trainer of eight steps an epoch, which validates after each."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    usual = {"accelerator": "cpu", "devices": 1, "default_root_dir": folder, "num_sanity_val_steps": 0}
    return lightning.Trainer(max_epochs=epochs, callbacks=list(callbacks), **{**quiet, **usual, **more})
