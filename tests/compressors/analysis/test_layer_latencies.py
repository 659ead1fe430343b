"""The table of layer latencies, measured on real layers."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raycompress import create_compressor
from raycompress.bundle.example import Example
from raycompress.compressors.analysis.fits import latency_table as module
from raycompress.compressors.analysis.fits.latency_table import latency_table
from raycompress.compressors.measure.sizes import latencies
from tests.support.models.networks import DUMMY, MODELS, NETWORKS


@pytest.mark.parametrize("name", [*MODELS, "vit"])
def test_every_layer_that_loses_width_is_in_it(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    table = latency_table(model, DUMMY, round_to=4, budget_s=0.5)
    assert table.share({}) == pytest.approx(1.0)
    weights = {
        key: one.weight for key, one in model.named_modules() if isinstance(getattr(one, "weight", None), Tensor)
    }
    assert {layer.name for layer in table.layers} == weights.keys()
    for layer in table.layers:
        assert len(layer.ms) == len(layer.axes[0]) * (len(layer.axes[-1]) if len(layer.axes) == 2 else 1)
        assert min(layer.ms) > 0
        assert layer.widest[1] == len(weights[layer.name])
        for axis in layer.axes:
            assert list(axis) == sorted(set(axis))
            assert not any(width % 4 for width in axis[:-1])
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())
    assert all(one.training for one in model.modules())


WIDE = torch.randn(1, 32, 6, 6)
LAYERS: dict[str, tuple[nn.Module, Tensor, tuple[int, ...]]] = {
    "conv": (nn.Conv2d(32, 24, 3, 2, 1, padding_mode="reflect"), WIDE, (8, 12)),
    "transposed": (nn.ConvTranspose2d(32, 24, 3), WIDE, (8, 12)),
    "depthwise": (nn.Conv2d(32, 32, 3, groups=32), WIDE, (8,)),
    "linear": (nn.Linear(32, 24, bias=False), torch.randn(1, 5, 32), (8, 12)),
    "batch_norm": (nn.BatchNorm2d(32), WIDE, (8,)),
    "layer_norm": (nn.LayerNorm(32), torch.randn(1, 5, 32), (8,)),
    "group_norm": (nn.GroupNorm(4, 32), WIDE, (8,)),
}


def narrow_answer(kind: str, layer: Any, x: Tensor) -> Tensor:
    if kind == "conv":
        padded = F.pad(x[:, :8], (1, 1, 1, 1), mode="reflect")
        return F.conv2d(padded, layer.weight[:12, :8], layer.bias[:12], 2)
    if kind == "transposed":
        return F.conv_transpose2d(x[:, :8], layer.weight[:8, :12], layer.bias[:12])
    if kind == "depthwise":
        return F.conv2d(x[:, :8], layer.weight[:8], layer.bias[:8], groups=8)
    if kind == "linear":
        return F.linear(x[..., :8], layer.weight[:12, :8])
    if kind == "batch_norm":
        return F.batch_norm(x[:, :8], layer.running_mean[:8], layer.running_var[:8], layer.weight[:8], layer.bias[:8])
    if kind == "layer_norm":
        return F.layer_norm(x[..., :8], (8,), layer.weight[:8], layer.bias[:8])
    return F.group_norm(x[:, :8], 4, layer.weight[:8], layer.bias[:8])


@pytest.mark.parametrize("kind", LAYERS)
def test_what_is_measured_is_the_narrow_layer(kind: str) -> None:
    layer, x, width = LAYERS[kind]
    for one in layer.parameters():
        nn.init.normal_(one)
    refused = layer.register_forward_pre_hook(lambda *_: pytest.fail("a hook of the model's was called"))
    run = module._narrowed(module._Site("it", layer, x, 0), width)
    answer = run()
    refused.remove()
    assert isinstance(answer, Tensor)
    torch.testing.assert_close(answer, narrow_answer(kind, layer, x))
    assert module._width(layer) == tuple(32 if place == 0 else 24 for place in range(len(width)))


def test_what_cannot_be_narrowed_belongs_to_the_rest() -> None:
    grouped = nn.Conv2d(8, 8, 3, groups=2)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), grouped, nn.PReLU(8), nn.Flatten(), nn.Linear(128, 4))
    table = latency_table(model, DUMMY, round_to=2, budget_s=0.2)
    assert [layer.name for layer in table.layers] == ["0", "4"]
    assert [layer.outputs for layer in table.layers] == [8 * 36, 4]


@pytest.mark.parametrize(("share", "points"), [(60.0, 5), (0.0, 2)])
def test_the_grid_is_as_fine_as_there_is_time_for(share: float, points: int) -> None:
    site = module._Site("it", nn.Conv2d(64, 64, 1), torch.randn(1, 64, 4, 4), 0)
    axes, ms = module._grid(site, 8, time.thread_time, 1e-5, share)
    assert [len(axis) for axis in axes] == [points, points]
    assert axes[0] == {5: (8, 16, 24, 40, 64), 2: (8, 64)}[points]
    assert len(ms) == points**2


def test_layers_that_are_alike_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    original = module._grid
    monkeypatch.setattr(module, "_grid", lambda site, *more: measured.append(site.name) or original(site, *more))
    table = latency_table(MODELS["resnet"](), DUMMY, budget_s=0.5)
    assert len(measured) == len(set(measured)) < len(table.layers)
    by_name = {layer.name: layer for layer in table.layers}
    assert by_name["layer1.0.conv1"].axes == by_name["layer1.1.conv2"].axes


class Wide(nn.Module):
    """Wide enough that a narrow one is faster, whatever else the machine does."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(inputs, 128, 3, padding=1) for inputs in (1, 128, 128))
        self.fc = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.fc(x.mean([2, 3]))


def test_narrower_models_are_predicted_to_be_faster_and_are() -> None:
    torch.manual_seed(0)
    dense = Wide().eval()
    table = latency_table(dense, DUMMY, budget_s=3.0)
    models: list[nn.Module] = [dense]
    for sparsity in (0.5, 0.875):
        models.append(copy.deepcopy(dense))
        config = {"compressor": "group_l1", "config_list": [{"sparsity": sparsity, "op_types": ["Conv2d"]}]}
        pruner = create_compressor(models[-1], config, dummy_input=DUMMY)
        pruner.compress()
        pruner.apply_speedup()
    widths = [
        {key: (one.weight.size(1), one.weight.size(0)) for key, one in m.named_modules() if hasattr(one, "weight")}
        for m in models
    ]
    predicted = [table.predict(each, "cpu_ms") for each in widths]
    measured = [one.cpu_ms for one in latencies(models, Example.from_dummy(DUMMY))]
    assert predicted == sorted(predicted, reverse=True)
    assert measured == sorted(measured, reverse=True)
    assert predicted[2] < 0.5 * predicted[0]
