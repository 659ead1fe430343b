"""One mistake in a cluster file, by its keys, not yet by its line."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

Keys: TypeAlias = tuple[str | int, ...]


class Mistake(NamedTuple):
    """What is wrong at `keys`, and the fix."""

    keys: Keys
    what: str
    fix: str = ""
