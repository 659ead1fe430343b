"""The whole life of a search on this machine: inspect, check, search, verify."""

from __future__ import annotations

import importlib.util
import os
import platform
import tempfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

from raycompress.errors import BundleError, ExperimentError, MissingDependencyError, ScriptError
from raycompress.experiment import preflight
from raycompress.experiment.jsontext import JsonPath
from raycompress.experiment.model import ModelInfo
from raycompress.experiment.schema import Experiment
from raycompress.experiment.search_space import SearchSpace
from raycompress.results import store
from raycompress.results.bundle import TOLERANCE
from raycompress.results.journal import VERSION, Event, Journal
from raycompress.results.record import Experiment as Record
from raycompress.results.states import TrialState
from raycompress.script.context import Mode
from raycompress.tuning.local_ray import LocalRay, machine_cpus, machine_gpus
from raycompress.tuning.plan import BUDGETED, n_trials, notes, parallel
from raycompress.tuning.preload import find_imports
from raycompress.tuning.protocol import Message, trial_config
from raycompress.tuning.worker import Ending, Hello, TrialSpec, WarmProcess, WarmSpec, Worker


class View(Protocol):
    """Whoever watches a search: the terminal."""

    def phase(self, text: str) -> None:
        """What is being done now, outside of the trials."""

    def note(self, text: str) -> None:
        """Something worth knowing that is no mistake."""

    def event(self, event: Event) -> None:
        """Something that stands in the journal by now."""


@dataclass(frozen=True)
class Prepared:
    """An experiment whose script has been inspected and whose mistakes have been told."""

    experiment: Experiment
    model: ModelInfo | None
    space: SearchSpace
    warm: WarmSpec
    worker: Worker


@contextmanager
def prepared(
    experiment: Experiment, view: View, *, meanwhile: AbstractContextManager[Any] | None = None
) -> Iterator[Prepared]:
    """Start the warm process, learn the model's layers from the script, and check the experiment against them.

    Parameters
    ----------
    meanwhile
        Entered while the warm process loads the script's libraries: what takes its own time to start.

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
    for note in preflight.notes(experiment, machine_cpus(), machine_gpus()):
        view.note(note)
    warm = warm_spec(experiment)
    view.phase("loading the script's libraries")
    with ThreadPoolExecutor(1) as pool, closing(WarmProcess.start(warm)) as process:
        inspected = pool.submit(_inspected, experiment, process)
        with meanwhile or nullcontext():
            view.phase("inspecting the model")
            worker, model = inspected.result()
            with closing(worker):
                tell_of_preload(worker.wait_ready(), experiment, view)
                space = checked_space(experiment, model, view)
                for note in notes(experiment, space):
                    view.note(note)
                yield Prepared(experiment, model, space, warm, worker)


def check_extras(experiment: Experiment) -> None:
    """Raise MissingDependencyError, importing nothing, where what is asked for needs a library that is not here."""
    wanted: list[tuple[str, JsonPath, tuple[str, ...], str]] = []
    if "onnx" in experiment.exports:
        wanted.append(('"export": ["onnx"]', ("export",), ("onnx", "onnxruntime"), "onnx"))
    if experiment.proposer == "bohb":
        wanted.append(('"proposer": "bohb"', ("proposer",), ("hpbandster", "ConfigSpace", "statsmodels"), "bohb"))
    for what, key, libraries, extra in wanted:
        for library in libraries:
            if importlib.util.find_spec(library) is None:
                raise MissingDependencyError(
                    f"{what} needs {library}, which is not installed",
                    where=experiment.where(key),
                    fix=f"pip install 'raycompress[{extra}]'",
                )


def _inspected(experiment: Experiment, process: WarmProcess) -> tuple[Worker, ModelInfo | None]:
    worker = process.connect()
    try:
        return worker, inspect(experiment, worker)
    except BaseException:
        worker.close()
        raise


def tell_of_preload(hello: Hello, experiment: Experiment, view: View) -> None:
    """Note imports that failed in the warm process; ScriptError where no trial can be forked from it."""
    if hello.probe:
        raise ScriptError(
            f"a trial cannot be forked from a process with the script's imports: {hello.probe}",
            where=str(experiment.script_path),
            fix="move what starts threads or touches a GPU from the module level of the script's imports into main()",
        )
    for problem in hello.problems:
        view.note(f"{problem.where}: {problem.module} is imported by each trial anew ({problem.error})")


def warm_spec(experiment: Experiment) -> WarmSpec:
    """Return what the warm process is to be that an experiment's trials are forked from."""
    threads = str(max(1, int(experiment.resources.cpu)))
    entry = experiment.compression.entry
    return WarmSpec(
        name=f"{experiment.name}-{uuid.uuid4().hex[:8]}",
        workingdir=str(experiment.workingdir),
        preload=find_imports(
            experiment.script_path,
            experiment.workingdir,
            engine=entry.engine.partition(":")[0],
            framework=entry.framework,
        ),
        sys_path=(str(experiment.script_path.parent),),
        env={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **_of_tensorflow(threads)},
    )


