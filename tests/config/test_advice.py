"""What a mistake is called, and that its fix is one that is then accepted."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycompress.config.checks.preflight import check_files, check_model
from raycompress.config.experiment import Experiment
from raycompress.errors import ExperimentError, Problem
from raycompress.results.folder import new_id
from raycompress.runtime.preload import find_imports
from raycompress.runtime.protocol import Ending
from raycompress.script.packages import module_file, place_of
from raycompress.search.plan import parallel
from raycompress.session.script_run import last_lines
from raycompress.states import TrialState
from tests.support.experiments import layer, network

Load = Callable[..., Experiment]
Refused = Callable[..., list[Problem]]
QAT = {"compressor": "qat", "type": "quantization"}


def entry(**keys: Any) -> dict[str, Any]:
    return {"op_types": ["Conv2d"], **keys}


# ---- keys of other tools, and guesses


@pytest.mark.parametrize(
    ("wrong", "compression", "fix"),
    [
        ({"total_sparsity": 0.5}, {}, 'write "sparsity": 0.5, which counts for each layer'),
        ({"total_sparsity": 0.4}, {"compressor": "group_l1"}, '"arguments": {"global": true}'),
        ({"sparsity_per_layer": 0.3}, {}, 'write "sparsity": 0.3'),
        ({"sparse_ratio": 0.3}, {"compressor": "agp"}, 'write "sparsity": 0.3'),
        ({"sparse_ratio": 0.3}, {"compressor": "amc"}, "remove it"),
        ({"pruning_ratio": 0.3}, {}, 'write "sparsity": 0.3'),
        ({"sparsity": 0.5, "sparse_ratio": 0.3}, {}, 'remove it: "sparsity" is there as well'),
        ({"sparsity": 0.5, "op_names_re": ["conv.*"]}, {}, "no patterns are read"),
        ({"sparsity": 0.5, "exclude_op_names": ["fc"]}, {}, '{"exclude": true, "op_names": ["fc"]}'),
        ({"sparsity": 0.5, "max_sparsity_per_layer": 0.8}, {}, '"sparsity": {"type": "float"'),
        ({"target_names": ["weight"]}, QAT, '"quant_types": ["weight"] and "quant_bits": 8'),
        ({"sparisty": 0.5}, {}, 'did you mean "sparsity"?'),
        ({"sparisty": {"type": "float", "range": [10, 90]}}, {}, 'did you mean "sparsity"?'),  # nothing of the guess
        ({"sparsity": 0.5, "sparisty": 0.6}, {}, 'remove it: "sparsity" is there as well'),
        ({"sparsity": 0.5, "quant_bit": 8}, {}, "remove it"),  # l1_filter would refuse "quant_bits"
    ],
)
def test_an_unknown_key_is_one_mistake(wrong: Any, compression: Any, fix: str, refused: Refused) -> None:
    problems = refused(entry(**wrong), compression=compression)
    assert len(problems) == 1, problems
    assert problems[0].what.startswith("unknown key")
    assert fix in problems[0].fix


@pytest.mark.parametrize(
    ("keys", "fix"),
    [
        ({"n_trials": 20}, 'write "n_samples"'),
        ({"n_samples": 3, "maxTrialNumber": 20}, 'remove it: "n_samples" is there as well'),
        ({"searchSpace": {}}, 'write "parameter_config"'),
        ({"resorce": "gpuu"}, 'did you mean "resource"?'),
        ({"compression": {"sparsity": 0.5}, "n_samples": 3}, 'it belongs in "compression.config_list"'),
        ({"quant_bits": 8}, "remove it; l1_filter has sparsity"),
        ({"objectives": {"": "max"}}, "write something"),
        ({"name": ""}, "write something"),
    ],
)
def test_a_key_of_the_file_is_one_mistake(keys: dict[str, Any], fix: str, refused: Refused) -> None:
    problems = refused(**keys)
    assert [fix in problem.fix for problem in problems] == [True]
    assert "the experiment" not in problems[0].what


def test_what_stands_elsewhere_is_not_missing_as_well(refused: Refused) -> None:
    problems = refused({"op_types": ["Conv2d"]}, compression={"sparsity": 0.5})
    assert [problem.fix for problem in problems] == ['it belongs in "compression.config_list"']


@pytest.mark.parametrize(
    ("compression", "fix"),
    [
        ({"compressor": "magnitud"}, 'did you mean "magnitude", with "framework": "tensorflow" and "type": "pruning"?'),
        ({"compressor": "ptq_statc"}, '"ptq_static", with "framework": "torch" and "type": "quantization"?'),
        ({"compressor": "L1NormPruner"}, 'did you mean "l1_filter"?'),
        ({"compressor": "slim", "arguments": {"optimzer": 1}}, "pass optimizer= to create_compressor"),
        ({"compressor": "pca", "arguments": {"x": 1}}, "use one of level, slim"),  # nothing of a compressor unknown
    ],
)
def test_a_guess_is_one_that_fits_the_rest(compression: dict[str, Any], fix: str, refused: Refused) -> None:
    (problem,) = refused(compression=compression)
    assert fix in problem.fix


# ---- shares in percent


@pytest.mark.parametrize(
    ("written", "fixed"),
    [
        (50, 0.5),
        ("50%", 0.5),
        ("50", 0.5),
        ({"type": "float", "range": [10, 90]}, {"type": "float", "range": [0.1, 0.9]}),
        ({"type": "int", "range": [10, 90]}, {"type": "float", "range": [0.1, 0.9]}),
        ({"type": "choice", "range": [10, 50]}, {"type": "choice", "range": [0.1, 0.5]}),
        ({"type": "float", "range": [0, 90], "interval": 10}, {"type": "float", "range": [0, 0.9], "interval": 0.1}),
    ],
)
def test_percent(written: Any, fixed: Any, refused: Refused, load: Load) -> None:
    problem = refused(entry(sparsity=written))[0]
    assert problem.what.startswith('"sparsity" must be')
    assert json.loads(problem.fix.removeprefix("percent? write ")) == fixed
    load(entry(sparsity=fixed))


def test_a_bound_of_whole_numbers_names_its_key(refused: Refused) -> None:
    wrong = entry(sparsity=0.5, frequency={"type": "int", "range": [0, 4]})
    assert refused(wrong, compression={"compressor": "agp"})[0].what == '"frequency" must be at least 1, not 0'


# ---- names of files, and what is no script


def test_a_long_name_is_cut() -> None:
    assert len(new_id("lr=0.001_batch=64-" * 20)) <= 120
    assert new_id("é" * 300).startswith("experiment-")


def test_a_long_name_in_a_path_is_told(load: Load) -> None:
    assert "more than 255 bytes" in check_files(load(storage="a/" + "é" * 130))[0].what


def test_several_workers_are_refused_where_there_can_be_but_one(refused: Refused) -> None:
    workers = {"resource": {"workers": 2}}
    keras_level = {"framework": "tensorflow", "compressor": "level"}
    (keras,) = refused(compression=keras_level, **workers)
    assert "torch.distributed" in keras.what and keras.fix == 'remove "workers"'
    (passive,) = refused(proposer="passive", **workers)
    assert "this very process" in passive.what


def test_trials_at_a_time_are_counted_by_their_workers(load: Load) -> None:
    experiment = load(resource={"cpu": 2, "workers": 3}, n_parallel=4)
    assert parallel(experiment, [{"CPU": 4.0}, {"CPU": 9.0}]) == 2  # two places and four
    with pytest.raises(ExperimentError) as few:
        parallel(experiment, [{"CPU": 3.0}, {"CPU": 2.0}])
    assert "a trial has 3 workers with 2 CPUs each, and there is room for 2" in str(few.value)
    assert 'write "workers": 2' in few.value.problems[0].fix
    with pytest.raises(ExperimentError, match="a trial asks for 2 CPUs"):
        parallel(experiment, [{"CPU": 1.0}])


def test_a_value_in_the_scripts_arguments_is_a_hyperparameter(load: Load) -> None:
    lr = {"name": "lr", "type": "float", "range": [0.1, 0.2]}
    for script, fixes in (
        ("train.py --lr {lr} --config {config} {}", []),
        ("train.py --lr {lrr}", ['did you mean "lr"?']),
    ):
        found = check_files(load(script=script, parameter_config=[lr]))
        assert [problem.fix for problem in found] == fixes


@pytest.mark.parametrize(
    ("script", "what", "fix"),
    [
        ("notes.ipynb", "is a notebook", "jupyter nbconvert --to script notes.ipynb"),
        ("go.sh", "script of the shell", "prescript"),
        ("go", "script of the shell", "prescript"),
        ("data.json", "no Python script", ""),
        ("data.py", "holds data", ""),
        ("python train.py --lr 1", "no script", '"script": "train.py --lr 1"'),
        ("torchrun --nproc 2 train.py", "no script", '"script": "train.py"'),
        ("python3 -m pkg.run", "no script", '"script": "-m pkg.run"'),
        ("pkg\\run.py", "no script", '"script": "pkg/run.py"'),
        ("pkg", "is a folder", '"script": "-m pkg"'),
        ("-m pkg.rnu", "no module pkg.rnu", "python -m"),
    ],
)
def test_what_is_no_script(script: str, what: str, fix: str, load: Load, tmp_path: Path) -> None:
    _package(tmp_path)
    (tmp_path / "notes.ipynb").write_text('{"cells": [], "nbformat": 4}')
    (tmp_path / "go.sh").write_text("python train.py\n")
    (tmp_path / "go").write_text("#!/usr/bin/env bash\npython train.py\n")
    (tmp_path / "data.json").write_text("{}")
    (tmp_path / "data.py").write_text('{"cells": []}')
    (problem,) = check_files(load(script=script))
    assert what in problem.what
    assert fix in problem.fix
    if '"script"' in problem.fix:  # the fix is then taken
        fixed = json.loads("{" + problem.fix.partition("write ")[2].partition(";")[0] + "}")["script"]
        assert (shlex.split(script)[0] == "notes.ipynb") or check_files(load(script=fixed)) == []


# ---- modules of packages


def _package(folder: Path) -> Path:
    (folder / "pkg").mkdir()
    (folder / "pkg" / "__init__.py").write_text("")
    (folder / "pkg" / "other.py").write_text("import decimal\nanswer = 42\n")
    (folder / "pkg" / "run.py").write_text(
        "import sys\nfrom .other import answer\nprint(answer, __package__, sys.argv[1:])\n"
    )
    (folder / "pkg" / "__main__.py").write_text("from pkg.other import answer\n")
    return folder / "pkg" / "run.py"


def test_a_module_is_found_as_python_does(load: Load, tmp_path: Path) -> None:
    script = _package(tmp_path)
    experiment = load(script="-m pkg.run --epochs 3")
    assert (experiment.script_path, experiment.script_module) == (script, "pkg.run")
    assert (experiment.script_args, check_files(experiment)) == (("--epochs", "3"), [])
    assert module_file("pkg", tmp_path) == script.with_name("__main__.py")
    assert module_file("http.server", tmp_path) is not None
    assert [module_file(name, tmp_path) for name in ("pkg.none", "none", "pkg.run.x")] == [None] * 3


def test_a_script_with_relative_imports_is_a_member_of_its_package(tmp_path: Path) -> None:
    script = _package(tmp_path)
    assert place_of(script, script.read_bytes()) == (tmp_path, "pkg")
    assert place_of(script, b"import torch") == (script.parent, "")  # as by hand
    assert place_of(script, b"import torch", "pkg.run") == (tmp_path, "pkg")
    assert place_of(script.with_name("__main__.py"), b"", "pkg") == (tmp_path, "pkg")
    assert place_of(tmp_path / "train.py", b"", "train") == (tmp_path, "")
    assert "decimal" in [item.module for item in find_imports(script, tmp_path)]
    ran = subprocess.run(
        [sys.executable, "-m", "raycompress", "exec", str(script), "a"], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "42 pkg ['a']\n"


# ---- search ranges of other tools, and files that are no JSON


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ([0.3, 0.8], {"type": "float", "range": [0.3, 0.8]}),
        ([0.3, 0.5, 0.8], {"type": "choice", "range": [0.3, 0.5, 0.8]}),
        ({"min": 0.3, "max": 0.8}, {"type": "float", "range": [0.3, 0.8]}),
        ({"type": "uniform", "low": 0.3, "high": 0.8}, {"type": "float", "range": [0.3, 0.8]}),
        ({"_type": "uniform", "_value": [0.3, 0.8]}, {"type": "float", "range": [0.3, 0.8]}),
        (
            {"distribution": "log_uniform_values", "min": 0.1, "max": 0.8},
            {"type": "float", "range": [0.1, 0.8], "log": True},
        ),
        ({"values": [0.3, 0.8]}, {"type": "choice", "range": [0.3, 0.8]}),
        ({"type": "choice", "choices": [0.3, 0.8]}, {"type": "choice", "range": [0.3, 0.8]}),
        ({"grid_search": [0.3, 0.5]}, {"type": "choice", "range": [0.3, 0.5]}),
        ({"type": "float", "range": "0.3-0.8"}, '"range": [0.3, 0.8]'),
        ({"from": 0.3, "to": 0.8}, {"type": "float", "range": [0.3, 0.8]}),
    ],
)
def test_a_range_of_another_tool_is_written_as_ours(value: Any, meant: Any, refused: Refused, load: Load) -> None:
    problems = refused(entry(sparsity=value))
    fix, sparsity = (meant, {**value, "range": [0.3, 0.8]}) if isinstance(meant, str) else (json.dumps(meant), meant)
    assert [problem.fix for problem in problems] == [f"write {fix}"]
    load(entry(sparsity=sparsity))


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ({"lr": {"type": "float", "range": [0.1, 0.2]}}, [{"name": "lr", "type": "float", "range": [0.1, 0.2]}]),
        (
            {"lr": {"_type": "loguniform", "_value": [0.1, 0.2]}},
            [{"name": "lr", "type": "float", "range": [0.1, 0.2], "log": True}],
        ),
        ([{"name": "b", "values": [16, 32]}], {"name": "b", "type": "choice", "range": [16, 32]}),
        ([{"name": "b", "type": "randint", "low": 1, "high": 8}], {"name": "b", "type": "int", "range": [1, 8]}),
    ],
)
def test_parameters_of_another_tool_are_written_as_ours(value: Any, meant: Any, refused: Refused, load: Load) -> None:
    problems = refused(parameter_config=value)
    assert [problem.fix for problem in problems] == [f"write {json.dumps(meant)}"]
    load(parameter_config=meant if isinstance(meant, list) else [meant])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("name: n\nscript: train.py\n", "YAML"),
        ("---\n# a comment\nname: n\n", "YAML"),
        ('name = "n"\n[compression]\n', "TOML"),
        ("[experiment]\nname = n\n", "TOML"),
        ("import torch\nprint(1)\n", "a script"),
        ("#!/usr/bin/env python3\nprint(1)\n", "a script"),
    ],
)
def test_a_file_that_is_no_json_is_told_as_what_it_is(tmp_path: Path, text: str, kind: str) -> None:
    (tmp_path / "exp.json").write_text(text)
    with pytest.raises(ExperimentError, match=f"this is {kind}, and an experiment is JSON") as caught:
        Experiment.load(tmp_path / "exp.json")
    assert len(caught.value.problems) == 1


def test_a_slip_in_a_word_of_ours_is_no_range_of_another_tool(refused: Refused) -> None:
    fixes = [
        refused(entry(sparsity=value))[0].fix
        for value in ({"type": "flaot", "range": [0.3, 0.8]}, {"type": "float", "rnage": [0.3, 0.8]})
    ]
    assert fixes == ['did you mean "float"?', 'did you mean "range"?']


# ---- values of a wrong form


@pytest.mark.parametrize(
    ("keys", "fix"),
    [
        ({"target": "maximize"}, 'write "max"'),
        ({"target": "lowest"}, 'write "min"'),
        ({"trial_timeout_s": "1h"}, "write 3600, in seconds"),
        ({"trial_timeout_s": "2.5 min"}, "write 150, in seconds"),
        ({"scheduler": "asha"}, 'write {"type": "asha"}'),
        ({"scheduler": {"name": "asha"}}, 'did you mean "type"?'),
        ({"constraints": {"flops": 0.5}}, 'write {"max_ratio": 0.5}'),
        ({"constraints": {"flops": "50%"}}, 'write {"max_ratio": 0.5}'),
        ({"runtime_args": {"env": ["A=1"]}}, 'write {"A": "1"}'),
        ({"runtime_args": {"prescript": ["a", "b"]}}, 'write "a && b"'),
        ({"script": ["train.py", "--lr", "1"]}, 'write "train.py --lr 1"'),
        ({"storage": "s3:bucket/x"}, 'write "storage": "s3://bucket/x"'),
        ({"storage": "gs:/bucket/x"}, 'write "storage": "s3://bucket/x"'),
        ({"compression": {"config_list": {"op_types": ["Conv2d"], "sparsity": 0.5}}}, "write [{"),
        ({"compression": {"compressor": "l1"}}, 'did you mean "l1_filter"?'),
        ({"compression": {"compressor": "int8"}}, 'did you mean "int8_weight_only", with'),
        ({"compression": {"compressor": "dynamic"}}, 'did you mean "ptq_dynamic", with'),
        ({"compression": {"compressor": "random_structured"}}, 'did you mean "random"?'),
    ],
)
def test_a_value_of_a_wrong_form_is_written_as_it_was_meant(keys: dict[str, Any], fix: str, refused: Refused) -> None:
    assert [fix in problem.fix for problem in refused(**keys)] == [True]


@pytest.mark.parametrize("value", [["accuracy", "flops"], "accuracy", {"accuracy": "maximize"}])
def test_objectives_of_another_form(value: Any, refused: Refused) -> None:
    fixes = [problem.fix for problem in refused(objectives=value)]
    assert any('"accuracy": "max"' in fix or fix == 'write "max"' for fix in fixes), fixes


@pytest.mark.parametrize(
    ("wrong", "fix"),
    [
        ({"layers": ["conv1"]}, 'write "op_names": ["conv1"]'),
        ({"modules": "conv1"}, 'write "op_names": ["conv1"]'),
        ({"layer_types": ["Conv2d"]}, 'write "op_types": ["Conv2d"]'),
    ],
)
def test_a_key_for_layers_is_known_by_name(wrong: Any, fix: str, refused: Refused) -> None:
    problems = refused({"sparsity": 0.5, **wrong})
    assert [problem.fix for problem in problems] == [fix]


def test_a_parser_that_does_not_know_the_configuration_is_told_of_it(tmp_path: Path) -> None:
    ending = Ending(TrialState.FAILED, "exit code 2", tmp_path / "log.txt", 1.0)
    wrong = replace(ending, tail="usage: train.py [-h]\ntrain.py: error: unrecognized arguments: /tmp/config.json")
    assert last_lines(wrong).startswith("the path of a trial's configuration stands on the script's command line")
    for tail in ("Error: Got unexpected extra argument (/tmp/c.json)", "LexerNoViableAltException: /tmp/c.json"):
        assert "BasicConfig().load()" in last_lines(replace(ending, tail=tail))
    assert last_lines(replace(ending, tail="ValueError: no")) == "its last lines were\n        ValueError: no"


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("module.conv1", 'did you mean "conv1"?'),  # of DataParallel
        ("model.net.conv2", 'did you mean "conv2"?'),
        ("conv.*", 'no patterns are read: write "conv1", "conv2" in its place'),
        ("conv*", 'no patterns are read: write "conv1", "conv2" in its place'),
        ("*", 'no patterns are read: write "conv1", "conv2" in its place'),
        ("conv[12]", 'no patterns are read: write "conv1", "conv2" in its place'),
    ],
)
def test_a_layer_by_another_name_or_a_pattern(name: str, fix: str, load: Load) -> None:
    model = network(layer("conv1"), layer("conv2"), layer("head", "Linear", 10), outputs=("head",))
    problems = check_model(load({"sparsity": 0.5, "op_names": [name]}), model)[0]
    assert [problem.fix[: len(fix)] for problem in problems] == [fix]


def test_a_type_by_its_full_name(load: Load) -> None:
    model = network(layer("conv1"), layer("head", "Linear", 10), outputs=("head",))
    problems = check_model(load({"sparsity": 0.5, "op_types": ["torch.nn.Conv2d"]}), model)[0]
    assert [problem.fix for problem in problems] == ['did you mean "Conv2d"? the types are Conv2d']
