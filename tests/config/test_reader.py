from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycompress.config.text.reader import JsonPath, read
from raycompress.jsonc import as_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.sampled_from([None, 0, 2]), st.booleans())
def test_what_is_json_reads_as_json_does(value: Any, indent: int | None, ascii_only: bool) -> None:
    found = read(json.dumps(value, indent=indent, ensure_ascii=ascii_only))
    assert (found.flaws, found.guessed, found.whole) == ([], set(), True)
    assert found.value == value
    assert repr(found.value) == repr(value)  # 1 is not 1.0, nor True


def paths(value: Any, path: JsonPath = ()) -> list[JsonPath]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner for key, child in children for inner in paths(child, (*path, key)))]


@given(VALUES)
def test_every_value_has_its_line(value: Any) -> None:
    text = json.dumps(value, indent=1)
    lines = read(text).lines
    assert set(lines) == set(paths(value))
    for path, line in lines.items():
        if path and isinstance(path[-1], str):
            assert text.split("\n")[line - 1].lstrip().startswith(json.dumps(path[-1]) + ": ")


COMMENTED = """\ufeff// above /* no other one */
{ // "first": {
  "a": [1, /* between */ 2, // behind, with "quotes" and , ] }
    /* of two
       lines */ 3,
    // last
  ], // "http://"
  "b/*": "// no comment */ \\\" /* neither */", /**/ "c" /* before */ : /* after */ {},
  "d": {"e": null,}, /***/
}
// below"""


def test_comments_and_trailing_commas_belong_to_the_file() -> None:
    found = read(COMMENTED)
    assert (found.flaws, found.guessed, found.whole) == ([], set(), True)
    assert found.value == {
        "a": [1, 2, 3],
        "b/*": '// no comment */ " /* neither */',
        "c": {},
        "d": {"e": None},
    }
    assert found.value == json.loads(as_json(COMMENTED).removeprefix("\ufeff"))
    assert (found.lines["a", 2], found.lines[("b/*",)], found.lines[("d",)]) == (5, 8, 9)
    assert [COMMENTED[slice(*span)] for span in found.comments] == [
        "// above /* no other one */",
        '// "first": {',
        "/* between */",
        '// behind, with "quotes" and , ] }',
        "/* of two\n       lines */",
        "// last",
        '// "http://"',
        *("/**/", "/* before */", "/* after */", "/***/", "// below"),
    ]


@given(VALUES, st.randoms(use_true_random=False))
def test_a_value_with_comments_reads_as_it_does_without(value: Any, rng: random.Random) -> None:
    plain = json.dumps(value, indent=1)
    text = commented(plain, rng)
    found = read(text)
    assert (found.flaws, found.value) == ([], value), text
    assert len(found.comments) == text.count("\u2620")
    assert json.loads(as_json(text)) == value
    for path, line in found.lines.items():
        if path and isinstance(path[-1], str):
            assert text.split("\n")[line - 1].lstrip().startswith(json.dumps(path[-1]) + ": ")


COMMENTS = ("", "", " // \u2620 ,]}", ' /* \u2620 "{ */', "\n// \u2620 /* x", "\n/*\u2620\n*/")


