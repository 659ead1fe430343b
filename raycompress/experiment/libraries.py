"""Which libraries of the extras an experiment needs, known without importing one."""

from __future__ import annotations

import importlib.util

from raycompress.config.experiment import Experiment
from raycompress.errors import MissingDependencyError
from raycompress.experiment.jsontext import JsonPath


def check_extras(experiment: Experiment) -> None:
    """Raise MissingDependencyError where what is asked for needs a library that is not here."""
    wanted: list[tuple[str, JsonPath, tuple[str, ...], str]] = []
    if "onnx" in experiment.exports:
        wanted.append(('"export": ["onnx"]', ("export",), ("onnx", "onnxruntime"), "onnx"))
    if experiment.proposer == "bohb":
        wanted.append(('"proposer": "bohb"', ("proposer",), ("hpbandster", "ConfigSpace", "statsmodels"), "bohb"))
    for index, logger in enumerate(experiment.loggers):
        if logger != "tensorboard":  # which Ray Tune brings
            wanted.append((f'the logger "{logger}"', ("loggers", index), (logger,), logger))
    for what, key, libraries, extra in wanted:
        for library in libraries:
            if importlib.util.find_spec(library) is None:
                raise MissingDependencyError(
                    f"{what} needs {library}, which is not installed",
                    where=experiment.where(key),
                    fix=f"pip install 'raycompress[{extra}]'",
                )
