"""What a pruned model costs is foretold from its channels: compared with models that were really cut."""

from __future__ import annotations

import json
import random

import pytest
import torch
from torch import nn

from raycompress import catalog
from raycompress.bundle.example import Example
from raycompress.compressors.create import create_compressor
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.structure.costing import cost_model
from raycompress.compressors.structure.inspection import inspect
from raycompress.errors import CompressionError, RaycompressError
from raycompress.forecast.forecast import Forecast
from raycompress.model.costs import CostModel
from tests.support.models import networks


class Layer(nn.Module):
    """A layer of a Transformer, as libraries of them write it: four heads, and a product that is no torch layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mixed = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).view(*x.shape[:2], -1, 4).transpose(1, 2) for layer in (self.query, self.key, self.value))
        read = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.mixed(read.transpose(1, 2).reshape(*x.shape[:2], -1))
        return x + self.down(torch.relu(self.up(x)))


class Stacked(nn.Module):
    """Layers in a ModuleList, which is never called itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.out = nn.ModuleList(Layer() for _ in range(2)), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.out(x)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.middle, self.out = nn.Linear(12, 16), nn.LSTM(16, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.middle(torch.relu(self.into(x)))[0])


class Products(nn.Module):
    """A matrix product outside of any layer, which costs the square of a width."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.out = nn.Linear(8, 12), nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x)
        return self.out((x.unsqueeze(2) @ x.unsqueeze(1)).sum(2))


class Choosing(Products):
    """Computes more where its width is larger."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x)
        return self.out(x) if x.shape[1] < 12 else self.out(x) + self.out(2 * x)


NETWORKS = {
    "cnn": (networks.Cnn, (2, 1, 8, 8)),
    "resnet": (networks.ResNet, (2, 1, 8, 8)),
    "mobilenet": (networks.MobileNet, (2, 1, 8, 8)),
    "vgg": (networks.Vgg, (2, 1, 8, 8)),
    "vit": (networks.Vit, (2, 1, 8, 8)),
    "torch_vit": (networks.TorchVit, (2, 1, 8, 8)),
    "mlp": (networks.Mlp, (2, 1, 8, 8)),
    "sequences": (networks.Sequences, (2, 8, 8)),
    "stacked": (Stacked, (2, 7, 16)),
    "recurrent": (Recurrent, (2, 7, 12)),
    "products": (Products, (2, 8)),
}


def forecast_of(model: nn.Module, dummy: torch.Tensor, compressor: str) -> Forecast:
    example = Example.from_dummy(dummy)
    costs = CostModel.from_json(json.loads(json.dumps(cost_model(model, example).to_json())))
    entry = catalog.find(compressor, "torch")
    assert entry is not None
    return Forecast(inspect(model, example), costs, entry)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_foretold_is_what_is_measured(name: str, is_nightly: bool) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    dummy = torch.randn(*shape)
    forecast = forecast_of(make().eval(), dummy, "group_l1")
    drawn, cut = random.Random(0), 0
    draws = 8 if is_nightly else 4
    for _ in range(draws):
        config = {
            "config_list": [
                {"sparsity": drawn.uniform(0, 0.9), "op_names": list(group.layers)} for group in forecast.costs.groups
            ],
            "arguments": {"round_to": drawn.choice([1, 2, 4])},
        }
        model = make().eval()
        try:
            compressor = create_compressor(model, {"compressor": "group_l1", **config}, dummy_input=dummy)
            compressor.compress()
            compressor.apply_speedup()
        except RaycompressError:  # a layer with too few channels to round, or nothing to cut
            continue
        cut += 1
        measured = measure.sizes(model, Example.from_dummy(dummy))
        told = forecast.sizes(config)
        assert told == pytest.approx(
            {"params": measured.params, "flops": measured.flops, "size_bytes": measured.size_bytes}, rel=1e-6
        )
    assert cut >= draws // 2 - 1


@pytest.mark.parametrize("arguments", [{}, {"dependency_aware": True}])
def test_a_filter_pruner_of_nni_is_foretold_too(arguments: dict[str, bool]) -> None:
    torch.manual_seed(0)
    dummy, aware = torch.randn(2, 1, 8, 8), bool(arguments)
    make = networks.ResNet if aware else networks.Cnn
    forecast = forecast_of(make().eval(), dummy, "l1_filter")
    convolutions = [group for group in forecast.costs.groups if "fc" not in group.layers[0]]
    entries = [
        {"sparsity": 0.3 + 0.1 * place, "op_types": ["Conv2d"], "op_names": list(group.layers)}
        for place, group in enumerate(convolutions)
    ]
    config = {"config_list": entries, "arguments": arguments}
    model = make().eval()
    compressor = create_compressor(model, {"compressor": "l1_filter", **config}, dummy_input=dummy)
    compressor.compress()
    compressor.apply_speedup()
    assert forecast.sizes(config)["flops"] == measure.sizes(model, Example.from_dummy(dummy)).flops


def test_what_cannot_be_foretold_is_said() -> None:
    with pytest.raises(CompressionError, match="cannot be predicted"):
        cost_model(Choosing().eval(), Example.from_dummy(torch.randn(2, 8)))
