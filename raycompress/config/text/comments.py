"""The comments of an experiment file: which value each one stands by, for a text that is written anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from raycompress.config.text.reader import JsonPath, JsonText

Place = Literal["above", "behind", "below", "first", "last"]


@dataclass(frozen=True)
class Comment:
    """A comment and where it stands.

    Attributes
    ----------
    text
        As it is written today: one that began with ``#`` begins with ``//``.
    line
        Its line, or its first.
    path, place
        The value that it stands by: on lines of its own ``above`` it, or ``behind`` it in the same line; of a list or
        an object also ``first`` in it, in the line of its bracket, or ``last`` in it, after all members. What follows
        the whole experiment on lines of its own is ``below`` it.
    gap
        So many blanks stand before it in its line.
    """

    text: str
    line: int
    path: JsonPath
    place: Place
    gap: int


def comments_of(text: str, found: JsonText) -> Iterator[Comment]:
    """Yield the comments of `text`, which was read as `found`, in their order."""
    inside: dict[JsonPath, list[JsonPath]] = {}
    for path in found.spans:
        if path:
            inside.setdefault(path[:-1], []).append(path)
    for start, end in found.comments:
        path, place = _place(start, end, text, found, inside)
        before = text[:start].rsplit("\n", 1)[-1]
        shown = "//" + text[start + 1 : end] if text[start] == "#" else text[start:end]
        gap = len(before) - len(before.rstrip())
        yield Comment(shown.rstrip(), text.count("\n", 0, start) + 1, path, place, max(gap, 1))


def _place(
    start: int, end: int, text: str, found: JsonText, inside: dict[JsonPath, list[JsonPath]]
) -> tuple[JsonPath, Place]:
    """Return the value that the comment from `start` to `end` stands by, and where."""
    spans = found.spans
    if end <= spans[()][0]:
        return (), "above"
    if start >= spans[()][1]:
        return (), "below" if "\n" in text[spans[()][1] : start] else "behind"
    home: JsonPath = ()
    while within := [path for path in inside.get(home, ()) if spans[path][0] <= start < spans[path][1]]:
        home = within[0]
    if text[spans[home][1] - 1] not in "}])":  # between a key and its value
        return home, "above"
    members = inside.get(home, ())
    before = [path for path in members if spans[path][1] <= start]
    after = [path for path in members if spans[path][0] >= end]
    if after and "\n" not in text[end : spans[after[0]][0]]:
        return after[0], "above"
    if before and "\n" not in text[spans[before[-1]][1] : start]:
        return before[-1], "behind"
    if not before and "\n" not in text[spans[home][0] : start]:
        return home, "first"
    return (after[0], "above") if after else (home, "last")
