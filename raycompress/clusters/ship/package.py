"""Packs the working directory of an experiment for the nodes of a cluster."""

from __future__ import annotations

import json
import os
import shlex
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from raycompress.config.experiment import Experiment
from raycompress.disk import translate_os_errors
from raycompress.errors import ClusterError, ExperimentError

IGNORE_FILE = ".raycompressignore"
LIMIT = 200_000_000
"""Bytes; what is larger belongs on a disk of the cluster, or in a bucket, once and not with each search."""

_ALWAYS = ("raycompress_results/", "__pycache__/", ".git/", ".venv/", "*.pyc")
_SHOWN = 5
_EXPERIMENT = ".raycompress-experiment.json"


@dataclass(frozen=True)
class Package:
    """A packed working directory.

    Attributes
    ----------
    archive
        A zip file.
    experiment
        The experiment file in it.
    n_files, size
        How many files, and their bytes before packing.
    """

    archive: Path
    experiment: str
    n_files: int
    size: int


def pack(experiment: Experiment, folder: Path) -> Package:
    """Pack the working directory of `experiment`, and its file, into an archive in `folder`.

    Left out is what ``.raycompressignore`` there names, by the rules of ``.gitignore``, and results, caches, ``.git``
    and ``.venv``.

    Raises
    ------
    ClusterError
        It is too large.
    ExperimentError
        The script is not in the working directory, or is ignored.
    """
    root = experiment.workingdir
    files = dict(_files(root))
    _check_script(experiment, root, files)
    size = sum(files.values())
    if size > LIMIT:
        largest = sorted(files, key=lambda name: -files[name])[:_SHOWN]
        raise ClusterError(
            f"the working directory has {in_megabytes(size)}, more than the {in_megabytes(LIMIT)} that go to a cluster",
            where=str(root),
            fix=f"name in {root / IGNORE_FILE} what the nodes do not need, as in a .gitignore; the largest are\n"
            + "\n".join(f"{in_megabytes(files[name])}  {name}" for name in largest),
        )
    archive = folder / "package.zip"
    with translate_os_errors("cannot write", archive), zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in files:
            packed.write(root / name, name)
        packed.writestr(zipfile.ZipInfo(_EXPERIMENT), _relocated(experiment))
    return Package(archive, _EXPERIMENT, len(files), size)


def in_megabytes(size: int) -> str:
    """Return a number of bytes for people."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _files(root: Path) -> Iterator[tuple[str, int]]:
    """Yield the files below `root` that are not ignored, each with its bytes."""
    own = root / IGNORE_FILE
    lines = own.read_text(encoding="utf-8").splitlines() if own.is_file() else []
    ignored = GitIgnoreSpec.from_lines([*_ALWAYS, *lines])
    for place, folders, names in os.walk(root):
        here = Path(place).relative_to(root)
        folders[:] = sorted(name for name in folders if not ignored.match_file(f"{(here / name).as_posix()}/"))
        for name in sorted(names):
            path = (here / name).as_posix()
            if not ignored.match_file(path) and (root / path).is_file():
                yield path, (root / path).stat().st_size


def _check_script(experiment: Experiment, root: Path, files: dict[str, int]) -> None:
    script = experiment.script_path
    if not script.is_relative_to(root):
        raise ExperimentError(
            "the script is not in the working directory, which is what goes to the cluster",
            where=str(script),
            fix=f'put it into {root}, or name a folder that holds both with "workingdir"',
        )
    if script.relative_to(root).as_posix() not in files:
        raise ExperimentError(
            f"the script is among what {IGNORE_FILE} leaves out", where=str(root / IGNORE_FILE), fix="take it out there"
        )


def _relocated(experiment: Experiment) -> str:
    """Return the experiment file with its paths as they are in the package."""
    data = experiment.data
    script = experiment.script_path.relative_to(experiment.workingdir).as_posix()
    started = ["-m", experiment.script_module] if experiment.script_module else [script]
    data["script"] = shlex.join([*started, *experiment.script_args])
    data.pop("cwd", None)
    data["workingdir"] = "."
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
