"""By hand, trial, baseline, inspect, verify: the same script body in each."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from raycompress import create_compressor
from raycompress.bundle import bundle
from raycompress.compressors.measure import sizes as measure
from raycompress.compressors.modes import DenseCompressor
from raycompress.errors import BundleError, CompressionError, UsageError
from raycompress.model.info import ModelInfo
from raycompress.model.latency_model import LatencyModel
from raycompress.script.context import EndOfInspection, Trial
from tests.support.models.networks import CONVOLUTIONS, DUMMY, Cnn, MobileNet, ResNet, train, trained

CONFIG = {"compressor": "l1_filter", "config_list": CONVOLUTIONS}


def finish(trial: Trial) -> None:
    for hook in trial.on_finish:
        hook()


def report(trial: Trial, value: float = 0.5) -> None:
    for hook in trial.on_report:
        hook({"accuracy": value})


def test_a_trial_exports_a_bundle_and_the_users_files(enter: Any, tmp_path: Path) -> None:
    trial, sent = enter("trial")
    model = trained("resnet")
    dense = copy.deepcopy(model)
    compressor = create_compressor(model, CONFIG)
    compressor.compress()
    train(model, 3)
    report(trial)  # the masked model's metric is the sliced model's
    compressor.apply_speedup()
    for _ in range(2):  # the last export wins, and nothing is left of the writing
        compressor.export_model("model.pth", mask_path="masks/mask.pth", folder_name="saved", save_best_only=True)
    finish(trial)
    folder = trial.candidate
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        *bundle.FILES, "saved/model.pth", "saved/masks/mask.pth",
    }  # fmt: skip
    message = sent[-1]
    assert message["type"] == "candidate"
    assert message["before"]["params"] == measure.parameters(dense)
    assert message["after"]["params"] == measure.parameters(model) < measure.parameters(dense)
    assert message["removed"]["layer1.0.conv1"] == [8, 16]
    state = torch.load(folder / "saved/model.pth", weights_only=True)
    assert list(state) == list(model.state_dict())
    masks = torch.load(folder / "saved/masks/mask.pth", weights_only=True)
    assert {name: mask.shape for name, mask in masks.items()}["conv1.weight"] == dense.conv1.weight.shape
    loaded = bundle.load(folder, ResNet())
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(model.eval()(images), loaded.eval()(images))


def test_a_metric_of_other_weights_fails_the_trial(enter: Any) -> None:
    trial, _ = enter("trial")
    model = trained("cnn")
    compressor = create_compressor(model, CONFIG)
    compressor.compress()
    train(model, 1)
    report(trial)
    train(model, 1)
    compressor.apply_speedup()
    compressor.export_model("model.pth")
    with pytest.raises(CompressionError, match="the model changed between the last report and the save"):
        finish(trial)
    report(trial)  # of what was saved
    finish(trial)


def test_a_report_without_a_save_of_a_model_that_changed_since_fails_the_trial(enter: Any) -> None:
    trial, _ = enter("trial")
    model = trained("cnn", 0)
    create_compressor(model, CONFIG, dummy_input=DUMMY).compress()
    report(trial)
    train(model, 1)
    with pytest.raises(CompressionError, match="reported a result but saved no model"):
        finish(trial)


def test_nothing_is_saved_where_no_model_is_asked_for(enter: Any) -> None:
    trial, sent = enter("trial", save_model=False)
    compressor = create_compressor(trained("cnn", 0), CONFIG, dummy_input=DUMMY)
    compressor.compress()
    compressor.export_model("model.pth")
    report(trial)
    finish(trial)
    assert not trial.candidate.exists()
    assert not sent


@pytest.mark.parametrize("path", ["/tmp/model.pth", "../model.pth", "a/../../model.pth", "manifest.json"])
def test_paths_stay_in_the_candidate_folder(enter: Any, path: str) -> None:
    trial, _ = enter("trial")
    compressor = create_compressor(trained("cnn", 0), CONFIG, dummy_input=DUMMY)
    compressor.compress()
    with pytest.raises(UsageError):
        compressor.export_model(path)
    assert not trial.candidate.exists()


def test_by_hand_plain_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = trained("vgg")
    compressor = create_compressor(model, CONFIG)
    compressor.compress()
    compressor.export_model("m.pth", "mask.pth", folder_name="out", dummy_input=DUMMY)
    assert sorted(path.name for path in Path("out").iterdir()) == ["m.pth", "mask.pth"]
    trained("vgg", 0).load_state_dict(torch.load("out/m.pth", weights_only=True))  # masked: fits the plain class
    compressor.export_model("m.pth", speedup=True, dummy_input=DUMMY, bundle_path="bundle")
    assert bundle.read(Path("bundle")).after.params == measure.parameters(model)
    assert not Path("manifest.json").exists()


def test_export_before_any_input_says_what_to_pass() -> None:
    compressor = create_compressor(trained("cnn", 0), {"compressor": "level", "config_list": CONVOLUTIONS})
    with pytest.raises(CompressionError, match="before compress"):
        compressor.export_model("m.pth")
    compressor.compress()
    with pytest.raises(CompressionError, match="no input of the model is known"):
        compressor.export_model("m.pth")


def test_the_baseline_prunes_and_saves_nothing(enter: Any) -> None:
    trial, sent = enter("baseline")
    model = trained("cnn")
    before = copy.deepcopy(model.state_dict())
    compressor = create_compressor(model, CONFIG)
    assert isinstance(compressor, DenseCompressor)
    assert compressor.compress() is model
    for _ in compressor.get_prune_iterations():
        compressor.prune_iteration_start()
        compressor.update_epoch(0)
        compressor.step()
    assert compressor.apply_speedup(DUMMY) is model
    compressor.export_model("model.pth")
    report(trial)
    finish(trial)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not sent
    assert not trial.candidate.exists()


def inspected(sent: list[dict[str, Any]]) -> ModelInfo:
    (message,) = (message for message in sent if message["type"] != "progress")
    assert message["type"] == "model"
    return ModelInfo.from_json(message["model"])


def test_inspection_ends_at_the_first_input(enter: Any) -> None:
    _, sent = enter("inspect")
    model = ResNet()
    compressor = create_compressor(model, {"compressor": "no such thing"})
    with pytest.raises(EndOfInspection):
        compressor.compress()(torch.randn(5, 1, 8, 8))
    info = inspected(sent)
    assert info.input_shapes == ((1, 1, 8, 8),)
    assert info.output_layers == ("fc",)
    assert info.ties is not None
    assert info.tie_of("conv1") == ("conv1", "layer1.0.conv2", "layer1.1.conv2")
    assert info.tie_of("layer2.0.bn2") == ("layer2.0.bn2", "layer2.0.shortcut.1", "layer2.1.bn2")
    assert info.tie_of("layer1.0.conv1") == ("layer1.0.conv1",)
    layer = info.layer("layer2.0.conv1")
    assert layer is not None
    assert (layer.type, layer.channels, layer.weight_shape) == ("Conv2d", 32, (32, 16, 3, 3))
    assert layer.flops == 16 * 32 * 16 * 9
    assert info.flops is not None
    assert info.flops == sum(layer.flops or 0 for layer in info.layers)
    assert info.parameters == measure.parameters(model)


def test_inspection_with_a_dummy_input_ends_at_once(enter: Any) -> None:
    _, sent = enter("inspect")
    with pytest.raises(EndOfInspection):
        create_compressor(MobileNet(), CONFIG, dummy_input=DUMMY)
    assert inspected(sent).tie_of("depthwise") == ("expand", "depthwise")


def test_inspection_times_networks_in_the_target_or_says_why_it_cannot(enter: Any) -> None:
    def wanted(*known: LatencyModel) -> dict[str, Any]:
        fits = [one.to_json() for one in known]
        deployed = {"targets": ["openvino", "onnxruntime-batch2"], "budget_s": 0, "known": fits}
        return {"analysis": {"costs": True, "deployed": deployed}, "latency": True}

    other: dict[str, Any] = {"runtime": "onnxruntime", "batch": 2}
    _, sent = enter("inspect", targets=({"runtime": "onnxruntime"}, other), **wanted())
    with pytest.raises(EndOfInspection):
        create_compressor(MobileNet(), CONFIG, dummy_input=DUMMY)
    info = inspected(sent)
    assert info.latency is None  # nothing asks for what it is in the first target
    (fit,) = info.latency_models
    assert info.latency_in == {"onnxruntime-batch2": fit}
    assert fit.target == "onnxruntime-batch2"
    assert ModelInfo.from_json(info.to_json()) == info
    assert {message["type"] for message in sent} == {"model", "progress"}

    missing = {"runtime": "openvino", "python": "/no/such/python"}
    _, sent = enter("inspect", targets=(missing, other), **wanted(fit))
    with pytest.raises(EndOfInspection):
        create_compressor(MobileNet(), CONFIG, dummy_input=DUMMY)
    info = inspected(sent)
    assert info.latency is None
    assert info.latency_models == [fit]
    assert {message["type"] for message in sent} == {"model"}  # nothing was timed again
    assert "/no/such/python" in info.latency_unknown
    assert ModelInfo.from_json(info.to_json()) == info


def test_inspection_of_a_script_whose_first_input_is_that_of_the_speedup(enter: Any) -> None:
    _, sent = enter("inspect")
    compressor = create_compressor(Cnn(), CONFIG)
    compressor.compress()
    with pytest.raises(EndOfInspection):
        compressor.apply_speedup(dummy_input=DUMMY)
    assert inspected(sent).input_shapes == ((1, 1, 8, 8),)


@pytest.mark.parametrize("hook", ["on_report", "on_finish"])
def test_inspection_of_a_script_that_calls_no_model(enter: Any, hook: str) -> None:
    trial, sent = enter("inspect")
    create_compressor(Cnn(), CONFIG)
    if hook == "on_report":
        with pytest.raises(EndOfInspection):
            report(trial)
    finish(trial)
    info = inspected(sent)
    assert info.ties is None
    assert info.flops is None
    assert info.layer("conv1") is not None


def test_verification_reloads_compares_and_measures(enter: Any, tmp_path: Path) -> None:
    model = trained("resnet")
    dense = measure.parameters(model)
    compressor = create_compressor(model, CONFIG)
    compressor.compress()
    train(model, 2)
    compressor.apply_speedup()
    compressor.export_model("m.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    _, sent = enter("verify", bundle=tmp_path / "bundle")
    with pytest.raises(EndOfInspection):
        create_compressor(ResNet(), CONFIG)
    (message,) = sent
    assert message["type"] == "verified"
    assert message["relative_difference"] <= 1e-6
    assert message["before"]["params"] == dense
    assert message["after"]["params"] == measure.parameters(model)
    assert message["after"]["flops"] < message["before"]["flops"]
    assert min(message[side][key] for side in ("before", "after") for key in ("latency_ms", "cpu_ms")) > 0
    enter("verify", bundle=tmp_path / "bundle")
    with pytest.raises(BundleError, match="does not fit Cnn"):
        create_compressor(Cnn(), CONFIG)
