"""Distilled against not distilled: small networks on the digits, equal steps, taught by the dense network."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import raycompress as rc
from tests.benchmarks.budgets.subject import Subject
from tests.benchmarks.compression.networks import EPOCHS, NETWORKS, OUTPUTS
from tests.benchmarks.compression.tasks import TASKS, Task
from tests.benchmarks.outcome import Outcome, Target

BUDGETS = (0.5, 0.25)
FEATURES = {
    "resnet": "stages.*.bn2",
    "mobilenet": "features.*",
    "vit": "blocks.*.fc2",
    "resnet56": "stages.*.bn2",
    "bert": "blocks.*.fc2",
}
WAYS: dict[str, Callable[[str], dict[str, Any] | None]] = {
    "labels": lambda network: None,
    "answers": lambda network: {},
    "and features": lambda network: {"features": FEATURES[network]},
    "and attention": lambda network: {"attention": True} if network in ("vit", "bert") else None,
}
"""What the small network learns from -> what `distill` is given, beside the defaults; None for not at all."""
Key = tuple[str, float, str]


def measure(seeds: int, say: Callable[[str], None], networks: Sequence[str] = tuple(NETWORKS)) -> Outcome:
    """Cut each trained network uniformly to each budget, and train what is left in each way, on the same batches."""
    torch.set_num_threads(1)
    found: dict[Key, list[float]] = {}
    for network in networks:
        for seed in range(seeds):
            task, dense = _dense(network, seed)
            found.setdefault((network, 1.0, "dense"), []).append(Task.accuracy(dense, task.held_out))
            for budget in BUDGETS:
                share = _share_for(dense, network, budget, task.dummy)
                for way, given in WAYS.items():
                    settings = given(network)
                    if way != "and attention" or settings is not None:
                        accuracy = _trained(dense, network, share, task, settings, seed)
                        found.setdefault((network, budget, way), []).append(accuracy)
            say(f"{network}, seed {seed} done")
    return _outcome(found, networks)


def _dense(network: str, seed: int) -> tuple[Task, nn.Module]:
    torch.manual_seed(seed)
    task, dense = TASKS[network](seed), NETWORKS[network]()
    task.train(dense, EPOCHS[network], seed)
    return task, dense


def _pruner(model: nn.Module, network: str, share: float, dummy: Tensor) -> Any:
    config_list = [{"sparsity": share, "op_types": ["default"]}, {"op_names": [OUTPUTS[network]], "exclude": True}]
    config = {"compressor": "group_l1", "config_list": config_list, "arguments": {"round_to": 1}}
    return rc.create_compressor(model, config, dummy_input=dummy, teacher=True)


def _share_for(dense: nn.Module, network: str, budget: float, dummy: Tensor) -> float:
    """Return the share of every group that has to go for `budget` of the multiply-adds, by bisection."""
    low, high = 0.0, 0.9
    for _ in range(6):
        middle = (low + high) / 2
        found = _pruner(copy.deepcopy(dense), network, middle, dummy)
        before, _, _ = found.count_flops_params(dummy)
        found.compress()
        found.apply_speedup()
        low, high = (middle, high) if found.count_flops_params(dummy)[0] > budget * before else (low, middle)
    return high


def _trained(
    dense: nn.Module, network: str, share: float, task: Task, given: dict[str, Any] | None, seed: int
) -> float:
    compressor = _pruner(copy.deepcopy(dense), network, share, task.dummy)
    compressor.compress()
    model = compressor.apply_speedup()

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return rc.distill(model, compressor.teacher, batch, F.cross_entropy, **given or {})

    task.train(model, Subject.FINAL, seed, loss=None if given is None else loss)
    return Task.accuracy(model, task.held_out)


def _outcome(found: dict[Key, list[float]], networks: Sequence[str]) -> Outcome:
    rows, targets = [], []
    for network in networks:
        dense = statistics.mean(found[network, 1.0, "dense"])
        for budget in BUDGETS:
            plain = found[network, budget, "labels"]
            cells = [f"{statistics.mean(plain):.3f}"]
            for way in list(WAYS)[1:]:
                values = found.get((network, budget, way))
                cells.append("" if values is None else _beside(values, plain))
            rows.append([f"{network}, {budget:g} of the FLOPs", f"{dense:.3f}", *cells])
            lost = statistics.mean(plain) - statistics.mean(found[network, budget, "answers"])
            targets.append(Target(f"{network}, {budget:g}: accuracy lost by distilling", lost, 0.0, least=-1.0))
    return Outcome(
        f"Distillation: accuracy after {Subject.FINAL} epochs, learnt from labels alone and from the dense network too",
        ["", "dense", *WAYS],
        rows,
        targets=targets,
        notes=["in brackets: the mean of the differences to labels alone, seed by seed, and its standard error"],
        raw={" ".join(map(str, key)): values for key, values in found.items()},
    )


def _beside(values: Sequence[float], plain: Sequence[float]) -> str:
    differences = [one - other for one, other in zip(values, plain, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return f"{statistics.mean(values):.3f} ({statistics.mean(differences):+.3f}, {error:.3f})"
