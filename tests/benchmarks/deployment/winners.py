"""Whether a search that measures in a runtime finds models that are faster there than those of an eager search.

``python -m tests.benchmarks.deployment.winners --lines FILE``. Two searches with the same seed and random proposals try
the same candidates, and differ in the latency that they choose by. So one search has accuracy and both latencies as
goals. For a loss of accuracy that is allowed, the winner of the eager search is the candidate that is fastest in eager
torch, that of the target's search the one that is fastest in the runtime; and, at equal accuracy, the one that is so of
those at least as accurate as the eager search's winner. All are timed once more in the runtime, in turn and in both
orders. Candidates are compensated and not trained, so that accuracy follows from the widths, not from
the chance of training.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
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
from raycompress.results.trial import TrialRecord
from tests.benchmarks import ROOT
from tests.benchmarks.deployment.won import NETWORKS

LATENCY, EAGER = "latency_ms", "latency_ms@eager"
DROPS = (0.05, 0.1)
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


def fastest(record: SearchRecord, least: float, latency: str) -> TrialRecord | None:
    """Return the fastest trial by a latency of those that are at least so accurate."""
    accurate = [trial for trial in record.front if trial.values["accuracy"] >= least]
    return min(accurate, key=lambda trial: trial.after[latency] / trial.before[latency], default=None)


def compared(network: str, seed: int, target: DeploymentTarget, trials: int) -> list[dict[str, Any]]:
    """Return, for each loss that is allowed, how fast the winners of both searches are in the runtime."""
    example = Example.from_dummy(torch.rand(1, 1, 8, 8))
    rows = []
    with tempfile.TemporaryDirectory(prefix="raycompress-") as folder, Deployment(target, example) as deployment:
        record = search(network, seed, target, trials, Path(folder))
        assert record.baseline is not None, "a constraint by a loss measures the dense model"
        for drop in DROPS:
            least = record.baseline.values["accuracy"] - drop
            row: dict[str, Any] = {"network": network, "seed": seed, "runtime": target.name, "drop": drop}
            eager = fastest(record, least, EAGER)
            if eager is not None:
                others = {"ratio": least, "equal": eager.values["accuracy"]}
                for name, floor in others.items():
                    other = fastest(record, floor, LATENCY)
                    assert other is not None, "the eager search's winner at least"
                    row |= {f"{name}_accuracy": other.values["accuracy"], f"{name}_trial": other.number}
                    row[name] = ratio(deployment, network, record, eager, other)
                row |= {"eager_accuracy": eager.values["accuracy"], "eager_trial": eager.number}
            rows.append(row)
    return rows


def ratio(deployment: Deployment, network: str, record: SearchRecord, eager: TrialRecord, other: TrialRecord) -> float:
    """Return the latency of one trial's model in the runtime over that of the eager search's winner."""
    if eager.number == other.number:
        return 1.0
    deployed = []
    for trial in (eager, other):
        model = rc.load(record.folder.fetch_candidate(trial.number), NETWORKS[network]()).eval()
        deployed.append(deployment.deploy(model, f"{trial.number}"))
    there, back = (
        [one.cpu_ms for one in deployment.latencies(order, most=1000, seconds=8.0)]
        for order in (deployed, deployed[::-1])
    )
    return math.sqrt(there[1] / there[0] * back[0] / back[1])


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
    for drop, name in itertools.product(DROPS, ("ratio", "equal")):
        found = [row[name] for row in rows if row["drop"] == drop and name in row]
        if len(found) > 1:
            print(f"{drop:g} lost, {name}: over {len(found)} seeds, 95 % interval:", interval(found))


if __name__ == "__main__":
    main()
