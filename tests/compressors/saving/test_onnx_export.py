"""Torch to ONNX: the file computes what the model does, for any batch, and its nodes are known by layer."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raycompress.bundle.example import Example
from raycompress.compressors.saving.onnx_export import export_onnx, feed, layer_nodes
from raycompress.errors import CompressionError, MissingDependencyError
from tests.support.models.networks import DUMMY, NETWORKS

onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
EXAMPLE = Example.from_dummy(DUMMY)
KINDS = ("Conv", "Gemm", "MatMul")


def outputs(path: Path, example: Example) -> list[Tensor]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(np.asarray(array)) for array in session.run(None, feed(example))]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_computes_the_same_for_any_batch(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    parity = export_onnx(model, EXAMPLE, tmp_path / "m.onnx")
    assert parity.relative_difference < 1e-5
    assert parity.any_batch
    batch = Example.from_dummy(torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    (got,) = outputs(tmp_path / "m.onnx", batch)
    (expected,) = batch.outputs(model)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert model.training
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    found = layer_nodes(onnx.load(str(tmp_path / "m.onnx")), model, KINDS)
    layers = [key for key, module in model.named_modules() if type(module).__name__ in ("Conv1d", "Conv2d", "Linear")]
    assert all(len(found[layer]) == 1 for layer in layers)


class Several(nn.Module):
    """Keyword arguments, numbers beside tensors, a dict for an answer, a submodule that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 4))

    def forward(self, x: Tensor, *, other: Tensor | None = None, scale: float = 1.0) -> dict[str, Tensor]:
        first = self.inner(x)
        return {"first": first, "second": self.inner(first if other is None else other) * scale}


def test_arguments_by_name_and_answers_in_a_dict(tmp_path: Path) -> None:
    model = Several()
    example = Example.from_dummy({"x": torch.randn(1, 4), "other": torch.randn(1, 4), "scale": 3.0})
    assert export_onnx(model, example, tmp_path / "m.onnx").any_batch
    for got, expected in zip(outputs(tmp_path / "m.onnx", example), example.outputs(model), strict=True):
        torch.testing.assert_close(got, expected)
    found = layer_nodes(onnx.load(str(tmp_path / "m.onnx")), model, KINDS)
    assert {name: len(nodes) for name, nodes in found.items()} == {"inner.0.0": 2, "inner.1": 2}


class Counted(nn.Module):
    """Takes the batch size as a plain number, which tracing freezes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.reshape(int(x.shape[0]), 64))


def test_what_tracing_freezes_goes_to_the_other_exporter(tmp_path: Path) -> None:
    model = Counted()
    assert export_onnx(model, EXAMPLE, tmp_path / "m.onnx").any_batch
    batch = Example.from_dummy(torch.rand(5, 1, 8, 8))
    torch.testing.assert_close(outputs(tmp_path / "m.onnx", batch), batch.outputs(model))
    assert list(layer_nodes(onnx.load(str(tmp_path / "m.onnx")), model, KINDS)) == ["fc"]


class Fixed(nn.Module):
    """Works for a batch of one only."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.reshape(1, 64))


def test_a_fixed_batch_is_told(tmp_path: Path) -> None:
    assert not export_onnx(Fixed(), EXAMPLE, tmp_path / "m.onnx").any_batch


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn(8, 8)


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x)


@pytest.mark.parametrize("model", [Random(), Unknown()])
def test_what_cannot_be_written_is_one_error_and_no_file(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match=f"{type(model).__name__} cannot be written as ONNX"):
        export_onnx(model, EXAMPLE, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError) as error:
        export_onnx(Fixed(), EXAMPLE, tmp_path / "m.onnx")
    assert error.value.problems[0].fix == "pip install 'raycompress[onnx]'"
