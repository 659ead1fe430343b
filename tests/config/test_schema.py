from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from raycompress.catalog.proposers import PROPOSERS
from raycompress.config.experiment import Experiment
from raycompress.config.objective import LIMITS
from raycompress.config.options import Resources
from raycompress.config.schema.keys import json_schema
from raycompress.config.stopping import Budgets, EarlyStop
from raycompress.errors import ExperimentError, Problem
from tests.support.experiments import BASE

Load = Callable[..., Experiment]
Refused = Callable[..., list[Problem]]

TYPOS = """{
  "nmae": "digits",
  "script": "trian.py",
  "resource": {"cpus": 2, "gpu": "0.5"},
  "compression": {
    "framework": "pytorch",
    "typ": "pruning",
    "compressor": "l1_fliter",
    "config_list": [
      {"sparisty": 0.5, "op_names": ["conv1"]},
      {"sparsity": 1.5, "op_types": ["Conv2d"]},
      {"sparsity": 0.5, "op_types": "Conv2d"},
      {"sparsity": {"range": [0.9, 0.1], "type": "float"}, "op_names": ["conv2"]},
      {"sparsity": {"range": [0.1, 0.9], "type": "flaot"}, "op_names": ["conv3"]},
      {"sparsity": {"rnage": [0.1, 0.9], "type": "float"}, "op_names": ["conv4"]},
      {"exclde": true, "op_names": ["fc"]}
    ],
    "arguments": {"dependency_awre": true}
  },
  "parameter_config": [{"name": "lr", "range": [0, 0.1], "type": "float", "log": true}],
  "proposer": "hyperopts",
  "n_samples": "ten",
  "n_parallel": 0,
  "target": "maximum",
  "job_failure": {"ignore_fail": "True"},
  "resource_args": {"save_modle": true}
}
"""
TOLD = [
    ("2  nmae", 'unknown key "nmae"', 'did you mean "name"?'),
    ("4  resource.cpus", 'unknown key "cpus"', 'did you mean "cpu"?'),
    ("4  resource.gpu", '"gpu" must be a number, not the text "0.5"', "write 0.5, without quotes"),
    ("6  compression.framework", 'unknown framework "pytorch"', 'did you mean "torch"?'),
    ("7  compression.typ", 'unknown key "typ"', 'did you mean "type"?'),
    (
        "8  compression.compressor",
        'unknown compressor "l1_fliter"',
        'did you mean "l1_filter"? `raycompress compressors` lists them all',
    ),
    ("10  compression.config_list[0].sparisty", 'unknown key "sparisty"', 'did you mean "sparsity"?'),
    ("11  compression.config_list[1].sparsity", '"sparsity" must be below 1, not 1.5', "write a number below 1"),
    ("12  compression.config_list[2].op_types", "must be a list", 'write ["Conv2d"]'),
    ("13  compression.config_list[3].sparsity.range", "the range ends below its start", "write [0.1, 0.9]"),
    ("14  compression.config_list[4].sparsity.type", 'no type of search range: "flaot"', 'did you mean "float"?'),
    ("15  compression.config_list[5].sparsity.rnage", 'unknown key "rnage"', 'did you mean "range"?'),
    ("16  compression.config_list[6].exclde", 'unknown key "exclde"', 'did you mean "exclude"?'),
    ("18  compression.arguments.dependency_awre", "unknown argument", 'did you mean "dependency_aware"?'),
    ("20  parameter_config[0].log", "a log range must start above 0", "raise the start"),
    ("21  proposer", 'unknown proposer "hyperopts"', 'did you mean "hyperopt"?'),
    ("22  n_samples", '"n_samples" must be a whole number, not the text "ten"', "write a whole number"),
    ("23  n_parallel", '"n_parallel" must be at least 1, not 0', "at least 1"),
    ("24  target", '"target" must be one of max, min', 'did you mean "max"?'),
    ("25  job_failure.ignore_fail", '"ignore_fail" must be true or false', "write true, without quotes"),
    ("26  resource_args.save_modle", 'unknown key "save_modle"', 'did you mean "save_model"?'),
]


