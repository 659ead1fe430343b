"""Prune a small CNN that reads scikit-learn's digits, trained by Lightning.

::

    python train.py config.json             by hand: prints the accuracies, and saves into the folder small
    raycompress launch search.json          a search

By hand `"devices": 2` in config.json trains by two processes; in a search `"resource": {"workers": 2}` does.
"""

import os
import sys

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import raycompress as rc
from raycompress.integrations.lightning import compress_trainer

N_TRAIN = 1197
BATCH = 64


def make_net() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 10)),
    )


class Digits(L.LightningModule):
    def __init__(self, lr: float) -> None:
        super().__init__()
        self.net, self.lr = make_net(), lr

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.net(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:
        images, labels = batch
        accuracy = (self.net(images).argmax(dim=1) == labels).float().mean()
        self.log("accuracy", accuracy, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def load_data() -> tuple[TensorDataset, TensorDataset]:
    """Return what to train on and what is held out: images [1, 8, 8], in 0..1, with labels."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, held_out = order[:N_TRAIN], order[N_TRAIN:]
    return TensorDataset(images[train], labels[train]), TensorDataset(images[held_out], labels[held_out])


def make_trainer(epochs: int, devices: int = 1, **more: object) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(max_epochs=epochs, accelerator="auto", devices=devices, **quiet, **more)


def pretrained() -> dict[str, Tensor]:
    """Return the weights of a dense network, trained from a random start."""
    L.seed_everything(0)
    module = Digits(lr=0.003)
    trainer = make_trainer(10, enable_checkpointing=False)
    trainer.fit(module, DataLoader(load_data()[0], BATCH, shuffle=True))
    return module.net.state_dict()


def main(config: rc.BasicConfig) -> None:
    L.seed_everything(0)
    train, held_out = load_data()
    module = Digits(lr=config.get("lr", 0.003))
    module.net.load_state_dict(rc.shared(pretrained))  # trained once, for all trials
    best = ModelCheckpoint("checkpoints", monitor="accuracy", mode="max")
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", config.get("devices", 1)))
    trainer = make_trainer(config.get("epochs", 3), devices, callbacks=[best])

    compression = compress_trainer(trainer, config)
    trainer.fit(module, DataLoader(train, BATCH, shuffle=True), DataLoader(held_out, BATCH))
    compression.save("small")  # rc.load("small", make_net()) loads it, without Lightning


if __name__ == "__main__":
    main(rc.BasicConfig().load(sys.argv[1]))
