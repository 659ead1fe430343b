"""``raycompress plan``: what a launch would search, keep and cost."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raycompress.cli.options import json_option, print_text
from raycompress.errors import StorageError

if TYPE_CHECKING:
    from raycompress.config.dimension import Dimension
    from raycompress.config.experiment import Experiment
    from raycompress.session.prepare import Prepared

_SLICES = {
    "before": "before the script trains, so that each trial trains its small model",
    "after": "after the script has trained the masked model, when it is saved",
}


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def plan(file: Path, as_json: bool) -> None:
    """Show what a launch of FILE would search, keep and cost, without running a trial.

    The script is run up to its first batch, to learn the model's layers.
    """
    from raycompress.config.checks.preflight import load_checked

    show(load_checked(file), as_json)


def show(experiment: Experiment, as_json: bool) -> None:
    """Inspect the experiment's model, and print what a launch would do."""
    from raycompress.cli.view.live import LiveView
    from raycompress.session.prepare import prepared

    with LiveView() as view, prepared(experiment, view) as ready:
        facts = _facts(ready)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        print_text(_text(facts))


def _facts(ready: Prepared) -> dict[str, Any]:
    from raycompress.search.plan import n_trials, parallel

    experiment, model = ready.experiment, ready.model
    trials, at_once = n_trials(experiment, ready.space), parallel(experiment)
    mean = _seconds_per_trial(experiment)
    return {
        "experiment": experiment.name,
        "compressor": experiment.compressors,
        "slice": experiment.compression.slice,
        "blocks": [] if model is None else [asdict(block) for block in model.blocks],
        "proposer": experiment.proposer,
        "trials": trials,
        "baseline": experiment.baseline,
        "parallel": at_once,
        "dimensions": [{"name": one.name, "domain": _domain(one)} for one in ready.space.dimensions],
        "model": None
        if model is None
        else {"parameters": model.parameters, "flops": model.flops, "size_bytes": model.size_bytes},
        "targets": [str(target) for target in experiment.targets],
        "wants": [
            *(f"{goal.metric} {goal.direction}" for goal in experiment.objective.goals if goal.metric),
            *map(str, experiment.objective.bounds),
        ],
        "reach": _reach(ready),
        "keeps": "one bundle" if experiment.save_model is not False and model is not None else "no model",
        "storage": str(experiment.storage),
        "seconds": None if mean is None else mean * trials / at_once,
    }


def _reach(ready: Prepared) -> dict[str, list[float]]:
    """Return what share of each size of the dense model proposals can leave; empty where nobody knows."""
    projection = ready.projection
    if projection is None or not ready.space.dimensions:
        return {}
    free = replace(projection, ceilings=())
    known = [metric for metric in ("params", "flops", "size_bytes") if metric in projection.forecast.dense]
    return {metric: [round(share, 4) for share in free.span(metric)] for metric in known}


def _seconds_per_trial(experiment: Experiment) -> float | None:
    """Return the mean length of the trials of earlier launches of the same file; None when there were none."""
    from raycompress.results import store
    from raycompress.results.record import SearchRecord

    lengths: list[float] = []
    for folder in store.list_folders(experiment.storage):
        try:
            record = SearchRecord(folder)
        except StorageError:  # another experiment's broken journal: nothing to learn from, and told by `ls`
            continue
        if record.header["file"] == str(experiment.path):
            lengths += [trial.seconds for trial in record.records.values() if trial.seconds is not None]
    return sum(lengths) / len(lengths) if lengths else None


def _domain(dimension: Dimension) -> str:
    if dimension.choices is not None:
        return "one of " + ", ".join(json.dumps(choice) for choice in dimension.choices)
    scale = ", log scale" if dimension.log else ""
    kind = "whole " if dimension.kind == "int" else ""
    return f"{kind}{dimension.low:g} to {dimension.high:g}{scale}"


def _text(facts: dict[str, Any]) -> str:
    from raycompress.cli.view.tables import columns, duration, number

    lines = [f"{facts['experiment']}: {facts['compressor']}, {facts['proposer']}"]
    model = facts["model"]
    if model is not None:
        lines.append(
            f"model:   {number(model['parameters'])} parameters, {number(model['flops'])} multiply-adds,"
            f" {number(model['size_bytes'])} bytes"
        )
    if facts["reach"]:
        spans = ", ".join(f"{name} {low:.0%} to {high:.0%}" for name, (low, high) in facts["reach"].items())
        lines.append(f"reach:   {spans} of the dense model's")
    if facts["slice"] is not None:
        lines.append(f"slices:  {_SLICES[facts['slice']]}")
    lines += [f"target:  {line}" for line in facts["targets"]]
    lines += [f"wants:   {line}" for line in facts["wants"]]
    dense = " (the dense model's included)" if facts["baseline"] else ""
    lines.append(f"trials:  {facts['trials']}{dense}, {facts['parallel']} at a time")
    kept = "one bundle, the best model and its mask" if facts["keeps"] == "one bundle" else "no model"
    lines.append(f"keeps:   {kept}, in {facts['storage']}")
    seconds = facts["seconds"]
    known = (
        f"about {duration(seconds)}, by earlier launches" if seconds is not None else "not known before a first launch"
    )
    lines.append(f"time:    {known}")
    if facts["dimensions"]:
        count = len(facts["dimensions"])
        lines += ["", f"{count} dimension{'s' * (count != 1)}:"]
        lines.append(columns([(one["name"], one["domain"]) for one in facts["dimensions"]], left=(0, 1)))
    return "\n".join(lines)
