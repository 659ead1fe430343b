"""An experiment as text, laid out as its file was: what stood in one line stands in one line again."""

from __future__ import annotations

import json
import re
from typing import Any

from raycompress.config.text.reader import JsonPath, JsonText

_INDENT = re.compile(r"^([ \t]+)\S", re.MULTILINE)


def laid_out(value: Any, source: JsonText, text: str) -> str:
    """Return `value` as JSON, with a newline at the end.

    Parameters
    ----------
    value
        What to write; its paths are those of `source`, but for what was renamed, removed or made anew.
    source
        The file as it was read: its lines say what stands in one line.
    text
        The file's text, for the width of its indentation.
    """
    first = _INDENT.search(text)
    layout = _Layout(source, first.group(1) if first else "  ")
    return layout.text(value, (), "") + "\n"


class _Layout:
    def __init__(self, source: JsonText, indent: str) -> None:
        self.indent = indent
        self.first = source.lines
        self.last = dict(source.lines)
        for path, line in source.lines.items():
            for length in range(len(path)):
                above = path[:length]
                self.last[above] = max(self.last.get(above, line), line)

    def text(self, value: Any, path: JsonPath, margin: str) -> str:
        if not value or not isinstance(value, (dict, list)) or self.is_in_one_line(path):
            return json.dumps(value, ensure_ascii=False)
        inner = margin + self.indent
        if isinstance(value, dict):
            members = [
                f"{json.dumps(key, ensure_ascii=False)}: {self.text(member, (*path, key), inner)}"
                for key, member in value.items()
            ]
            opener, closer = "{}"
        else:
            members = [self.text(member, (*path, index), inner) for index, member in enumerate(value)]
            opener, closer = "[]"
        return f"{opener}\n{inner}" + f",\n{inner}".join(members) + f"\n{margin}{closer}"

    def is_in_one_line(self, path: JsonPath) -> bool:
        return self.first.get(path) == self.last.get(path)
