"""The text of a JSON file, read so that every value keeps its line and every slip is reported at once.

Comments (``//`` and ``/* */``) and a comma after the last member belong to the file: it is JSONC, as editors write it.
`read` accepts what is almost that too (Python literals, single quotes, ``#`` comments, commas too many or too few,
brackets left open): each slip becomes a `Flaw` that says what to write, and reading goes on with what was meant.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from typing import Any

from raycompress.config.text.tokens import QUOTES, WORD, Token, scan_string, scan_word
from raycompress.jsonc import COMMENT

JsonPath = tuple[str | int, ...]

_BLANK_OR_COMMENT = re.compile(rf"[ \t\r\n\f\v\u00a0\ufeff]+|{COMMENT}|#[^\n]*|/\*(?s:.*)|\*/")
_STRING_OR_MARK = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*|\*/')
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
    spans
        Path of each value -> where in the text it begins, with its key, and where it ends.
    comments
        Where each comment begins and ends, in their order.
    flaws
        The slips, in the order of their lines; empty for a text that is JSON or JSONC.
    guessed
        Paths whose value could not be known: what else is wrong with them means nothing.
    whole
        False when brackets are so wrong that the shape of the value means nothing.
    """

    value: Any = None
    lines: dict[JsonPath, int] = field(default_factory=dict)
    spans: dict[JsonPath, tuple[int, int]] = field(default_factory=dict)
    comments: list[tuple[int, int]] = field(default_factory=list)
    flaws: list[Flaw] = field(default_factory=list)
    guessed: set[JsonPath] = field(default_factory=set)
    whole: bool = True

    @property
    def sure(self) -> bool:
        """Whether `value` is what was meant, however it was written."""
        return self.whole and not self.guessed and all(flaw.sure for flaw in self.flaws)


def read(text: str) -> JsonText:
    """Read `text`, which should be one JSON value, with comments or without."""
    return _Reader(text).read()


_BLANK = re.compile(r"(?:\s|\ufeff|#(?!!)[^\n]*\n)*")
_OTHER_KINDS = {
    "YAML": re.compile(r"(---|- |[A-Za-z_][\w.-]*[ \t]*:([ \t]|$))", re.MULTILINE),
    "TOML": re.compile(
        r"(\[[A-Za-z_][\w.-]*\][ \t]*\n\s*[\w.-]+\s*=|[A-Za-z_][\w.-]*[ \t]*=[ \t]*[^\s=])", re.MULTILINE
    ),
    "a script": re.compile(r"(#!|import |from \w+ import |\"\"\"|def |class )"),
}
"""What a file may be that holds no JSON -> how that begins."""


_AS_JSON = {
    "YAML": """write the same as JSON, {"name": "...", ...}: python -c 'import json, sys, yaml; """
    """json.dump(yaml.safe_load(sys.stdin), sys.stdout, indent=2)' < FILE > exp.json""",
    "TOML": """write the same as JSON, {"name": "...", ...}: python -c 'import json, sys, tomllib; """
    """json.dump(tomllib.load(sys.stdin.buffer), sys.stdout, indent=2)' < FILE > exp.json""",
    "a script": "`raycompress launch SCRIPT --target-flops 0.5` takes a script itself, and writes its experiment",
}


def _other_kind(text: str) -> str:
    blank = _BLANK.match(text)
    start = 0 if blank is None else blank.end()
    return next((kind for kind, beginning in _OTHER_KINDS.items() if beginning.match(text, start)), "")


