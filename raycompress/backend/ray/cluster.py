"""Ray on a cluster that runs already: connecting to it, and whether its nodes can run a search's trials."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from raycompress.backend.ray.local import ENVIRONMENT, loading_of_libraries, shut_down
from raycompress.errors import ClusterError

_LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_PROBE_S = 120.0
_COMPARED = ("torch", "tensorflow", "nni", "raycompress")


class ClusterRay:
    """A Ray cluster that runs already, between the begin and the end of a ``with`` statement; it runs on after that.

    Parameters
    ----------
    address
        Of its head; ``auto`` for the cluster that this process runs on, as a job of it.
    """

    def __init__(self, address: str = "auto") -> None:
        self._address = address

    def __enter__(self) -> Self:
        os.environ.update({name: value for name, value in ENVIRONMENT.items() if name != _LOOPBACK_ONLY})
        import ray

        loading = loading_of_libraries()
        try:
            ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise ClusterError(
                f"cannot connect to Ray: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                where=self._address,
                fix="run this on a node of the cluster, with the cluster's token in ~/.ray/auth_token",
            ) from error
        finally:
            loading.join()
        return self

    def __exit__(self, *error: object) -> None:
        shut_down()

    def nodes(self) -> list[dict[str, float]]:
        """Return what each node offers, by Ray's own names; memory in bytes."""
        return node_offers()


def node_offers() -> list[dict[str, float]]:
    """Return what each node that is alive offers, by Ray's own names; memory in bytes."""
    import ray

    nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    return [dict(node["Resources"]) for node in nodes() if node["Alive"]]


@dataclass(frozen=True)
class Reach:
    """What a node can reach: its name, the SHA-256 of each file (None where there is none) and library versions."""

    host: str
    files: Mapping[str, str | None]
    versions: Mapping[str, str]


def reach(paths: Sequence[str]) -> Reach:
    """Look at `paths` from the node that this runs on."""
    import platform

    files = {path: _sha256(Path(path)) for path in paths}
    return Reach(platform.node(), files, dict(_versions()))


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _versions() -> Iterator[tuple[str, str]]:
    for name in _COMPARED:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def check_nodes(files: Mapping[Path, str]) -> list[str]:
    """Make sure that each node can run trials; return what a person should know of how they differ.

    Parameters
    ----------
    files
        What all nodes must see the same of -> what to do where one does not.

    Raises
    ------
    ClusterError
        A node sees no such file, or another one, or has no raycompress.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    alive = [node for node in nodes() if node["Alive"]]
    if len(alive) == 1:
        return []
    here = reach([str(path) for path in files])
    probe: Any = ray.remote(num_cpus=0, max_retries=1)(reach)
    waiting = {
        node["NodeManagerHostname"]: probe.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(list(here.files))
        for node in alive
    }
    there = [_answer(host, answer) for host, answer in waiting.items()]
    for node in there:
        for path, fix in files.items():
            if node.files[str(path)] != here.files[str(path)]:
                other = "another one there than here" if node.files[str(path)] else "not there"
                raise ClusterError(
                    f"the node {node.host} does not share this file: it is {other}", where=str(path), fix=fix
                )
    return [
        f"{name} is {node.versions.get(name, 'missing')} on {node.host}, and {here.versions.get(name, 'missing')} here"
        for node in there
        for name in _COMPARED
        if node.versions.get(name) != here.versions.get(name)
    ]


def _answer(host: str, answer: Any) -> Reach:
    import ray

    try:
        found: Reach = ray.get(answer, timeout=_PROBE_S)
    except (ray.exceptions.RayError, ModuleNotFoundError) as error:
        lines = str(error).strip().splitlines()
        raise ClusterError(
            f"a trial cannot run on the node {host}: {lines[-1] if lines else type(error).__name__}",
            where=host,
            fix="install the same Python, Ray and raycompress on every node; its /tmp/ray/session_latest/logs say more",
        ) from error
    return found
