"""``compression.depth``: the dimensions that it makes, what does not fit it, and how it reaches a script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raycompress.config.checks.preflight import check_model
from raycompress.config.experiment import Experiment
from raycompress.config.keywords import experiment_data
from raycompress.config.search_space import SearchSpace
from raycompress.config.trial_config import trial_config
from raycompress.errors import ExperimentError, Problem, UsageError
from raycompress.model.info import BlockInfo, ModelInfo
from raycompress.script.config import DEPTH_KEY, BasicConfig
from raycompress.session.prepare import unexpanded
from tests.support.experiments import experiment_with, layer, network

BLOCKS = ("layer1.0", "layer1.1", "layer2.1")
MODEL = network(layer("conv1"), blocks=BLOCKS)


def with_depth(folder: Path, depth: Any, **compression: Any) -> Experiment:
    return experiment_with(folder, compression={"compressor": "group_l1", "depth": depth, **compression})


def problems(folder: Path, depth: Any, model: ModelInfo = MODEL, **compression: Any) -> list[Problem]:
    try:
        return check_model(with_depth(folder, depth, **compression), model)[0]
    except ExperimentError as error:
        return list(error.problems)


def built(experiment: Experiment, sample: dict[str, Any]) -> Any:
    space = SearchSpace.of(experiment, MODEL)
    return trial_config({}, space.build({**space.centre(), **sample}), number=1, saves_into=None)[DEPTH_KEY]


def test_each_block_is_kept_or_dropped(tmp_path: Path) -> None:
    experiment = with_depth(tmp_path, {"blocks": "auto"})
    space = SearchSpace.of(experiment, MODEL)
    assert [(one.name, one.choices) for one in space.dimensions] == [(f"{one}.keep", (True, False)) for one in BLOCKS]
    assert SearchSpace.needs_model(experiment) and not SearchSpace.of(unexpanded(experiment)).dimensions
    assert experiment.is_automatic and space.grid_size == 8
    assert built(experiment, {}) == {"drop": []}
    assert built(experiment, {"layer1.1.keep": False, "layer2.1.keep": False}) == {"drop": ["layer1.1", "layer2.1"]}
    assert space.smallest() == dict.fromkeys([f"{one}.keep" for one in BLOCKS], False)


def test_named_blocks_need_no_model(tmp_path: Path) -> None:
    experiment = with_depth(tmp_path, {"blocks": ["layer2.1"]})
    assert [one.name for one in SearchSpace.of(experiment).dimensions] == ["layer2.1.keep"]


def test_of_a_number_those_go_that_change_least(tmp_path: Path) -> None:
    searched = with_depth(tmp_path, {"drop": {"type": "int", "range": [0, 2]}})
    assert [(one.name, one.low, one.high) for one in SearchSpace.of(searched, MODEL).dimensions] == [
        ("depth.drop", 0, 2)
    ]
    assert built(searched, {"depth.drop": 2}) == {"drop": ["layer2.1", "layer1.1"]}
    fixed = with_depth(tmp_path, {"blocks": ["layer1.0", "layer1.1"], "drop": 1})
    assert not fixed.is_automatic and built(fixed, {}) == {"drop": ["layer1.1"]}


@pytest.mark.parametrize(
    ("depth", "compression", "what", "place"),
    [
        ({"blocks": ["layer1"]}, {}, '"layer1" is no residual block', "depth.blocks[0]"),
        ({"blocks": ["layer1.0", "layer1.0"]}, {}, '"layer1.0" stands 2 times', "depth.blocks"),
        ({"blocks": "all"}, {}, "blocks", "depth.blocks"),
        ({"drop": 4}, {}, "4 blocks are to go, and there are 3", "depth.drop"),
        ({"drop": {"type": "int", "range": [0, 9]}}, {}, "9 blocks are to go", "depth.drop"),
        ({"drop": -1}, {}, '"drop" must be at least 0', "depth.drop"),
        ({"block": "auto"}, {}, 'unknown key "block"', "depth.block"),
        ({}, {"compressor": "level"}, "level drops no blocks", "depth"),
        ({}, {"compressor": "auto_compress"}, "auto_compress drops no blocks", "depth"),
        ({}, {"compressor": "magnitude", "framework": "tensorflow"}, "magnitude drops no blocks", "depth"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(
    depth: Any, compression: dict[str, Any], what: str, place: str, tmp_path: Path
) -> None:
    found = problems(tmp_path, depth, **compression)
    assert any(what in one.what and one.where.endswith(f"compression.{place}") for one in found), found


def test_a_model_without_blocks_and_blocks_that_it_needs(tmp_path: Path) -> None:
    assert "no residual block that can go" in problems(tmp_path, {}, network(layer("conv1")))[0].what
    needed = BlockInfo("layer1.0", "Block", why_not="it is asked for its weight")
    model = ModelInfo(**{**vars(MODEL), "blocks": (needed, *MODEL.blocks[1:])})
    assert problems(tmp_path, {"blocks": ["layer1.0"]}, model)[0].what == needed.why_not
    names = [one.name for one in SearchSpace.of(with_depth(tmp_path, {}), model).dimensions]
    assert names == ["layer1.1.keep", "layer2.1.keep"]
    assert any(needed.why_not in note for note in check_model(with_depth(tmp_path, {}), model)[1])
    assert ModelInfo.from_json(json.loads(json.dumps(model.to_json()))).blocks == model.blocks


def test_a_depth_of_a_later_stage_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print(1)\n")
    stage = {"framework": "torch", "type": "pruning", "compressor": "group_l1", "config_list": [], "depth": {}}
    file = tmp_path / "exp.json"
    file.write_text(json.dumps({"name": "two", "script": "train.py", "compression": [stage, stage]}))
    with pytest.raises(ExperimentError) as caught:
        Experiment.load(file)
    places = [one.where.partition("  ")[2] for one in caught.value.problems if "for the first stage" in one.what]
    assert places == ["compression[1].depth"]


def test_without_a_model_a_number_is_for_the_compressor_to_choose(tmp_path: Path) -> None:
    experiment = unexpanded(with_depth(tmp_path, {"blocks": ["layer1.0", "layer1.1"], "drop": 1}))
    assert SearchSpace.of(experiment).build({})["depth"] == {"drop": 1, "blocks": ["layer1.0", "layer1.1"]}
    assert SearchSpace.of(unexpanded(with_depth(tmp_path, {"blocks": "auto"}))).build({})["depth"] == {"drop": []}


def test_depth_alone_needs_no_layers(tmp_path: Path) -> None:
    assert not problems(tmp_path, {"blocks": "auto"}, config_list=[])


def test_by_hand_a_number_is_taken_and_a_search_is_not(tmp_path: Path) -> None:
    with_depth(tmp_path, {"drop": 1})
    assert BasicConfig().load(str(tmp_path / "exp.json"))[DEPTH_KEY] == {"drop": 1}
    with_depth(tmp_path, {"blocks": "auto"})
    with pytest.raises(UsageError, match=r"a search over compression\.depth"):
        BasicConfig().load(str(tmp_path / "exp.json"))
    data = experiment_data({"compressor": "group_l1", "sparsity": 0.5, "depth": {"drop": 1}}, "rc.launch")
    assert data["compression"]["depth"] == {"drop": 1}
