"""All checks before the first trial: of the files that are named, and of the experiment against its model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from raycompress.catalog.exports import EXPORTS
from raycompress.config.checks.depth import check_depth, notes_on_depth
from raycompress.config.checks.layers import check_fit, notes_on_fit
from raycompress.config.checks.objective import check_reported, reported_names
from raycompress.config.checks.script import check_script
from raycompress.config.experiment import Experiment
from raycompress.config.objective import is_measured
from raycompress.config.places import Files, exists, is_folder
from raycompress.config.text.reader import JsonPath, read
from raycompress.config.text.source import where_in
from raycompress.errors import ExperimentError, Problem
from raycompress.extras import check_installed
from raycompress.model.info import ModelInfo
from raycompress.script.config import places
from raycompress.text import abbreviate, did_you_mean

LONGEST_NAME = 255
"""Bytes that the name of a file may have, on nearly every file system."""

Where = Callable[[JsonPath], str]


def load_checked(path: str | Path) -> Experiment:
    """Read an experiment file and check the files that it names.

    Raises
    ------
    ExperimentError
        All mistakes at once; a missing script is told beside the mistakes of the file itself.
    """
    try:
        experiment = Experiment.load(path)
    except ExperimentError as error:
        raise ExperimentError.of([*error.problems, *_files_of_a_wrong_one(Path(path))]) from None
    if problems := check_files(experiment):
        raise ExperimentError.of(problems)
    return experiment


def check_files(experiment: Experiment) -> list[Problem]:
    """Return what is wrong with the files and folders that the experiment names; nothing is imported or created."""
    key = "cwd" if experiment.is_written(("cwd",)) else "workingdir"
    found = [*_check(experiment.files, experiment.where, key), *_check_places(experiment)]
    return found or list(_check_metrics(experiment))


def _check_places(experiment: Experiment) -> Iterator[Problem]:
    """Yield names in braces, in the script's arguments, that are near to a hyperparameter and none."""
    known = [str(parameter["name"]) for parameter in experiment.parameter_config]
    for name in places(experiment.script_args):
        near = did_you_mean(name, known)
        if near and name not in known:
            what = f'the script\'s arguments ask for "{{{name}}}", and no hyperparameter has that name'
            yield Problem(what, experiment.where(("script",)), near)


def _check_metrics(experiment: Experiment) -> Iterator[Problem]:
    found = check_reported(experiment.objective, experiment.script_path, experiment.metric_labels)
    for metric, what, fix in found:
        for key in ("objectives", "constraints"):
            if experiment.is_written((key, metric)):
                yield Problem(what, experiment.where((key, metric)), fix)
    reported = reported_names(experiment.script_path) or ()
    for bound in experiment.objective.bounds:
        if bound.is_relative and is_measured(bound.metric) and bound.metric in reported and not experiment.baseline:
            yield Problem(
                f'the script reports "{bound.metric}" itself, which counts instead of our measure, and '
                '"baseline": false leaves out the trial that would report it of the dense model',
                experiment.where(("constraints", bound.metric, bound.limit)),
                'remove "baseline", or report it by another name',
            )


def _check(files: Files, where: Where, folder_key: str, *, with_script: bool = True) -> Iterator[Problem]:
    yield from _check_workingdir(files.workingdir, where((folder_key,)))
    if with_script and is_folder(files.workingdir):
        yield from check_script(files, where(("script",)))
    if isinstance(files.storage, Path):  # what is on S3 is tried by the launch
        yield from _check_storage(files.storage, where(("storage",)))


