"""Files that go wrong: a valid JSON file with its keys, its values, its text or its bytes changed."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from raycompress.jsonc import as_json

NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2**31, 2**63, 10**30, -(10**400), 0.5, 1e308, 5e-324, -0.0, 1.0),
    *(float("nan"), float("inf"), float("-inf")),
)
TEXTS = (
    *(
        "",
        " ",
        "a\nb",
        "\x00",
        "\x1b[31mred",
        "../../etc/passwd",
        "/",
        "~",
        "$(touch x)",
        "`id`",
        "a;b&c|d",
        "'",
        '"',
        "\\",
    ),
    *(
        "\ud800",
        "é\u202e\ufeff",
        "x" * 20_000,
        "NaN",
        "true",
        "0.5",
        "s3://bucket/x",
        "file:///x",
        "-",
        "--help",
        "%s{}",
    ),
    *("conv1", "op_names", "float", "choice", "dependency", "default", "l1_filter", "level"),
)
RANGES: tuple[Any, ...] = (
    {"type": "float", "range": [0.1, 0.9]},
    {"type": "int", "range": [1, 10**30]},
    {"type": "int", "range": [-5, 5], "log": True},
    {"type": "float", "range": [5e-324, 1.7e308], "log": True},
    {"type": "float", "range": [-1.7e308, 1.7e308], "n": 3},
    {"type": "float", "range": [0.1, 0.9], "interval": 5e-324},
    {"type": "float", "range": [0, 0.9], "n": 10**9},
    {"type": "choice", "range": [None, [], {}, {"type": "choice", "range": [1]}, "x", float("nan")]},
    {"type": "choice", "range": []},
    {"range": [0, 1]},
    {"type": []},
)
KEYS = (
    *(
        "name",
        "script",
        "sparsity",
        "type",
        "range",
        "compression",
        "config_list",
        "op_names",
        "env",
        "$schema",
        "log",
        "",
    ),
    *("__class__", "a.b", "a/b", "\x00", "\ud800", "op_name", "nmae", "n_sample", "storage", "workingdir", "resource"),
)


def nested(depth: int) -> Any:
    """Return lists and objects inside one another."""
    value: Any = 0.5
    for level in range(depth):
        value = [value] if level % 2 else {"type": value}
    return value


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.sampled_from(RANGES).map(copy.deepcopy),
    st.sampled_from([3, 60, 99, 101, 400]).map(nested),
    st.recursive(
        st.sampled_from(NUMBERS) | st.text(max_size=8) | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
        max_leaves=6,
    ),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything inside `value`."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in children:
        yield (*path, key)
        yield from places(inner, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """Return what is at `path`."""
    for key in path:
        value = value[key]
    return value


@st.composite
def changed_values(draw: Callable[[Any], Any], value: Any) -> Any:
    """Change keys and values of a JSON value, once to four times."""
    value = json.loads(json.dumps(value))  # nothing is in it twice, as after deepcopy: it could be moved into itself
    for _ in range(draw(st.integers(1, 4))):
        every = list(places(value))
        if not every:
            break
        *above, key = draw(st.sampled_from(every))
        home = at(value, tuple(above))
        match draw(st.sampled_from(["replace", "replace", "remove", "rename", "move", "wrap", "add", "copy"])):
            case "replace":
                home[key] = draw(VALUES)
            case "remove":
                del home[key]
            case "rename" if isinstance(home, dict):
                home[draw(st.sampled_from(KEYS))] = home.pop(key)
            case "move":
                moved = home.pop(key)
                target = draw(st.sampled_from([(), *(path for path in places(value))]))
                place = at(value, target)
                if isinstance(place, dict):
                    place[str(key)] = moved
                elif isinstance(place, list):
                    place.append(moved)
            case "wrap":
                inner = home[key]
                thrice = [copy.deepcopy(inner) for _ in range(3)]  # of one, a part could be moved into itself
                home[key] = draw(st.sampled_from([[inner], {"value": inner}, thrice, str(inner)]))
            case "copy" if isinstance(home, list):
                home.append(copy.deepcopy(home[key]))
            case _ if isinstance(home, dict):
                home[draw(st.sampled_from(KEYS))] = draw(VALUES)
    return value


PIECES = (
    *("{", "}", "[", "]", "(", ")", ",", ":", "=", '"', "'", "“", "\\", "#", "//", "/*", "\n", "\r", "\t", " ", "\x00"),
    *(
        "\x0b",
        "\x85",
        "\u2028",
        "\ufeff",
        "NaN",
        "-Infinity",
        "1e999",
        "9" * 5000,
        "0x1F",
        "01",
        "None",
        "True",
        "\\ud800",
    ),
    *("\\u0000", '"name": 1,', "{" * 200, "[" * 150_000, '"' + "x" * 30_000, "💥", "\ud800"),
)


@st.composite
def changed_texts(draw: Callable[[Any], Any], text: str) -> str:
    """Change the text of a file, once to four times: pieces put in, cut out, doubled, cut off, moved."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        match draw(st.sampled_from(["put", "put", "cut", "double", "end", "begin", "line"])):
            case "put":
                text = text[:start] + draw(st.sampled_from(PIECES)) + text[start:]
            case "cut":
                text = text[:start] + text[end:]
            case "double":
                text = text[:end] + text[start:end] + text[end:]
            case "end":
                text = text[:start]
            case "begin":
                text = text[start:]
            case "line":
                lines = text.splitlines(keepends=True) or [""]
                line = lines[start % len(lines)]
                text = text[:start] + line + text[start:]
    return text


