"""Scalable automatic compression of trained networks, on Ray Tune.

The public names load on use (PEP 562): importing this imports no ray, torch or tensorflow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raycompress.backend.ray.process import local_ray as local_ray
    from raycompress.bundle.bundle import load as load
    from raycompress.compressors.compress import compress as compress
    from raycompress.compressors.compressed import Compressed as Compressed
    from raycompress.compressors.create import create_compressor as create_compressor
    from raycompress.compressors.deploying.measuring import measure as measure
    from raycompress.compressors.distillation.distill import distill as distill
    from raycompress.results.record import Experiment as Experiment
    from raycompress.results.record import SearchRecord as SearchRecord
    from raycompress.script.checkpoint import checkpoint as checkpoint
    from raycompress.script.config import BasicConfig as BasicConfig
    from raycompress.script.entry import experiment as experiment
    from raycompress.script.report import print_result as print_result
    from raycompress.script.report import report as report
    from raycompress.script.report import save_model as save_model
    from raycompress.script.shared import shared as shared
    from raycompress.session.python import launch as launch
    from raycompress.session.python import resume as resume

_HOMES = {
    "BasicConfig": "raycompress.script.config",
    "Compressed": "raycompress.compressors.compressed",
    "Experiment": "raycompress.results.record",
    "SearchRecord": "raycompress.results.record",
    "checkpoint": "raycompress.script.checkpoint",
    "compress": "raycompress.compressors.compress",
    "create_compressor": "raycompress.compressors.create",
    "distill": "raycompress.compressors.distillation.distill",
    "experiment": "raycompress.script.entry",
    "launch": "raycompress.session.python",
    "load": "raycompress.bundle.bundle",
    "local_ray": "raycompress.backend.ray.process",
    "measure": "raycompress.compressors.deploying.measuring",
    "print_result": "raycompress.script.report",
    "report": "raycompress.script.report",
    "resume": "raycompress.session.python",
    "save_model": "raycompress.script.report",
    "shared": "raycompress.script.shared",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("raycompress")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'raycompress' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
