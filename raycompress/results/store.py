"""Where an experiment's results live: the one owner of the names on disk."""

from __future__ import annotations

import difflib
import json
import re
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raycompress.config.places import S3Address, Storage, is_remote
from raycompress.disk import flush, told, write_whole
from raycompress.errors import StorageError, UsageError
from raycompress.shapes import fits

if TYPE_CHECKING:
    from raycompress.results.journal import Journal


@dataclass(frozen=True)
class ExperimentFolder:
    """The files of one experiment.

    ::

        <storage>/<id>/
            experiment.json     the file that was launched, to the letter
            model.json          the model's layers, as inspection found them
            prior.json          of a guided search: what each layer bears, measured before the first trial
            journal.jsonl       what happened, one event a line
            best.json           which candidate is the best one, replaced in one step
            best -> trials/0007/candidate
            report.html         the page of `raycompress report`
            trials/0007/        config.json, log.txt and, while it is worth keeping, candidate/
            logs/               of the warm process and of Ray Tune
    """

    root: Path

    @property
    def id(self) -> str:
        """The experiment's name on the command line."""
        return self.root.name

    @property
    def experiment(self) -> Path:  # noqa: D102 (each is named in the class's docstring)
        return self.root / "experiment.json"

    @property
    def model(self) -> Path:  # noqa: D102
        return self.root / "model.json"

    @property
    def prior(self) -> Path:  # noqa: D102
        return self.root / "prior.json"

    @property
    def journal(self) -> Path:  # noqa: D102
        return self.root / "journal.jsonl"

    @property
    def best_pointer(self) -> Path:  # noqa: D102
        return self.root / "best.json"

    @property
    def best_link(self) -> Path:  # noqa: D102
        return self.root / "best"

    @property
    def report(self) -> Path:  # noqa: D102
        return self.root / "report.html"

    @property
    def logs(self) -> Path:  # noqa: D102
        return self.root / "logs"

    @property
    def reference(self) -> str:
        """What every verb takes for this experiment, wherever it is called."""
        return str(self.root)

    @property
    def is_remote(self) -> bool:
        """Whether the folder mirrors an experiment that lies elsewhere."""
        return False

    def place(self, path: Path) -> str:
        """Return where a person finds what is at `path`."""
        return str(path)

    def refresh(self) -> None:
        """See to it that what is read here is what there is now."""

    def open_journal(self) -> Journal:
        """Return the writing end of the journal; StorageError where another process has it."""
        from raycompress.results.journal import Journal

        return Journal(self.journal)

    def is_written(self) -> bool:
        """Tell whether a process writes the journal, that is, whether the experiment runs."""
        from raycompress.results.journal import is_written

        return is_written(self.journal)

    def scratch(self) -> ExperimentFolder:
        """Return the folder that trials make their files in."""
        return self

    def deliver(self, number: int, *, saved: bool) -> None:
        """See to it that what trial `number` printed, and has `saved`, is where the search looks for it."""

    def clear(self, number: int | None = None) -> None:
        """Delete what was delivered and is not needed here any more: of one trial, or of all."""

    def write(self, path: Path, text: str) -> None:
        """Write one of the experiment's files, whole."""
        write_whole(path, text)

    def discard(self) -> None:
        """Delete everything, of an experiment that has not begun."""
        shutil.rmtree(self.root)

    def trial(self, number: int) -> Path:
        """Return the folder of trial `number`."""
        return self.root / "trials" / f"{number:04d}"

    def candidate(self, number: int) -> Path:
        """Return the folder that trial `number` exports its model into."""
        return self.trial(number) / "candidate"

    def log(self, number: int) -> Path:
        """Return the file with what trial `number` printed."""
        return self.trial(number) / "log.txt"

    def check_candidate(self, number: int) -> None:
        """Raise BundleError where the candidate of trial `number` is not whole."""
        from raycompress.bundle.bundle import check_hashes

        check_hashes(self.candidate(number))

    def fetch_candidate(self, number: int) -> Path:
        """Return the folder of a candidate that can be read there."""
        return self.candidate(number)

    def fetch_log(self, number: int) -> Path:
        """Return the file of a trial's log, as far as there is one."""
        return self.log(number)

    def candidates(self) -> list[int]:
        """Return the numbers of the trials whose candidate is on disk."""
        return sorted(int(path.parent.parent.name) for path in self.root.glob("trials/*/candidate/manifest.json"))

    def remove_candidate(self, number: int) -> None:
        """Delete the candidate of trial `number`, if there is one; a reader never sees half of it."""
        candidate = self.candidate(number)
        if not candidate.exists():
            return
        doomed = candidate.with_name("candidate.removed")
        with told("cannot remove", candidate):
            shutil.rmtree(doomed, ignore_errors=True)
            candidate.rename(doomed)
            shutil.rmtree(doomed)

    def remove_candidates_but(self, kept: Collection[int]) -> None:
        """Delete every candidate, whole or not, but those of the trials in `kept`."""
        for path in self.root.glob("trials/*/candidate"):
            if int(path.parent.name) not in kept:
                self.remove_candidate(int(path.parent.name))

    def best_number(self) -> int | None:
        """Return the trial whose candidate is the best one, as ``best.json`` says; None when there is none.

        Raises
        ------
        StorageError
            The file is not one of ours.
        """
        try:
            pointer = json.loads(self.best_pointer.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            what = f"the pointer to the best model cannot be read: {error.strerror}"
            raise StorageError(what, where=str(self.best_pointer)) from error
        except (ValueError, RecursionError):
            pointer = None
        if not fits(pointer, {"trial": int}):
            fix = 'write {"trial": N}, with the number of the trial that the last "promoted" of journal.jsonl names'
            raise StorageError("the pointer to the best model names no trial", where=str(self.best_pointer), fix=fix)
        return int(pointer["trial"])

    def point_to_best(self, number: int, score: float) -> None:
        """Say that the candidate of trial `number` is the best one: in one step, once it is on disk."""
        candidate = self.candidate(number)
        flush(candidate)
        write_whole(self.best_pointer, pointer(number, score, candidate.relative_to(self.root)))
        self.link_best(number)

    def forget_best(self) -> None:
        """Say that there is no best one."""
        self.best_link.unlink(missing_ok=True)
        self.best_pointer.unlink(missing_ok=True)

    def put_aside(self, number: int, name: str) -> None:
        """Keep the log of a run under `name`, and what it saved not at all, before the trial's next run."""
        self.remove_candidate(number)
        with told("cannot rename", self.log(number)):
            if self.log(number).exists():
                self.log(number).replace(self.trial(number) / f"log.{name}.txt")

    def put_aside_earlier_start(self, number: int) -> None:
        """Keep the log of a trial that was begun before and whose search, or node, was killed."""
        if self.trial(number).exists():
            earlier = sum(1 for _ in self.trial(number).glob("log.start-*.txt"))
            self.put_aside(number, f"start-{earlier + 1}")

    def link_best(self, number: int) -> None:
        """Point ``best`` at the candidate of trial `number`: a convenience for people; ``best.json`` decides."""
        aside = self.root / ".best.new"
        with told("cannot write", self.best_link):
            aside.unlink(missing_ok=True)
            aside.symlink_to(self.candidate(number).relative_to(self.root))
            aside.replace(self.best_link)


def pointer(number: int, score: float, candidate: Path) -> str:
    """Return what ``best.json`` says."""
    return json.dumps({"trial": number, "score": score, "bundle": str(candidate)}, indent=2) + "\n"


def new_id(name: str) -> str:
    """Return what an experiment goes by: its name, as a folder can have it everywhere, and the time."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "experiment"
    return f"{slug}-{time.strftime('%Y%m%d-%H%M%S')}"


def check(storage: Storage) -> None:
    """Raise StorageError where results could not be written to S3; a folder is looked at as experiments are loaded."""
    if isinstance(storage, S3Address):
        from raycompress.results.s3 import storage as s3

        s3.check(storage)


def create(storage: Storage, name: str, wanted: str | None = None) -> ExperimentFolder:
    """Make a new experiment folder, called after the experiment and the time.

    Parameters
    ----------
    wanted
        What it is to be called instead; a number is added where it is there already.

    Raises
    ------
    StorageError
        `storage` cannot be written.
    """
    stem = wanted or new_id(name)
    if isinstance(storage, S3Address):
        from raycompress.results.s3 import storage as s3

        return s3.create(storage, stem)
    try:
        storage.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            root = storage / (stem if attempt == 1 else f"{stem}-{attempt}")
            try:
                root.mkdir()
            except FileExistsError:
                continue
            (root / "trials").mkdir()
            (root / "logs").mkdir()
            return ExperimentFolder(root)
    except OSError as error:
        raise StorageError(
            f"results cannot be written: {error.strerror}",
            where=str(storage),
            fix='make the folder writable, or name another one with "storage" in the experiment file',
        ) from error
    raise StorageError(f"a thousand experiments were launched at once as {stem}", where=str(storage))


def list_folders(storage: Storage) -> list[ExperimentFolder]:
    """Return the experiments in `storage`, the newest first; those that never began are left out."""
    if isinstance(storage, S3Address):
        from raycompress.results.s3 import storage as s3

        return list(s3.begun(storage))
    journals = [(_started(path), path) for path in storage.resolve().glob("*/journal.jsonl")]
    begun = [(started, path) for started, path in journals if started is not None]
    return [ExperimentFolder(path.parent) for _, path in sorted(begun, reverse=True)]


def _started(journal: Path) -> float | None:
    """Return when the experiment began; None for a journal that a kill kept from beginning."""
    from raycompress.results.journal import read

    try:
        return next((event["t"] for event in read(journal)), None)
    except StorageError:  # told to whoever opens it; the others can be found
        return 0.0


def find(reference: str | None, storage: Storage) -> ExperimentFolder:
    """Return the experiment that `reference` names.

    Parameters
    ----------
    reference
        A path to an experiment folder, its address on S3, an id in `storage`, the beginning of one, or None for the
        newest.
    storage
        Where results are looked for.

    Raises
    ------
    UsageError
        Nothing, or more than one experiment, goes by that name.
    """
    if reference is not None and is_remote(reference):
        return _at_address(reference)
    if reference is not None and (Path(reference) / "journal.jsonl").exists():
        return ExperimentFolder(Path(reference).resolve())
    if isinstance(storage, S3Address):
        from raycompress.results.s3 import storage as s3

        named = _named(reference, list(s3.found(storage)), storage)
        named.refresh()
        return named
    return _named(reference, list_folders(storage), storage)


def _at_address(reference: str) -> ExperimentFolder:
    try:
        address = S3Address.parse(reference)
    except ValueError as error:
        raise UsageError(str(error), where=reference, fix="s3://bucket/prefix/ID names an experiment") from error
    return find(address.name or None, address.parent)


def _named(reference: str | None, folders: list[ExperimentFolder], storage: Storage) -> ExperimentFolder:
    if not folders:
        raise UsageError(
            "no experiment here yet",
            where=str(storage),
            fix="`raycompress launch exp.json` makes one; --storage names another results folder",
        )
    if reference is None:
        return folders[0]
    exact = [folder for folder in folders if folder.id == reference]
    found = exact or [folder for folder in folders if folder.id.startswith(reference)]
    if len(found) == 1:
        return found[0]
    ids = [folder.id for folder in (found or folders)]
    if found:
        raise UsageError(f'"{reference}" names {len(found)} experiments', where=str(storage), fix=", ".join(ids[:5]))
    near = difflib.get_close_matches(reference, ids, n=1, cutoff=0.3)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    raise UsageError(f'no experiment "{reference}"', where=str(storage), fix=f"{hint}`raycompress ls` lists them all")
