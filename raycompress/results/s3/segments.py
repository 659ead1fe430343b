"""The journal on S3, which cannot append: a chain of segments ``journal/000001.jsonl``, ``000002.jsonl`` ...

An event is written by putting the last segment anew, with one line more, in place of exactly the segment that this
driver has put or read; or, where that is full, by putting the next one where there must be none. So a chain has one
writer: once a driver has taken over and written, every further event of the one before it is refused.
"""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raycompress.errors import StorageError
from raycompress.results.journal.journal import Journal
from raycompress.results.s3 import lease
from raycompress.results.s3.objects import Listed, Object, Objects, OvertakenError

FOLDER = "journal"
FULL = 128 << 10
"""Bytes from which on a segment is left as it is."""
_NAME = re.compile(rf"{FOLDER}/(\d{{6,}})\.jsonl")


class Segments:
    """Writer of a chain of segments.

    Parameters
    ----------
    number
        Of the last segment that there is; 0 where there is none.
    last
        That segment.
    """

    def __init__(self, objects: Objects, number: int = 0, last: Object | None = None) -> None:
        self._objects = objects
        self._number = number
        self._body = last.body if last is not None else b""
        self._etag = last.etag if last is not None else None

    def be_patient(self, seconds: float) -> None:
        """Wait for S3 this long from now on, beyond boto3's own attempts."""
        self._objects = Objects(self._objects.address, patience_s=seconds)

    def append(self, line: bytes) -> None:
        """Write a line; once this returns, it is on S3.

        Raises
        ------
        StorageError
            Another driver writes the chain, or S3 does not take the line.
        """
        begins = self._etag is None or len(self._body) >= FULL
        number, body = (self._number + 1, line) if begins else (self._number, self._body + line)
        try:
            etag = self._objects.put(_key(number), body, instead_of=None if begins else self._etag)
        except OvertakenError as error:
            raise lease.overtaken(self._objects) from error
        self._number, self._body, self._etag = number, body, etag


def fetch(objects: Objects, cache: Path) -> tuple[bytes, Segments]:
    """Return the whole journal, and the chain to go on with.

    Parameters
    ----------
    cache
        A folder where segments that will not change any more are kept from one call to the next.

    Raises
    ------
    StorageError
        A segment is missing.
    """
    found = [(_number(entry), entry) for entry in objects.listing(FOLDER) if _number(entry)]
    if [number for number, _ in found] != list(range(1, len(found) + 1)):
        raise StorageError(
            "a part of the journal is missing",
            where=str(objects.address / FOLDER),
            fix="put its segments back, 000001.jsonl and so on; without one the others cannot be read",
        )
    if not found:
        return b"", Segments(objects)
    cache.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(16) as pool:
        kept = list(pool.map(lambda one: _kept(objects, one, cache), [entry for _, entry in found[:-1]]))
    last = _there(objects, found[-1][1])
    return b"".join([*kept, last.body]), Segments(objects, found[-1][0], last)


def _kept(objects: Objects, entry: Listed, cache: Path) -> bytes:
    """Return a segment that has a successor, and so stays as it is; its ETag names the copy."""
    name = f"{_number(entry):06d}-{re.sub(r'[^0-9a-zA-Z-]', '', entry.etag)}"
    copy = cache / name
    if copy.is_file() and copy.stat().st_size == entry.bytes:
        return copy.read_bytes()
    body = _there(objects, entry).body
    aside = copy.with_name(f".{name}.new")
    aside.write_bytes(body)
    aside.replace(copy)
    return body


def _there(objects: Objects, entry: Listed) -> Object:
    found = objects.get(entry.key)
    if found is None:
        where = str(objects.address / entry.key)
        raise StorageError("a part of the journal was deleted meanwhile", where=where, fix="look who deletes there")
    return found


def _key(number: int) -> str:
    return f"{FOLDER}/{number:06d}.jsonl"


def _number(entry: Listed) -> int:
    named = _NAME.fullmatch(entry.key)
    return int(named[1]) if named else 0


class ReplicatedJournal(Journal):
    """A journal that writes each event to S3 first, and then to the local copy."""

    def __init__(self, path: Path, objects: Objects, held: lease.Lease, chain: Segments) -> None:
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
