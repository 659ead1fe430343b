"""Quantizers: what is measured is what is saved, files get smaller, and what cannot be quantized is told."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raycompress import create_compressor, load
from raycompress.bundle import bundle
from raycompress.bundle.example import Example
from raycompress.compressors.measure.difference import relative_difference
from raycompress.compressors.modes import compare
from raycompress.compressors.quantization import session
from raycompress.errors import BundleError, CompressionError, SpeedupError
from raycompress.script.context import EndOfInspection
from tests.support.launching import REPOSITORY
from tests.support.models.networks import DUMMY, MODELS, NETWORKS, digits, train, trained
from tests.support.models.quantizer_table import QUANTIZERS, rows
from tests.support.models.quantizing import ALL_8, FAKE, FORMS, HELD_OUT, needs_torchao, quantized, quantizer, saved

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("network", ["cnn", "resnet"])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_what_is_measured_is_what_is_loaded(name: str, network: str, tmp_path: Path) -> None:
    model, compressor = quantized(name, network)
    names = list(NETWORKS[network]().state_dict())
    measured = HELD_OUT.outputs(model)
    folder = saved(compressor, tmp_path)
    loaded = load(folder, NETWORKS[network]())
    assert relative_difference(measured, HELD_OUT.outputs(loaded)) <= 1e-6
    plain = NETWORKS[network]()
    plain.load_state_dict(torch.load(tmp_path / "m.pth", weights_only=True))
    assert list(plain.state_dict()) == names
    manifest = bundle.read(folder)
    assert manifest.kind == "quantized"
    assert manifest.after.size_bytes < manifest.before.size_bytes
    assert manifest.before.size_bytes == sum(
        4 * p.numel() if p.is_floating_point() else 8 for p in plain.state_dict().values()
    )
    assert any(f"{manifest.after.size_bytes:,} bytes" in note for note in manifest.notes)
    if name != "int8_weight_only":
        assert manifest.after.size_bytes == (folder / bundle.INT8_ONNX).stat().st_size


@pytest.mark.parametrize("name", FAKE)
def test_after_apply_speedup_the_int8_model_is_measured(name: str, tmp_path: Path) -> None:
    model, compressor = quantized(name)
    fake = HELD_OUT.outputs(model)
    assert compressor.apply_speedup() is model
    assert type(model) is MODELS["cnn"]
    assert list(model.state_dict()) == list(MODELS["cnn"]().state_dict())
    measured = HELD_OUT.outputs(model)
    assert 0 < relative_difference(fake, measured) < 0.2
    loaded = load(saved(compressor, tmp_path), MODELS["cnn"]())
    assert relative_difference(measured, HELD_OUT.outputs(loaded)) <= 1e-6


def test_a_bundle_of_each_form_loads_in_a_fresh_process(tmp_path: Path) -> None:
    folders = []
    for name in FORMS:
        needs_torchao(name)
        folders.append(saved(quantized(name)[1], tmp_path / name))
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from tests.support.models.networks import Cnn\n"
        "from raycompress import load\n"
        "from raycompress.bundle import bundle\n"
        "from raycompress.compressors.measure.difference import relative_difference\n"
        "for folder in map(Path, sys.argv[2:]):\n"
        "    example, outputs = bundle.reference(folder)\n"
        "    print(relative_difference(outputs, example.outputs(load(folder, Cnn()))))\n"
        "assert 'nni' not in sys.modules and 'tensorflow' not in sys.modules\n"
    )
    words = [sys.executable, "-c", script, str(REPOSITORY), *map(str, folders)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    differences = [float(line) for line in done.stdout.split()]
    assert len(differences) == len(FORMS)
    assert max(differences) <= 1e-6


@pytest.mark.parametrize("name", ["qat", "lsq"])
@pytest.mark.parametrize("network", ["resnet", "vgg"])
def test_folded_batch_norm_is_saved_under_the_plain_names(name: str, network: str, tmp_path: Path) -> None:
    model, compressor = quantized(name, network, dummy_input=DUMMY, entries=ALL_8)
    measured = HELD_OUT.outputs(model)
    loaded = load(saved(compressor, tmp_path), NETWORKS[network]())
    # sums in another order: single values may go to the next point of their grid
    assert relative_difference(measured, HELD_OUT.outputs(loaded)) <= 0.02
    weight = dict(loaded.named_parameters())["conv1.weight" if network == "resnet" else "features.0.weight"]
    assert len(weight.unique()) <= 256


@pytest.mark.parametrize("name", ["naive", "qat", "dorefa", "bnn", "lsq"])
def test_the_scripts_optimizer_trains_on_its_own_parameters(name: str) -> None:
    model = trained("cnn")
    own = {id(parameter) for parameter in model.parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before = copy.deepcopy(model.state_dict())
    quantizer(model, name, optimizer=optimizer).compress()
    train(model, 3, optimizer=optimizer)
    trainable = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert own <= trainable
    assert "step" not in vars(optimizer)
    moved = dict(model.named_parameters())["conv2.module.old_weight"]
    assert id(moved) in own
    assert not torch.equal(moved, before["conv2.weight"])


def test_an_optimizer_made_after_compress_counts_too(tmp_path: Path) -> None:
    model = trained("cnn")
    compressor = quantizer(model, "qat")
    compressor.compress()
    train(model, 4)
    saved(compressor, tmp_path)


def test_training_goes_on_after_an_export(tmp_path: Path) -> None:
    model, compressor = quantized("qat")
    first = HELD_OUT.outputs(load(saved(compressor, tmp_path), MODELS["cnn"]()))
    train(model, 8)
    second = HELD_OUT.outputs(load(saved(compressor, tmp_path), MODELS["cnn"]()))
    assert relative_difference(first, second) > 1e-3
    assert relative_difference(HELD_OUT.outputs(model), second) <= 1e-6


@pytest.mark.parametrize("name", ["ptq_static", "int8_weight_only"])
def test_an_int8_model_is_evaluated_and_not_trained(name: str) -> None:
    model, compressor = quantized(name)
    twin = copy.deepcopy(model)
    assert relative_difference(HELD_OUT.outputs(model), HELD_OUT.outputs(twin)) == 0
    with pytest.raises(CompressionError, match="can only compute in eval mode"):
        train(model, 1)
    assert compressor.apply_speedup() is model


def test_an_int8_model_is_called_as_the_float_one() -> None:
    model, _ = quantized("ptq_static", "cnn")
    assert session.installed(model) is not None
    images = digits()[0][:7]
    torch.testing.assert_close(model(images), model(x=images))
    with pytest.raises(CompressionError, match=r"cannot compute an input of shape \[7, 1, 4, 8\]"):
        model(images[:, :, :4])


def test_activations_without_weights_are_quantized_too(tmp_path: Path) -> None:
    entries = [
        {"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Conv2d", "Linear"]},
        {"quant_types": ["output"], "quant_bits": 4, "quant_start_step": 2, "op_types": ["ReLU"]},
    ]
    model, compressor = quantized("qat", "vgg", entries=entries)
    loaded = load(saved(compressor, tmp_path), MODELS["vgg"]())
    assert relative_difference(HELD_OUT.outputs(model), HELD_OUT.outputs(loaded)) <= 1e-6
    seen: list[Tensor] = []
    loaded.features[2].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    HELD_OUT.outputs(loaded)
    assert len(seen[0].unique()) <= 16


def test_bits_that_int8_cannot_hold_leave_the_size_as_it_was(tmp_path: Path) -> None:
    entries = [{"quant_types": ["weight"], "quant_bits": 16, "op_types": ["Conv2d"]}]
    _, compressor = quantized("qat", entries=entries)
    folder = saved(compressor, tmp_path)
    manifest = bundle.read(folder)
    assert manifest.after == manifest.before
    assert "the size is as it was, 17,096 bytes: int8 cannot hold" in manifest.notes[0]
    assert not (folder / bundle.INT8_ONNX).exists()
    with pytest.raises(SpeedupError, match="int8 cannot hold"):
        compressor.apply_speedup()


def test_layers_that_stay_float_are_told(tmp_path: Path) -> None:
    entries = [
        {"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Conv2d"]},
        {"quant_types": ["weight"], "quant_bits": 12, "op_names": ["fc1"]},
    ]
    _, compressor = quantized("qat", entries=entries)
    notes = bundle.read(saved(compressor, tmp_path)).notes
    assert any(note.startswith("fc1: float in the int8 file") for note in notes)


def test_what_the_script_names_is_written(tmp_path: Path) -> None:
    model, compressor = quantized("qat")
    compressor.export_model(
        "m.pth", "mask.pth", str(tmp_path), calibration_path="c.pth", onnx_path="m.onnx", device="cpu"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.pth", "m.onnx", "m.pth", "mask.pth"]
    calibration = torch.load(tmp_path / "c.pth", weights_only=True)
    assert set(calibration["conv1"]) == {"input_bits", "tracked_min_input", "tracked_max_input"}
    assert calibration["conv2"]["input_bits"] == 8
    assert calibration["conv2"]["tracked_min_input"] < calibration["conv2"]["tracked_max_input"]
    import onnxruntime

    running = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    got = torch.from_numpy(running.run(None, {"input.0": DUMMY.numpy()})[0])
    assert relative_difference(Example.from_dummy(DUMMY).outputs(model), [got]) <= 1e-4


def test_flops_and_parameters_are_counted_whatever_computes() -> None:
    model = trained("cnn")
    compressor = quantizer(model, "qat")
    before = compressor.count_flops_params((1, 1, 8, 8))[:2]
    compressor.compress()
    train(model, 2)
    assert compressor.count_flops_params((1, 1, 8, 8))[:2] == before
    compressor.apply_speedup()
    assert compressor.count_flops_params((1, 1, 8, 8))[:2] == before
    assert min(before) > 0


def finish(trial: Any) -> None:
    for hook in trial.on_finish:
        hook()


def report(trial: Any) -> None:
    for hook in trial.on_report:
        hook({"accuracy": 1.0})


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_trial_saves_the_model_that_it_reported(name: str, enter: Callable[..., Any]) -> None:
    trial, sent = enter("trial", exports=("onnx",))
    model, compressor = quantized(name)
    HELD_OUT.outputs(model)
    report(trial)
    compressor.export_model("model.pth", calibration_path="c.pth")
    finish(trial)
    (message,) = sent
    assert message["type"] == "candidate"
    assert message["after"]["size_bytes"] < message["before"]["size_bytes"]
    assert message["notes"]
    assert {"model.pth", "c.pth", bundle.ONNX, bundle.QUANTIZATION} <= set(bundle.read(trial.candidate).files)


def test_a_report_before_apply_speedup_is_not_the_saved_model(enter: Callable[..., Any]) -> None:
    trial, _ = enter("trial")
    _, compressor = quantized("qat")
    report(trial)
    compressor.apply_speedup()
    compressor.export_model("model.pth")
    with pytest.raises(CompressionError, match="the model changed between the last report and the save"):
        finish(trial)


@pytest.mark.parametrize("name", FORMS)
def test_verification_compares_and_times_the_smallest_file(
    name: str, enter: Callable[..., Any], tmp_path: Path
) -> None:
    folder = saved(quantized(name)[1], tmp_path)
    _, sent = enter("verify", bundle=folder)
    with pytest.raises(EndOfInspection):
        create_compressor(MODELS["cnn"](), {})
    (message,) = sent
    assert message["relative_difference"] <= 1e-6
    assert message["after"]["size_bytes"] == bundle.read(folder).after.size_bytes < message["before"]["size_bytes"]
    assert message["after"]["latency_ms"] > 0
    other = NETWORKS["mlp"]()
    with pytest.raises(BundleError, match="does not fit Mlp"):
        load(folder, other)


def test_another_model_is_told_from_the_saved_one(tmp_path: Path) -> None:
    folder = saved(quantized("qat")[1], tmp_path)
    loaded = load(folder, MODELS["cnn"]())
    loaded.conv1.weight.data.mul_(1.1)
    assert compare(MODELS["cnn"](), loaded, folder, {})["relative_difference"] > 1e-3


def test_dynamic_quantization_takes_lstms(tmp_path: Path) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 64, batch_first=True)
            self.fc = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.lstm(x.squeeze(1))[0][:, -1])

    torch.manual_seed(0)
    model = Reader()
    before = HELD_OUT.outputs(model)
    compressor = quantizer(model, "ptq_dynamic", [{"op_types": ["LSTM", "Linear"]}])
    compressor.compress()
    folder = saved(compressor, tmp_path)
    assert 0 < relative_difference(before, HELD_OUT.outputs(load(folder, Reader()))) < 0.05
    assert bundle.read(folder).after.size_bytes < 0.4 * bundle.read(folder).before.size_bytes


@pytest.mark.parametrize(
    ("quantizer_name", "kind"), [("ptq_static", "LSTM"), ("ptq_static", "GRU"), ("ptq_dynamic", "GRU")]
)
def test_recurrent_weights_are_stored_as_int8(quantizer_name: str, kind: str, tmp_path: Path) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = getattr(nn, kind)(8, 48, num_layers=2, batch_first=True, bidirectional=True)
            self.fc = nn.Linear(96, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.cells(x.squeeze(1))[0].mean(1))

    torch.manual_seed(0)
    model = Reader()
    before = HELD_OUT.outputs(model)
    compressor = quantizer(model, quantizer_name, [{"op_types": ["default"]}])
    compressor.compress()
    folder = saved(compressor, tmp_path)
    assert 0 < relative_difference(before, HELD_OUT.outputs(load(folder, Reader()))) < 0.02
    manifest = bundle.read(folder)
    assert manifest.after.size_bytes < 0.35 * manifest.before.size_bytes
    assert any(note.startswith("weights stored as int8, computed in float: cells") for note in manifest.notes)


def test_a_baseline_is_the_float_model(enter: Callable[..., Any]) -> None:
    enter("baseline")
    model = trained("cnn", 0)
    before = HELD_OUT.outputs(model)
    compressor = create_compressor(model, {"compressor": "ptq_static"}, calibration_data=digits()[0])
    assert relative_difference(before, HELD_OUT.outputs(compressor.compress())) == 0


def test_the_table_has_a_row_for_each_pair() -> None:
    found = rows(("naive", "ptq_dynamic"), ("mlp",))
    assert [(row.quantizer, row.network, row.refused) for row in found] == [
        ("naive", "mlp", ""),
        ("ptq_dynamic", "mlp", ""),
    ]
    assert all(row.after < row.before for row in found)
    assert all(abs(row.dense - row.quantized) < 0.05 for row in found)
