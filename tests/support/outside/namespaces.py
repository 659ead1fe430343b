"""Hosts on this machine: each in namespaces of its own (network, processes, mounts, name), joined by a bridge.

::

    lab (one namespace of each kind; its end is the end of all the others)
    ├── bridge 10.77.0.0/24
    ├── head      10.77.0.1   sshd
    ├── worker-1  10.77.0.2   sshd
    ├── ...
    └── here      10.77.0.100  where the commands of a test are run; no sshd

A host has its own /tmp, /dev/shm, home and Python environment, an sshd with a key of its own, and no way to any other
network. The kernel clears up: the first process of the lab reads from a pipe that this process holds, and when it ends,
however this one does, all processes in it are killed, and with them go the networks and the mounts.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

SHARED = "/srv/raycompress-shared"
"""A folder that all hosts but `here` see: the shared disk of the cluster."""

_SSHD = "/usr/sbin/sshd"
_OWN = ["--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
_REPOSITORY = Path(__file__).parents[3]


def missing() -> str:
    """Return what a host needs and this machine has not; nothing where it has all."""
    if os.geteuid() != 0:
        return "namespaces are made by root"
    tools = [
        name for name in ("unshare", "nsenter", "ip", "rsync", "ssh", "ssh-keygen", _SSHD) if not shutil.which(name)
    ]
    if tools:
        return f"no {', '.join(tools)} here"
    trial = ["unshare", *_OWN, "sh", "-c", "mount -t tmpfs none /tmp && ip link add name probe0 type bridge"]
    made = subprocess.run(trial, capture_output=True, text=True, check=False)
    return "" if made.returncode == 0 else f"namespaces cannot be made here: {made.stderr.strip()}"


@dataclass(frozen=True)
class Host:
    """A host of the lab, which runs while its first process does."""

    name: str
    address: str
    first: psutil.Process

    def command(self, command: Sequence[str], folder: Path | str = "/") -> list[str]:
        """Return what runs `command` on this host, in `folder`."""
        spaces = ["--net", "--pid", "--mount", "--uts", "--ipc"]
        inside = ["env", "--chdir", str(folder), *command]
        return ["nsenter", "--target", str(self.first.pid), *spaces, "--", *inside]

    def run(
        self, command: Sequence[str], *, folder: Path | str = "/", timeout: float = 60, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `command` on this host, in `folder`, to its end."""
        return subprocess.run(
            self.command(command, folder),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=clean_environment(**environment),
        )

    def processes(self) -> list[str]:
        """Return the command lines of what runs on this host."""
        listed = self.run(["sh", "-c", "for each in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $each; echo; done"])
        return [line.strip() for line in listed.stdout.splitlines() if line.strip()]

    def kill(self) -> None:
        """End this host as a loss of power does."""
        self.first.kill()
        psutil.wait_procs([self.first], timeout=10)


@dataclass(frozen=True)
class Lab:
    """All hosts; `here` is the person's machine."""

    folder: Path
    hosts: Mapping[str, Host]

    @property
    def here(self) -> Host:
        """Where commands are run."""
        return self.hosts["here"]

    @property
    def key(self) -> Path:
        """The private key that opens every host."""
        return self.folder / "key"


def clean_environment(**more: str) -> dict[str, str]:
    """Return an environment without what this process's Ray, pytest or terminal were told."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**kept, "HOME": "/root", "TERM": "dumb", "PYTHONPATH": str(_REPOSITORY), **more}


@contextmanager
def lab(n_workers: int) -> Iterator[Lab]:
    """Start a head, `n_workers` workers and `here`; at the end nothing of them is left."""
    folder = Path(tempfile.mkdtemp(prefix="raycompress-lab-", dir="/var/tmp"))
    first = subprocess.Popen(
        ["unshare", *_OWN, "bash", "-c", _LAB], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout is not None and first.stdout.readline() == "ready\n"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
        (folder / "shared").mkdir()
        # accounts of its own: a host is root, and what sshd wants
        (folder / "passwd").write_text("root:x:0:0::/root:/bin/bash\nsshd:x:990:990::/run/sshd:/usr/sbin/nologin\n")
        (folder / "group").write_text("root:x:0:\ntty:x:5:\nsshd:x:990:\n")
        inside = psutil.Process(first.pid).children()[0]
        names = ["head", *(f"worker-{number}" for number in range(1, n_workers + 1))]
        addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, 1)} | {"here": "10.77.0.100"}
        hosts = {name: _host(folder, inside, name, address) for name, address in addresses.items()}
        _wait(hosts.values(), folder)
        yield Lab(folder, hosts)
    finally:
        assert first.stdin is not None
        first.stdin.close()
        first.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


_LAB = """
set -e
mount --make-rprivate /
ip link set lo up
ip link add bridge0 type bridge
ip link set bridge0 up
echo ready
exec cat
"""

_HOST = """
set -e
hostname "$NAME"
ip link set lo up
number=0
for path in $KEPT; do
    mkdir "$FOLDER/$NAME-$number"; mount --bind "$path" "$FOLDER/$NAME-$number"; number=$((number+1))
