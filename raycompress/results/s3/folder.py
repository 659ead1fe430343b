"""An experiment whose results are on S3: a local folder mirrors them for code that works with paths."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from raycompress.bundle.manifest import sha256
from raycompress.config.places import S3Address
from raycompress.disk import translate_os_errors, write_whole
from raycompress.errors import StorageError
from raycompress.results.folder import ExperimentFolder, pointer
from raycompress.results.journal import journal
from raycompress.results.s3 import candidates, lease, segments
from raycompress.results.s3.objects import PATIENCE_S, Objects, OvertakenError
from raycompress.results.s3.segments import ReplicatedJournal


@dataclass(frozen=True)
class S3Folder(ExperimentFolder):
    """The mirror of an experiment at an address on S3.

    Attributes
    ----------
    address
        ``s3://bucket/prefix/<id>``; the keys below it are named as the files of the folder, but for the journal.
    token
        Tells this process's hold on the experiment from those of others.
    """

    address: S3Address
    token: str = field(default_factory=lambda: uuid.uuid4().hex, compare=False)

    @classmethod
    def at(cls, address: S3Address) -> S3Folder:
        """Return the experiment at `address`, with its mirror in this user's cache folder."""
        return cls(_cache() / address.bucket / address.prefix, address)

    @property
    def reference(self) -> str:  # noqa: D102 (as in the class above, and so are those that follow)
        return str(self.address)

    @property
    def is_remote(self) -> bool:  # noqa: D102
        return True

    def place(self, path: Path) -> str:  # noqa: D102
        return str(self.address / path.relative_to(self.root).as_posix())

    @property
    def _objects(self) -> Objects:
        return Objects(self.address)

    @property
    def _patient(self) -> Objects:
        return Objects(self.address, patience_s=PATIENCE_S)

    def refresh(self) -> None:
        """Bring the mirror up to date, the models left out; where this machine's driver runs, it is."""
        with self._one_at_a_time():
            if not (self.journal.exists() and journal.is_written(self.journal)):
                self._mirror()

    def _mirror(self) -> segments.Segments:
        objects = self._objects
        with translate_os_errors("cannot write", self.root), ThreadPoolExecutor(4) as pool:
            whole = pool.submit(segments.fetch, objects, self.root / "journal")
            small = {path: pool.submit(objects.get, path.name) for path in self._small_files()}
            data, chain = whole.result()
            for path, found in small.items():
                body = found.result()
                if body is None:
                    path.unlink(missing_ok=True)
                else:
                    write_whole(path, body.body)
        if data:
            write_whole(self.journal, data)
        else:
            self.journal.unlink(missing_ok=True)
        return chain

    def _small_files(self) -> tuple[Path, ...]:
        return (self.best_pointer, self.experiment, self.model, self.prior)

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Keep other processes of this machine from changing the mirror meanwhile."""
        with translate_os_errors("cannot write", self.root):
            for path in (self.root / "trials", self.logs):
                path.mkdir(parents=True, exist_ok=True)
            lock = (self.root / ".mirror.lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def open_journal(self) -> journal.Journal:
        """Take the experiment's lease, bring the mirror up to date, and return the writing end of the journal.

        Raises
        ------
        StorageError
            Another driver, here or elsewhere, writes it.
        """
        with self._one_at_a_time():
            journal.Journal(self.journal).close()  # refused where a driver runs on this very mirror
            held = lease.Lease(self._objects, self.token)
            try:
                chain = self._mirror()
                chain.be_patient(PATIENCE_S)
                opened = ReplicatedJournal(self.journal, self._objects, held, chain)
            except BaseException:
                held.close()
                raise
        return opened

    def is_written(self) -> bool:  # noqa: D102
        return lease.holder(self._objects) is not None

    def scratch(self) -> ExperimentFolder:
        """Return where trials make their files: a folder of the same name on whichever machine they run.

        What drivers before this one have left of theirs on this machine goes.
        """
        whose = f"{_cache().name}/{self.address}"  # of this server, whichever cache folder the drivers have
        begins = f"raycompress-{hashlib.sha256(whose.encode()).hexdigest()[:12]}"
        mine = Path(tempfile.gettempdir()) / f"{begins}-{self.token}"
        for path in mine.parent.glob(f"{begins}-*"):
            if path != mine and path.stat().st_uid == os.getuid():
                shutil.rmtree(path, ignore_errors=True)
        return ScratchFolder(mine / self.id, self.address, self.token)

    def write(self, path: Path, text: str) -> None:  # noqa: D102
        self._patient.put_anyhow(path.name, text.encode())
        super().write(path, text)

    def discard(self) -> None:  # noqa: D102
        self._objects.delete(entry.key for entry in self._objects.listing())
        super().discard()

    def candidates(self) -> list[int]:  # noqa: D102
        return candidates.numbers(self._objects, whole=True)

    def remove_candidate(self, number: int) -> None:  # noqa: D102
        candidates.remove(self._patient, number)
        super().remove_candidate(number)

    def remove_checkpoint(self, number: int) -> None:  # noqa: D102
        self._patient.delete(_checkpoint_keys(self._patient, number))
        super().remove_checkpoint(number)

    def remove_candidates_but(self, kept: Collection[int]) -> None:  # noqa: D102
        for other in candidates.numbers(self._patient):
            if other not in kept:
                candidates.remove(self._patient, other)
        super().remove_candidates_but(kept)

    def check_candidate(self, number: int) -> None:  # noqa: D102
        candidates.check(self._patient, number)

    def fetch_candidate(self, number: int) -> Path:
        """Download the candidate of trial `number` into the mirror, unless it is there, and check its hashes."""
        with translate_os_errors("cannot write", self.candidate(number)):
            candidates.fetch(self._objects, number, self.candidate(number))
        if number == self.best_number():
            with contextlib.suppress(StorageError):  # a convenience
                self.link_best(number)
        return self.candidate(number)

    def fetch_log(self, number: int) -> Path:
        """Download what trial `number` printed into the mirror; there is nothing before its end."""
        found = self._objects.get(self.log(number).relative_to(self.root).as_posix())
        if found is not None:
            with translate_os_errors("cannot write", self.log(number)):
                self.log(number).parent.mkdir(parents=True, exist_ok=True)
                self.log(number).write_bytes(found.body)
        return self.log(number)

    def point_to_best(self, number: int, score: float) -> None:
        """Replace ``best.json`` in one step, if it is still the one that this driver knows."""
        found = self._patient.get(self.best_pointer.name)
        known = self.best_pointer.read_bytes() if self.best_pointer.exists() else None
        if (found.body if found is not None else None) != known:
            raise lease.overtaken(self._objects)
        text = pointer(number, score, self.candidate(number).relative_to(self.root))
        try:
            instead_of = found.etag if found is not None else None
            self._patient.put(self.best_pointer.name, text.encode(), instead_of=instead_of)
        except OvertakenError as error:
            raise lease.overtaken(self._objects) from error
        write_whole(self.best_pointer, text)

    def forget_best(self) -> None:  # noqa: D102
        self._patient.delete([self.best_pointer.name])
        super().forget_best()


def _checkpoint_keys(objects: Objects, number: int) -> list[str]:
    """Return the keys of a trial's checkpoint and of what its workers have of their own."""
    folder = f"trials/{number:04d}"
    return [one.key for one in objects.listing(folder) if one.key.startswith(f"{folder}/checkpoint")]


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    server = re.sub(r"[^A-Za-z0-9.-]+", "-", urlsplit(endpoint).netloc.rpartition("@")[2])
    return Path(home).expanduser().absolute() / "raycompress" / (server or "s3")


