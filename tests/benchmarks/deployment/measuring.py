"""Deploys each network, whole and pruned, in each runtime, and times them in turn; a line of JSON each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from raycompress.compressors.deploying.deploy import Deployment
from raycompress.deployment.target import DeploymentTarget
from raycompress.errors import RaycompressError
from tests.benchmarks.deployment.networks import Network, networks, pruned

RUNTIMES = ("torch", "onnxruntime", "openvino", "executorch", "litert", "torch.compile")
Line = dict[str, Any]


def lines_of(path: Path) -> list[Line]:
    """Return what was measured before."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def measure(
    python: str,
    path: Path,
    say: Callable[[str], None],
    *,
    names: Sequence[str] = (),
    runtimes: Sequence[str] = RUNTIMES,
    seconds: float = 8.0,
) -> list[Line]:
    """Measure what `path` does not have yet, add it there, and return all.

    Parameters
    ----------
    python
        The interpreter of the environment with the runtimes.
    names, runtimes
        Of some networks, or parts of their names, and of some runtimes; all by default.
    seconds
        Of timing, for each network in each runtime.
    """
    known = {(line["network"], line["runtime"]) for line in lines_of(path)}
    for network in networks():
        todo = [runtime for runtime in runtimes if (network.name, runtime) not in known]
        if not todo or (names and not any(name in network.name for name in names)):
            continue
        begun = time.monotonic()
        models = list(pruned(network))
        shares = ", ".join(f"{share:.2f}" for share, _ in models)
        say(f"{network.name}: {shares} of the multiply-adds, made in {time.monotonic() - begun:.0f} s")
        for runtime in todo:
            line = _line(network, models, DeploymentTarget(runtime, python=python), seconds)
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            say(f"{network.name} in {runtime}: {line.get('error') or line['ms']}")
    return lines_of(path)


def _line(network: Network, models: list[tuple[float, nn.Module]], target: DeploymentTarget, seconds: float) -> Line:
    line: Line = {
        "network": network.name,
        "runtime": target.runtime,
        "parameters": sum(parameter.numel() for parameter in models[0][1].parameters()),
        "flops": [share for share, _ in models],
    }
    try:
        with Deployment(target, network.example()) as deployment:
            deployed, whole = [], []
            for place, (_, model) in enumerate(models):
                begun = time.monotonic()
                deployed.append(deployment.deploy(model, f"model{place}"))
                whole.append(time.monotonic() - begun)
            latencies = deployment.latencies(deployed, seconds=seconds)
            return line | {
                "version": deployment.version,
                "seconds": [one.seconds for one in deployed],
                "whole_seconds": whole,
                "difference": max(one.difference for one in deployed),
                "bytes": [one.size_bytes for one in deployed],
                "cpu_ms": [latency.cpu_ms for latency in latencies],
                "ms": [latency.wall_ms for latency in latencies],
                "low_ms": [latency.low_ms for latency in latencies],
                "high_ms": [latency.high_ms for latency in latencies],
            }
    except RaycompressError as error:
        return line | {"error": error.problems[0].what}
