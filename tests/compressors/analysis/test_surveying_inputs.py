"""What a survey and rung 0 take from the script: an evaluator that may do anything, and a loader of anything."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections import UserDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raycompress import create_compressor
from raycompress.compressors.analysis.inputs import inputs_of
from raycompress.errors import CompressionError
from raycompress.forecast.prior import Prior
from raycompress.script.context import EndOfInspection
from tests.support.models.networks import DUMMY, digits, trained

CONFIG_LIST = [{"sparsity": {"type": "float", "range": [0.0, 0.9]}, "op_names": ["conv1", "conv2"]}]
COMPRESSION = {"framework": "torch", "type": "pruning", "compressor": "group_l1", "config_list": CONFIG_LIST}
EXPERIMENT = {
    "name": "e",
    "script": "e.py",
    "compression": {**COMPRESSION, "arguments": {"round_to": 1}},
    "proposer": "guided",
    "constraints": {"flops": {"max_ratio": 0.5}},
}


def accuracy(model: nn.Module) -> float:
    images, labels = digits()
    model.eval()
    with torch.no_grad():
        return float((model(images).argmax(dim=1) == labels).float().mean())


def surveyed(enter: Any, folder: Path, model: nn.Module, evaluate: Callable[[nn.Module], Any], **more: Any) -> Any:
    """Return what a survey of `model` sends at last."""
    _, sent = enter("inspect", analysis={"costs": True})
    with pytest.raises(EndOfInspection):
        create_compressor(model, COMPRESSION, dummy_input=DUMMY)
    known = json.dumps(next(message["model"] for message in sent if message["type"] == "model"))
    file = folder / "e.json"
    wanted = {"text": json.dumps(EXPERIMENT), "file": str(file), "home": str(folder), "model": known, "goal": "max"}
    curves = ["conv1.sparsity", "conv2.sparsity"]
    _, sent = enter("survey", analysis={**wanted, "samples": 512, "levels": [], "curves": curves, "prior": None})
    with pytest.raises(EndOfInspection):
        create_compressor(model, COMPRESSION, evaluator=evaluate, **more)
    return sent[-1]


def prior_of(message: Any) -> Prior:
    return Prior.from_json(message["prior"])


@pytest.mark.parametrize("calibrated", [False, True])
def test_an_evaluator_that_changes_the_model_measures_as_one_that_does_not(
    calibrated: bool, enter: Any, tmp_path: Path
) -> None:
    def spoiling(model: nn.Module) -> float:
        found = accuracy(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        return found

    model = trained("cnn", 150)
    before = copy.deepcopy(model.state_dict())
    more = {"calibration": digits()[0][:256].split(64)} if calibrated else {}
    found = prior_of(surveyed(enter, tmp_path, model, spoiling, **more))
    assert found == prior_of(surveyed(enter, tmp_path, model, accuracy, **more))
    assert found.dense > 0.5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("more", [{}, {"calibration": [DUMMY]}], ids=["alone", "calibrated"])
def test_an_evaluator_that_measures_another_model_is_told(more: Any, enter: Any, tmp_path: Path) -> None:
    model = trained("cnn", 0)
    message = surveyed(enter, tmp_path, model, lambda _small: accuracy(model), **more)
    assert message["type"] == "refused"
    assert "never called the model that it was given" in message["problems"][0]["what"]


def test_an_evaluator_that_says_no_number_of_the_dense_model_is_told(enter: Any, tmp_path: Path) -> None:
    def undefined(model: nn.Module) -> float:
        return math.nan * accuracy(model)

    message = surveyed(enter, tmp_path, trained("cnn", 0), undefined)
    assert message["type"] == "refused"
    assert "nan for the dense model" in message["problems"][0]["what"]


@pytest.mark.parametrize("item", [{"image": DUMMY}, DUMMY.numpy()], ids=["name", "numpy"])
def test_a_calibration_that_the_model_cannot_be_called_with_is_told(item: Any) -> None:
    with pytest.raises(CompressionError, match="cannot be called with what calibration= gives"):
        inputs_of(trained("cnn", 0), [item], lambda: [])


def test_a_mapping_of_arguments_is_no_argument_itself() -> None:
    model, tokens = trained("cnn", 0), UserDict(x=DUMMY)  # as tokenizers return one
    assert [list(batch.kwargs) for batch in inputs_of(model, [tokens], lambda: [])] == [["x"]]
    pruner = create_compressor(
        model, {"compressor": "group_l1", "config_list": [{"sparsity": 0.5, "op_names": ["conv1"]}]}, dummy_input=tokens
    )
    pruner.compress()
    assert pruner.apply_speedup().conv1.out_channels == 8


def test_inputs_are_brought_to_where_the_model_is() -> None:
    found = inputs_of(trained("cnn", 0).to("meta"), [(DUMMY, 1)], lambda: [])
    assert {tensor.device.type for batch in found for tensor in batch.args} == {"meta"}


def test_a_loader_without_an_end_that_gives_nothing_is_left() -> None:
    assert len(inputs_of(trained("cnn", 0), itertools.repeat(DUMMY[:0]), lambda: [])) == 0
