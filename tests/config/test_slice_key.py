"""``compression.slice``: what fits it, and the ways by which it reaches a script."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycompress.catalog import CATALOG
from raycompress.cli.commands.experiment.validate import _found, _in_words
from raycompress.config.experiment import Experiment
from raycompress.config.keywords import experiment_data
from raycompress.config.schema.keys import json_schema
from raycompress.errors import Problem
from raycompress.script.config import SLICE_KEY, BasicConfig
from raycompress.session.script_run import compression_config

Load = Callable[..., Experiment]
Refused = Callable[..., list[Problem]]
TRAINING = {
    *("slim", "activation_apoz_rank_filter", "activation_mean_rank_filter", "taylor_fo_weight_filter", "agp", "admm"),
    *("net_adapt", "auto_compress", "group_taylor", "group_hessian"),
}


def test_what_trains_to_choose_cannot_be_sliced_before_and_all_else_that_removes_channels_can() -> None:
    torch = [one.given({"pruning_algorithm": "l1"}) for one in CATALOG if one.framework == "torch"]
    cut = {one.name for one in torch if one.removes_channels}
    assert {one.name for one in torch if one.name in cut and one.why_not_sliced("before")[0]} == TRAINING
    assert not [one.name for one in torch if one.name in cut and one.why_not_sliced("after")[0]]
    at_once = {one.name for one in torch if one.name in cut and one.acts != "in compress()"}
    assert at_once <= TRAINING, "what acts while the script trains is not known before"


@pytest.mark.parametrize(
    ("compression", "what", "fix"),
    [
        ({"compressor": "group_taylor"}, "group_taylor trains the model", 'write "slice": "after"'),
        ({"compressor": "agp", "arguments": {"pruning_algorithm": "l1"}}, "agp trains the model", "such as group_l1"),
        ({"compressor": "auto_compress"}, "auto_compress trains the model", "compress() returns the small model"),
        ({"compressor": "agp"}, "no channels where pruning_algorithm is level", 'remove "slice"'),
        ({"compressor": "level"}, "level removes no channels", 'remove "slice"'),
        ({"compressor": "level", "framework": "tensorflow"}, "no compressor of Keras models", 'remove "slice"'),
        ({"compressor": "ptq_dynamic", "type": "quantization"}, "ptq_dynamic removes no channels", 'remove "slice"'),
    ],
)
def test_a_compressor_that_does_not_fit_is_told_with_its_line(
    compression: dict[str, Any], what: str, fix: str, refused: Refused, tmp_path: Path
) -> None:
    entry = (
        {"op_types": ["default"]}
        if "quantization" in compression.values()
        else {"op_types": ["default"], "sparsity": 0.5}
    )
    (problem,) = refused(entry, compression={**compression, "slice": "before"})
    lines = (tmp_path / "exp.json").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, start=1) if '"slice"' in text)
    assert problem.where == f"{tmp_path / 'exp.json'}:{line}  compression.slice"
    assert what in problem.what and fix in problem.fix


def test_other_values_are_mistakes_and_after_is_for_what_trains_too(load: Load, refused: Refused) -> None:
    (problem,) = refused(compression={"slice": "befor"})
    assert 'did you mean "before"' in problem.fix
    assert refused(compression={"slice": True})[0].where.endswith("compression.slice")
    assert load(compression={"compressor": "group_taylor", "slice": "after"}).compression.slice == "after"


def test_it_is_in_the_config_of_each_trial_and_of_a_script_by_hand(load: Load, tmp_path: Path) -> None:
    experiment = load(compression={"slice": "before"})
    assert compression_config(experiment)[SLICE_KEY] == "before"
    assert BasicConfig().load(experiment.path)[SLICE_KEY] == "before"
    assert "sliced before training" in _in_words(_found(experiment))
    assert json_schema()["$defs"]["CompressionKeys"]["properties"]["slice"]["enum"] == ["before", "after"]
    data = experiment_data({"compressor": "l1_filter", "sparsity": 0.5, "slice": "before"}, "rc.launch")
    assert data["compression"]["slice"] == "before" and "slice" not in data
    known = {"compressor": "l1_filter", "config_list": [], "slice": "before"}
    assert experiment_data({"slice": "after"}, "rc.launch", known) == {"compression": {**known, "slice": "after"}}


def test_a_file_that_says_nothing_gives_trials_what_it_gave_them(load: Load) -> None:
    parameter = {"name": SLICE_KEY, "type": "float", "range": [0, 1]}
    experiment = load(parameter_config=[parameter])
    assert experiment.compression.slice is None
    assert set(compression_config(experiment)) == {"compressor", "compression_framework", "compression_type"}
    assert SLICE_KEY not in BasicConfig(json.loads(experiment.text))


def test_no_parameter_takes_its_name(refused: Refused) -> None:
    parameter = {"name": SLICE_KEY, "type": "float", "range": [0, 1]}
    (problem,) = refused(parameter_config=[parameter], compression={"slice": "after"})
    assert "is taken" in problem.what
