"""The shipped example of Lightning, by hand and as a search, saves what loads without Lightning."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import raycompress as rc
from raycompress.jsonc import as_json
from tests.support.launching import REPOSITORY, raycompress

pytest.importorskip("lightning")

DIGITS = REPOSITORY / "configs" / "digits_lightning"


def net() -> nn.Module:
    """Return the network of the script, without Lightning."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 10)),
    )


def test_a_script_by_hand_prints_its_accuracies_and_saves_a_small_network(tmp_path: Path) -> None:
    command = [sys.executable, str(DIGITS / "train.py"), str(DIGITS / "config.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = [float(line.split(": ")[1]) for line in done.stdout.splitlines() if line.startswith("accuracy: ")]
    assert len(found) >= 3 and found[-1] == max(found) > 0.9
    small = rc.load(tmp_path / "small", net())
    assert [one.out_channels for one in small.children() if isinstance(one, nn.Conv2d)] == [8, 16]
    assert small(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_a_search_reports_each_validation_and_its_best_model_loads(tmp_path: Path) -> None:
    keys = {"script": str(DIGITS / "train.py"), "proposer": "passive", "n_samples": 1}  # in a process, without Ray
    experiment = {**json.loads(as_json((DIGITS / "search.json").read_text())), **keys}
    (tmp_path / "exp.json").write_text(json.dumps(experiment))
    launched = raycompress(tmp_path, "launch", "exp.json")
    assert launched.code == 0, launched.err
    best = launched.record.best
    assert best is not None and best.values["accuracy"] > 0.8
    (manifest,) = launched.record.folder.root.rglob("manifest.json")
    small = rc.load(manifest.parent, net())
    assert sum(one.numel() for one in small.parameters()) == best.after["params"]


@pytest.mark.night
def test_a_search_of_trials_with_two_processes_runs(tmp_path: Path) -> None:
    shutil.copytree(DIGITS, tmp_path / "digits")
    keys = {"resource": {"cpu": 1, "workers": 2}, "n_samples": 1, "n_parallel": 1}
    experiment = {**json.loads(as_json((DIGITS / "search.json").read_text())), **keys}
    (tmp_path / "digits/exp.json").write_text(json.dumps(experiment))
    launched = raycompress(tmp_path / "digits", "launch", "exp.json")
    assert launched.code == 0, launched.err
    assert launched.record.best is not None and launched.record.best.values["accuracy"] > 0.8
