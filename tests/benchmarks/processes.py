"""Run one command and account for every process that it started.

``os.wait4`` alone would miss two kinds: processes whose parent died before them (this process adopts them, as a child
subreaper), and those whose parent ignores SIGCHLD, as Ray's raylet does (the kernel throws their times away, so they
are read from /proc while they live, four times a second).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SAMPLE_S = 0.25
_GRACE_S = 10.0


class CommandFailed(Exception):
    """A command ended with another code than 0; its last output says why."""


@dataclass
class Seen:
    """A process as it was last seen: CPU seconds of its own and of the children it has waited for, memory in bytes."""

    parent: int
    role: str
    own: float
    reaped: float
    rss: int
    absorbed: bool  # whether its parent will take its times over when it dies


@dataclass
class Run:
    """What a command cost.

    Attributes
    ----------
    wall
        Seconds from its start to its own exit.
    cpu
        CPU seconds of the whole process tree.
    peak_rss
        Bytes, the largest sum over the tree at one time; pages that processes share count in each.
    roles
        CPU seconds by the role of the process, children that it waited for included.
    processes
        How many processes of each role were seen, by the last role of each.
    memory
        (seconds since the epoch, bytes) of the command's own process.
    left_behind
        Processes that lived on ten seconds after its exit; they were killed.
    """

    wall: float
    cpu: float
    code: int
    output: str
    peak_rss: int
    roles: dict[str, float] = field(default_factory=dict)
    processes: dict[str, int] = field(default_factory=dict)
    memory: list[tuple[float, int]] = field(default_factory=list)
    left_behind: int = 0


def run(command: list[str], *, cwd: Path, env: dict[str, str] | None = None, timeout_s: float = 3600) -> Run:
    """Run `command` to its end with one thread a process in its numerical libraries.

    Raises
    ------
    CommandFailed
        It ends with another code than 0, or not within `timeout_s`.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    log = cwd / "output.txt"
    with log.open("wb") as file:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **threads, **(env or {})}, stdout=file, stderr=subprocess.STDOUT
        )
        tree = _Tree(process.pid)
        with tree:
            wall, code, cpu, left = _reap(process.pid, tree, started, timeout_s)
    process.returncode = code
    result = Run(wall, cpu + tree.lost(), code, log.read_text(errors="replace"), tree.peak_rss, tree.roles())
    result.processes, result.memory, result.left_behind = tree.processes(), tree.memory, left
    if code != 0:
        raise CommandFailed(f"{' '.join(command)} ended with code {code}:\n{result.output[-3000:]}")
    return result


def _reap(main: int, tree: _Tree, started: float, timeout_s: float) -> tuple[float, int, float, int]:
    """Wait for `main` and then for what it left; return its wall and exit code, CPU seconds, and the number left."""
    wall, code, cpu, left = 0.0, 0, 0.0, 0
    deadline = started + timeout_s
    ended = False
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return wall, code, cpu, left
        if pid == 0:
            if time.perf_counter() > deadline:
                left = _kill(tree.members()) if ended else left
                if not ended:
                    os.kill(main, signal.SIGTERM)
                deadline = time.perf_counter() + _GRACE_S
            time.sleep(0.002)
            continue
        cpu += usage.ru_utime + usage.ru_stime
        tree.waited_for(pid)
        if pid == main:
            wall, code, ended = time.perf_counter() - started, os.waitstatus_to_exitcode(status), True
            deadline = time.perf_counter() + _GRACE_S


def _kill(pids: list[int]) -> int:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(pids)


class _Tree(threading.Thread):
    """Watches the descendants of this process while a command runs."""

    def __init__(self, main: int) -> None:
        super().__init__(daemon=True)
        self.memory: list[tuple[float, int]] = []
        self.peak_rss = 0
        self._main = main
        self._seen: dict[int, Seen] = {}
        self._waited_for: set[int] = set()
        self._over = threading.Event()

    def __enter__(self) -> _Tree:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            living = _descendants(os.getpid(), self._main, self._seen)
            self._seen.update(living)
            self.peak_rss = max(self.peak_rss, sum(seen.rss for seen in living.values()))
            if self._main in living:
                self.memory.append((time.time(), living[self._main].rss))

    def waited_for(self, pid: int) -> None:
        self._waited_for.add(pid)

    def members(self) -> list[int]:
        return list(_descendants(os.getpid(), self._main, self._seen))

    def lost(self) -> float:
        """Return the CPU seconds of processes that nobody waited for."""
        return sum(
            seen.own + seen.reaped
            for pid, seen in self._seen.items()
            if not seen.absorbed and pid not in self._waited_for
        )

    def processes(self) -> dict[str, int]:
        return dict(Counter(seen.role for seen in self._seen.values()))

    def roles(self) -> dict[str, float]:
        totals: dict[str, float] = {}
        for pid, seen in self._seen.items():
            totals[seen.role] = totals.get(seen.role, 0.0) + seen.own
            # children seen with their own role would count twice: only what died between two looks is added
            known = sum(s.own + s.reaped for p, s in self._seen.items() if s.parent == pid and s.absorbed)
            role = f"{seen.role}: short-lived children"
            totals[role] = totals.get(role, 0.0) + max(0.0, seen.reaped - known)
        return {role: seconds for role, seconds in totals.items() if seconds >= 0.05}


def _descendants(root: int, main: int, before: dict[int, Seen]) -> dict[int, Seen]:
    stats: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:  # it has ended
                continue
            stats[int(entry.name)] = text.rpartition(")")[2].split()
    found: dict[int, Seen] = {}
    members, grew = {root}, True
    while grew:
        new = {pid for pid, stat in stats.items() if int(stat[1]) in members and pid not in members}
        members, grew = members | new, bool(new)
    for pid in members - {root}:
        stat = stats[pid]
        user, system, child_user, child_system = (int(value) / _TICK for value in stat[11:15])
        parent = int(stat[1])
        known = before.get(pid)
        absorbed = known.absorbed if known and known.parent == parent else not _ignores_children(parent)
        role = "the command itself" if pid == main else _role(pid) or (known.role if known else "other")
        found[pid] = Seen(parent, role, user + system, child_user + child_system, int(stat[21]) * _PAGE, absorbed)
    return found


def _ignores_children(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(int(mask, 16) >> (signal.SIGCHLD - 1) & 1)


_ROLES = (
    ("gcs_server", "Ray's gcs_server"),
    ("raylet/raylet", "Ray's raylet"),
    ("dashboard", "Ray's dashboard and agents"),
    ("runtime_env/agent", "Ray's dashboard and agents"),
    ("log_monitor", "Ray's monitors"),
    ("monitor.py", "Ray's monitors"),
    ("ray::IDLE", "Ray's idle workers"),
    ("ray::", "trial actors"),
    ("default_worker", "Ray's idle workers"),
    ("raycompress.runtime.warm", "warm process and its trials"),
)


def _role(pid: int) -> str:
    """Return what a process is, or an empty string when it has just ended."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
    return next((role for part, role in _ROLES if part in line), "other") if line else ""
