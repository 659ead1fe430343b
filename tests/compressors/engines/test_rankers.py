"""The pruners that rank by our own code choose what NNI chooses, to the channel, and load no NNI."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raycompress import create_compressor
from raycompress.bundle.example import Example
from raycompress.catalog import find
from raycompress.compressors.engine import PruningDecision, Request
from raycompress.compressors.engines.nni.library import load_nni
from raycompress.compressors.engines.ranking.engine import Ranking
from raycompress.compressors.pruning.refusals import about_whole_layers
from raycompress.compressors.targets.torch import select
from raycompress.errors import CompressionError
from tests.support.models.networks import DUMMY, MODELS, trained

PRUNERS = {"l1_filter": "L1FilterPruner", "l2_filter": "L2FilterPruner", "fpgm": "FPGMPruner"}


class Grouped(nn.Module):
    """Convolutions in two and in four groups, and an addition of both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.two = nn.Conv2d(16, 16, 3, padding=1, groups=2)
        self.four = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.last = nn.Conv2d(16, 12, 1)
        self.fc = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.two(x) + self.four(x))
        return self.fc(self.last(x).mean([2, 3]))


def network(name: str) -> nn.Module:
    if name != "grouped":
        return trained(name)
    torch.manual_seed(0)
    return Grouped()


def with_equals(model: nn.Module) -> nn.Module:
    """Make every other filter of each layer equal to the one before, and one of them zero."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
                half = len(layer.weight) // 2
                layer.weight[1 : 2 * half : 2] = layer.weight[0 : 2 * half : 2]
                layer.weight[2] = 0
    return model


def ours(name: str, model: nn.Module, config_list: Any, **arguments: Any) -> PruningDecision:
    entry = find(name)
    assert entry is not None
    defaults = {argument.name: argument.default for argument in entry.arguments}
    targets = select(model, config_list, entry)
    return Ranking().choose(Request(entry, model, targets, {**defaults, **arguments}, Example.from_dummy(DUMMY)))


def theirs(pruner: str, model: nn.Module, config_list: Any, *more: Any, **options: Any) -> dict[str, Tensor]:
    """Return NNI's weight masks, of a copy of the model."""
    found = getattr(load_nni(), pruner)(copy.deepcopy(model).eval(), config_list, *more, **options)
    found.compress()
    return {wrapper.name: wrapper.weight_mask for wrapper in found.get_modules_wrapper()}


def channels(masks: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple((mask.flatten(1).sum(1) == 0).nonzero().flatten().tolist()) for name, mask in masks.items()}


@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize("equals", [False, True])
@pytest.mark.parametrize("network_name", [*MODELS, "grouped"])
@pytest.mark.parametrize("name", PRUNERS)
def test_filters_are_those_of_nni(name: str, network_name: str, equals: bool, aware: bool, is_nightly: bool) -> None:
    model = network(network_name)
    model = with_equals(model) if equals else model
    options = {"dependency_aware": True, "dummy_input": DUMMY} if aware else {}
    before = copy.deepcopy(model.state_dict())
    for sparsity in (0.3, 0.5, 0.75) if is_nightly or not aware else (0.5,):  # each has NNI trace the model anew
        config_list = [{"sparsity": sparsity, "op_types": ["Conv2d"]}]
        expected = channels(theirs(PRUNERS[name], model, config_list, **options))
        widths = {layer: len(model.get_submodule(layer).weight) for layer in expected}
        if any(len(gone) == widths[layer] for layer, gone in expected.items()):
            with pytest.raises(CompressionError, match="would remove all channels"):
                ours(name, model, config_list, dependency_aware=aware)
        else:
            assert dict(ours(name, model, config_list, dependency_aware=aware).channels) == expected
            assert any(expected.values())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", PRUNERS)