def test_each_typo_is_told_once_with_line_path_and_fix(refused_text: Callable[[str], list[Problem]]) -> None:
    problems = refused_text(TYPOS)
    assert len(problems) == len(TOLD) >= 20
    for problem, (where, what, fix) in zip(problems, TOLD, strict=True):
        assert problem.where.endswith(f"exp.json:{where}")
        assert what in problem.what
        assert fix in problem.fix


def test_slips_of_the_text_and_mistakes_of_the_schema_are_told_together(
    refused_text: Callable[[str], list[Problem]],
) -> None:
    text = (
        json.dumps(BASE, indent=1).replace('"digits"', "'digits'").replace("0.5", "1.5").replace('"script"', '"scrpt"')
    )
    told = [(problem.where.split(":")[-1], problem.fix) for problem in refused_text(text)]
    assert told == [
        ("2  name", 'write "digits"'),
        ("3  scrpt", 'did you mean "script"?'),
        ("10  compression.config_list[0].sparsity", "write a number below 1"),
    ]


def test_a_value_that_could_not_be_read_is_told_once(refused_text: Callable[[str], list[Problem]]) -> None:
    problems = refused_text(json.dumps(BASE, indent=1).replace("0.5", "NaN"))
    assert [problem.what for problem in problems] == ["NaN is no JSON"]


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"'])
def test_what_is_no_object(text: str, refused_text: Callable[[str], list[Problem]]) -> None:
    assert "must be an object" in refused_text(text)[0].what


def test_defaults(load: Load, tmp_path: Path) -> None:
    experiment = load()
    assert experiment.path == tmp_path / "exp.json"
    assert (experiment.name, experiment.script_path, experiment.script_args) == ("digits", tmp_path / "train.py", ())
    # results go below the current folder, where `ls` and `best` look for them
    assert (experiment.workingdir, experiment.storage) == (tmp_path, Path.cwd() / "raycompress_results")
    assert experiment.resources == Resources(cpu=1.0, gpu=0.0, memory_gb=None, accelerator_type=None)
    assert (experiment.proposer, experiment.n_samples, experiment.n_parallel) == ("random", 10, 1)
    assert (experiment.target, experiment.seed, experiment.baseline) == ("max", None, True)
    assert (experiment.job_retries, experiment.ignore_failures) == (0, False)
    assert (experiment.trial_timeout_s, experiment.time_budget_s) == (None, None)
    assert (experiment.save_model, experiment.metric_labels, experiment.env) == (None, (), {})
    assert not experiment.n_samples_given and not experiment.is_automatic and not experiment.track_intermediate_results
    assert experiment.compression.config_list == ({"op_names": ["conv1"], "sparsity": 0.5},)


