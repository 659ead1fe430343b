"""Prune a small CNN that reads scikit-learn's digits, trained by a loop of its own with accelerate.

::

    python train.py config.json                          by hand, one process
    torchrun --nproc-per-node 2 train.py config.json     by hand, two
    raycompress launch workers.json                      a search; each trial has two workers

A trial that loses a worker goes on from its last epoch. The dense weights are those of ../digits_ddp.
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

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


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images read rightly."""
    device = next(model.parameters()).device
    model.eval()
    return (model(images.to(device)).argmax(dim=1) == labels.to(device)).float().mean().item()


def main(config: rc.BasicConfig) -> None:
    # accelerate joins processes on CPUs only where it is told; trials without a GPU are, by ACCELERATE_USE_CPU
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        # an epoch's order follows from its number, so that a trial that goes on has the batches that it would have had
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
    )
    torch.manual_seed(0)
    data, held_out = load_data()
    model = make_model()
    model.load_state_dict(torch.load(Path(__file__).with_name("pretrained.pth"), weights_only=True))

    compressor = rc.create_compressor(model, config, dummy_input=torch.zeros(1, 1, 8, 8))
    compressor.compress()  # every process has the channels that the first one chose
    model = compressor.apply_speedup()

    optimizer = torch.optim.Adam(model.parameters(), lr=config.get("lr", 0.003))
    loader = DataLoader(data, batch_size=BATCH, shuffle=True)
    trained, optimizer, loader = accelerator.prepare(model, optimizer, loader)  # the small model, and not before
    state = rc.checkpoint.load(model=model, optimizer=optimizer)
    for epoch in range(0 if state is None else state["epoch"] + 1, config.get("epochs", 3)):
        loader.set_epoch(epoch)
        trained.train()
        for images, labels in loader:
            optimizer.zero_grad()
            accelerator.backward(F.cross_entropy(trained(images), labels))
            optimizer.step()
        rc.checkpoint(model=model, optimizer=optimizer, epoch=epoch)

    rc.report(accuracy=evaluate(model, *held_out))
    rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")
    accelerator.end_training()


if __name__ == "__main__":
    main(rc.BasicConfig().load(sys.argv[1]))
