"""Formatting of values, keys and names in messages."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any


def closest_name(name: Any, names: Iterable[str]) -> str | None:
    """Return the one of `names` that `name` was most likely meant to be, or None."""
    if not isinstance(name, str):
        return None
    by_folded = {_folded(known): known for known in names}
    found = difflib.get_close_matches(_folded(name), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


def _folded(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")


def did_you_mean(name: Any, names: Iterable[str]) -> str:
    """Return ``did you mean "..."?``, or an empty text where nothing is near."""
    found = closest_name(name, names)
    return f'did you mean "{found}"?' if found else ""


def describe_value(value: Any) -> str:
    """Return a short description of a JSON value: ``the text "10"``, ``a list``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return f"the text {abbreviate(value)}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    return "a list" if isinstance(value, (list, tuple)) else "an object"


def abbreviate(value: Any) -> str:
    """Return `value` as JSON, cut after 40 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:37] + "..."


def dotted(path: Iterable[str | int]) -> str:
    """Return a JSON path as people write it: ``compression.config_list[0].sparsity``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def join_names(names: Iterable[str], most: int = 8) -> str:
    """Return the first `most` of `names`, with commas between."""
    every = list(names)
    return ", ".join(every[:most]) + (f", ... ({len(every)} in all)" if len(every) > most else "")


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return `text` with each character that no terminal should be sent as its escape, such as ``\x1b``.

    Those are control characters, which could move the cursor or change what was written before, characters that turn
    the direction of writing, and halves of surrogate pairs, which cannot be encoded.

    Parameters
    ----------
    lines
        Whether line ends and tabs may stay; otherwise the result is one line.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        char if char.isprintable() or char in kept else char.encode("unicode_escape").decode() for char in text
    )