def test_every_key_that_works(load: Load, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    experiment = load(
        {"sparsity": {"range": [0.1, 0.9], "type": "float", "log": True}, "op_names": ["conv1"]},
        {"sparsity": 0, "op_names": ["conv2"], "exclude": False},
        **{"$schema": "./schema.json"},
        script="../train.py --epochs 3 --name 'two words'",
        workingdir="sub",
        resource={"cpu": 2, "gpu": 0.25, "memory_gb": 8, "accelerator_type": "A100"},
        compression={"arguments": {"dependency_aware": {"type": "choice", "range": [True, False]}}},
        parameter_config=[{"name": "lr", "range": [0.001, 0.1], "type": "float", "log": True}],
        proposer="optuna",
        n_samples=3,
        n_parallel=2,
        target="min",
        random_seed=7,
        job_failure={"job_retries": 2, "ignore_fail": True},
        trial_timeout_s=60,
        time_budget_s=3600,
        resource_args={"save_model": False, "multi_res_labels": ["a", "b"], "track_intermediate_results": True},
        runtime_args={"env": {"A": "1"}},
        storage="out",
        baseline=False,
    )
    assert experiment.script_path == tmp_path / "train.py"
    assert experiment.script_args == ("--epochs", "3", "--name", "two words")
    assert (experiment.workingdir, experiment.storage) == (tmp_path / "sub", tmp_path / "out")
    assert experiment.resources == Resources(2.0, 0.25, 8.0, "A100")
    assert experiment.compression.config_list[1] == {"sparsity": 0.0, "op_names": ["conv2"]}
    assert experiment.is_automatic and experiment.n_samples_given
    assert (experiment.n_samples, experiment.seed, experiment.save_model) == (3, 7, False)
    assert (experiment.job_retries, experiment.ignore_failures) == (2, True)
    assert (experiment.metric_labels, experiment.env, experiment.baseline) == (("a", "b"), {"A": "1"}, False)


def test_it_is_frozen_and_travels(load: Load) -> None:
    experiment = load()
    with pytest.raises(FrozenInstanceError):
        experiment.n_parallel = 3  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(experiment)) == experiment  # noqa: S301


def test_where(load: Load) -> None:
    experiment = load({"sparsity": 0.5, "op_names": ["a", "b"]})
    base = str(experiment.path)
    assert (
        experiment.where(("compression", "config_list", 0, "op_names", 1))
        == f"{base}:13  compression.config_list[0].op_names[1]"
    )
    assert experiment.where(("storage",)) == f"{base}:1  storage"
    assert experiment.is_written(("name",)) and not experiment.is_written(("storage",))


@pytest.mark.parametrize(
    ("written", "cpu", "gpu", "notes"),
    [("cpu", 1, 0, 0), ("gpu", 1, 1, 0), ("node", 1, 0, 1), ("aws", 1, 0, 1), ({}, 1, 0, 0), ({"gpu": 0.5}, 1, 0.5, 0)],
)
def test_old_and_new_resources(written: Any, cpu: float, gpu: float, notes: int, load: Load) -> None:
    experiment = load(resource=written)
    assert (experiment.resources.cpu, experiment.resources.gpu) == (cpu, gpu)
    assert len(experiment.accepted) == notes


