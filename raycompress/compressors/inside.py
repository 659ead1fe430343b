"""The names that a script gives to its files: in a trial they stay in the trial's folder."""

from __future__ import annotations

from pathlib import PurePosixPath

from raycompress.errors import UsageError
from raycompress.results import bundle


def check_inside(name: str) -> None:
    """Raise UsageError where `name`, relative to a trial's folder, leaves it or is a file of the bundle."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UsageError(
            f'"{name}" would leave the folder of the trial',
            where="export_model",
            fix='give a plain relative path, such as model_path="model.pth"',
        )
    if path.parts and path.parts[0] in bundle.RESERVED:
        raise UsageError(
            f'"{name}" is the name of a file of the bundle', where="export_model", fix="choose another file name"
        )