@dataclass(frozen=True)
class ScratchFolder(ExperimentFolder):
    """A folder for trials that are delivered to the experiment at `address`.

    Attributes
    ----------
    token
        Of the driver that the trials belong to.
    """

    address: S3Address
    token: str

    def deliver(self, number: int, *, saved: bool) -> None:
        """Copy what trial `number` printed and wrote to S3, its config, and what it saved, which then goes from here.

        Raises
        ------
        StorageError
            S3 does not take it, or the experiment belongs to another driver by now.
        """
        objects = Objects(self.address, patience_s=PATIENCE_S)
        for path in (*self.trial(number).glob("log*.txt"), *self.trial(number).glob("config.json")):
            objects.put_anyhow(path.relative_to(self.root).as_posix(), path.read_bytes())
        for path in self.files(number).rglob("*"):
            if path.is_file() and not path.is_symlink():
                objects.upload(path, path.relative_to(self.root).as_posix(), sha256(path))
        if saved:
            self._check_lease(objects)
            candidates.upload(objects, number, self.candidate(number))
            shutil.rmtree(self.candidate(number))

    def deliver_checkpoint(self, number: int, worker: int = 0) -> None:
        """Copy the checkpoint of trial `number`, or what a worker has of its own, to S3 as it is now.

        The trial goes on meanwhile, and may replace it.

        Raises
        ------
        StorageError
            S3 does not take it, or the experiment belongs to another driver by now.
        """
        objects, path = Objects(self.address, patience_s=PATIENCE_S), self.checkpoint(number, worker)
        aside = path.with_name(f"sent.{path.name}")
        self._check_lease(objects)
        with translate_os_errors("cannot read", path):
            aside.unlink(missing_ok=True)
            aside.hardlink_to(path)
        objects.upload(aside, self._key(path), sha256(aside))
        aside.unlink()

    def fetch_checkpoint(self, number: int, worker: int = 0) -> None:
        """Download the checkpoint of trial `number`, of an earlier start on whichever machine, and a worker's own."""
        objects = Objects(self.address, patience_s=PATIENCE_S)
        for path in {self.checkpoint(number), self.checkpoint(number, worker)}:
            if objects.measured(self._key(path)) is None:
                path.unlink(missing_ok=True)
                continue
            aside = path.with_name(f"fetched-{os.getpid()}.{path.name}")  # each worker of a trial fetches it
            with translate_os_errors("cannot write", path):
                path.parent.mkdir(parents=True, exist_ok=True)
                objects.download(self._key(path), aside)
                aside.replace(path)

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def remove_checkpoint(self, number: int) -> None:  # noqa: D102
        objects = Objects(self.address, patience_s=PATIENCE_S)
        objects.delete(_checkpoint_keys(objects, number))
        super().remove_checkpoint(number)

    def _check_lease(self, objects: Objects) -> None:
        """Raise where another driver makes this trial again: the two must not be mixed."""
        found = objects.get(lease.KEY)
        holder = lease.Holder.seen(found) if found is not None else None
        if holder is None or not holder.held or holder.token != self.token:
            raise StorageError("its search was taken over, or has ended", where=str(self.address))

    def clear(self, number: int | None = None) -> None:  # noqa: D102
        shutil.rmtree(self.root.parent if number is None else self.trial(number), ignore_errors=True)
