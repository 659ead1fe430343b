"""The log of a trial: what it prints, up to a limit."""

from __future__ import annotations

from pathlib import Path

TAIL = 64 << 10


class CappedLog:
    """Keeps the first part of a stream and its last 64 KiB, and says between them what was left out.

    A disk that is full, or any other failure to write, ends the writing and is kept in `problem`; the stream is taken
    on, so that whoever prints is never blocked.

    Parameters
    ----------
    path
        The file, written anew.
    limit
        Bytes that it holds at most, the line between the parts not counted.

    Raises
    ------
    OSError
        When the file cannot be created.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.problem = ""
        self._file = path.open("wb", buffering=0)
        self._tail_size = min(TAIL, limit // 2)
        self._room = limit - self._tail_size
        self._after = 0  # bytes that came after the first part
        self._tail = bytearray()

    def write(self, data: bytes) -> None:
        """Add the next bytes of the stream."""
        head, rest = data[: self._room], data[self._room :]
        self._room -= len(head)
        self._put(head)
        self._after += len(rest)
        self._tail += rest
        if len(self._tail) > 2 * self._tail_size:
            del self._tail[: -self._tail_size or None]

    def close(self) -> None:
        """Write the last part."""
        kept = self._tail[-self._tail_size :] if self._tail_size else b""
        left_out = self._after - len(kept)
        if left_out:
            self._put(b"\n[... %d bytes left out ...]\n" % left_out)
        self._put(bytes(kept))
        self._file.close()

    def _put(self, data: bytes) -> None:
        while data and not self.problem:
            try:
                data = data[self._file.write(data) :]
            except OSError as error:
                self.problem = f"its log is incomplete: {error.strerror}"
