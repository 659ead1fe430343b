"""The writing end of a journal whose truth is on S3."""

from __future__ import annotations

import time
from pathlib import Path

from raycompress.results.journal.journal import Journal
from raycompress.results.s3 import lease, segments
from raycompress.results.s3.objects import Objects


class ReplicatedJournal(Journal):
    """A journal that is written twice: an event is there before it counts, and before it is here."""

    def __init__(self, path: Path, objects: Objects, held: lease.Lease, chain: segments.Segments) -> None:
        super().__init__(path)
        self._objects = objects
        self._lease = held
        self._chain = chain
        Objects.notify = staticmethod(self._show_note)
        before = held.predecessor
        if before is not None and path.stat().st_size:
            # what that driver may still do counts no more, from here on
            self.append("note", text=f"the driver {before.pid} on {before.host} ended without a word; taken over")

    def _write(self, data: bytes) -> None:
        if self._lease.lost:
            raise lease.overtaken(self._objects)
        self._chain.append(data)
        super()._write(data)

    def _show_note(self, text: str) -> None:
        """Show a note that cannot be written now."""
        for listener in self._listeners:
            listener({"t": round(time.time(), 3), "event": "note", "text": text})

    def close(self) -> None:
        """Let go of the journal, and give the lease back."""
        Objects.notify = staticmethod(lambda _text: None)
        self._lease.close()
        super().close()
