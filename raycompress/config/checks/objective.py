"""Checks of the objectives, the constraints, and the keys that go with them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raycompress.catalog import CompressorEntry
from raycompress.catalog.stages import quantizes_trained
from raycompress.config.checks.targets import check_targets
from raycompress.config.objective import LIMITS, MEASURED, Objective, is_measured
from raycompress.config.schema.ranges import Finding
from raycompress.config.text.reader import JsonPath
from raycompress.model.costs import SIZES
from raycompress.model.latency_table import LATENCY
from raycompress.text import did_you_mean, join_names

_ALIASES = {
    **dict.fromkeys(("parameters", "n_params", "num_params", "param"), "params"),
    **dict.fromkeys(("macs", "FLOPs", "FLOPS", "Flops", "flop", "multiply_adds"), "flops"),
    **dict.fromkeys(("bytes", "size", "model_size", "file_size", "size_mb"), "size_bytes"),
    **dict.fromkeys(("latency", "time_ms", "latency_s", "speed"), LATENCY),
}
"""Names that people give to what we measure."""


def check_objective(data: Mapping[str, Any], compressors: Sequence[CompressorEntry | None]) -> Iterator[Finding]:
    """Yield what is wrong in the experiment `data`; values of a wrong type are passed over.

    `compressors` are those of its stages, None for one that is not known.
    """
    compressor, last = (compressors[0], compressors[-1]) if compressors else (None, None)
    objectives, constraints = _dict(data.get("objectives")), _dict(data.get("constraints"))
    if objectives and data.get("target") in ("max", "min"):
        what = '"objectives" says of each metric whether it is to be large or small, and "target" says it again'
        yield Finding(("target",), what, "remove it")
    for metric, each in constraints.items():
        if isinstance(each, dict):
            yield from _check_constraint(metric, each, ("constraints", metric), data)
    if compressor is not None and last is not None:
        yield from _check_sizes(objectives, constraints, compressor if compressor.removes_channels else last)
    yield from _check_measured(objectives, constraints, data)
    yield from check_targets(objectives, constraints, data, last)
    yield from _check_scheduler(data, compressor)
    yield from _check_repeats(data)
    cuts = compressor is None or (compressor.framework == "torch" and compressor.removes_channels)
    if data.get("proposer") == "guided" and compressor is not None and not cuts and not quantizes_trained(compressor):
        what = f"guided measures what each layer bears as its channels are cut, and {compressor.name} cuts none"
        yield Finding(("proposer",), what, 'take another proposer, such as "optuna"')


def _check_constraint(
    metric: str, each: Mapping[str, Any], path: JsonPath, data: Mapping[str, Any]
) -> Iterator[Finding]:
    if not each:
        yield Finding(path, f'nothing is said of "{metric}"', f"write one of {join_names(LIMITS)}")
    relative = [limit for limit in LIMITS[2:] if limit in each]
    if relative and not is_measured(metric):
        compares = f'"{relative[0]}" compares "{metric}" with the dense model\'s'
        if data.get("baseline") is False:
            what = f'{compares}, and "baseline": false leaves its trial out'
            yield Finding((*path, relative[0]), what, 'remove "baseline", or write "min" or "max"')
        if data.get("proposer") == "passive":
            what = f"{compares}, which a passive experiment does not run"
            yield Finding((*path, relative[0]), what, 'write "min" or "max", or take another proposer')
    for floor, ceiling in (("min", "max"), ("min_ratio", "max_ratio")):
        low, high = each.get(floor), each.get(ceiling)
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            what = f'"{floor}" of {metric}, {low:g}, is above its "{ceiling}", {high:g}'
            yield Finding((*path, floor), what, "swap the two")


def _check_sizes(
    objectives: Mapping[str, Any], constraints: Mapping[str, Any], compressor: CompressorEntry
) -> Iterator[Finding]:
    """A size that the compressor leaves as it is."""
    fixed = ("params", "flops") if compressor.kind == "quantization" else SIZES
    if compressor.kind == "pruning" and compressor.removes_channels:
        return
    for key, named in (("objectives", objectives), ("constraints", constraints)):
        for metric in named:
            if metric in fixed:
                how = "quantizes weights" if compressor.kind == "quantization" else "masks single weights"
                what = f'{compressor.name} {how} and removes none, so that "{metric}" stays what it is'
                yield Finding((key, metric), what, "remove it, or take a compressor that removes channels")


def _check_measured(
    objectives: Mapping[str, Any], constraints: Mapping[str, Any], data: Mapping[str, Any]
) -> Iterator[Finding]:
    measured = [
        (key, name) for key, named in (("objectives", objectives), ("constraints", constraints)) for name in named
    ]
    measured = [(key, name) for key, name in measured if is_measured(name)]
    if measured and _dict(data.get("resource_args")).get("save_model") is False:
        what = f'"save_model" is false, so that there is no model whose "{measured[0][1]}" could be measured'
        yield Finding(("resource_args", "save_model"), what, "remove it")
    first = next(iter(objectives), None)
    early = "scheduler" in data or "early_stop" in _dict(data.get("resource_args"))
    if first is not None and is_measured(first) and (early or data.get("proposer") in ("hyperband", "bohb")):
        what = f'trials are ended early by the first objective, and "{first}" is known at a trial\'s end only'
        yield Finding(("objectives", str(first)), what, "put a metric that the script reports first")


def _check_scheduler(data: Mapping[str, Any], compressor: CompressorEntry | None) -> Iterator[Finding]:
    if "scheduler" in data and "early_stop" in _dict(data.get("resource_args")):
        what = '"scheduler" and "early_stop" are the same thing'
        yield Finding(("scheduler",), what, "keep one of the two")
    if _dict(data.get("scheduler")).get("rung0") is True and compressor is not None:
        at_once = compressor.removes_channels and compressor.acts == "in compress()" and compressor.framework == "torch"
        if not at_once:
            what = f"rung 0 scores a model before it trains, and what {compressor.name} removes is not known then"
            yield Finding(("scheduler", "rung0"), what, "remove it, or take a compressor such as group_l1")


def _check_repeats(data: Mapping[str, Any]) -> Iterator[Finding]:
    repeats = data.get("repeats", 1)
    if not isinstance(repeats, int) or repeats <= 1:
        return
    if len(_dict(data.get("objectives"))) > 1:
        what = '"repeats" chooses one of the finalists, and with several objectives there is a front of them'
        yield Finding(("repeats",), what, "remove it, or all objectives but one")
    if _dict(data.get("resource_args")).get("save_model") is False:
        what = '"save_model" is false, and "repeats" chooses which model is kept'
        yield Finding(("repeats",), what, 'remove it, or "save_model"')


def check_reported(objective: Objective, script: Path, labels: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """Yield (metric, what, fix) for each metric that neither we measure nor `script` reports.

    Nothing is said of a script whose reports cannot be read off its text: one that reports by ``print_result``, by
    ``**values``, or from another file.
    """
    reported = reported_names(script)
    if reported is None:
        return
    known = [*reported, *labels]
    for metric in objective.metrics:
        if metric and not is_measured(metric) and metric not in known:
            meant = _ALIASES.get(metric)
            fix = f'did you mean "{meant}"?' if meant else did_you_mean(metric, [*known, *MEASURED])
            what = f'the script reports no "{metric}", and it is none of what we measure ({join_names(MEASURED)})'
            yield metric, what, fix or f"the script reports {join_names(known)}"


def reported_names(script: Path) -> tuple[str, ...] | None:
    """Return the names that a script passes to ``report()``, in their order; None where its text does not tell."""
    names: list[str] = []
    for node in ast.walk(ast.parse(script.read_bytes())):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called == "print_result":
            return None
        if called == "report":
            if node.args or not node.keywords or any(keyword.arg is None for keyword in node.keywords):
                return None
            names += [keyword.arg for keyword in node.keywords if keyword.arg is not None]
    return tuple(dict.fromkeys(names)) or None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
