"""The main road as a user walks it: launch, look, verify, load."""

import json
import subprocess
import sys

import pytest

from tests.support.launching import (
    DIGITS,
    digits_experiment,
    number_experiment,
    raycompress,
)
from tests.support.shared_ray import run_here

FRESH = """
import json, sys
sys.path.insert(0, {home!r})
import torch
import raycompress
from train import {net}, evaluate, load_data
model = raycompress.load({bundle!r}, {net}())
_, held_out = load_data()
print(json.dumps([evaluate(model, *held_out), sum(p.numel() for p in model.parameters())]))
"""


def in_a_fresh_process(bundle, home, net):
    code = FRESH.format(home=str(home), bundle=str(bundle), net=net)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    done = raycompress(folder, "launch", digits_experiment(folder, n_samples=4, n_parallel=2))
    assert done.code == 0, done.err
    return done


def test_the_outcome_stands_on_stdout_and_the_words_on_stderr(digits):
    assert "best of 4 trials" in digits.out
    assert "parameters" in digits.out
    assert "multiply-adds" in digits.out
    assert "raycompress best" in digits.out
    assert "best of" not in digits.err
    assert max(map(len, digits.out.splitlines())) <= 110  # a path may be long
    assert "Traceback" not in digits.err


def test_a_fresh_process_measures_what_was_reported(digits):
    record = digits.record
    accuracy, parameters = in_a_fresh_process(record.folder.best_link, DIGITS, "Net")
    assert accuracy == record.best.values["accuracy"]
    assert parameters == record.best.after["params"] == record.verified["after"]["params"]
    assert record.best.after["flops"] < record.best.before["flops"]


def test_the_bundle_says_where_it_comes_from(digits):
    manifest = json.loads((digits.record.folder.best_link / "manifest.json").read_text())
    facts = manifest["trial"]
    assert facts["trial"] == digits.record.best.number
    assert facts["metrics"] == digits.record.best.values
    assert facts["sample"] == digits.record.best.sample


def test_best_status_ls_and_logs_read_the_journal_without_ray(digits):
    best = run_here(digits.folder, "best", "--json")
    found = json.loads(best.out)
    assert found["best"]["trial"] == digits.record.best.number
    status = json.loads(run_here(digits.folder, "status", "--json").out)
    assert [trial["state"] for trial in status["trials"]] == ["finished"] * 5
    (row,) = json.loads(run_here(digits.folder, "ls", "--json").out)
    assert row["id"] == digits.record.id
    assert digits.record.id in raycompress(digits.folder, "ls").out
    assert "dense model" in run_here(digits.folder, "status").out
    assert run_here(digits.folder, "logs", "--trial", "2").code == 0
    missing = run_here(digits.folder, "logs", "--trial", "77")
    assert missing.code == 2
    assert "no trial 77" in missing.err


def test_best_verify_reloads_and_finds_a_changed_file(digits):
    done = run_here(digits.folder, "best", "--verify")
    assert done.code == 0, done.err
    assert "reloaded in a fresh process" in done.out
    weights = digits.record.bundle / "weights.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:-4] + b"\0\1\2\3")
        broken = run_here(digits.folder, "best", "--verify")
    finally:
        weights.write_bytes(kept)
    assert broken.code == 1
    assert "weights.safetensors" in broken.err


def test_the_same_seed_finds_the_same_best(digits, tmp_path):
    again = run_here(tmp_path, "launch", digits_experiment(tmp_path, n_samples=4, n_parallel=2))
    assert [trial.sample for trial in again.record.searched] == [trial.sample for trial in digits.record.searched]
    assert [trial.values for trial in again.record.searched] == [trial.values for trial in digits.record.searched]
    assert again.record.best.number == digits.record.best.number


