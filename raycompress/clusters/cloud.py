"""What is known of a cluster before it is brought up: whether its provider will do it, and what it costs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from raycompress.clusters.files import ClusterFile
from raycompress.errors import Problem

_SSH = 22
_ANSWER_S = 5.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    name, detail
        What, and what was found, in a few words each.
    problem
        Of a check that failed, or that is a warning: what to do.
    """

    name: str
    state: Literal["ok", "warning", "failed", "not checked"]
    detail: str = ""
    problem: Problem | None = None


@dataclass(frozen=True)
class EstimateLine:
    """Machines of one kind.

    Attributes
    ----------
    count
        How many, at most.
    dollars_per_hour
        Of one of them; None where it is not known.
    """

    node_type: str
    instance: str
    count: int
    dollars_per_hour: float | None
    spot: bool = False


@dataclass(frozen=True)
class Estimate:
    """What a cluster costs while it is up.

    Attributes
    ----------
    source
        Where the prices come from, with their date.
    """

    lines: tuple[EstimateLine, ...]
    source: str

    @property
    def dollars_per_hour(self) -> float | None:
        """Of the whole cluster at its largest; None where a price is not known."""
        total = 0.0
        for line in self.lines:
            if line.dollars_per_hour is None:
                return None
            total += line.count * line.dollars_per_hour
        return total


def checks(cluster: ClusterFile, storage: str) -> Iterator[Check]:
    """Look at everything that can be known before a machine is started, and paid for.

    Parameters
    ----------
    storage
        Where the experiment's results go: a folder of the nodes or ``s3://bucket/prefix``.
    """
    if cluster.provider == "local":
        yield from _machines(cluster)
    else:
        fix = "read the plan well; what is wrong shows as `ray up` fails"
        problem = Problem(f"raycompress does not look into {cluster.provider}", str(cluster.path), fix)
        yield Check(cluster.provider, "not checked", "quota, images, networks and prices", problem)


def estimate(cluster: ClusterFile) -> Estimate | None:
    """Return what the cluster costs an hour; None where nobody bills by the hour, or prices are not known."""
    return None


def _machines(cluster: ClusterFile) -> Iterator[Check]:
    provider = cluster.data["provider"]
    hosts = [str(host) for host in (provider.get("head_ip"), *(provider.get("worker_ips") or ())) if host]
    if not hosts:
        problem = Problem("there is no machine", cluster.where("provider"), "write head_ip and worker_ips")
        yield Check("machines", "failed", "none", problem)
        return
    with ThreadPoolExecutor(16) as pool:
        for host, said in zip(hosts, pool.map(_answers, hosts), strict=True):
            problem = Problem(f"{host} does not answer on port 22: {said}", cluster.where("provider"), _FIX)
            yield Check(host, "failed", said, problem) if said else Check(host, "ok", "answers on port 22")


_FIX = "see that the machine is up, that sshd runs there, and that no firewall is between"


def _answers(host: str) -> str:
    """Return why nothing answers; empty where something does."""
    try:
        socket.create_connection((host, _SSH), timeout=_ANSWER_S).close()
    except OSError as error:
        return str(error.strerror or error)
    return ""
