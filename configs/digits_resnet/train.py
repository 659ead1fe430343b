"""Prune a small ResNet that reads scikit-learn's digits; the experiments beside this file all run it.

::

    python train.py config.json                by hand: prints the result
    raycompress run one_time.json              one configuration
    raycompress launch auto_dependency.json    a search
    raycompress launch budget.json             ... on a quarter of the FLOPs; fastest.json and pareto.json: by latency
    raycompress launch depth.json              ... over widths and residual blocks
    raycompress launch tenth.json              ... and bits: a tenth of the bytes, one point lost

A residual addition needs the same channels on both its sides. So the layers that feed one are pruned together:
conv1 with both ``conv2`` of stage1, and both ``conv2`` of stage2 with its ``down``.
"""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import raycompress as rc

WEIGHTS = Path(__file__).with_name("pretrained.pth")  # made by pretrain.py
N_TRAIN = 1197
BATCH = 64


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.down = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.down(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32)
        self.stage1 = nn.Sequential(Block(32, 32), Block(32, 32))
        self.stage2 = nn.Sequential(Block(32, 64, stride=2), Block(64, 64))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = self.stage2(self.stage1(x))
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


@rc.experiment
def main(config: rc.BasicConfig) -> None:
    torch.manual_seed(config.get("random_seed", 0))
    train, held_out = load_data()
    model = ResNet()
    model.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.get("lr", 0.0005))

    example = torch.randn(1, 1, 8, 8)  # dependency_aware finds the tied channels by following it through the model
    compressor = rc.create_compressor(
        model,
        config,
        optimizer=optimizer,
        dummy_input=example,
        evaluator=lambda model: evaluate(model, *held_out),  # "proposer": "guided" and rung0 judge by it
        calibration=train[0].split(BATCH),  # and learn from these inputs
    )
    flops_before, _, _ = compressor.count_flops_params(example.shape)
    compressor.compress()
    model = compressor.apply_speedup(dummy_input=example)  # the small model is what trains
    for _ in range(config.get("epochs", 2)):
        train_epoch(model, *train, optimizer)

    accuracy = evaluate(model, *held_out)
    flops_ratio = compressor.count_flops_params(example.shape)[0] / flops_before
    # Accuracy alone would always favour the least pruning, so the score charges for the work that is left: saving a
    # tenth of the original multiply-adds is worth one point of accuracy in a hundred.
    rc.report(score=accuracy - 0.1 * flops_ratio, accuracy=accuracy, flops_ratio=flops_ratio)
    rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")


if __name__ == "__main__":
    main()
