"""The names that a script gives to its files: in a trial they stay in the trial's folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from raycompress.bundle import bundle
from raycompress.errors import UsageError


def inside(name: str, folder: Path, *, allowed: str = "") -> str:
    """Return `name` relative to `folder`, the trial's; an absolute one must lie in there.

    Parameters
    ----------
    allowed
        A file of the bundle that may be named all the same.

    Raises
    ------
    UsageError
        It leaves the folder, or is a file of the bundle.
    """
    path = PurePosixPath(name)
    for home in (folder, folder.resolve()):
        if path.is_absolute() and path.is_relative_to(home):
            path = path.relative_to(home)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise UsageError(
            f'"{name}" would leave the folder of the trial' if path.parts else f'"{name}" names no file',
            where="export_model",
            fix='give a plain relative path, such as model_path="model.pth"',
        )
    if path.parts[0] in bundle.RESERVED and str(path) != allowed:
        raise UsageError(
            f'"{name}" is the name of a file of the bundle', where="export_model", fix="choose another file name"
        )
    return str(path)
