"""Converted models, kept by what they were made of, for the trials that share a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path


class Conversions:
    """Files of converted models by the hash of what decides them.

    Parameters
    ----------
    folder
        Where they lie; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def find(self, name: str) -> Mapping[str, bytes] | None:
        """Return the files kept under `name`, None where there are none."""
        place = None if self._folder is None else self._folder / name
        if place is None or not place.is_dir():
            return None
        return {path.name: path.read_bytes() for path in sorted(place.iterdir())}

    def keep(self, name: str, files: Mapping[str, bytes]) -> None:
        """Keep files under `name`; of two that do so at the same time the first stays."""
        if self._folder is None:
            return
        aside = self._folder / f"{name}.{os.getpid()}"
        aside.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            (aside / file).write_bytes(content)
        try:
            aside.rename(self._folder / name)
        except OSError:  # it is there already
            shutil.rmtree(aside, ignore_errors=True)

    def beside(self, name: str) -> Path | None:
        """Return the place of a file that is kept beside the conversions; None where nothing is kept."""
        return None if self._folder is None else self._folder / name
