"""Searches for a deployment target, from the experiment file to the bundle's deployed files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from raycompress.bundle import bundle
from raycompress.bundle.manifest import DEPLOYED
from raycompress.compressors.analysis.fits.latency_model import FEWEST
from raycompress.compressors.deploying.forms import arrays_of
from raycompress.compressors.measure.difference import relative_difference
from raycompress.results.record import SearchRecord
from raycompress.states import TrialState
from tests.support.launching import Launched, digits_experiment
from tests.support.shared_ray import run_here

Launch = Callable[..., Launched]
TARGETS = [{"runtime": "onnxruntime"}, {"runtime": "openvino", "precision": "int8"}]


@pytest.fixture
def write(tmp_path: Path, small_resnet: Path) -> Callable[..., Path]:
    """Write the shipped experiment as a random search for targets."""

    def write(**changes: Any) -> Path:
        keys = {"proposer": "random", "n_samples": 2, "constraints": {}, "target": TARGETS, **changes}
        return digits_experiment(tmp_path, "budget.json", small_resnet, **keys)

    return write


def with_python(folder: Path, trace: Path) -> None:
    """Let the manifest of a bundle name a Python of its own, as a stranger's may."""
    evil = folder.parent / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {trace}\n")
    evil.chmod(0o700)
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    for about in manifest["targets"].values():
        about["target"]["python"] = str(evil)
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))


