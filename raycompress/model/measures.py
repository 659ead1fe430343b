"""The names of what is measured of a model, and of the target that it was measured in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MEMORY = "peak_memory_mb"
"""Memory that a runtime plans for one pass, in MiB, where it tells."""
EAGER = "eager"
"""Stands for eager torch where a model was measured in a target's runtime too."""
_AT = "@"
_OF_MODEL = ("params", "flops")
"""What is the same wherever a model runs."""
_LABELS = {
    "params": "parameters",
    "flops": "FLOPs (multiply-adds)",
    "size_bytes": "bytes of weights",
    "latency_ms": "latency, ms",
    "cpu_ms": "CPU time, ms",
    MEMORY: "memory of a pass, MiB",
}
_THERE = {"size_bytes": "bytes for {}", "latency_ms": "{}, ms", "cpu_ms": "{}, CPU ms", MEMORY: "memory in {}, MiB"}


def at(measure: str, target: str) -> str:
    """Return the name of a measure in one target.

    Examples
    --------
    >>> at("latency_ms", "openvino")
    'latency_ms@openvino'
    """
    return f"{measure}{_AT}{target}"


def label(metric: str) -> str:
    """Return what a metric is called in tables and reports.

    Examples
    --------
    >>> label("latency_ms"), label("latency_ms@openvino"), label("latency_ms@eager")
    ('latency, ms', 'openvino, ms', 'eager torch, ms')
    """
    measure, target = measure_of(metric), target_of(metric)
    if not target or measure not in _THERE:
        return _LABELS.get(metric, metric)
    if (measure, target) == ("size_bytes", EAGER):
        return _LABELS[measure]
    return _THERE[measure].format("eager torch" if target == EAGER else target)


def shown(measured: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the metrics that a table of one model has, in order.

    What was measured in targets is named with the target, and not under its plain name again.
    """
    targets = targets_in(measured)
    if not targets:
        return tuple(name for name in _LABELS if name in measured and name != MEMORY)
    there = [at(name, target) for target in targets for name in ("size_bytes", "latency_ms", MEMORY)]
    return (*_OF_MODEL, *(name for name in there if name in measured))


def measure_of(metric: str) -> str:
    """Return what a metric measures, wherever it was measured: undoes `at`."""
    return metric.partition(_AT)[0]


def target_of(metric: str) -> str:
    """Return the target that a metric was measured in; empty for the one that the search is for."""
    return metric.partition(_AT)[2]


def beside_eager(eager: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured in targets, and what was in eager torch beside it, under names that say so."""
    sizes = {name: eager[name] for name in ("params", "flops", "size_bytes")}
    return {**sizes, **there, **{at(name, EAGER): value for name, value in eager.items() if name not in _OF_MODEL}}


def in_first_target(metric: str, measured: Mapping[str, Any]) -> str:
    """Return a plain metric with the name of the target that it was measured in, where there are targets."""
    first = next(iter(targets_in(measured)), "")
    return at(metric, first) if first and at(metric, first) in measured else metric


def targets_in(measured: Iterable[str]) -> tuple[str, ...]:
    """Return the targets that something was measured in, in order."""
    return tuple(dict.fromkeys(target for name in measured if (target := target_of(name))))
