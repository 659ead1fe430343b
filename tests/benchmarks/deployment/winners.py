"""Whether a search that measures in a runtime finds models that are faster there than those of an eager search.

``python -m tests.benchmarks.deployment.winners``. Two guided searches of one experiment file, over the widths of all
layers and over residual blocks, for the fastest model that loses so much accuracy at most. They differ in the key
``"target"`` alone: one measures in eager torch, and the other in the runtime. The models of all their trials are made
again, with other weights, and timed in the runtime in turn. Compared are the winners; and, since these differ in
accuracy as far as the constraint allows, the fastest models of both searches, each by its own latency, of those that
are at least so accurate, over all levels from the constraint to the best accuracy that both have reached.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t
from torch import nn

import raycompress as rc
from raycompress.bundle.example import Example
from raycompress.compressors.deploying.deploy import Deployment
from raycompress.deployment.target import DeploymentTarget
from raycompress.results.folder import ExperimentFolder
from raycompress.results.record import SearchRecord
from raycompress.results.trial import TrialRecord
from raycompress.script.config import DEPTH_KEY
from tests.benchmarks import ROOT
from tests.benchmarks.deployment.won import Network

LATENCY = "latency_ms"
LEVELS = 50
"""Of accuracy, at which both searches are compared."""
COMPARED = {"ratio": "{:.2f}", "levels": "{:.2f}", "gain": "{:+.3f}"}
"""What is compared -> its format: the winners' times; times at all levels, and how much more accurate models are."""

Row = dict[str, Any]


def search(seed: int, target: DeploymentTarget | None, drop: float, trials: int, folder: Path) -> SearchRecord:
    """Search for the fastest model that loses `drop` at most, in the runtime or, without a target, in eager torch."""
    entry = {
        "sparsity": {"type": "float", "range": [0.0, 0.85]},
        "op_types": ["Conv2d"],
        "expand_op_names": "dependency",
    }
    experiment: dict[str, Any] = {
        "name": "eager" if target is None else target.name,
        "script": f"{Path(__file__).with_name('won.py')} {seed}",
        "workingdir": str(ROOT),
        "storage": str(folder),
        "compression": {
            **{"framework": "torch", "type": "pruning", "compressor": "group_l1", "config_list": [entry]},
            **{"arguments": {}, "depth": {"blocks": "auto"}},
        },
        "objectives": {LATENCY: "min"},
        "constraints": {"accuracy": {"max_drop": drop}},
        "proposer": "guided",
        "n_samples": trials,
        "n_parallel": 1,  # nothing beside what is timed
        "random_seed": seed,
        "runtime_args": {"env": {"PYTHONPATH": str(ROOT)}},
        **({} if target is None else {"target": target.to_json()}),
    }
    known = [SearchRecord(ExperimentFolder(root)) for root in folder.glob(f"{experiment['name']}-*")]
    complete = [record for record in known if record.finished == "complete"]
    return complete[0] if complete else rc.launch(experiment, quiet=True)


def compared(seed: int, target: DeploymentTarget, drop: float, trials: int, folder: Path) -> Row:
    """Return how fast the winners of both searches are in the runtime; see the module.

    Parameters
    ----------
    folder
        Where the searches are; one that has ended there is not run again.
    """
    eager = search(seed, None, drop, trials, folder)
    there = search(seed, target, drop, trials, folder)
    assert eager.best_number is not None and there.best_number is not None, "no model keeps to the constraint"
    first, second = eager.records[eager.best_number], there.records[there.best_number]
    ms = timed(target, {"eager": ended(eager), "target": ended(there)})
    row: Row = {"seed": seed, "runtime": target.name, "drop": drop, "trials": trials}
    for name, trial in (("eager", first), ("target", second)):
        row |= {f"{name}_{key}": value for key, value in about(trial).items()}
        row[f"{name}_of_dense"] = ms[name, trial.number] / ms["dense", 0]
    row["ratio"] = row["target_of_dense"] / row["eager_of_dense"]
    assert eager.baseline is not None and eager.baseline.values is not None, "a constraint by a loss measures it"
    floor = eager.baseline.values["accuracy"] - drop
    pairs = list(zip(at_levels(there, eager, floor), at_levels(eager, there, floor), strict=True))
    logs = [math.log(ms["target", one.number] / ms["eager", other.number]) for one, other in pairs]
    row["levels"] = math.exp(statistics.fmean(logs))
    row["gain"] = statistics.fmean(accuracy(one) - accuracy(other) for one, other in pairs)
    return row


def ended(record: SearchRecord) -> list[TrialRecord]:
    """Return the trials of a search that have a result and a model."""
    return [one for one in record.searched if one.values and one.before and one.after]


