"""Whether a search that measures in a runtime finds models that are faster there than those of an eager search.

``python -m tests.benchmarks.deployment.winners --lines FILE``. Two searches with the same seed and random proposals
train the same candidates to the same accuracies, and differ in which of them is the fastest. So one search has both
latencies as goals; of the candidates on its front that with the least latency in eager torch is what an eager search
would return, and that with the least latency in the runtime what a search with the target returns. Both are timed once
more in the runtime, in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
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

LATENCY, EAGER = "latency_ms", "latency_ms@eager"
T_975 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}
"""Number of values -> the quantile of Student's distribution for a 95 % interval of their mean."""


def search(network: str, seed: int, target: DeploymentTarget, trials: int, folder: Path) -> SearchRecord:
    """Search for the fastest models, in the runtime and in eager torch, that lose at most two points of accuracy."""
    entry = {
        "sparsity": {"type": "float", "range": [0.0, 0.7]},
        "op_types": ["Conv2d"],
        "expand_op_names": "dependency",
    }
    experiment: dict[str, Any] = {
        "name": "winner",
        "script": f"{Path(__file__).with_name('won.py')} {network} {seed}",
        "workingdir": str(ROOT),
        "storage": str(folder),
        "compression": {
            **{"framework": "torch", "type": "pruning", "compressor": "group_obs"},
            **{"config_list": [entry], "arguments": {}},
        },
        "objectives": {LATENCY: "min", EAGER: "min"},
        "constraints": {"accuracy": {"max_drop": 0.02}},
        "pareto_size": trials,
        "proposer": "random",
        "n_samples": trials,
        "n_parallel": 1,  # nothing beside what is timed
        "random_seed": seed,
        "runtime_args": {"env": {"PYTHONPATH": str(ROOT)}},
        "target": target.to_json(),
    }
    return rc.launch(experiment, quiet=True)


def compared(network: str, seed: int, target: DeploymentTarget, trials: int) -> dict[str, Any]:
    """Return how fast the winners of both searches are in the runtime, and how accurate."""
    example = Example.from_dummy(torch.rand(1, 1, 8, 8))
    found: dict[str, Any] = {"network": network, "seed": seed, "runtime": target.name}
    with tempfile.TemporaryDirectory(prefix="raycompress-") as folder:
        record = search(network, seed, target, trials, Path(folder))
        found["feasible"] = sum(record.is_feasible(trial) for trial in record.searched)
        winners = {}
        for name, metric in (("eager", EAGER), ("target", LATENCY)):
            trial = min(record.front, key=lambda one: one.after[metric] / one.before[metric])
            winners[name] = rc.load(record.folder.fetch_candidate(trial.number), NETWORKS[network]()).eval()
            found |= {f"{name}_trial": trial.number, f"{name}_accuracy": trial.values["accuracy"]}
            found[f"{name}_flops"] = trial.after["flops"]
        with Deployment(target, example) as deployment:
            deployed = [deployment.deploy(model, name) for name, model in winners.items()]
            latencies = deployment.latencies(deployed, most=2000, seconds=20.0)
    for name, latency in zip(winners, latencies, strict=True):
        found |= {f"{name}_ms": latency.wall_ms, f"{name}_cpu_ms": latency.cpu_ms}
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
    parser.add_argument("--trials", type=int, default=24)
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
