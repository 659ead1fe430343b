"""Candidates on S3: what a trial saved, below ``trials/0007/candidate/``; the manifest comes last and goes first."""

from __future__ import annotations

import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raycompress.bundle import bundle
from raycompress.bundle.manifest import sha256
from raycompress.errors import BundleError
from raycompress.results.s3.objects import Objects

_OF_TRIAL = re.compile(r"trials/(\d{4,})/candidate/(.+)")
_AT_ONCE = 8


def key(number: int) -> str:
    """Return where the candidate of trial `number` lies."""
    return f"trials/{number:04d}/candidate"


def upload(objects: Objects, number: int, folder: Path) -> None:
    """Copy a candidate there; until its manifest is there, it is none."""
    files = bundle.read(folder).files
    objects.delete([f"{key(number)}/{bundle.MANIFEST}"])  # of an earlier run of the trial
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        sent = [
            pool.submit(objects.upload, folder / name, f"{key(number)}/{name}", file.sha256)
            for name, file in files.items()
        ]
        for one in sent:
            one.result()
    objects.upload(folder / bundle.MANIFEST, f"{key(number)}/{bundle.MANIFEST}", sha256(folder / bundle.MANIFEST))


def check(objects: Objects, number: int) -> None:
    """Compare what is there with its manifest, by sizes and the hashes that S3 was given; nothing is downloaded.

    Raises
    ------
    BundleError
        It is not whole.
    """
    files = _manifest(objects, number).files
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        there = pool.map(lambda name: objects.measured(f"{key(number)}/{name}"), files)
        for (name, file), measured in zip(files.items(), list(there), strict=True):
            if measured != (file.bytes, file.sha256):
                raise _broken(objects, number, f"{name} is {'missing' if measured is None else 'another file'}")


def fetch(objects: Objects, number: int, to: Path) -> None:
    """Download a candidate into the folder `to`, which is replaced, and compare its hashes.

    Raises
    ------
    BundleError
        It is not what was saved.
    """
    if _is_here(objects, number, to):
        return
    names = _manifest(objects, number).files
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=".fetching-") as place:
        aside = Path(place) / to.name
        for name in (*names, bundle.MANIFEST):
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            if objects.measured(f"{key(number)}/{name}") is None:
                raise _broken(objects, number, f"{name} is missing")
            objects.download(f"{key(number)}/{name}", aside / name)
        try:
            bundle.check_hashes(aside)
        except BundleError as error:
            raise _broken(objects, number, error.problems[0].what) from error
        shutil.rmtree(to, ignore_errors=True)
        aside.replace(to)


def remove(objects: Objects, number: int) -> None:
    """Delete a candidate, whole or not; a reader never sees half of it."""
    there = [entry.key for entry in objects.listing(key(number))]
    manifest = f"{key(number)}/{bundle.MANIFEST}"
    if manifest in there:
        objects.delete([manifest])
    objects.delete(one for one in there if one != manifest)


def numbers(objects: Objects, *, whole: bool = False) -> list[int]:
    """Return the trials of which there is a candidate, or a part of one; only those with a manifest if `whole`."""
    of_trials = [match for entry in objects.listing("trials") if (match := _OF_TRIAL.fullmatch(entry.key))]
    return sorted({int(match[1]) for match in of_trials if not whole or match[2] == bundle.MANIFEST})


def _is_here(objects: Objects, number: int, folder: Path) -> bool:
    there = objects.measured(f"{key(number)}/{bundle.MANIFEST}")
    try:
        if there is None or there[1] != sha256(folder / bundle.MANIFEST):
            return False
        bundle.check_hashes(folder)
    except (OSError, BundleError):
        return False
    return True


def _manifest(objects: Objects, number: int) -> bundle.Manifest:
    found = objects.get(f"{key(number)}/{bundle.MANIFEST}")
    if found is None:
        raise _broken(objects, number, "it has no manifest")
    with tempfile.TemporaryDirectory(prefix="raycompress-") as folder:
        (Path(folder) / bundle.MANIFEST).write_bytes(found.body)
        try:
            return bundle.read(Path(folder))
        except BundleError as error:
            raise _broken(objects, number, error.problems[0].what) from error


def _broken(objects: Objects, number: int, why: str) -> BundleError:
    fix = f"`raycompress resume {objects.address}` makes the trial again; do not edit its files"
    why = why.removeprefix("the bundle is broken: ")
    return BundleError(f"the bundle is broken: {why}", where=str(objects.address / key(number)), fix=fix)
