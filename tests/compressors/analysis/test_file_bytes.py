"""Bytes of files that are quantized: predicted for networks that were not among those it was fitted to."""

import json

import numpy as np
import pytest
import torch

from raycompress.bundle.example import Example
from raycompress.compressors.analysis.fits.file_bytes import file_bytes, stored_layers
from raycompress.compressors.analysis.rounded import Rounding, rounded_weight
from raycompress.compressors.structure.costing import cost_model
from raycompress.model.file_bytes import FileBytes
from tests.benchmarks.compression.stored import CASES, WITHIN, difference, errors
from tests.support.models.networks import DUMMY, MODELS


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.night) for name in CASES if name != "mobilenet"] + ["mobilenet"]
)
def test_to_one_percent(name):
    found = np.abs(errors(name, 12))
    assert np.median(found) <= WITHIN and (found <= WITHIN).mean() >= 0.75, found


@pytest.mark.parametrize("name", ["mobilenet", "llama"])
def test_a_deployed_file_computes_what_was_measured(name):
    assert difference(name) < 1e-6


def test_layers_and_bits_of_a_stage_as_the_last_entry_says():
    model, example = MODELS["cnn"](), Example.from_dummy(DUMMY)
    costs = cost_model(model, example)
    first, *_, last = [
        name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    ]
    choice = {"type": "choice", "range": [32, 8]}
    entries = [
        {"op_types": ["default"], "quant_bits": choice},
        {"op_names": [first], "quant_bits": 8},
        {"op_names": [last], "exclude": True},
    ]
    layers = stored_layers(model, costs, {"compressor": "ptq_static", "config_list": entries, "arguments": {}})
    bits = {layer.name: layer.bits for layer in layers}
    assert bits[first] == (8,) and last not in bits and {*bits.values()} == {(8,), (8, 32)}
    known = FileBytes("ptq_static", tuple(layers), {"file": 100.0}, 0.0)
    assert FileBytes.from_json(json.loads(json.dumps(known.to_json()))) == known


def test_what_is_no_function_of_widths_is_not_predicted(monkeypatch):
    sizes = iter(range(10**5, 10**8, 10**5))
    monkeypatch.setattr("raycompress.compressors.analysis.fits.file_bytes._quantized", lambda *_: float(next(sizes)))
    model, example = MODELS["cnn"](), Example.from_dummy(DUMMY)
    stage = {"compressor": "ptq_static", "config_list": [], "arguments": {}}
    with pytest.raises(Exception, match=r"off by .* from what is predicted"):
        file_bytes(model, example, cost_model(model, example), stage)


def test_a_rounded_model_computes_with_few_values_and_is_itself_again():
    torch.manual_seed(0)
    model, inputs = MODELS["cnn"]().eval(), DUMMY
    example = Example.from_dummy(inputs)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers = [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]
    with torch.no_grad():
        exact = model(inputs)
        differences = []
        for bits in (8, 4):
            with Rounding([example])(model, dict.fromkeys(layers, bits)) as rounded:
                differences.append(float((rounded(inputs) - exact).norm() / exact.norm()))
                rows = rounded.get_submodule(layers[0]).weight.flatten(1)
                assert max(len(row.unique()) for row in rows) <= 2**bits
        assert 0 < differences[0] < differences[1] < 1
        assert torch.equal(model(inputs), exact)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_four_bits_of_a_linear_layer_have_a_scale_for_each_group_of_inputs():
    weight = torch.cat([torch.randn(3, 32), 100 * torch.randn(3, 8)], 1)
    found = rounded_weight(weight, 0, 4)
    assert (found[:, :32] - weight[:, :32]).abs().max() < 1 and torch.equal(rounded_weight(weight.T, 1, 4), found.T)
