"""Scripts that use the old tool's utilities outside of any experiment."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from tests.support.launching import raycompress


def test_a_script_without_an_experiment_analyses_its_model(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "analysis"
    shutil.copytree(home, folder)
    done = raycompress(folder, "exec", "analysis.py")
    assert done.code == 0, done.out + done.err
    assert done.out.splitlines()[-1] == "['conv1', 'conv2', 'fc1'] aup"
    with (folder / "sensitivity.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header[:2] == ["layername", "0.1"]
    assert [row[0] for row in rows] == ["conv1", "conv2", "fc1"]
    assert all(0 <= float(value) <= 1 for row in rows for value in row[1:])
    with (folder / "dependency.csv").open() as file:
        assert {name for row in csv.reader(file) for name in row} >= {"conv1", "conv2"}
    assert not (folder / "raycompress_results").exists()
