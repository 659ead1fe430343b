"""Preparation of a search: inspects the script's model, and checks the experiment against it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from raycompress.config.checks import preflight
from raycompress.config.checks.preflight import check_extras
from raycompress.config.compression import Compression
from raycompress.config.depth import without_model
from raycompress.config.experiment import Experiment
from raycompress.config.search_space import SearchSpace, last_stage
from raycompress.config.trial_config import searched_part, trial_config
from raycompress.errors import (
    CompressionError,
    DeploymentError,
    ExperimentError,
    Problem,
    RaycompressError,
    ScriptError,
)
from raycompress.forecast.fits import (
    Fits,
    budget_s,
    known_fits,
    notes_on,
    predicted_in,
    timed_in,
    with_latency,
    without_eager,
)
from raycompress.forecast.forecast import Forecast, why_not
from raycompress.forecast.projection import Projection, ceilings, check_budgets
from raycompress.forecast.round_to import round_to_of_targets, with_round_to
from raycompress.model.info import ModelInfo
from raycompress.model.latency_model import LatencyModel
from raycompress.results.store import models
from raycompress.runtime.client import Ending, Hello, WarmProcess, WarmSpec, Worker
from raycompress.runtime.machine import machine_cpus, machine_gpus
from raycompress.runtime.preload import environment_notes, prescript_notes
from raycompress.runtime.protocol import Message
from raycompress.script.config import DEPTH_KEY, SLICE_KEY
from raycompress.search.ownership import check_given
from raycompress.search.plan import BUDGETED, notes
from raycompress.search.unread import unread_notes
from raycompress.search.watch.view import View
from raycompress.session.script_run import compression_config, last_lines, messages_of, run_for_answer, warm_spec
from raycompress.states import TrialState

_WITHOUT_EVALUATOR = (
    "the script passes no evaluator= to create_compressor: how much each layer bears is measured by how far a pruned "
    "copy agrees with the dense model. create_compressor(..., evaluator=lambda model: accuracy(model)) measures by "
    "your own metric, which finds better models in fewer trials; calibration=loader says which inputs to measure with"
)


_LONGEST_S = 1800.0
"""What the dozen networks that are timed in any case may take beside the script, where converting one takes minutes."""
_FILES_S = 20.0
"""The most seconds that files are made for, to predict the bytes of others."""


@dataclass(frozen=True)
class Prepared:
    """An experiment that was checked against its script's model.

    Attributes
    ----------
    projection
        Tells what a sample costs; None where nobody asks, or where that is not known before a trial.
    warm, worker
        The warm process, and this process's client of it; None where trials need none.
    """

    experiment: Experiment
    model: ModelInfo | None
    space: SearchSpace
    projection: Projection | None
    warm: WarmSpec | None
    worker: Worker | None


@contextmanager
def prepared(
    experiment: Experiment,
    view: View,
    *,
    meanwhile: AbstractContextManager[Any] | None = None,
    here: bool = True,
    before: ModelInfo | None = None,
) -> Iterator[Prepared]:
    """Start the warm process, learn the model's layers from the script, and check the experiment against them.

    Parameters
    ----------
    meanwhile
        Entered while the warm process loads the script's libraries: what takes its own time to start.
    here
        Whether trials run on this machine alone, so that its size is theirs.
    before
        The model as an earlier run of this very search has found it: its latencies are not measured again, where that
        is right, and its channels are rounded alike. Without it those of other searches in the same results folder are
        looked at.

    Raises
    ------
    ExperimentError
        The experiment does not fit the model.
    ScriptError
        The script fails before its model is known.
    MissingDependencyError
        What the experiment asks for needs a library that is not installed.
    """
    check_extras(experiment)
    cpus, gpus = (machine_cpus(), machine_gpus()) if here else (math.inf, math.inf)
    for note in preflight.notes(experiment, cpus, gpus):
        view.note(note)
    warm = warm_spec(experiment)
    for note in (*environment_notes(warm.preload), *prescript_notes(experiment.prescript)):
        view.note(note)
    view.phase("loading the script's libraries")
    fits: Fits = None if before is None else before.latency_models or None
    with ThreadPoolExecutor(1) as pool, closing(WarmProcess.start(warm)) as process:
        known = known_fits(experiment, fits, models(experiment.storage))
        inspected = pool.submit(_inspected, experiment, process, view, known)
        with meanwhile or nullcontext():
            view.phase("inspecting the model")
            worker, model, unread = inspected.result()
            with closing(worker):
                for note in unread:
                    view.note(note)
                report_preload(worker.wait_ready(), experiment, view)
                model = _with_round_to(experiment, model, before)
                experiment = with_round_to(experiment, model)
                space = checked_space(experiment, model, view)
                predicted = notes_on(experiment, model, known, is_again=fits is not None)
                for note in (*predicted, *notes(experiment, space)):
                    view.note(note)
                projection = projected(experiment, model, space, view)
                yield Prepared(with_latency(experiment, model), model, space, projection, warm, worker)


def _with_round_to(experiment: Experiment, model: ModelInfo | None, before: ModelInfo | None) -> ModelInfo | None:
    """Return the model with what its channels are rounded to: as an earlier run of the search has chosen it."""
    if model is None:
        return None
    return replace(model, round_to=round_to_of_targets(experiment, model) if before is None else before.round_to)


def _inspected(
    experiment: Experiment, process: WarmProcess, view: View, fits: Sequence[LatencyModel]
) -> tuple[Worker, ModelInfo | None, list[str]]:
    worker = process.connect()
    try:
        given: list[Message] = []
        left: list[Message] = []
        model = inspect(experiment, worker, given=given, left=left, rehearse=True, progress=view.progress, fits=fits)
        check_given(given, SearchSpace.of(unexpanded(experiment)), lambda sample: _given(experiment, worker, sample))
        return worker, model, unread_notes(experiment, left[-1]["reads"] if left else None)
    except BaseException:
        worker.close()
        raise


def report_preload(hello: Hello, experiment: Experiment, view: View) -> None:
    """Note imports that failed in the warm process; ScriptError where no trial can be forked from it."""
    if hello.probe:
        raise ScriptError(
            f"a trial cannot be forked from a process with the script's imports: {hello.probe}",
            where=str(experiment.script_path),
            fix="move what starts threads or touches a GPU from the module level of the script's imports into main()",
        )
    for problem in hello.problems:
        view.note(f"{problem.where}: {problem.module} cannot be preloaded, so each trial imports it ({problem.error})")


def inspect(
    experiment: Experiment,
    worker: Worker,
    *,
    given: list[Message] | None = None,
    left: list[Message] | None = None,
    rehearse: bool = False,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _what: None,
    fits: Sequence[LatencyModel] = (),
) -> ModelInfo | None:
    """Run the script up to its first batch and return its model's layers; None when it makes no compressor.

    Parameters
    ----------
    given, left
        Take the script's messages of these types.
    rehearse
        Whether the compressor is made as in a trial, too.
    progress
        Called with how far the inspection is, where that takes long.
    fits
        What earlier inspections have fitted in deployment targets.

    Raises
    ------
    ScriptError
        The script fails on its way there.
    ExperimentError, CompressionError
        The compressor cannot work on this model, and the experiment fits its layers otherwise.
    """
    refused: list[Message] = []
    kept = {"given": [] if given is None else given, "left": [] if left is None else left, "refused": refused}

    def heed(message: Message) -> None:
        if message["type"] == "progress":
            progress(message["done"], message["total"], message["layer"])
        kept.get(message["type"], []).append(message)

    found, ending = run_for_answer(
        worker,
        experiment,
        "inspect",
        centre_config(experiment),
        answer="model",
        on_message=heed,
        **_wanted(experiment, rehearse=rehearse, fits=fits),
    )
    if found is not None:
        model = ModelInfo.from_json(found["model"])
        elsewhere = experiment.resources.gpu and machine_gpus() == 0  # trials run on another device than this script
        if refused and not preflight.check_model(experiment, model)[0]:  # which has places and fixes of its own
            raise refusal(experiment, refused[0])
        return without_eager(experiment, model) if elsewhere else model
    if ending.state in (TrialState.FINISHED, TrialState.NO_RESULT):
        return None
    raise ScriptError(
        f"the script failed before its model was known: {ending.cause}",
        where=ending.frame or str(experiment.script_path),
        fix=last_lines(ending),
    )


def _given(experiment: Experiment, worker: Worker, sample: Mapping[str, Any]) -> list[Message]:
    """Return what the script gives `create_compressor` in a trial of `sample`."""
    given: list[Message] = []
    config = _inspection_config(experiment, sample)
    for message in messages_of(worker, experiment, "inspect", config):
        if not isinstance(message, Ending) and message["type"] == "given":
            given.append(message)
    return given


def _wanted(experiment: Experiment, *, rehearse: bool, fits: Sequence[LatencyModel]) -> dict[str, Any]:
    """Return what is asked of the inspection: costs, and keys of a config to make the compressor with."""
    analysis: dict[str, Any] = {"costs": True} if experiment.wants_sizes else {}
    if names := predicted_in(experiment):
        known = [one.to_json() for one in fits if one.target in names]
        analysis["deployed"] = {"targets": names, "budget_s": budget_s(experiment), "known": known}
    if timed := timed_in(experiment):
        analysis["dense"] = timed
    if experiment.wants_file_bytes:
        analysis["file"] = {"stage": _last_stage(experiment), "budget_s": min(_FILES_S, budget_s(experiment))}
    if (depth := experiment.compression.depth) is not None:
        analysis["blocks"] = "ordered" if "drop" in depth else "named"
    if rehearse:
        space = SearchSpace.of(unexpanded(experiment))
        # at the most that is searched: a layer that loses nothing at less is for the trial to tell
        built = space.build({**space.centre(), **{one.name: one.most for one in space.sparsities}})
        fixed = compression_config(experiment)
        when = {key: value for key, value in fixed.items() if key == SLICE_KEY}
        if experiment.compression.depth is not None:  # that the blocks may go is proved by the inspection
            when[DEPTH_KEY] = {"drop": []}
        analysis["rehearse"] = {**searched_part(fixed, built), **when}
    timeout_s = experiment.trial_timeout_s
    if names and timeout_s is not None:
        return {"analysis": analysis, "timeout_s": timeout_s + _LONGEST_S * len(names)}
    return {"analysis": analysis} if analysis else {}


def _last_stage(experiment: Experiment) -> dict[str, Any]:
    """Return the stage that quantizes, with the ranges of its entries, and its arguments in the middle of theirs."""
    space = SearchSpace.of(unexpanded(experiment))
    arguments, last = last_stage(space.build(space.centre()))["arguments"], experiment.stages[-1]
    return {"compressor": last.compressor, "config_list": [*map(dict, last.config_list)], "arguments": arguments}


def refusal(experiment: Experiment, message: Message) -> RaycompressError:
    """Return the error that the compressor of a trial would raise, with places in the file."""
    problems = [Problem(**problem) for problem in message["problems"]]
    if problems[0].where.startswith("target "):  # the runtime's, or the agent's
        place = experiment.where(("target",))
        return DeploymentError.of([replace(problem, where=place) for problem in problems])
    kind = ExperimentError if message["error"] == "ExperimentError" else CompressionError
    return kind.of([replace(problem, where=_in_file(experiment, problem.where)) for problem in problems])


def _in_file(experiment: Experiment, where: str) -> str:
    """Return a place in the config of a trial with nothing expanded as the place in the file."""
    place = re.fullmatch(r"(?:compression\[(\d+)\]\.)?config_list(?:\[(\d+)\](?:\.(\w+))?)?", where)
    if place is None:
        return where if "/" in where else f"{experiment.script_path}  {where}".rstrip()
    stage = list(experiment.each_stage())[int(place[1] or 0)]
    entry = () if place[2] is None else (int(place[2]),)
    return stage.where(("compression", "config_list", *entry, *((place[3],) if place[3] else ())))


def centre_config(experiment: Experiment) -> dict[str, Any]:
    """Return the config for a run that only inspects the model: the middle of every range, nothing saved."""
    return _inspection_config(experiment, SearchSpace.of(unexpanded(experiment)).centre())


def _inspection_config(experiment: Experiment, sample: Mapping[str, Any]) -> dict[str, Any]:
    space = SearchSpace.of(unexpanded(experiment))
    config = trial_config(compression_config(experiment), space.build(sample), number=0, saves_into=None)
    return {**config, **({"n_iterations": 1} if experiment.proposer in BUDGETED else {})}


def projected(experiment: Experiment, model: ModelInfo | None, space: SearchSpace, view: View) -> Projection | None:
    """Return the projection that computes a sample's costs; None if not needed, or, with a note, if it is unknown.

    Raises
    ------
    ExperimentError
        No sample can keep to the budgets.
    """
    if experiment.proposer == "guided" and model is not None and not model.has_evaluator:
        view.note(_WITHOUT_EVALUATOR)
    if experiment.rung0 and model is not None and not model.has_evaluator:
        raise ExperimentError(
            "rung 0 scores models by the script's evaluator, and the script passes none to create_compressor",
            where=experiment.where(("scheduler", "rung0")),
            fix="rc.create_compressor(..., evaluator=lambda model: accuracy(model)), or remove rung0",
        )
    if experiment.proposer == "guided" and space.dimensions and not space.guided:
        raise ExperimentError(
            "guided proposes sparsities, bits and blocks by what each layer bears, and none of these is searched here",
            where=experiment.where(("proposer",)),
            fix='write {"type": "float", "range": [0.0, 0.9]} for a sparsity, or another proposer, such as "optuna"',
        )
    is_followed = experiment.compression.entry.removes_channels or experiment.wants_file_bytes
    if model is None or not experiment.wants_sizes or not is_followed:
        return None
    unknown = model.costs_unknown or "no input of the model was seen"
    if model.costs is not None:
        unknown = why_not(experiment, model, model.costs)
        projection = Projection.of(experiment, space, Forecast.of(experiment, model, model.costs))
        if not unknown:
            if problems := list(check_budgets(experiment, projection)):
                raise ExperimentError.of(problems)
            return projection
    if experiment.proposer == "guided":
        raise ExperimentError(
            f"guided has to know what a proposal costs before its trial: {unknown}",
            where=experiment.where(("proposer",)),
            fix='take another proposer, such as "optuna", or what is named here',
        )
    if ceilings(experiment):
        view.note(
            f"sizes cannot be computed before training, so each trial ends if its model is over budget: {unknown}"
        )
    return None


def unexpanded(experiment: Experiment) -> Experiment:
    """Return the experiment with each entry as one dimension, which needs no knowledge of the layers or blocks."""
    first, *later = map(_unexpanded, experiment.stages)
    return replace(experiment, compression=first, later=tuple(later))


def _unexpanded(stage: Compression) -> Compression:
    entries = tuple({**entry, "expand_op_names": False} for entry in stage.config_list)
    return replace(stage, config_list=entries, depth=without_model(stage.depth))


def checked_space(experiment: Experiment, model: ModelInfo | None, view: View) -> SearchSpace:
    """Check the experiment against its model and return its search space, layers expanded."""
    if model is None:
        if experiment.save_model or SearchSpace.needs_model(experiment):
            raise ScriptError(
                "the script never calls create_compressor, so its layers are not known and it saves no model",
                where=str(experiment.script_path),
                fix="call rc.create_compressor(model, config) and train the model that its compress() returns",
            )
        view.note("the script makes no compressor of ours: its layers are not checked, and no model is kept")
        return SearchSpace.of(experiment, None)
    problems, notes = preflight.check_model(experiment, model)
    if problems:
        raise ExperimentError.of(problems)
    for note in notes:
        view.note(note)
    return SearchSpace.of(experiment, model)