def test_files_of_the_old_tool_load(load: Load, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    experiment = load(
        {"sparsity": {"range": [0.2, 0.8], "type": "float", "interval": 0.2}, "op_types": ["default"]},
        {"exclude": True, "op_names": ["fc2"]},
        cwd="jobs",
        resource="cpu",
        proposer="sequence",
        n_parallel=4,
        target="max",
        job_failure={"job_retries": 3, "ignore_fail": True},
        resource_args={"save_model": True, "multi_res_labels": ["acc", "flops"], "shutdown": True, "async_run": True},
        runtime_args={"env": {"OMP_NUM_THREADS": "1"}},
    )
    assert experiment.workingdir == tmp_path / "jobs"
    assert experiment.n_samples is None
    assert experiment.save_model is True
    assert [note.split('"')[1] for note in experiment.accepted] == ["resource_args.shutdown", "resource_args.async_run"]


def test_an_interval_without_a_grid_is_a_note(load: Load) -> None:
    experiment = load({"sparsity": {"range": [0.2, 0.8], "type": "float", "interval": 0.2}, "op_names": ["conv1"]})
    assert "for the proposer sequence only" in experiment.accepted[0]


@pytest.mark.parametrize(
    ("keys", "what", "fix"),
    [
        ({"proposer": "eas"}, "refused", "use one of random"),
        (
            {"compression": {"type": "quantization"}},
            '"l1_filter" is for pruning, not quantization',
            '"type": "pruning"',
        ),
        ({"compression": {"config_list": []}}, "nothing would be compressed", "write an entry"),
        ({"compression": {"config_list": "x"}}, "must be a list", "write"),
        ({"compression": {"arguments": {"trainer": 1}}}, 'unknown argument "trainer"', "remove it"),
        (
            {"compression": {"compressor": "slim", "arguments": {"trainer": 1}}},
            "nothing that a file can hold",
            "in the script",
        ),
        ({"job_failure": None}, '"job_failure" must be an object, not null', "{...}"),
        ({"cwd": ".", "workingdir": "."}, "the same thing", "keep one"),
        ({"script": "train.py 'x"}, "not closed", "close"),
        ({"script": ""}, '"script" is empty', "write"),
        ({"name": 3}, '"name" must be a text, not the number 3', 'write "3"'),
        ({"n_samples": 5.0}, '"n_samples" must be a whole number', "write 5"),
        ({"n_samples": True}, '"n_samples" must be a whole number, not true', "whole number"),
        ({"n_samples": None}, "not null", "whole number"),
        ({"baseline": 1}, '"baseline" must be true or false', "write true"),
        ({"trial_timeout_s": 0}, "must be above 0", "above 0"),
        ({"random_seed": -1}, "at least 0", "at least 0"),
        ({"storage": "gs://x"}, "gs://", "write a folder"),
        ({"target": "tvm"}, 'unknown runtime "tvm"', "use one of onnxruntime"),
        ({"target": ["torch", "opnvino"]}, 'unknown runtime "opnvino"', 'did you mean "openvino"?'),
        ({"target": ["max"]}, '"target[0]" must be an object, not the text "max"', '{"runtime": "onnxruntime"}'),
        ({"target": ["openvino", {"runtime": "openvino"}]}, "the target openvino is there twice", "remove one"),
        ({"runtime_args": {"env": {"A=B": "1"}}}, "no name of a variable", "another"),
        ({"runtime_args": {"env": {"A": 1}}}, "must be a text", 'write "1"'),
        ({"resource_args": {"multi_res_labels": ["a", "a"]}}, "stands 2 times", "name of its own"),
        ({"save_model": True}, 'unknown key "save_model"', 'it belongs in "resource_args"'),
        ({"sparsity": 0.5}, 'unknown key "sparsity"', 'it belongs in "compression.config_list"'),
        ({"resource_args": {"proposer": "random"}}, 'unknown key "proposer"', "at the top"),
        ({"zzz": 1}, 'unknown key "zzz"', "the keys here are $schema, name, script"),
        ({"parameter_config": [{"name": "lr", "range": [1, 2]}]}, 'without "type"', '"type": "float"'),
        ({"parameter_config": [{"range": [1, 2], "type": "int"}]}, '"name" is missing', '"name"'),
        ({"parameter_config": [{"name": "x", "range": [1, 2], "type": "int"}] * 2}, '"x" stands 2 times', "keep one"),
        ({"parameter_config": [{"name": "config_list", "range": [1, 2], "type": "int"}]}, "is taken", "another name"),
    ],
)
def test_a_wrong_key_is_told(keys: dict[str, Any], what: str, fix: str, refused: Refused) -> None:
    problems = refused(**keys)
    assert len(problems) == 1, problems
    assert what in problems[0].what
    assert fix in problems[0].fix


def ranged(**keys: Any) -> dict[str, Any]:
    return {"sparsity": {"type": "float", "range": [0.1, 0.9], **keys}, "op_names": ["conv1"]}


@pytest.mark.parametrize(
    ("entry", "what", "fix"),
    [
        ({"sparsity": 0.5}, "names no layers", "op_names"),
        ({"op_names": ["a"]}, '"sparsity" is missing', '"sparsity"'),
        ({"sparsity": 0.5, "op_names": []}, '"op_names" is empty', "write something"),
        ({"sparsity": 0.5, "op_names": ["a", "a"]}, '"a" stands 2 times', "keep one"),
        ({"sparsity": 0.5, "op_names": ["a", 3]}, "must be a text", 'write "3"'),
        ({"sparsity": -0.1, "op_names": ["a"]}, "at least 0", "at least 0"),
        ({"sparsity": 1, "op_names": ["a"]}, "below 1", "below 1"),
        ({"sparsity": None, "op_names": ["a"]}, "not null", "number"),
        ({"sparsity": "0.5", "op_names": ["a"]}, 'not the text "0.5"', "write 0.5, without quotes"),
        ({"sparsity": 0.5, "quant_bits": 8, "op_names": ["a"]}, '"quant_bits" is no key of l1_filter', "remove it"),
        ({"sparsity": 0.5, "op_names": ["a"], "expand_op_names": "depndency"}, "must be one of", 'mean "dependency"?'),
        (
            {"sparsity": 0.5, "op_names": ["a"], "expand_op_names": "false"},
            "is the text",
            "write false, without quotes",
        ),
        ({"sparsity": 0.5, "op_names": ["a"], "expand_op_names": 1}, "must be one of", "write true or false"),
        ({**ranged(), "exclude": True}, "leaves its layers alone", "remove it"),
        ("conv1", "must be an object", "{...}"),
        (ranged(type="int", range=[0, 1]), "below 1", "below 1"),
        (ranged(type="double"), "no type of search range", '"float"'),
        (ranged(range=[0.1, 1.0]), "below 1, not 1.0", "below 1"),
        (ranged(range=[0.5, 0.5]), "holds one value only", "write 0.5"),
        (ranged(range=[0.1]), "[low, high], not a list of 1", "[0.1, 0.9]"),
        (ranged(range="0.1-0.9"), "[low, high], not the text", "[0.1, 0.9]"),
        (ranged(range=[0.1, "0.9"]), "must be a number, not the text", "number"),
        (ranged(range=[0, 0.9], log=True), "must start above 0", "raise"),
        (ranged(log="yes"), '"log" must be true or false', "without quotes"),
        (ranged(interval=2), '"interval" must be a number above 0, at most 0.8', '"interval": 0.2'),
        (ranged(n=1), '"n" must be a whole number from 2', '"n": 5'),
        (ranged(n=3, interval=0.1), "together", "keep one"),
        (ranged(log=True, interval=0.1), "in a log range", '"n": 5'),
        (ranged(type="choice", range=[]), "a choice of nothing", "choose from"),
        (ranged(type="choice", range=[0.1, 2]), "below 1, not 2", "below 1"),
        (ranged(type="choice", log=True), "means nothing for a choice", "remove it"),
        (ranged(steps=3), 'unknown key "steps"', "remove it; a search range has"),
        ({"sparsity": {"type": "float"}, "op_names": ["a"]}, 'without "range"', '"range": [0.1, 0.9]'),
    ],
)
def test_a_wrong_entry_is_told(entry: Any, what: str, fix: str, refused: Refused) -> None:
    problems = refused(entry)
    assert len(problems) == 1, problems
    assert what in problems[0].what
    assert fix in problems[0].fix


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"type": "int", "range": [1.5, 3]}, "must be whole"),
        ({"type": "int", "range": [1, 9], "interval": 0.5}, "a whole number above 0"),
        ({"type": "float", "range": [1, 3], "interval": -1}, "above 0"),
        ({"type": "int", "range": [1, 10**30]}, "may reach to 9.0072e+15"),
        ({"type": "float", "range": [-1e308, 1e308]}, "may reach to 1e+100"),
        ({"type": "float", "range": [5e-324, 1], "log": True}, "may start at 1e-100"),
        ({"type": "float", "range": [0.1, 0.10000000000000002]}, "next to one value only"),
        ({"type": "float", "range": [0, 1], "interval": 5e-324}, "more values than can be counted"),
        ({"type": "float", "range": [0, 1], "n": 10**30}, "a whole number from 2"),
        ({"type": "int", "range": [1, 10**308 * 2]}, "is too large"),
    ],
)
def test_a_wrong_parameter_range_is_told(value: dict[str, Any], what: str, refused: Refused) -> None:
    assert what in refused(parameter_config=[{"name": "x", **value}])[0].what


