"""Each of many trials is given its own values, and no other's: the old tool mixed those up that started together."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from raycompress.states import TrialState
from tests.support.launching import digits_experiment
from tests.support.shared_ray import run_here

CONCERNING = ("compressor", "compression_framework", "compression_type", "config_list", "lr", "k")


def test_many_trials_each_with_its_own_values(home: Path, tmp_path: Path, is_nightly: bool) -> None:
    count = 200 if is_nightly else 40
    path = digits_experiment(tmp_path, "automatic_own_values.json", home, n_samples=count, n_parallel=2)
    done = run_here(tmp_path, "launch", path)
    assert done.code == 0, done.out + done.err
    record = done.record
    assert record.header["n_parallel"] == 2
    assert [trial.state for trial in record.searched] == [TrialState.FINISHED] * count
    for trial in record.searched:
        config, values = trial.config, trial.values
        assert values is not None
        text = json.dumps({key: config[key] for key in CONCERNING}, sort_keys=True)
        assert values == {
            "lr": config["lr"],
            "k": config["k"],
            "digest": int(hashlib.sha256(text.encode()).hexdigest()[:12], 16),
            "tid": trial.number,
            "first": config["config_list"][0]["sparsity"],
            "second": config["config_list"][1]["sparsity"],
        }
        assert trial.sample["conv1.sparsity"] == values["first"]
    assert len({trial.values["digest"] for trial in record.searched if trial.values}) == count
    assert record.best is not None
    assert record.best.score == max(trial.config["lr"] for trial in record.searched)
