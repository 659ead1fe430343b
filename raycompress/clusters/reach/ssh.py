"""SSH to the nodes of a cluster, with the cluster file's own user and key."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from raycompress.errors import ClusterError

_TUNNEL_S = 30.0


@dataclass(frozen=True)
class Ssh:
    """How the nodes of one cluster are reached.

    Parameters
    ----------
    auth
        The cluster file's ``auth``.
    known_hosts
        The file with the host keys of this cluster; a node's key is noted at the first connection and must not change.
    """

    auth: Mapping[str, Any]
    known_hosts: Path

    def command(self, host: str, *more: str) -> list[str]:
        """Return the call of ssh that reaches `host`."""
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "ExitOnForwardFailure": "yes",
            "ServerAliveInterval": "10",
            "ServerAliveCountMax": "3",
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": str(self.known_hosts),
            "LogLevel": "ERROR",
        }
        if self.auth.get("ssh_proxy_command"):
            options["ProxyCommand"] = str(self.auth["ssh_proxy_command"])
        flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        if self.auth.get("ssh_private_key"):
            flags += ["-o", "IdentitiesOnly=yes", "-i", str(Path(self.auth["ssh_private_key"]).expanduser())]
        return ["ssh", *flags, *more, f"{self.auth['ssh_user']}@{host}"]

    def run(self, host: str, command: str, *, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a shell command on `host`; ssh's own exit status is 255."""
        try:
            return subprocess.run(
                [*self.command(host), command], capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess([command], 255, "", f"no answer in {timeout:.0f} s")


class Tunnel:
    """A port of this machine that is the port `port` of `host`'s loopback address; held open until it is closed.

    Raises
    ------
    ClusterError
        ssh does not get through.
    """

    def __init__(self, ssh: Ssh, host: str, port: int) -> None:
        self._host, self._to = host, port
        self.port = _free_port()
        forward = ["-N", "-L", f"127.0.0.1:{self.port}:127.0.0.1:{port}"]
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._process = subprocess.Popen(
            ssh.command(host, *forward),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            start_new_session=True,  # Ctrl-C is ours to answer
        )
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    @property
    def is_open(self) -> bool:
        """Whether ssh still runs."""
        return self._process.poll() is None

    def _wait(self) -> None:
        deadline = time.monotonic() + _TUNNEL_S
        while time.monotonic() < deadline and self.is_open:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        self._stderr.seek(0)
        output = self._stderr.read().decode(errors="replace").strip().splitlines()
        raise ClusterError(
            f"no SSH tunnel to the cluster's head: {output[-1] if output else 'no answer'}",
            where=f"{self._host}:{self._to}",
            fix="check `auth` of the cluster file, and that this machine reaches port 22 of the head",
        )

    def close(self) -> None:
        """End ssh."""
        if self.is_open:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._stderr.close()


@contextmanager
def tunnel(ssh: Ssh, host: str, port: int) -> Iterator[Tunnel]:
    """Hold a tunnel open for a ``with`` statement."""
    opened = Tunnel(ssh, host, port)
    try:
        yield opened
    finally:
        opened.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
