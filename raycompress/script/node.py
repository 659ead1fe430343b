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


def runtime_folder() -> Path:
    """Return the folder for sockets and locks, readable by this user alone.

    Raises
    ------
    StorageError
        When somebody else owns it, or others may look into it.
    """
    folder = Path(tempfile.gettempdir()) / f"raycompress-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
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
