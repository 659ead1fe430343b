"""ONNX beside the other forms of a saved model: by hand, and in the bundle of a trial."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raycompress import create_compressor
from raycompress.bundle import bundle
from raycompress.errors import CompressionError, UsageError
from tests.support.models.networks import DUMMY, digits, train, trained

onnxruntime = pytest.importorskip("onnxruntime")
CONFIG = {"compressor": "l1_filter", "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]}

RELOAD = """
import sys
import numpy as np, onnxruntime
from safetensors.numpy import load_file
folder = sys.argv[1]
stored = load_file(folder + "/reference.safetensors")
session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
(got,) = session.run(None, {one.name: stored[one.name] for one in session.get_inputs()})
assert "torch" not in sys.modules
print(float(np.linalg.norm(got - stored["output.0"]) / np.linalg.norm(stored["output.0"])))
"""


def run(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = [one.name for one in session.get_inputs()]
    return torch.from_numpy(np.asarray(session.run(None, {name: images.numpy()})[0]))


@pytest.mark.parametrize("small", [False, True])
def test_by_hand_the_file_is_the_model_as_it_is_masked_or_small(tmp_path: Path, small: bool) -> None:
    model = trained("resnet")
    compressor = create_compressor(model, CONFIG | {"config_list": [{"sparsity": 0.5, "op_names": ["layer1.0.conv1"]}]})
    compressor.compress()
    train(model, 2)
    if small:
        compressor.apply_speedup()
    compressor.export_model("model.pth", folder_name=str(tmp_path), onnx_path="forms/m.onnx")
    images = digits()[0][:9]  # another batch size than it was traced with
    expected = model.eval()(images).detach()
    assert torch.allclose(run(tmp_path / "forms" / "m.onnx", images), expected, atol=1e-4 * float(expected.abs().max()))
    assert (tmp_path / "model.pth").is_file()


def test_a_trial_that_is_asked_has_it_in_its_bundle_and_a_fresh_process_agrees(enter: Any) -> None:
    trial, sent = enter("trial", exports=("onnx",))
    model = trained("cnn")
    compressor = create_compressor(model, CONFIG, dummy_input=DUMMY)
    compressor.compress()
    compressor.apply_speedup()
    compressor.export_model("model.pth")
    assert bundle.ONNX in bundle.read(trial.candidate).files
    bundle.check_hashes(trial.candidate)
    assert sent[-1]["notes"] == []
    done = subprocess.run([sys.executable, "-c", RELOAD, trial.candidate], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1e-5


def test_a_trial_that_is_not_asked_has_none(enter: Any) -> None:
    trial, _ = enter("trial")
    compressor = create_compressor(trained("cnn"), CONFIG, dummy_input=DUMMY)
    compressor.compress()
    compressor.export_model("model.pth")
    assert bundle.ONNX not in bundle.read(trial.candidate).files


def test_a_script_may_name_the_file_itself_but_not_outside_its_folder(enter: Any) -> None:
    trial, _ = enter("trial")
    compressor = create_compressor(trained("cnn"), CONFIG, dummy_input=DUMMY)
    compressor.compress()
    compressor.export_model("model.pth", onnx_path="model.onnx")
    assert bundle.ONNX in bundle.read(trial.candidate).files
    with pytest.raises(UsageError, match="leave the folder"):
        compressor.export_model("model.pth", onnx_path="../m.onnx")
    with pytest.raises(UsageError, match="name of a file of the bundle"):
        compressor.export_model("model.onnx")


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(self.conv2(self.conv1(x))).mean((2, 3))


def test_what_onnx_cannot_hold_is_an_error_that_names_the_operation(enter: Any) -> None:
    trial, _ = enter("trial", exports=("onnx",))
    config = CONFIG | {"config_list": [{"sparsity": 0.5, "op_names": ["conv1"]}]}
    compressor = create_compressor(Odd(), config, dummy_input=DUMMY)
    compressor.compress()
    with pytest.raises(CompressionError, match="linalg_matrix_exp"):
        compressor.export_model("model.pth")
    assert not (trial.candidate / bundle.MANIFEST).exists()


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x)).reshape(1, 64)


def test_a_file_for_one_batch_size_alone_is_noted(enter: Any) -> None:
    trial, sent = enter("trial", exports=("onnx",))
    config = CONFIG | {"config_list": [{"sparsity": 0.5, "op_names": ["conv1"]}]}
    compressor = create_compressor(Fixed(), config, dummy_input=DUMMY)
    compressor.compress()
    compressor.export_model("model.pth")
    assert "batches of 1 only" in bundle.read(trial.candidate).notes[0]
    assert "batches of 1 only" in sent[-1]["notes"][0]
