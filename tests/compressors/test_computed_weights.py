"""Layers whose weight is computed: what is said of them names the call that makes them plain, and that call works."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from raycompress.bundle.example import Example
from raycompress.compressors.create import create_compressor
from raycompress.compressors.structure.inspection import inspect
from raycompress.errors import CompressionError, ExperimentError
from raycompress.model.info import COMPUTED

WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": weight_norm,
    "weight_norm, new": parametrizations.weight_norm,
    "spectral_norm": spectral_norm,
    "spectral_norm, new": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "pruned by torch": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}
X = torch.rand(2, 3, 8, 8)


def network(way: str) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), WAYS[way](nn.Conv2d(8, 8, 3)), nn.ReLU(), nn.Conv2d(8, 4, 3))


def made(model: nn.Module, name: str, entry: dict[str, Any]) -> nn.Module:
    pruned = {} if name == "int8_weight_only" else {"sparsity": 0.5}
    config = {"compressor": name, "config_list": [{**pruned, **entry}]}
    compressed: nn.Module = create_compressor(model, config, dummy_input=X).compress()
    return compressed


@pytest.mark.parametrize("compressor", ["l1_filter", "level"])
@pytest.mark.parametrize("way", WAYS)
def test_the_fix_names_the_call_and_the_call_works(way: str, compressor: str) -> None:
    model = network(way)
    with pytest.raises(ExperimentError) as error:
        made(model, compressor, {"op_names": ["1"]})
    fix = error.value.problems[0].fix
    (call,) = re.findall(r"torch\.nn\.utils\.\S+\(.*?\)(?= before)", fix)
    eval(call, {"torch": torch, "model": model})
    made(model, compressor, {"op_names": ["1"]})


@pytest.mark.parametrize("way", WAYS)
def test_default_leaves_them_out_and_inspection_says_why(way: str) -> None:
    model = network(way)
    known = inspect(model, Example.from_dummy(X))
    assert known.whole_layers["1"].startswith(COMPUTED)
    compressed = made(model, "level", {"op_types": ["default"]})
    assert float((compressed[3].weight == 0).float().mean()) > 0.4
    alone = nn.Sequential(WAYS[way](nn.Conv2d(3, 8, 3)), nn.ReLU())
    with pytest.raises(ExperimentError, match="no weight to prune: it is computed"):
        made(alone, "level", {"op_types": ["default"]})


@pytest.mark.parametrize("way", WAYS)
def test_int8_weights_are_no_computed_ones(way: str) -> None:
    pytest.importorskip("torchao")
    model = nn.Sequential(WAYS[way](nn.Linear(8, 8)), nn.Linear(8, 4))
    config = {"compressor": "int8_weight_only", "config_list": [{"op_types": ["default"]}]}
    with pytest.raises((ExperimentError, CompressionError), match="no weight to quantize: it is computed"):
        create_compressor(model, config, dummy_input=torch.rand(2, 8)).compress()


@pytest.mark.parametrize("way", WAYS)
def test_a_model_with_computed_weights_becomes_the_int8_of_its_plain_weights(way: str) -> None:
    pytest.importorskip("onnxruntime")
    model = network(way).eval()
    expected = model(X)
    config = {"compressor": "ptq_static", "config_list": [{"op_types": ["default"]}]}
    of_plain, int8 = (
        create_compressor(one, config, dummy_input=X, calibration_data=X).compress() for one in (plain(model), model)
    )
    torch.testing.assert_close(int8(X), of_plain(X))
    assert not torch.equal(int8(X), expected)
    assert torch.equal(network_like(model)(X), expected)  # what it was made of is as it was


def plain(model: nn.Module) -> nn.Module:
    """Return the network with the weights that `model` computes now."""
    layer = nn.Conv2d(8, 8, 3)
    layer.load_state_dict({"weight": model[1].weight.detach(), "bias": model[1].bias.detach()})
    return nn.Sequential(copy.deepcopy(model[0]), layer, *copy.deepcopy(list(model[2:]))).eval()


def network_like(int8: nn.Module) -> nn.Module:
    """Return a model with the weights of the float one inside, computed as they were."""
    plain = copy.deepcopy(int8)
    del plain.forward
    for module in plain.modules():
        hooks = [key for key, hook in module._forward_pre_hooks.items() if hook.__module__.startswith("raycompress")]
        for key in hooks:
            del module._forward_pre_hooks[key]
    return plain
