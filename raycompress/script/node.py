"""The folder and the locks that all raycompress processes of this user on this machine share."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raycompress.errors import StorageError

MEASURING = "measuring"
"""The lock of whoever measures a latency: two at the same moment would measure each other."""


LONGEST_SOCKET = 107
"""Bytes that the path of a socket may have, on Linux."""
_TAIL = len("/raycompress-4294967295/0123456789abcdef/socket")
_SHORT = "set TMPDIR to a folder of this machine with a short path, such as /tmp"
_OTHERS = ("/tmp", "/var/tmp", "/dev/shm")


def folder_for_sockets(tail: int, *, plain: bool = False) -> Path:
    """Return the folder for temporary files, or another one where the paths of sockets below it would be too long.

    Parameters
    ----------
    tail
        Bytes of what follows it in such a path.
    plain
        Whether its path must be of printable ASCII without blanks.

    Raises
    ------
    StorageError
        There is none that can be written.
    """
    try:
        wanted = tempfile.gettempdir()
    except FileNotFoundError as error:
        what = "no folder for temporary files can be written"
        raise StorageError(what, where=os.environ.get("TMPDIR", "/tmp"), fix=_SHORT) from error
    for folder in (wanted, *_OTHERS):
        is_short = len(os.fsencode(folder)) + tail <= LONGEST_SOCKET
        is_plain = folder.isascii() and folder.isprintable() and " " not in folder
        if is_short and (is_plain or not plain) and os.access(folder, os.W_OK | os.X_OK):
            return Path(folder)
    raise StorageError("no folder for sockets has a path that is short enough", where=wanted, fix=_SHORT)


def runtime_folder() -> Path:
    """Return the folder for sockets and locks, readable by this user alone.

    Raises
    ------
    StorageError
        When somebody else owns it, others may look into it, or there is no place for it.
    """
    folder = folder_for_sockets(_TAIL) / f"raycompress-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise StorageError(
            f"the folder for sockets cannot be made: {error.strerror}", where=str(folder), fix=_SHORT
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise StorageError(
            "the folder for sockets is not this user's alone",
            where=str(folder),
            fix=f"remove it, or `chmod 700 {folder}` if it is yours; TMPDIR chooses another place",
        )
    return folder


@contextmanager
def locked(name: str, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold the lock `name` of this machine; it ends with this process at the latest.

    Parameters
    ----------
    kind
        ``fcntl.LOCK_EX``, or ``fcntl.LOCK_SH`` to hold it with others who do.
    """
    file = os.open(runtime_folder() / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, kind)
        yield
    finally:
        os.close(file)
