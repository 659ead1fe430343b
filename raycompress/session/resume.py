"""Checks before a search is resumed: its file and its model must be those that were launched."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from raycompress.config.checks.preflight import check_files
from raycompress.config.experiment import Experiment
from raycompress.config.text import reader as jsontext
from raycompress.config.text.source import text_of
from raycompress.errors import BundleError, ExperimentError, Problem, UsageError
from raycompress.forecast.forecast import Forecast
from raycompress.forecast.projection import Projection
from raycompress.model.info import ModelInfo
from raycompress.results.record import SearchRecord
from raycompress.results.store import read_model
from raycompress.search.plan import n_trials
from raycompress.session.prepare import Prepared


def experiment_of(record: SearchRecord, n_samples: int | None, file: Path | None = None) -> Experiment:
    """Return the experiment that is resumed.

    The file that was launched is read again, or `file`, which takes its place; where it is gone, the copy in the
    experiment's folder stands for it.

    Raises
    ------
    ExperimentError
        The file has changed, or what it names is gone.
    UsageError
        The experiment is ``passive``, or `n_samples` is less than was launched.
    """
    if record.header["proposer"] == "passive":
        raise UsageError(
            "a passive experiment is one trial in the terminal's own process: there is nothing to go on with",
            where=record.folder.reference,
            fix=f"raycompress launch {shlex.quote(record.header['file'])}",
        )
    launched = Path(record.header["file"]) if file is None else file
    if file is not None or launched.exists():
        _refuse_changes(launched, record)
        experiment = Experiment.load(launched)
    else:
        experiment = Experiment.load(record.folder.experiment, home=launched.parent)
    if problems := check_files(experiment):
        raise ExperimentError.of(problems)
    so_far = n_samples_of(record, experiment)
    if n_samples is not None and n_samples < so_far:
        raise UsageError(
            f"the search has {so_far} samples, and --n-samples {n_samples} would be fewer",
            where=record.folder.reference,
            fix=f"--n-samples N, with N above {so_far}, adds some",
        )
    return replace(experiment, n_samples=so_far if n_samples is None else n_samples)


def moved(experiment: Experiment, file: Path | None) -> dict[str, str]:
    """Return the fields of the event ``resumed`` for an experiment file that was moved."""
    return {} if file is None else {"file": str(experiment.path), "script": str(experiment.script_path)}


def n_samples_of(record: SearchRecord, experiment: Experiment) -> int:
    """Return how many samples the search has in all, the dense model not counted."""
    known = record.header.get("n_samples")  # older journals, without repeats, have none
    return int(known) if known is not None else int(record.header["n_trials"]) - experiment.baseline


def is_done(record: SearchRecord) -> bool:
    """Tell whether nothing is left to do: all trials have ended, and the best model is what it was."""
    if record.finished != "complete" or record.best_number is None:
        return record.finished == "complete"
    try:
        record.folder.check_candidate(record.best_number)
    except BundleError:
        return False
    return True


def check(record: SearchRecord, ready: Prepared) -> None:
    """Check that the prepared experiment is the launched one.

    Raises
    ------
    ExperimentError
        The script's model is another one, or has other layers to search.
    UsageError
        All is done, and no further sample exists.
    """
    _check_model(record, ready)
    if is_done(record) and n_trials(ready.experiment, ready.space) <= record.header["n_trials"]:
        raise UsageError(
            "every point of the search space has been tried: there is no further sample",
            where=record.folder.reference,
            fix="launch another experiment, with wider ranges or another proposer",
        )


def _check_model(record: SearchRecord, ready: Prepared) -> None:
    known = read_model(record.folder)
    dimensions = [dimension.name for dimension in ready.space.dimensions]
    if _shape(known) == _shape(ready.model) and dimensions == record.header["dimensions"]:
        return
    raise ExperimentError(
        "the script's model is not the one that the search was launched with: " + "; ".join(_differences(known, ready)),
        where=str(ready.experiment.script_path),
        fix=f"put the model back as it was, or start anew: raycompress launch {shlex.quote(record.header['file'])}",
    )


def as_before(record: SearchRecord, ready: Prepared) -> Prepared:
    """Return `ready` with what the first launch measured of the dense model, and of files.

    Those are the latencies that those of trials are shares of, and what predicts bytes, so that proposals are the same.
    """
    objective = replace(ready.experiment.objective, dense=record.objective.dense)
    found = with_file_bytes(read_model(record.folder), ready)
    return replace(found, experiment=replace(ready.experiment, objective=objective))


def with_file_bytes(known: ModelInfo | None, ready: Prepared) -> Prepared:
    """Return `ready` with what predicts the bytes of a file of the model `known`, where that and `ready` have one."""
    model = ready.model
    if known is None or known.file_bytes is None or model is None or model.file_bytes is None:
        return ready
    model = replace(model, file_bytes=known.file_bytes)
    projection = ready.projection
    if projection is not None and model.costs is not None:
        forecast = Forecast.of(ready.experiment, model, model.costs)
        projection = Projection.of(ready.experiment, ready.space, forecast)
    return replace(ready, model=model, projection=projection)


def _shape(model: ModelInfo | None) -> ModelInfo | None:
    """Return a model without what is measured anew each time, or chosen, or not known to older runs."""
    if model is None:
        return None
    times: dict[str, Any] = {"latency": None, "latency_in": {}, "dense_ms": {}, "latency_unknown": ""}
    measured = {**times, "file_bytes": None, "file_bytes_unknown": ""}
    return replace(model, **measured, weights="", round_to=None, script_round_to=None)


def _differences(known: ModelInfo | None, ready: Prepared) -> Iterator[str]:
    before = {layer.name: layer for layer in known.layers} if known is not None else {}
    now = {layer.name: layer for layer in ready.model.layers} if ready.model is not None else {}
    for what, names in (
        ("gone", [name for name in before if name not in now]),
        ("new", [name for name in now if name not in before]),
        ("other than before", [name for name in now if name in before and now[name] != before[name]]),
    ):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            yield f"{', '.join(names[:5])}{more} {'is' if len(names) == 1 else 'are'} {what}"
    if before == now:
        yield "its layers are the same, and its inputs, ties or dimensions are not"


def _refuse_changes(launched: Path, record: SearchRecord) -> None:
    """Raise where the file says something else than the copy; how it is laid out does not matter."""
    before, now = text_of(record.folder.experiment), text_of(launched)
    if before == now or jsontext.read(before).value == jsontext.read(now).value:
        return
    lines = difflib.unified_diff(before.splitlines(), now.splitlines(), "as launched", "now", lineterm="", n=1)
    diff = "\n".join(f"        {line}" for line in lines)
    raise ExperimentError.of(
        [
            Problem(
                "the experiment file has changed since the search was launched, and its trials hold for the old one"
                f"\n{diff}",
                str(launched),
                f"put it back: cp {shlex.quote(str(record.folder.experiment))} {shlex.quote(str(launched))}\n"
                "        or start anew with `raycompress launch`; for more trials: raycompress resume --n-samples N",
            )
        ]
    )
