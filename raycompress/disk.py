"""Atomic writes to disk, and file-system errors as a StorageError."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raycompress.errors import StorageError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_json(path: Path, data: Any) -> None:
    """Replace the file at `path` in one step by `data` as JSON; see `write_whole`."""
    write_whole(path, json.dumps(data, indent=2) + "\n")


def write_whole(path: Path, text: str | bytes) -> None:
    """Replace the file at `path` in one step: at any kill there is the old text or the new one, whole.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    aside = path.with_name(f".{path.name}.new")
    with translate_os_errors("cannot write", path):
        with aside.open("wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def translate_os_errors(what: str, where: Path) -> Iterator[None]:
    """Turn what the file system refuses into a StorageError that says `what` could not be done, and `where`."""
    try:
        yield
    except OSError as error:
        place = error.filename if isinstance(error.filename, str) else where
        fix = "free some space" if error.errno in _FULL else "check that the folder is there and may be written"
        raise StorageError(f"{what}: {error.strerror}", where=str(place), fix=fix) from error


def flush(folder: Path) -> None:
    """Wait until every file of a folder is on disk: a machine may die, and the pointer must not name what it lost."""
    for place, _, names in os.walk(folder):
        for path in (Path(place), *(Path(place, name) for name in names)):
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)
