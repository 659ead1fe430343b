"""Layers whose weight is computed: what is said of them names the call that makes them plain, and that call works."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import raycompress as rc
from raycompress.bundle import bundle
from raycompress.bundle.example import Example
from raycompress.compressors.analysis.fits.file_bytes import file_bytes
from raycompress.compressors.analysis.rounded import Rounding
from raycompress.compressors.create import create_compressor
from raycompress.compressors.structure.costing import cost_model
from raycompress.compressors.structure.inspection import inspect
from raycompress.config import recipe
from raycompress.config.checks.preflight import check_model
from raycompress.config.search_space import SearchSpace
from raycompress.errors import CompressionError, ExperimentError
from raycompress.model.info import COMPUTED
from raycompress.model.stored import block_of
from tests.support.experiments import experiment_with

WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": weight_norm,
    "weight_norm, new": parametrizations.weight_norm,
    "spectral_norm": spectral_norm,
    "spectral_norm, new": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "pruned by torch": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}
X = torch.rand(2, 3, 8, 8)
ROW = torch.rand(2, 8)
BITS = {"type": "choice", "range": [8, 32]}


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
def test_int8_weights_are_no_computed_ones(way: str, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    model = nn.Sequential(WAYS[way](nn.Linear(8, 8)), nn.Linear(8, 4)).eval()
    by_name = {"compressor": "int8_weight_only", "config_list": [{"op_names": ["0"]}]}
    alone = nn.Sequential(WAYS[way](nn.Linear(8, 8)))
    by_default = {**by_name, "config_list": [{"op_types": ["default"]}]}
    for one, config in ((model, by_name), (alone, by_default)):
        with pytest.raises(ExperimentError, match="no weight to quantize: it is computed"):
            create_compressor(one, config, dummy_input=torch.rand(2, 8)).compress()
    compressor = create_compressor(model, by_default, dummy_input=torch.rand(2, 8))
    compressor.compress()
    compressor.export_model("m.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    assert "left float, since their weights are computed: 0" in bundle.read(tmp_path / "bundle").notes


@pytest.mark.parametrize("way", WAYS)
def test_compress_leaves_them_whole_without_being_asked(way: str) -> None:
    model = rows(way)
    done = rc.compress(model, torch.rand(2, 8), compressor="group_l1", sparsity=0.5)
    pruned = [layer.out_features for layer in done.model.children() if isinstance(layer, nn.Linear)]
    assert pruned[1] == 64 and pruned[2] == 32


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("name", "has"), [("level", False), ("int8_weight_only", False), ("ptq_dynamic", True)])
def test_a_search_has_a_dimension_for_them_where_the_compressor_takes_them(
    name: str, has: bool, way: str, tmp_path: Path
) -> None:
    model = rows(way)
    is_level = name == "level"
    value = {"sparsity": {"type": "float", "range": [0.1, 0.6]}} if is_level else {"quant_bits": BITS}
    compression = {"type": "pruning" if is_level else "quantization", "compressor": name}
    experiment = experiment_with(tmp_path, [{"op_types": ["default"], **value}], compression=compression)
    info = inspect(model, Example.from_dummy(ROW))
    problems, notes = check_model(experiment, info)
    assert not problems
    assert any('leaves out "2": its weight is computed' in note for note in notes) is not has
    layers = [dimension.name.partition(".")[0] for dimension in SearchSpace.of(experiment, info).dimensions]
    assert layers == (["0", "2", "4", "6"] if has else ["0", "4", "6"])
    named = experiment_with(tmp_path, [{"op_names": ["2"], **value}], compression=compression)
    found = [problem.what for problem in check_model(named, info)[0]]
    assert not found if has else "its weight is computed" in found[0]


@pytest.mark.parametrize("way", WAYS)
def test_the_file_of_a_target_leaves_them_alone(way: str, tmp_path: Path) -> None:
    model, example = rows(way), Example.from_dummy(ROW)
    info = replace(inspect(model, example), costs=cost_model(model, example))
    data = recipe.to_inspect("x", str(tmp_path / "train.py"), 0)
    assert info.costs is not None and "2" not in recipe.prunable_layers(info, info.costs)
    compression = {**data["compression"], "config_list": recipe._config_list(info, info.costs)}
    assert not check_model(experiment_with(tmp_path, compression=compression), info)[0]


@pytest.mark.parametrize("way", WAYS)
def test_a_survey_rounds_them_and_their_bytes_are_predicted(way: str) -> None:
    pytest.importorskip("onnxruntime")
    model, example = rows(way), Example.from_dummy(ROW)
    with torch.no_grad(), Rounding([example])(model, dict.fromkeys(["0", "2"], 4)) as rounded:
        weight = rounded.get_submodule("2").weight
        assert max(len(row.unique()) for row in weight.view(-1, block_of(64))) <= 2**4
        assert not torch.equal(weight, model[2].weight)
    stage = {"compressor": "ptq_dynamic", "config_list": [{"op_types": ["default"], "quant_bits": BITS}]}
    costs = cost_model(model, example)
    if way == "pruned by torch":  # its masks are bytes of the model, and none of the file
        with pytest.raises(CompressionError, match=r"are off by .* from what is predicted"):
            file_bytes(model, example, costs, {**stage, "arguments": {}}, budget_s=0)
        return
    known = file_bytes(model, example, costs, {**stage, "arguments": {}}, budget_s=0)
    assert [one.name for one in known.layers] == ["0", "2", "4", "6"]
    assert known.error < 0.05


def rows(way: str) -> nn.Sequential:
    """Return a network of linear layers; the weight of the second one, "2", is computed."""
    torch.manual_seed(0)
    layers = (nn.Linear(8, 64), WAYS[way](nn.Linear(64, 64)), nn.Linear(64, 64), nn.Linear(64, 4))
    first, second, third, last = layers
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third, nn.ReLU(), last).eval()


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
    computed = model.get_submodule("1")
    layer.load_state_dict({"weight": computed.weight.detach(), "bias": computed.bias.detach()})
    first, *others = (copy.deepcopy(model.get_submodule(name)) for name in ("0", "2", "3"))
    return nn.Sequential(first, layer, *others).eval()


def network_like(int8: nn.Module) -> nn.Module:
    """Return a model with the weights of the float one inside, computed as they were."""
    plain = copy.deepcopy(int8)
    del plain.forward
    for module in plain.modules():
        hooks = [key for key, hook in module._forward_pre_hooks.items() if hook.__module__.startswith("raycompress")]
        for key in hooks:
            del module._forward_pre_hooks[key]
    return plain
