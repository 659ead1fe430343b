"""The whole life of a search: inspect, check, search, verify."""

from __future__ import annotations

import os
import platform
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from raycompress.backend.protocol import MakeBackend, TrialPlan
from raycompress.config.experiment import Experiment
from raycompress.config.search_space import SearchSpace
from raycompress.errors import BundleError, ClusterError, ExperimentError, RaycompressError
from raycompress.results import store
from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal.journal import VERSION, Journal, read
from raycompress.results.record import SearchRecord
from raycompress.search.history import SearchHistory
from raycompress.search.keeper import BestKeeper
from raycompress.search.plan import n_trials
from raycompress.search.search import Search, SearchPlan
from raycompress.search.switch import StopSwitch, thrown_by_signals
from raycompress.search.watch.loggers import notified
from raycompress.search.watch.view import SearchView
from raycompress.session import loop
from raycompress.session import resume as resuming
from raycompress.session.places import Place, RayHere, place_of
from raycompress.session.prepare import Prepared
from raycompress.session.proposer import proposer_of
from raycompress.session.script_run import compression_config, trial_template

__all__ = ["RayHere", "launch", "resume"]


def launch(
    experiment: Experiment,
    view: SearchView,
    *,
    ray: RayHere | None = None,
    name: str | None = None,
    backend: MakeBackend | None = None,
) -> SearchRecord:
    """Run an experiment to its end and return its record.

    Parameters
    ----------
    ray
        Where the trials run; on this machine by default. A passive experiment runs its one trial in this process.
    name
        The id of the experiment; made from its name and the time by default.
    backend
        Makes who runs the trials, in the place of Ray Tune; the script is then not inspected.

    Raises
    ------
    ExperimentError, ScriptError, ClusterError
        Before the first trial: nothing was run and nothing is left.
    CompressionError, ScriptError
        A guided search cannot measure the model: the experiment is left as one that failed, and can be resumed.
    BundleError
        The best bundle, reloaded, does not give the outputs that were saved with it.
    """
    place = place_of(experiment, ray, backend)
    store.check(experiment.storage)
    with place.prepared(experiment, view) as ready:
        n_slots = place.n_slots(experiment, view)
        folder = store.create(experiment.storage, experiment.name, name)
        try:
            folder.write(folder.experiment, experiment.text)
            place.check(experiment, folder, view)
            loggers = place.loggers(experiment, folder)
        except (ExperimentError, ClusterError):  # nothing is left of an experiment that has not begun
            folder.discard()
            raise
        with closing(folder.open_journal()) as journal:
            journal.listen(view.event)
            if ready.model is not None:
                store.write_model(folder, ready.model)
            count = n_trials(experiment, ready.space)
            header = _header(ready.experiment, ready.space, folder, n_trials=count, n_slots=n_slots)
            with place.watched(journal, view):
                journal.append("experiment", **header)
                _search(place, ready, folder, journal, view, n_slots, loggers)
    return SearchRecord(folder)


def resume(
    folder: ExperimentFolder,
    view: SearchView,
    *,
    file: Path | None = None,
    n_samples: int | None = None,
    ray: RayHere | None = None,
    backend: MakeBackend | None = None,
) -> SearchRecord:
    """Go on with an experiment that was killed or stopped, or add trials to it, and return its record.

    What has ended is not run again, and the searcher knows it; what was running is begun once more.

    Parameters
    ----------
    file
        The experiment file, where it is no longer where it was launched from, as on another machine.
    n_samples
        How many samples the search has in all from now on; as many as before by default.
    ray, backend
        Where the trials run; see `launch`.

    Raises
    ------
    UsageError
        The experiment cannot be resumed, or has more than `n_samples` samples already.
    ExperimentError
        The experiment file, or the model of its script, is no longer what was launched; or a logger does not start.
    StorageError
        Another process runs this experiment.
    """
    with closing(folder.open_journal()) as journal:
        record = SearchRecord(folder)
        experiment = resuming.experiment_of(record, n_samples, file)
        if resuming.is_done(record) and experiment.n_samples == resuming.n_samples_of(record, experiment):
            view.note(f"all {record.header['n_trials']} trials have ended; --n-samples adds some")
            return record
        place = place_of(experiment, ray, backend)
        before = store.read_model(folder)
        with place.prepared(experiment, view, before) as ready:
            resuming.check(record, ready)
            ready = resuming.as_before(record, ready)
            if ready.model is not None:  # with what was measured anew
                store.write_model(folder, ready.model)
            n_slots = place.n_slots(experiment, view)
            place.check(experiment, folder, view)
            loggers = place.loggers(experiment, folder)
            view.history(read(folder.journal))
            journal.listen(view.event)
            count, n_samples = n_trials(experiment, ready.space), ready.space.n_samples(experiment)
            if record.repeated is not None:  # those that may follow come on top
                count += sum(trial.repeat_of is not None for trial in record.records.values())
            counts = {"n_trials": count, "n_samples": n_samples, "n_parallel": n_slots}
            with place.watched(journal, view):
                journal.append("resumed", **_process(), **counts, **resuming.moved(experiment, file))
                _search(place, ready, folder, journal, view, n_slots, loggers, record)
    return SearchRecord(folder)


