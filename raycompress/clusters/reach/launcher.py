"""Ray's cluster launcher: up, down, copying, and the check that a cluster is really gone."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from raycompress.clusters.reach.home import ClusterHome
from raycompress.clusters.reach.ssh import Ssh
from raycompress.clusters.ship.prepared import activation, prepare, stop_command
from raycompress.clusters.ship.wheel import make_wheel
from raycompress.disk import translate_os_errors, write_whole
from raycompress.errors import ClusterError

_SSH_FAILED = 255
_COUNT = "pgrep -f '[g]cs_server|[r]aylet/raylet|[d]ashboard/dashboard.py|[m]onitor.py|[r]ay start' | wc -l"
_STOP_S = 60.0
_LAST_LINES = 15
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_STEP = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+\s+V*INFO ")


def _plain_lines(output: str) -> Iterator[str]:
    """Yield what Ray's launcher printed but its own steps and tracebacks, without colours."""
    for line in _COLOURS.sub("", output).splitlines():
        if not _STEP.match(line) and not line.startswith("  ") and "traceback" not in line.lower():
            yield line.strip()


class Launcher:
    """Ray's launcher for one cluster file.

    Parameters
    ----------
    data
        The cluster file.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.home = ClusterHome.of(str(data["cluster_name"]))
        self.ssh = Ssh(data.get("auth") or {}, self.home.known_hosts)

    def prepare(self) -> None:
        """Write the cluster file that Ray is given, with our wheel and token."""
        ready = prepare(self.data, token=self.home.token(), wheel=make_wheel(self.home.root))
        write_whole(self.home.prepared, yaml.safe_dump(ready, sort_keys=False))

    def ray_status(self) -> str:
        """Return what ``ray status`` prints on the head.

        Raises
        ------
        ClusterError
            The head does not answer, or Ray does not run there.
        """
        head = self.head()
        command = f"{activation(self.data)}RAY_AUTH_MODE=token ray status"
        done = self.ssh.run(head, f"bash --login -c {shlex.quote(command)}")
        if done.returncode != 0:
            output = (done.stderr or done.stdout).strip().splitlines()
            raise ClusterError(
                f"the cluster does not say how it stands: {output[-1] if output else 'no answer'}",
                where=head,
                fix="`raycompress cluster down` ends what may still run",
            )
        return done.stdout.strip()

    def up(self) -> None:
        """Bring the cluster up. Ray comes back when the head runs; its workers join later.

        Raises
        ------
        ClusterError
            Ray failed; what it printed last is in the error.
        """
        with translate_os_errors("cannot write", self.home.root):
            self.home.known_hosts.unlink(missing_ok=True)  # of nodes that had these addresses before
            self.home.log.unlink(missing_ok=True)
        self.prepare()
        self._ray("up", "--yes", "--no-config-cache", failure="the cluster does not come up")

    def head(self) -> str:
        """Return the address of the head; of machines that the cluster file names, without a process of Ray's."""
        hosts = self.hosts()
        if hosts:
            return hosts[0]
        output = self._ray("get-head-ip", failure="the cluster has no head")
        return output.strip().splitlines()[-1].strip()

    def copy_here(self, source: str, target: Path) -> None:
        """Copy a folder of the head, whole, by Ray's own rsync."""
        self._ray("rsync-down", after=[source, str(target)], failure="cannot copy from the head")

    def down(self) -> list[str]:
        """Tear the cluster down and make sure that nothing of it is left.

        Returns
        -------
        What a person should know: nodes that cannot be looked at any more.

        Raises
        ------
        ClusterError
            Something is left.
        """
        if not self.home.prepared.exists():
            self.prepare()
        hosts = self.hosts()
        if hosts:  # first the head: what runs there would start again what we stop elsewhere
            self.ssh.run(hosts[0], self._stop_command)
        self._ray("down", "--yes", failure="the cluster does not go down")
        if hosts:
            with ThreadPoolExecutor(8) as pool:
                return [note for note in pool.map(self._stop, hosts) if note]
        left = self._nodes_left()
        if left:
            raise ClusterError(
                f"{len(left)} nodes still run after `ray down`, and cost money: {', '.join(left)}",
                where=str(self.home.log),
                fix="run `raycompress cluster down` once more, or end them in the provider's console",
            )
        return []

    def hosts(self) -> list[str]:
        """Return the machines that the cluster file names, its head first; none where a cloud makes them."""
        provider = self.data["provider"]
        if provider["type"] != "local":
            return []
        return [str(provider["head_ip"]), *map(str, provider.get("worker_ips") or ())]

    @property
    def n_nodes(self) -> int:
        """How many nodes the cluster has once it is up."""
        if self.hosts():
            return len(self.hosts())
        kinds = {name: kind for name, kind in self.data["available_node_types"].items() if name != self._head_type}
        return 1 + sum(int(kind.get("min_workers") or 0) for kind in kinds.values())

    @property
    def _head_type(self) -> str:
        return str(self.data.get("head_node_type"))

    @property
    def _stop_command(self) -> str:
        return f"bash --login -c {shlex.quote(stop_command(self.data))}"

    def _stop(self, host: str) -> str:
        """Stop Ray on a machine that is not ours to switch off: `ray down` leaves the workers' to themselves."""
        deadline = time.monotonic() + _STOP_S
        while True:
            stopped = self.ssh.run(host, self._stop_command)
            output = (stopped.stderr or stopped.stdout).strip()[-200:]
            if stopped.returncode == _SSH_FAILED:
                return f"{host} cannot be reached, so whether Ray still runs there is not known: {output}"
            if self.ssh.run(host, _COUNT).stdout.strip() == "0":
                return ""
            if time.monotonic() > deadline:
                fix = f"on that machine: {stop_command(self.data)}\nit said: {output}"
                raise ClusterError("Ray still runs after it was stopped", where=host, fix=fix)
            time.sleep(1)

    def _nodes_left(self) -> list[str]:
        from ray.autoscaler._private.providers import _get_node_provider

        provider: Any = _get_node_provider(self.data["provider"], self.data["cluster_name"])
        return list(provider.non_terminated_nodes({}))

    def _ray(self, verb: str, *options: str, failure: str, after: list[str] | None = None) -> str:
        command = [sys.executable, "-m", "ray.scripts.scripts", verb, *options, str(self.home.prepared), *(after or [])]
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}
        if self.hosts():  # see `prepare`
            environment["RAY_UP_enable_autoscaler_v2"] = "0"
        with translate_os_errors("cannot write", self.home.log), self.home.log.open("a") as log:
            log.write(f"--- ray {verb}\n")
            log.flush()
            begin = log.tell()
            running = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
            try:
                status = running.wait()
            except BaseException:
                running.terminate()
                running.wait()
                raise
        with self.home.log.open() as log:
            log.seek(begin)
            output = log.read()
        if status != 0:
            last = "\n".join(deque(filter(None, _plain_lines(output)), _LAST_LINES))
            raise ClusterError(f"{failure}: `ray {verb}` ended with {status}", where=str(self.home.log), fix=last)
        return output
