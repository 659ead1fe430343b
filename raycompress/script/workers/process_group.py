"""Workers that a person has started, by torchrun or ``accelerate launch``, and that search nothing.

They agree by the key-value store of torch.distributed's process group, which every backend has and which needs no
device: a broadcast by NCCL would want each worker's GPU to be chosen, and one that a single worker calls hangs.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raycompress.errors import ScriptError
from raycompress.script import statefile

_PART = 4 << 20
"""Bytes of one value: a server of torch's store refuses more than 8 MiB."""
_PAUSE_S = 0.02
_PATIENCE_S = 60.0
"""After so many seconds a worker says what it waits for."""
_LIMIT_S = 6 * 3600.0
_LINGER_S = 20.0
"""So long the first worker stays at its end, whose process may hold the store, for others that have yet to read."""
_FIX = "call init_process_group() (or make the Accelerator) first, and compress() and apply_speedup() on every worker"

_number = 0
_last_rank = 0
"""Of the process group that workers agreed in last: a script may destroy it before it saves."""
_has_warned = False
_last_channel: _Channel | None = None
"""Of the first worker; it keeps the store alive where the script has destroyed the process group."""


def rank() -> int:
    """Return which worker of the process group this is; 0 where there is none, and for the first."""
    distributed = _joined()
    return _last_rank if distributed is None else int(distributed.get_rank())


def agreed(decide: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return what ``decide()`` gave in the first worker of the process group; in the only process, what it gives.

    Raises
    ------
    ScriptError
        The first worker has failed, or does not ask.
    """
    global _number, _last_rank, _last_channel
    distributed = _joined()
    if distributed is None:
        _warn_lone_worker()
        return decide()
    _number, _last_rank = _number + 1, int(distributed.get_rank())
    channel = _Channel(distributed.distributed_c10d._get_default_store(), f"raycompress/{_number}", _last_rank)
    with tempfile.TemporaryDirectory(prefix="raycompress-") as folder:
        path = Path(folder, "agreed")
        if _last_rank:
            path.write_bytes(channel.receive(int(distributed.get_world_size())))
            return statefile.read(path)
        if _number == 1:
            atexit.register(_linger)
        _last_channel = channel
        try:
            decision = decide()
        except Exception as error:
            channel.fail(next(iter(str(error).splitlines()), type(error).__name__))
            raise
        statefile.write(path, {}, decision)
        channel.send(path.read_bytes())
        return decision


def _linger() -> None:
    """Stay until the other workers have what the first one decided last, or for `_LINGER_S`."""
    deadline = time.monotonic() + _LINGER_S
    with contextlib.suppress(RuntimeError):  # the store was another process's, which is gone: so are they
        while _last_channel is not None and not _last_channel.is_read and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)


def _joined() -> Any:
    """Return torch.distributed where this process is one of several workers; None elsewhere."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed if distributed.get_world_size() > 1 else None


def _warn_lone_worker() -> None:
    """Print once that workers were started which cannot agree."""
    global _has_warned
    world = os.environ.get("WORLD_SIZE", "")
    if not _has_warned and world.isdigit() and int(world) > 1 and "torch" in sys.modules and not _last_rank:
        _has_warned = True
        text = f"this is one of {world} workers, and decides by itself: no process group has been made"
        print(f"raycompress: {text}; {_FIX}", file=sys.stderr)


class _Channel:
    """Brings one decision of the first worker to the others.

    Parameters
    ----------
    store
        torch's.
    name
        What its keys begin with.
    rank
        Of this worker.
    """

    def __init__(self, store: Any, name: str, rank: int) -> None:
        self._store, self._name, self._rank = store, name, rank

    def send(self, data: bytes) -> None:
        """Hand over a decision; nobody is waited for."""
        parts = [data[start : start + _PART] for start in range(0, len(data), _PART)]
        for place, part in enumerate(parts):
            self._store.set(f"{self._name}/{place}", part)
        self._store.set(self._name, str(len(parts)))

    def fail(self, why: str) -> None:
        """Tell the others that there will be none."""
        self._store.set(self._name, f"failed: {why}")

    def receive(self, world: int) -> bytes:
        """Return the decision; the last of `world` workers to have it clears the store of it."""
        self._wait()
        head = self._store.get(self._name).decode()
        keys = [f"{self._name}/{place}" for place in range(int(head))] if head.isdigit() else []
        data = b"".join(self._store.get(key) for key in keys)
        if self._store.add(f"{self._name}/read", 1) == world - 1:
            for key in keys:
                self._store.delete_key(key)
            self._store.set(f"{self._name}/done", "")
        if not head.isdigit():
            raise ScriptError(f"worker 0 {head}", where=f"worker {self._rank}", fix="see what worker 0 printed")
        return data

    @property
    def is_read(self) -> bool:
        """Whether all workers have it."""
        return bool(self._store.check([f"{self._name}/done"]))

    def _wait(self) -> None:
        started, is_announced = time.monotonic(), False
        while not self._store.check([self._name]):
            waited = time.monotonic() - started
            if waited > _LIMIT_S:
                raise ScriptError(
                    f"worker {self._rank} has waited {_LIMIT_S / 3600:.0f} hours for what worker 0 decides",
                    where="compress",
                    fix=_FIX,
                )
            if waited > _PATIENCE_S and not is_announced:
                is_announced = True
                print(f"raycompress: worker {self._rank} waits for what worker 0 decides", file=sys.stderr)
            time.sleep(_PAUSE_S)
