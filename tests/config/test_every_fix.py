"""Every fix that names a key, a value or a compressor: it is applied, and what it says is then accepted.

The templates of fixes are read from the code of the checks; a situation below triggers each but those of `BY_HAND`.
"""

from __future__ import annotations

import ast
import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

import raycompress.config
from raycompress.config.checks.preflight import check_model
from raycompress.config.experiment import Experiment
from raycompress.errors import ExperimentError, Problem
from tests.support.experiments import BASE, layer, network

CHECKS = Path(raycompress.config.__file__).parent
FOLDERS = ("checks", "schema")
MODEL = network(
    layer("conv1", channels=4),
    layer("bn1", "BatchNorm2d", 4),
    layer("conv2"),
    layer("conv3"),
    layer("conv4"),
    layer("odd", "ParametrizedConv2d"),
    layer("proj", "Linear"),
    layer("patch"),
    layer("head", "Linear", 10),
    ties=(("conv2", "conv3"), ("patch", "proj")),
    outputs=("head",),
    blocks=("stage.0", "stage.1"),
)
FLOAT = {"type": "float", "range": [0.1, 0.9]}
QAT = {"compressor": "qat", "type": "quantization"}


def on(*names: str, **more: Any) -> dict[str, Any]:
    return {"sparsity": 0.5, "op_names": list(names), **more}


def only(**keys: Any) -> dict[str, Any]:
    return {"op_names": ["conv4"], **keys}


EXCLUDED = {"exclude": True, "op_names": ["patch"]}
BY_HAND = (
    # a person chooses, or what is named is in the script or on the disk: see test_advice.py and test_schema.py
    *(
        "write an entry, such as",
        'add "op_names": [...]',
        'remove "export"',
        'remove it, or "',
        'remove "baseline"',
        'remove "depth"',
    ),
    *('write a smaller "round_to"', "take another proposer", 'write "min" or "max"', '"storage"', 'write "script"'),
    *("write the Python script", 'write "op_names" with', "remove it, and add an entry", "remove it; a search range"),
    *('write "objectives"', "the share of each layer that goes", 'remove it; "quant_types"', 'write "name"'),
    *(
        'write "workingdir"',
        'write "parameter_config"',
        'write "scheduler"',
        'write it in quotes: "..."',
    ),
    *(
        'remove "workers"',
        "or choose the layers by",
        "or a list of them, one for each stage",
        "write a whole number, or",
        'did you mean "range"?',
        'write "(w+)"',
    ),
)
"""Beginnings of the fixes that no situation triggers."""

