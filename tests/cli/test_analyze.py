"""`raycompress analyze`, as a user runs it."""

import csv
import json
import signal
import subprocess
import time

import pytest

from tests.support.launching import RESNET, command, digits_experiment, number_experiment
from tests.support.shared_ray import run_here

QUICK = ("--sparsities", "0.3,0.6")

SCRIPT = """
import sys
import torch
from torch import nn
import raycompress as rc

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 2)
    def forward(self, x):
        return self.fc(self.conv2(torch.relu(self.conv1(x))).relu().mean((2, 3)))

config = rc.BasicConfig().load(sys.argv[1])
torch.manual_seed(0)
model = Net()
{body}
rc.report(score=1.0)
"""


def written(folder, body, **changes):
    return number_experiment(folder, SCRIPT.replace("{body}", body), **changes)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resnet")
    done = run_here(folder, "analyze", digits_experiment(folder, "auto_dependency.json", RESNET), *QUICK)
    assert done.code == 0, done.err
    return done


def test_the_table_fits_the_terminal_and_says_what_the_metric_is(resnet):
    lines = resnet.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("the script's evaluator" in line for line in lines)
    (tied,) = [line for line in lines if line.startswith("conv1 +2")]
    assert len(tied.split()) == 2 + 1 + 2 * 3 + 2  # name, size, three shares in percent, two values
    assert "fc is left out" in resnet.out
    assert "training" not in resnet.err
    assert "[0/12] conv1" in resnet.err


def test_the_files_are_where_it_says(resnet):
    folder = resnet.folder / "raycompress_analysis" / "digits-resnet-dependency"
    names = {"sensitivity.csv", "sensitivity.png", "sensitivity.html", "layers.csv", "dependency.csv"}
    assert {path.name for path in folder.iterdir()} == names
    assert all(f"raycompress_analysis/digits-resnet-dependency/{name}" in resnet.out for name in names)
    sensitivity = list(csv.DictReader((folder / "sensitivity.csv").open()))
    assert all(0 <= float(row["0.6"]) <= 1 for row in sensitivity)
    layers = list(csv.DictReader((folder / "layers.csv").open()))
    assert layers[-1]["type"] == "whole model"
    assert sum(int(row["flops"]) for row in layers[:-1]) == int(layers[-1]["flops"])
    ties = [row[1:] for row in csv.reader((folder / "dependency.csv").open())][1:]
    assert any(len(row) == 3 and "conv1" in row for row in ties)


def test_json_and_a_folder_of_ones_own(tmp_path):
    body = "rc.create_compressor(model, config, evaluator=lambda m: (m(torch.ones(4, 1, 8, 8)).sum().item(), 'more'))"
    done = run_here(tmp_path, "analyze", written(tmp_path, body), *QUICK, "--out", "here/there", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["sensitivity"]["metric"] == "the script's evaluator"
    assert [curve["layers"] for curve in found["sensitivity"]["curves"]] == [["conv1"], ["conv2"]]
    assert [curve["removed"] for curve in found["sensitivity"]["curves"]] == [[2, 4], [2, 4]]
    assert all((tmp_path / file).is_file() for file in found["files"])
    assert (tmp_path / "here" / "there" / "layers.csv").is_file()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("pass", "never calls create_compressor"),
        ("rc.create_compressor(model.fc, config); model.fc(torch.ones(1, 8))", "no layer that can be pruned"),
        ("raise KeyError('lost')", "KeyError: 'lost'"),
    ],
)
def test_what_cannot_be_analysed_is_told_in_three_lines(tmp_path, body, told):
    done = run_here(tmp_path, "analyze", written(tmp_path, body), *QUICK)
    assert done.code == 1
    assert told in done.err
    assert " where: " in done.err
    assert "   fix: " in done.err
    assert "Traceback" not in done.err.split("its last lines were")[0]
    assert not (tmp_path / "raycompress_analysis").exists()


def test_mistakes_in_the_arguments_cost_no_run(tmp_path):
    experiment = written(tmp_path, "pass")
    (tmp_path / "file").write_text("")
    for words, told in (
        (("--sparsities", "0.5,1.5"), "above 0 and below 1"),
        (("--sparsities", "much"), "--sparsities"),
        (("--method", "l7"), "l7"),
        (("--out", "file/inside"), "is a file"),
    ):
        done = run_here(tmp_path, "analyze", experiment, *words)
        assert done.code in (1, 2)
        assert told in done.err
        assert "libraries" not in done.err


def test_a_keras_experiment_is_told_that_torch_is_needed(tmp_path):
    compression = {
        "framework": "tensorflow",
        "type": "pruning",
        "compressor": "level",
        "config_list": [{"sparsity": 0.5, "op_types": ["Dense"]}],
    }
    from raycompress import catalog

    if catalog.find("level", "tensorflow") is None or catalog.find("level", "tensorflow").framework != "tensorflow":
        pytest.skip("the catalogue has no compressor for tensorflow")
    done = run_here(tmp_path, "analyze", written(tmp_path, "pass", compression=compression))
    assert done.code == 2
    assert "only torch models" in done.err


def test_ctrl_c_ends_it_and_leaves_nothing(tmp_path):
    body = "import time\nprint('there', flush=True)\ntime.sleep(60)"
    process = subprocess.Popen(
        command("analyze", written(tmp_path, body)), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if "until its model is known" in line:
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not (tmp_path / "raycompress_analysis").exists()
