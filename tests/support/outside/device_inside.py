"""What a test of devices runs on the person's machine: `start` an agent, or a `series` of measurements, of a target.

Each prints a line of JSON for each thing that was done, as it is done; an error of ours is such a line, too.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from raycompress.deployment.lasting import LastingAgent
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import RaycompressError


def start(target: DeploymentTarget) -> None:
    with LastingAgent(target, converting=False) as agent:
        show({"facts": agent.facts})


def series(target: DeploymentTarget, number: str, patience_s: str = "120") -> None:
    """Measure the tests' ResNet, and one of fewer channels, so often."""
    import torch

    from raycompress.bundle.example import Example
    from raycompress.compressors.deploying.deploy import Deployment
    from tests.support.models.networks import DUMMY, MODELS

    torch.manual_seed(0)
    models = {name: MODELS[name]().eval() for name in ("resnet", "cnn")}
    with Deployment(target, Example.from_dummy(DUMMY), patience_s=float(patience_s)) as deployment:
        deployed = [deployment.deploy(model, name) for name, model in models.items()]
        show({"deployed": [one.difference for one in deployed]})
        sys.stdin.readline()
        for _ in range(int(number)):
            latencies = deployment.latencies(deployed, seconds=1.0)
            show({"latencies": [one.wall_ms for one in latencies], "notes": deployment.notes})


def together(*targets: DeploymentTarget) -> None:
    """Measure in several targets as a trial does; no measurement begins before all others are about to."""
    import torch

    from raycompress.bundle.example import Example
    from raycompress.compressors.deploying.deploy import Deployed, Deployment, Measurement
    from raycompress.compressors.deploying.in_trial import deploy_in
    from raycompress.script.context import Trial
    from tests.support.models.networks import DUMMY, MODELS

    class Measured(Deployment):
        def measure(self, deployed: Sequence[Deployed], **options: Any) -> Measurement:
            everyone.wait(120)
            return super().measure(deployed, seconds=1.0, **options)

    everyone = threading.Barrier(len(targets))
    torch.manual_seed(0)
    small, dense = (MODELS[name]().eval() for name in ("cnn", "resnet"))
    trial = Trial.__new__(Trial)
    trial.targets, trial.shared = [one.to_json() for one in targets], None
    with patch("raycompress.compressors.deploying.in_trial.Deployment", Measured):
        found = deploy_in(trial, dense, small, Example.from_dummy(DUMMY))
    show({name: found.after[f"latency_ms@{name}"] for name in found.about})


def show(data: dict[str, Any]) -> None:
    print(json.dumps(data), flush=True)


if __name__ == "__main__":
    what, targets, *words = sys.argv[1:]
    try:
        globals()[what](*map(DeploymentTarget.from_json, json.loads(targets)), *words)
    except RaycompressError as error:
        (problem,) = error.problems
        show({"error": type(error).__name__, "what": problem.what, "fix": problem.fix})