def _of_tensorflow(threads: str) -> dict[str, str]:
    """Return what TensorFlow reads when it is imported: how many threads, and that its own log is for errors."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")}
    return {"TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": threads, **quiet}


def trial_template(experiment: Experiment) -> dict[str, Any]:
    """Return what all trials' specifications have in common."""
    return {
        "script": str(experiment.script_path),
        "script_args": tuple(experiment.script_args),
        "workingdir": str(experiment.workingdir),
        "env": {**({} if experiment.resources.gpu else {"CUDA_VISIBLE_DEVICES": ""}), **experiment.env},
        "timeout_s": experiment.trial_timeout_s,
        "threads": max(1, int(experiment.resources.cpu)),
        "save_model": experiment.save_model is not False,
        "result_labels": tuple(experiment.metric_labels),
        "exports": experiment.exports,
        "prescript": experiment.prescript,
        "postscript": experiment.postscript,
    }


def compression_config(experiment: Experiment) -> dict[str, Any]:
    """Return the part of a trial's config that is the same in all of them."""
    compression = experiment.compression
    return {
        "compressor": compression.compressor,
        "compression_framework": compression.framework,
        "compression_type": compression.type,
    }


def inspect(experiment: Experiment, worker: Worker) -> ModelInfo | None:
    """Run the script up to its first batch and return its model's layers; None when it makes no compressor.

    Raises
    ------
    ScriptError
        The script fails on its way there.
    """
    found, ending = excursion(worker, experiment, "inspect", centre_config(experiment), answer="model")
    if found is not None:
        return ModelInfo.from_json(found["model"])
    if ending.state in (TrialState.FINISHED, TrialState.NO_RESULT):
        return None
    raise ScriptError(
        f"the script failed before its model was known: {ending.cause}",
        where=ending.frame or str(experiment.script_path),
        fix=last_lines(ending),
    )


def centre_config(experiment: Experiment) -> dict[str, Any]:
    """Return the config of a script that is run to learn of its model: the middle of every range, nothing saved."""
    space = SearchSpace.of(unexpanded(experiment))
    config = trial_config(compression_config(experiment), space.build(space.centre()), number=0, saves_into=None)
    return {**config, **({"n_iterations": 1} if experiment.proposer in BUDGETED else {})}


def unexpanded(experiment: Experiment) -> Experiment:
    """Return the experiment with each entry as one dimension, which needs no knowledge of the layers."""
    entries = tuple({**entry, "expand_op_names": False} for entry in experiment.compression.config_list)
    return replace(experiment, compression=replace(experiment.compression, config_list=entries))


def excursion(
    worker: Worker,
    experiment: Experiment,
    mode: Mode,
    config: dict[str, Any],
    *,
    answer: str,
    heard: Callable[[Message], None] = lambda _message: None,
    **more: Any,
) -> tuple[dict[str, Any] | None, Ending]:
    """Run the script for an answer instead of a result; return it, and the ending with the last lines of the log.

    `heard` is given every message on the way.
    """
    with tempfile.TemporaryDirectory(prefix="raycompress-") as folder:
        spec = TrialSpec(
            **{**trial_template(experiment), **more}, mode=mode, config=config, folder=folder, seed=experiment.seed
        )
        found: dict[str, Any] | None = None
        for message in worker.run(spec):
            if isinstance(message, Ending):
                return found, message.with_tail(12)
            heard(message)
            if message["type"] == answer:
                found = message
    raise AssertionError("a trial's messages end with its ending")


def last_lines(ending: Ending) -> str:
    """Return the end of a log for an error's fix; empty where nothing was printed."""
    lines = [f"        {line}" for line in ending.tail.splitlines()]
    return "\n".join(["its last lines were", *lines]) if lines else ""


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