def test_every_trial_is_converted_proved_and_timed(launch: Launch, write: Callable[..., Path], tmp_path: Path) -> None:
    done = launch(write(objectives={"latency_ms": "min", "size_bytes@openvino-int8": "min"}))
    assert done.code == 0, done.err
    record = done.record
    (plain, there) = record.objective.dense  # of what is not predicted the dense model alone is timed
    assert (plain.metric, there.metric) == ("latency_ms", "latency_ms@onnxruntime")
    assert plain.clock == there.clock == "cpu_ms"
    for trial in record.searched:
        before, after = trial.before or {}, trial.after or {}
        for target in ("onnxruntime", "openvino-int8", "eager"):
            assert 0 < after[f"latency_low_ms@{target}"] <= after[f"latency_ms@{target}"]
            assert after[f"size_bytes@{target}"] < before[f"size_bytes@{target}"]
        assert after["latency_ms"] == after["latency_ms@onnxruntime"] != after["latency_ms@eager"]
        assert after["size_bytes"] == after["size_bytes@onnxruntime"]
        assert trial.score == pytest.approx(after["cpu_ms"] / before["cpu_ms"] * plain.ms)
        assert after["size_bytes@openvino-int8"] < 0.9 * before["size_bytes@onnxruntime"]
    assert record.verified is not None
    assert set(record.verified["targets"]) == {"onnxruntime", "openvino-int8"}
    assert "onnxruntime, ms" in done.out
    assert record.bundle is not None
    manifest = bundle.read(record.bundle)
    assert manifest.targets["onnxruntime"].relative_difference < 1e-3
    example, outputs = bundle.reference(record.bundle)
    session = onnxruntime.InferenceSession(str(record.bundle / DEPLOYED / "onnxruntime" / "model.onnx"))
    found = session.run(None, {"input.0": arrays_of(example)[0]})
    assert relative_difference(outputs, [torch.as_tensor(one) for one in found]) < 1e-3

    again = run_here(tmp_path, "best", "--verify", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["verified"]["targets"]["onnxruntime"] < 1e-3
    with_python(record.bundle, tmp_path / "started")
    strange = run_here(tmp_path, "best", "--verify")
    assert strange.code == 0, strange.err
    assert not (tmp_path / "started").exists()  # a program that a bundle names is not run

    path = record.bundle / DEPLOYED / "onnxruntime" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    broken = run_here(tmp_path, "best", "--verify")
    assert broken.code == 1
    assert "deployed/onnxruntime/model.onnx" in broken.err


def test_latency_and_bytes_are_predicted_in_the_targets_and_networks_timed_once(
    launch: Launch, write: Callable[..., Path], tmp_path: Path
) -> None:
    bounds = {"latency_ms": {"max_ratio": 2.0}, "size_bytes": {"max_ratio": 0.7}}
    there = {"latency_ms@onnxruntime-batch2": {"max_ratio": 2.0}}
    targets = [*TARGETS[:1], {"runtime": "onnxruntime", "batch": 2}]
    path = write(constraints={**bounds, **there}, target=targets, n_samples=1, baseline=False)
    done = launch(path)
    assert done.code == 0, done.err
    timed = re.findall(r"(\S+): latencies are predicted from those of (\d+) networks", done.err)
    assert [name for name, _ in timed] == ["onnxruntime", "onnxruntime-batch2"], done.err
    assert all(int(count) >= FEWEST for _, count in timed)  # the faster the machine is, the more
    assert "by an earlier run" not in done.err
    again, planned = run_here(tmp_path, "resume", "--n-samples", "2"), run_here(tmp_path, "plan", path)
    for later in (again, planned):
        assert later.code == 0, later.err
        assert " ".join(later.err.split()).count("they were timed by an earlier run, and not again") == 2, later.err
    assert [one.metric for one in done.record.objective.dense] == [
        "latency_ms", "latency_ms@onnxruntime", "latency_ms@onnxruntime-batch2",
    ]  # fmt: skip
    trial = done.record.searched[0]
    assert (trial.predicted or {})["latency_ms@onnxruntime-batch2"] > 0
    assert trial.before and trial.after and trial.predicted
    assert trial.predicted["latency_ms"] > 0
    assert trial.after["size_bytes"] == trial.after["size_bytes@onnxruntime"]
    assert trial.predicted["size_bytes"] == pytest.approx(trial.after["size_bytes"], rel=0.02)
    assert trial.after["size_bytes"] < 0.72 * trial.before["size_bytes"]


def test_channels_are_in_the_steps_of_the_runtime_where_the_file_names_none(
    launch: Launch, write: Callable[..., Path], tmp_path: Path
) -> None:
    keys = {"constraints": {"latency_ms": {"max_ratio": 2.0}}, "target": TARGETS[0]}
    path = write(**keys, n_samples=1, baseline=False)
    data = json.loads(path.read_text())
    data["compression"]["arguments"] = {}
    path.write_text(json.dumps(data))
    first = launch(path)
    assert first.code == 0, first.err
    by_times = first.record.searched[0].config["arguments"]  # as its own times have shown, here and now
    step = 8 if by_times == {"round_to": 16} else 16
    fit_is(first.record, {"step": step, "even": 1, "is_stepped": True})
    second = launch(path)
    assert f'"round_to" is {step} here, where the file leaves it open' in " ".join(second.err.split())
    records = [SearchRecord.open(root) for root in sorted(tmp_path.glob("raycompress_results/*/"))]
    fit_is(records[1], {"is_stepped": False})
    for record, began in zip(records, (by_times, {"round_to": step}), strict=True):
        again = run_here(tmp_path, "resume", record.folder.root.name, "--n-samples", "2")
        assert again.code == 0, again.err
        trials = SearchRecord.open(record.folder.root).searched
        assert [trial.config["arguments"] for trial in trials] == [began] * 2


def fit_is(record: SearchRecord, facts: dict[str, Any]) -> None:
    """Change what a search has fitted in its target."""
    model = json.loads(record.folder.model.read_text())
    model["latency"] |= facts
    record.folder.model.write_text(json.dumps(model))


def test_a_model_that_breaks_a_constraint_is_not_converted(launch: Launch, write: Callable[..., Path]) -> None:
    done = launch(write(constraints={"accuracy": {"min": 1.1}}, target=TARGETS[:1], n_samples=1, baseline=False))
    (trial,) = done.record.searched
    assert trial.state is TrialState.FINISHED, done.err
    reported = list(trial.values or {})
    assert "accuracy" in reported
    if "latency_ms" not in (trial.after or {}):  # the script reports before it saves
        assert any("not deployed" in note for note in trial.notes)
    assert not done.record.is_feasible(trial)


def test_a_target_that_cannot_be_met_is_told_before_the_first_trial(launch: Launch, write: Callable[..., Path]) -> None:
    done = launch(write(target={"runtime": "openvino", "python": "/no/such/python"}))
    assert done.code != 0
    assert "/no/such/python" in done.err
    assert "trial 0" not in done.err + done.out
