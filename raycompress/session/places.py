"""Where the trials of a search run, and what that takes before the first one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from raycompress.backend.here import HereBackend
from raycompress.backend.protocol import Backend, MakeBackend, TrialPlan
from raycompress.backend.ray.local import LocalRay
from raycompress.config.checks.preflight import check_extras
from raycompress.config.experiment import Experiment
from raycompress.config.search_space import SearchSpace
from raycompress.model.info import ModelInfo
from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal.journal import Journal, read
from raycompress.results.record import SearchRecord
from raycompress.runtime.machine import machine_cpus
from raycompress.search.plan import parallel
from raycompress.search.watch.view import View
from raycompress.session.prepare import Prepared, prepared, unexpanded
from raycompress.session.verify import verify, verify_again


class RayHere(AbstractContextManager[Any], Protocol):
    """Ray, connected to between the begin and the end of a ``with`` statement."""

    def nodes(self) -> Sequence[Mapping[str, float]]:
        """Return what each node offers, by Ray's own names; memory in bytes."""


class Place(Protocol):
    """Where the trials of a search run.

    Attributes
    ----------
    takes_signals
        Whether Ctrl-C and its like stop the search; else they are the trial's.
    """

    takes_signals: bool

    def prepared(
        self, experiment: Experiment, view: View, before: ModelInfo | None = None
    ) -> AbstractContextManager[Prepared]:
        """Check the experiment, and have ready what its trials need while the ``with`` statement lasts.

        Parameters
        ----------
        before
            As `prepare.prepared` takes it.
        """

    def n_slots(self, experiment: Experiment, view: View) -> int:
        """Return how many trials run at a time."""

    def check(self, experiment: Experiment, folder: ExperimentFolder, view: View) -> None:
        """Make sure that trials find what they need wherever they run; ClusterError where they do not."""

    def loggers(self, experiment: Experiment, folder: ExperimentFolder) -> dict[str, Any]:
        """Return the loggers that the experiment names, ready; ExperimentError where one does not start."""

    def watched(self, journal: Journal, view: View) -> AbstractContextManager[Any]:
        """Open the search to whoever watches it from outside, while the ``with`` statement lasts."""

    def backend(self, experiment: Experiment, plan: TrialPlan, n_slots: int) -> Backend:
        """Return who runs the trials."""

    def verify(self, ready: Prepared, record: SearchRecord, view: View) -> dict[str, Any] | None:
        """Reload the best model and return what that gave, as `verify.verify`; None where nothing can be."""


def place_of(experiment: Experiment, ray: RayHere | None, backend: MakeBackend | None) -> Place:
    """Return where trials run: on `backend` if it is given, in this process if passive, else on `ray`."""
    if backend is not None:
        return OnBackend(backend)
    return Here() if experiment.proposer == "passive" else OnRay(ray or LocalRay(machine_cpus()))


