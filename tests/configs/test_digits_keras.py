"""The shipped Keras example: by hand, its weights, its experiment files, and a search from end to end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycompress.bundle import bundle
from raycompress.states import TrialState
from tests.support.commands import run
from tests.support.launching import REPOSITORY, Launched, digits_experiment

KERAS = REPOSITORY / "configs" / "digits_keras"


def python(folder: Path, *words: str | Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(KERAS)}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.night
def test_by_hand_the_script_prints_its_result_and_saves_that_model(tmp_path: Path) -> None:
    lines = python(tmp_path, KERAS / "train.py", KERAS / "config.json").splitlines()
    result = {name: float(value) for name, _, value in (line.partition(": ") for line in lines)}
    assert list(result) == ["score", "accuracy", "weights_left"]
    assert result["accuracy"] > 0.95
    assert 0.2 < result["weights_left"] < 0.25
    assert (tmp_path / "mask.npz").exists()
    source = """
import keras, train
held_out = train.load_data()[1]
print(train.evaluate(keras.models.load_model("model.keras", compile=False), *held_out))
dense = train.build()
dense.load_weights(train.WEIGHTS)
print(train.evaluate(dense, *held_out))
"""
    saved, dense = map(float, python(tmp_path, "-c", source).split())
    assert saved == pytest.approx(result["accuracy"], abs=1e-6)
    assert dense == pytest.approx(0.995, abs=1.01 / 600)


def test_weights_are_small_enough_to_ship() -> None:
    assert (KERAS / "pretrained.weights.h5").stat().st_size < 200_000


@pytest.mark.parametrize("name", ["one_time.json", "auto_level.json"])
def test_experiment_file_passes_validate(name: str) -> None:
    code, out, err = run("validate", str(KERAS / name))
    assert code == 0, out + err


def test_a_search_ends_with_a_verified_bundle(launch: Callable[..., Launched], tmp_path: Path) -> None:
    changes: dict[str, Any] = {"n_samples": 1, "parameter_config": [{"name": "epochs", "range": [1], "type": "choice"}]}
    done = launch(digits_experiment(tmp_path, "auto_level.json", KERAS, **changes))
    assert done.code == 0, done.out + done.err
    record = done.record
    assert [trial.state for trial in record.records.values()] == [TrialState.FINISHED] * 2
    assert record.baseline is not None and record.baseline.values is not None
    assert record.baseline.values["weights_left"] == 1
    assert record.best is not None and record.best.values is not None
    assert record.best.values["weights_left"] < 0.75
    assert set(record.best.sample) >= {f"conv{n}.sparsity" for n in (1, 2, 3)}
    assert record.verified is not None
    assert record.verified["relative_difference"] <= bundle.TOLERANCE
    assert record.bundle is not None
    assert bundle.read(record.bundle).kind == "keras"
    assert {"model.keras", "mask.npz", "model.tflite"} <= {path.name for path in record.bundle.iterdir()}
    assert any("model.tflite" in note for note in record.best.notes)
