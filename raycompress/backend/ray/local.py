"""Ray on this machine, for as long as one search lasts."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Self

from raycompress.backend.ray.guard import MARK, guarded, kill_marked
from raycompress.backend.ray.machine import ensure_token, session_logs, session_root
from raycompress.backend.ray.private import agent_on_a_free_port, without_dashboard
from raycompress.errors import ClusterError, RaycompressError

# What an embedded Ray does not need here, and what Tune should leave to us. Set before ray is imported.
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    # the name is misleading: with 0 Ray stays on the loopback address, where init would turn 127.0.0.1 into another
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # the journal is the truth: Tune's own snapshots are taken once, at the end
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    # actors get processes of their own; those that Ray starts in advance would stay idle
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    # Ray would run actors at 15: beside trials, which are not theirs, they would wait for a turn to start and to report
    "RAY_worker_niceness": "0",
    # an actor that is stopped in the middle of a trial is killed, not waited for
    "TUNE_FORCE_TRIAL_CLEANUP_S": "1",
}


def loading_of_libraries() -> threading.Thread:
    """Return a thread that loads what a search on Ray needs, already running."""

    def load() -> None:
        for module in ("raycompress.backend.tune.backend", "raycompress.search.proposers.guided"):
            importlib.import_module(module)

    loading = threading.Thread(target=load)
    loading.start()
    return loading


class LocalRay:
    """Ray on this machine with `cpus` CPUs and its GPUs, between the begin and the end of a ``with`` statement.

    Token authentication is on, and nothing listens beyond this machine.

    Parameters
    ----------
    dashboard
        Whether Ray's dashboard is started too.

    Attributes
    ----------
    address
        Where Ray's parts are, by its own names, once it runs.
    """

    def __init__(self, cpus: int, *, dashboard: bool = False) -> None:
        self._cpus = cpus
        self.dashboard = dashboard
        self.address: Mapping[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start Ray; once more where a process of it is not up in time.

        Raises
        ------
        ClusterError
            It does not start.
        StorageError
            There is no place for its sockets.
        """
        _set_environment()
        root = str(session_root())
        try:
            with _told_plainly():
                self._start(root)
        except ClusterError as error:
            if not isinstance(error.__cause__, Exception) or type(error.__cause__) is not Exception:
                raise
            with _told_plainly():  # a bare one, where a process was not up in 30 seconds: the machine may be busy
                self._start(root)
        return self

    def _start(self, root: str) -> None:
        import ray

        with ExitStack() as stack:
            watch = stack.enter_context(guarded())
            stack.callback(shut_down)
            # most of Ray's start is waiting for its processes: time enough to load what the search needs
            loading = loading_of_libraries()
            stack.callback(loading.join)
            with agent_on_a_free_port(), nullcontext() if self.dashboard else without_dashboard(), _whole_or_nothing():
                context: Any = ray.init(
                    address="local",
                    num_cpus=self._cpus,
                    include_dashboard=self.dashboard,
                    dashboard_host="127.0.0.1",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=root,
                )
            self.address = context.address_info
            watch(str(self.address["session_dir"]))
            loading.join()
            self._stack = stack.pop_all()

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def nodes(self) -> list[dict[str, float]]:
        """Return what Ray offers, by its own names; memory in bytes."""
        import ray

        cluster_resources: Callable[[], dict[str, float]] = ray.cluster_resources
        return [cluster_resources()]


@contextmanager
def _whole_or_nothing() -> Iterator[None]:
    """End the processes that were started inside where not all are up, so that the next Ray finds none of them."""
    try:
        yield
    except BaseException:
        kill_marked(os.environ[MARK])
        for one in gc.get_objects():
            if issubclass(type(one), subprocess.Popen):
                one.poll()  # or Python complains, as it is freed, of a process that nobody waited for
        raise


def shut_down() -> None:
    """Shut Ray down, or leave its cluster, with no garbage left that refers to it.

    Ray ends the whole process where an object of its own is freed by another thread in the course of its shutdown.
    """
    import ray

    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if was_enabled:
            gc.enable()


def _set_environment() -> None:
    """Set `ENVIRONMENT`; where ray is imported already, as in a notebook, have it read again what it read then."""
    is_imported = "ray" in sys.modules
    os.environ.update(ENVIRONMENT)
    ensure_token()
    if not is_imported:
        return
    from ray import _raylet
    from ray._private import ray_constants

    config: Any = getattr(_raylet, "Config", None)
    if config is not None and hasattr(config, "initialize"):
        config.initialize("")  # or the driver has no token for the cluster that it starts
    ray_constants.ENABLE_RAY_CLUSTER = False


@contextmanager
def _told_plainly() -> Iterator[None]:
    try:
        yield
    except RaycompressError:
        raise
    except Exception as error:  # a bare one, where a process of Ray is not up in 30 seconds
        raise ClusterError(
            f"Ray did not start on this machine: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            where=session_logs(),
            fix="read its logs there; a machine with too much to do, a full disk, too little memory, or RAY_ variables "
            "of the environment can be why",
        ) from error