def _search(
    place: Place,
    ready: Prepared,
    folder: ExperimentFolder,
    journal: Journal,
    view: SearchView,
    n_slots: int,
    loggers: dict[str, Any],
    before: SearchRecord | None = None,
) -> None:
    """Run the trials that an earlier run, `before`, has not ended, and verify the best model."""
    experiment = ready.experiment
    switch = StopSwitch(experiment.time_budget_s)
    keeper = BestKeeper(folder, journal, experiment.objective)
    history = SearchHistory()
    if before is not None:
        lost = keeper.restore(before)
        for number in lost:
            view.note(f"the model of trial {number} is no longer whole: the trial is run again")
        history = SearchHistory.of(before, lost)
    try:
        proposer = proposer_of(ready, folder, view, n_slots, history)
    except RaycompressError as error:
        journal.append("finished", reason="failure", detail=error.problems[0].what)
        raise
    trials = _trial_plan(ready, folder)
    plan = SearchPlan(experiment, ready.space, trials, folder, proposer, history, ready.projection)
    search = Search(plan, journal, keeper, switch)
    with thrown_by_signals(switch) if place.takes_signals else nullcontext():
        with notified(loggers, folder, journal):
            loop.run(search, place.backend(experiment, trials, n_slots))
        _verify(place, ready, SearchRecord(folder), journal, view)
    journal.append("finished", reason=switch.reason or "complete", detail=switch.detail)


def _trial_plan(ready: Prepared, folder: ExperimentFolder) -> TrialPlan:
    experiment = ready.experiment
    return TrialPlan(
        warm=ready.warm,
        folder=folder.scratch(),
        template=trial_template(experiment),
        compression=compression_config(experiment),
        retries=experiment.job_retries,
        stream=experiment.track_intermediate_results,
        resources=experiment.resources,
        judged=experiment.early_stop is not None or experiment.budgets is not None,
        objective=experiment.objective,
    )


def _verify(place: Place, ready: Prepared, record: SearchRecord, journal: Journal, view: SearchView) -> None:
    """Reload the best model, where there is one, and write down what that gave."""
    if record.best_number is None:
        return
    try:
        found = place.verify(ready, record, view)
    except BundleError:
        journal.append("finished", reason="failure", detail="the best model failed its verification")
        raise
    if found is not None:
        journal.append("verified", **found)


def _header(
    experiment: Experiment, space: SearchSpace, folder: ExperimentFolder, *, n_trials: int, n_slots: int
) -> dict[str, Any]:
    """Return the fields of the journal's first event: what is searched, by which process."""
    return {
        "version": VERSION,
        "id": folder.id,
        "name": experiment.name,
        "file": str(experiment.path),
        "script": str(experiment.script_path),
        "compressor": experiment.compressors,
        "seed": experiment.seed,
        "proposer": experiment.proposer,
        "n_trials": n_trials,
        "n_samples": space.n_samples(experiment),
        "n_parallel": n_slots,
        "goal": experiment.target,
        **experiment.objective.to_header(),
        **({"rung0": experiment.evaluated} if experiment.rung0 else {}),
        "dimensions": [dimension.name for dimension in space.dimensions],
        **_process(),
    }


def _process() -> dict[str, Any]:
    """Return where the search is run from."""
    return {"host": platform.node(), "pid": os.getpid()}