def launch(experiment: Experiment, view: View) -> Record:
    """Run an experiment to its end and return its record.

    Raises
    ------
    ExperimentError, ScriptError
        Before the first trial: nothing was run and nothing is left.
    BundleError
        The best bundle, reloaded, does not give the outputs that were saved with it.
    """
    if experiment.proposer == "passive":
        from raycompress.tuning.passive import launch_here

        return launch_here(experiment, view)
    parallel(experiment)
    local_ray = LocalRay(machine_cpus())
    with prepared(experiment, view, meanwhile=local_ray) as ready:
        n_slots = parallel(experiment, local_ray.resources())
        folder = store.create(experiment.storage, experiment.name)
        journal = Journal(folder.journal)
        try:
            journal.listen(view.event)
            count = n_trials(experiment, ready.space)
            journal.append("experiment", **header(experiment, ready.space, folder, n_trials=count, n_slots=n_slots))
            store.write_whole(folder.experiment, experiment.text)
            if ready.model is not None:
                store.write_json(folder.model, ready.model.to_json())
            _search(ready, folder, journal, view, n_slots)
        finally:
            journal.close()
    return Record(folder)


def _search(ready: Prepared, folder: store.ExperimentFolder, journal: Journal, view: View, n_slots: int) -> None:
    from raycompress.tuning.stop import StopSwitch, thrown_by_signals
    from raycompress.tuning.trainable import TrialPlan
    from raycompress.tuning.tuner import Tuner

    experiment = ready.experiment
    switch = StopSwitch(experiment.time_budget_s)
    plan = TrialPlan(
        warm=ready.warm,
        folder=folder,
        template=trial_template(experiment),
        compression=compression_config(experiment),
        retries=experiment.job_retries,
        stream=experiment.track_intermediate_results,
        judged=experiment.early_stop is not None or experiment.budgets is not None,
    )
    tuner = Tuner(experiment, ready.space, plan, journal, switch, n_slots=n_slots)
    with thrown_by_signals(switch):
        tuner.run()
        record = Record(folder)
        if record.bundle is not None:
            view.phase("verifying the best model in a fresh process")
            try:
                journal.append("verified", **verify(experiment, ready.worker, record))
            except BundleError:
                journal.append("finished", reason="failure", detail="the best model failed its verification")
                raise
    journal.append("finished", reason=switch.reason or "complete", detail=switch.detail)


def header(
    experiment: Experiment, space: SearchSpace, folder: store.ExperimentFolder, *, n_trials: int, n_slots: int
) -> dict[str, Any]:
    """Return the fields of the journal's first event."""
    return {
        "version": VERSION,
        "id": folder.id,
        "name": experiment.name,
        "file": str(experiment.path),
        "script": str(experiment.script_path),
        "compressor": experiment.compression.compressor,
        "seed": experiment.seed,
        "proposer": experiment.proposer,
        "n_trials": n_trials,
        "n_parallel": n_slots,
        "goal": experiment.target,
        "dimensions": [dimension.name for dimension in space.dimensions],
        "host": platform.node(),
        "pid": os.getpid(),
    }


def verify(experiment: Experiment, worker: Worker, record: Record) -> dict[str, Any]:
    """Reload the best bundle into the script's own model, in a fresh process, and compare and measure it.

    Returns
    -------
    ``trial``, ``relative_difference`` of the outputs, ``before`` and ``after`` with params, flops, bytes and latency.

    Raises
    ------
    BundleError
        The bundle cannot be loaded, or does not give the outputs that were saved with it.
    """
    best, bundle = record.best, record.bundle
    assert best is not None and bundle is not None
    # the folder of the saved model is not one that the script may write into again
    config = {**best.config, "save_model": False}
    config.pop("folder_name", None)
    found, ending = excursion(worker, experiment, "verify", config, answer="verified", bundle=str(bundle))
    if found is None:
        raise BundleError(
            f"the best model cannot be verified: {ending.cause}",
            where=str(bundle),
            fix=last_lines(ending),
        )
    difference = found["relative_difference"]
    if not difference <= TOLERANCE:
        raise BundleError(
            f"the best model, reloaded, gives other outputs than the saved ones (relative difference {difference:.2g})",
            where=str(bundle),
            fix="set what the model computes with before create_compressor, or keep it in parameters and buffers",
        )
    return {"trial": best.number, **{name: value for name, value in found.items() if name != "type"}}


def verify_again(experiment: Experiment, record: Record, view: View) -> dict[str, Any]:
    """Verify the best bundle of an earlier search; see `verify`."""
    view.phase("loading the script's libraries")
    with closing(WarmProcess.start(warm_spec(experiment))) as process, closing(process.connect()) as worker:
        view.phase("verifying the best model in a fresh process")
        return verify(experiment, worker, record)