SITUATIONS: dict[str, tuple[list[Any], dict[str, Any], dict[str, Any]]] = {
    "slip in a key": ([only(sparisty=0.5)], {}, {}),
    "key twice": ([only(sparsity=0.5, sparisty=0.5)], {}, {}),
    "key of NNI": ([only(total_sparsity=0.5)], {}, {}),
    "key of another compressor": ([only(sparsity=0.5, quant_bits=8)], {}, {}),
    "percent": ([only(sparsity=50)], {}, {}),
    "percent as text": ([only(sparsity="50%")], {}, {}),
    "percent in a range": ([only(sparsity={"type": "int", "range": [10, 90]})], {}, {}),
    "text for a number": ([only(sparsity="0.5")], {}, {}),
    "text for a list": ([{"sparsity": 0.5, "op_names": "conv4"}], {}, {}),
    "nothing said": ([only()], {}, {}),
    "no bits": ([only(quant_types=["weight"])], QAT, {}),
    "range ends below": ([only(sparsity={"type": "float", "range": [0.9, 0.1]})], {}, {}),
    "range of one": ([only(sparsity={"type": "float", "range": [0.5, 0.5]})], {}, {}),
    "range without type": ([only(sparsity={"range": [0.1, 0.9]})], {}, {}),
    "range without range": ([only(sparsity={"type": "float"})], {}, {}),
    "interval": ([only(sparsity={**FLOAT, "interval": 2})], {}, {}),
    "values of a grid": ([only(sparsity={**FLOAT, "n": 1})], {}, {}),
    "kind of range": ([only(sparsity={**FLOAT, "type": "flaot"})], {}, {}),
    "slip in a compressor": ([on("conv4")], {"compressor": "l1_fliter"}, {}),
    "compressor of another framework": ([on("conv4")], {"compressor": "magnitud"}, {}),
    "class of NNI": ([on("conv4")], {"compressor": "L1NormPruner"}, {}),
    "kind": ([on("conv4")], {"type": "quantization"}, {}),
    "slip in an argument": ([on("conv4")], {"arguments": {"dependency_awre": True}}, {}),
    "no argument": ([on("conv4")], {"arguments": {"zzz": 1}}, {}),
    "argument of the script": ([on("bn1")], {"compressor": "slim", "arguments": {"optimzer": 1}}, {}),
    "slip in a layer": ([on("conv44")], {}, {}),
    "block": ([on("con")], {}, {}),
    "slip in a type": ([{"sparsity": 0.5, "op_types": ["Conv2D"]}, {"exclude": True, "op_names": ["patch"]}], {}, {}),
    "output": ([on("head")], {"compressor": "group_l1"}, {}),
    "output among others": ([on("conv4", "head")], {"compressor": "group_l1"}, {}),
    "unfit": ([on("bn1")], {}, {}),
    "unfit among others": ([on("conv4", "bn1")], {}, {}),
    "parametrized": ([on("odd")], {}, {}),
    "half of a tie": ([on("conv2")], {}, {}),
    "half of a tie of two types": ([on("patch")], {}, {}),
    "too little": ([{"sparsity": 0.1, "op_names": ["conv1"]}], {}, {}),
    "export": ([on("conv4")], {}, {"export": ["onx"]}),
    "export of another framework": ([on("conv4")], {}, {"export": ["tflite"]}),
    "elsewhere": ([on("conv4")], {}, {"save_model": True}),
    "text for a whole number": ([on("conv4")], {}, {"n_samples": "10"}),
    "quoted truth": ([on("conv4")], {}, {"baseline": "true"}),
    "proposer": ([on("conv4")], {}, {"proposer": "optna"}),
    "seed of another tool": ([on("conv4")], {}, {"seed": 3}),
    "trials of another tool": ([on("conv4")], {}, {"n_trials": 20}),
    "trials at a time of another tool": ([on("conv4")], {}, {"trialConcurrency": 2}),
    "time of another tool": ([on("conv4")], {}, {"maxExperimentDuration": "1h"}),
    "searcher of another tool": ([on("conv4")], {}, {"tuner": "TPE"}),
    "direction of another tool": ([on("conv4")], {}, {"optimize_mode": "maximize"}),
    "values of a grid that are missing": ([only(sparsity=FLOAT)], {}, {"proposer": "sequence"}),
    "steps of a float": (
        [only(sparsity=0.5, start_epoch={"type": "float", "range": [1, 9]})],
        {"compressor": "agp"},
        {},
    ),
    "device": ([on("conv4")], {}, {"target": {"runtime": "openvino", "device": "phone"}}),
    "device of torch": ([on("conv4")], {}, {"target": {"runtime": "openvino", "device": "cuda:0"}}),
    "memory of no target": ([on("conv4")], {}, {"constraints": {"peak_memory_mb": {"max": 10}}}),
    "target that is not there": (
        [on("conv4")],
        {},
        {"target": {"runtime": "openvino"}, "constraints": {"latency_ms@opnvino": {"max": 1}}},
    ),
    "runtime by its name": ([on("conv4")], {}, {"target": "openvin"}),
    "runtime by its name among several": ([on("conv4")], {}, {"target": ["onnxruntime", "openvin"]}),
    "target that is no object": ([on("conv4")], {}, {"target": [["openvino"]]}),
    "runtime that reads no ONNX": (
        [{"op_names": ["conv4"]}],
        {"compressor": "ptq_static", "type": "quantization"},
        {"target": {"runtime": "executorch"}},
    ),
    "device of a runtime": ([on("conv4")], {}, {"target": {"runtime": "litert", "device": "gpu"}}),
    "part of a GPU for each of several workers": ([on("conv4")], {}, {"resource": {"workers": 2, "gpu": 0.5}}),
    "placement": ([on("conv4")], {}, {"resource": {"workers": 2, "placement": "SPRAED"}}),
    "runtime": ([on("conv4")], {}, {"target": {"runtime": "openvin"}}),
    "block that is none": ([on("conv4")], {"depth": {"blocks": ["stag.1"]}}, {}),
    "how many blocks": ([on("conv4")], {"depth": {"drop": "1"}}, {}),
    "bits that a runtime does not read": (
        [only(quant_bits={"type": "choice", "range": [32, 8, 4]})],
        {"compressor": "ptq_static", "type": "quantization"},
        {"target": {"runtime": "tensorrt", "device": "gpu"}},
    ),
    "bits by sensitivity": (
        [only(quant_bits="sensitivity")],
        {"compressor": "ptq_static", "type": "quantization"},
        {},
    ),
    "sensitivity where it trains": ([only(quant_types=["weight"], quant_bits="sensitivity")], QAT, {}),
    "bits of a layer": ([only(quant_bits=2)], {"compressor": "ptq_static", "type": "quantization"}, {}),
    "unfit type": ([{"sparsity": 0.5, "op_types": ["Conv2d", "BatchNorm2d"]}, EXCLUDED], {}, {}),
}


def problems_of(data: dict[str, Any], folder: Path) -> list[Problem]:
    """Return what is wrong with an experiment, by itself or else with the layers of `MODEL`."""
    (folder / "train.py").write_text("print(1)\n")
    file = folder / "exp.json"
    file.write_text(json.dumps(data, indent=1))
    try:
        experiment = Experiment.load(file)
        return check_model(experiment, MODEL)[0] if experiment.compression.framework == "torch" else []
    except ExperimentError as error:
        return list(error.problems)


