from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycompress.config.checks.preflight import check_files, check_model, load_checked, notes
from raycompress.config.experiment import Experiment
from raycompress.config.search_space import SearchSpace
from raycompress.errors import ExperimentError
from raycompress.model.info import ModelInfo
from tests.support.experiments import layer, network

Load = Callable[..., Experiment]
FLOAT = {"type": "float", "range": [0.1, 0.9]}
MODEL = network(
    layer("conv1", channels=4),
    layer("bn1", "BatchNorm2d", 4),
    layer("block.conv2"),
    layer("block.conv3"),
    layer("conv4"),
    layer("head", "Conv2d", 10),
    layer("fc", "Linear", 10),
    ties=(("block.conv2", "conv4"),),
    outputs=("head", "fc"),
)


# ---- files


def test_files_that_are_right(load: Load) -> None:
    assert check_files(load()) == []


def test_a_script_that_is_not_there(load: Load, tmp_path: Path) -> None:
    problem = check_files(load(script="trian.py"))[0]
    assert problem.what == f"there is no script {tmp_path / 'trian.py'}"
    assert problem.where.endswith("exp.json:3  script")
    assert problem.fix == 'did you mean "train.py"?'


def test_a_script_that_is_a_folder(load: Load, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    assert "is a folder" in check_files(load(script="code"))[0].what


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (b"x = 1\n\nif x\n    pass\n", ":3", "expected ':'"),
        (b"x = '\xff'\n", "", "no Python"),
        (b"\0", "", "no Python"),
    ],
)
def test_a_script_that_is_no_python(text: bytes, line: str, what: str, load: Load, tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_bytes(text)
    problem = check_files(load(script="wrong.py"))[0]
    assert what in problem.what
    assert problem.where.startswith(f"{tmp_path / 'wrong.py'}{line}")


def test_a_script_is_never_run_or_imported(load: Load, tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("import nowhere_to_be_found\nraise SystemExit(3)\n")
    assert check_files(load(script="loud.py")) == []
    assert "loud" not in sys.modules


def test_folders(load: Load, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    problems = check_files(load(workingdir="nowhere", storage="file/results"))
    assert [problem.what.split(":")[0] for problem in problems] == [
        "workingdir does not exist",
        f"results cannot go to {tmp_path / 'file' / 'results'}",
    ]
    assert problems[1].what.endswith("file is a file")
    assert "is a file" in check_files(load(workingdir="file"))[0].what
    assert check_files(load(cwd="nowhere"))[0].where.endswith("  cwd")
    assert check_files(load(storage="a/b/c")) == []
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("path", ["x" * 300, "a/" * 3000 + "b", "~nobody-of-that-name/x", "loop/x"])
def test_paths_that_the_system_does_not_take(path: str, load: Load, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert check_files(load(script=path))[0].what.startswith("there is no script")
    assert check_files(load(workingdir=path))[0].what.startswith("workingdir does not exist")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(load: Load, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "may not be written" in check_files(load(storage="locked/x"))[0].what


def test_mistakes_of_the_file_and_of_the_files_it_names_are_told_together(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError):
        load(script="trian.py", workingdir="nowhere", n_sampels=0, n_parallel=0)
    with pytest.raises(ExperimentError) as caught:
        load_checked(tmp_path / "exp.json")
    told = [problem.what.split(":")[0] for problem in caught.value.problems]
    assert told == ['unknown key "n_sampels"', '"n_parallel" must be at least 1, not 0', "workingdir does not exist"]
    assert caught.value.problems[2].where.endswith("  workingdir")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"script": "train.py \'x"}', '{"script": 3}', '{"storage": "s3://x"}']
)
def test_checking_the_files_of_a_wrong_experiment_never_fails_itself(text: str, tmp_path: Path) -> None:
    (tmp_path / "exp.json").write_text(text)
    with pytest.raises(ExperimentError):
        load_checked(tmp_path / "exp.json")


# ---- the machine


@pytest.mark.parametrize(
    ("keys", "machine", "said"),
    [
        ({"n_parallel": 2}, (2, 0), []),
        ({"n_parallel": 4}, (2, 0), ["2 will run at a time"]),
        ({"n_parallel": 4, "resource": {"gpu": 0.5, "cpu": 0.5}}, (8, 1), ["2 will run at a time"]),
        ({"resource": "gpu"}, (2, 0), ["none can start here"]),
        ({"resource": "node"}, (2, 0), ['is read as "cpu"']),
    ],
)
def test_notes(keys: dict[str, Any], machine: tuple[float, float], said: list[str], load: Load) -> None:
    found = notes(load(**keys), *machine)
    assert len(found) == len(said)
    assert all(part in note for part, note in zip(said, found, strict=True))


# ---- the model


def told(experiment: Experiment, model: ModelInfo = MODEL) -> list[tuple[str, str, str]]:
    problems, _ = check_model(experiment, model)
    return [
        (problem.where.split("  ")[1].removeprefix("compression."), problem.what, problem.fix) for problem in problems
    ]


def test_an_experiment_that_fits(load: Load) -> None:
    experiment = load(
        {"sparsity": FLOAT, "op_names": ["block.conv3"]},
        {"sparsity": {"type": "float", "range": [0.3, 0.9]}, "op_names": ["conv1"]},
        {"sparsity": FLOAT, "op_names": ["block.conv2", "conv4"], "expand_op_names": "dependency"},
    )
    assert check_model(experiment, MODEL) == ([], [])


@pytest.mark.parametrize(
    ("entry", "where", "what", "fix"),
    [
        (
            {"op_names": ["block.conv33"]},
            "op_names[0]",
            'no layer "block.conv33"',
            'did you mean "block.conv3"? the layers are conv1',
        ),
        ({"op_names": ["block"]}, "op_names[0]", '"block" is no layer but holds 2', "block.conv2, block.conv3"),
        ({"op_types": ["Conv2D"]}, "op_types[0]", 'no layer of type "Conv2D"', 'did you mean "Conv2d"?'),
        ({"op_types": ["Conv2d"], "op_names": ["fc"]}, "", "matches no layer", "is of type Conv2d"),
        (
            {"op_names": ["block.conv3", "bn1"]},
            "op_names[1]",
            "l1_filter works on Conv2d, not on BatchNorm2d",
            'remove "bn1" from op_names',
        ),
        ({"op_names": ["head"]}, "op_names[0]", "makes the model's outputs", "name other layers, such as conv1"),
        ({"op_names": ["conv4"]}, "op_names[0]", 'tied to those of "block.conv2"', '"expand_op_names": "dependency"'),
    ],
)
def test_what_does_not_fit_is_told(entry: dict[str, Any], where: str, what: str, fix: str, load: Load) -> None:
    found = told(load({"sparsity": 0.5, **entry}))
    assert len(found) == 1, found
    assert found[0][0] == f"config_list[0].{where}".rstrip(".")
    assert what in found[0][1]
    assert fix in found[0][2]


def test_an_output_layer_reached_by_its_type(load: Load) -> None:
    problems, notes = check_model(load({"sparsity": 0.5, "op_types": ["default"]}), MODEL)
    assert problems == []
    assert [note for note in notes if '"default" leaves out "head": it makes outputs' in note]
    entry = {"sparsity": 0.5, "op_types": ["Conv2d"]}
    where, what, fix = told(load(entry))[0]
    assert (where, what.split(" ")[0]) == ("config_list[0].op_types[0]", '"head"')
    assert fix == 'add an entry after it: {"exclude": true, "op_names": ["head"]}'
    assert told(load(entry, {"exclude": True, "op_names": ["head"]})) == []
    weights_only = load(entry, compression={"compressor": "level"})
    assert told(weights_only) == []


def test_amc_leaves_output_layers_alone_by_itself(load: Load) -> None:
    amc = {"compression": {"compressor": "amc"}}
    tied = {"op_types": ["default"]}, {"exclude": True, "op_names": ["block.conv2", "conv4"]}
    assert told(load(*tied, **amc)) == []
    assert told(load({"op_types": ["Conv2d", "Linear"]}, tied[1], **amc)) == []
    where, what, _ = told(load({"op_names": ["head"]}, **amc))[0]
    assert (where, what.split(" ")[0]) == ("config_list[0].op_names[0]", '"head"')


def test_activations_that_the_model_calls_as_functions_are_noted(load: Load) -> None:
    weights = {"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Conv2d"]}
    outputs = {"quant_types": ["output"], "quant_bits": 8, "op_types": ["ReLU6"]}
    qat = {"compression": {"compressor": "qat", "type": "quantization"}}
    problems, found = check_model(load(weights, outputs, **qat), MODEL)
    assert problems == []
    assert len(found) == 1
    assert "config_list[1].op_types: the model has no layer of type ReLU6, whose outputs stay float" in found[0]
    assert 'no layer of type "ReLU6"' in told(load(outputs, **qat))[0][1]
    assert 'no layer of type "Conv2D"' in told(load(weights, {**outputs, "op_types": ["Conv2D"]}, **qat))[0][1]


def test_types_that_the_compressor_cannot_work_on(load: Load) -> None:
    entries = {"sparsity": 0.5, "op_types": ["Conv2d", "Linear"]}, {"exclude": True, "op_names": ["head"]}
    inner = network(layer("conv1"), layer("fc", "Linear"), layer("head"), outputs=("head",))
    assert told(load(*entries), inner) == [
        (
            "config_list[0].op_types[1]",
            "l1_filter works on Conv2d, not on Linear: fc",
            'remove "Linear" from op_types; "group_l1" takes Linear',
        )
    ]
    # as a layer that makes the outputs, it would be refused by that one too
    assert told(load(*entries))[0][2] == 'remove "Linear" from op_types'


def test_entries_that_overlap(load: Load) -> None:
    twice = load(
        {"sparsity": 0.5, "op_names": ["conv1", "block.conv3"]}, {"sparsity": 0.3, "op_names": ["block.conv3"]}
    )
    assert told(twice) == [
        (
            "config_list[0].op_names[1]",
            '"block.conv3" is in config_list[1] as well, which rules it',
            "name it in one of the two",
        )
    ]
    useless = load(
        {"sparsity": 0.5, "op_names": ["block.conv3"]}, {"sparsity": 0.3, "op_names": ["block.conv3", "conv1"]}
    )
    assert "the entry does nothing" in told(useless)[0][1]
    general = load(
        {"sparsity": 0.5, "op_types": ["Conv2d"]},
        {"sparsity": 0.3, "op_names": ["conv1"]},
        {"exclude": True, "op_names": ["head"]},
    )
    assert told(general) == []  # the general entry first, the particular one after it, is how it is meant


def test_too_little_to_remove_a_channel(load: Load) -> None:
    entry = {"sparsity": 0.2, "op_names": ["conv1", "block.conv3"]}
    assert told(load(entry)) == [
        (
            "config_list[0].sparsity",
            "0.2 of the 4 channels of conv1 is less than one: nothing goes",
            'remove "conv1" from op_names, or write a sparsity of at least 0.25',
        )
    ]
    assert told(load(entry, compression={"compressor": "level"})) == []
    experiment = load({"sparsity": FLOAT, "op_names": ["conv1", "block.conv3"]})
    problems, found = check_model(experiment, MODEL)
    assert problems == []
    assert "at 0.1, the low end, nothing is removed from conv1 (4 channels)" in found[0]


@pytest.mark.parametrize(
    ("entries", "n"),
    [
        ([{"sparsity": FLOAT, "op_names": ["block.conv2", "conv4"]}], 1),
        ([{"sparsity": FLOAT, "op_names": ["block.conv2", "conv4"], "expand_op_names": False}], 0),
        ([{"sparsity": FLOAT, "op_names": ["block.conv2", "conv4"], "expand_op_names": "dependency"}], 0),
        ([{"sparsity": 0.5, "op_names": ["block.conv2", "conv4"]}], 0),
        ([{"sparsity": 0.5, "op_names": ["block.conv2"]}, {"sparsity": 0.5, "op_names": ["conv4"]}], 0),
        ([{"sparsity": 0.5, "op_names": ["block.conv2"]}, {"sparsity": 0.3, "op_names": ["conv4"]}], 1),
        ([{"sparsity": 0.5, "op_names": ["block.conv2"]}, {"sparsity": FLOAT, "op_names": ["conv4"]}], 1),
    ],
)
def test_tied_layers_with_amounts_of_their_own_are_noted(entries: list[Any], n: int, load: Load) -> None:
    problems, found = check_model(load(*entries), MODEL)
    assert problems == []
    assert len(found) == n
    assert all('"block.conv2", "conv4" are tied' in note and '"dependency"' in note for note in found)


def test_dependency_needs_ties_that_are_known(load: Load) -> None:
    experiment = load({"sparsity": FLOAT, "op_names": ["block.conv3"], "expand_op_names": "dependency"})
    unknown = network(layer("block.conv3"), ties=None)
    assert told(experiment, unknown)[0][:2] == ("config_list[0].expand_op_names", "which layers are tied is not known")


def test_all_is_told_at_once(load: Load) -> None:
    experiment = load(
        {"sparsity": 0.5, "op_names": ["conv11", "head", "fc"]},
        {"sparsity": 0.1, "op_names": ["conv1"]},
        {"exclude": True, "op_names": ["fcc"]},
    )
    assert [where for where, _, _ in told(experiment)] == [
        "config_list[0].op_names[0]",
        "config_list[0].op_names[2]",
        "config_list[0].op_names[1]",
        "config_list[1].sparsity",
        "config_list[2].op_names[0]",
    ]


# ---- groups of tied layers, and numbers of channels that are rounded

GROUP = {"compressor": "group_l1"}
MIXED = network(
    layer("patch", channels=32),
    layer("proj", "Linear", 32),
    layer("fc1", "Linear", 64),
    layer("small", "Linear", 8),
    layer("head", "Linear", 10),
    ties=(("patch", "proj"),),
    outputs=("head",),
)


def test_layers_of_several_types_that_are_tied(load: Load) -> None:
    half = load({"sparsity": 0.5, "op_names": ["patch", "fc1"]}, compression=GROUP)
    where, what, fix = told(half, MIXED)[0]
    assert (where, len(told(half, MIXED))) == ("config_list[0].op_names[0]", 1)
    assert 'the channels of "patch" are tied to those of "proj"' in what
    assert '{"op_names": ["patch", "proj"], "expand_op_names": "dependency", "sparsity": 0.5}' in fix
    whole = load({"sparsity": 0.5, "op_names": ["patch", "proj", "fc1"]}, compression=GROUP)
    assert told(whole, MIXED) == []
    excluded = load(
        {"sparsity": 0.5, "op_names": ["patch", "fc1", "proj"]},
        {"op_names": ["proj"], "exclude": True},
        compression=GROUP,
    )
    assert "tied to those of" in told(excluded, MIXED)[0][1]


def test_default_does_not_stand_for_layers_tied_to_others_that_the_compressor_does_not_take(load: Load) -> None:
    model = network(
        layer("patch", channels=32), layer("proj", "Linear", 32), layer("conv"), ties=(("patch", "proj"),), outputs=()
    )
    for sparsity in (0.5, FLOAT):
        experiment = load({"sparsity": sparsity, "op_types": ["default"]})
        found, notes = check_model(experiment, model)
        assert found == []
        assert any('leaves out "patch": it is tied to layers of a type that l1_filter does not' in one for one in notes)
        assert all(one.name.startswith("conv") for one in SearchSpace.of(experiment, model).dimensions)


def test_a_tie_to_a_type_that_the_compressor_does_not_take_names_one_that_does(load: Load) -> None:
    _, what, fix = told(load({"sparsity": 0.5, "op_names": ["patch"]}), MIXED)[0]
    assert 'tied to those of "proj"' in what
    assert fix == 'l1_filter takes no Linear: "group_l1" takes them together'


@pytest.mark.parametrize(
    ("sparsity", "arguments", "said"),
    [
        (0.5, {}, []),
        (0.2, {}, ["a sparsity of at least 0.32"]),
        (0.2, {"round_to": 4}, []),
        (0.2, {"global": True}, []),  # one layer may keep all where others lose more
        ({"type": "float", "range": [0.1, 0.9]}, {}, []),
    ],
)
def test_what_rounding_leaves_of_a_sparsity(sparsity: Any, arguments: Any, said: list[str], load: Load) -> None:
    model = network(layer("fc1", "Linear", 16), outputs=())
    experiment = load({"sparsity": sparsity, "op_names": ["fc1"]}, compression={**GROUP, "arguments": arguments})
    found = told(experiment, model)
    assert [fix for _, _, fix in found] == ["write " + fix for fix in said]
    assert all(
        "of the 16 channels of fc1 rounds to none, as what stays is a multiple of round_to, 8" in what
        for _, what, _ in found
    )


def test_a_range_that_begins_below_what_rounding_takes_is_noted(load: Load) -> None:
    model = network(layer("fc1", "Linear", 16), outputs=())
    _, found = check_model(load({"sparsity": FLOAT, "op_names": ["fc1"]}, compression=GROUP), model)
    assert "at 0.1, the low end, nothing is removed from fc1 (16 channels)" in found[0]


@pytest.mark.parametrize("sparsity", [0.5, {"type": "float", "range": [0.1, 0.9]}])
def test_a_layer_of_no_more_channels_than_must_stay(sparsity: Any, load: Load) -> None:
    experiment = load({"sparsity": sparsity, "op_names": ["small", "fc1"]}, compression=GROUP)
    assert told(experiment, MIXED) == [
        (
            "config_list[0].sparsity",
            "what stays is a multiple of round_to, 8, so that nothing can go from small (8 channels)",
            'write a smaller "round_to" in the arguments, or remove "small" from op_names',
        )
    ]
    finer = {**GROUP, "arguments": {"round_to": 2}}
    assert told(load({"sparsity": sparsity, "op_names": ["small", "fc1"]}, compression=finer), MIXED) == []


@pytest.mark.parametrize("sparsity", [0.5, {"type": "float", "range": [0.4, 0.9]}])
def test_default_does_not_stand_for_layers_of_no_more_channels_than_must_stay(sparsity: Any, load: Load) -> None:
    experiment = load({"sparsity": sparsity, "op_types": ["default"]}, compression=GROUP)
    found, notes = check_model(experiment, MIXED)
    assert found == []
    assert any('"default" leaves out "small": what stays is a multiple of round_to, 8' in note for note in notes)
    searched = {dimension.name.partition(".")[0] for dimension in SearchSpace.of(experiment, MIXED).dimensions}
    assert searched == (set() if sparsity == 0.5 else {"patch", "proj", "fc1"})
    only = network(layer("small", "Linear", 8), outputs=())
    assert "so that nothing can go from small" in told(experiment, only)[0][1]


@pytest.mark.parametrize(
    ("compressor", "entry", "told"),
    [
        ("qat", {"quant_types": ["weight"], "quant_bits": {"range": [1, 32], "type": "int"}}, "2 to 16 bits, not 1"),
        ("qat", {"quant_types": ["weight"], "quant_bits": {"weight": 40}}, "2 to 16 bits, not 40"),
        ("bnn", {"quant_types": ["input"], "quant_bits": 1}, 'bnn does not quantize "input"'),
        ("naive", {"quant_types": ["weight"], "quant_bits": {"range": [4, 8], "type": "choice"}}, "8 bits, not 4"),
        ("lsq", {"quant_types": ["weight", "input"], "quant_bits": {"weight": 8}}, 'says nothing of "input"'),
    ],
)
def test_bits_that_no_trial_could_take_are_told_from_the_file(tmp_path, compressor, entry, told) -> None:
    path = tmp_path / "exp.json"
    compression = {"framework": "torch", "type": "quantization", "compressor": compressor}
    config_list = [{"op_types": ["default"], **entry}]
    (tmp_path / "s.py").write_text("")
    data = {"name": "q", "script": "s.py", "compression": {**compression, "config_list": config_list}}
    path.write_text(json.dumps(data))
    with pytest.raises(ExperimentError) as caught:
        load_checked(path)
    assert [problem.what for problem in caught.value.problems if told in problem.what]


def test_a_general_entry_that_every_layer_is_an_exception_from_is_a_note(load: Load) -> None:
    experiment = load(
        {"sparsity": 0.5, "op_types": ["Conv2d"], "op_names": ["conv1"]},
    )
    general = load(
        {"sparsity": 0.8, "op_types": ["Linear"]},
        {"sparsity": 0.6, "op_types": ["Conv2d"], "op_names": ["conv1"]},
        {"exclude": True, "op_types": ["Linear"]},
    )
    assert told(experiment) == told(general) == []
    _, notes_on_it = check_model(general, MODEL)
    assert any("compression.config_list[0]: the entry does nothing" in note for note in notes_on_it)
