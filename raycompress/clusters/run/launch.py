"""The whole life of a search on a cluster: bring up, submit, follow, fetch, tear down."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from raycompress.clusters.reach.running import Cluster
from raycompress.clusters.run.following import Follower
from raycompress.clusters.run.mirror import Mirror, Submitted
from raycompress.clusters.ship.package import Package
from raycompress.config.experiment import Experiment
from raycompress.config.places import S3Address, is_remote
from raycompress.disk import translate_os_errors
from raycompress.errors import ClusterError, ExperimentError, RaycompressError, StoppedError
from raycompress.results import store
from raycompress.results.folder import ExperimentFolder, new_id
from raycompress.results.journal.journal import Event
from raycompress.results.record import SearchRecord
from raycompress.search.watch.view import SearchView

_STOP_WAIT_S = 60
"""How long a search that is stopped has to save what it has, before Ray kills it."""


@dataclass(frozen=True)
class Again:
    """A search to go on with: its folder, as the nodes reach it, and how many samples it is to have in all."""

    folder: str
    n_samples: int | None = None


@dataclass(frozen=True)
class Request:
    """What a search on a cluster is to be.

    Attributes
    ----------
    home
        The results folder here, which gets a copy.
    keep
        Whether the cluster outlives the search.
    detach
        Whether to leave the search alone once it has begun.
    again
        Of a search that is resumed.
    """

    experiment: Experiment
    storage: str
    home: Path
    keep: bool = False
    detach: bool = False
    again: Again | None = None


@dataclass(frozen=True)
class Outcome:
    """How a launch ended: where its copy is, whether the search was left running, what kept it from its end."""

    folder: ExperimentFolder
    detached: bool = False
    error: RaycompressError | None = None

    @property
    def record(self) -> SearchRecord:
        """The search as the copy has it."""
        return SearchRecord(self.folder)


class Launch:
    """One search on one cluster.

    Parameters
    ----------
    on_interrupt
        Asked at Ctrl-C whether to leave the search running (true) or to stop it.
    """

    def __init__(self, request: Request, cluster: Cluster, view: SearchView, on_interrupt: Callable[[], bool]) -> None:
        self._request = request
        self._cluster = cluster
        self._view = view
        self._on_interrupt = on_interrupt
        self._submitted = Submitted(
            job=new_id(f"{'resume-' if request.again else ''}{request.experiment.name}"),
            cluster=cluster.name,
            storage=request.storage,
            keep=request.keep,
        )
        self._follower = Follower(view, self._begin)
        self._folder = ExperimentFolder(request.home / self._submitted.job)

    def run(self, package: Package, scratch: Path) -> Outcome:
        """Start the cluster, run the search, bring its results here, and tear the cluster down.

        Raises
        ------
        RaycompressError
            What failed; by then the cluster is torn down, unless it is to be kept.
        """
        with self._torn_down() as release:
            self._cluster.up(self._view)
            self._submit(package, scratch)
            if self._watch() or self._request.detach:
                release()
                return Outcome(self._folder, detached=True)
            if not self._follower.has_begun:
                raise self._follower.error or _never_begun()
            self._follower.close()
            self._view.phase("fetching the results")
            fetch(self._cluster, self._submitted, self._folder)
        return Outcome(self._folder, error=self._follower.error)

    def _submit(self, package: Package, scratch: Path) -> None:
        command = ["python", "-m", "raycompress", *self._verb(package), "--on-ray", "auto", "--events"]
        environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_WAIT_S), "PYTHONUNBUFFERED": "1"}
        runtime_env = {
            **self._cluster.runtime_env(scratch),
            "working_dir": str(package.archive),
            "env_vars": environment,
        }
        self._view.phase("submitting the search")
        self._cluster.jobs.submit(self._submitted.job, shlex.join(command), runtime_env)

    def _verb(self, package: Package) -> list[str]:
        again = self._request.again
        if again is None:
            return ["launch", package.experiment, "--id", self._submitted.job]
        n_samples = [] if again.n_samples is None else ["--n-samples", str(again.n_samples)]
        return ["resume", again.folder, "--file", package.experiment, *n_samples]

    def _watch(self) -> bool:
        """Follow the search; return whether the person leaves it running."""
        job = self._submitted.job
        try:
            self._follower.follow(self._cluster, job, until_begun=self._request.detach)
        except KeyboardInterrupt:
            if self._follower.has_begun and self._on_interrupt():
                return True
            self._view.phase("stopping the search")
            self._cluster.jobs.stop(job, SearchRecord(self._folder).header["pid"] if self._follower.has_begun else None)
            self._follower.follow(self._cluster, job)
        return False

    def _begin(self, event: Event) -> Mirror:
        """Begin the copy, under the name that the search has by now."""
        self._submitted = replace(self._submitted, search=event["id"])
        self._folder = ExperimentFolder(self._request.home / event["id"])
        return Mirror(self._folder, self._submitted, self._request.experiment.text)

    @contextmanager
    def _torn_down(self) -> Iterator[Callable[[], None]]:
        """Tear the cluster down at the end, however that comes, unless what is yielded was called."""
        stays: list[bool] = []
        try:
            yield lambda: stays.append(True)
        except RaycompressError as error:
            try:
                self._end(bool(stays))
            except ClusterError as another:
                raise ClusterError.of([*error.problems, *another.problems]) from error
            raise
        except BaseException:
            self._end(bool(stays))
            raise
        else:
            self._end(bool(stays))

    def _end(self, stays: bool) -> None:
        self._follower.close()
        if stays or self._request.keep or not self._cluster.is_ours:
            self._cluster.close()
        else:
            tear_down(self._cluster, self._view)


def _never_begun() -> StoppedError:
    error = StoppedError("the search was stopped before its first trial", fix="launch it again")
    error.exit_code = 130
    return error


def tear_down(cluster: Cluster, view: SearchView) -> None:
    """Tear a cluster down, and say what could not be made sure of."""
    view.phase("tearing the cluster down")
    for note in cluster.down():
        view.note(note)
    view.phase("the cluster is down; none of its nodes is left")


def fetch(cluster: Cluster, submitted: Submitted, folder: ExperimentFolder) -> SearchRecord:
    """Bring the results of a search here, and compare the hashes of its best model.

    Raises
    ------
    ClusterError
        They are on a disk that cannot be reached from here.
    BundleError
        What came is not what was saved.
    """
    from raycompress.bundle.bundle import check_hashes

    there = Path(submitted.folder)
    if is_remote(submitted.storage):
        _download_best(submitted, folder)
    elif there.resolve() != folder.root.resolve():
        if (there / "journal.jsonl").is_file():
            with translate_os_errors("cannot copy the results", folder.root):
                shutil.copytree(there, folder.root, symlinks=True, dirs_exist_ok=True)
        else:
            cluster.copy_here(submitted.folder, folder.root)
    record = SearchRecord(folder)
    if record.bundle is not None:
        check_hashes(record.bundle)
    return record


def _download_best(submitted: Submitted, folder: ExperimentFolder) -> None:
    """Download the best candidate from S3; the copy of the journal is here already."""
    remote = store.find(submitted.folder, S3Address.parse(submitted.storage))
    best = remote.best_number()
    if best is not None:
        score = SearchRecord(folder).records[best].score
        for number in {best, *remote.candidates()}:  # of a Pareto front there are several
            with translate_os_errors("cannot copy the results", folder.root):
                shutil.copytree(remote.fetch_candidate(number), folder.candidate(number), dirs_exist_ok=True)
        folder.point_to_best(best, score or 0.0)


def shared_storage(experiment: Experiment) -> str:
    """Return where the results go, as the experiment file says it: on the nodes, not here.

    Raises
    ------
    ExperimentError
        That is no place that the nodes share, or the experiment is none for a cluster.
    """
    if experiment.proposer == "passive":
        raise ExperimentError(
            "a passive trial runs in the command's own process, not on a cluster",
            where=experiment.where(("proposer",)),
            fix="take another proposer, or leave --cluster out",
        )
    storage = str(experiment.data.get("storage", ""))
    if not is_remote(storage) and not storage.startswith("/"):
        raise ExperimentError(
            "the nodes of a cluster need a place for results that all of them reach",
            where=experiment.where(("storage",)),
            fix='write "storage": "s3://bucket/prefix", or the absolute path of a disk that all nodes share',
        )
    return storage
