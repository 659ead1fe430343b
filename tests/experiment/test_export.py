"""The key "export": which forms a model can have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raycompress.errors import MissingDependencyError, Problem
from raycompress.experiment.checks import check
from raycompress.experiment.schema import Experiment
from raycompress.tuning import preparing


def test_onnx_is_for_torch(load: Callable[..., Experiment]) -> None:
    assert load(export=["onnx"]).exports == ("onnx",)
    assert load().exports == ()


@pytest.mark.parametrize(
    ("keys", "where", "what"),
    [
        ({"export": ["tflite"]}, "export[0]", 'a model of torch cannot be exported as "tflite"'),
        ({"export": ["onnx", "tflite"]}, "export[1]", '"tflite"'),
        ({"export": ["onnx", "onnx"]}, "export", '"onnx" stands 2 times'),
        ({"export": ["onnx"], "resource_args": {"save_model": False}}, "export", '"save_model" is false'),
        ({"export": ["onxx"]}, "export[0]", "onxx"),
    ],
)
def test_what_cannot_be_exported_is_told(
    refused: Callable[..., list[Problem]], keys: dict[str, Any], where: str, what: str
) -> None:
    (problem,) = refused(**keys)
    assert where in problem.where
    assert what in problem.what


def test_tflite_is_for_tensorflow() -> None:
    compression = {"framework": "tensorflow", "type": "pruning", "compressor": "level"}
    wrong = [found for found in check({"compression": compression, "export": ["onnx"]}) if found.path[0] == "export"]
    right = [found for found in check({"compression": compression, "export": ["tflite"]}) if found.path[0] == "export"]
    assert [found.path for found in wrong] == [("export", 0)]
    assert 'write "export": ["tflite"]' in wrong[0].fix
    assert right == []


def test_a_missing_library_is_told_before_any_trial(
    load: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = preparing.importlib.util.find_spec
    monkeypatch.setattr(
        preparing.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name)
    )
    preparing.check_extras(load())
    with pytest.raises(MissingDependencyError) as caught:
        preparing.check_extras(load(export=["onnx"]))
    assert "onnxruntime" in str(caught.value)
    assert "pip install 'raycompress[onnx]'" in str(caught.value)
    assert "export" in caught.value.problems[0].where
