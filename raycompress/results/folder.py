"""The folder of an experiment: the one owner of the names on disk."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raycompress.disk import flush, translate_os_errors, write_whole
from raycompress.errors import StorageError
from raycompress.script.workers.random_states import file_of
from raycompress.shapes import fits

if TYPE_CHECKING:
    from raycompress.results.journal.journal import Journal

_LARGE = 16 << 20
"""Bytes of a file that a script wrote by itself which goes with the model of its trial."""


@dataclass(frozen=True)
class ExperimentFolder:
    """The files of one experiment.

    ::

        <storage>/<id>/
            experiment.json     the file that was launched, to the letter
            model.json          the model's layers, as inspection found them, and what predicts its latency
            prior.json          of a guided search: what each layer bears, measured before the first trial
            journal.jsonl       what happened, one event a line
            best.json           which candidate is the best one, replaced in one step
            best -> trials/0007/candidate
            report.html         the page of `raycompress report`
            trials/0007/        config.json, log.txt, files/ that the script wrote and, while it is worth keeping,
                                candidate/; while it runs, the checkpoint that it goes on from if it is lost
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
        """Reference that every command accepts for this experiment, from any folder."""
        return str(self.root)

    @property
    def is_remote(self) -> bool:
        """Whether the folder mirrors an experiment that lies elsewhere."""
        return False

    def place(self, path: Path) -> str:
        """Return the place to show to the user for `path`: a path, or an address on S3."""
        return str(path)

    def refresh(self) -> None:
        """Bring the folder up to date before it is read."""

    def open_journal(self) -> Journal:
        """Return the writing end of the journal; StorageError where another process has it."""
        from raycompress.results.journal.journal import Journal

        return Journal(self.journal)

    def is_written(self) -> bool:
        """Tell whether a process writes the journal, that is, whether the experiment runs."""
        from raycompress.results.journal.journal import is_written

        return is_written(self.journal)

    def scratch(self) -> ExperimentFolder:
        """Return the folder that trials make their files in."""
        return self

    def deliver(self, number: int, *, saved: bool) -> None:
        """Move the log of trial `number`, and its candidate if `saved`, to where the search looks for them."""

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

    def files(self, number: int) -> Path:
        """Return the folder that trial `number` ran in, with the files that it wrote there."""
        return self.trial(number) / "files"

    def checkpoint(self, number: int, worker: int = 0) -> Path:
        """Return the file that trial `number` goes on from if it is lost, or what a worker has of its own beside it."""
        return file_of(self.trial(number) / "checkpoint", worker)

    def deliver_checkpoint(self, number: int, worker: int = 0) -> None:
        """Copy the checkpoint of trial `number`, or what a worker has of its own, to where another machine finds it."""

    def fetch_checkpoint(self, number: int, worker: int = 0) -> None:
        """Bring the checkpoint of trial `number`, which another machine may have saved, and a worker's own."""

    def remove_checkpoint(self, number: int) -> None:
        """Delete the checkpoint of trial `number`, if there is one, and what its workers have of their own."""
        with translate_os_errors("cannot remove", self.checkpoint(number)):
            for path in (self.checkpoint(number), *self.trial(number).glob("checkpoint.*")):
                path.unlink(missing_ok=True)

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
        for path in self.files(number).rglob("*"):  # checkpoints of a model that is not worth keeping
            if path.is_file() and path.stat().st_size > _LARGE:
                path.unlink()
        candidate = self.candidate(number)
        if not candidate.exists():
            return
        doomed = candidate.with_name("candidate.removed")
        with translate_os_errors("cannot remove", candidate):
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
        with translate_os_errors("cannot rename", self.log(number)):
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
        with translate_os_errors("cannot write", self.best_link):
            aside.unlink(missing_ok=True)
            aside.symlink_to(self.candidate(number).relative_to(self.root))
            aside.replace(self.best_link)


def pointer(number: int, score: float, candidate: Path) -> str:
    """Return what ``best.json`` says."""
    return json.dumps({"trial": number, "score": score, "bundle": str(candidate)}, indent=2) + "\n"


def new_id(name: str) -> str:
    """Return a new id: the experiment's name with characters that any file system takes, and the time."""
    return f"{slug(name)}-{time.strftime('%Y%m%d-%H%M%S')}"


def slug(name: str) -> str:
    """Return a name with characters that any file system takes, of a length that leaves room for what follows it."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    return plain[:_LONGEST].rstrip("-.") or "experiment"


_LONGEST = 100
"""Names of files have at most 255 bytes, on encrypted disks 143."""