def test_plan_tells_dimensions_trials_and_what_is_kept(digits):
    done = run_here(digits.folder, "plan", "exp.json", "--json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert [one["name"] for one in plan["dimensions"]] == ["conv1.sparsity", "conv2.sparsity", "conv3.sparsity"]
    assert plan["trials"] == 5
    assert plan["keeps"] == "one bundle"
    assert plan["seconds"] > 0  # from the launch before
    assert len(list(digits.folder.glob("raycompress_results/*"))) == 1


def test_a_tied_network_is_searched_by_dependency(tmp_path, small_resnet):
    home = small_resnet
    done = run_here(tmp_path, "launch", digits_experiment(tmp_path, "auto_dependency.json", home, n_samples=2))
    assert done.code == 0, done.err
    record = done.record
    assert any("," in name for name in record.header["dimensions"])
    accuracy, parameters = in_a_fresh_process(record.folder.best_link, home, "ResNet")
    assert accuracy == record.best.values["accuracy"]
    assert parameters == record.best.after["params"] < record.best.before["params"]


def test_run_takes_a_one_time_experiment(tmp_path):
    done = run_here(tmp_path, "run", digits_experiment(tmp_path, "one_time.json"))
    assert done.code == 0, done.err
    assert [trial.number for trial in done.record.searched] == [1]
    assert done.record.folder.candidates() == [1]


def test_run_refuses_a_search(tmp_path):
    done = run_here(tmp_path, "run", digits_experiment(tmp_path))
    assert done.code == 2
    assert "raycompress launch" in done.err


def test_mistakes_that_only_the_model_shows_cost_no_trial_and_leave_nothing(tmp_path):
    config_list = [
        {"sparsity": 0.5, "op_types": ["Conv2d"], "op_names": ["conv1", "conv22"]},
        {"sparsity": {"type": "float", "range": [0.1, 0.5]}, "op_types": ["Conv2d"], "op_names": ["convolution3"]},
    ]
    compression = {"framework": "torch", "type": "pruning", "compressor": "l1_filter", "config_list": config_list}
    done = run_here(tmp_path, "launch", digits_experiment(tmp_path, compression=compression))
    assert done.code == 2
    assert "conv22" in done.err
    assert 'did you mean "conv2"' in done.err
    assert "convolution3" in done.err
    assert "exp.json:" in done.err
    assert not list(tmp_path.glob("raycompress_results/*"))


def test_a_script_that_fails_before_its_model_is_told_with_its_line(tmp_path):
    path = number_experiment(
        tmp_path, "import sys\n\ndef main():\n    print('so far')\n    raise KeyError('lost')\n\nmain()\n"
    )
    done = run_here(tmp_path, "launch", path)
    assert done.code == 1
    assert "KeyError: 'lost'" in done.err
    assert "script.py:5 in main" in done.err
    assert "so far" in done.err


def test_a_script_that_cannot_import_is_told(tmp_path):
    done = run_here(tmp_path, "launch", number_experiment(tmp_path, "import no_such_module_here\n"))
    assert done.code == 1
    assert "no_such_module_here" in done.err
    assert "script.py:1" in done.err


ODD = """
import sys
import torch
from torch import nn
import raycompress as rc

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.fc, self.gain = nn.Linear(8, 2), 1.0
    def forward(self, x):
        return self.gain * self.fc(self.conv2(torch.relu(self.conv1(x))).relu().mean((2, 3)))

config = rc.BasicConfig().load(sys.argv[1])
torch.manual_seed(0)
model = Net()
compressor = rc.create_compressor(model, config, dummy_input=torch.randn(1, 1, 8, 8))
{body}
rc.report(score=1.0)
rc.save_model(compressor.export_model, model_path="model.pth")
"""


SLICED = "compressor.compress(); compressor.apply_speedup(); "
TOO_LITTLE = {"type": "choice", "range": [0.05, 0.06]}  # of eight channels, none


@pytest.mark.parametrize(
    ("body", "sparsity", "told"),
    [
        (SLICED + "model.gain = 3.0", 0.5, "other outputs than the saved ones"),
        ("pass", 0.5, "compress"),
        ("compressor.compress()", TOO_LITTLE, "no parameter would fall"),
    ],
)
def test_a_compression_that_is_not_what_it_says_is_an_error(tmp_path, body, sparsity, told):
    path = number_experiment(tmp_path, ODD.replace("{body}", body), n_samples=1)
    data = json.loads(path.read_text())
    data["compression"]["config_list"] = [{"sparsity": sparsity, "op_types": ["Conv2d"]}]
    path.write_text(json.dumps(data))
    done = run_here(tmp_path, "launch", path)
    assert done.code == 1
    assert told in done.err
    assert "Traceback" not in done.err.split("its last lines were")[0]
