"""The agent's places on its machine: a folder of its own for models, and the lock of whoever measures."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "raycompress-agent-"
_ALIVE = ".alive"
MEASURING = "raycompress-measuring"


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """Make a folder that is removed at the end, and remove those of agents that were killed.

    An agent holds a lock in its folder as long as it lives: the folder without one is nobody's.
    """
    root = Path(tempfile.gettempdir())
    with _locked(root / f"{_PREFIX}{os.getuid()}.lock"):  # none is made while others are looked at
        for path in root.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                if path.is_dir() and path.stat().st_uid == os.getuid() and _is_left(path):
                    shutil.rmtree(path, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        alive = _open(folder / _ALIVE)
        fcntl.flock(alive, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(alive)


class BusyError(Exception):
    """Others have measured on this machine all the while."""


@contextlib.contextmanager
def alone(lock: str, patience_s: float) -> Iterator[None]:
    """Hold the lock of whoever measures on this machine; raise BusyError where it is not to be had in time.

    Parameters
    ----------
    lock
        Its file; by default one that all users of this machine share.
    """
    file = _open(Path(lock) if lock else _shared_place() / MEASURING)
    try:
        with after(patience_s, BusyError()):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


@contextlib.contextmanager
def after(seconds: float, error: Exception) -> Iterator[None]:
    """Raise `error` where the block, which waits in a call of the system, has not ended after so many seconds."""

    def interrupt(_number: int, _frame: object) -> None:
        raise error

    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _shared_place() -> Path:
    """Return the folder for temporary files that is the same for every user, whatever their TMPDIR."""
    place = Path("/tmp")
    return place if os.access(place, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    file = _open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _open(path: Path) -> int:
    """Open a file to lock it, which may be another user's: such a one in /tmp cannot be opened to be made."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):  # another was quicker
            file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            os.fchmod(file, 0o644)  # whatever the umask: others must be able to wait for it
            return file
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _is_left(folder: Path) -> bool:
    """Tell whether the agent that made a folder is gone."""
    try:
        file = os.open(folder / _ALIVE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True  # one of before, or made and not yet locked: the lock of all folders is held
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True
