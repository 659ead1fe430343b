"""Torch-Pruning's methods against NNI's, where channels are tied: equal multiply-adds, equal fine-tuning."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from typing import Any

import torch

from tests.benchmarks.compression.networks import ResNet
from tests.benchmarks.compression.pruned import DUMMY, Digits, compressor, sparsity_for
from tests.benchmarks.outcome import Outcome, Target

PEER = "l1_filter"
SEEING = ("group_wanda", "group_flap", "group_fisher", "group_obs")
NAMES = (
    *("group_l1", "group_l2", "group_taylor", "group_fpgm", "group_lamp", "group_hessian", "bn_scale", "random"),
    *SEEING,
)
FLOPS = 0.25
NOISE = 0.005
PRETRAINING, FINE_TUNING = 20, 6
_ARGUMENTS: dict[str, dict[str, Any]] = {
    PEER: {"dependency_aware": True},
    **{name: {"round_to": 1} for name in NAMES},
}


def measure(seeds: int, say: Callable[[str], None]) -> Outcome:
    """Prune one network a seed by every method, and fine-tune each copy alike."""
    torch.set_num_threads(1)
    accuracies: dict[str, list[float]] = {name: [] for name in ("dense", PEER, *NAMES)}
    left: dict[str, list[float]] = {name: [] for name in (PEER, *NAMES)}
    for seed in range(seeds):
        torch.manual_seed(seed)
        data, dense = Digits(seed), ResNet(16)
        data.train(dense, PRETRAINING, torch.optim.Adam(dense.parameters(), lr=2e-3), seed)
        accuracies["dense"].append(data.accuracy(dense))
        # groups lose the same share whatever ranks their channels, so one search does for all of Torch-Pruning's
        shares = {name: sparsity_for(dense, name, FLOPS, **_ARGUMENTS[name]) for name in (PEER, NAMES[0])}
        for name in (PEER, *NAMES):
            accuracy, flops = _pruned(dense, data, name, shares.get(name, shares[NAMES[0]]), seed)
            accuracies[name].append(accuracy)
            left[name].append(flops)
        say(f"seed {seed} done")
    return _outcome(accuracies, left)


def _pruned(dense: ResNet, data: Digits, name: str, sparsity: float, seed: int) -> tuple[float, float]:
    """Return accuracy and share of multiply-adds of a pruned and fine-tuned copy."""
    model = copy.deepcopy(dense)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    seen = {"calibration": data.sample(128)} if name in SEEING else {}
    found = compressor(model, name, sparsity, optimizer=optimizer, **_ARGUMENTS[name], **seen)
    before, _, _ = found.count_flops_params(DUMMY)
    found.compress()
    data.train(model, FINE_TUNING, optimizer, seed)
    found.apply_speedup()
    after, _, _ = found.count_flops_params(DUMMY)
    return data.accuracy(model), after / before


def _outcome(accuracies: dict[str, list[float]], left: dict[str, list[float]]) -> Outcome:
    means = {name: statistics.mean(values) for name, values in accuracies.items()}
    rows = [
        [
            f"{name}, dependency-aware" if name == PEER else name,
            f"{statistics.mean(left[name]):.3f}" if name in left else "1",
            *(f"{value:.4f}" for value in values),
            f"{means[name]:.4f}",
        ]
        for name, values in accuracies.items()
    ]
    return Outcome(
        f"Tied channels: accuracy of a ResNet at {FLOPS:g} of its multiply-adds, {FINE_TUNING} epochs of fine-tuning",
        ["method", "FLOPs left", *(f"seed {seed}" for seed in range(len(accuracies["dense"]))), "mean"],
        rows,
        targets=[
            Target(f"{name}: accuracy lost against {PEER}", means[PEER] - means[name], NOISE, least=-1.0)
            for name in NAMES
            if name != "random"
        ],
        notes=[f"random is there to be beaten; {NOISE:g} is about one standard error of a mean"],
        raw={"accuracy": accuracies, "flops": left},
    )
