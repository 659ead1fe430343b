"""Prune a small CNN that reads scikit-learn's digits; the experiments beside this file all run it.

::

    python train.py config.json           by hand: prints the result
    raycompress run one_time.json         one configuration
    raycompress launch auto_l1.json       a search
"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import raycompress as rc

WEIGHTS = Path(__file__).with_name("pretrained.pth")  # made by pretrain.py
N_TRAIN = 1197
BATCH = 64


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.conv2, self.bn2 = nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.conv3, self.bn3 = nn.Conv2d(64, 128, 3, padding=1, bias=False), nn.BatchNorm2d(128)
        self.fc = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.relu(self.bn3(self.conv3(x)))
        return self.fc(x.mean(dim=(2, 3)))


def load_data() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return (images, labels) to train on and (images, labels) held out; images are [N, 1, 8, 8], in 0..1."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, held_out = order[:N_TRAIN], order[N_TRAIN:]
    return (images[train], labels[train]), (images[held_out], labels[held_out])


def train_epoch(model: nn.Module, images: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer) -> None:
    model.train()
    for batch in torch.randperm(len(labels)).split(BATCH):
        optimizer.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images read rightly."""
    model.eval()
    return (model(images).argmax(dim=1) == labels).float().mean().item()


def main(config: rc.BasicConfig) -> None:
    torch.manual_seed(0)
    train, held_out = load_data()
    model = Net()
    model.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.get("lr", 0.001))

    compressor = rc.create_compressor(model, config, optimizer=optimizer)
    flops_before, _, _ = compressor.count_flops_params((1, 1, 8, 8))
    compressor.compress()
    model = compressor.apply_speedup(dummy_input=torch.randn(1, 1, 8, 8))  # the small model is what trains
    for _ in range(config.get("epochs", 2)):
        train_epoch(model, *train, optimizer)

    accuracy = evaluate(model, *held_out)
    flops_ratio = compressor.count_flops_params((1, 1, 8, 8))[0] / flops_before
    # Accuracy alone would always favour the least pruning, so the score charges for the work that is left: saving a
    # tenth of the original multiply-adds is worth one point of accuracy in a hundred.
    rc.report(score=accuracy - 0.1 * flops_ratio, accuracy=accuracy, flops_ratio=flops_ratio)
    rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")


if __name__ == "__main__":
    main(rc.BasicConfig().load(sys.argv[1]))
