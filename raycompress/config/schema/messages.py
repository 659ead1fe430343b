"""Translation of pydantic's errors into findings."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from raycompress.config.schema.ranges import Finding
from raycompress.config.schema.rewritten import DIRECTIONS, is_percent, rewritten
from raycompress.text import abbreviate, describe_value, did_you_mean, dotted, join_names

_SUCH_AS = {
    "compression.framework": '"torch"',
    "compression.type": '"pruning"',
    "compression.compressor": '"group_l1"',
    "scheduler.type": '"asha"',
    "compression.config_list": '[{"sparsity": 0.5, "op_types": ["Conv2d"]}]',
    "script": '"train.py"',
    "target[]": '{"runtime": "onnxruntime"}',
}
"""A value of a key, or of each member of a list."""
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
        return f'"{key}" is missing', f"add {json.dumps(key)}: {_such_as(path) or '...'}"
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
            such_as = f"write {_such_as(path)}" if _such_as(path) else fix
            return f'"{key}" must be {noun}, not {describe_value(value)}', rewritten(stem, path, value) or such_as
    return f'"{key}": {error["msg"]}', "see `raycompress schema`"


def _such_as(path: tuple[Any, ...]) -> str:
    is_member = bool(path) and isinstance(path[-1], int)
    return _SUCH_AS.get(dotted(tuple(part for part in path if isinstance(part, str))) + "[]" * is_member, "")


def _of_percent(value: Any, bound: Any, within: Any) -> str:
    """Return how to write a value that was meant in percent, or the search range that it is an end of."""
    if bound != 1 or not is_percent(value):
        return ""
    if not isinstance(within, Mapping):
        return f"percent? write {value / 100:g}"
    ends = within.get("range")
    if not isinstance(ends, list) or not all(is_percent(end) or end in (0, 1) for end in ends):
        return ""
    changed = {"range": [end / 100 for end in ends]}
    if is_percent(within.get("interval")) or within.get("interval") == 1:
        changed["interval"] = within["interval"] / 100
    kind = {"type": "float"} if within.get("type") == "int" else {}
    return f"percent? write {json.dumps({**within, **kind, **changed})}"


def _literal(key: str, value: Any, context: Mapping[str, Any]) -> tuple[str, str]:
    options = [part.strip().strip("'") for part in context["expected"].replace(" or ", ", ").split(", ")]
    options = [option.lower() if option in ("True", "False") else option for option in options]
    if isinstance(value, str) and value.lower() in ("true", "false") and "true" in options:
        return f'"{key}" is the text {abbreviate(value)}', f"write {value.lower()}, without quotes"
    meant = DIRECTIONS.get(str(value).lower()) if {"max", "min"} == set(options) else None
    fix = did_you_mean(value, options) or (f'write "{meant}"' if meant else "")
    return f'"{key}" must be one of {join_names(options)}, not {abbreviate(value)}', (
        fix or f"write one of {join_names(options)}"
    )


def _empty(key: str, value: Any, context: Mapping[str, Any]) -> tuple[str, str]:
    if key in ("name", "script", "[]") or key.startswith("a name in "):
        return f'"{key}" is empty', "write something"
    if key == "compression":
        return f'"{key}" is empty', 'write an object, {"framework": ...}, or a list of them, one for each stage'
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