@st.composite
def changed_bytes(draw: Callable[[Any], Any], data: bytes) -> bytes:
    """Change bytes of a file, once to four times, or its encoding."""
    if draw(st.booleans()):
        return data.decode(errors="replace").encode(draw(st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "cp500"])))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        data = data[:start] + draw(st.binary(min_size=1, max_size=4)) + data[start + draw(st.integers(0, 4)) :]
    return data


@st.composite
def broken_files(draw: Callable[[Any], Any], originals: dict[str, str]) -> tuple[str, bytes]:
    """Return the name of one of `originals` (name -> JSON text) and a broken version of it."""
    name = draw(st.sampled_from(sorted(originals)))
    text = originals[name]
    how = draw(st.sampled_from(["values", "values", "values", "text", "text", "bytes", "both"]))
    if how in ("values", "both"):
        indent = draw(st.sampled_from([None, 1]))
        text = json.dumps(
            draw(changed_values(json.loads(as_json(text)))), indent=indent, ensure_ascii=draw(st.booleans())
        )
    if how in ("text", "both"):
        text = draw(changed_texts(text))
    data = text.encode(errors="surrogatepass")
    return name, draw(changed_bytes(data)) if how == "bytes" else data


COMMENTS = (
    *(
        "// why",
        "//",
        "/* why */",
        "/**/",
        "/*\n * of\n * three */",
        '// "name": 1, } ] {',
        '/* "a": [1, // */',
        "// /*",
    ),
    *("/* // */", "// it's # 5", '/* " */', "// ünïcode 💥", "/***/"),
)
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|[][{},:]|[^][{},:"\s]+')


@st.composite
def commented_files(draw: Callable[[Any], Any], originals: dict[str, str]) -> tuple[str, str]:
    """Return the name of one of `originals` and its text, which is right, with comments and trailing commas in it."""
    name = draw(st.sampled_from(sorted(originals)))
    text = as_json(originals[name])
    gaps = [(found.start(), found.group()) for found in _TOKEN.finditer(text)]
    chosen = draw(st.lists(st.tuples(st.sampled_from(gaps), st.sampled_from(COMMENTS)), min_size=1, max_size=6))
    put: dict[int, str] = {}
    for (at, _), comment in chosen:
        put[at] = put.get(at, "") + comment + ("\n" if comment.startswith("//") else draw(st.sampled_from([" ", "\n"])))
    put[len(text)] = draw(st.sampled_from(COMMENTS)) + "\n"
    commas = draw(st.booleans())
    for at, token in gaps:
        before = text[:at].rstrip()[-1:]
        if commas and token in ("}", "]") and before not in ("{", "["):
            put[at] = "," + put.get(at, "")
    for at in sorted(put, reverse=True):
        text = text[:at] + put[at] + text[at:]
    return name, draw(st.sampled_from(["", "\ufeff"])) + text
