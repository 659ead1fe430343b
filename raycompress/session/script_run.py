"""Runs of an experiment's script outside of trials (inspect, analyze, survey, verify), and what all runs share."""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from raycompress.config.experiment import Experiment
from raycompress.config.objective import is_measured
from raycompress.config.plugins import plugins_of
from raycompress.forecast.projection import ceilings
from raycompress.runtime import torchrun
from raycompress.runtime.client import Ending, TrialSpec, WarmSpec, Worker
from raycompress.runtime.preload import code_hash, find_imports, imports_home, local_files
from raycompress.runtime.protocol import Import, Message
from raycompress.script.config import SLICE_KEY, STAGES_KEY
from raycompress.script.context import Mode

_OF_TIES = (Import("raycompress.compressors.engines.nni.library", call="load_nni"),)
"""With ``dependency_aware`` NNI says which layers are tied; else the pruners that only rank do without it."""


_MANY = 64
"""From so many trials on, a process that is forked more cheaply is worth half a second at the start."""


def warm_spec(experiment: Experiment) -> WarmSpec:
    """Return the specification of the warm process that an experiment's trials are forked from."""
    threads = str(max(1, int(experiment.resources.cpu)))
    entries = [stage.entry for stage in experiment.stages]
    imports = (
        one
        for entry in entries
        for one in find_imports(
            experiment.script_path,
            experiment.workingdir,
            module=experiment.script_module,
            engine=entry.engine.partition(":")[0],
            framework=entry.framework,
        )
    )
    return WarmSpec(
        name=f"{experiment.name}-{uuid.uuid4().hex[:8]}",
        workingdir=str(experiment.workingdir),
        preload=(
            *dict.fromkeys(imports),
            *(_OF_TIES if experiment.compression.arguments.get("dependency_aware") else ()),
        ),
        sys_path=(str(imports_home(experiment.script_path, experiment.script_module)),),
        env={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **_of_tensorflow(threads), **experiment.env},
        many_forks=(experiment.n_samples or 0) >= _MANY,
    )


def _of_tensorflow(threads: str) -> dict[str, str]:
    """Return what TensorFlow reads when it is imported: how many threads, and that its own log is for errors."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")}
    return {"TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": threads, **quiet}


def trial_template(experiment: Experiment) -> dict[str, Any]:
    """Return the fields of `TrialSpec` that are the same for all trials."""
    return {
        "script": str(experiment.script_path),
        "script_args": tuple(experiment.script_args),
        "module": experiment.script_module,
        "workingdir": str(experiment.workingdir),
        "env": {**({} if experiment.resources.gpu else _without_gpu(experiment)), **experiment.env},
        "timeout_s": experiment.trial_timeout_s,
        "threads": max(1, int(experiment.resources.cpu)),
        "save_model": experiment.save_model is not False,
        "result_labels": tuple(experiment.metric_labels),
        "exports": experiment.exports,
        "plugins": tuple((one.group, one.name, one.distribution) for one in plugins_of(experiment)),
        "parameters": tuple(parameter["name"] for parameter in experiment.parameter_config),
        "own_folder": experiment.own_folder,
        "rung0": experiment.rung0,
        "latency": experiment.wants_latency,
        "targets": tuple(target.to_json() for target in experiment.targets),
        "reported_bounds": tuple(
            (bound.metric, bound.limit, bound.value)
            for bound in experiment.objective.bounds
            if not bound.is_relative and not is_measured(bound.metric)
        ),
        "budget": tuple((bound.metric, bound.limit, bound.value) for bound in ceilings(experiment)),
        "prescript": experiment.prescript,
        "postscript": experiment.postscript,
        "appends_config": not loads_its_own(experiment),
        "code": code_hash(experiment.script_path, experiment.workingdir, experiment.script_module),
    }


def _without_gpu(experiment: Experiment) -> dict[str, str]:
    """Return the variables of trials that have no GPU; accelerate joins workers on CPUs only where it is told."""
    return {"CUDA_VISIBLE_DEVICES": "", **({"ACCELERATE_USE_CPU": "true"} if experiment.resources.workers > 1 else {})}


def loads_its_own(experiment: Experiment) -> bool:
    """Tell whether the script, or a module of its own, asks for the trial's configuration without naming a file."""
    files = local_files(experiment.script_path, experiment.workingdir, experiment.script_module)
    return any(re.search(rb"\bBasicConfig\(\)\s*\.load\(\s*\)", file.read_bytes()) for file in files if file.is_file())


def compression_config(experiment: Experiment) -> dict[str, Any]:
    """Return the keys of a trial's config that are the same for all trials."""
    compression = experiment.compression
    return {
        "compressor": compression.compressor,
        "compression_framework": compression.framework,
        "compression_type": compression.type,
        **({} if compression.slice is None else {SLICE_KEY: compression.slice}),
        **({STAGES_KEY: [{"compressor": one.compressor} for one in experiment.later]} if experiment.later else {}),
    }


def run_for_answer(
    worker: Worker,
    experiment: Experiment,
    mode: Mode,
    config: dict[str, Any],
    *,
    answer: str,
    on_message: Callable[[Message], None] = lambda _message: None,
    **more: Any,
) -> tuple[dict[str, Any] | None, Ending]:
    """Run the script until it has sent a message of type `answer`; return that message (or None) and the ending.

    `on_message` is called with every message.
    """
    found: dict[str, Any] | None = None
    for message in messages_of(worker, experiment, mode, config, **more):
        if isinstance(message, Ending):
            return found, message
        on_message(message)
        if message["type"] == answer:
            found = message
    raise AssertionError("a trial's messages end with its ending")


def messages_of(
    worker: Worker, experiment: Experiment, mode: Mode, config: dict[str, Any], **more: Any
) -> Iterator[Message | Ending]:
    """Run the script in `mode`; yield its messages, and last its ending with the last 12 lines of its log."""
    with tempfile.TemporaryDirectory(prefix="raycompress-") as folder:
        template = trial_template(experiment)
        if experiment.resources.workers > 1:  # one alone, which finds what torchrun would give it
            template["env"] = {**torchrun.alone(mode), **template["env"]}
        spec = TrialSpec(**{**template, **more}, mode=mode, config=config, folder=folder, seed=experiment.seed)
        for message in worker.run(spec):
            yield message.with_tail(12) if isinstance(message, Ending) else message


def last_lines(ending: Ending) -> str:
    """Return the end of a log for an error's fix; empty where nothing was printed."""
    lines = [f"        {line}" for line in ending.tail.splitlines()]
    advice = _PARSER if any(refusal in ending.tail for refusal in _REFUSALS) else ""
    return "\n".join([f"{advice}its last lines were", *lines]) if lines else ""


_PARSER = (
    "the path of a trial's configuration stands on the script's command line: with rc.BasicConfig().load(), without a "
    'path, none is passed; {config} in "script" says where it goes; parser.add_argument("config") takes it; '
)
_REFUSALS = ("error: unrecognized arguments: ", "Got unexpected extra argument", "mismatched input", "LexerNoViableAlt")
"""How argparse, click and Hydra refuse a path that they do not expect."""
