"""Texts, numbers and words of a JSON file, with what is wrong with each."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

WORD = re.compile(r"""(?:(?!//|/\*|\*/)[^\s,:=\[\]{}()"'“”‘’#])+""")
QUOTES = {'"': '"', "'": "'", "“": "“”", "”": "“”", "‘": "‘’", "’": "‘’"}  # opening quote -> what closes it

_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_WORDS = {"true": True, "false": False, "null": None}
_MEANT = {
    "none": "null",
    "nil": "null",
    "undefined": "null",
    "yes": "true",
    "no": "false",
    "on": "true",
    "off": "false",
}
_LONGEST_NUMBER = 400


class Slip(NamedTuple):
    """What is wrong at a place of the text, and what to write."""

    at: int
    what: str
    fix: str


@dataclass(frozen=True)
class Token:
    """A value without parts: where it ends, its slips, and whether the value is sure to be what was meant."""

    value: Any
    end: int
    slips: tuple[Slip, ...] = ()
    sure: bool = True


def scan_string(text: str, at: int) -> Token:
    """Read the text in quotes that starts at `at`; single and curly quotes are read too."""
    opener = text[at]
    closers = QUOTES[opener]
    slips: list[Slip] = []
    parts: list[str] = []
    here = at + 1
    while here < len(text) and text[here] not in closers:
        char = text[here]
        if char == "\n":
            break
        if char == "\\" and here + 1 < len(text):
            part, length = _escape(text, here, slips)
        elif char < " ":
            slips.append(Slip(here, "a control character in a text", f"write {json.dumps(char)[1:-1]}"))
            part, length = char, 1
        else:
            part, length = char, 1
        parts.append(part)
        here += length
    value = _joined("".join(parts))
    if here >= len(text) or text[here] not in closers:
        return _unclosed(text, at, here, slips)
    halved = any("\ud800" <= char <= "\udfff" for char in value)
    if halved:
        slips.append(Slip(at, "half of a surrogate pair in a text", "write the character itself"))
    if opener != '"':
        kind = "single" if opener == "'" else "curly"
        slips.append(Slip(at, f"text in {kind} quotes", f"write {json.dumps(value, ensure_ascii=False)}"))
    return Token(value, here + 1, tuple(slips), sure=not halved)


def _unclosed(text: str, at: int, end: int, slips: list[Slip]) -> Token:
    """A text whose line ends before it does: take it to have ended there, before a comma or closing brackets."""
    shown = text[at + 1 : end].rstrip().rstrip(",}])").rstrip()
    slips.append(Slip(at, "a text without its closing quote", f"write {json.dumps(shown, ensure_ascii=False)}"))
    return Token(shown, at + 1 + len(shown), tuple(slips), sure=False)


def _escape(text: str, at: int, slips: list[Slip]) -> tuple[str, int]:
    char = text[at + 1]
    if char in _ESCAPES:
        return _ESCAPES[char], 2
    if char == "u" and re.fullmatch("[0-9a-fA-F]{4}", text[at + 2 : at + 6]):
        return chr(int(text[at + 2 : at + 6], 16)), 6
    if char == "'":
        slips.append(Slip(at, "\\' in a text", "write '"))
        return "'", 2
    slips.append(Slip(at, "a single backslash in a text", "write \\\\"))
    return "\\", 1


def _joined(value: str) -> str:
    """Join surrogate pairs that were written as two escapes."""
    if not any("\ud800" <= char <= "\udfff" for char in value):
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def scan_word(text: str, at: int) -> Token:
    """Read the number, ``true``, ``false``, ``null`` or other word that starts at `at`."""
    match = WORD.match(text, at)
    if match is None:
        slip = Slip(at, f'"{text[at]}" where a value belongs', "write a value, or remove it")
        return Token(None, at + 1, (slip,), sure=False)
    word, end = match.group(), match.end()
    if word in _WORDS:
        return Token(_WORDS[word], end)
    if number := _NUMBER.fullmatch(word):
        return _number(word, end, at, whole=number.group(1) is None and number.group(2) is None)
    meant = word.lower() if word.lower() in _WORDS else _MEANT.get(word.lower())
    if meant is not None:
        return Token(_WORDS[meant], end, (Slip(at, f"{word} is no JSON", f"write {meant}"),))
    return _nearly_number(word, end, at) or Token(
        word, end, (Slip(at, "text without quotes", f"write {json.dumps(word, ensure_ascii=False)}"),)
    )


def _number(word: str, end: int, at: int, whole: bool) -> Token:
    value: float = math.inf if len(word) > _LONGEST_NUMBER else int(word) if whole else float(word)
    if abs(value) > sys.float_info.max:  # whole numbers too: they are compared with others, and stand in for them
        return Token(None, end, (Slip(at, f"the number {word[:40]} is too large", "write a smaller one"),), sure=False)
    return Token(value, end)


def _nearly_number(word: str, end: int, at: int) -> Token | None:
    """Read what Python, but not JSON, takes as a number: ``.5``, ``5.``, ``+1``, ``01``, ``1_000``, ``NaN``."""
    if len(word) > _LONGEST_NUMBER:
        return None
    try:
        value: float = float(word)
    except ValueError:
        return None
    if not math.isfinite(value):
        return Token(None, end, (Slip(at, f"{word} is no JSON", "write a finite number"),), sure=False)
    if re.fullmatch(r"[+-]?[\d_]+", word):
        value = int(word)
    return Token(value, end, (Slip(at, f"{word} is no JSON", f"write {json.dumps(value)}"),))