def data_of(name: str) -> dict[str, Any]:
    entries, compression, keys = SITUATIONS[name]
    data = copy.deepcopy({**BASE, **keys})
    data["compression"] = {**data["compression"], **copy.deepcopy(compression), "config_list": copy.deepcopy(entries)}
    return data


def path_of(problem: Problem) -> list[str | int]:
    parts = re.findall(r"[^.\[\]]+", problem.where.partition("  ")[2])
    return [int(part) if part.isdigit() else part for part in parts]


def applied(problem: Problem, data: dict[str, Any]) -> dict[str, Any] | None:
    """Return the experiment with the first thing that the fix names done; None where a person has to choose."""
    data, fix, path = copy.deepcopy(data), problem.fix, path_of(problem)
    home: Any = data
    for part in path[:-1]:
        home = home[part]
    entries = data["compression"]["config_list"]
    entry: Any = entries[path[2]] if path[:2] == ["compression", "config_list"] and len(path) > 2 else None
    if found := re.match(r'did you mean "([^"]+)"(?:, with "framework": "(\w+)" and "type": "(\w+)")?', fix):
        if re.match('unknown key|"[^"]+" is measured in', problem.what) or "argument" in problem.what:
            home[found[1]] = home.pop(path[-1])
        else:
            home[path[-1]] = found[1]
        if found[2]:
            data["compression"].update(framework=found[2], type=found[3])
    elif found := re.match(r'remove ("[^"]+"(?:, "[^"]+")*) from (op_\w+)', fix):
        gone = json.loads(f"[{found[1]}]")
        entry[found[2]] = [name for name in entry[found[2]] if name not in gone]
    elif found := re.match(r"name other layers, such as (.*?)(?:;|$)", fix):
        entry["op_names"] = found[1].partition(", or ")[0].split(", ")
    elif found := re.match(r"name all of them in one entry, (\{.*?\})", fix):
        entries[path[2]] = json.loads(found[1])
    elif found := re.search(r'"(\w+)"[^;]* takes ', fix):
        data["compression"]["compressor"] = found[1]
        entry["op_names"] = ["patch", "proj"] if "together" in fix else entry["op_names"]
    elif found := re.search(r"write a sparsity of at least ([\d.]+)", fix):
        entry["sparsity"] = float(found[1])
    elif found := re.match(r'(?:write|add) "(\w+)": (\[.*?\]|"[^"]*"|[\w.]+)', fix):
        target = home[path[-1]] if fix.startswith("add") or found[1] == "range" else home
        target = data if isinstance(target, list) else target
        if fix.startswith("write") and found[1] != path[-1] and isinstance(home, dict) and target is home:
            target.pop(path[-1], None)
        target[found[1]] = json.loads(found[2])
    elif found := re.match(r"(?:percent\? )?write (\{.*\}|\[.*\]|[\d.]+|true|false)", fix):
        if "in place of" in fix or found[1].startswith("{"):  # the whole search range
            *above, key = path[: path.index("range")] if "range" in path else path
            home, path = data, [key]
            for part in above:
                home = home[part]
        home[path[-1]] = json.loads(found[1])
    elif fix.startswith("remove it"):
        del home[path[-1]]
    elif found := re.match(r'it belongs in "(\w+)"', fix):
        data.setdefault(found[1], {})[str(path[-1])] = home.pop(path[-1])
    else:
        return None
    return data


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_fix_is_accepted(name: str, tmp_path: Path) -> None:
    data = data_of(name)
    before = problems_of(data, tmp_path)
    assert before, name
    if name == "parametrized":  # the fix is for the script
        assert "remove_parametrizations(model.odd" in before[0].fix
        return
    tried = 0
    while problems := problems_of(data, tmp_path):
        tried += 1
        fixed = applied(problems[0], data)
        assert fixed is not None, problems[0]
        assert tried <= len(before) + 1, (problems[0], "its fix leads to another mistake")
        data = fixed
    assert tried <= len(before), (before, "a fix was refused by another check")


VERBS = r"(write|add|remove|did you mean|name |percent\?|it belongs|take |keep|choose|stay|raise|leave)"


def templates() -> list[str]:
    """Return the fixes in the code of the checks that name something in quotes, as patterns of what they may become."""
    found = []
    for file in sorted(file for folder in FOLDERS for file in (CHECKS / folder).glob("*.py")):
        tree = ast.parse(file.read_text())
        inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [re.escape(str(one.value)) if isinstance(one, ast.Constant) else ".*" for one in node.values]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                parts = [re.escape(node.value)]
            else:
                continue
            pattern = "".join(parts)
            if re.match(VERBS, pattern.replace("\\", "")) and '"' in pattern:
                found.append(pattern)
    return list(dict.fromkeys(found))


def test_every_fix_that_names_something_has_a_situation(tmp_path: Path) -> None:
    seen = "\n".join(problem.fix for name in SITUATIONS for problem in problems_of(data_of(name), tmp_path))
    missing = [pattern for pattern in templates() if not re.search(pattern, seen)]
    told_by_hand = [pattern for pattern in missing if not any(part in pattern.replace("\\", "") for part in BY_HAND)]
    assert told_by_hand == []
