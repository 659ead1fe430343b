"""Follows a search that is a cluster job: each line of its output once, across reconnections."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from raycompress.clusters.reach.running import Cluster
from raycompress.clusters.run.mirror import Mirror
from raycompress.errors import ClusterError, RaycompressError
from raycompress.results.journal.journal import Event
from raycompress.search.watch.relay import replay
from raycompress.search.watch.view import SearchView

_PATIENCE_S = 300.0
_REST_S = 1.0
_KEPT_LINES = 50
_SHOWN_LINES = 5


class Lines:
    """Splits chunks into whole lines, each once, although every connection begins with the first line."""

    def __init__(self) -> None:
        self._known = 0
        self._now = 0
        self._rest = ""

    def again(self) -> None:
        """Start over: a new connection begins with the first line."""
        self._now, self._rest = 0, ""

    def new(self, chunk: str) -> Iterable[str]:
        """Yield the lines that `chunk` completes and that no earlier connection has given."""
        *lines, self._rest = (self._rest + chunk).split("\n")
        for line in lines:
            self._now += 1
            if self._now > self._known:
                self._known = self._now
                yield line


class Follower:
    """Shows a search on a cluster in `view`, and keeps a copy of its journal.

    Attributes
    ----------
    error
        What the search ended with, if it did so before its end.
    """

    def __init__(self, view: SearchView, begin: Callable[[Event], Mirror]) -> None:
        self.error: RaycompressError | None = None
        self._view = view
        self._begin = begin
        self._mirror: Mirror | None = None
        self._output: deque[str] = deque(maxlen=_KEPT_LINES)
        self._lines = Lines()

    @property
    def has_begun(self) -> bool:
        """Whether the journal has its first event."""
        return self._mirror is not None

    def phase(self, text: str) -> None:
        """Pass on what is done there."""
        self._view.phase(text)

    def progress(self, done: int, total: int, what: str) -> None:
        """Pass on how much of that is done."""
        self._view.progress(done, total, what)

    def note(self, text: str) -> None:
        """Pass on what is worth knowing."""
        self._view.note(text)

    def history(self, events: Iterable[Event]) -> None:
        """Pass on, and keep, what came before the search was resumed."""
        for event in events:
            self._keep(event)
            self._view.history([event])

    def event(self, event: Event) -> None:
        """Pass on, and keep, an event."""
        self._keep(event)
        self._view.event(event)

    def _keep(self, event: Event) -> None:
        if self._mirror is None:
            self._mirror = self._begin(event)
        self._mirror.add(event)

    def follow(self, cluster: Cluster, job: str, *, until_begun: bool = False, only_so_far: bool = False) -> None:
        """Show what the job prints until it ends, or until its search has begun, or what it has printed so far.

        Raises
        ------
        ClusterError
            The cluster no longer answers.
        """
        since = time.monotonic()
        while True:
            try:
                if until_begun or only_so_far:
                    self._again(cluster.jobs.log(job))
                    time.sleep(0 if self.has_begun or only_so_far else _REST_S)
                else:
                    self._lines.again()
                    cluster.jobs.follow(job, self._add_output)
                if cluster.jobs.has_ended(job):
                    self._again(cluster.jobs.log(job))  # with what came after the line was dropped
                    self._conclude(cluster, job)
                    return
                if only_so_far or (until_begun and self.has_begun):
                    return
                since = time.monotonic()
            except ClusterError as error:
                if only_so_far or time.monotonic() - since > _PATIENCE_S:
                    raise
                self.note(f"the connection to the cluster dropped, and is made again ({error.problems[0].what})")
                cluster.reconnect()
                time.sleep(_REST_S)

    def _again(self, log: str) -> None:
        """Take the log as it is from its beginning."""
        self._lines.again()
        self._add_output(log)

    def _add_output(self, chunk: str) -> None:
        for line in self._lines.new(chunk):
            result = replay(line, self)
            if isinstance(result, RaycompressError):
                self.error = result
            elif result is not None:
                self._output.append(result)

    def _conclude(self, cluster: Cluster, job: str) -> None:
        if self.error is None and cluster.jobs.status(job) == "FAILED":
            result = [
                line for line in self._output if line.strip() and not line.startswith(" ")
            ]  # no traceback's frames
            lines = result[-_SHOWN_LINES:] or [cluster.jobs.message(job)]
            if any("ModuleNotFoundError" in line or "No module named" in line for line in lines):
                lines.append("the `python` on the head's path must be the one that Ray runs with, and have them all")
            self.error = ClusterError("the search's job failed on the cluster", where=job, fix="\n".join(lines))

    def close(self) -> None:
        """Let go of the copy."""
        if self._mirror is not None:
            self._mirror.close()