def _files_of_a_wrong_one(path: Path) -> Iterator[Problem]:
    """Check the files of an experiment that has mistakes, as far as it names them."""
    from raycompress.config.schema.spelling import respell

    try:
        found = read(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError):
        return
    if not found.whole or not isinstance(found.value, dict):
        return
    spelled = respell(found.value)
    data: dict[str, Any] = {
        key: value
        for key, value in spelled.data.items()
        if isinstance(value, str) and value and not spelled.is_guess((key,))
    }
    folder_key = "cwd" if "cwd" in data else "workingdir"
    try:
        files = Files.of(
            path.resolve().parent,
            script=data.get("script", ""),
            workingdir=data.get(folder_key),
            storage=data.get("storage", "."),
        )
    except ValueError:  # a quote that is not closed, a NUL: told already
        return

    def where(inner: JsonPath) -> str:
        return where_in(str(path), found.lines, spelled.written(inner))

    is_there = "script" in data and not any(spelled.is_guess((key,)) for key in ("cwd", "workingdir"))
    yield from _check(files, where, folder_key, with_script=is_there)


def check_model(experiment: Experiment, model: ModelInfo) -> tuple[list[Problem], list[str]]:
    """Return what is wrong between the experiment and the layers of the model, and what is worth a note."""
    stages = list(experiment.each_stage())
    problems = [one for stage in stages for one in (*check_fit(stage, model), *check_depth(stage, model))]
    return problems, [one for stage in stages for one in (*notes_on_fit(stage, model), *notes_on_depth(stage, model))]


def notes(experiment: Experiment, cpus: float, gpus: float) -> list[str]:
    """Return what a person should know before the start, on a machine with so many CPU cores and GPUs."""
    found, wanted = list(experiment.accepted), experiment.resources
    for have, one, unit in ((cpus, wanted.cpu, "CPU cores"), (gpus, wanted.gpu, "GPUs")):
        need = one * wanted.workers
        if need > have:
            found.append(f"a trial needs {need:g} {unit}, and this machine has {have:g}: none can start here")
        elif need * experiment.n_parallel > have:
            fit = int(have / need + 1e-9)
            found.append(
                f"n_parallel is {experiment.n_parallel}, and {have:g} {unit} are enough for {fit} at a time: "
                f"{fit} will run at a time"
            )
    return found


def _check_workingdir(folder: Path, where: str) -> Iterator[Problem]:
    if not is_folder(folder):
        what = f"workingdir is a file: {folder}" if exists(folder) else f"workingdir does not exist: {folder}"
        yield Problem(what, where, "write a folder, relative to the experiment file")


def _check_storage(folder: Path, where: str) -> Iterator[Problem]:
    for part in folder.parts:
        if len(os.fsencode(part)) > LONGEST_NAME:
            what = f"results cannot go to {abbreviate(str(folder))}: a name in it has more than {LONGEST_NAME} bytes"
            yield Problem(what, where, 'write a shorter one: "storage": "..."')
            return
    there = folder
    while not exists(there) and there != there.parent:
        there = there.parent
    if not is_folder(there):
        yield Problem(
            f"results cannot go to {folder}: {there} is a file", where, 'write another folder: "storage": "..."'
        )
    elif not os.access(there, os.W_OK | os.X_OK):
        fix = 'give yourself the right to, or write another folder: "storage": "..."'
        yield Problem(f"results cannot go to {folder}: {there} may not be written", where, fix)


def check_extras(experiment: Experiment) -> None:
    """Raise MissingDependencyError where what is asked for needs a library that is not here."""
    wanted: list[tuple[str, JsonPath, tuple[str, ...], str]] = []
    for name in experiment.exports:
        wanted += [
            (f'"export": ["{name}"]', ("export",), entry.libraries, entry.install)
            for entry in EXPORTS.find(name)
            if entry.libraries
        ]
    if experiment.proposer == "bohb":
        wanted.append(
            ('"proposer": "bohb"', ("proposer",), ("hpbandster", "ConfigSpace", "statsmodels"), "raycompress[bohb]")
        )
    for index, logger in enumerate(experiment.loggers):
        if logger != "tensorboard":  # which Ray Tune brings
            wanted.append((f'the logger "{logger}"', ("loggers", index), (logger,), f"raycompress[{logger}]"))
    for what, key, libraries, package in wanted:
        check_installed(libraries, package, what, experiment.where(key))
