"""``compression`` as a list of stages: what each is read as, what may follow what, and how it reaches a script."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycompress.catalog import CATALOG
from raycompress.catalog.stages import may_follow
from raycompress.cli.commands.experiment.validate import _found, _in_words
from raycompress.config.experiment import Experiment
from raycompress.config.keywords import experiment_data
from raycompress.config.migration.report import Migration
from raycompress.config.objective import Bound
from raycompress.config.schema.keys import json_schema
from raycompress.config.search_space import SearchSpace
from raycompress.config.trial_config import trial_config
from raycompress.errors import ExperimentError, Problem, UsageError
from raycompress.forecast.projection import ceilings
from raycompress.script.config import STAGES_KEY, BasicConfig
from raycompress.session.script_run import compression_config
from tests.support.experiments import BASE

FLOAT = {"type": "float", "range": [0.1, 0.9]}
ENTRY = {"sparsity": FLOAT, "op_names": ["conv1"]}


def stage(compressor: str, *entries: Any, kind: str = "pruning", **more: Any) -> dict[str, Any]:
    return {"framework": "torch", "type": kind, "compressor": compressor, "config_list": list(entries), **more}


INT8 = stage("ptq_static", kind="quantization", arguments={"per_channel": {"type": "choice", "range": [True, False]}})
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*stages: Any, **more: Any) -> Path:
        path = tmp_path / "exp.json"
        path.write_text(json.dumps({**BASE, "compression": list(stages), **more}, indent=1))
        return path

    return write


def refused(path: Path) -> tuple[Problem, ...]:
    with pytest.raises(ExperimentError) as caught:
        Experiment.load(path)
    return caught.value.problems


def test_the_ranges_of_all_stages_are_one_space_whose_names_do_not_collide(write: Write) -> None:
    level = stage("level", {**ENTRY, "op_names": ["conv1", "conv2"]})
    experiment = Experiment.load(write(stage("group_l1", ENTRY), level, INT8))
    space = SearchSpace.of(experiment)
    names = ["conv1.sparsity", "level.conv1.sparsity", "conv2.sparsity", "arguments.per_channel"]
    assert [one.name for one in space.dimensions] == names
    sample = dict(zip(names, [0.2, 0.3, 0.4, False], strict=True))
    config = trial_config(compression_config(experiment), space.build(sample), number=1, saves_into=None)
    assert (config["compressor"], config["config_list"][0]["sparsity"]) == ("group_l1", 0.2)
    later = config[STAGES_KEY]
    assert [one["compressor"] for one in later] == ["level", "ptq_static"]
    assert [entry["sparsity"] for entry in later[0]["config_list"]] == [0.3, 0.4]
    assert later[1] == {
        "compressor": "ptq_static",
        "config_list": [{"op_types": ["default"]}],
        "arguments": {"per_channel": False},
    }


def test_a_list_of_one_is_the_same_experiment(write: Write) -> None:
    one = Experiment.load(write(stage("group_l1", ENTRY)))
    config = trial_config(
        compression_config(one), SearchSpace.of(one).build({"conv1.sparsity": 0.5}), number=1, saves_into=None
    )
    assert STAGES_KEY not in config and one.compressors == "group_l1"
    assert one.where(("compression", "config_list", 0, "sparsity")).endswith("compression[0].config_list[0].sparsity")


@pytest.mark.parametrize(
    ("stages", "where", "what"),
    [
        ([INT8, stage("group_l1", ENTRY)], "compression[1].compressor", "nothing can follow that"),
        ([stage("group_l1", ENTRY), stage("levl", ENTRY)], "compression[1].compressor", 'unknown compressor "levl"'),
        ([stage("group_l1", ENTRY), stage("level", {"op_names": ["a"]})], "compression[1].config_list[0]", "missing"),
        ([stage("group_l1", ENTRY), {**INT8, "slice": "before"}], "compression[1].slice", "removes no channels"),
        ([stage("group_l1", ENTRY), {**INT8, "argments": {}}], "compression[1].argments", "unknown key"),
        ([stage("group_l1", ENTRY, framework="tensorflow"), INT8], "compression[0].framework", "is for torch"),
        ([], "compression", "is empty"),
        ([stage("group_l1", ENTRY), 3], "compression[1]", "must be an object"),
    ],
)
def test_a_mistake_is_told_with_its_stage(write: Write, stages: list[Any], where: str, what: str) -> None:
    found = refused(write(*stages))
    assert [one.where.partition("  ")[2] for one in found if what in one.what] == [where], found


def test_what_may_follow_what() -> None:
    torch = [entry for entry in CATALOG if entry.framework == "torch"]
    named = {entry.name: entry for entry in CATALOG if entry.framework == "torch"}
    pruners = {entry.name for entry in torch if entry.kind == "pruning"}
    assert set(may_follow(named["ptq_static"], torch)) == pruners
    assert may_follow(named["group_l1"], torch) == []
    after = may_follow(named["qat"], torch)
    assert {"group_l1", "l1_filter"} <= set(after) <= pruners - {"level", "group_taylor"}
    assert may_follow(named["level"], torch) == after
    keras = [entry for entry in CATALOG if entry.framework == "tensorflow"]
    assert not [name for entry in keras for name in may_follow(entry, list(CATALOG))]


def test_what_is_known_before_training_leaves_out_the_bytes_that_a_later_stage_changes(write: Write) -> None:
    bounds = {"constraints": {"size_bytes": {"max_ratio": 0.1}, "flops": {"max_ratio": 0.5}}}
    both = Experiment.load(write(stage("group_l1", ENTRY), INT8, **bounds))
    assert ceilings(both) == (Bound("flops", "max_ratio", 0.5),)
    assert len(ceilings(Experiment.load(write(stage("group_l1", ENTRY), **bounds)))) == 2


def test_the_ways_by_which_stages_come(write: Write) -> None:
    found = _found(Experiment.load(write(stage("group_l1", ENTRY), INT8)))
    assert _in_words(found).startswith("pruning with group_l1, then quantization with ptq_static, 2 dimensions")
    assert "<list>" not in json.dumps(json_schema())
    plain = {"sparsity": 0.5, "op_names": ["conv1"]}
    path = write(stage("group_l1", {**plain, "expand_op_names": False}), {**INT8, "arguments": {}})
    by_hand = BasicConfig().load(path)
    assert by_hand.config_list == [plain] and by_hand[STAGES_KEY][0]["compressor"] == "ptq_static"
    assert Migration.of(path).changes  # an empty config_list is written out
    with pytest.raises(UsageError, match=r"compression\[1\].arguments.per_channel"):
        BasicConfig().load(write(stage("group_l1", plain), INT8))

    data = experiment_data({"compressor": ["group_l1", "ptq_static"], "sparsity": (0.1, 0.9)}, "rc.launch")
    first, second = data["compression"]
    assert first["config_list"][0]["sparsity"] == FLOAT and second["type"] == "quantization"
    with pytest.raises(ExperimentError, match="does not say which"):
        experiment_data({"arguments": {}}, "rc.launch", data["compression"])


@pytest.mark.parametrize(
    ("compressor", "proposer", "where", "fix"),
    [
        ("ptq_static", "optuna", "proposer", 'write "proposer": "guided"'),
        (
            *("qat", "guided", "compression[1].config_list[0].quant_bits"),
            'write "quant_bits": 8; or take one of ptq_static, ptq_dynamic, int8_weight_only',
        ),
    ],
)
def test_bits_by_sensitivity_where_nothing_measures_it(
    compressor: str, proposer: str, where: str, fix: str, write: Write
) -> None:
    entry = {"op_types": ["default"], "quant_bits": "sensitivity"}
    parts = {} if compressor == "ptq_static" else {"quant_types": ["weight"]}
    second = stage(compressor, {**entry, **parts}, kind="quantization")
    (problem,) = refused(write(stage("group_l1", ENTRY), second, proposer=proposer, n_samples=2))
    assert problem.where.endswith(where) and problem.fix == fix


def test_bits_by_sensitivity_are_a_choice_for_each_layer(write: Write) -> None:
    second = stage("ptq_static", {"op_names": ["conv1", "fc"], "quant_bits": "sensitivity"}, kind="quantization")
    for stages in ((stage("group_l1", ENTRY), second), (second,)):
        space = SearchSpace.of(Experiment.load(write(*stages, proposer="guided", n_samples=2)))
        assert [(one.name, one.choices) for one in space.bits] == [
            ("conv1.quant_bits", (32, 8, 4)),
            ("fc.quant_bits", (32, 8, 4)),
        ]
        assert set(space.bits) <= set(space.guided)
        assert space.smallest()["fc.quant_bits"] == 4 and space.largest()["fc.quant_bits"] == 32
