"""Which latencies in deployment targets are predicted before a search, and what a user should know of how they are."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from raycompress.config.experiment import Experiment
from raycompress.config.objective import DenseLatency
from raycompress.model.info import ModelInfo
from raycompress.model.latency_model import LatencyModel
from raycompress.model.latency_table import LATENCY, Clock
from raycompress.model.measures import EAGER, at, measure_of, target_of

_TIMING_S = 60.0
"""The most seconds that networks are timed in a deployment target, to predict those that are proposed."""

Fits = Sequence[LatencyModel] | None
"""What an earlier run of a search has fitted in deployment targets; None before its first run."""


def predicted_in(experiment: Experiment, measures: Collection[str] = (LATENCY, "size_bytes")) -> list[str]:
    """Return the targets, eager torch among them, in which what a model costs decides which ones are proposed.

    There is none where the last stage quantizes: networks that are timed are in float.

    Parameters
    ----------
    measures
        The costs that are meant.
    """
    if not experiment.targets or experiment.ends_quantized:
        return []
    objective = experiment.objective
    asked = [bound.metric for bound in objective.bounds if bound.is_ceiling]
    if experiment.proposer == "guided":
        asked = list(objective.metrics)
    costs = [metric for metric in asked if measure_of(metric) in measures]
    return list(dict.fromkeys(target_of(metric) or experiment.targets[0].name for metric in costs))


def timed_in(experiment: Experiment) -> list[str]:
    """Return the targets in which the dense model alone is timed: those whose latency counts and is not predicted."""
    if not experiment.targets:
        return []
    first, left_out = experiment.targets[0].name, [EAGER, *predicted_in(experiment)]
    asked = [target_of(metric) or first for metric in experiment.objective.metrics if measure_of(metric) == LATENCY]
    return [name for name in dict.fromkeys(asked) if name not in left_out]


def budget_s(experiment: Experiment) -> float:
    """Return how many seconds networks are timed in a target: no more than the search itself is worth."""
    return min(_TIMING_S, 2.0 * (experiment.n_samples or math.inf))


def known_fits(experiment: Experiment, fits: Fits, others: Iterable[ModelInfo]) -> Sequence[LatencyModel]:
    """Return `fits`; without them those of `others`, the newest first, that had as much time as these would have."""
    if fits is not None or not predicted_in(experiment):
        return fits or ()
    found = [one for model in others for one in model.latency_models]
    distinct = {one.identity: one for one in reversed(found) if one.budget_s >= budget_s(experiment)}
    return list(distinct.values())


def without_eager(experiment: Experiment, model: ModelInfo) -> ModelInfo:
    """Return a model without what was measured in eager torch here, of trials that run on another kind of device."""
    there = {name: one for name, one in model.latency_in.items() if name != EAGER}
    return replace(model, latency=model.latency if experiment.targets else None, latency_in=there)


def with_latency(experiment: Experiment, model: ModelInfo | None) -> Experiment:
    """Return the experiment with the dense model's latencies, which trials' own are told by."""
    if model is None:
        return experiment
    first = next((target.name for target in experiment.targets), EAGER)
    clocks: dict[str, Clock] = {one.name: "cpu_ms" if one.is_one_thread else LATENCY for one in experiment.targets}
    predicted = {first: model.latency, **model.latency_in}
    times = {name: known.dense_ms[LATENCY] for name, known in predicted.items() if known is not None}
    found: list[DenseLatency] = []
    for name, ms in {**model.dense_ms, **times}.items():
        clock = clocks.get(name, LATENCY)
        found += [DenseLatency(LATENCY, ms, clock)] if name == first else []
        found += [DenseLatency(at(LATENCY, name), ms, clock)] if experiment.targets else []
    return replace(experiment, objective=replace(experiment.objective, dense=tuple(found)))


def notes_on(
    experiment: Experiment, model: ModelInfo | None, fits: Sequence[LatencyModel], *, is_again: bool
) -> Iterator[str]:
    """Yield what the networks that were timed, or written to files, tell, or why there are none.

    Parameters
    ----------
    fits, is_again
        What was known before, and whether this very search had fitted it.
    """
    if model is None:
        return
    if model.file_bytes_unknown:
        yield f"bytes cannot be predicted before training, and are measured in each trial: {model.file_bytes_unknown}"
    if model.file_bytes is not None:
        yield f"bytes of a quantized file are predicted to {model.file_bytes.error:.1%}, by files of this network"
    if model.latency_unknown:
        yield f"latencies cannot be predicted before training, and are measured in each trial: {model.latency_unknown}"
    for known in model.latency_models:
        note = known.note + _on_steps(experiment, known)
        if known in fits:
            note += "; they were timed by an earlier run, and not again"
        elif is_again and known.target in [one.target for one in fits]:
            note += "; they were timed again: the runtime, the machine or the network is another than before"
        yield note


def _on_steps(experiment: Experiment, known: LatencyModel) -> str:
    """Return what is to be known of ``round_to`` where a runtime is faster at some multiples; empty otherwise."""
    compression = experiment.compression
    argument = compression.entry.argument("round_to")
    round_to = None if argument is None else compression.arguments.get("round_to", argument.default)
    if not known.is_stepped or not isinstance(round_to, int):
        return ""
    is_chosen = "round_to" in compression.arguments and not experiment.is_written(
        ("compression", "arguments", "round_to")
    )
    if is_chosen:
        return f'; "round_to" is {round_to} here, where the file leaves it open'
    return f'; "round_to": {known.multiple} keeps to those' if round_to % known.multiple else ""
