"""The Ray of a Python process that launches searches one after another: started once, and kept for the next one."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self

from raycompress.backend.ray.guard import MARK
from raycompress.backend.ray.local import ENVIRONMENT, LocalRay
from raycompress.runtime.machine import machine_cpus


class KeptRay(LocalRay):
    """Ray on this machine that outlives the ``with`` statement: the process's next search finds it running."""

    def __enter__(self) -> Self:
        _keeper.start()
        return self

    def __exit__(self, *error: object) -> None:
        pass


class ConnectedRay(AbstractContextManager[Any]):
    """A Ray that the caller has connected to by itself: it is used, and left as it is."""

    def __enter__(self) -> Self:
        # what Ray itself reads was read when it was connected to
        tunes = {name: value for name, value in ENVIRONMENT.items() if name.startswith(("TUNE_", "RAY_AIR_"))}
        os.environ.update(tunes)
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def nodes(self) -> Sequence[dict[str, float]]:
        """Return what each node that is alive offers, by Ray's own names; memory in bytes."""
        from raycompress.backend.ray.cluster import node_offers

        return node_offers()


def ray_of_this_process() -> KeptRay | ConnectedRay:
    """Return the Ray for a search that this process launches: one that it is connected to, or a kept one of our own."""
    if not _keeper.is_running and _is_connected():
        return ConnectedRay()
    return KeptRay(machine_cpus())


@contextmanager
def local_ray() -> Iterator[None]:
    """Start Ray on this machine for the searches that are launched inside, and end it after them.

    Without it the first `raycompress.launch` of a process starts Ray, and it runs until the process ends. A Ray that
    runs already is used, and left running.

    Raises
    ------
    ClusterError
        Ray does not start.
    """
    if _keeper.is_running or _is_connected():
        yield
        return
    _keeper.start()
    try:
        yield
    finally:
        _keeper.stop()


def _is_connected() -> bool:
    ray: Any = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


class _Keeper:
    """Starts Ray from a thread that lives as long as it does.

    Ray's processes are killed with the *thread* that started them (PR_SET_PDEATHSIG), and a launch may be called from
    a thread that ends.
    """

    def __init__(self) -> None:
        self._ray: LocalRay | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def is_running(self) -> bool:
        """Whether a Ray of ours runs; one that somebody has shut down is given up."""
        if self._ray is not None and not _is_connected():
            self.stop()
        return self._ray is not None

    def start(self) -> None:
        """Start Ray, unless it runs."""
        if self.is_running:
            return
        if threading.current_thread() is threading.main_thread():
            self._begin()
            return
        started = threading.Event()
        self._over.clear()
        self._thread = threading.Thread(target=self._live, args=(started,), name="raycompress-ray", daemon=True)
        self._thread.start()
        started.wait()
        if self._failure is not None:
            self._over.set()
            raise self._failure

    def stop(self) -> None:
        """End the Ray that was started here, if one runs."""
        ray, self._ray = self._ray, None
        if ray is not None:
            ray.__exit__(None, None, None)
            atexit.unregister(self.stop)
        self._over.set()

    def _live(self, started: threading.Event) -> None:
        self._failure = None
        try:
            self._begin()
        except BaseException as error:  # noqa: BLE001 - raised again, in the thread that waits for Ray
            self._failure = error
        finally:
            started.set()
        self._over.wait()

    def _begin(self) -> None:
        self._ray = LocalRay(machine_cpus()).__enter__()
        # the mark is for what Ray has started: the caller's own processes, from here on, are not to die with this one
        os.environ.pop(MARK, None)
        atexit.register(self.stop)


_keeper = _Keeper()
