"""This raycompress, for the jobs of a cluster that has none: nothing is installed there."""

from __future__ import annotations

import zipfile
from pathlib import Path

from raycompress.clusters.wheel import make_wheel


def unpacked_wheel(scratch: Path) -> list[Path]:
    """Return the folders that Ray is to put on the path of a job's processes.

    As a wheel Ray would install it by pip, with all that it needs, in every job. Unpacked, it takes the libraries that
    the nodes have; what they lack is told before the first trial.
    """
    home = scratch / "modules"
    home.mkdir()
    with zipfile.ZipFile(make_wheel(scratch)) as wheel:
        wheel.extractall(home)
    return sorted(home.iterdir())
