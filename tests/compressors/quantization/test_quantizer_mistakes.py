"""What cannot be quantized, or not yet, is told; calibration data of every kind is understood."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from raycompress import create_compressor, load
from raycompress.bundle import bundle
from raycompress.compressors.measure.difference import relative_difference
from raycompress.compressors.quantization.calibration import SAMPLES, from_data
from raycompress.errors import BundleError, CompressionError, ExperimentError, MissingDependencyError
from tests.support.models.networks import DUMMY, MODELS, trained
from tests.support.models.quantizing import ALL_8, HELD_OUT, needs_torchao, quantized, quantizer, saved

pytest.importorskip("onnxruntime")


IMAGES = torch.rand(300, 1, 8, 8)
PAIRS = TensorDataset(IMAGES, torch.zeros(300))


@pytest.mark.parametrize(
    "data",
    [
        IMAGES,
        PAIRS,
        DataLoader(PAIRS, batch_size=50),
        list(IMAGES.split(100)),
        [(part, torch.zeros(len(part))) for part in IMAGES.split(64)],
        [{"x": part, "labels": torch.zeros(len(part))} for part in IMAGES.split(64)],
    ],
    ids=["tensor", "dataset", "loader", "batches", "pairs", "mappings"],
)
def test_calibration_data_of_every_kind(data: Any) -> None:
    model = MODELS["cnn"]()
    examples = from_data(data, model)
    assert sum(example.batch for example in examples) == SAMPLES
    together = torch.cat([example.args[0] if example.args else example.kwargs["x"] for example in examples])
    assert torch.equal(together, IMAGES[:SAMPLES])
    assert all(set(example.kwargs) <= {"x"} for example in examples)
    examples[0].call(model)


@pytest.mark.parametrize(("data", "what"), [([], "is empty"), (3, "is a int"), ([("a", "b")], "without a tensor")])
def test_calibration_data_that_is_none(data: Any, what: str) -> None:
    with pytest.raises(CompressionError, match=what):
        quantizer(MODELS["cnn"](), "ptq_static", calibration_data=data)


@pytest.mark.parametrize(
    ("name", "entry", "what"),
    [
        ("dorefa", {"quant_types": ["input"], "quant_bits": 8}, 'dorefa does not quantize "input"'),
        ("qat", {"quant_types": ["weigth"], "quant_bits": 8}, 'qat does not quantize "weigth"'),
        ("qat", {"quant_types": [], "quant_bits": 8}, "quant_types is a list"),
        ("qat", {"quant_types": ["weight"]}, "quant_bits is missing"),
        ("qat", {"quant_types": ["weight"], "quant_bits": 1}, "qat works with 2 to 16 bits, not 1"),
        ("qat", {"quant_types": ["weight", "input"], "quant_bits": {"weight": 8}}, 'has no "input"'),
        ("qat", {"quant_types": ["weight"], "quant_bits": 8, "quant_scheme": "affine"}, "unknown quant_scheme"),
        ("naive", {"quant_types": ["weight"], "quant_bits": 4}, "naive works with 8 bits, not 4"),
        ("observer", {"quant_types": ["weight"], "quant_bits": {"weight": "8"}}, "observer works with 8 bits"),
        ("bnn", {"quant_types": ["weight"], "quant_bits": 8}, "bnn works with 1 bit, not 8"),
        ("lsq", {"quant_types": ["weight"], "quant_bits": 8, "quant_scheme": "x"}, 'unknown key "quant_scheme"'),
        ("ptq_static", {"quant_bits": 2}, "quant_bits of a layer is one of 4, 8, 16, 32, not 2"),
        ("ptq_dynamic", {}, 'Embedding, Experts only, and "conv1" is Conv2d'),
        (
            "int8_weight_only",
            {},
            'int8_weight_only takes Linear, Conv1D, Embedding, Experts only, and "conv1" is Conv2d',
        ),
    ],
)
def test_mistakes_in_the_config_list(name: str, entry: dict[str, Any], what: str) -> None:
    with pytest.raises(ExperimentError) as error:
        quantizer(MODELS["cnn"](), name, [{**entry, "op_names": ["conv1"]}])
    assert what in str(error.value)
    assert error.value.problems[0].where.startswith("config_list[0]")
    if name in ("ptq_dynamic", "int8_weight_only"):
        assert '"ptq_static" takes Conv2d' in str(error.value)


def test_a_weight_that_is_not_there() -> None:
    entry = {"quant_types": ["weight"], "quant_bits": 8, "op_types": ["ReLU"]}
    with pytest.raises(ExperimentError, match="has no weight to quantize"):
        quantizer(MODELS["vgg"](), "qat", [entry])


def test_activations_that_the_model_calls_as_functions_are_left_alone(tmp_path: Path) -> None:
    weights = {"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Conv2d"]}
    outputs = {"quant_types": ["output"], "quant_bits": 8, "quant_start_step": 7000, "op_types": ["ReLU6"]}
    model, compressor = quantized("qat", entries=[weights, outputs])
    assert torch.equal(load(saved(compressor, tmp_path), MODELS["cnn"]()).eval()(DUMMY), model.eval()(DUMMY))
    with pytest.raises(ExperimentError, match="the entry matches no layer"):
        quantizer(MODELS["cnn"](), "qat", [outputs])


def test_a_scale_for_each_channel_of_an_activation_needs_an_input(tmp_path: Path) -> None:
    entries = [
        {
            "quant_types": ["weight", "input"],
            "quant_bits": 8,
            "quant_scheme": "per_channel_affine",
            "op_names": ["conv2"],
        }
    ]
    with pytest.raises(CompressionError, match="is to have a scale for each channel, and no input is known"):
        quantizer(trained("cnn", 0), "qat", entries).compress()
    model, compressor = quantized("qat", entries=entries, dummy_input=DUMMY)
    loaded = load(saved(compressor, tmp_path), MODELS["cnn"]())
    assert relative_difference(HELD_OUT.outputs(model), HELD_OUT.outputs(loaded)) <= 1e-6


def test_tied_weights_are_refused() -> None:
    model = trained("mlp", 0)
    model.again = model.fc1
    for name in ("qat", "int8_weight_only"):
        needs_torchao(name)
        with pytest.raises(CompressionError, match='the weight of "fc1" is shared'):
            quantizer(model, name, [{**(ALL_8[0] if name == "qat" else {}), "op_types": ["Linear"]}]).compress()
        model = copy.deepcopy(model)
        model._forward_pre_hooks.clear()


def test_what_has_not_happened_yet_is_told() -> None:
    model = trained("cnn", 0)
    compressor = quantizer(model, "qat")
    with pytest.raises(CompressionError, match="export_model before compress"):
        compressor.export_model("m.pth")
    compressor.compress()
    HELD_OUT.outputs(model)  # in float: nothing was learnt yet
    with pytest.raises(CompressionError, match="qat has quantized nothing yet"):
        compressor.export_model("m.pth", dummy_input=DUMMY)
    with pytest.raises(CompressionError, match="quantized already, or has a quantizer"):
        quantizer(model, "naive")
    with pytest.raises(CompressionError, match="observer has seen no data"):
        quantizer(trained("cnn", 0), "observer", calibration_data=None).compress()
    with pytest.raises(CompressionError, match="ptq_static has no data to calibrate with"):
        quantizer(trained("cnn", 0), "ptq_static", calibration_data=None).compress()
    with pytest.raises(ExperimentError, match="calibration is one of minmax, entropy, percentile"):
        quantizer(trained("cnn", 0), "ptq_static", calibration="mean").compress()
    with pytest.raises(ExperimentError, match="lsq needs optimizer="):
        quantizer(trained("cnn", 0), "lsq", optimizer=None)
    late = [{"quant_types": ["weight"], "quant_bits": 8, "quant_start_step": 50, "op_types": ["Conv2d"]}]
    with pytest.raises(CompressionError, match=r"quantized nothing yet of conv1: weight"):
        quantized("qat", entries=late)[1].export_model("m.pth")


def test_observer_and_static_take_what_the_model_was_called_with(tmp_path: Path) -> None:
    for name in ("observer", "ptq_static"):
        model = trained("cnn")
        compressor = quantizer(model, name, calibration_data=None)
        HELD_OUT.outputs(model)
        compressor.compress()
        saved(compressor, tmp_path / name)


def test_without_the_extra_a_fake_quantizer_says_so_and_the_others_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, compressor = quantized("qat")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    notes = bundle.read(saved(compressor, tmp_path)).notes
    assert "the size is as it was" in notes[0]
    assert "pip install 'raycompress[onnx]'" in notes[0]
    with pytest.raises(MissingDependencyError, match="onnxruntime"):
        quantizer(trained("cnn", 0), "ptq_static").compress()


def test_training_with_rounded_values_takes_float32_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).bfloat16()
    entry = {"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Linear"]}
    with pytest.raises(CompressionError, match="are bfloat16, and qat computes in float32"):
        create_compressor(model, {"compressor": "qat", "config_list": [entry]})


def test_extra_state_that_is_no_tensor_is_refused_by_name():
    class Counting(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            pass

    model = nn.Sequential(nn.Linear(4, 8), Counting(8, 2))
    config = {"compressor": "level", "config_list": [{"sparsity": 0.5, "op_types": ["Linear"]}]}
    pruner = create_compressor(model, config, dummy_input=torch.randn(1, 4))
    with pytest.raises(BundleError, match="1 keeps extra state, a dict"):
        pruner.compress()