def test_tied_layers_of_several_entries(name: str) -> None:
    """Tied layers with sparsities of their own, and one of the tied ones left out."""
    model = network("resnet")
    for config_list in (
        [
            {"sparsity": 0.5, "op_types": ["Conv2d"]},
            {"sparsity": 0.25, "op_names": ["layer1.0.conv2"], "op_types": ["Conv2d"]},
        ],
        [
            {"sparsity": 0.5, "op_types": ["Conv2d"]},
            {"exclude": True, "op_names": ["conv1"], "op_types": ["Conv2d"]},
        ],
    ):
        expected = channels(theirs(PRUNERS[name], model, config_list, dependency_aware=True, dummy_input=DUMMY))
        assert dict(ours(name, model, config_list, dependency_aware=True).channels) == expected


@pytest.mark.parametrize("equals", [False, True])
@pytest.mark.parametrize("network_name", MODELS)
def test_single_weights_are_those_of_nni(network_name: str, equals: bool) -> None:
    model = network(network_name)
    model = with_equals(model) if equals else model
    for sparsity in (0.001, 0.4, 0.9):
        config_list = [{"sparsity": sparsity, "op_types": ["Conv2d", "Linear"]}]
        expected = theirs("LevelPruner", model, config_list)
        found = ours("level", model, config_list).weights
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name] == 0) for name in expected)


@pytest.mark.parametrize("network_name", ["resnet", "mobilenet", "vgg"])
def test_channels_of_norms_are_those_of_nni(network_name: str) -> None:
    model = network(network_name)
    torch.manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.1, 1.0)
    for sparsity in (0.2, 0.5):
        config_list = [{"sparsity": sparsity, "op_types": ["BatchNorm2d"]}]
        masks = theirs("SlimPruner", model, config_list, None, None, None, sparsifying_training_epochs=0)
        expected = {name: tuple((mask == 0).nonzero().flatten().tolist()) for name, mask in masks.items()}
        assert dict(ours("slim", model, config_list).channels) == expected


SCRIPT = """
import sys, torch
from torch import nn
import raycompress as rc
for name in sys.argv[1:]:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    nn.init.uniform_(model[1].weight)
    entry = {"sparsity": 0.5, "op_names": ["1" if name == "slim" else "0"]}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images = torch.randn(2, 3, 8, 8)
    config = {"compressor": name, "config_list": [entry]}
    compressor = rc.create_compressor(model, config, optimizer=optimizer, dummy_input=images)
    compressor.compress()
    model(images).sum().backward()
    optimizer.step()
    if name != "level":
        compressor.apply_speedup()
print([name for name in ("nni", "tensorflow", "tensorboard") if name in sys.modules])
"""
NAMES = (
    *PRUNERS,
    *("level", "slim", "activation_apoz_rank_filter", "activation_mean_rank_filter", "taylor_fo_weight_filter"),
)


def test_nni_is_not_imported() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, *NAMES], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


class Residual(nn.Module):
    """Two convolutions that are added, and one behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(1, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 3)
        self.one.weight.data[:4] *= 0.01  # the smallest of one are the largest of the other
        self.two.weight.data[4:] *= 0.01

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        return self.fc(self.three(x + self.two(x).relu()).mean([2, 3]))


def test_default_leaves_out_tied_layers_that_choose_other_channels() -> None:
    torch.manual_seed(0)
    config = {"compressor": "l1_filter", "config_list": [{"sparsity": 0.5, "op_types": ["default"]}]}
    pruner: Any = create_compressor(Residual(), config, dummy_input=torch.randn(2, 1, 4, 4))
    pruner.compress()
    assert {name: len(gone) for name, gone in pruner._slicing.removal.channels.items()} == {
        "one": 0,
        "two": 0,
        "three": 4,
    }
    (note,) = about_whole_layers(pruner._slicing)
    assert note.startswith(
        '"default" left out one, two: layers that it is tied to keep their channels, or choose other'
    )
    named = {"compressor": "l1_filter", "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]}
    with pytest.raises(
        CompressionError, match='"one" was to lose 4 of 8 channels and loses none: they are tied to "two"'
    ):
        create_compressor(Residual(), named, dummy_input=torch.randn(2, 1, 4, 4)).compress()
