"""A device that a test may cut off: a host of the lab with a second sshd, which is killed and started again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from raycompress.deployment.agent.places import MEASURING
from tests.support.outside.namespaces import _SSHD, Host, Lab, clean_environment

PORT = 2222
PYTHON = "/root/venv/bin/python"
_SLOWEST_S = 200


class Device:
    """The second sshd of a host, by which the host is a deployment target's device."""

    def __init__(self, lab: Lab, host: Host) -> None:
        self._lab, self.host = lab, host
        self._sshd: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The device as a target names it."""
        return f"ssh://root@{self.host.address}:{PORT}"

    def start(self, *options: str) -> None:
        """Start sshd, and wait until it listens."""
        flags = ["UsePAM=no", "StrictModes=no", "PidFile=none", "MaxStartups=100", *options]
        words = [word for flag in flags for word in ("-o", flag)]
        command = [_SSHD, "-D", "-e", "-p", str(PORT), "-h", "/tmp/host_key", "-f", "/dev/null", *words]
        with (self._lab.folder / f"sshd-{self.host.name}-{PORT}.log").open("ab") as log:
            self._sshd = subprocess.Popen(self.host.command(command), stderr=log, env=clean_environment())
        listens = ["sh", "-c", f"until ss -ltn | grep -q :{PORT}; do sleep 0.05; done"]
        assert self.host.run(listens, timeout=_SLOWEST_S).returncode == 0

    def cut(self) -> None:
        """Kill sshd, its sessions and whatever they run, as a loss of power does."""
        space = _pid_space(self.host.first.pid)
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process != self.host.first and _pid_space(process.pid) == space:
                    process.kill()
        if self._sshd is not None:
            self._sshd.wait(_SLOWEST_S)

    def end(self) -> None:
        """Stop sshd, if it runs."""
        if self._sshd is not None and self._sshd.poll() is None:
            self.cut()

    def hold(self) -> Callable[[], object]:
        """Hold the lock of whoever measures on the device; return what releases it."""
        command = self.host.command(["flock", f"/tmp/{MEASURING}", "sh", "-c", "echo held; exec cat"])
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        return holder.communicate

    def wait_for_waiting(self) -> None:
        """Wait until somebody waits for the lock."""
        wanted = ["sh", "-c", "until grep -q -e '->' /proc/locks; do sleep 0.05; done"]
        assert self.host.run(wanted, timeout=_SLOWEST_S).returncode == 0

    def shell(self, script: str) -> str:
        """Return what a script prints on the device."""
        return self.host.run(["bash", "-c", script]).stdout


def _pid_space(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/pid").readlink()


@contextmanager
def device(lab: Lab, host: Host) -> Iterator[Device]:
    """Start the second sshd of a host, which `here` knows, for a ``with`` statement."""
    made = Device(lab, host)
    made.start()
    try:
        trust(lab, made)
        yield made
    finally:
        made.end()


def trust(lab: Lab, *devices: Device) -> None:
    """Give `here` its key, and the keys of devices."""
    scan = [f"ssh-keyscan -p {PORT} {one.host.address} 2>/dev/null >> /root/.ssh/known_hosts" for one in devices]
    own = [f"cp {lab.key} /root/.ssh/id_ed25519", "chmod 600 /root/.ssh/id_ed25519", "rm -f /root/.ssh/known_hosts"]
    done = lab.here.run(["bash", "-c", " && ".join([*own, *scan])])
    assert done.returncode == 0, done.stderr


class Inside:
    """One of the functions of `device_inside`, running on `here`."""

    def __init__(self, lab: Lab, what: str, targets: list[dict[str, str]], *words: object) -> None:
        command = [PYTHON, "-u", "-m", "tests.support.outside.device_inside", what, json.dumps(targets)]
        self.process = subprocess.Popen(
            lab.here.command([*command, *map(str, words)], Path(__file__).parents[3]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )

    def go(self) -> None:
        """Let the measurements begin."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def line(self) -> dict[str, Any]:
        """Return the next thing that it did."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            pytest.fail(self.process.communicate()[1])
        return dict(json.loads(line))

    def rest(self) -> list[dict[str, Any]]:
        """Return all that it does until its end, which must be a good one."""
        out, err = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, err
        return [json.loads(line) for line in out.splitlines()]
