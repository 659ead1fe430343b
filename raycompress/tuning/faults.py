"""Trials that failed of what lies outside them: all others would too, and whoever resumes has mended it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

FULL = "the disk is full"
GONE = "cannot run the script"
"""How the causes of such failures begin."""

_SAID = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
_NEXT_TO_NOTHING = 64 << 10
"""Bytes that are free; what failed to be written whole has filled the disk up to less, unless it was deleted since."""


def named(cause: str, folder: Path) -> str:
    """Return the cause of a failure, which says that the disk of `folder` is full where it came of that.

    Not every library says so: torch's words are "file write failed".
    """
    return f"{FULL}: {cause}" if any(words in cause for words in _SAID) or _is_full(folder) else cause


def is_outside(cause: str) -> bool:
    """Tell whether a failure of this cause, `named` before, is none of the trial's."""
    return cause.startswith((FULL, GONE))


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _NEXT_TO_NOTHING
    except FileNotFoundError:
        return False
