from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycompress.compressors.analysis.surveyor import _search
from raycompress.config.search_space import SearchSpace
from raycompress.forecast.forecast import Forecast
from raycompress.forecast.projection import Projection
from raycompress.forecast.round_to import round_to_of_targets, with_round_to
from raycompress.model.costs import CostModel, Part
from raycompress.model.groups import ChannelGroup
from raycompress.model.info import ModelInfo
from raycompress.model.latency_model import Accuracy, LatencyModel
from raycompress.model.latency_table import Clock
from tests.support.experiments import experiment_with, layer, network

GROUP = {"compressor": "group_l1"}
LATENCY = {"latency_ms": {"max_ratio": 0.9}}


def fit(multiple: int, target: str = "openvino", *, is_stepped: bool = True) -> LatencyModel:
    accuracy = Accuracy(12, 0.1, 0.2, 0.9)
    times: dict[Clock, float] = {"latency_ms": 1.0, "cpu_ms": 1.0}
    parts = {"constant": 0.5}
    return LatencyModel(target, (), multiple, 1, parts, None, times, (0.0, 1.0), accuracy, is_stepped=is_stepped)


def model(*widths: int, parts: int = 1) -> ModelInfo:
    """Return two convolutions one after the other, whose channels go in blocks of `parts`."""
    first, second = (ChannelGroup((f"conv{place}",), (), width // parts, parts) for place, width in enumerate(widths))
    costs = CostModel(
        (first, second),
        (
            Part(1000, 1000, 4000, ((widths[0], ((0, float(parts)),)),)),
            Part(4000, 9000, 16000, ((widths[0], ((0, float(parts)),)), (widths[1], ((1, float(parts)),)))),
        ),
        (),
        *(5000, 10000, 20000),
    )
    layers = [layer(f"conv{place}", channels=width) for place, width in enumerate(widths)]
    return replace(network(*layers), costs=costs)


def known(found: ModelInfo, *fits: LatencyModel) -> ModelInfo:
    return replace(found, latency=fits[0], latency_in={one.target: one for one in fits[1:]})


def entry(high: float = 0.9) -> dict[str, Any]:
    return {"sparsity": {"type": "float", "range": [0.0, high]}, "op_names": ["conv0", "conv1"]}


SLIM = {"compressor": "agp", "arguments": {"pruning_algorithm": "slim"}}
EITHER = {"compressor": "agp", "arguments": {"pruning_algorithm": {"type": "choice", "range": ["l1", "level"]}}}
FLOPS = {"flops": {"max_ratio": 0.3}}


@pytest.mark.parametrize(
    ("found", "compression", "high", "constraints", "round_to"),
    [
        (known(model(64, 64), fit(16)), GROUP, 0.9, {}, 16),
        (known(model(64, 64), fit(16), fit(32, "onnxruntime")), GROUP, 0.9, {"latency_ms@onnxruntime": {"max": 9}}, 32),
        (known(model(64, 64), fit(16), fit(32, "onnxruntime")), GROUP, 0.9, {"size_bytes@onnxruntime": {"max": 9}}, 16),
        (known(model(64, 64), fit(32, is_stepped=False)), GROUP, 0.9, {}, None),
        (known(model(64, 64), fit(4)), GROUP, 0.9, {}, None),  # the default is a multiple of it
        (known(model(64, 32), fit(32)), GROUP, 0.9, {}, 16),  # of which both can lose something
        (known(model(64, 32, parts=2), fit(32)), GROUP, 0.9, {}, 16),  # of blocks of two channels half as many
        (known(model(64, 64), fit(32)), GROUP, 0.2, {}, 16),  # at the most that is searched
        (known(model(48, 48), fit(32)), GROUP, 0.5, FLOPS, None),  # 24 channels of each are within the budget, 32 not
        (known(model(64, 64), fit(16)), {**GROUP, "arguments": {"round_to": 2}}, 0.9, {}, None),
        (known(model(64, 64), fit(16)), {**GROUP, "arguments": {"global": True}}, 0.9, {}, None),  # not predicted
        (replace(known(model(64, 64), fit(16)), script_round_to=4), GROUP, 0.9, {}, None),  # by the script
        (known(model(64, 64), fit(16)), {"compressor": "l1_filter"}, 0.9, {}, 16),
        (known(model(64, 64), fit(16)), {"compressor": "agp"}, 0.9, {}, None),  # of "level" by default: single weights
        (known(model(64, 64), fit(16)), SLIM, 0.9, {}, None),
        (known(model(64, 64), fit(16)), EITHER, 0.9, {}, None),
    ],
)
def test_channels_are_rounded_to_what_the_targets_are_faster_at(
    tmp_path: Path,
    found: ModelInfo,
    compression: dict[str, Any],
    high: float,
    constraints: dict[str, Any],
    round_to: int | None,
) -> None:
    keys: dict[str, Any] = {"target": [{"runtime": "openvino"}, {"runtime": "onnxruntime"}]}
    bounds = {**LATENCY, **constraints}
    experiment = experiment_with(tmp_path, [entry(high)], compression=compression, constraints=bounds, **keys)
    assert round_to_of_targets(experiment, found) == round_to


def test_what_is_chosen_is_an_argument_of_each_trial_and_what_the_script_says_counts_in_the_forecast(
    tmp_path: Path,
) -> None:
    experiment = experiment_with(tmp_path, [entry()], compression={**GROUP, "arguments": {}})
    chosen = ModelInfo.from_json(replace(model(64, 64), round_to=16).to_json())
    assert with_round_to(experiment, chosen).compression.arguments == {"round_to": 16}
    said = ModelInfo.from_json(replace(model(64, 64), script_round_to=4).to_json())
    for found in (None, said):
        assert with_round_to(experiment, found) is experiment
    assert said.costs is not None
    config = {"config_list": [{"sparsity": 0.3, "op_names": ["conv0", "conv1"]}], "arguments": {}}
    forecast = Forecast.of(experiment, said, said.costs)
    assert forecast.removed(config) == [20, 20]
    assert forecast.removed({**config, "arguments": {"round_to": 16}}) == [16, 16]
    assert Forecast.of(experiment, replace(said, script_round_to=None), said.costs).removed(config) == [16, 16]


def test_a_survey_rounds_channels_as_the_search_does(tmp_path: Path) -> None:
    """The process that surveys rebuilds all from the text of the file and the model's JSON."""
    experiment = experiment_with(tmp_path, [entry()], compression={**GROUP, "arguments": {}})
    found = replace(known(model(64, 64), fit(16)), round_to=16)
    wanted = {"text": experiment.text, "file": str(experiment.path), "home": str(tmp_path)}
    surveyed, space, _, projection = _search({**wanted, "model": json.dumps(found.to_json())})
    assert surveyed.compression.arguments == {"round_to": 16}
    assert found.costs is not None
    rounded = with_round_to(experiment, found)
    ours = Projection.of(rounded, SearchSpace.of(rounded, found), Forecast.of(rounded, found, found.costs))
    sample = {dimension.name: 0.4 for dimension in space.dimensions}
    assert projection.cuts(sample) == ours.cuts(sample) == (32, 32)  # of 8 it would be 24
    assert projection.sizes(sample) == ours.sizes(sample)
