"""Translation of pydantic's errors into findings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from raycompress.config.schema.foreign_ranges import meant_range
from raycompress.config.schema.ranges import Finding
from raycompress.text import abbreviate, describe_value, did_you_mean, dotted, join_names

_NOUNS = {
    "string": ("a text", 'write it in quotes: "..."'),
    "int": ("a whole number", "write a whole number, such as 4"),
    "float": ("a number", "write a number, such as 0.5"),
    "bool": ("true or false", "write true or false, without quotes"),
    "list": ("a list", "write [...]"),
    "dict": ("an object", "write {...}"),
    "model": ("an object", "write {...}"),
}
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def findings_of(errors: list[Any]) -> Iterator[Finding]:
    """Yield a finding for each of pydantic's error dicts; those that our own validators raised hold several."""
    for error in errors:
        path = tuple(part for part in error["loc"] if part != "[key]" and not str(part).startswith("<"))
        if error["type"] == "findings":
            for found in error["ctx"]["findings"]:
                yield found._replace(path=path + found.path)
        elif error["type"] == "members":
            for inner, members in error["ctx"]["members"]:
                for member in members:
                    what, fix = _describe({**member, "within": error["input"]}, path)
                    yield Finding((*path, *inner), what, fix)
        else:
            what, fix = _describe(error, path)
            yield Finding(path, what, fix)


def _key_at(path: tuple[Any, ...]) -> str:
    """Return what the value at `path` is called in a message."""
    if path and path[-1] == "":
        return f"a name in {_key_at(path[:-1])}"
    return dotted(path[-2:] if path and isinstance(path[-1], int) else path[-1:]) or "the experiment"


def _describe(error: Mapping[str, Any], path: tuple[Any, ...]) -> tuple[str, str]:
    """Return what is wrong with the value at `path`, or with a member of the search range there, and what to write."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    key = _key_at(path)
    if kind == "missing":
        return f'"{key}" is missing', f"add {json.dumps(key)}: ..."
    if kind in _BOUNDS:
        word, bound = _BOUNDS[kind]
        return (
            f'"{key}" must be {word} {context[bound]:g}, not {abbreviate(value)}',
            _of_percent(value, context[bound], error.get("within")) or f"write a number {word} {context[bound]:g}",
        )
    if kind in _PARTICULAR:
        return _PARTICULAR[kind](key, value, context)
    for stem, (noun, fix) in _NOUNS.items():
        if kind in (f"{stem}_type", f"{stem}_parsing", f"{stem}_from_float"):
            return f'"{key}" must be {noun}, not {describe_value(value)}', _rewritten(stem, key, value) or fix
    return f'"{key}": {error["msg"]}', "see `raycompress schema`"


def _of_percent(value: Any, bound: Any, within: Any) -> str:
    """Return how to write a value that was meant in percent, or the search range that it is an end of."""
    if bound != 1 or not _is_percent(value):
        return ""
    if not isinstance(within, Mapping):
        return f"percent? write {value / 100:g}"
    ends = within.get("range")
    if not isinstance(ends, list) or not all(_is_percent(end) or end in (0, 1) for end in ends):
        return ""
    changed = {"range": [end / 100 for end in ends]}
    if _is_percent(within.get("interval")) or within.get("interval") == 1:
        changed["interval"] = within["interval"] / 100
    kind = {"type": "float"} if within.get("type") == "int" else {}
    return f"percent? write {json.dumps({**within, **kind, **changed})}"


def _percentage(key: str, value: Any) -> float | None:
    """Return the share that a text such as ``50%`` stands for, or ``50`` for a key that holds a share."""
    text = value.strip() if isinstance(value, str) else ""
    is_share = any(part in key for part in ("sparsity", "fraction", "ratio"))
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        return None
    return number / 100 if text.endswith("%") or (is_share and _is_percent(number)) else None


def _is_percent(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 2 <= value < 100


def _literal(key: str, value: Any, context: Mapping[str, Any]) -> tuple[str, str]:
    options = [part.strip().strip("'") for part in context["expected"].replace(" or ", ", ").split(", ")]
    options = [option.lower() if option in ("True", "False") else option for option in options]
    if isinstance(value, str) and value.lower() in ("true", "false") and "true" in options:
        return f'"{key}" is the text {abbreviate(value)}', f"write {value.lower()}, without quotes"
    return f'"{key}" must be one of {join_names(options)}, not {abbreviate(value)}', (
        did_you_mean(value, options) or f"write one of {join_names(options)}"
    )


def _empty(key: str, value: Any, context: Mapping[str, Any]) -> tuple[str, str]:
    if key in ("name", "script", "[]") or key.startswith("a name in "):
        return f'"{key}" is empty', "write something"
    if key in ("op_names", "op_types"):
        other = "op_types" if key == "op_names" else "op_names"
        return f'"{key}" is empty', f'write something, or choose the layers by "{other}" in its place'
    if key.endswith("]"):
        return f'"{key}" is empty', "write something, or remove it"
    return f'"{key}" is empty', "write something, or leave the key out"


def _infinite(key: str, value: Any, context: Mapping[str, Any]) -> tuple[str, str]:
    return f'"{key}" must be a finite number', "write a finite number"


_PARTICULAR: dict[str, Callable[[str, Any, Mapping[str, Any]], tuple[str, str]]] = {
    "literal_error": _literal,
    "string_too_short": _empty,
    "too_short": _empty,
    "finite_number": _infinite,
}


def _rewritten(stem: str, key: str, value: Any) -> str:
    """Return how to write `value` where its meaning is plain and only its type is wrong."""
    if stem in ("float", "int") and (meant := meant_range(value)):
        return f"write {json.dumps(meant, ensure_ascii=False)}"
    if stem == "float" and (share := _percentage(key, value)) is not None:
        return f"percent? write {share:g}"
    if stem == "list" and isinstance(value, (str, int, float)):
        return f"write {json.dumps([value], ensure_ascii=False)}"
    if stem == "string" and isinstance(value, (int, float)):
        return f'write "{json.dumps(value)}"'
    if stem == "int" and isinstance(value, float) and value == int(value):
        return f"write {int(value)}"
    if stem == "bool" and value in (0, 1):
        return f"write {json.dumps(bool(value))}"
    if not isinstance(value, str):
        return ""
    try:
        plain = json.loads(value.strip().lower())
    except ValueError:
        return ""
    wanted: Any = {"int": int, "float": (int, float), "bool": bool}.get(stem)
    if wanted is None or not isinstance(plain, wanted) or (stem != "bool" and isinstance(plain, bool)):
        return ""
    return f"write {json.dumps(plain)}, without quotes"
