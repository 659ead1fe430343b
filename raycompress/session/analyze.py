"""Layer analysis of an experiment's model: runs the script once, until its model is known."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

from raycompress.config.experiment import Experiment
from raycompress.errors import CompressionError, Problem, RaycompressError, ScriptError, UsageError
from raycompress.results.analysis.data import Analysis
from raycompress.runtime.client import Ending, WarmProcess
from raycompress.runtime.preload import find_imports
from raycompress.runtime.protocol import Message
from raycompress.search.watch.view import View
from raycompress.session.prepare import centre_config, report_preload
from raycompress.session.script_run import last_lines, run_for_answer, warm_spec
from raycompress.states import TrialState

_MODULE = "raycompress.compressors.analysis.analyser"


def analyze(experiment: Experiment, wanted: Mapping[str, Any], view: View) -> Analysis:
    """Measure the sensitivity and the cost of each layer of the model of an experiment's script.

    Parameters
    ----------
    wanted
        ``sparsities``, ``method``, ``samples``, ``recompute_bn`` of `raycompress.analysis.layer_sensitivity`.

    Raises
    ------
    UsageError
        The experiment is not one of torch.
    ScriptError
        The script fails, or makes no compressor.
    CompressionError
        The model cannot be analysed.
    """
    if experiment.compression.framework != "torch":
        raise UsageError(
            "only torch models can be analysed for now, and this one is of Keras",
            where=str(experiment.path),
            fix='give an experiment with "framework": "torch"',
        )
    spec = warm_spec(experiment)
    imports = find_imports(
        experiment.script_path, experiment.workingdir, engine=_MODULE, module=experiment.script_module
    )
    view.phase("loading the script's libraries")
    with closing(WarmProcess.start(replace(spec, preload=imports))) as process:
        config = centre_config(experiment)
        with closing(process.connect()) as worker:
            report_preload(worker.wait_ready(), experiment, view)
            view.phase("running the script until its model is known")
            problems: list[Problem] = []

            def on_message(message: Message) -> None:
                if message["type"] == "progress":
                    view.progress(message["done"], message["total"], message["layer"])
                elif message["type"] == "refused":
                    problems.extend(Problem(**problem) for problem in message["problems"])

            found, ending = run_for_answer(
                worker,
                experiment,
                "analyze",
                config,
                answer="analysis",
                on_message=on_message,
                analysis=wanted,
                timeout_s=None,
            )
    if found is None:
        raise _failure(experiment, problems, ending)
    return Analysis.from_json(found["analysis"])


def _failure(experiment: Experiment, problems: list[Problem], ending: Ending) -> RaycompressError:
    script = str(experiment.script_path)
    if problems:
        first = problems[0]
        return CompressionError(first.what, where=first.where or script, fix=first.fix)
    if ending.state in (TrialState.FINISHED, TrialState.NO_RESULT):
        return ScriptError(
            "the script never calls create_compressor, so its model is not known",
            where=script,
            fix="call rc.create_compressor(model, config) and train the model that its compress() returns",
        )
    return ScriptError(
        f"the script failed before its model was analysed: {ending.cause}",
        where=ending.frame or script,
        fix=last_lines(ending),
    )
