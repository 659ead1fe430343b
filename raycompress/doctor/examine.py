"""All checks of `raycompress doctor`, in the order in which they are shown."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from raycompress.backend.ray.local import LocalRay
from raycompress.clusters import cloud
from raycompress.clusters.file.check import Check, State, warning
from raycompress.clusters.file.files import ClusterFile, find, load
from raycompress.clusters.file.hosts import key_file
from raycompress.doctor.libraries import check_libraries
from raycompress.doctor.machine import check_credentials, check_gpus, check_machine
from raycompress.errors import ClusterError
from raycompress.runtime.machine import machine_cpus, machine_gpus

_S3 = "s3://"
_LOOK_AT_KEYS = ("aws", "local")
"""The providers whose checks look at the private key themselves."""


def examine(storage: str, cluster: str | None = None, *, deep: bool = False) -> Iterator[Check]:
    """Yield the checks of this machine, and of a cluster file if there is one.

    Parameters
    ----------
    storage
        Where results go: a folder or ``s3://bucket/prefix``.
    cluster
        A cluster file, by path or name; its provider is asked too.
    deep
        Whether to start Ray, which takes some seconds.

    Raises
    ------
    ClusterError
        There is no such cluster file.
    """
    path = find(cluster) if cluster is not None else None
    file, mistakes = _loaded(path)
    n_gpus = machine_gpus()
    yield from check_libraries(n_gpus)
    yield check_gpus(n_gpus)
    folder = Path.cwd() if storage.startswith(_S3) else Path(storage)
    yield from check_machine(folder, for_cluster=path is not None)
    on_aws = file is not None and file.provider == "aws"
    yield check_credentials(needed=on_aws or storage.startswith(_S3), ask_network=on_aws)
    if deep:
        yield _ray_starts()
    yield from mistakes
    if file is not None:
        yield from _of_cluster(file, storage)


def _loaded(path: Path | None) -> tuple[ClusterFile | None, list[Check]]:
    if path is None:
        return None, []
    try:
        return load(path), []
    except ClusterError as error:
        return None, [Check("cluster file", State.FAILED, one.what, one) for one in error.problems]


def _of_cluster(file: ClusterFile, storage: str) -> Iterator[Check]:
    yield Check("cluster file", State.OK, f"{file.path.name}: {file.name}, on {file.provider}")
    yield from _ray_of_nodes(file)
    if file.provider not in _LOOK_AT_KEYS:
        yield from key_file(file)
    yield from cloud.checks(file, storage)


def _ray_of_nodes(file: ClusterFile) -> Iterator[Check]:
    """Compare the Ray that nodes install with the one here, which speaks to them."""
    here = metadata.version("ray")
    commands = "\n".join(map(str, file.data.get("setup_commands") or ()))
    for there in sorted(set(re.findall(r"\bray(?:\[[\w,]*\])?==([\w.]+)", commands))):
        if there == here:
            yield Check("Ray of the nodes", State.OK, there)
        else:
            fix = f"write ray=={here} there, or pip install ray=={there} here"
            what = f"the nodes get Ray {there}, and here is {here}"
            yield warning("Ray of the nodes", what, where=file.where("setup_commands"), fix=fix)


def _ray_starts() -> Check:
    begin = time.monotonic()
    try:
        with LocalRay(machine_cpus()) as ray:
            cpus = sum(node.get("CPU", 0) for node in ray.nodes())
    except ClusterError as error:
        return Check("Ray starts", State.FAILED, error.problems[0].what, error.problems[0])
    return Check("Ray starts", State.OK, f"in {time.monotonic() - begin:.1f} s, with {cpus:.0f} CPUs")