class OnRay:
    """Ray Tune runs the trials, on this machine or on a cluster's.

    Ray is imported by its functions alone: it must not be before `LocalRay` was entered.
    """

    takes_signals = True

    def __init__(self, ray: RayHere) -> None:
        self._ray = ray

    @contextmanager
    def prepared(self, experiment: Experiment, view: View, before: ModelInfo | None = None) -> Iterator[Prepared]:
        """Start Ray while the warm process loads, and inspect the model."""
        is_local = isinstance(self._ray, LocalRay)
        if is_local:
            parallel(experiment)
        with prepared(experiment, view, meanwhile=self._ray, here=is_local, before=before) as ready:
            yield ready

    def n_slots(self, experiment: Experiment, view: View) -> int:
        """Say so where a cluster has no room for all that are asked for."""
        nodes = self._ray.nodes()
        n_slots = parallel(experiment, nodes)
        if n_slots < experiment.n_parallel and not isinstance(self._ray, LocalRay):
            view.note(
                f"{n_slots} trials run at a time: the {len(nodes)} nodes have no room for {experiment.n_parallel}"
            )
        return n_slots

    def check(self, experiment: Experiment, folder: ExperimentFolder, view: View) -> None:
        """Look at what each node sees."""
        from raycompress.backend.ray.cluster import check_nodes

        shared = {experiment.script_path: "put the script, and what it reads, where every node sees it"}
        if not folder.is_remote:
            shared[folder.experiment] = 'name a folder that all nodes share with "storage", or s3://bucket/prefix'
        for note in check_nodes(shared):
            view.note(note)

    def loggers(self, experiment: Experiment, folder: ExperimentFolder) -> dict[str, Any]:
        """Set up Tune's own."""
        from raycompress.backend.tune.loggers import set_up

        return set_up(experiment, folder)

    @contextmanager
    def watched(self, journal: Journal, view: View) -> Iterator[None]:
        """Feed Ray's metrics where there is a dashboard on this machine, and say where both are."""
        if not (isinstance(self._ray, LocalRay) and self._ray.dashboard):
            yield
            return
        from raycompress.backend.ray import dashboard, metrics

        with metrics.Meters() as meters:
            for event in read(journal.path):  # of a search that is resumed
                meters.add(event)
            journal.listen(meters.add)
            for note in dashboard.notes(self._ray.address):
                view.note(note)
            yield

    def backend(self, experiment: Experiment, plan: TrialPlan, n_slots: int) -> Backend:
        """Return Tune."""
        from raycompress.backend.tune.backend import TuneBackend

        return TuneBackend(plan, n_slots, experiment.resources)

    def verify(self, ready: Prepared, record: SearchRecord, view: View) -> dict[str, Any]:
        """Take the warm process that has inspected the model."""
        assert ready.worker is not None, "`prepared` has started it"
        view.phase("verifying the best model in a fresh process")
        return verify(ready.experiment, ready.worker, record)


class OnBackend:
    """A backend that is given runs the trials; the script is not looked at, and no layer's name is expanded."""

    takes_signals = False

    def __init__(self, make: MakeBackend) -> None:
        self._make = make

    @contextmanager
    def prepared(self, experiment: Experiment, view: View, before: ModelInfo | None = None) -> Iterator[Prepared]:
        """Nothing is started."""
        yield Prepared(experiment, None, SearchSpace.of(unexpanded(experiment)), None, None, None)

    def n_slots(self, experiment: Experiment, view: View) -> int:
        """As many as are asked for."""
        return experiment.n_parallel

    def check(self, experiment: Experiment, folder: ExperimentFolder, view: View) -> None:
        """Trials run here."""

    def loggers(self, experiment: Experiment, folder: ExperimentFolder) -> dict[str, Any]:
        """They are Tune's, and need Ray."""
        return {}

    def watched(self, journal: Journal, view: View) -> AbstractContextManager[Any]:
        """There is no dashboard."""
        return nullcontext()

    def backend(self, experiment: Experiment, plan: TrialPlan, n_slots: int) -> Backend:
        """Return the one that was given."""
        return self._make(plan, n_slots)

    def verify(self, ready: Prepared, record: SearchRecord, view: View) -> dict[str, Any] | None:
        """There may be no script that makes the model."""
        return None


class Here(OnBackend):
    """This process runs the one trial of a passive experiment, every search range at its middle."""

    def __init__(self) -> None:
        super().__init__(lambda plan, _n_slots: HereBackend(plan))

    @contextmanager
    def prepared(self, experiment: Experiment, view: View, before: ModelInfo | None = None) -> Iterator[Prepared]:
        """Say what a passive trial is, and what it is not."""
        check_extras(experiment)
        for note in experiment.accepted:
            view.note(note)
        with super().prepared(experiment, view) as ready:
            what = "every range at its middle" if ready.space.dimensions else "without a search"
            view.note(f"passive: one trial in this process, {what}")
            if experiment.loggers:
                view.note(f"a passive trial is not logged to {' and '.join(experiment.loggers)}, which need Ray")
            yield ready

    def n_slots(self, experiment: Experiment, view: View) -> int:
        """One: there is one process."""
        return 1

    def verify(self, ready: Prepared, record: SearchRecord, view: View) -> dict[str, Any]:
        """Start a process for it."""
        return verify_again(ready.experiment, record, view)
