"""What takes seconds to look at: torch on its GPUs, and a start of Ray."""

from __future__ import annotations

import subprocess
import sys

from raycompress.clusters.check import Check, State, failed, warning
from raycompress.errors import ClusterError

_TORCH = "import torch; print(torch.__version__, torch.cuda.device_count(), torch.version.cuda)"
_PATIENCE_S = 120


def torch(has_gpu: bool) -> list[Check]:
    """Return whether torch can be imported, and sees the GPUs."""
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return [failed("torch, imported", f"not done in {_PATIENCE_S} s", fix="is the disk slow, or a network one?")]
    if asked.returncode != 0:
        said = asked.stderr.strip().splitlines()
        return [failed("torch, imported", said[-1] if said else "it crashed", fix="install torch anew")]
    version, count, cuda = asked.stdout.split()[-3:]
    if has_gpu and count == "0":
        what = f"torch {version} sees no GPU" + (": it is a build for CPUs" if cuda == "None" else "")
        return [warning("torch, imported", what, fix="install the build of torch for your driver's CUDA")]
    return [Check("torch, imported", State.OK, f"{version}, {count} GPUs, CUDA {cuda}")]


def ray() -> list[Check]:
    """Return whether Ray starts on this machine."""
    from raycompress.tuning.local_ray import LocalRay

    try:
        with LocalRay(1) as started:
            (node,) = started.nodes()
            return [Check("Ray, started", State.OK, f"with {node.get('CPU', 0):.0f} CPU, and stopped")]
    except ClusterError as error:
        problem = error.problems[0]
        return [failed("Ray, started", problem.what, where=problem.where, fix=problem.fix)]
