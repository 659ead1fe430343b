"""Ray on this machine, for as long as one search lasts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raycompress.tuning.guard import guarded

# What an embedded Ray does not need here, and what Tune should leave to us. Set before ray is imported.
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # the journal is the truth: Tune's own snapshots are taken once, at the end
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    # what each trial actor imports is imported while Ray starts
    "RAY_preload_python_modules": "raycompress.tuning.trainable",
    # an actor that is stopped in the middle of a trial is killed, not waited for
    "TUNE_FORCE_TRIAL_CLEANUP_S": "1",
}


@contextmanager
def local_ray(cpus: int) -> Iterator[None]:
    """Start Ray on this machine with `cpus` CPUs and its GPUs, and shut it down at the end, however it comes.

    Token authentication is on, and nothing listens beyond this machine.
    """
    os.environ.update(_ENVIRONMENT)
    import ray

    with guarded() as watch:
        try:
            context: Any = ray.init(
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
            )
            watch(str(context["session_dir"]))
            yield
        finally:
            ray.shutdown()


def machine_cpus() -> int:
    """Return the CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def machine_gpus() -> int:
    """Return the GPUs that Ray would find here, without starting it or touching CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() and device.strip() != "-1"])
    return sum(device.name[6:].isdigit() for device in Path("/dev").glob("nvidia*"))
