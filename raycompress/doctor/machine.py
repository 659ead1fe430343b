"""The machine: processors, memory, GPUs, disk, ports and programs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

from raycompress.clusters.check import Check, State, failed, warning

_GB = 1e9
_LITTLE_MEMORY_GB = 4.0
_LITTLE_DISK_GB = 5.0
# Ray keeps its objects there, and warns itself below this
_LITTLE_SHM_GB = 1.0
_PORTS = {8265: "Ray's dashboard", 6379: "the head of a Ray cluster"}


def processors() -> list[Check]:
    """Return how many CPUs this process may use."""
    cpus = len(os.sched_getaffinity(0))
    return [Check("CPUs", State.OK, f"{cpus}; the load is {os.getloadavg()[0]:.1f}")]


def memory() -> list[Check]:
    """Return how much memory there is, within the limit of a container."""
    total, free = _meminfo("MemTotal"), _meminfo("MemAvailable")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and limit.read_text().strip().isdigit():
        total = min(total, int(limit.read_text()) / _GB)
    detail = f"{total:.1f} GB, {min(free, total):.1f} free"
    if total < _LITTLE_MEMORY_GB:
        return [warning("memory", detail, fix=f"{_LITTLE_MEMORY_GB:.0f} GB is little for Ray and torch: n_parallel 1")]
    return [Check("memory", State.OK, detail)]


def _meminfo(name: str) -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / _GB
    return 0.0


def shared_memory() -> list[Check]:
    """Return how large /dev/shm is."""
    shm = Path("/dev/shm")
    if not shm.is_dir():
        return [warning("/dev/shm", "is not there", fix="Ray uses /tmp for its objects, and is slower")]
    size = shutil.disk_usage(shm).total / _GB
    if size < _LITTLE_SHM_GB:
        fix = "in a container: docker run --shm-size=4g"
        return [warning("/dev/shm", f"{size:.2f} GB: Ray uses /tmp instead, and is slower", fix=fix)]
    return [Check("/dev/shm", State.OK, f"{size:.1f} GB")]


def gpus() -> list[Check]:
    """Return the GPUs that NVIDIA's driver tells of."""
    if shutil.which("nvidia-smi") is None:
        if any(Path("/dev").glob("nvidia[0-9]*")):
            return [warning("GPUs", "there is one, and no nvidia-smi", fix="install NVIDIA's driver")]
        return [Check("GPUs", State.OK, 'none: "resource": "gpu" will not run here')]
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [failed("GPUs", f"nvidia-smi does not answer: {error}", fix="is the driver loaded? a reboot loads it")]
    if asked.returncode != 0:
        said = (asked.stdout or asked.stderr).strip().splitlines()
        fix = "NVIDIA's driver and its kernel module must be of one version: a reboot after an update"
        return [failed("GPUs", f"nvidia-smi: {said[0] if said else asked.returncode}", fix=fix)]
    return [Check("GPUs", State.OK, line.strip()) for line in asked.stdout.strip().splitlines()]


def disk(storage: Path) -> list[Check]:
    """Return how much room there is for results, and whether they can be written."""
    there = next(folder for folder in (storage.absolute(), *storage.absolute().parents) if folder.is_dir())
    if not os.access(there, os.W_OK):
        return [failed("results", f"{there} cannot be written to", where=str(storage), fix="--storage FOLDER")]
    free = shutil.disk_usage(there).free / _GB
    detail = f"{storage}: {free:.1f} GB free"
    if free < _LITTLE_DISK_GB:
        return [warning("results", detail, where=str(there), fix="make room, or name another folder as storage")]
    return [Check("results", State.OK, detail)]


def ports() -> list[Check]:
    """Return whether Ray's usual ports are free."""
    return [_port(port, what) for port, what in _PORTS.items()]


def _port(port: int, what: str) -> Check:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            fix = "nothing, for a search on this machine: it takes another port"
            return warning(f"port {port}", f"taken; it is that of {what}", fix=fix)
    return Check(f"port {port}", State.OK, "free")


def programs() -> list[Check]:
    """Return whether the programs that reach a cluster are there."""
    found = []
    for program in ("ssh", "rsync"):
        path = shutil.which(program)
        missing = warning(program, "not there; `launch --cluster` needs it", fix=f"apt-get install {_package(program)}")
        found.append(missing if path is None else Check(program, State.OK, path))
    return found


def _package(program: str) -> str:
    return {"ssh": "openssh-client"}.get(program, program)
