"""The files in a bundle's folder: which they are, how large, and their hashes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any


def listed(folder: Path, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return what a manifest says of files in `folder`: name -> SHA-256 and size."""
    return {
        path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(paths)
    }


def others(folder: Path, known: Container[str] = ()) -> Iterator[Path]:
    """Yield the files in `folder` and below whose names are not `known`.

    Links that lead out of it are left out, and names that a manifest cannot hold.
    """
    root = folder.resolve()
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            name = path.relative_to(folder).as_posix()
            plain = name.isprintable() and "\\" not in name
            if plain and name not in known and path.is_file() and path.resolve().is_relative_to(root):
                yield path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
