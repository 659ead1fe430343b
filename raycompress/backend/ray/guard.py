"""``python -m raycompress.backend.ray.guard``: ends what a killed driver leaves behind.

Ray's own processes mostly die with the driver, but its agents, and workers on their way up, can stay for a minute. The
guard waits for the end of its stdin, and unless the driver has said good-bye it kills what carries the driver's mark in
its environment, and, since Ray's agents overwrite theirs, what holds a file of Ray's session folder open.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "RAYCOMPRESS_SESSION"
_GOOD_BYE = b"good-bye"
_SECONDS_TO_DIE_BY_THEMSELVES = 1.0


@contextmanager
def guarded() -> Iterator[Callable[[str], None]]:
    """Have every process that is started inside die when this one is killed.

    Yields a function that takes the session folder of Ray, once it is known.
    """
    session = uuid.uuid4().hex
    os.environ[MARK] = session
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    guard = subprocess.Popen(
        [sys.executable, "-P", "-m", "raycompress.backend.ray.guard", session],
        stdin=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        yield lambda folder: _send(guard, folder.encode())
    finally:
        os.environ.pop(MARK, None)  # a kept Ray has taken it out already
        _send(guard, _GOOD_BYE)
        guard.communicate()


def kill_marked(session: str, folders: Sequence[str] = ()) -> None:
    """Kill every process that was started inside the session, and what holds a file below one of `folders` open."""
    mark = f"{MARK}={session}".encode()
    while victims := [pid for pid in _left_behind(mark, folders) if pid != os.getpid()]:
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _send(guard: subprocess.Popen[bytes], line: bytes) -> None:
    assert guard.stdin is not None
    with suppress(BrokenPipeError):  # somebody killed the guard
        guard.stdin.write(line + b"\n")
        guard.stdin.flush()


def main() -> None:
    """Wait for the driver's end, and clean up after it if it was killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    lines = sys.stdin.buffer.read().splitlines()
    if _GOOD_BYE in lines:
        return
    time.sleep(_SECONDS_TO_DIE_BY_THEMSELVES)
    kill_marked(sys.argv[1], [line.decode() + "/" for line in lines])


def _left_behind(mark: bytes, sessions: Sequence[str]) -> Iterator[int]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it has ended, or is another user's
                if mark in (folder / "environ").read_bytes().split(b"\0") or _holds_open(folder, sessions):
                    yield int(folder.name)


def _holds_open(folder: Path, sessions: Sequence[str]) -> bool:
    return any(str(file.readlink()).startswith(session) for file in (folder / "fd").iterdir() for session in sessions)


if __name__ == "__main__":
    main()
