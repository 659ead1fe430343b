"""Compression in stages: what the second finds, what is saved of all of them, and which errors name a stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import raycompress as rc
from raycompress.bundle import bundle
from raycompress.compressors.measure.difference import relative_difference
from raycompress.compressors.measure.sizes import parameters
from raycompress.errors import CompressionError, ExperimentError, UsageError
from raycompress.script.config import DEPTH_KEY, STAGES_KEY
from tests.support.models.networks import CONVOLUTIONS, DUMMY, Cnn, ResNet, digits, train, trained

Enter = Callable[..., Any]
PRUNE = {"compressor": "group_l1", "config_list": CONVOLUTIONS}
INT8 = {"compressor": "ptq_static"}
HALF = {"compressor": "level", "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]}
QAT = {
    "compressor": "qat",
    "config_list": [{"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Conv2d"]}],
}


def batch() -> Tensor:
    return digits()[0][:64]


def answers(model: nn.Module) -> Tensor:
    model.eval()
    with torch.no_grad():
        output: Tensor = model(batch())
    return output


def test_a_pruned_model_is_trained_in_float_and_evaluated_and_saved_in_int8(tmp_path: Path) -> None:
    model = trained("cnn")
    dense = parameters(model)
    compressor = rc.create_compressor(model, [PRUNE, INT8], dummy_input=DUMMY, calibration_data=batch())
    assert compressor.compress() is model and parameters(model) < 0.5 * dense, "it is small from the start"
    compressor.apply_speedup()  # some scripts call it before they train
    train(model, 20)
    model.eval()
    in_float = model(batch()).detach()
    first = answers(model)
    assert 1e-4 < relative_difference([in_float], [first]) < 0.2
    train(model, 20)
    last = answers(model)
    assert relative_difference([first], [last]) > 1e-3, "it is quantized anew when it has been trained on"

    compressor.export_model("model.pth", "mask.pth", str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    manifest = bundle.read(tmp_path / "bundle")
    assert manifest.kind == "quantized" and manifest.before.params == dense
    assert manifest.after.params == parameters(model) and manifest.removed["conv1"][0] > 0
    assert manifest.after.size_bytes < 0.4 * manifest.before.size_bytes
    assert [manifest.compressor["name"], manifest.compressor["after"][0]["name"]] == ["ptq_static", "group_l1"]
    assert torch.load(tmp_path / "mask.pth")["conv1.weight"].shape == Cnn().conv1.weight.shape
    assert torch.equal(answers(rc.load(tmp_path / "bundle", Cnn())), last)


def test_three_stages_leave_masks_of_the_original(tmp_path: Path) -> None:
    model = trained("cnn")
    compressor = rc.create_compressor(model, [PRUNE, HALF, INT8], dummy_input=DUMMY, calibration=[batch()])
    train(compressor.compress(), 20)
    last = answers(model)
    assert 0.45 < (model.conv2.weight == 0).float().mean() < 0.55
    compressor.export_model("model.pth", "mask.pth", str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    mask = torch.load(tmp_path / "mask.pth")["conv2.weight"]
    assert mask.shape == Cnn().conv2.weight.shape
    assert int(mask.sum()) == int((model.conv2.weight != 0).sum())
    assert torch.equal(answers(rc.load(tmp_path / "bundle", Cnn())), last)


def test_what_quantizes_while_the_script_trains_begins_on_the_small_model(tmp_path: Path) -> None:
    model = trained("cnn")
    compressor = rc.create_compressor(model, [PRUNE, QAT], dummy_input=DUMMY)
    compressor.compress()
    compressor.apply_speedup()
    assert model.conv1.out_channels < Cnn().conv1.out_channels
    float_too = rc.create_compressor(trained("cnn"), [PRUNE, INT8], dummy_input=DUMMY, calibration=[batch()])
    float_too.compress()
    assert compressor.count_flops_params(DUMMY)[:2] == float_too.count_flops_params(DUMMY)[:2]
    train(model, 20)
    compressor.apply_speedup()
    compressor.export_model("model.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    assert torch.equal(answers(rc.load(tmp_path / "bundle", Cnn())), answers(model))


GONE = {"op_names": ["layer1.1.conv1"], "quant_bits": 32}
"""The bits of a layer that goes with its block."""


def test_blocks_channels_and_bits_are_one_bundle(tmp_path: Path) -> None:
    trains: list[int] = []
    done = rc.compress(
        trained("resnet"),
        DUMMY,
        ["group_l1", {"compressor": "ptq_static", "config_list": [{"op_types": ["Conv2d"]}, GONE]}],
        0.5,
        depth={"drop": ["layer1.1"]},
        slice="after",
        finetune=lambda model: trains.append(model.conv1.out_channels),
        calibration=[batch()],
        folder=tmp_path / "bundle",
    )
    manifest = bundle.read(done.bundle)
    assert trains == [16] and done.compressor == "group_l1 + ptq_static"
    assert manifest.removed["layer1.1.conv1"] == (16, 16) and manifest.removed["conv1"] == (8, 16)
    assert manifest.kind == "quantized" and done.relative_difference == 0
    assert torch.equal(answers(rc.load(done.bundle, ResNet())), answers(done.model))


def test_where_all_that_is_quantized_goes_the_rest_stays_float() -> None:
    stage = {"compressor": "ptq_static", "config_list": [{**GONE, "quant_bits": 4}]}
    config = {**PRUNE, DEPTH_KEY: {"drop": ["layer1.1"]}, STAGES_KEY: [stage]}
    model = trained("resnet")
    compressor = rc.create_compressor(model, config, dummy_input=DUMMY, calibration=[batch()])
    compressor.compress()
    with torch.inference_mode():
        found = model.eval()(batch())
    assert torch.allclose(found, model(batch()), atol=1e-4)  # with gradients, it answers in float


def test_all_channels_may_stay_where_bits_go(tmp_path: Path) -> None:
    done = rc.compress(
        trained("cnn"), DUMMY, ["group_l1", "ptq_static"], 0.0, calibration=[batch()], folder=tmp_path / "bundle"
    )
    assert {gone for gone, _ in done.removed.values()} == {0}
    assert bundle.read(done.bundle).kind == "quantized" and done.relative_difference == 0


def test_a_number_of_the_float_model_is_not_that_of_the_saved_one(enter: Enter) -> None:
    trial, _ = enter("trial")
    model = trained("cnn")
    compressor = rc.create_compressor(model, [PRUNE, INT8], dummy_input=DUMMY, calibration=[batch()])
    compressor.compress()
    with pytest.raises(CompressionError, match="not the saved model's") as caught:
        model.eval()(batch())  # with gradients, so that it may train
        for hook in trial.on_report:
            hook({"accuracy": 0.9})
        compressor.export_model("model.pth")
        for hook in trial.on_finish:
            hook()
    assert "stage 2, ptq_static, quantizes the trained model: evaluate it in eval mode" in caught.value.problems[0].fix


def test_best_weights_that_are_put_back_are_the_reported_ones(enter: Enter) -> None:
    trial, sent = enter("trial")
    model = trained("cnn")
    # the script passes on what it knows of, and the trial has the rest
    trial.config = {**PRUNE, STAGES_KEY: [INT8]}
    compressor = rc.create_compressor(model, PRUNE, dummy_input=DUMMY, calibration=[batch()])
    compressor.compress()
    answers(model)
    best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, 20)
    answers(model)
    model.load_state_dict(best)
    for hook in trial.on_report:
        hook({"accuracy": 0.9})
    for hook in trial.on_finish:
        hook()
    assert bundle.read(trial.candidate).kind == "quantized" and sent[-1]["removed"]["conv1"][0] > 0


@pytest.mark.parametrize(
    ("stages", "what"),
    [
        ([INT8, PRUNE], "stage 2: ptq_static quantizes the model, and nothing can follow that"),
        ([HALF, PRUNE], "stage 2: group_l1 removes channels, and level masks weights of them"),
        ([PRUNE, {"compressor": "fpgm"}], "both remove channels"),
        ([HALF, QAT], "which the masks of level do not reach"),
        ([{**PRUNE, "compressor": "group_taylor"}, QAT], "chooses what goes while the script trains"),
        ([PRUNE, {"compressor": "pt_static"}], 'stage 2 (pt_static): unknown compressor "pt_static"'),
        ([PRUNE, {**QAT, "compressor": "lsq"}], "stage 2 (lsq): lsq needs optimizer="),
        (
            [PRUNE, {"compressor": "level", "config_list": [{"op_names": ["conv9"], "sparsity": 0.5}]}],
            "stage 2 (level): ",
        ),
    ],
)
def test_a_stage_that_cannot_be_is_refused_by_its_number(stages: list[dict[str, Any]], what: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        rc.create_compressor(trained("cnn"), stages, dummy_input=DUMMY).compress()
    assert what in caught.value.problems[0].what


def test_what_a_stage_wants_of_the_script_is_asked_for_by_its_number() -> None:
    with pytest.raises(CompressionError, match=r"stage 2 \(qat\) begins in compress\(\)") as caught:
        rc.create_compressor(trained("cnn"), [PRUNE, QAT]).compress()
    assert "dummy_input=" in caught.value.problems[0].fix
    compressor = rc.create_compressor(trained("cnn"), [PRUNE, INT8], dummy_input=DUMMY)
    compressor.compress()
    with pytest.raises(CompressionError, match=r"stage 2 \(ptq_static\): ptq_static has no data") as caught:
        compressor.export_model("model.pth")
    assert "calibration_data=" in caught.value.problems[0].fix
    with pytest.raises(UsageError, match="not of stages"):
        rc.create_compressor(Cnn(), [])


def test_evaluations_with_labels_in_a_loss_are_left_alone() -> None:
    model = trained("cnn")
    compressor = rc.create_compressor(model, [PRUNE, INT8], dummy_input=DUMMY, calibration=[batch()])
    compressor.compress()
    images, labels = digits()
    F.cross_entropy(model(images[:32]), labels[:32]).backward()  # still in eval mode: a frozen BatchNorm
    assert model.conv1.weight.grad is not None
