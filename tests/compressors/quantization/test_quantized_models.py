"""Quantized models of other forms than a CNN: transformers of torch's own, answers of every kind, bundles that were
changed, and the order of arguments that old scripts have."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raycompress import create_compressor, load
from raycompress.bundle import bundle
from raycompress.bundle.example import Example
from raycompress.compressors.measure.difference import relative_difference
from raycompress.compressors.quantization.calibration import from_data
from raycompress.errors import BundleError, CompressionError, ExperimentError
from tests.support.models.networks import DUMMY, MODELS, NETWORKS
from tests.support.models.quantizing import needs_torchao, quantized, quantizer, saved

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

LINEAR = [{"quant_types": ["weight", "input"], "quant_bits": 8, "op_types": ["Linear"]}]
STATIC = [{"op_types": ["Linear"]}]


class Encoder(nn.Module):
    """torch's own transformer, which has a fast way of its own in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        answer: Tensor = self.head(self.encoder(x, src_key_padding_mask=padding)[:, 0])
        return answer


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["naive", "qat", "observer"])
def test_torchs_own_transformer_is_evaluated_and_reloaded(name: str, padded: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Encoder(), torch.randn(8, 6, 16)
    padding = torch.arange(6)[None] >= torch.arange(8)[:, None] % 4 + 3 if padded else None
    dense = Example((x, padding), {}).outputs(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    entries = [{**LINEAR[0], "quant_types": ["weight"]}] if name == "naive" else LINEAR
    compressor = quantizer(model, name, entries, optimizer=optimizer, calibration_data=x)
    compressor.compress()
    model.train()
    for _ in range(0 if name == "observer" else 3):
        optimizer.zero_grad()
        model(x, padding).square().mean().backward()
        optimizer.step()
    measured = Example((x, padding), {}).outputs(model)
    assert relative_difference(dense, measured) > 1e-4
    loaded = load(saved(compressor, tmp_path), Encoder())
    assert relative_difference(measured, Example((x, padding), {}).outputs(loaded)) <= 1e-6


def test_the_projection_that_attention_never_calls_is_refused() -> None:
    entries = [{**LINEAR[0], "op_names": ["head", "encoder.layers.0.self_attn.out_proj"]}]
    del entries[0]["op_types"]
    with pytest.raises(ExperimentError, match=r"out_proj\" is never called"):
        quantizer(Encoder(), "qat", entries)


@dataclass
class Answer:
    logits: Tensor


class Answering(nn.Module):
    def __init__(self, made: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.fc, self.made = nn.Linear(4, 4), made

    def forward(self, x: Tensor) -> Any:
        return self.made(self.fc(x))


def _pair(tensor: Tensor) -> tuple[Tensor, list[Tensor]]:
    return tensor, [tensor + 1]


def _ordered(tensor: Tensor) -> OrderedDict[str, Tensor]:
    return OrderedDict(one=tensor, other=tensor + 1)


@pytest.mark.parametrize("made", [Answer, _pair, _ordered])
def test_answers_are_computed_and_of_the_models_type(made: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    model, x = Answering(made), Example.from_dummy(torch.randn(6, 4))
    before, kind = x.outputs(model), type(x.call(model))
    quantizer(model, "ptq_static", STATIC, calibration_data=torch.randn(64, 4)).compress()
    assert 0 < relative_difference(before, x.outputs(model)) < 0.3
    assert type(x.call(model)) is kind


def test_an_answer_that_cannot_be_rebuilt_is_refused() -> None:
    model = Answering(lambda tensor: MappingProxyType({"one": tensor}))
    with pytest.raises(CompressionError, match="answers a mappingproxy"):
        quantizer(model, "ptq_static", STATIC, calibration_data=torch.randn(8, 4)).compress()


def test_a_layer_of_an_int8_model_does_not_compute_by_itself(tmp_path: Path) -> None:
    model, compressor = quantized("ptq_static")
    loaded = load(saved(compressor, tmp_path), MODELS["cnn"]())
    for one in (model, loaded):
        with pytest.raises(CompressionError, match="a Conv2d inside the int8 model cannot compute by itself"):
            one.conv1(DUMMY)


@pytest.mark.parametrize(
    "words",
    [
        ("m.pth", "c.pth", "m.onnx", (1, 1, 8, 8)),
        ("m.pth", "c.pth", "m.onnx"),
        ("m.pth", "c.pth", "m.onnx", (1, 1, 8, 8), "cpu"),
    ],
)
def test_nnis_order_of_arguments(words: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, compressor = quantized("qat")
    compressor.export_model(*words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.pth", "m.onnx", "m.pth"]
    assert torch.load("c.pth", weights_only=True)["conv2"]["input_bits"] == 8
    onnx.checker.check_model("m.onnx")


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        answer: Tensor = self.fc(a + b)
        return answer


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, **inputs: Tensor) -> Tensor:
        answer: Tensor = self.fc(inputs["x"])
        return answer


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (torch.randn(4, 3, 8, 8), r"Cnn cannot be called with calibration_data of shape \[4, 3, 8, 8\]"),
        (torch.randn(4, 1, 8, 8).double(), "Cnn cannot be called with calibration_data"),
        (torch.full((4, 1, 8, 8), float("nan")), "batch 0 of calibration_data holds NaN"),
        (torch.randn(0, 1, 8, 8), "calibration_data is empty"),
        ([{"image": torch.randn(4, 1, 8, 8)}], "has image, none of which is an argument of forward"),
    ],
)
def test_calibration_data_that_does_not_fit(data: Any, what: str) -> None:
    with pytest.raises(CompressionError, match=what):
        quantizer(MODELS["cnn"](), "ptq_static", [{"op_types": ["Conv2d"]}], calibration_data=data)


def test_calibration_data_of_several_inputs() -> None:
    a, b = torch.randn(4, 4), torch.randn(4, 4)
    for item in ((a, b, torch.zeros(4)), ((a, b), torch.zeros(4))):
        quantizer(Two(), "ptq_static", STATIC, calibration_data=[item]).compress()
    with pytest.raises(CompressionError, match="missing a required argument: 'b'") as error:
        quantizer(Two(), "ptq_static", STATIC, calibration_data=[a])
    assert "((first, second), label)" in error.value.problems[0].fix
    assert set(from_data([{"x": a, "labels": b}], ByName())[0].kwargs) == {"x"}


@pytest.mark.parametrize("name", ["ptq_static", "ptq_dynamic", "int8_weight_only"])
def test_double_weights_are_refused(name: str) -> None:
    needs_torchao(name)
    model = NETWORKS["mlp"]().double()
    with pytest.raises(CompressionError, match=r"are float64, of which no int8 is made") as error:
        quantizer(model, name, STATIC, calibration_data=torch.randn(8, 1, 8, 8).double()).compress()
    assert "model.float()" in error.value.problems[0].fix


def test_bits_that_are_missing_are_eight_in_the_fix() -> None:
    entries = [{"quant_types": ["weight", "input"], "quant_bits": {"weight": 4}, "op_types": ["Linear"]}]
    with pytest.raises(ExperimentError) as error:
        quantizer(NETWORKS["mlp"](), "qat", entries)
    assert error.value.problems[0].fix == 'add "input": 8'


def hashed_again(folder: Path) -> None:
    """Let the manifest agree with what lies in the folder."""
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))


def test_weights_in_another_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # onnxruntime looks for the file there
    folder = saved(quantized("ptq_static")[1], tmp_path)
    model = onnx.load(str(folder / bundle.INT8_ONNX))
    tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    (tmp_path / "other.bin").write_bytes(bytes(len(tensor.raw_data)))
    places = {"location": "other.bin", "offset": "0", "length": str(len(tensor.raw_data))}
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in places.items():
        tensor.external_data.add(key=key, value=value)
    (folder / bundle.INT8_ONNX).write_bytes(model.SerializeToString())
    hashed_again(folder)
    with pytest.raises(BundleError, match="takes its weights from another file"):
        load(folder, MODELS["cnn"]())


def test_a_file_that_is_no_onnx_or_not_in_the_manifest_is_told(tmp_path: Path) -> None:
    folder = saved(quantized("ptq_static")[1], tmp_path)
    whole = (folder / bundle.MANIFEST).read_text()
    for name in (bundle.INT8_ONNX, bundle.QUANTIZATION):
        manifest = json.loads(whole)
        del manifest["files"][name]
        (folder / bundle.MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(BundleError, match=f"the manifest lists no {name}"):
            load(folder, MODELS["cnn"]())
    (folder / bundle.MANIFEST).write_text(whole)
    (folder / bundle.INT8_ONNX).write_bytes(b"nothing")
    hashed_again(folder)
    with pytest.raises(BundleError, match=r"model.int8.onnx is no ONNX file"):
        load(folder, MODELS["cnn"]())


def test_a_class_that_answers_something_else_by_now_is_told(tmp_path: Path) -> None:
    folder = saved(quantized("ptq_static")[1], tmp_path)

    class Cnn(MODELS["cnn"]):  # type: ignore[misc,name-defined]
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(x), x

    with pytest.raises(BundleError, match="answers 2 tensors, the saved model 1"):
        load(folder, Cnn())


class Shared(nn.Module):
    """Has its activation from the class, one object for all models, as ultralytics' networks have."""

    activation = nn.SiLU()

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.head = nn.Linear(6, 16), self.activation, nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.act(self.first(x)))
        return answer


def test_an_activation_that_all_models_of_a_class_share_goes_on_computing_for_the_others() -> None:
    torch.manual_seed(0)
    rows, model, other = torch.randn(4, 6), Shared().eval(), Shared().eval()
    expected = other(rows)
    compressor = create_compressor(model, {"compressor": "ptq_dynamic"}, dummy_input=rows)
    compressor.compress()
    assert torch.equal(other(rows), expected)
    with pytest.raises(CompressionError, match="cannot compute by itself"):
        model.head(torch.randn(4, 16))
