"""Compensation: accuracy of pruned networks with layers refitted and without, and by which channels were chosen."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from raycompress import create_compressor
from raycompress.bundle.example import Example
from raycompress.compressors.analysis.statistics import recompute_statistics
from tests.benchmarks.budgets.subject import Subject
from tests.benchmarks.compression.networks import OUTPUTS
from tests.benchmarks.outcome import Outcome, Target

BUDGETS = (0.5, 0.25)
WAYS = ("as pruned", "statistics alone", "compensated")
NOISE = 0.01
CHOICES = ("group_l1", "group_wanda", "group_flap", "group_fisher", "group_obs")
WHEN = ("untrained", "after an epoch", "after six")


def measure(seeds: int, say: Callable[[str], None], networks: Sequence[str]) -> Outcome:
    """Prune a network of each kind and seed uniformly to each budget, in each way."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {}
    for network in networks:
        for seed in range(seeds):
            subject = Subject(network, seed)
            # what compress() imports and finds out of a network once is no part of the seconds
            _pruned(subject, BUDGETS[0], list(subject.task.sample(128).split(64)), compensate=True)
            dense = subject.task.accuracy(subject.dense, subject.task.held_out)
            for budget in BUDGETS:
                figures = found.setdefault(f"{network} {budget:g}", {})
                one = {"dense": dense, **_ways(subject, budget)}
                for name, value in one.items():
                    figures.setdefault(name, []).append(value)
                say(f"{network}, seed {seed}, {budget:g}: " + ", ".join(f"{name} {one[name]:.3f}" for name in one))
    return _outcome(found)


def measure_choices(seeds: int, say: Callable[[str], None], networks: Sequence[str]) -> Outcome:
    """Prune a network of each kind and seed uniformly to each budget by each importance, compensated, and train it."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {}
    for network in networks:
        for seed in range(seeds):
            subject = Subject(network, seed)
            seen = list(subject.task.sample(subject.CALIBRATION).split(64))
            for budget, choice in itertools.product(BUDGETS, CHOICES):
                started = time.thread_time()
                model = _pruned(subject, budget, seen, compensate=True, choice=choice)
                seconds, trained = time.thread_time() - started, subject.finish(model)
                accuracies = (trained.before, trained.one_epoch, trained.accuracy)
                for when, accuracy in zip(WHEN, accuracies, strict=True):
                    found.setdefault(f"{network} {budget:g}, {when}", {}).setdefault(choice, []).append(accuracy)
                figures = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
                say(f"{network}, seed {seed}, {budget:g}, {choice}: {figures}; {seconds:.2f} s of pruning")
    return Outcome(
        "Compensation: accuracy of uniformly pruned networks by what chose the channels, mean and standard error",
        ["network, FLOPs", *CHOICES],
        [[place, *(_spread(figures[choice]) for choice in CHOICES)] for place, figures in found.items()],
        targets=[
            Target(
                f"{place}: accuracy lost by group_obs against group_l1",
                statistics.mean(figures["group_l1"]) - statistics.mean(figures["group_obs"]),
                0.0 if place.endswith(WHEN[0]) else NOISE,
                least=-1.0,
            )
            for place, figures in found.items()
        ],
        notes=["each importance sees as many inputs as compensation, none of them labels"],
        raw=dict(found),
    )


def _ways(subject: Subject, budget: float) -> dict[str, float]:
    """Return the accuracy of each way, right away and after an epoch, and the seconds of compress() beyond pruning."""
    seen = subject.task.sample(subject.CALIBRATION).split(64)
    models, seconds = {}, {}
    for way in WAYS:
        started = time.thread_time()
        models[way] = _pruned(subject, budget, list(seen), compensate=way == WAYS[2])
        seconds[way] = time.thread_time() - started
        if way == WAYS[1]:
            recompute_statistics(models[way], [Example((inputs,), {}) for inputs in seen])
    figures = {way: subject.task.accuracy(model, subject.task.held_out) for way, model in models.items()}
    for way, model in models.items():
        subject.task.train(model, 1, subject.seed)
        figures[f"{way}, an epoch"] = subject.task.accuracy(model, subject.task.held_out)
    return {**figures, "seconds": seconds[WAYS[2]] - seconds[WAYS[0]]}


def _pruned(
    subject: Subject, budget: float, seen: list[torch.Tensor], *, compensate: bool, choice: str = CHOICES[0]
) -> nn.Module:
    """Return a copy of the dense model, pruned to a budget with one share for all groups, and sliced."""
    sample = subject.project({one.name: 0.5 for one in subject.dimensions}, budget)
    counts = subject.counts(sample)
    entries: list[dict[str, Any]] = [
        {"op_names": list(target.layers), "sparsity": (count + 0.5) / target.group.size}
        for target, count in zip(subject.groups, counts, strict=True)
    ]
    entries.append({"op_names": [OUTPUTS[subject.network]], "exclude": True})
    arguments: dict[str, Any] = {"round_to": 1, "compensate": compensate}
    if choice != CHOICES[0]:
        arguments["samples"] = subject.CALIBRATION
    config = {"compressor": choice, "config_list": entries, "arguments": arguments}
    model = subject.copy()
    compressor = create_compressor(model, config, dummy_input=subject.task.dummy, calibration=seen)
    compressor.compress()
    compressor.apply_speedup()
    assert subject.counts_of(model) == counts
    return model.eval()


def _outcome(found: dict[str, dict[str, list[float]]]) -> Outcome:
    columns = ["dense", *WAYS, *(f"{way}, an epoch" for way in WAYS)]
    rows = [
        [place, *(_spread(figures[name]) for name in columns), f"{statistics.mean(figures['seconds']):.1f}"]
        for place, figures in found.items()
    ]
    return Outcome(
        "Compensation: accuracy of uniformly pruned networks, mean and standard error",
        ["network, FLOPs", *columns, "more s"],
        rows,
        targets=[
            Target(
                f"{place}: accuracy lost by compensation, before fine-tuning",
                max(statistics.mean(figures[way]) for way in WAYS[:2]) - statistics.mean(figures[WAYS[2]]),
                NOISE,
                least=-1.0,
            )
            for place, figures in found.items()
        ],
        notes=["statistics alone: BatchNorm's, recomputed on the inputs that compensation is given"],
        raw=dict(found),
    )


def _spread(values: Sequence[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ±{error:.3f}"