done
mount -t tmpfs -o size=2g tmpfs /tmp
mount -t tmpfs -o size=512m tmpfs /dev/shm
mount -t tmpfs -o mode=700 tmpfs /root
number=0
for path in $KEPT; do
    mkdir -p "$path"; mount --bind "$FOLDER/$NAME-$number" "$path"; umount "$FOLDER/$NAME-$number"; number=$((number+1))
done
mkdir -p /tmp/run-sshd && mount --bind /tmp/run-sshd /run
mount --bind "$FOLDER/passwd" /etc/passwd
mount --bind "$FOLDER/group" /etc/group
mkdir -m 700 /root/.ssh
cp "$FOLDER/key.pub" /root/.ssh/authorized_keys
mount -t tmpfs tmpfs /srv
"$PYTHON" -m venv --without-pip /root/venv
echo "$SITE" > /root/venv/lib/python3.11/site-packages/layer.pth
printf '#!/root/venv/bin/python\\nfrom ray.scripts.scripts import main\\nmain()\\n' > /root/venv/bin/ray
chmod +x /root/venv/bin/ray
if [ "$NAME" != here ]; then
    mkdir "$SHARED"
    mount --bind "$FOLDER/shared" "$SHARED"
    mkdir /run/sshd
    ssh-keygen -q -t ed25519 -N '' -f /tmp/host_key
    exec "$SSHD" -D -e -h /tmp/host_key -f /dev/null -o UsePAM=no -o StrictModes=no -o PidFile=none -o MaxStartups=100 \
        2> "$FOLDER/sshd-$NAME.log"
fi
exec sleep infinity
"""


def _host(folder: Path, inside: psutil.Process, name: str, address: str) -> Host:
    enter = ["nsenter", "--target", str(inside.pid), "--net", "--pid", "--mount", "--uts", "--ipc"]
    site = Path(pytest.__file__).parents[1]  # psutil may be the one that ray brings
    places = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), _REPOSITORY.resolve(), site.resolve()}
    kept = sorted(str(place) for place in places if place.parts[1] in ("root", "tmp"))  # which a host has of its own
    settings = {
        "NAME": name,
        "FOLDER": str(folder),
        "KEPT": " ".join(map(shlex.quote, kept)),
        "SITE": str(site),
        "PYTHON": os.path.realpath(sys.executable),
        "SHARED": SHARED,
        "SSHD": _SSHD,
    }
    with (folder / f"{name}.log").open("w") as log:
        started = subprocess.Popen(
            [*enter, "--", "unshare", *_OWN, "bash", "-c", f"read go; {_HOST}"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
            env=clean_environment(**settings),
        )
    deadline = time.monotonic() + 20
    while not (
        chain := [each for each in psutil.Process(started.pid).children(recursive=True) if each.name() == "bash"]
    ):
        assert time.monotonic() < deadline, f"{name} does not start"
        time.sleep(0.05)
    host = Host(name, address, chain[-1])
    wire = f"""
        ip link add {name} type veth peer name eth0 netns {host.first.pid} && ip link set {name} master bridge0 up
    """
    subprocess.run(["nsenter", "--target", str(inside.pid), "--net", "--", "sh", "-c", wire], check=True)
    # Ray takes the address that a route to the world would leave by; nothing answers on this one
    inner = f"ip addr add {address}/24 dev eth0 && ip link set eth0 up && ip route add default dev eth0"
    subprocess.run(["nsenter", "--target", str(host.first.pid), "--net", "--", "sh", "-c", inner], check=True)
    assert started.stdin is not None
    started.stdin.write("go\n")
    started.stdin.flush()
    return host


def _wait(hosts: Iterable[Host], folder: Path) -> None:
    deadline = time.monotonic() + 60
    for host in hosts:
        last = "sleep infinity" if host.name == "here" else "sshd"
        while not any(last in line for line in host.processes()[:1]):
            assert time.monotonic() < deadline, "".join(log.read_text() for log in folder.glob(f"*{host.name}.log"))
            time.sleep(0.2)
