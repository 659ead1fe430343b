"""Agents that are lost: started again with their models, but not for ever; what they leave on disk is removed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raycompress.bundle.example import Example
from raycompress.compressors.deploying.forms import source_of
from raycompress.deployment.client import Agent
from raycompress.deployment.lasting import LastingAgent
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import DeploymentError
from raycompress.script import node
from tests.support.models.networks import DUMMY, MODELS

WAITING = """
import sys
from raycompress.deployment.agent.places import BusyError, alone

with alone(sys.argv[1], 60):
    for _ in range(2):
        try:
            with alone(sys.argv[1], 0.2):
                print("had it twice")
        except BusyError:
            print("busy")
with alone(sys.argv[1], 60):
    print("free")
"""


def kill(agent: Agent) -> None:
    assert agent._process is not None
    os.kill(agent._process.pid, 9)
    agent._process.wait()


def test_an_agent_that_is_lost_is_started_again_with_its_models() -> None:
    with LastingAgent(DeploymentTarget("onnxruntime")) as agent:
        source = source_of(MODELS["cnn"]().eval(), Example.from_dummy(DUMMY), "onnx")
        agent.load("net", agent.convert(source)[0])
        before = agent.run("net", [DUMMY.numpy()])
        kill(agent)
        (after,) = agent.run("net", [DUMMY.numpy()])
        assert (after == before[0]).all()
        kill(agent)
        assert len(agent.time(["net"], [DUMMY.numpy()], rounds=3, warm_up=0, seconds=1)[0]) == 3
        kill(agent)
        assert agent.convert(source)[0].keys() == {"model.onnx"}
        assert len(agent.notes) == 3
        assert "was lost while it was to run" in agent.notes[0]


def test_an_agent_that_is_lost_again_and_again_is_an_error(tmp_path: Path) -> None:
    starts, python = tmp_path / "starts", tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho >> {starts}\n[ -e {tmp_path}/broken ] || exec {sys.executable} "$@"\nexit 3\n')
    python.chmod(0o700)
    with LastingAgent(DeploymentTarget("onnxruntime", python=str(python))) as agent:
        (tmp_path / "broken").touch()
        kill(agent)
        with pytest.raises(DeploymentError, match=r"does not start: it ended with 3 \(2 times in") as caught:
            agent.ping()
        assert starts.read_text() == "\n\n"
        assert '"python"' in caught.value.problems[0].fix
        (tmp_path / "broken").unlink()
        agent.ping()


def test_what_a_killed_agent_leaves_the_next_one_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def folders() -> set[Path]:
        return {path for path in tmp_path.glob("raycompress-agent-*") if path.is_dir()}

    with Agent(DeploymentTarget("onnxruntime")) as living, Agent(DeploymentTarget("onnxruntime")) as killed:
        assert len(folders()) == 2
        kill(killed)
        with Agent(DeploymentTarget("onnxruntime")):
            assert len(folders()) == 2
        assert len(folders()) == 1
        living.ping()
    assert not folders()


def test_whoever_waits_for_its_turn_measures_as_long_as_it_would_have() -> None:
    """The lock is held by another file of this process; the agent's seconds begin when it has it."""
    source = source_of(MODELS["cnn"]().eval(), Example.from_dummy(DUMMY), "onnx")
    with LastingAgent(DeploymentTarget("onnxruntime")) as agent, ThreadPoolExecutor() as pool:
        agent.load("net", agent.convert(source)[0])
        with node.locked(node.MEASURING):
            waiting = pool.submit(agent.time, ["net"], [DUMMY.numpy()], rounds=40, warm_up=0, seconds=0.5)
            time.sleep(1.5)
            assert not waiting.done()
        assert len(waiting.result()[0]) > 1


def test_whoever_waits_too_long_for_its_turn_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITING, str(tmp_path / "lock")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["busy", "busy", "free"]
