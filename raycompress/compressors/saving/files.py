"""The files of an exported model: where a script wants them, and how they are written, beside a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from raycompress.bundle import bundle
from raycompress.errors import UsageError
from raycompress.script.context import Trial

Writer = Callable[[Path], None]
"""Writes a file to the path it is given."""


@dataclass(frozen=True)
class Paths:
    """Where a script wants its files; see `raycompress.compressors.base.BaseCompressor.export_model`."""

    model: str
    mask: str | None = None
    folder: str = "."
    bundle: str | None = None
    onnx: str | None = None
    tflite: str | None = None
    calibration: str | None = None

    def in_folder(self, path: str) -> str:
        """Return `path` in the folder."""
        return str(PurePosixPath(str(self.folder)) / str(path))


def write(
    files: Mapping[str, Writer],
    content: Callable[[], bundle.Content],
    of_bundle: Mapping[str, Writer],
    trial: Trial | None,
    paths: Paths,
) -> None:
    """Write what a script named, and a bundle; in a trial both go to its candidate folder, and it is sent the facts.

    Parameters
    ----------
    files
        Path -> what writes it; in a trial relative to the candidate folder, see `inside`.
    content
        Returns what the bundle holds; it is not called where there is none.
    of_bundle
        Further files of the bundle.
    """
    if trial is not None:
        saved = content()
        bundle.write(trial.candidate, saved, {**of_bundle, **files})
        facts = {name: saved.facts[name] for name in ("before", "after", "removed", "notes")}
        trial.send({"type": "candidate", **facts})
        return
    for name, write_to in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        write_to(Path(name))
    if paths.bundle is not None:
        bundle.write(Path(paths.bundle), content(), of_bundle)


def inside(name: str, folder: Path, *, allowed: str = "") -> str:
    """Return `name` relative to `folder`, the trial's; an absolute one must be inside it.

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
