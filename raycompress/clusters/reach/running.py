"""`Cluster`: one that a cluster file describes, or one that runs already at an address."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from raycompress.clusters.file.files import ClusterFile
from raycompress.clusters.reach import jobs as jobs_api
from raycompress.clusters.reach.jobs import Jobs
from raycompress.clusters.reach.launcher import Launcher
from raycompress.clusters.reach.ssh import Tunnel
from raycompress.clusters.ship.wheel import unpacked_wheel
from raycompress.errors import ClusterError
from raycompress.search.watch.view import View

_JOIN_S = 900.0
_POLL_S = 1.0


class Cluster(ABC):
    """A Ray cluster.

    Parameters
    ----------
    name
        What the person called it: the path of the cluster file, or an address.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._jobs: Jobs | None = None

    @property
    def jobs(self) -> Jobs:
        """Its Jobs API; connected to on first use."""
        if self._jobs is None:
            self._jobs = self._connected()
        return self._jobs

    def reconnect(self) -> None:
        """Give up the connection; the next use makes another."""
        self.close()

    def close(self) -> None:
        """Let go of the connection; the cluster runs on."""
        self._jobs = None

    @property
    @abstractmethod
    def is_ours(self) -> bool:
        """Whether we bring it up and tear it down."""

    @abstractmethod
    def up(self, view: View) -> None:
        """Bring it up, and wait until every node has joined."""

    @abstractmethod
    def runtime_env(self, scratch: Path) -> dict[str, Any]:
        """Return what a job needs beside its working directory, by Ray's names; files for it go to `scratch`."""

    @abstractmethod
    def copy_here(self, source: str, target: Path) -> None:
        """Copy a folder of its shared disk to `target`."""

    @abstractmethod
    def down(self) -> list[str]:
        """Tear it down and make sure; return what a person should know."""

    @abstractmethod
    def _connected(self) -> Jobs: ...


class FileCluster(Cluster):
    """A cluster that a cluster file describes, reached through an SSH tunnel."""

    def __init__(self, file: ClusterFile) -> None:
        super().__init__(str(file.path.resolve()))
        self.file = file
        self.launcher = Launcher(file.data)
        self._tunnel: Tunnel | None = None

    @property
    def is_ours(self) -> bool:  # noqa: D102 (as in the class above, and so are those that follow)
        return True

    def up(self, view: View) -> None:  # noqa: D102
        view.phase(f"bringing up the cluster; Ray's words go to {self.launcher.home.log}")
        self.launcher.up()
        expected = self.launcher.n_nodes
        deadline = time.monotonic() + _JOIN_S
        reported = -1
        while len(alive := self.jobs.nodes()) < expected:
            if len(alive) != reported:
                reported = len(alive)
                view.phase(f"waiting for the nodes: {reported} of {expected} have joined")
            if time.monotonic() > deadline:
                raise self._incomplete(alive, expected)
            time.sleep(_POLL_S)
        view.phase(f"all {expected} nodes have joined")

    def _incomplete(self, alive: list[str], expected: int) -> ClusterError:
        named = [host for host in self.launcher.hosts() if host not in alive]
        missing = f"missing: {', '.join(named)}" if named else f"there are {', '.join(alive)}"
        return ClusterError(
            f"{len(alive)} of {expected} nodes have joined in {_JOIN_S / 60:.0f} minutes; {missing}",
            where=str(self.launcher.home.log),
            fix="on the head, /tmp/ray/session_latest/logs/monitor.out says why; SSH from the head to a worker, "
            "a wrong Python there, or no capacity are the usual causes",
        )

    def _connected(self) -> Jobs:
        self._tunnel = Tunnel(self.launcher.ssh, self.launcher.head(), jobs_api.PORT)
        return Jobs(f"http://127.0.0.1:{self._tunnel.port}", self.launcher.home.token())

    def close(self) -> None:  # noqa: D102
        super().close()
        if self._tunnel is not None:
            self._tunnel.close()
            self._tunnel = None

    def runtime_env(self, scratch: Path) -> dict[str, Any]:  # noqa: D102 (the wheel is installed on every node)
        return {}

    def copy_here(self, source: str, target: Path) -> None:  # noqa: D102
        self.launcher.copy_here(f"{source.rstrip('/')}/", target)

    def down(self) -> list[str]:  # noqa: D102
        self.close()
        return self.launcher.down()


class AddressCluster(Cluster):
    """A cluster that runs already; `name` is the address of its Jobs API, as in ``http://127.0.0.1:8265``."""

    @property
    def is_ours(self) -> bool:  # noqa: D102
        return False

    def up(self, view: View) -> None:  # noqa: D102
        n_nodes = len(self.jobs.nodes())
        view.phase(f"{n_nodes} node{'s run' if n_nodes != 1 else ' runs'} at {self.name}")

    def _connected(self) -> Jobs:
        return Jobs(self.name)

    def runtime_env(self, scratch: Path) -> dict[str, Any]:  # noqa: D102
        return {"py_modules": [str(path) for path in unpacked_wheel(scratch)]}

    def copy_here(self, source: str, target: Path) -> None:  # noqa: D102
        raise ClusterError(
            "the results lie on a disk of the cluster that this machine does not see",
            where=source,
            fix=f"copy that folder to {target} by hand, or give the experiment a storage of s3://bucket/prefix",
        )

    def down(self) -> list[str]:  # noqa: D102
        self.close()
        return []
