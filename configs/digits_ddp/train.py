"""Prune a small CNN that reads scikit-learn's digits, trained by several processes with DistributedDataParallel.

::

    torchrun --nproc-per-node 2 train.py config.json     by hand
    raycompress launch workers.json                      a search; each trial has two workers

A trial that loses a worker goes on from its last epoch.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import raycompress as rc

N_TRAIN = 1197
BATCH = 32


def make_model() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 10)),
    )


def load_data() -> tuple[TensorDataset, tuple[Tensor, Tensor]]:
    """Return what to train on, and (images, labels) held out; images are [N, 1, 8, 8], in 0..1."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, held_out = order[:N_TRAIN], order[N_TRAIN:]
    return TensorDataset(images[train], labels[train]), (images[held_out], labels[held_out])


def train_epoch(model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer) -> None:
    device = next(model.parameters()).device
    model.train()
    for images, labels in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(images.to(device)), labels.to(device)).backward()
        optimizer.step()


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images read rightly."""
    device = next(model.parameters()).device
    images, labels = images.to(device), labels.to(device)
    model.eval()
    return (model(images).argmax(dim=1) == labels).float().mean().item()


def main(config: rc.BasicConfig) -> None:
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    torch.manual_seed(0)
    data, held_out = load_data()
    sampler = DistributedSampler(data, seed=0)
    loader = DataLoader(data, batch_size=BATCH, sampler=sampler)
    model = make_model()
    model.load_state_dict(torch.load(Path(__file__).with_name("pretrained.pth"), weights_only=True))

    compressor = rc.create_compressor(model, config, dummy_input=torch.zeros(1, 1, 8, 8))
    compressor.compress()  # every worker has the channels that the first one chose
    model = compressor.apply_speedup()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        model.cuda()
    trained = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(trained.parameters(), lr=config.get("lr", 0.003))
    state = rc.checkpoint.load(model=model, optimizer=optimizer)
    for epoch in range(0 if state is None else state["epoch"] + 1, config.get("epochs", 3)):
        sampler.set_epoch(epoch)
        train_epoch(trained, loader, optimizer)
        rc.checkpoint(model=model, optimizer=optimizer, epoch=epoch)

    rc.report(accuracy=evaluate(model, *held_out))
    rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(rc.BasicConfig().load(sys.argv[1]))