def test_spearmint_counts_the_whole_numbers_of_a_range(refused: Refused, load: Load) -> None:
    wide = {"name": "x", "type": "int", "range": [1, 200_000]}
    assert "this one has 200000" in refused(parameter_config=[wide], proposer="spearmint")[0].what
    load(parameter_config=[{**wide, "range": [1, 100_000]}], proposer="spearmint")
    load(parameter_config=[wide], proposer="optuna")


@pytest.mark.parametrize(
    "keys",
    [
        {"name": "a\0b"},
        {"script": "a\0.py"},
        {"storage": "\0"},
        {"workingdir": "\0"},
        {"runtime_args": {"prescript": "a\0"}},
        {"runtime_args": {"env": {"A": "\0"}}},
    ],
)
def test_a_nul_is_no_text(keys: dict[str, Any], refused: Refused) -> None:
    assert "a NUL character" in refused(**keys)[0].what


def test_bits_are_whole_and_positive(refused: Refused) -> None:
    entries = [
        {"quant_types": ["weight"], "quant_bits": bits, "op_names": [f"a{index}"]}
        for index, bits in enumerate(
            [
                0,
                7.5,
                {"weight": 0},
                {"wieght": 8},
                {"type": "float", "range": [2, 8]},
                {"weight": {"type": "int", "range": [0, 8]}},
            ]
        )
    ]
    problems = refused(*entries, compression={"compressor": "qat", "type": "quantization"})
    told = {
        problem.where.split("config_list")[1]: problem.what for problem in problems if "config_list" in problem.where
    }
    assert list(told) == [
        "[0].quant_bits",
        "[1].quant_bits",
        "[2].quant_bits.weight",
        "[3].quant_bits.wieght",
        "[4].quant_bits.type",
        "[5].quant_bits.weight.range[0]",
    ]


