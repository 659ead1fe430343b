"""``quant_bits`` of a layer where a trained model is quantized: above 8 it stays float, in the file too."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import raycompress as rc
from raycompress.bundle import bundle
from raycompress.config.search_space import SearchSpace
from raycompress.errors import ExperimentError
from tests.support.experiments import experiment_with, layer, network
from tests.support.models.networks import Cnn, digits, trained

CHOICE = {"type": "choice", "range": [32, 8, 4]}


def entries(*floats: str) -> list[dict[str, Any]]:
    return [{"op_types": ["default"], "quant_bits": 8}, *({"op_names": [name], "quant_bits": 32} for name in floats)]


def saved(folder: Path, config_list: list[dict[str, Any]]) -> tuple[int, set[str], float]:
    """Return the bytes of the file, which layers' weights are float in it, and how far its outputs are off."""
    model = trained("cnn").eval()
    images = digits()[0][:64]
    expected = model(images).detach()
    config = {"compressor": "ptq_static", "config_list": config_list}
    compressor = rc.create_compressor(model, config, calibration_data=images)
    compressor.compress()
    compressor.export_model("m.pth", folder_name=str(folder), bundle_path=str(folder / "bundle"))
    with torch.no_grad():
        off = float((rc.load(folder / "bundle", Cnn())(images) - expected).norm() / expected.norm())
    path = folder / "bundle" / bundle.INT8_ONNX
    floats = {math.prod(tensor.dims) for tensor in onnx.load(str(path)).graph.initializer if tensor.data_type == 1}
    layers = ("conv1", "conv2", "fc1", "fc2")
    names = {name for name in layers if model.get_submodule(name).weight.numel() in floats}
    return path.stat().st_size, names, off


def test_a_layer_that_stays_float_is_float_in_the_file(tmp_path: Path) -> None:
    whole, none, off = saved(tmp_path / "whole", entries())
    mixed, one, less = saved(tmp_path / "mixed", entries("fc1"))
    plain, every, exact = saved(tmp_path / "plain", entries("conv1", "conv2", "fc1", "fc2"))
    assert (none, one) == (set(), {"fc1"}) and len(every) == 4
    assert whole < mixed < plain
    assert exact < 1e-5 < less < off


@pytest.mark.parametrize("compressor", ["ptq_static", "ptq_dynamic", "int8_weight_only"])
def test_a_file_may_choose_the_bits_of_each_layer(tmp_path: Path, compressor: str) -> None:
    asked = {"compressor": compressor, "type": "quantization"}
    experiment_with(tmp_path, [{"op_types": ["default"], "quant_bits": CHOICE}], compression=asked)
    wrong = {"type": "choice", "range": [32, 8, 2]}
    with pytest.raises(ExperimentError, match=f"{compressor} has no 2 bits for a layer, but 4, 8, 16, 32") as caught:
        experiment_with(tmp_path, [{"op_types": ["default"], "quant_bits": wrong}], compression=asked)
    assert caught.value.problems[0].fix.startswith('write "quant_bits": 4 or 8, or 32')


def test_a_choice_of_bits_is_a_dimension_of_each_layer(tmp_path: Path) -> None:
    asked = {"compressor": "ptq_static", "type": "quantization"}
    experiment = experiment_with(tmp_path, [{"op_types": ["Conv2d"], "quant_bits": CHOICE}], compression=asked)
    space = SearchSpace.of(experiment, network(layer("conv1"), layer("conv2"), layer("fc", "Linear")))
    assert [one.name for one in space.dimensions] == ["conv1.quant_bits", "conv2.quant_bits"]
    built = space.build({"conv1.quant_bits": 4, "conv2.quant_bits": 8})
    assert [entry["quant_bits"] for entry in built["config_list"]] == [4, 8]
