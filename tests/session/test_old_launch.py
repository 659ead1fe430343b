"""Whole experiments of the old tool, as it had them, from the command line to the files that are left."""

import json

import pytest
import torch

from raycompress.bundle import bundle
from tests.support.launching import raycompress
from tests.support.models.old_scripts import DECORATED, DECORATED_SAVE, NET, OWN_SAVE, TENSORFLOW
from tests.support.shared_ray import run_here

AUTOMATIC = {
    "name": "old_automatic",
    "script": "train.py",
    "resource": "cpu",
    "n_parallel": 4,
    "target": "max",
    "proposer": "random",
    "n_samples": 3,
    "random_seed": 1,
    "resource_args": {"save_model": True},
    "compression": {
        "framework": "torch",
        "type": "pruning",
        "compressor": "l1_filter",
        "config_list": [{"sparsity": {"range": [0.3, 0.7], "type": "float"}, "op_types": ["Conv2d"]}],
    },
}
ONE_TIME = {
    "name": "old_one_time",
    "script": "train.py",
    "resource": "cpu",
    "compression": {
        "framework": "tensorflow",
        "type": "pruning",
        "compressor": "level",
        "config_list": [{"sparsity": 0.5, "op_types": ["default"]}],
    },
}


def pretrained(folder):
    namespace = {}
    exec(NET.replace("import aup\n", ""), namespace)
    torch.manual_seed(0)
    torch.save(namespace["Net"]().state_dict(), folder / "pretrained.pth")
    return namespace["Net"]


def test_a_search_keeps_what_its_script_saves_in_its_own_way(tmp_path):
    pretrained(tmp_path)
    (tmp_path / "train.py").write_text(DECORATED.format(save=OWN_SAVE))
    (tmp_path / "aup.py").write_text("raise ImportError('the one that was installed')")
    (tmp_path / "exp.json").write_text(json.dumps(AUTOMATIC))
    done = run_here(tmp_path, "launch", "exp.json")
    assert done.code == 0, done.err
    record = done.record
    best = record.folder.root / "best"
    assert {path.name for path in best.iterdir()} == {*bundle.FILES, "model.pth", "mask.pth", "f1"}
    assert (best / "f1" / "f2" / "own.pth").exists()
    assert "f1/f2/own.pth" in bundle.read(best).files
    assert record.verified["relative_difference"] < 1e-6
    assert record.best.config["folder_name"] == str(best.resolve())
    assert (record.best.config["tid"], record.best.config["job_id"]) == (record.best.number,) * 2
    assert record.baseline.config["save_model"] is False
    assert "folder_name" not in record.baseline.config
    assert any("saved no model itself" in note for note in record.best.notes)
    assert [path.name for path in record.folder.root.glob("trials/*/candidate")] == ["candidate"]
    assert not (tmp_path / "f1").exists()
    again = run_here(tmp_path, "best", "--verify")
    assert again.code == 0, again.err


@pytest.mark.night
def test_a_one_time_run_of_tensorflow(tmp_path):
    (tmp_path / "train.py").write_text(TENSORFLOW)
    (tmp_path / "exp.json").write_text(json.dumps(ONE_TIME))
    done = run_here(tmp_path, "run", "exp.json")
    assert done.code == 0, done.err
    best = done.record.folder.root / "best"
    assert {path.name for path in best.iterdir()} == {*bundle.FILES, "m.h5"}
    assert done.record.verified["relative_difference"] < 1e-5
    assert {path.name for path in tmp_path.iterdir()} == {"train.py", "exp.json", "raycompress_results"}


def test_the_same_script_by_hand(tmp_path):
    dense = sum(parameter.numel() for parameter in pretrained(tmp_path)().parameters())
    (tmp_path / "train.py").write_text(DECORATED.format(save=DECORATED_SAVE))
    compression = {**AUTOMATIC["compression"], "config_list": [{"sparsity": 0.5, "op_types": ["Conv2d"]}]}
    (tmp_path / "exp.json").write_text(json.dumps({**AUTOMATIC, "compression": compression}))
    done = raycompress(tmp_path, "exec", "train.py", "exp.json")
    assert done.code == 0, done.err
    assert done.out.startswith("result: ")
    state = torch.load(tmp_path / "aup_models" / "m.pth", weights_only=True)
    assert sum(tensor.numel() for tensor in state.values()) < dense
    assert {path.name for path in tmp_path.iterdir()} == {"train.py", "exp.json", "pretrained.pth", "aup_models"}