def test_a_float_on_a_grid_needs_an_end_of_values(refused: Refused) -> None:
    problems = refused(
        ranged(), proposer="sequence", parameter_config=[{"name": "x", "type": "float", "range": [0, 1]}]
    )
    assert [problem.where.split("  ")[1] for problem in problems] == [
        "compression.config_list[0].sparsity",
        "parameter_config[0]",
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "exp.json").write_bytes(b'{"name": "\xff"}')
    for name, what, fix in (
        ("exq.json", "no such file", 'did you mean "exp.json"?'),
        (".", "folder", "a file in it"),
        ("exp.json", "no UTF-8", "save the file as UTF-8"),
    ):
        with pytest.raises(ExperimentError) as caught:
            Experiment.load(tmp_path / name)
        assert what in caught.value.problems[0].what
        assert fix in caught.value.problems[0].fix


def test_a_byte_order_mark_and_windows_lines_are_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "exp.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(BASE, indent=1).replace("\n", "\r\n").encode())
    assert Experiment.load(tmp_path / "exp.json").name == "digits"


def test_paths_resolve_against_the_file_not_the_current_folder(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    experiment = Experiment.load(os.path.join("..", "exp.json"))  # noqa: PTH118
    assert experiment.script_path == tmp_path / "train.py"
    assert experiment.where(("name",)) == "../exp.json:2  name"


def test_the_json_schema_knows_every_key() -> None:
    schema = json_schema()
    text = json.dumps(schema)
    assert '"default": null' not in text
    assert schema["required"] == ["name", "script", "compression"]
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["ConstraintKeys"]["properties"].keys() == set(LIMITS)
    assert schema["properties"]["proposer"]["enum"] == list(PROPOSERS.names())
    entry = schema["$defs"]["Entry"]["properties"]
    assert {"op_names", "op_types", "sparsity", "exclude", "expand_op_names", "quant_bits"} <= set(entry)
    assert entry["sparsity"]["anyOf"][1]["required"] == ["type", "range"]


SEARCHED = {"sparsity": {"range": [0.2, 0.8], "type": "float"}, "op_names": ["conv1"]}


def test_early_stopping_with_its_defaults_switches_intermediate_results_on(load: Load) -> None:
    plain = load(SEARCHED)
    assert plain.early_stop is None
    assert not plain.track_intermediate_results
    given = {"track_intermediate_results": False, "early_stop": {"aup_policy": "bandit", "aup_policy_steps": 5}}
    experiment = load(SEARCHED, resource_args=given)
    assert experiment.early_stop == EarlyStop("bandit", steps=5, warmup=0, bandit_factor=0.5)
    assert experiment.track_intermediate_results
    assert experiment.early_stop.truncation_percentage == 0.3
    assert experiment.early_stop.curve_fitting_timeout_s == 30


def test_early_stopping_is_checked(refused: Refused) -> None:
    wrong = {"aup_policy": "medain", "aup_policy_step": 2, "truncation_percentage": 1.5}
    told = refused(resource_args={"early_stop": wrong})
    assert [problem.fix for problem in told][:2] == ['did you mean "median"?', 'did you mean "aup_policy_steps"?']
    assert "below 1" in told[2].what
    (told_top,) = refused(early_stop={"aup_policy": "median"})
    assert told_top.fix == 'it belongs in "resource_args"'


def test_budgets_of_hyperband_and_bohb(load: Load) -> None:
    assert load(SEARCHED, proposer="random").budgets is None
    assert load(SEARCHED, proposer="hyperband").budgets == Budgets(3, 81)
    bohb = load(SEARCHED, proposer="bohb", eta=2, max_iter=16, num_samples=4)
    assert bohb.budgets == Budgets(2, 16)
    assert bohb.bohb["num_samples"] == 4
    assert bohb.bohb["min_points_in_model"] is None


def test_a_setting_of_another_proposer_is_a_note(load: Load) -> None:
    assert load(SEARCHED, eta=3).accepted == ('"eta" is for the proposer hyperband or bohb only',)
    (note,) = load(SEARCHED, proposer="hyperopt", engine="anneal").accepted
    assert 'read as "tpe"' in note
    other = {"early_stop": {"aup_policy": "median", "bandit_factor": 0.3, "warmup": 2}}
    assert load(SEARCHED, resource_args=other).accepted == (
        '"resource_args.early_stop.bandit_factor" is for another policy than median',
    )


def test_the_engine_random_of_hyperopt_is_random_sampling(load: Load) -> None:
    assert load(SEARCHED, proposer="hyperopt", engine="random").proposer == "random"
    assert load(SEARCHED, proposer="hyperopt", engine="tpe").proposer == "hyperopt"


@pytest.mark.parametrize("resource", ["cpu", "node", "aws", "passive"])
def test_the_old_names_of_resources_are_cpu(load: Load, resource: str) -> None:
    experiment = load(SEARCHED, resource=resource)
    assert (experiment.resources.cpu, experiment.resources.gpu) == (1, 0)
    assert len(experiment.accepted) == (resource != "cpu")


@pytest.mark.parametrize("key", ["min_budget", "max_budget"])
def test_budgets_of_the_old_bohb_mean_nothing(load: Load, key: str) -> None:
    assert key in load(SEARCHED, proposer="bohb", **{key: 1}).accepted[0]


def test_an_empty_config_list_is_everything_where_a_compressor_has_a_default(load: Load) -> None:
    naive = load(compression={"compressor": "naive", "type": "quantization", "config_list": []})
    assert naive.compression.config_list == ({"quant_types": ["weight"], "quant_bits": 8, "op_types": ["default"]},)
    amc = load(compression={"compressor": "amc", "config_list": []})
    assert amc.compression.config_list == ({"op_types": ["default"]},)
