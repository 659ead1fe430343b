"""The whole life of a search on this machine: inspect, check, search, verify."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, Protocol

from raycompress.backend.ray.local import LocalRay
from raycompress.config.experiment import Experiment
from raycompress.errors import BundleError, ClusterError, ExperimentError, RaycompressError
from raycompress.forecast.prior import Prior
from raycompress.results import store
from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal.journal import Journal, read
from raycompress.results.record import SearchRecord
from raycompress.runtime.machine import machine_cpus
from raycompress.search.plan import n_trials, parallel
from raycompress.search.watch.view import SearchView, View
from raycompress.session.header import header, process
from raycompress.session.prepare import Prepared, prepared
from raycompress.session.script_run import compression_config, trial_template
from raycompress.session.verify import verify


class RayHere(AbstractContextManager[Any], Protocol):
    """Ray, connected to between the begin and the end of a ``with`` statement."""

    def nodes(self) -> Sequence[Mapping[str, float]]:
        """Return what each node offers, by Ray's own names; memory in bytes."""


def launch(
    experiment: Experiment, view: SearchView, *, ray: RayHere | None = None, name: str | None = None
) -> SearchRecord:
    """Run an experiment to its end and return its record.

    Parameters
    ----------
    ray
        Where the trials run; on this machine by default.
    name
        The id of the experiment; made from its name and the time by default.

    Raises
    ------
    ExperimentError, ScriptError, ClusterError
        Before the first trial: nothing was run and nothing is left.
    CompressionError, ScriptError
        A guided search cannot measure the model: the experiment is left as one that failed, and can be resumed.
    BundleError
        The best bundle, reloaded, does not give the outputs that were saved with it.
    """
    if experiment.proposer == "passive":
        from raycompress.session.passive import launch_here

        return launch_here(experiment, view)
    ray = ray or LocalRay(machine_cpus())
    if isinstance(ray, LocalRay):
        parallel(experiment)
    store.check(experiment.storage)
    with prepared(experiment, view, meanwhile=ray, here=isinstance(ray, LocalRay)) as ready:
        n_slots = _slots(experiment, ray, view)
        folder = store.create(experiment.storage, experiment.name, name)
        try:
            folder.write(folder.experiment, experiment.text)
            _check_nodes(experiment, folder, view)
            loggers = _loggers(experiment, folder)
        except (ExperimentError, ClusterError):  # nothing is left of an experiment that has not begun
            folder.discard()
            raise
        with closing(folder.open_journal()) as journal:
            journal.listen(view.event)
            _open_to_view(ray, journal, view)
            if ready.model is not None:
                folder.write(folder.model, json.dumps(ready.model.to_json(), indent=2) + "\n")
            count = n_trials(experiment, ready.space)
            journal.append(
                "experiment", **header(ready.experiment, ready.space, folder, n_trials=count, n_slots=n_slots)
            )
            _search(ready, folder, journal, view, n_slots, loggers)
    return SearchRecord(folder)


def resume(
    folder: ExperimentFolder,
    view: SearchView,
    *,
    file: Path | None = None,
    n_samples: int | None = None,
    ray: RayHere | None = None,
) -> SearchRecord:
    """Go on with an experiment that was killed or stopped, or add trials to it, and return its record.

    What has ended is not run again, and the searcher knows it; what was running is begun once more.

    Parameters
    ----------
    file
        The experiment file, where it is no longer where it was launched from, as on another machine.
    n_samples
        How many samples the search has in all from now on; as many as before by default.
    ray
        Where the trials run; on this machine by default.

    Raises
    ------
    UsageError
        The experiment cannot be resumed, or has more than `n_samples` samples already.
    ExperimentError
        The experiment file, or the model of its script, is no longer what was launched; or a logger does not start.
    StorageError
        Another process runs this experiment.
    """
    from raycompress.session import resume as resuming

    with closing(folder.open_journal()) as journal:
        record = SearchRecord(folder)
        experiment = resuming.experiment_of(record, n_samples, file)
        if resuming.is_done(record) and experiment.n_samples == resuming.n_samples_of(record, experiment):
            view.note(f"all {record.header['n_trials']} trials have ended; --n-samples adds some")
            return record
        ray = ray or LocalRay(machine_cpus())
        with prepared(experiment, view, meanwhile=ray, here=isinstance(ray, LocalRay)) as ready:
            resuming.check(record, ready)
            ready = resuming.as_before(record, ready)
            n_slots = _slots(experiment, ray, view)
            _check_nodes(experiment, folder, view)
            loggers = _loggers(experiment, folder)
            view.history(read(folder.journal))
            journal.listen(view.event)
            _open_to_view(ray, journal, view)
            count, n_samples = n_trials(experiment, ready.space), ready.space.n_samples(experiment)
            if record.repeated is not None:  # those that may follow come on top
                count += sum(trial.repeat_of is not None for trial in record.records.values())
            totals = {"n_trials": count, "n_samples": n_samples}
            journal.append("resumed", **process(), **totals, n_parallel=n_slots, **resuming.moved(experiment, file))
            _search(ready, folder, journal, view, n_slots, loggers, record)
    return SearchRecord(folder)


