"""Searches through the command line, on three networks: whether budgets hold, and how good the fronts are."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raycompress.results.record import SearchRecord
from raycompress.states import TrialState
from tests.benchmarks import ROOT
from tests.benchmarks.outcome import Outcome, Target
from tests.benchmarks.processes import CommandFailed

NETWORKS = {"resnet": "ResNet", "mobilenet": "MobileNet", "vit": "Vit"}
GUIDED, RANDOM = 16, 64
BUDGET = 0.4
CHANCE = 0.1
_TRAINED = 1000
"""The images to train on; the others are held out."""
_COMMAND = str(Path(sys.executable).with_name("raycompress"))
_SCRIPT = """
import sys

sys.path[:0] = [{root!r}]

from tests.support.models import networks
import torch
from torch.nn import functional as F

import raycompress as rc


@rc.experiment
def main(config):
    torch.manual_seed({seed})
    images, labels = networks.digits()
    train, held_out = (images[:1000], labels[:1000]), (images[1000:], labels[1000:])
    model = networks.{name}()
    model.load_state_dict(torch.load({weights!r}, weights_only=True))

    def accuracy(model):
        with torch.no_grad():
            return float((model.eval()(held_out[0]).argmax(1) == held_out[1]).float().mean())

    compressor = rc.create_compressor(
        model, config, dummy_input=images[:1], evaluator=accuracy, calibration=train[0].split(64)
    )
    model = compressor.compress()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(2):
        for batch in torch.randperm(1000).split(32):
            model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(train[0][batch]), train[1][batch]).backward()
            optimizer.step()
    model = compressor.apply_speedup()
    rc.report(accuracy=accuracy(model))
    rc.save_model(compressor.export_model, model_path="model.pth", mask_path="mask.pth")


main()
"""


def measure(seeds: int, say: Callable[[str], None], networks: Sequence[str] = tuple(NETWORKS)) -> Outcome:
    """Launch a budgeted search and two fronts for each network and seed."""
    rows, raw, targets = [], {}, []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        for network in networks:
            found = [_one(Path(name), network, seed, say) for seed in range(seeds)]
            raw[network] = found
            rows.append(
                [
                    network,
                    f"{sum(one['trained'] for one in found)}",
                    f"{sum(one['infeasible'] for one in found)}",
                    f"{sum(one['failed'] for one in found)}",
                    f"{max(one['error'] for one in found):.2%}",
                    _mean_of(found, "guided"),
                    _mean_of(found, "random 16"),
                    _mean_of(found, "random 64"),
                ]
            )
            lost = statistics.mean(one["random 64"] - one["guided"] for one in found)
            targets += [
                Target(f"{network}: infeasible models trained", sum(one["infeasible"] for one in found), 0),
                Target(f"{network}: FLOPs foretold and measured differ by", max(one["error"] for one in found), 0.01),
                Target(f"{network}: hypervolume lost against random {RANDOM}", lost, 0, least=-1.0),
            ]
    return Outcome(
        f"Searches by the command line, {seeds} seeds: budgets, and fronts of accuracy and multiply-adds",
        [
            "network",
            "trained",
            "infeasible",
            "failed",
            "FLOPs off by",
            f"guided {GUIDED}",
            "random 16",
            f"random {RANDOM}",
        ],
        rows,
        targets=targets,
        notes=["the last three columns: hypervolume over chance and the dense model, 1 at most, mean and deviation"],
        raw=raw,
    )


def hypervolume(points: Sequence[tuple[float, float]]) -> float:
    """Return the share of the rectangle, from chance and the dense model's cost to 1 and 0, that a front dominates.

    Parameters
    ----------
    points
        (accuracy, share of the dense model's multiply-adds).
    """
    volume, below = 0.0, 1.0
    for accuracy, cost in sorted(points, reverse=True):
        if accuracy > CHANCE and cost < below:
            volume += (below - cost) * (accuracy - CHANCE) / (1 - CHANCE)
            below = cost
    return volume


def _one(home: Path, network: str, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    folder = home / f"{network}-{seed}"
    folder.mkdir()
    _write_script(folder, network, seed)
    budgeted = _launch(
        folder, "budget", {"objectives": {"accuracy": "max"}, "constraints": {"flops": {"max_ratio": BUDGET}}}, seed
    )
    objectives = {"objectives": {"accuracy": "max", "flops": "min"}, "pareto_size": RANDOM}
    guided = _launch(folder, "guided", objectives, seed)
    drawn = _launch(folder, "random", {**objectives, "proposer": "random", "n_samples": RANDOM}, seed)
    trained = [trial for trial in budgeted.searched if trial.state is TrialState.FINISHED]
    errors = [
        abs(trial.predicted["flops"] - trial.after["flops"]) / trial.after["flops"]
        for record in (budgeted, guided)
        for trial in record.searched
        if trial.predicted and trial.after
    ]
    one = {
        "trained": len(trained),
        "infeasible": sum(not budgeted.is_feasible(trial) for trial in trained),
        "error": max(errors),
        "guided": hypervolume(_points(guided, GUIDED)),
        "random 16": hypervolume(_points(drawn, GUIDED)),
        "random 64": hypervolume(_points(drawn, RANDOM)),
        "failed": sum(trial.state.is_failure for record in (budgeted, guided, drawn) for trial in record.searched),
    }
    say(f"{network}, seed {seed}: {one}")
    return one


def _points(record: SearchRecord, first: int) -> list[tuple[float, float]]:
    """Return the results of the first trials of a search."""
    return [
        (trial.values["accuracy"], trial.after["flops"] / trial.before["flops"])
        for trial in record.searched
        if trial.number <= first and trial.values and trial.after and trial.before
    ]


def _mean_of(found: Sequence[dict[str, Any]], name: str) -> str:
    values = [one[name] for one in found]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.4f} ± {deviation:.4f}"


def _write_script(folder: Path, network: str, seed: int) -> None:
    import torch

    sys.path.insert(0, str(ROOT))
    from tests.support.models import networks

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = getattr(networks, NETWORKS[network])()
    images, labels = networks.digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(40):
        for batch in torch.randperm(_TRAINED).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    torch.save(model.state_dict(), folder / "dense.pth")
    text = _SCRIPT.format(
        root=str(ROOT),
        seed=seed,
        name=NETWORKS[network],
        weights=str(folder / "dense.pth"),
    )
    (folder / "train.py").write_text(text)


def _launch(folder: Path, name: str, keys: dict[str, Any], seed: int) -> SearchRecord:
    experiment = {
        "name": name,
        "script": "train.py",
        "compression": {
            "framework": "torch",
            "type": "pruning",
            "compressor": "group_l1",
            "config_list": [
                {
                    "sparsity": {"type": "float", "range": [0.0, 0.9]},
                    "op_types": ["Conv2d", "Linear"],
                    "expand_op_names": "dependency",
                },
                {"exclude": True, "op_names": ["head" if "vit" in folder.name else "fc"]},
            ],
            "arguments": {"round_to": 1},
        },
        "proposer": "guided",
        "n_samples": GUIDED,
        "n_parallel": 2,
        "random_seed": seed,
        "job_failure": {"ignore_fail": True},  # counted
        "storage": f"results-{name}",
        **keys,
    }
    (folder / f"{name}.json").write_text(json.dumps(experiment, indent=1))
    done = subprocess.run(
        [_COMMAND, "launch", f"{name}.json"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
    )
    if done.returncode:
        raise CommandFailed(f"{name} of {folder.name}: {done.stderr[-2000:]}")
    return SearchRecord.open(next((folder / f"results-{name}").iterdir()))