def at_levels(record: SearchRecord, other: SearchRecord, floor: float) -> list[TrialRecord]:
    """Return the fastest trial of `record`, as it measures, of those that are at least so accurate, for each level.

    The levels lie evenly between `floor` and the best accuracy that both searches have reached.
    """
    trials, others = ended(record), ended(other)
    top = min(max(accuracy(one) for one in each) for each in (trials, others))
    levels = [floor + (top - floor) * (place + 0.5) / LEVELS for place in range(LEVELS)]
    return [min((one for one in trials if accuracy(one) >= level), key=latency) for level in levels]


def accuracy(trial: TrialRecord) -> float:
    """Return what a trial has reported."""
    assert trial.values is not None
    return trial.values["accuracy"]


def latency(trial: TrialRecord) -> float:
    """Return what is left of the dense model's latency, as the trial has measured it."""
    return share(trial, LATENCY)


def share(trial: TrialRecord, metric: str) -> float:
    """Return what is left of the dense model's."""
    assert trial.before is not None and trial.after is not None, "it has ended, and was measured"
    return trial.after[metric] / trial.before[metric]


def about(trial: TrialRecord) -> Row:
    """Return what a table has of a trial."""
    blocks = sum(value for name, value in trial.sample.items() if name.endswith(".keep"))
    return {"accuracy": accuracy(trial), "flops": share(trial, "flops"), "blocks": blocks}


def timed(target: DeploymentTarget, searches: Mapping[str, Sequence[TrialRecord]]) -> dict[tuple[str, int], float]:
    """Return (search, trial) -> milliseconds of CPU time of its model in the runtime; ("dense", 0) is the dense one."""
    with Deployment(target, Example.from_dummy(torch.rand(1, 1, 8, 8))) as deployment:
        deployed = {("dense", 0): deployment.deploy_unproved(Network().eval(), "dense")}
        for name, trials in searches.items():
            for trial in trials:
                deployed[name, trial.number] = deployment.deploy_unproved(remade(trial), f"{name}{trial.number}")
        times = deployment.latencies(list(deployed.values()), most=1000, seconds=60.0)
    return {key: one.cpu_ms for key, one in zip(deployed, times, strict=True)}


def remade(trial: TrialRecord) -> nn.Module:
    """Return a model of the widths and blocks of a trial's."""
    keys = ("compressor", "config_list", "arguments", DEPTH_KEY)
    model = Network().eval()
    compressor = rc.create_compressor(
        model, {key: trial.config[key] for key in keys if key in trial.config}, dummy_input=torch.rand(1, 1, 8, 8)
    )
    compressor.compress()
    small: nn.Module = compressor.apply_speedup()
    return small.eval()


def interval(values: list[float]) -> tuple[float, float, float]:
    """Return the mean and the ends of its 95 % interval, by Student's distribution."""
    mean = statistics.fmean(values)
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def table(rows: list[Row]) -> list[str]:
    """Return a table of the page, with the means and their intervals as its last row where there are several seeds."""
    lines = [
        "| seed | eager search: accuracy | FLOPs left | blocks | time | with the target: accuracy | FLOPs left "
        "| blocks | time | of the eager winner's | at all levels | more accurate there |",
        "|---|" + "---:|" * 11,
    ]
    for row in rows:
        cells = [str(row["seed"])]
        for name in ("eager", "target"):
            accuracy, left, blocks = (row[f"{name}_{key}"] for key in ("accuracy", "flops", "blocks"))
            cells += [f"{accuracy:.3f}", f"{left:.2f}", str(blocks), f"{row[f'{name}_of_dense']:.2f}"]
        lines.append(f"| {' | '.join([*cells, *(shown.format(row[key]) for key, shown in COMPARED.items())])} |")
    if len(rows) > 1:
        means = [
            f"{shown.format(mean)}, {shown.format(low)} to {shown.format(high)}"
            for key, shown in COMPARED.items()
            for mean, low, high in [interval([row[key] for row in rows])]
        ]
        lines.append(f"| mean, 95 % interval |{' |' * 8} {' | '.join(means)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--python", default="")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--drop", type=float, default=0.03)
    parser.add_argument("--folder", type=Path, default=ROOT / "bench_results" / "winners", help="of the searches")
    asked = parser.parse_args()
    target = DeploymentTarget(asked.runtime, python=asked.python)
    rows = []
    for seed in asked.seeds:
        rows.append(
            compared(seed, target, asked.drop, asked.trials, asked.folder / f"{seed}-{asked.drop:g}-{asked.trials}")
        )
        print(json.dumps(rows[-1]), flush=True)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
