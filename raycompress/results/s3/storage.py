"""A results folder on S3: creates and lists experiments, and checks that results can be written."""

from __future__ import annotations

import contextlib
import re
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor

from raycompress.config.places import S3Address
from raycompress.disk import translate_os_errors
from raycompress.errors import StorageError
from raycompress.results.s3 import lease
from raycompress.results.s3.folder import S3Folder
from raycompress.results.s3.objects import Objects, OvertakenError

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_LAUNCHED = re.compile(r"(\d{8}-\d{6})(?:-(\d+))?$")


def create(storage: S3Address, stem: str) -> S3Folder:
    """Reserve an address for a new experiment; a number is added to `stem` where one is there already."""
    for attempt in range(1, 1000):
        folder = S3Folder.at(storage / (stem if attempt == 1 else f"{stem}-{attempt}"))
        try:
            Objects(folder.address).put(lease.KEY, lease.free(folder.token), instead_of=None)
        except OvertakenError:
            continue
        shutil.rmtree(folder.root, ignore_errors=True)  # of another one that had this name once
        with translate_os_errors("cannot write", folder.root):
            for path in (folder.root / "trials", folder.logs):
                path.mkdir(parents=True)
        return folder
    raise StorageError(f"a thousand experiments were launched at once as {stem}", where=str(storage))


def found(storage: S3Address) -> list[S3Folder]:
    """Return the experiments at `storage`, the newest first; their mirrors are as they were, if there are any."""
    names = [name for name in Objects(storage).folders() if _ID.fullmatch(name)]
    return [S3Folder.at(storage / name) for name in sorted(names, key=_launched, reverse=True)]


def _launched(name: str) -> tuple[str, int, str]:
    when = _LAUNCHED.search(name)
    return (when[1], int(when[2] or 1), name) if when else ("", 0, name)


def begun(storage: S3Address) -> list[S3Folder]:
    """Return the experiments at `storage` that have begun, the newest first, their mirrors up to date."""
    folders = found(storage)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(S3Folder.refresh, folders))
    return [folder for folder in folders if folder.journal.exists()]


def check(storage: S3Address) -> None:
    """Find out before a search begins whether its results can be written, on a condition, read, listed and deleted.

    Raises
    ------
    StorageError
        They cannot.
    """
    objects, key = Objects(storage), f".raycompress-{uuid.uuid4().hex}"
    etag = objects.put(key, b"1", instead_of=None)
    try:
        for condition in (None, f'"{"0" * 32}"'):
            with contextlib.suppress(OvertakenError):
                objects.put(key, b"2", instead_of=condition)
                raise StorageError(
                    "this S3 does not heed conditional writes, and two drivers could write the same experiment",
                    where=str(storage),
                    fix="take one that does, as AWS, MinIO and Ceph have them",
                )
        objects.put(key, b"3", instead_of=etag)
        objects.folders()
    finally:
        objects.delete([key])
