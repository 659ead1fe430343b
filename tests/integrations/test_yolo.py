"""A YOLO that its own trainer trains small: what it saves opens without raycompress, in the environment of the zoo."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from raycompress.jsonc import as_json
from tests.support.launching import REPOSITORY
from tests.support.outside.environments import ZOO
from tests.support.outside.needs import needs_zoo

pytestmark = [needs_zoo, pytest.mark.timeout(900)]
YOLO = REPOSITORY / "configs" / "yolo"


def environment(folder: Path) -> dict[str, str]:
    """Return the variables for a process that reaches nothing and leaves nothing outside `folder`."""
    own = {"YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "true", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, "PYTHONPATH": str(REPOSITORY)}


def facts(folder: Path, *names: str) -> dict[str, dict[str, Any]]:
    command = [ZOO.python, "-m", "tests.integrations.yolo.cases", folder, *names]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=environment(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.removeprefix("FACTS ") for line in done.stdout.splitlines() if line.startswith("FACTS ")]
    return {one["case"]: one for one in map(json.loads, lines)}


def test_every_task_is_pruned_trained_and_opened_without_raycompress(tmp_path: Path) -> None:
    found = facts(tmp_path, "detect", "segment", "pose", "classify")
    firsts = {"detect": "mAP50-95(B)", "segment": "mAP50-95(M)", "pose": "mAP50-95(P)", "classify": "accuracy_top1"}
    for task, first in firsts.items():
        one = found[task]
        assert one["small"] < 0.6 * one["dense"], one
        assert one["parameters"] == one["small"]
        assert one["difference"] < 1e-5, one  # of the answers in this process and the other
        assert len(one["reports"]) == 2 and all(next(iter(report)) == first for report in one["reports"])
        assert next(iter(one["before"][0])) == first
        for name, value in one["reports"][-1].items():  # what was reported last is what stock val() says
            assert one["best"][f"metrics/{name}"] == pytest.approx(value, abs=1e-4), (task, name)
            assert one["onnx"][f"metrics/{name}"] == pytest.approx(one["square"][f"metrics/{name}"], abs=1e-3), (
                task,
                name,
            )
    assert found["classify"]["reports"][-1]["accuracy_top1"] > 0


def test_masks_hold_in_the_average_and_are_cut_out_at_the_end(tmp_path: Path) -> None:
    for case, one in facts(tmp_path, "after", "in-training").items():
        assert one["opened"] == one["small"] < 0.6 * one["dense"], one
        assert one["hooks"] == 0
        assert one["averages"][-1] > 0.4, one
        assert one["steps"][-1] > 0.4, one
        assert (one["steps"][0] > 0.4) == (case == "after")


def test_a_training_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    for one in facts(tmp_path, "resumed", "resumed-masked").values():
        assert one["started"] == [1]
        assert one["same"]
        assert one["best"] == one["small"]


def test_a_small_network_is_pruned_further_and_stock_training_makes_it_whole(tmp_path: Path) -> None:
    one = facts(tmp_path, "again")["again"]
    assert one["sizes"][1] < 0.7 * one["sizes"][0]
    assert one["opened"] == one["sizes"][1]
    assert one["stock"] > one["sizes"][0]


def test_what_cannot_be_is_said_with_its_reason(tmp_path: Path) -> None:
    one = facts(tmp_path, "refused")["refused"]
    assert "takes an ultralytics.YOLO first, not DetectionModel" in one["module"]
    assert "compressed already" in one["twice"]
    assert "puts layers of its own into the network" in one["quantizer"]
    assert "a list of data sets" in one["data"]
    assert "trains for int8" in one["int8"]
    assert "compiles the network" in one["compile"]
    assert "prunes in rounds" in one["rounds"]
    assert "no trainer yet" in one["early"]


def test_the_example_searches_and_its_best_network_lies_in_the_bundle(tmp_path: Path) -> None:
    epochs = [{"name": name, "type": "choice", "range": [1]} for name in ("dense_epochs", "epochs")]
    keys = {"script": str(YOLO / "train.py"), "proposer": "passive", "n_samples": 1}  # in a process, without Ray
    keys |= {"parameter_config": epochs}
    experiment = {**json.loads(as_json((YOLO / "yolo.json").read_text())), **keys}
    (tmp_path / "exp.json").write_text(json.dumps(experiment))
    command = [ZOO.python, "-m", "raycompress", "launch", "exp.json", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    (best,) = (tmp_path / "raycompress_results").rglob("candidate/best.pt")
    assert best.stat().st_size > 0
