"""JSON with comments and trailing commas, as editors write it (JSONC).

Comments are ``//`` and ``/* */``. `raycompress.config.text.reader` keeps the line of every value and each comment of an
experiment file; `as_json` serves a script that is run by hand, and needs the values alone.
"""

from __future__ import annotations

import re

COMMENT = r"//[^\n]*|/\*(?s:.*?)\*/"
"""A whole comment: up to the end of its line, or up to the first ``*/``; comments do not nest."""

_STRING = r'"(?:\\.|[^"\\\n])*"'
_STRING_OR_COMMENT = re.compile(f"{_STRING}|{COMMENT}")
_BEFORE_A_LAST_COMMA = re.compile(rf'({_STRING}|[^\s\[{{:,"])(\s*),(?=\s*[\]}}])|{_STRING}')
_NO_LINE_END = re.compile(r"[^\n]")


def as_json(text: str) -> str:
    """Return the same JSON text with blanks for comments and for commas after the last member.

    Everything else keeps its line and its column, so that what a parser says of the result holds for `text`. A text
    that is neither JSON nor JSONC stays what it is.

    Examples
    --------
    >>> as_json('{"a": [1, 2,]} // why')
    '{"a": [1, 2 ]}       '
    """
    plain = _STRING_OR_COMMENT.sub(lambda found: _blanked(found.group()), text)
    return _BEFORE_A_LAST_COMMA.sub(_without_comma, plain)


def _blanked(found: str) -> str:
    return found if found[0] == '"' else _NO_LINE_END.sub(" ", found)


def _without_comma(found: re.Match[str]) -> str:
    return found.group() if found.group(1) is None else f"{found.group(1)}{found.group(2)} "
