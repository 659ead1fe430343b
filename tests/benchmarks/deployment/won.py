"""The script of `winners`: a network on enlarged digits, whose dense model is trained once: ``won.py NETWORK SEED``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import raycompress as rc
from tests.benchmarks.compression.predicted import MobileNet

sys.path.append(str(Path(__file__).parents[3] / "configs" / "digits_resnet"))
import train as digits

EPOCHS = 8


class LargeResNet(digits.ResNet):
    """The example's network, on its input three times as large."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=3.0))


class LargeMobileNet(MobileNet):
    """Inverted bottlenecks, on the digits three times as large, in three equal channels."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=3.0).expand(-1, 3, -1, -1))


NETWORKS = {"resnet": LargeResNet, "mobilenet": LargeMobileNet}


def trained(model: nn.Module, epochs: int, lr: float) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        digits.train_epoch(model, *digits.load_data()[0], optimizer)


def dense_state(network: str, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model = NETWORKS[network]()
    trained(model, EPOCHS, 0.002)
    return dict(model.state_dict())


@rc.experiment
def main(config: rc.BasicConfig) -> None:
    network, seed = sys.argv[1], int(sys.argv[2])
    model, (known, held_out) = NETWORKS[network](), digits.load_data()
    model.load_state_dict(rc.shared(dense_state, network, seed))
    torch.manual_seed(seed)
    compressor = rc.create_compressor(
        model,
        config,
        dummy_input=known[0][:1],
        evaluator=lambda one: digits.evaluate(one, *held_out),
        calibration=known[0].split(64),
    )
    compressor.compress()
    model = compressor.apply_speedup()
    rc.report(accuracy=digits.evaluate(model, *held_out))
    rc.save_model(compressor.export_model, model_path="model.pth")


if __name__ == "__main__":
    main()
