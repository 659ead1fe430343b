"""The files and folders that an experiment names."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from raycompress.experiment.address import S3Address, Storage, is_remote


@dataclass(frozen=True)
class Files:
    """The files and folders that an experiment names, absolute, and the arguments that follow the script's name."""

    script: Path
    script_args: tuple[str, ...]
    workingdir: Path
    storage: Storage

    @classmethod
    def of(cls, home: Path, *, script: str, workingdir: str | None, storage: str) -> Files:
        """Resolve what an experiment says, from the folder `home`; a script with a blank in it may have arguments.

        Raises
        ------
        ValueError
            When a quote in the script's arguments is not closed, or `storage` begins as an address on S3 and is none.
        """
        folder = _absolute(workingdir or ".", home)
        if " " not in script or is_file(_absolute(script, folder)):
            name, arguments = script, []
        else:
            name, *arguments = shlex.split(script) or [script]
        place = S3Address.parse(storage) if is_remote(storage) else _absolute(storage, home)
        return cls(_absolute(name, folder), tuple(arguments), folder, place)


def is_file(path: Path) -> bool:
    """Tell whether there is a file; False as well where the system takes no such path, or does not let us look."""
    return os.path.isfile(path)  # noqa: PTH113 (which raises there, until Python 3.14)


def is_folder(path: Path) -> bool:
    """Tell whether there is a folder; see `is_file`."""
    return os.path.isdir(path)  # noqa: PTH112


def exists(path: Path) -> bool:
    """Tell whether there is anything; see `is_file`."""
    return os.path.exists(path)  # noqa: PTH110


def _absolute(path: str, base: Path) -> Path:
    # of pathlib, both raise: for a user that there is not, and for links that go round
    return Path(os.path.realpath(base / os.path.expanduser(path)))  # noqa: PTH111
