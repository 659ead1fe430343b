"""The local copy of a search that runs on a cluster, and what is needed to attach to it again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from raycompress.disk import translate_os_errors, write_json, write_whole
from raycompress.errors import StorageError
from raycompress.results.folder import ExperimentFolder
from raycompress.results.journal.journal import Event, Journal, read
from raycompress.shapes import fits


@dataclass(frozen=True)
class Submitted:
    """A search that was submitted to a cluster.

    Attributes
    ----------
    job
        The name of its job.
    cluster
        The cluster file, absolute, or the address of the Jobs API.
    storage
        The results, as the nodes reach them: a folder or ``s3://bucket/prefix``.
    keep
        Whether the cluster outlives the search.
    search
        The experiment's id; the job's name, or that with a number where the storage had one of that name.
    """

    job: str
    cluster: str
    storage: str
    keep: bool
    search: str = ""

    @property
    def is_address(self) -> bool:
        """Whether the cluster was running before, and is not ours to tear down."""
        return "://" in self.cluster

    @property
    def folder(self) -> str:
        """The experiment's folder, as the nodes reach it."""
        return f"{self.storage.rstrip('/')}/{self.search or self.job}"

    @classmethod
    def of(cls, folder: ExperimentFolder) -> Self | None:
        """Read what is kept in `folder`; None for a search of this machine."""
        path = note(folder)
        try:
            data = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, OSError):
            data = None
        if not fits(data, _FIELDS):
            raise StorageError("this is not what raycompress wrote", where=str(path), fix="fetch the results by hand")
        return cls(**{name: data[name] for name in _FIELDS})


_FIELDS = {"job": str, "cluster": str, "storage": str, "keep": bool, "search": str}


def note(folder: ExperimentFolder) -> Path:
    """Return the file that says where the search of `folder` runs."""
    return folder.root / "cluster.json"


class Mirror:
    """The journal of a search elsewhere, copied event by event; held like the journal of one that runs here.

    Parameters
    ----------
    folder
        The folder here, made where there is none.
    """

    def __init__(self, folder: ExperimentFolder, submitted: Submitted, text: str | None = None) -> None:
        with translate_os_errors("cannot write", folder.root):
            folder.root.mkdir(parents=True, exist_ok=True)
            (folder.root / "trials").mkdir(exist_ok=True)
        self.folder = folder
        if text is not None:
            write_whole(folder.experiment, text)
        write_json(note(folder), asdict(submitted))
        self._journal = Journal(folder.journal)
        self._known = {_key(event) for event in read(folder.journal)}

    def add(self, event: Event) -> None:
        """Add an event, unless it is in the copy already."""
        if _key(event) not in self._known:
            self._known.add(_key(event))
            self._journal.copy(event)

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()


def _key(event: Event) -> str:
    return json.dumps(event, sort_keys=True)
