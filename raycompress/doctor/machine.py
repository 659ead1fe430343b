"""Checks of the machine: cores, memory, disks, ports, GPUs, AWS keys and the programs that a cluster needs."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from raycompress.clusters.file.check import Check, State, failed, warning
from raycompress.runtime.machine import machine_cpus

_GB = 1e9
_MEMORY_GB = 2.0
_SHM_GB = 1.0
_DISK_GB = 2.0
_RAY_STOPS_AT = 0.95
"""How full a disk may be before Ray writes nothing more to it."""

_PORTS = {
    8265: "Ray's dashboard, with --dashboard, takes the next free one",
    6379: "`ray start --head` would not start here; a search on this machine takes a port of its own",
}
_NVIDIA_SMI_S = 10.0


def check_machine(storage: Path, *, for_cluster: bool) -> Iterator[Check]:
    """Look at what trials need of this machine.

    Parameters
    ----------
    storage
        The results folder; it need not be there yet.
    for_cluster
        Whether programs that only a cluster needs must be there.
    """
    yield Check("cores", State.OK, str(machine_cpus()))
    yield _memory()
    yield _shared_memory()
    yield _disk("results folder", storage)
    yield _disk("TMPDIR", Path(tempfile.gettempdir()))
    yield from (_port(port, what) for port, what in _PORTS.items())
    yield from (_program(name, for_cluster) for name in ("ssh", "rsync"))


def check_gpus(n_gpus: int) -> Check:
    """Look at the GPUs, by their own program.

    Parameters
    ----------
    n_gpus
        How many Ray would find.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        if n_gpus == 0:
            return Check("GPUs", State.OK, "none; trials run on CPUs")
        what = f"there are {n_gpus}, and no nvidia-smi"
        return warning("GPUs", what, where="/dev/nvidia0", fix="install the driver with its tools")
    asked = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=_NVIDIA_SMI_S, check=False)
        output, status = (done.stdout or done.stderr).strip(), done.returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        output, status = str(error), -1
    if status != 0:
        what = f"nvidia-smi fails: {output.splitlines()[0] if output else f'status {status}'}"
        return failed("GPUs", what, where=program, fix="mend the driver: `nvidia-smi` must list the GPUs")
    gpus = output.splitlines()
    if n_gpus != len(gpus):
        what = f"nvidia-smi lists {len(gpus)}, and trials would get {n_gpus}"
        return warning("GPUs", what, where="CUDA_VISIBLE_DEVICES", fix="unset it, unless it is meant so")
    return Check("GPUs", State.OK, "; ".join(gpus))


def _memory() -> Check:
    facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(facts[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
        free = min(free, total - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    detail = f"{free / _GB:.1f} of {total / _GB:.1f} GB are free"
    if free >= _MEMORY_GB * _GB:
        return Check("memory", State.OK, detail)
    fix = 'end other programs, or run fewer trials at a time: "n_parallel"'
    return warning("memory", f"{detail}; a trial with torch takes about 1 GB, and Ray as much", fix=fix)


def _shared_memory() -> Check:
    place = Path("/dev/shm")
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return warning("/dev/shm", f"no shared memory: {error.strerror}", fix="mount a tmpfs there")
    detail = f"{free / _GB:.1f} GB are free"
    if free >= _SHM_GB * _GB:
        return Check("/dev/shm", State.OK, detail)
    what = f"{detail}; Ray puts what trials share on the disk instead, which is slower"
    return warning("/dev/shm", what, fix="in a container: --shm-size=2g")


def _disk(name: str, folder: Path) -> Check:
    """Look at room and permission where `folder` is, or would be made."""
    folder = folder.expanduser().absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        usage = shutil.disk_usage(there)
    except OSError as error:
        return failed(name, f"cannot be read: {error.strerror}", where=str(there))
    detail = f"{usage.free / _GB:.1f} GB are free"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return failed(name, "cannot be written", where=str(there), fix="choose another folder")
    if usage.free < _DISK_GB * _GB:
        return warning(name, f"{detail}: the disk is nearly full", where=str(there), fix="make room")
    if usage.used > _RAY_STOPS_AT * (usage.used + usage.free):
        what = f"{detail}, yet Ray stops writing to a disk that is fuller than {_RAY_STOPS_AT:.0%}"
        return warning(name, what, where=str(there), fix="make room")
    return Check(name, State.OK, detail)


def _port(port: int, what: str) -> Check:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            fix = f"`ss -ltnp sport = :{port}` says who has it"
            return warning(f"port {port}", f"{error.strerror}; {what}", fix=fix)
    return Check(f"port {port}", State.OK, "free")


def _program(name: str, needed: bool) -> Check:
    path = shutil.which(name)
    if path is not None:
        return Check(name, State.OK, path)
    check = failed if needed else warning
    return check(name, "not installed; --cluster with a file needs it", fix=_INSTALL[name])


_INSTALL = {"ssh": "apt-get install openssh-client", "rsync": "apt-get install rsync"}


_ASK_THE_NETWORK = ("iam-role", "container-role")


def check_credentials(*, needed: bool, ask_network: bool = False) -> Check:
    """Look for keys to AWS in the environment and in boto3's files.

    Parameters
    ----------
    needed
        Whether something that was asked for cannot go without.
    ask_network
        Whether to look for the role of this machine or container too, which is asked for by network.
    """
    import botocore.session
    from botocore.exceptions import BotoCoreError

    session = botocore.session.get_session()
    try:
        resolver = session.get_component("credential_provider")
        for provider in () if ask_network else _ASK_THE_NETWORK:
            resolver.remove(provider)
        found = session.get_credentials()
        region = session.get_config_variable("region")
    except BotoCoreError as error:
        what = f"boto3 cannot read its settings: {error}"
        return failed("AWS keys", what, where="~/.aws", fix="mend AWS_PROFILE or ~/.aws/config")
    if found is not None:
        return Check("AWS keys", State.OK, f"from {found.method}, region {region or 'not set'}")
    if not needed:
        return Check("AWS keys", State.OK, "none; only s3:// and clusters on AWS need them")
    if not ask_network:
        what = "none in the environment or in files; a role of this machine was not asked for"
        return warning(
            "AWS keys", what, where="~/.aws", fix="`aws configure`, or set AWS_PROFILE, unless there is a role"
        )
    return failed("AWS keys", "there are no keys to AWS", where="~/.aws", fix="`aws configure`, or set AWS_PROFILE")
