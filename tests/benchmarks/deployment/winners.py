"""Whether a search that measures in a runtime finds models that are faster there than those of an eager search.

``python -m tests.benchmarks.deployment.winners --lines FILE``. Two searches with the same seed and random proposals try
the same candidates, and differ in the latency that they choose by. So one search has accuracy and both latencies as
goals. For a loss of accuracy that is allowed, the winner of the eager search is the candidate that is fastest in eager
torch, that of the target's search the one that is fastest in the runtime. Both are timed once more in the runtime, in
turn and in both orders. Candidates are compensated and not trained, so that accuracy follows from the widths, not from
the chance of training.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import raycompress as rc
from raycompress.bundle.example import Example
from raycompress.compressors.deploying.deploy import Deployment
from raycompress.deployment.target import DeploymentTarget
from raycompress.results.record import SearchRecord
from raycompress.results.trial import TrialRecord
from tests.benchmarks import ROOT
from tests.benchmarks.deployment.won import NETWORKS

LATENCY, EAGER = "latency_ms", "latency_ms@eager"
DROPS = (0.02, 0.05, 0.1)
"""Losses of accuracy that are allowed."""
T_975 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}
"""Number of values -> the quantile of Student's distribution for a 95 % interval of their mean."""


def search(network: str, seed: int, target: DeploymentTarget, trials: int, folder: Path) -> SearchRecord:
    """Search for models that are accurate, and fast in the runtime or in eager torch."""
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
        "objectives": {"accuracy": "max", LATENCY: "min", EAGER: "min"},
        "constraints": {"accuracy": {"max_drop": max(DROPS)}},
        "pareto_size": trials,
        "proposer": "random",
        "n_samples": trials,
        "n_parallel": 1,  # nothing beside what is timed
        "random_seed": seed,
        "runtime_args": {"env": {"PYTHONPATH": str(ROOT)}},
        "target": target.to_json(),
    }
    return rc.launch(experiment, quiet=True)


def winner(record: SearchRecord, drop: float, latency: str) -> TrialRecord | None:
    """Return the fastest trial by a latency whose accuracy is at most `drop` below the dense model's."""
    assert record.baseline is not None, "a constraint by a loss measures the dense model"
    least = record.baseline.values["accuracy"] - drop
    accurate = [trial for trial in record.front if trial.values["accuracy"] >= least]
    return min(accurate, key=lambda trial: trial.after[latency] / trial.before[latency], default=None)


def compared(network: str, seed: int, target: DeploymentTarget, trials: int) -> list[dict[str, Any]]:
    """Return, for each loss that is allowed, how fast the winners of both searches are in the runtime."""
    example = Example.from_dummy(torch.rand(1, 1, 8, 8))
    rows = []
    with tempfile.TemporaryDirectory(prefix="raycompress-") as folder, Deployment(target, example) as deployment:
        record = search(network, seed, target, trials, Path(folder))
        for drop in DROPS:
            eager, fast = (winner(record, drop, latency) for latency in (EAGER, LATENCY))
            row = {"network": network, "seed": seed, "runtime": target.name, "drop": drop}
            if eager is not None and fast is not None:
                row |= timed(deployment, network, record, {"eager": eager, "target": fast})
            rows.append(row)
    return rows


def timed(deployment: Deployment, network: str, record: SearchRecord, won: Mapping[str, TrialRecord]) -> dict[str, Any]:
    """Return the latencies of both winners in the runtime, in CPU milliseconds, and the target's over the eager's."""
    deployed, found = {}, dict[str, Any]()
    for name, trial in won.items():
        model = rc.load(record.folder.fetch_candidate(trial.number), NETWORKS[network]()).eval()
        deployed[name] = deployment.deploy(model, f"{name}-{trial.number}")
        found |= {f"{name}_trial": trial.number, f"{name}_accuracy": trial.values["accuracy"]}
        found[f"{name}_flops"] = trial.after["flops"]
    if found["eager_trial"] == found["target_trial"]:
        return {**found, "ratio": 1.0}
    ratios = []
    for order in (list(deployed), list(deployed)[::-1]):
        latencies = deployment.latencies([deployed[name] for name in order], most=1000, seconds=8.0)
        by_name = {name: latency.cpu_ms for name, latency in zip(order, latencies, strict=True)}
        ratios.append(by_name["target"] / by_name["eager"])
        found |= {f"{name}_cpu_ms": value for name, value in by_name.items()}
    return {**found, "ratio": statistics.geometric_mean(ratios)}


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
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--lines", type=Path, required=True, help="JSON lines, which are added to")
    asked = parser.parse_args()
    target = DeploymentTarget(asked.runtime, python=asked.python)
    rows = []
    for seed in asked.seeds:
        rows += compared(asked.network, seed, target, asked.trials)
        with asked.lines.open("a") as file:
            for row in rows[-len(DROPS) :]:
                print(json.dumps(row), file=file)
                print(json.dumps(row), flush=True)
    for drop in DROPS:
        ratios = [row["ratio"] for row in rows if row["drop"] == drop and "ratio" in row]
        if len(ratios) > 1:
            print(f"{drop:g} lost: ratio of latencies over {len(ratios)} seeds, 95 % interval:", interval(ratios))
    means = [statistics.fmean(ratios) for seed in asked.seeds if (ratios := ratios_of(rows, seed))]
    if len(means) > 1:
        print("mean over the losses, 95 % interval:", interval(means))


def ratios_of(rows: Sequence[Mapping[str, Any]], seed: int) -> list[float]:
    """Return the ratios of one seed."""
    return [row["ratio"] for row in rows if row["seed"] == seed and "ratio" in row]


if __name__ == "__main__":
    main()
