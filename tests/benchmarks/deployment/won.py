"""The script of `winners`: inverted bottlenecks with additions, on enlarged digits: ``won.py SEED``.

The dense model is trained once a seed. What is left of it is fine-tuned.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import raycompress as rc

sys.path.append(str(Path(__file__).parents[3] / "configs" / "digits_resnet"))
import train as digits

EPOCHS, FINE_TUNED = 10, 4
JUDGED = 300
"""Held-out images that layers and candidates are judged by before the search; a trial is by all 600."""


class Bottleneck(nn.Module):
    """An inverted bottleneck (Sandler et al., MobileNetV2, 2018), which adds its input where the shapes are equal."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()]
        depthwise = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        layers += [depthwise, nn.BatchNorm2d(inner), nn.ReLU6()]
        layers += [nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.body = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


class Network(nn.Module):
    """Seven bottlenecks, six of which may go, on the digits three times as large, in three equal channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())
        self.stage1 = nn.Sequential(*(Bottleneck(32, 128, 32) for _ in range(3)))
        self.stage2 = nn.Sequential(Bottleneck(32, 128, 64, 2), *(Bottleneck(64, 256, 64) for _ in range(3)))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=3.0).expand(-1, 3, -1, -1)
        return self.head(self.stage2(self.stage1(self.stem(x))).mean([2, 3]))


def trained(model: nn.Module, epochs: int, lr: float) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        digits.train_epoch(model, *digits.load_data()[0], optimizer)
        schedule.step()


def dense_state(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model = Network()
    trained(model, EPOCHS, 0.002)
    return dict(model.state_dict())


@rc.experiment
def main(config: rc.BasicConfig) -> None:
    seed = int(sys.argv[1])
    model, (known, held_out) = Network(), digits.load_data()
    model.load_state_dict(rc.shared(dense_state, seed))
    torch.manual_seed(seed)
    judged = held_out[0][:JUDGED], held_out[1][:JUDGED]
    compressor = rc.create_compressor(
        model,
        config,
        dummy_input=known[0][:1],
        evaluator=lambda one: digits.evaluate(one, *judged),
        calibration=known[0].split(64),
    )
    compressor.compress()
    model = compressor.apply_speedup()
    trained(model, FINE_TUNED, 0.001)
    rc.report(accuracy=digits.evaluate(model, *held_out))
    rc.save_model(compressor.export_model, model_path="model.pth")


if __name__ == "__main__":
    main()
