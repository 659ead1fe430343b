"""A device that throttles: it is noticed by the dense model, waited for, and accepted where it stays slow."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from raycompress.bundle.example import Example
from raycompress.compressors.deploying import deploy
from raycompress.compressors.deploying.deploy import Deployment
from raycompress.deployment.conversions import Conversions
from raycompress.deployment.pace import ACCEPTED_S, SLOWER, Pace
from raycompress.deployment.target import DeploymentTarget
from tests.support import throttled
from tests.support.models.networks import DUMMY, MODELS

EXAMPLE = Example.from_dummy(DUMMY)


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """How many passes of `Throttled` are slow, from now on."""
    path = tmp_path / "steps"
    path.write_text("0")
    monkeypatch.setenv(throttled.STEPS, str(path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(throttled.__file__).parents[2]), *sys.path]))
    return path


def throttling(conversions: Path) -> Deployment:
    """Return a deployment in ONNX Runtime as it is on a device that throttles."""
    deployment = Deployment(DeploymentTarget("onnxruntime"), EXAMPLE, conversions=Conversions(conversions))
    agent = deployment._agent
    agent.entry = replace(agent.entry, make=f"{throttled.__name__}:{throttled.Throttled.__name__}")
    return deployment


def test_a_slowdown_between_measurements_is_waited_for(
    steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy, "PAUSES_HERE_S", [0.01] * 20)
    torch.manual_seed(0)
    with throttling(tmp_path / "kept") as deployment:
        deployed = [deployment.deploy(MODELS[name]().eval(), name) for name in ("resnet", "cnn")]
        fast = deployment.measure(deployed, most=60).latencies[0]
        steps.write_text("300")
        again = deployment.measure(deployed, most=60)
    assert steps.read_text() == "0"
    assert again.latencies[0].cpu_ms < 2 * fast.cpu_ms
    (note,) = again.notes
    assert "this machine ran the dense model up to" in note and "slower than usual" in note


def test_a_device_that_stays_slow_is_accepted_by_all_who_share_the_conversions(
    steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy, "PAUSES_HERE_S", [0.01])
    notes = []
    for slow in (0, 10**6, 10**6):
        steps.write_text(str(slow))
        torch.manual_seed(0)
        with throttling(tmp_path / "kept") as deployment:
            notes.append(deployment.measure([deployment.deploy(MODELS["resnet"]().eval(), "dense")], most=60).notes)
    assert "shares stand" in notes[1][-1] and "and still" in notes[1][-1]
    assert "slower than its fastest" in notes[2][-1] or "and still" in notes[2][-1]
    assert len(list((tmp_path / "kept").glob("pace-*.json"))) == 1


def test_the_pace_of_an_accepted_device_is_tried_again_after_an_hour(tmp_path: Path) -> None:
    file = tmp_path / "pace.json"
    pace = Pace(file)
    assert pace.slowdown([1.0, 1.0]) == 1
    assert pace.slowdown([1.0, 1.5]) == 1.5
    pace.accept([1.0])
    assert Pace(file).slowdown([1.3]) == 1.3
    pace.accept([1.3])
    shared = Pace(file)
    assert shared.slowdown([1.3]) == 1
    assert shared.excess([1.3]) == 1.3
    assert shared.slowdown([1.6]) > SLOWER
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "when": data["when"] - ACCEPTED_S}))
    assert Pace(file).slowdown([1.3]) == 1.3
    file.write_text("{")
    assert Pace(file).slowdown([1.3]) == 1