def commented(text: str, rng: random.Random) -> str:
    """Put commas and comments at line ends of a text that `json.dumps` indented; each comment has a skull in it."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if line.strip(" ,") in ("}", "]"):
            lines[number - 1] += rng.choice(["", ","])
    return "\n".join(line + rng.choice(COMMENTS) for line in lines)


def test_what_is_neither_json_nor_jsonc_never_passes_and_the_rest_always_does() -> None:
    base = json.dumps({"name": "x", "list": [{"a": {"b": [0.1, -3e2]}, "c": ["d", "e"]}], "f": True}, indent=1)
    rng = random.Random(1)
    refused = 0
    for _ in range(3000):
        text = list(base)
        for _ in range(rng.randint(1, 5)):
            place, new = rng.randrange(len(text)), rng.choice("{}[](),:=\"'\\#/\nnN0.-tx ")
            text[place : place + rng.randint(0, 1)] = rng.choice(["", new])
        mutant = "".join(text)
        found = read(mutant)
        try:
            expected = json.loads(as_json(mutant))
        except ValueError:
            refused += 1
            assert found.flaws, mutant
        else:
            assert all("stands twice" in flaw.what for flaw in found.flaws), mutant
            assert found.value == expected
    assert 1000 < refused < 3000


@pytest.mark.parametrize(
    ("text", "line", "what", "fix", "value"),
    [
        ('{"a": True}', 1, "True is no JSON", "write true", {"a": True}),
        ('{"a":\n None}', 2, "None is no JSON", "write null", {"a": None}),
        ("{'a': 'b'}", 1, "single quotes", 'write "a", "b"', {"a": "b"}),
        ("{'a': 'say \"b\"'}", 1, "single quotes", r'write "a", "say \"b\""', {"a": 'say "b"'}),
        ("{“a”: 1}", 1, "curly quotes", 'write "a"', {"a": 1}),
        ('{"a": 1\n\n "b": 2}', 1, 'no comma after {"a": 1', 'write ","', {"a": 1, "b": 2}),
        ('["a" "b"]', 1, 'no comma after ["a"', 'write ","', ["a", "b"]),
        ("[1,, 2]", 1, "a comma too many", 'remove the ","', [1, 2]),
        ('{"a": 1 # why\n}', 1, 'a comment after "#"', 'write "//"', {"a": 1}),
        ('{"a": 1\n /* why\n}', 2, 'this "/*" is never closed', 'write "*/"', {"a": 1}),
        ('{"a": 1} /*/', 1, 'this "/*" is never closed', 'write "*/"', {"a": 1}),
        ('/* a /* b */ c */ {"a": 1}', 1, "a comment in a comment", "do not nest", {"a": 1}),
        ('{"a": 1 /* /* x */ "y" */ }', 1, "a comment in a comment", "do not nest", {"a": 1}),
        ('{"a": */ 1}', 1, 'this "*/" ends no comment', "remove it", {"a": 1}),
        ('{"a": 1,, }', 1, "a comma too many", 'remove the ","', {"a": 1}),
        ("[,]", 1, "a comma too many", 'remove the ","', []),
        ('{"a": [1, 2,\n)}', 2, '")" closes a "["', 'write "]"', {"a": [1, 2]}),
        ('{"a" 1}', 1, 'no ":"', 'write "a": ...', {"a": 1}),
        ('{"a" = 1}', 1, '"=" after "a"', 'write ":"', {"a": 1}),
        ('{"a": 1, "b"}', 1, '"b" has no value', 'write "b": and its value', {"a": 1, "b": None}),
        ("{a: 1}", 1, "a key without quotes", 'write "a"', {"a": 1}),
        ('{"a": l1_filter}', 1, "text without quotes", 'write "l1_filter"', {"a": "l1_filter"}),
        ('{"a": .5}', 1, ".5 is no JSON", "write 0.5", {"a": 0.5}),
        ('{"a": +1}', 1, "+1 is no JSON", "write 1", {"a": 1}),
        ('{"a": 007}', 1, "007 is no JSON", "write 7", {"a": 7}),
        ('{"a": NaN}', 1, "NaN is no JSON", "finite", {"a": None}),
        ('{"a": -Infinity}', 1, "-Infinity is no JSON", "finite", {"a": None}),
        ('{"a": 1e999}', 1, "too large", "smaller", {"a": None}),
        ('{"a": (1, 2)}', 1, "round brackets", "[...]", {"a": [1, 2]}),
        (r'{"a": "C:\data"}', 1, "a single backslash", r"\\", {"a": "C:\\data"}),
        ('{"a": "b\tc"}', 1, "control character", r"\t", {"a": "b\tc"}),
        ('{"a": "b,\n "c": 1}', 1, "without its closing quote", 'write "b"', {"a": "b", "c": 1}),
        ('{"a": 1, "b": 2,\n"a": 3}', 2, '"a" stands twice, first in line 1', "keep one", {"a": 3, "b": 2}),
        ('{"a": [1, 2}', 1, 'this "[" is not closed', 'write "]" before the "}" of line 1', {"a": [1, 2]}),
        ('{"a": [1, 2,\n"b": 3}', 1, 'this "[" is not closed', 'write "]" before "b"', {"a": [1, 2], "b": 3}),
        ('[{"a": 1]', 1, 'this "{" is not closed', 'write "}"', [{"a": 1}]),
        ('{"a": [1\n)}', 2, '")" closes a "["', 'write "]"', {"a": [1]}),
        ('\n{"a": {"b": 1}', 2, 'this "{" is never closed', 'write "}"', {"a": {"b": 1}}),
    ],
)
def test_a_slip_is_told_with_its_line_and_what_to_write(text: str, line: int, what: str, fix: str, value: Any) -> None:
    found = read(text)
    assert [flaw.line for flaw in found.flaws] == [line]
    assert what in found.flaws[0].what
    assert fix in found.flaws[0].fix
    assert found.value == value


@pytest.mark.parametrize(("text", "what"), [("", "empty"), (" \n ", "empty"), ("{} {}", "after the end")])
def test_what_is_no_single_value(text: str, what: str) -> None:
    found = read(text)
    assert what in found.flaws[0].what
    assert not found.whole


def test_brackets_without_end() -> None:
    assert "open at once" in read("[" * 100_000).flaws[0].what
    assert "too large" in read("9" * 100_000).flaws[0].what


def test_several_slips_are_told_together() -> None:
    text = '{\n\'a\': True,\n"b": [1 2],\n"c": {"d": .3,}\n"e": 4\n}'
    assert [flaw.line for flaw in read(text).flaws] == [2, 2, 3, 4, 4]
