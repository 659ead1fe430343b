"""Whether a search that measures in a runtime finds models that are faster there than those of an eager search.

``python -m tests.benchmarks.deployment.winners --lines FILE`` runs both searches for each seed, at the same bound on
accuracy, and times the two winners in the runtime, in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import raycompress as rc
from raycompress.bundle.example import Example
from raycompress.compressors.deploying.deploy import Deployment
from raycompress.deployment.target import DeploymentTarget
from raycompress.results.record import SearchRecord
from tests.benchmarks import ROOT
from tests.benchmarks.deployment.won import NETWORKS

T_975 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}
"""Number of values -> the quantile of Student's distribution for a 95 % interval of their mean."""


def search(network: str, seed: int, target: Mapping[str, Any] | None, trials: int, folder: Path) -> SearchRecord:
    """Search for the fastest model that loses at most one point of accuracy."""
    entry = {
        "sparsity": {"type": "float", "range": [0.0, 0.9]},
        "op_types": ["Conv2d"],
        "expand_op_names": "dependency",
    }
    experiment: dict[str, Any] = {
        "name": "winner",
        "script": f"{Path(__file__).with_name('won.py')} {network} {seed}",
        "workingdir": str(ROOT),
        "storage": str(folder),
        "compression": {
            **{"framework": "torch", "type": "pruning", "compressor": "group_l1"},
            **{"config_list": [entry], "arguments": {}},
        },
        "objectives": {"latency_ms": "min"},
        "constraints": {"accuracy": {"max_drop": 0.01}},
        "proposer": "guided",
        "n_samples": trials,
        "n_parallel": 1,  # nothing beside what is timed
        "random_seed": seed,
        "runtime_args": {"env": {"PYTHONPATH": str(ROOT)}},
        **({} if target is None else {"target": dict(target)}),
    }
    return rc.launch(experiment, quiet=True)


def compared(network: str, seed: int, target: DeploymentTarget, trials: int) -> dict[str, Any]:
    """Return how fast the winners of both searches are in the runtime, and how accurate."""
    example = Example.from_dummy(torch.rand(1, 1, 8, 8))
    found: dict[str, Any] = {"network": network, "seed": seed, "runtime": target.name}
    with tempfile.TemporaryDirectory(prefix="raycompress-") as folder:
        winners = {}
        for name, asked in (("eager", None), ("target", target.to_json())):
            record = search(network, seed, asked, trials, Path(folder))
            assert record.best is not None and record.bundle is not None
            winners[name] = rc.load(record.bundle, NETWORKS[network]()).eval()
            found[f"{name}_accuracy"] = (record.best.values or {})["accuracy"]
            found[f"{name}_feasible"] = record.is_feasible(record.best)
            found[f"{name}_flops"] = (record.best.after or {})["flops"]
        with Deployment(target, example) as deployment:
            deployed = [deployment.deploy(model, name) for name, model in winners.items()]
            latencies = deployment.latencies(deployed, most=2000, seconds=20.0)
    for name, latency in zip(winners, latencies, strict=True):
        found[f"{name}_ms"] = latency.wall_ms
        found[f"{name}_cpu_ms"] = latency.cpu_ms
    return {**found, "ratio": found["target_cpu_ms"] / found["eager_cpu_ms"]}


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return the mean and the ends of its 95 % interval, by Student's distribution."""
    mean = statistics.fmean(values)
    half = T_975[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="mobilenet")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--python", default="")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--lines", type=Path, required=True, help="JSON lines, which are added to")
    asked = parser.parse_args()
    target = DeploymentTarget(asked.runtime, python=asked.python)
    rows = []
    for seed in asked.seeds:
        rows.append(compared(asked.network, seed, target, asked.trials))
        with asked.lines.open("a") as file:
            print(json.dumps(rows[-1]), file=file)
        print(json.dumps(rows[-1]), flush=True)
    if len(rows) > 1:
        print("ratio of latencies, mean and 95 % interval:", interval([row["ratio"] for row in rows]))


if __name__ == "__main__":
    main()
