"""The text of a JSON file, read so that every value keeps its line and every slip is told at once.

`read` takes what is almost JSON too (Python literals, single quotes, commas too many or too few, comments, brackets
left open): each slip becomes a `Flaw` that says what to write, and reading goes on with what was meant.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from typing import Any

from raycompress.config.text.tokens import QUOTES, WORD, Token, scan_string, scan_word

JsonPath = tuple[str | int, ...]

_BLANK_OR_COMMENT = re.compile(r"[ \t\r\n\f\v\u00a0\ufeff]+|#[^\n]*|//[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_COLON = re.compile("[:=]+")
_CLOSER = {"{": "}", "[": "]", "(": ")"}
_DEEPEST = 100


@dataclass(frozen=True)
class Flaw:
    """One slip of the text: its line, the value it stands in, what it is and what to write.

    `sure` is true where only one thing can have been meant, so that `JsonText.value` holds it.
    """

    line: int
    path: JsonPath
    what: str
    fix: str
    sure: bool = True


@dataclass
class JsonText:
    """What a text says.

    Attributes
    ----------
    value
        The value, as ``json.loads`` gives it; None where nothing could be read.
    lines
        Path of each value -> line of its key, or of its first character in a list; the root is ``()``.
    flaws
        The slips, in the order of their lines; empty for a text that is JSON.
    guessed
        Paths whose value could not be known: what else is wrong with them means nothing.
    whole
        False when brackets are so wrong that the shape of the value means nothing.
    """

    value: Any = None
    lines: dict[JsonPath, int] = field(default_factory=dict)
    flaws: list[Flaw] = field(default_factory=list)
    guessed: set[JsonPath] = field(default_factory=set)
    whole: bool = True

    @property
    def sure(self) -> bool:
        """Whether `value` is what was meant, however it was written."""
        return self.whole and not self.guessed and all(flaw.sure for flaw in self.flaws)


def read(text: str) -> JsonText:
    """Read `text`, which should be one JSON value."""
    return _Reader(text).read()


class _TooDeepError(Exception):
    """More brackets are open than any experiment has."""


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.out = JsonText()
        self.open: list[str] = []  # the closers that are awaited, the innermost last
        self.comma_taken = False  # by a list that turned out to end before it
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def read(self) -> JsonText:
        self.skip(())
        self.out.lines[()] = self.line()
        if self.at == len(self.text):
            self.flaw((), "the file is empty", "write an experiment: {...}")
            self.out.whole = False
        else:
            self.read_root()
        self.out.flaws = _merged(sorted(self.out.flaws, key=lambda flaw: flaw.line))
        return self.out

    def read_root(self) -> None:
        try:
            self.out.value = self.value(())
        except _TooDeepError:
            self.flaw((), f"more than {_DEEPEST} brackets are open at once", "close some of them")
            self.out.whole = False
            return
        self.skip(())
        if self.at < len(self.text):
            shown = self.text[self.at :].split("\n", 1)[0][:40].strip()
            self.flaw((), f"text after the end of the experiment: {shown}", "remove it, or a closing bracket before it")
            self.out.whole = False

    # ---- small steps

    def line(self, at: int | None = None) -> int:
        return bisect_right(self.starts, self.at if at is None else at)

    def flaw(self, path: JsonPath, what: str, fix: str, at: int | None = None, *, sure: bool = True) -> None:
        self.out.flaws.append(Flaw(self.line(at), path, what, fix, sure))

    def peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def skip(self, path: JsonPath) -> None:
        while match := _BLANK_OR_COMMENT.match(self.text, self.at):
            found = match.group()
            if found[0] in "#/":
                self.flaw(path, "a comment: JSON has none", "remove the comment")
            elif extra := set(found) & set("\f\v\u00a0\ufeff"):
                self.flaw(path, f"an invisible character, U+{ord(extra.pop()):04X}", "write a plain space")
            self.at = match.end()

    # ---- values

    def value(self, path: JsonPath) -> Any:
        char = self.peek()
        if char in _CLOSER:
            return self.container(path)
        if char in QUOTES:
            return self.token(scan_string(self.text, self.at), path)
        return self.token(scan_word(self.text, self.at), path)

    def token(self, token: Token, path: JsonPath) -> Any:
        for slip in token.slips:
            self.flaw(path, slip.what, slip.fix, slip.at, sure=token.sure)
        if not token.sure:
            self.out.guessed.add(path)
        self.at = token.end
        return token.value

    def container(self, path: JsonPath) -> Any:
        opener = self.peek()
        if len(self.open) >= _DEEPEST:
            raise _TooDeepError
        if opener == "(":
            self.flaw(path, "round brackets", "write [...]")
        self.open.append(_CLOSER[opener])
        start = self.at
        self.at += 1
        found = self.members(path, start) if opener == "{" else self.items(path, start)
        self.open.pop()
        return found

    def members(self, path: JsonPath, start: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        comma = -1
        while not self.ends(path, start, comma):
            if self.peek() == ",":
                self.flaw(path, "a comma too many", 'remove the ","')
                self.at += 1
                continue
            key = self.key(path)
            inner = (*path, key)
            if key in found:
                what = f'"{key}" stands twice, first in line {self.out.lines[inner]}'
                self.flaw(path, what, "keep one of the two", self.key_at, sure=False)
            self.out.lines[inner] = self.line(self.key_at)
            found[key] = self.after_colon(inner)
            comma = self.separator(path)
        return found

    def key(self, path: JsonPath) -> str:
        self.key_at = self.at
        if self.peek() in QUOTES:
            return str(self.token(scan_string(self.text, self.at), path))
        if match := WORD.match(self.text, self.at):
            self.at = match.end()
            self.flaw(path, "a key without quotes", f"write {json.dumps(match.group())}", self.key_at)
            return match.group()
        self.flaw(path, f'a key is missing before "{self.peek()}"', 'write "key": value', sure=False)
        if self.peek() not in ":=":
            self.value((*path, ""))
        self.out.guessed.add((*path, ""))
        return ""

    def after_colon(self, path: JsonPath) -> Any:
        key, key_end = path[-1], self.at
        self.skip(path)
        colon = _COLON.match(self.text, self.at)
        if colon:
            if colon.group() != ":":
                self.flaw(path, f'"{colon.group()}" after "{key}"', 'write ":"')
            self.at = colon.end()
            self.skip(path)
        if self.peek() == "" or self.peek() in ",}])" or (not colon and self.line() != self.line(key_end)):
            fix = f"write {json.dumps(key)}: and its value"
            self.flaw(path, f'"{key}" has no value', fix, key_end - 1, sure=False)
            self.out.guessed.add(path)
            self.comma_taken = not colon
            return None
        if not colon:
            self.flaw(path, f'no ":" after "{key}"', f"write {json.dumps(key)}: ...")
        return self.value(path)

    def items(self, path: JsonPath, start: int) -> list[Any]:
        found: list[Any] = []
        comma = -1
        while not self.ends(path, start, comma):
            if self.peek() == ",":
                self.flaw(path, "a comma too many", 'remove the ","')
                self.at += 1
                continue
            inner = (*path, len(found))
            before, flaws = self.at, len(self.out.flaws)
            self.out.lines[inner] = self.line()
            item = self.value(inner)
            self.skip(path)
            if (
                self.peek() == ":" and isinstance(item, str) and "}" in self.open
            ):  # that was a key: the list ended before it
                del self.out.flaws[flaws:], self.out.lines[inner]
                self.flaw(path, 'this "[" is not closed', f'write "]" before {json.dumps(item)}', start, sure=False)
                self.at = before
                self.comma_taken = comma >= 0
                return found
            if self.peek() == ":":
                self.flaw(path, '":" in a list', "write {...} around keys and their values")
                self.out.whole = False
                self.at += 1
            found.append(item)
            comma = self.separator(path)
        return found

    def ends(self, path: JsonPath, start: int, comma: int) -> bool:
        """Whether the innermost bracket, opened at `start`, closes here; `comma` is where one stood, or -1."""
        self.skip(path)
        char, closer = self.peek(), self.open[-1]
        opener = self.text[start]
        if char == "":
            self.flaw(path, f'this "{opener}" is never closed', f'write "{closer}" where it ends', start)
            self.out.whole = False
            return True
        if char not in "}])":
            return False
        if char == closer:
            self.at += 1
        elif char in self.open:
            fix = f'write "{closer}" before the "{char}" of line {self.line()}'
            self.flaw(path, f'this "{opener}" is not closed', fix, start, sure=False)
        else:
            self.flaw(path, f'"{char}" closes a "{opener}"', f'write "{closer}"', sure=False)
            self.at += 1
        if comma >= 0:
            self.flaw(path, f'a comma before the closing "{char}"', 'remove the ","', comma)
        return True

    def separator(self, path: JsonPath) -> int:
        """Take the comma after a member; return where it stood, or -1."""
        end = self.at
        self.skip(path)
        if self.peek() == ",":
            self.at += 1
            return self.at - 1
        if self.peek() not in "}])" and not self.comma_taken:
            after = self.text[:end].rsplit("\n", 1)[-1].strip()[-40:]
            self.flaw(path, f"no comma after {after}", 'write "," there', end - 1)
        self.comma_taken = False
        return -1


def _merged(flaws: list[Flaw]) -> list[Flaw]:
    """Tell the same slip in the same line once, with what to write for each."""
    merged: dict[tuple[int, str], Flaw] = {}
    for flaw in flaws:
        known = merged.setdefault((flaw.line, flaw.what), flaw)
        if known.sure and not flaw.sure:
            known = merged[flaw.line, flaw.what] = replace(known, sure=False)
        more = flaw.fix.removeprefix("write ")
        if flaw.fix != more and more not in known.fix.removeprefix("write ").split(", "):
            merged[flaw.line, flaw.what] = replace(known, fix=f"{known.fix}, {more}")
    return list(merged.values())
