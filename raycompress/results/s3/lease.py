"""The lease of an experiment: which driver writes it, and that this one still lives.

It keeps a second driver from starting, and tells readers that the search runs. That nothing counts any more which a
driver writes that was taken for dead, is the journal's part: see `raycompress.results.s3.segments`.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from raycompress.errors import StorageError
from raycompress.results.s3.objects import Object, Objects, OvertakenError
from raycompress.shapes import fits

KEY = "lease.json"
RENEWED_S = 15.0
EXPIRES_S = 60.0


@dataclass(frozen=True)
class Holder:
    """What a lease says of its holder.

    Attributes
    ----------
    host, pid
        Where the driver runs, for people.
    machine
        Tells machines and PID namespaces apart, and boots of the same machine.
    token
        Tells drivers apart.
    held
        Whether the driver still wants it.
    renewed
        How often it was renewed: each time the object is another one.
    age_s
        Since that was last done.
    """

    host: str
    pid: int
    machine: str
    token: str
    held: bool = True
    renewed: int = 0
    age_s: float = 0.0

    @classmethod
    def here(cls, token: str) -> Holder:
        """Return this process, as a holder."""
        return cls(platform.node(), os.getpid(), _machine(), token)

    @classmethod
    def seen(cls, found: Object) -> Holder | None:
        """Read a lease; None where it is none."""
        try:
            data = json.loads(found.body)
        except ValueError:
            return None
        shape = {"host": str, "pid": int, "machine": str, "token": str, "held": bool, "renewed": int}
        return cls(**{name: data[name] for name in shape}, age_s=found.age_s) if fits(data, shape) else None

    def lives(self, expires_s: float) -> bool:
        """Tell whether to leave the experiment to this driver."""
        if not self.held or self.age_s > expires_s:
            return False
        return self.machine != _machine() or _runs(self.pid)

    def to_bytes(self) -> bytes:
        """Return what the object holds."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "age_s"}).encode()


class Lease:
    """A lease that is held, and renewed by a thread of its own until `close`.

    Attributes
    ----------
    predecessor
        The driver that had it and did not give it back; None where it was free.
    lost
        Whether another driver has taken it.

    Raises
    ------
    StorageError
        Another driver holds it.
    """

    def __init__(
        self, objects: Objects, token: str, *, renewed_s: float = RENEWED_S, expires_s: float = EXPIRES_S
    ) -> None:
        self._objects = objects
        self._renewed_s = renewed_s
        self._me = Holder.here(token)
        self.lost = False
        found = objects.get(KEY)
        holder = Holder.seen(found) if found is not None else None
        if holder is not None and holder.token != token and holder.lives(expires_s):
            raise _held(objects, holder, expires_s)
        self.predecessor = holder if holder is not None and holder.held else None
        try:
            self._etag = objects.put(KEY, self._me.to_bytes(), instead_of=found.etag if found is not None else None)
        except OvertakenError as error:
            raise overtaken(objects) from error
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while not self._closing.wait(self._renewed_s):
            renewed = replace(self._me, renewed=self._me.renewed + 1)
            try:
                self._etag = self._objects.put(KEY, renewed.to_bytes(), instead_of=self._etag)
                self._me = renewed
            except OvertakenError:
                self.lost = True
                return
            except StorageError:  # the next time; meanwhile whoever writes an event is told
                continue

    def close(self) -> None:
        """Give it back."""
        self._closing.set()
        self._thread.join()
        if self.lost:
            return
        try:
            self._objects.put(KEY, replace(self._me, held=False).to_bytes(), instead_of=self._etag)
        except (OvertakenError, StorageError):  # then it runs out by itself
            return


def free(token: str) -> bytes:
    """Return a lease that nobody holds, which reserves the name of an experiment."""
    return replace(Holder.here(token), held=False).to_bytes()


def holder(objects: Objects, expires_s: float = EXPIRES_S) -> Holder | None:
    """Return the driver that writes the experiment; None where none does."""
    found = objects.get(KEY)
    seen = Holder.seen(found) if found is not None else None
    return seen if seen is not None and seen.lives(expires_s) else None


def overtaken(objects: Objects) -> StorageError:
    """Return the error of a driver that another one has taken the experiment from."""
    return StorageError(
        "another raycompress has taken this experiment over: nothing that is written here counts any more",
        where=str(objects.address),
        fix=f"leave it to that one; `raycompress status {objects.address}` shows how it stands",
    )


def _held(objects: Objects, holder: Holder, expires_s: float) -> StorageError:
    return StorageError(
        f"another raycompress writes this experiment: process {holder.pid} on {holder.host}, "
        f"last heard of {max(0.0, holder.age_s):.0f} s ago",
        where=str(objects.address),
        fix=f"wait for it to end; if it is dead, this works {expires_s:.0f} s after it was last heard of",
    )


@functools.cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux, or no /proc: no process of it can be looked for
        return f"{platform.node()}/{os.getpid()}"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