class _TooDeepError(Exception):
    """More brackets are open than any experiment has."""


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = int(text.startswith("\ufeff"))  # a byte order mark
        self.out = JsonText()
        self.cut_off = False  # the rest of the text is in a comment
        self.open: list[str] = []  # the closers that are awaited, the innermost last
        self.comma_taken = False  # by a list that turned out to end before it
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def read(self) -> JsonText:
        if kind := _other_kind(self.text):
            self.flaw((), f"this is {kind}, and an experiment is JSON", _AS_JSON[kind])
            self.out.lines[()], self.out.whole = 1, False
            return self.out
        self.skip(())
        self.out.lines[()] = self.line()
        if self.cut_off:
            pass  # the comment without an end is reported
        elif self.at == len(self.text):
            self.flaw((), "the file is empty", "write an experiment: {...}")
            self.out.whole = False
        else:
            self.read_root()
        self.out.comments = sorted(set(self.out.comments))  # where reading went back, some were met twice
        self.out.flaws = _merged(sorted(self.out.flaws, key=lambda flaw: flaw.line))
        return self.out

    def read_root(self) -> None:
        start = self.at
        try:
            self.out.value = self.value(())
            self.out.spans[()] = (start, self.at)
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
            if found[0] in "#/*":
                self.comment(path, found)
            elif extra := set(found) & set("\f\v\u00a0\ufeff"):
                self.flaw(path, f"an invisible character, U+{ord(extra.pop()):04X}", "write a plain space")
            self.at += len(found) if self.at == match.start() else 0

    def comment(self, path: JsonPath, found: str) -> None:
        """Read the comment `found`, or what is meant to be one, and report what is wrong with it."""
        end = self.at + len(found)
        if found.startswith("/*") and (len(found) < 4 or not found.endswith("*/")):
            self.flaw(path, 'this "/*" is never closed', 'write "*/" where the comment ends', sure=False)
            self.out.whole, self.cut_off = False, True
            return
        if found == "*/":
            self.flaw(path, 'this "*/" ends no comment', 'remove it, or write "/*" before the comment', sure=False)
            return
        if found[0] == "#":
            self.flaw(path, 'a comment after "#"', 'write "//" in place of "#"')
        elif outer := self.end_of_nested(found, end):
            self.flaw(
                path, "a comment in a comment", 'remove the inner "/*" and "*/": comments do not nest', sure=False
            )
            end = outer
        self.out.comments.append((self.at, end))
        self.at = end

    def end_of_nested(self, found: str, end: int) -> int | None:
        """Return where the comment `found`, which ends at `end`, was meant to end, if it has another one inside."""
        if found[1] == "/" or "/*" not in found[2:]:
            return None
        marks = (match for match in _STRING_OR_MARK.finditer(self.text, end) if match.group() in ("/*", "*/"))
        following = next(marks, None)
        return following.end() if following is not None and following.group() == "*/" else None

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
        while not self.ends(path, start):
            if self.peek() == ",":
                self.flaw(path, "a comma too many", 'remove the ","')
                self.at += 1
                continue
            key = self.key(path)
            inner = (*path, key)
            if key in found:
                what = f'"{key}" stands twice, first in line {self.out.lines[inner]}'
                self.flaw(path, what, "keep one of the two", self.key_at, sure=False)
            begin = self.key_at
            self.out.lines[inner] = self.line(begin)
            found[key] = self.after_colon(inner)
            self.out.spans[inner] = (begin, self.at)
            self.separator(path)
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
        comma = False
        while not self.ends(path, start):
            if self.peek() == ",":
                self.flaw(path, "a comma too many", 'remove the ","')
                self.at += 1
                continue
            inner = (*path, len(found))
            before, flaws = self.at, len(self.out.flaws)
            self.out.lines[inner] = self.line()
            item = self.value(inner)
            self.out.spans[inner] = (before, self.at)
            self.skip(path)
            if (
                self.peek() == ":" and isinstance(item, str) and "}" in self.open
            ):  # that was a key: the list ended before it
                del self.out.flaws[flaws:], self.out.lines[inner], self.out.spans[inner]
                self.flaw(path, 'this "[" is not closed', f'write "]" before {json.dumps(item)}', start, sure=False)
                self.at = before
                self.comma_taken = comma
                return found
            if self.peek() == ":":
                self.flaw(path, '":" in a list', "write {...} around keys and their values")
                self.out.whole = False
                self.at += 1
            found.append(item)
            comma = self.separator(path)
        return found

    def ends(self, path: JsonPath, start: int) -> bool:
        """Whether the innermost bracket, opened at `start`, closes here."""
        self.skip(path)
        char, closer = self.peek(), self.open[-1]
        opener = self.text[start]
        if char == "":
            if not self.cut_off:
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
        return True

    def separator(self, path: JsonPath) -> bool:
        """Read the comma after a member; return whether there is one."""
        end = self.at
        self.skip(path)
        if self.peek() == ",":
            self.at += 1
            return True
        if self.peek() not in "}])" and not self.comma_taken:
            after = self.text[:end].rsplit("\n", 1)[-1].strip()[-40:]
            self.flaw(path, f"no comma after {after}", 'write "," there', end - 1)
        self.comma_taken = False
        return False


def _merged(flaws: list[Flaw]) -> list[Flaw]:
    """Tell the same slip in the same line once, with what to write for each."""
    merged: dict[tuple[int, str], Flaw] = {}
    for flaw in flaws:
        known = merged.setdefault((flaw.line, flaw.what), flaw)
        if known.sure and not flaw.sure:
            known = merged[flaw.line, flaw.what] = replace(known, sure=False)
        more = flaw.fix.removeprefix("write ")
        if flaw.fix not in (more, known.fix) and more not in known.fix.removeprefix("write ").split(", "):
            merged[flaw.line, flaw.what] = replace(known, fix=f"{known.fix}, {more}")
    return list(merged.values())
