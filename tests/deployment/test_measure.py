"""`raycompress measure`, `rc.measure`, `rc.compress(target=)` and ``--target``: a model in its runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import raycompress as rc
from raycompress.bundle import bundle
from raycompress.errors import DeploymentError, UsageError
from tests.support.launching import digits_experiment
from tests.support.models.networks import DUMMY, MODELS
from tests.support.shared_ray import run_here


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle that was deployed on onnxruntime."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("measure") / "bundle"
    rc.compress(MODELS["resnet"](), DUMMY, target="onnxruntime", folder=folder)
    return folder


def test_a_compressed_model_is_deployed(saved: Path) -> None:
    manifest = bundle.read(saved)
    assert list(manifest.targets) == ["onnxruntime"]
    assert manifest.after.latency_ms == manifest.after.__pydantic_extra__["latency_ms@onnxruntime"]
    assert manifest.after.size_bytes == (saved / "deployed" / "onnxruntime" / "model.onnx").stat().st_size
    assert manifest.after.__pydantic_extra__["latency_ms@eager"] > 0


@pytest.mark.parametrize("target", ["onnxruntime", {"runtime": "onnxruntime", "threads": 2}, "openvino"])
def test_a_bundle_is_measured(saved: Path, target: object) -> None:
    found = rc.measure(saved, target, seconds=0.5)
    assert found.relative_difference < 1e-3
    assert 0 < found.latency_low_ms <= found.latency_ms <= found.latency_high_ms
    assert found.version.startswith(target if isinstance(target, str) else "onnxruntime")


def test_a_model_is_compressed_for_several_targets(tmp_path: Path) -> None:
    torch.manual_seed(0)
    several = ["onnxruntime", {"runtime": "openvino", "threads": 2}]
    found = rc.compress(MODELS["cnn"](), DUMMY, target=several, folder=tmp_path / "bundle")
    names = ["onnxruntime", "openvino-2threads"]
    assert list(bundle.read(tmp_path / "bundle").targets) == names
    assert all(found.after[f"latency_ms@{name}"] > 0 for name in names)


@pytest.mark.parametrize(
    ("target", "what"),
    [
        (["onnxruntime", "openvino"], "one target at a time, not in 2"),
        ('["onnxruntime", "openvino"]', "one target at a time, not in 2"),
        (["onnxruntime", "opnvino"], 'unknown runtime "opnvino"'),
        (3, "must be an object, not the number 3"),
    ],
)
def test_what_is_no_target_is_an_error(saved: Path, target: Any, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        rc.measure(saved, target)


def test_layers_of_4_and_8_bits_in_one_file_run_in_openvino_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bits = [{"op_types": ["Conv2d"], "quant_bits": 4}, {"op_names": ["conv2", "fc1"], "quant_bits": 8}]
    config = {"compressor": "ptq_static", "config_list": [*bits, {"op_names": ["fc2"], "quant_bits": 4}]}
    compressor = rc.create_compressor(MODELS["cnn"](), config, calibration_data=torch.rand(16, *DUMMY.shape[1:]))
    compressor.compress()
    compressor.export_model("m.pth", folder_name=str(tmp_path), bundle_path=str(tmp_path / "bundle"))
    assert rc.measure(tmp_path / "bundle", "openvino", seconds=0.2).relative_difference < 0.05


def test_a_bundle_is_converted_with_a_model_where_it_holds_no_file(saved: Path) -> None:
    with pytest.raises(DeploymentError, match="the bundle holds no file for onnxruntime-fp16"):
        rc.measure(saved, {"runtime": "onnxruntime", "precision": "fp16"})
    half = {"runtime": "onnxruntime", "precision": "fp16"}
    found = rc.measure(saved, half, model=MODELS["resnet"](), seconds=0.5)
    assert found.size_bytes < 0.7 * bundle.read(saved).after.size_bytes


def test_a_model_is_measured() -> None:
    found = rc.measure(MODELS["cnn"](), {"runtime": "openvino", "batch": 4}, example_inputs=DUMMY, seconds=0.5)
    assert found.target == "openvino-batch4"
    with pytest.raises(UsageError, match="with an input of it"):
        rc.measure(MODELS["cnn"](), "openvino")
    with pytest.raises(UsageError, match='unknown runtime "openvin"'):
        rc.measure(MODELS["cnn"](), "openvin", example_inputs=DUMMY)


def test_the_command_line_measures_too(saved: Path) -> None:
    asked = ("measure", saved, "--seconds", "0.5", "--target", "onnxruntime", "--target", '{"runtime": "openvino"}')
    told = run_here(saved.parent, *asked)
    assert told.code == 0, told.err
    rows = [line.split()[0] for line in told.out.splitlines() if not line.startswith("note")]
    assert rows == ["target", "onnxruntime", "openvino"]
    found = json.loads(run_here(saved.parent, *asked, "--json").out)
    assert [one["target"] for one in found] == ["onnxruntime", "openvino"]


def test_a_target_on_the_command_line_makes_an_experiment_of_its_own(tmp_path: Path) -> None:
    path = digits_experiment(tmp_path)
    told = run_here(tmp_path, "launch", path, "--target", "openvin", "--dry-run")
    assert told.code == 2
    assert 'did you mean "openvino"?' in told.err
    before = path.read_text()
    told = run_here(tmp_path, "launch", path, "--target", "onnxruntime", "--dry-run")
    assert told.code == 0, told.err
    copy = path.with_name(f"{path.stem}.onnxruntime.json")
    assert json.loads(copy.read_text())["target"] == {"runtime": "onnxruntime"}
    assert path.read_text() == before
    assert "onnxruntime, fp32, batch of 1, 1 thread, cpu" in told.out