def _slots(experiment: Experiment, ray: RayHere, view: View) -> int:
    """Return how many trials run at a time, and say so where a cluster has no room for all that are asked for."""
    nodes = ray.nodes()
    n_slots = parallel(experiment, nodes)
    if n_slots < experiment.n_parallel and not isinstance(ray, LocalRay):
        view.note(f"{n_slots} trials run at a time: the {len(nodes)} nodes have no room for {experiment.n_parallel}")
    return n_slots


def _check_nodes(experiment: Experiment, folder: ExperimentFolder, view: View) -> None:
    """Make sure that each node of Ray sees what the trials need."""
    from raycompress.backend.ray.cluster import check_nodes  # imports ray, see below

    shared = {experiment.script_path: "put the script, and what it reads, where every node sees it"}
    if not folder.is_remote:
        shared[folder.experiment] = 'name a folder that all nodes share with "storage", or s3://bucket/prefix'
    for note in check_nodes(shared):
        view.note(note)


def _loggers(experiment: Experiment, folder: ExperimentFolder) -> dict[str, Any]:
    from raycompress.search.watch.loggers import set_up  # imports ray, which must not be before `LocalRay` was entered

    return set_up(experiment, folder)


def _open_to_view(ray: RayHere, journal: Journal, view: View) -> None:
    """Feed Ray's metrics where there is a dashboard on this machine, and say where both are."""
    if isinstance(ray, LocalRay) and ray.dashboard:
        from raycompress.backend.ray import dashboard
        from raycompress.search.watch import metrics

        meters = metrics.Meters()
        for event in read(journal.path):  # of a search that is resumed
            meters.take(event)
        journal.listen(meters.take)
        for note in dashboard.notes(ray.address):
            view.note(note)


def _search(
    ready: Prepared,
    folder: ExperimentFolder,
    journal: Journal,
    view: SearchView,
    n_slots: int,
    loggers: dict[str, Any],
    before: SearchRecord | None = None,
) -> None:
    """Run the trials that an earlier run, `before`, has not ended, and verify the best model."""
    from raycompress.backend.tune.stop import StopSwitch, thrown_by_signals
    from raycompress.backend.tune.trainable import TrialPlan
    from raycompress.backend.tune.tuner import Tuner
    from raycompress.search.history import SearchHistory
    from raycompress.search.keeper import BestKeeper
    from raycompress.search.watch.loggers import notified

    experiment = ready.experiment
    switch = StopSwitch(experiment.time_budget_s)
    plan = TrialPlan(
        warm=ready.warm,
        folder=folder.scratch(),
        template=trial_template(experiment),
        compression=compression_config(experiment),
        retries=experiment.job_retries,
        stream=experiment.track_intermediate_results,
        judged=experiment.early_stop is not None or experiment.budgets is not None,
        objective=experiment.objective,
    )
    keeper = BestKeeper(folder, journal, experiment.objective)
    history = SearchHistory()
    if before is not None:
        lost = keeper.restore(before)
        for number in lost:
            view.note(f"the model of trial {number} is no longer whole: the trial is run again")
        history = SearchHistory.of(before, lost)
    try:
        prior = _prior(ready, folder, view, n_slots)
    except RaycompressError as error:
        journal.append("finished", reason="failure", detail=error.problems[0].what)
        raise
    tuner = Tuner(
        experiment,
        ready.space,
        plan,
        folder,
        journal,
        switch,
        keeper=keeper,
        history=history,
        n_slots=n_slots,
        projection=ready.projection,
        prior=prior,
    )
    with thrown_by_signals(switch):
        with notified(loggers, folder, journal):
            tuner.run()
        _verify(ready, SearchRecord(folder), journal, view)
    journal.append("finished", reason=switch.reason or "complete", detail=switch.detail)


def _verify(ready: Prepared, record: SearchRecord, journal: Journal, view: SearchView) -> None:
    """Reload the best model, where there is one, and write down what that gave."""
    if record.best_number is None:
        return
    view.phase("verifying the best model in a fresh process")
    try:
        journal.append("verified", **verify(ready.experiment, ready.worker, record))
    except BundleError:
        journal.append("finished", reason="failure", detail="the best model failed its verification")
        raise


def _prior(ready: Prepared, folder: ExperimentFolder, view: SearchView, n_slots: int) -> Prior | None:
    """Return what a guided search knows before its first trial; None for other searches."""
    if ready.experiment.proposer != "guided" or not ready.space.dimensions:
        return None
    from raycompress.search.proposers.guided import turned
    from raycompress.session.survey import survey  # imports ray, as above

    assert ready.model is not None, "checked in preflight"
    found = survey(ready, folder, view, n_slots)
    return turned(found) if ready.experiment.target == "min" and not ready.model.has_evaluator else found
