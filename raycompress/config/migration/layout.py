"""An experiment as text, laid out as its file was: what stood in one line stands in one line again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from raycompress.config.text.comments import Comment, Place, comments_of
from raycompress.config.text.reader import JsonPath, JsonText
from raycompress.jsonc import as_json

_INDENT = re.compile(r"^([ \t]+)[^\s#]", re.MULTILINE)


class LaidOut(NamedTuple):
    """A new text, with a newline at the end, and the comments that stood by what is not in it any more."""

    text: str
    lost: tuple[Comment, ...]


def laid_out(value: Any, source: JsonText, text: str, renamed: Mapping[JsonPath, JsonPath] | None = None) -> LaidOut:
    """Return `value` as JSON, with the comments of the file.

    A comment keeps its place: above a key, behind it, or in its list or object. The comments of what was removed are
    not written.

    Parameters
    ----------
    value
        What to write; its paths are those of `source`, but for what was renamed, removed or made anew.
    source
        The file as it was read: its lines say what stands in one line.
    text
        The file's text, for the width of its indentation and for its comments.
    renamed
        New path -> path in the file, of what has another name.
    """
    first = _INDENT.search(as_json(text))
    layout = _Layout(source, first.group(1) if first else "  ", tuple(comments_of(text, source)), renamed or {})
    written = layout.whole(value)
    return LaidOut(written, tuple(comment for comment in layout.comments if comment not in layout.written))


class _Layout:
    """The new text in the making: what of the source is in one line, and which comments are written."""

    def __init__(
        self, source: JsonText, indent: str, comments: tuple[Comment, ...], renamed: Mapping[JsonPath, JsonPath]
    ) -> None:
        self.indent = indent
        self.comments = comments
        self.renamed = renamed
        self.written: set[Comment] = set()
        self.first = source.lines
        self.last = dict(source.lines)
        for path, line in source.lines.items():
            for length in range(len(path)):
                above = path[:length]
                self.last[above] = max(self.last.get(above, line), line)
        self.commented: set[JsonPath] = set()  # lists and objects with a comment in them
        for comment in comments:
            depth = len(comment.path) + (comment.place in ("first", "last"))
            self.commented.update(comment.path[:length] for length in range(depth))

    def whole(self, value: Any) -> str:
        above = self.own_lines((), "above", "")
        return f"{above}{self.text(value, (), '')}{self.behind(())}\n{self.own_lines((), 'below', '')}"

    def text(self, value: Any, path: JsonPath, margin: str) -> str:
        if not isinstance(value, (dict, list)) or self.is_in_one_line(value, path):
            return json.dumps(value, ensure_ascii=False)
        inner = margin + self.indent
        members: list[tuple[JsonPath, str, Any]]
        if isinstance(value, dict):
            named = ((key, json.dumps(key, ensure_ascii=False)) for key in value)
            members = [((*path, key), f"{name}: ", value[key]) for key, name in named]
            opener, closer = "{}"
        else:
            members = [((*path, index), "", member) for index, member in enumerate(value)]
            opener, closer = "[]"
        lines = [f"{opener}{self.behind(path, 'first')}\n"]
        for number, (here, name, member) in enumerate(members, 1):
            comma = "," if number < len(members) else ""
            above = self.own_lines(here, "above", inner)
            lines.append(f"{above}{inner}{name}{self.text(member, here, inner)}{comma}{self.behind(here)}\n")
        return "".join([*lines, self.own_lines(path, "last", inner), f"{margin}{closer}"])

    def is_in_one_line(self, value: Any, path: JsonPath) -> bool:
        source = self.renamed.get(path, path)
        return source not in self.commented and (not value or self.first.get(source) == self.last.get(source))

    def own_lines(self, path: JsonPath, place: Place, margin: str) -> str:
        """Return the comments that stand on lines of their own."""
        return "".join(f"{margin}{comment.text}\n" for comment in self.comments_at(path, place))

    def behind(self, path: JsonPath, place: Place = "behind") -> str:
        """Return the comments that stand in the line of what is there already."""
        return "".join(" " * comment.gap + comment.text for comment in self.comments_at(path, place))

    def comments_at(self, path: JsonPath, place: Place) -> list[Comment]:
        """Return the comments of a place, which count as written from now on."""
        source = self.renamed.get(path, path)
        found = [comment for comment in self.comments if (comment.path, comment.place) == (source, place)]
        self.written.update(found)
        return found
