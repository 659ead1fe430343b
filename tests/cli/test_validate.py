from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXPERIMENT: dict[str, Any] = {
    "name": "digits",
    "script": "train.py",
    "compression": {
        "framework": "torch",
        "type": "pruning",
        "compressor": "l1_filter",
        "config_list": [
            {"sparsity": {"range": [0.1, 0.9], "type": "float"}, "op_names": ["conv1", "conv2"]},
        ],
    },
    "n_samples": 5,
}


def raycompress(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raycompress", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text("import torch, ray\n")
    (tmp_path / "exp.json").write_text(json.dumps(EXPERIMENT, indent=1))
    return tmp_path


def test_a_right_file_is_said_in_a_line(folder: Path) -> None:
    done = raycompress("validate", "exp.json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    expected = "pruning with l1_filter, 2 dimensions, proposer random, 5 trials, 1 at a time, max"
    assert done.stdout == f"exp.json: {expected}\n"


def test_a_right_file_as_json(folder: Path) -> None:
    done = raycompress("validate", "exp.json", "--json", cwd=folder)
    found = json.loads(done.stdout)
    assert found["valid"] is True
    assert (found["dimensions"], found["n_samples"]) == (["conv1.sparsity", "conv2.sparsity"], 5)


@pytest.mark.parametrize("as_json", [False, True])
def test_all_mistakes_at_once_and_exit_code_2(as_json: bool, folder: Path) -> None:
    text = json.dumps(EXPERIMENT, indent=1)
    for right, wrong in (('"name"', '"nmae"'), ("l1_filter", "l1_fliter"), ("0.9", "0.05"), ("train.py", "trian.py")):
        text = text.replace(right, wrong)
    (folder / "exp.json").write_text(text)
    done = raycompress("validate", "exp.json", *(["--json"] if as_json else []), cwd=folder)
    assert done.returncode == 2
    if as_json:
        assert done.stderr == ""
        assert [problem["where"] for problem in json.loads(done.stdout)["problems"]] == [
            "exp.json:2  nmae",
            "exp.json:7  compression.compressor",
            "exp.json:11  compression.config_list[0].sparsity.range",
            "exp.json:3  script",
        ]
        return
    assert done.stdout == ""
    assert done.stderr.count("error: ") == done.stderr.count(" where: ") == done.stderr.count("   fix: ") == 4
    expected = [
        'error: unknown compressor "l1_fliter"',
        " where: exp.json:7  compression.compressor",
        '   fix: did you mean "l1_filter"? `raycompress compressors` lists them all',
    ]
    assert "\n".join(expected) in done.stderr


def test_no_such_file(folder: Path) -> None:
    done = raycompress("validate", "exq.json", cwd=folder)
    assert done.returncode == 2
    assert done.stderr == 'error: there is no such file\n where: exq.json\n   fix: did you mean "exp.json"?\n'
    (folder / "exp.json").rename(folder / "exp.jsonc")
    assert 'did you mean "exp.jsonc"?' in raycompress("validate", "exq.jsonc", cwd=folder).stderr


def test_it_says_what_waits_for_the_model(folder: Path) -> None:
    experiment = json.loads(json.dumps(EXPERIMENT).replace('"op_names": ["conv1", "conv2"]', '"op_types": ["default"]'))
    (folder / "exp.json").write_text(json.dumps({**experiment, "proposer": "optuna", "resource": "node"}))
    done = raycompress("validate", "exp.json", cwd=folder)
    assert "dimensions by the layers of the model, proposer optuna, 5 trials" in done.stdout
    assert done.stderr.startswith("note: resource")


def test_it_loads_nothing_heavy_and_runs_nothing(folder: Path) -> None:
    code = (
        "import sys\n"
        "from raycompress.cli.main import cli\n"
        "cli.main(['validate', 'exp.json'], standalone_mode=False)\n"
        "heavy = {'ray', 'torch', 'tensorflow', 'nni', 'numpy', 'rich', 'optuna', 'hyperopt', 'boto3'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert sorted(file.name for file in folder.iterdir()) == ["exp.json", "train.py"]


def test_the_schema_is_json_on_stdout(folder: Path) -> None:
    done = raycompress("schema", cwd=folder)
    schema = json.loads(done.stdout)
    assert schema["$schema"].endswith("2020-12/schema")
    assert (schema["allowComments"], schema["allowTrailingCommas"]) == (True, True)
    assert {"name", "script", "compression", "baseline"} <= set(schema["properties"])
