"""Where a trial makes its files while the truth is on S3: on its own machine's disk, for as long as it runs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from raycompress.config.places import S3Address
from raycompress.errors import StorageError
from raycompress.results.folder import ExperimentFolder
from raycompress.results.s3 import candidates, lease
from raycompress.results.s3.objects import PATIENCE_S, Objects


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
        """Copy what trial `number` printed to S3, its config, and what it saved; the latter then goes from here.

        Raises
        ------
        StorageError
            S3 does not take it, or the experiment belongs to another driver by now.
        """
        objects = Objects(self.address, patience_s=PATIENCE_S)
        for path in (*self.trial(number).glob("log*.txt"), *self.trial(number).glob("config.json")):
            objects.put_anyhow(path.relative_to(self.root).as_posix(), path.read_bytes())
        if saved:
            self._check_lease(objects)
            candidates.upload(objects, number, self.candidate(number))
            shutil.rmtree(self.candidate(number))

    def _check_lease(self, objects: Objects) -> None:
        """Raise where another driver makes this trial again: the two must not be mixed."""
        found = objects.get(lease.KEY)
        holder = lease.Holder.seen(found) if found is not None else None
        if holder is None or not holder.held or holder.token != self.token:
            raise StorageError("its search was taken over, or has ended", where=str(self.address))

    def clear(self, number: int | None = None) -> None:  # noqa: D102
        shutil.rmtree(self.root.parent if number is None else self.trial(number), ignore_errors=True)
