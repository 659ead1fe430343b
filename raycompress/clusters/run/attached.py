"""Attaches to a search that was left running on a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from raycompress.clusters.file import files
from raycompress.clusters.reach.running import AddressCluster, Cluster, FileCluster
from raycompress.clusters.run.following import Follower
from raycompress.clusters.run.launch import fetch
from raycompress.clusters.run.mirror import Mirror, Submitted
from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal.journal import Event
from raycompress.results.record import SearchRecord
from raycompress.search.watch.view import SearchView


def cluster_of(submitted: Submitted) -> Cluster:
    """Return the cluster that a search was submitted to."""
    if submitted.is_address:
        return AddressCluster(submitted.cluster)
    return FileCluster(files.load(files.find(submitted.cluster)))


class Silent:
    """A view that shows nothing."""

    def phase(self, text: str) -> None:
        """Show nothing."""

    def progress(self, done: int, total: int, what: str) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""

    def history(self, events: Iterable[Event]) -> None:
        """Show nothing."""

    def event(self, event: Event) -> None:
        """Show nothing."""


@dataclass(frozen=True)
class Attached:
    """A search that runs on a cluster, or has run there, and its copy here."""

    folder: ExperimentFolder
    submitted: Submitted
    cluster: Cluster

    def bring_up_to_date(self, view: SearchView, *, follow: bool = False) -> Follower:
        """Copy what has happened, and with `follow` what happens until the search ends; show it in `view`."""
        follower = Follower(view, lambda event: Mirror(self.folder, self.submitted))
        try:
            follower.follow(self.cluster, self.submitted.job, only_so_far=not follow)
        finally:
            follower.close()
        return follower

    @contextmanager
    def held(self) -> Iterator[None]:
        """Bring the copy up to date, and hold it for as long as the search runs: who reads it sees that it does."""
        follower = Follower(Silent(), lambda event: Mirror(self.folder, self.submitted))
        try:
            follower.follow(self.cluster, self.submitted.job, only_so_far=True)
            if self.cluster.jobs.has_ended(self.submitted.job):
                follower.close()
            yield
        finally:
            follower.close()

    def stop(self) -> None:
        """Stop the search; it keeps its best so far."""
        self.cluster.jobs.stop(self.submitted.job, SearchRecord(self.folder).header["pid"])

    def fetch(self) -> SearchRecord:
        """Bring its results here; see `raycompress.clusters.run.launch.fetch`."""
        return fetch(self.cluster, self.submitted, self.folder)


@contextmanager
def attached(folder: ExperimentFolder) -> Iterator[Attached | None]:
    """Reach the cluster that the search of `folder` runs on; None for a search of this machine."""
    submitted = Submitted.of(folder)
    if submitted is None:
        yield None
        return
    cluster = cluster_of(submitted)
    try:
        yield Attached(folder, submitted, cluster)
    finally:
        cluster.close()
