"""The key "export": which forms a model can have."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from raycompress.config.checks.keys import check
from raycompress.config.checks.preflight import check_extras
from raycompress.config.experiment import Experiment
from raycompress.errors import ExperimentError, MissingDependencyError, Problem


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
    found = importlib.util.find_spec
    missing = ("onnxruntime", "mlflow")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else found(name))
    check_extras(load(loggers=["tensorboard"]))
    for key, value, library in (("export", "onnx", "onnxruntime"), ("loggers", "mlflow", "mlflow")):
        with pytest.raises(MissingDependencyError) as caught:
            check_extras(load(**{key: [value]}))
        assert f"needs {library}, which is not installed" in str(caught.value)
        assert f"pip install 'raycompress[{value}]'" in str(caught.value)
        assert key in caught.value.problems[0].where


def test_loggers_are_known_by_name(load: Callable[..., Experiment]) -> None:
    assert load(loggers=["mlflow", "wandb", "mlflow"]).loggers == ("mlflow", "wandb")
    with pytest.raises(ExperimentError) as caught:
        load(loggers=["tensorbord"])
    assert 'unknown logger "tensorbord"' in str(caught.value)
    assert 'did you mean "tensorboard"' in str(caught.value)
