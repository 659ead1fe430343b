"""Checks of the hosts of a cluster file with the provider ``local``: each must answer on the SSH port."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raycompress.clusters.file.check import Check, State, failed
from raycompress.clusters.file.files import ClusterFile

_SSH = 22
_PATIENCE_S = 3.0


def checks(cluster: ClusterFile) -> list[Check]:
    """Return whether the head and each worker answer on port 22, and the key is there."""
    provider = cluster.data["provider"]
    hosts = [("head_ip", str(provider.get("head_ip", "")))]
    hosts += [("worker_ips", str(address)) for address in provider.get("worker_ips") or ()]
    with ThreadPoolExecutor(max_workers=32) as pool:
        found = list(pool.map(lambda host: _answers(cluster, *host), hosts))
    return [*found, *key_file(cluster)]


def _answers(cluster: ClusterFile, key: str, address: str) -> Check:
    name = f"host {address}"
    try:
        with socket.create_connection((address, _SSH), timeout=_PATIENCE_S):
            return Check(name, State.OK, "answers on port 22")
    except OSError as error:
        return failed(
            name,
            f"{address} does not answer on port {_SSH}: {error}",
            where=cluster.where("provider", key),
            fix="is the address right, is the host on, does its sshd run?",
        )


def key_file(cluster: ClusterFile) -> list[Check]:
    """Return whether the private key of ``auth.ssh_private_key`` is there and closed to others."""
    raw = cluster.data.get("auth", {}).get("ssh_private_key")
    if raw is None:
        return []
    path, where = Path(str(raw)).expanduser(), cluster.where("auth", "ssh_private_key")
    if not path.is_file():
        return [failed("private key", f"{raw} is not there", where=where, fix="name the file of your key pair")]
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        what = f"{raw} can be read by others (mode {mode:o}): ssh refuses it"
        return [failed("private key", what, where=where, fix=f"chmod 600 {raw}")]
    return [Check("private key", State.OK, str(raw))]
