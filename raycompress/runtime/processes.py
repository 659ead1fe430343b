"""Linux process control: no process may outlive the trial that started it.

A process that marks itself a *subreaper* becomes the parent of every orphan among its descendants, daemons included. So
the descendants of a trial's supervisor are exactly what the trial started, and no list of them has to be kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def open_standard_streams() -> None:
    """Open those of the descriptors 0, 1 and 2 that are closed, on /dev/null, and the streams of Python on them.

    Some schedulers, and ``nohup command <&- >&-``, start a process without them: the next file or socket would get
    such a number, and be what a started process reads from or prints to.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:  # 0 is closed and a later one was opened: the lowest free number is taken
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def become_subreaper() -> None:
    """Make this process the parent of every orphan among its descendants."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which forked it, ends; leave now if it has ended already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


_libc = ctypes.CDLL(None, use_errno=True)


class ChildWatch:
    """Wakes a selector when a child process ends; `fileno` is what to select on."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler no byte is written
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable."""
        return self._read.fileno()

    def reap(self) -> dict[int, int]:
        """Return the wait status of each child that has ended, by process id."""
        with contextlib.suppress(BlockingIOError):
            while self._read.recv(4096):
                pass
        return reap()

    def close(self) -> None:
        """Leave signals as they were; for a process that was forked."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._read.close()
        self._write.close()


def reap() -> dict[int, int]:
    """Return the wait status of each child that has ended, by process id, without waiting."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = status
    return ended


def let_descendants_end(limit_s: float = 0.3, meanwhile: Callable[[], object] | None = None) -> None:
    """Give what an ended script left behind a moment to end by itself: helpers of multiprocessing clean up then.

    `meanwhile` is called again and again, for what they wait for.
    """
    deadline = time.monotonic() + limit_s
    while _has_children() and time.monotonic() < deadline:
        if meanwhile is not None:
            meanwhile()
        if not reap():
            time.sleep(0.005)


def kill_descendants(spare: frozenset[int] = frozenset(), limit_s: float = 3.0) -> dict[int, int]:
    """Kill every descendant of this process, a subreaper, but those in `spare` and theirs; reap them.

    Repeated until none is left, since a process may fork between being seen and being killed. Processes that the kernel
    does not let go of within `limit_s` (stuck in a driver) are left to it; their signal is pending.

    Returns
    -------
    dict
        The wait status of each direct child that ended, by process id.
    """
    ended: dict[int, int] = {}
    deadline = time.monotonic() + limit_s
    while victims := _descendants(spare):
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended |= reap()
        if time.monotonic() > deadline:
            break
        time.sleep(0.002)
    return ended | reap()


def _descendants(spare: frozenset[int]) -> list[int]:
    """Return the ids of the living descendants of this process, parents first."""
    if not _has_children():
        return []
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # gone by now
                # the name, in brackets, may hold anything
                parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
                children[int(parent)].append(int(entry.name))
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        below = [pid for pid in children[todo.pop()] if pid not in spare]
        found += below
        todo += below
    return found


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def join_pages() -> None:
    """Have the kernel put the memory of this process into large pages, as far as it can, before it is forked often.

    A fork copies an entry for each page, and the child's end frees them: for a process that holds torch some 20 ms, of
    which 13 go. This takes half a second. A kernel before Linux 6.1 leaves everything as it is.
    """
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, access, _offset, _device, _inode, *name = line.split(None, 5)
        if access != "rw-p" or name not in ([], ["[heap]"]):
            continue
        start, end = (int(address, 16) for address in place.split("-"))
        start, end = -(-start // _LARGE_PAGE) * _LARGE_PAGE, end // _LARGE_PAGE * _LARGE_PAGE
        if start < end:
            _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_COLLAPSE)


_LARGE_PAGE = 2 << 20
_MADV_COLLAPSE = 25
_LARGEST_SCORE = 1000
_TORCH_MESSAGES = ("can't allocate memory", "CUDA out of memory", "out of memory. Tried to allocate")


def offer_this_process() -> None:
    """Have the kernel choose this process and its children before others: a trial, not what watches over it."""
    with contextlib.suppress(OSError):  # no such file here: then the kernel chooses the largest process anyway
        Path("/proc/self/oom_score_adj").write_text(str(_LARGEST_SCORE))  # Ray gives its workers the same


def kills() -> int:
    """Return how many processes of this machine the kernel has killed because memory was exhausted."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def is_exhausted(error: BaseException) -> bool:
    """Tell whether an exception says that there was not enough memory."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError", "ResourceExhaustedError"}:
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _TORCH_MESSAGES)
