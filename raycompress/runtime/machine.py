"""The CPUs and GPUs of this machine."""

from __future__ import annotations

import os
from pathlib import Path


def machine_cpus() -> int:
    """Return the CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def machine_gpus() -> int:
    """Return the GPUs that Ray would find here, without starting it or touching CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() and device.strip() != "-1"])
    return sum(device.name[6:].isdigit() for device in Path("/dev").glob("nvidia*"))
