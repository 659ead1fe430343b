"""The script of `winners`: the ResNet of configs/digits_resnet on enlarged digits; its dense model is trained once."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import raycompress as rc

sys.path.append(str(Path(__file__).parents[3] / "configs" / "digits_resnet"))
import train as digits

EPOCHS = {"dense": 8, "trial": 2}


class Net(digits.ResNet):
    """The example's network, on its input three times as large."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=3.0))


def trained(model: Net, epochs: int, lr: float) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(epochs):
        digits.train_epoch(model, *digits.load_data()[0], optimizer)


def dense_state(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model = Net()
    trained(model, EPOCHS["dense"], 0.002)
    return dict(model.state_dict())


@rc.experiment
def main(config: rc.BasicConfig) -> None:
    seed = int(sys.argv[1])
    model, (known, held_out) = Net(), digits.load_data()
    model.load_state_dict(rc.shared(dense_state, seed))
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
    trained(model, EPOCHS["trial"], 0.0005)
    rc.report(accuracy=digits.evaluate(model, *held_out))
    rc.save_model(compressor.export_model, model_path="model.pth")


if __name__ == "__main__":
    main()
