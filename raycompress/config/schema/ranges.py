"""Search ranges: objects in place of a value that say which values to try.

::

    {"type": "float", "range": [0.1, 0.9]}                  log: true, interval: 0.1 or n: 5 may be added
    {"type": "int", "range": [1, 8]}                        both ends included
    {"type": "choice", "range": ["l1", "l2"]}
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from raycompress.config.text.reader import JsonPath
from raycompress.text import abbreviate, describe_value, did_you_mean

TYPES = ("float", "int", "choice")
KEYS = ("type", "range", "interval", "n", "log")
LARGEST_WHOLE = 2**53
"""Up to here a float counts whole numbers exactly."""
_FARTHEST = 1e100
_NARROWEST = 1e-9


class Finding(NamedTuple):
    """A mistake inside a value: the path from that value, what it is and what to write."""

    path: JsonPath
    what: str
    fix: str


class Note(NamedTuple):
    """A note on a key that is accepted and ignored, or read as another one: its path, and the text."""

    path: JsonPath
    what: str


def is_range(value: Any, *, anything: bool = False) -> bool:
    """Tell whether `value` is meant as a search range.

    Parameters
    ----------
    value
        Any JSON value.
    anything
        True where objects of any sort may stand, as among a compressor's arguments: then ``type`` alone does not do.
    """
    if not isinstance(value, dict):
        return False
    if anything:
        return "type" in value and ("range" in value or value["type"] in TYPES)
    return "type" in value or "range" in value


def find_ranges(
    value: Any, path: JsonPath = (), *, anything: bool = False
) -> Iterator[tuple[JsonPath, dict[str, Any]]]:
    """Yield path and object of each search range inside `value`, at any depth."""
    if is_range(value, anything=anything):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from find_ranges(inner, (*path, key), anything=anything)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from find_ranges(inner, (*path, index), anything=anything)


def check_range(value: Mapping[str, Any], *, only: str | None = None) -> list[Finding]:
    """Return what is wrong with the search range `value`, as far as it can be told without what it stands for.

    Parameters
    ----------
    value
        An object that `is_range` takes for one.
    only
        ``int`` where a whole number belongs: a float range cannot stand there.
    """
    findings = [_unknown_key(key, value) for key in value if key not in KEYS]
    kind = value.get("type")
    if kind not in TYPES:
        near = did_you_mean(kind, TYPES)
        what = (
            'a search range without "type"' if "type" not in value else f"no type of search range: {abbreviate(kind)}"
        )
        findings.append(Finding(("type",), what, near or 'write "type": "float", "int" or "choice"'))
        return findings
    if only == "int" and kind == "float":
        findings.append(Finding(("type",), "a float range where whole numbers belong", 'write "type": "int"'))
        return findings
    if "range" not in value:
        if not any(did_you_mean(key, KEYS) == 'did you mean "range"?' for key in value):
            findings.append(Finding((), 'a search range without "range"', f"write {_EXAMPLES[kind]}"))
        return findings
    checks = _check_choices if kind == "choice" else _check_numbers
    return findings + list(checks(value))


_EXAMPLES = {
    "float": '"range": [0.1, 0.9]',
    "int": '"range": [1, 8]',
    "choice": '"range": ["a", "b"]',
}


def _unknown_key(key: str, value: Mapping[str, Any]) -> Finding:
    fix = (
        did_you_mean(key, [known for known in KEYS if known not in value])
        or f"remove it; a search range has {', '.join(KEYS)}"
    )
    return Finding((key,), f'unknown key "{key}" in a search range', fix)


def _check_choices(value: Mapping[str, Any]) -> Iterator[Finding]:
    if not isinstance(value["range"], list):
        yield Finding(
            ("range",), f"the range of a choice must be a list, not {describe_value(value['range'])}", "write [...]"
        )
    elif not value["range"]:
        yield Finding(("range",), "a choice of nothing", "write the values to choose from")
    for key in ("interval", "n", "log"):
        if key in value:
            yield Finding((key,), f'"{key}" means nothing for a choice', "remove it")


def _check_numbers(value: Mapping[str, Any]) -> Iterator[Finding]:
    ends, kind = value["range"], value["type"]
    if not isinstance(ends, list) or len(ends) != 2:
        found = f"a list of {len(ends)}" if isinstance(ends, list) else describe_value(ends)
        meant = two_numbers(ends) if isinstance(ends, str) else None
        fix = f'write "range": {json.dumps(meant)}' if meant else f"write {_EXAMPLES[kind]}"
        yield Finding(("range",), f"a range must be [low, high], not {found}", fix)
        return
    for index, end in enumerate(ends):
        if not is_number(end):
            yield Finding(
                ("range", index), f"the end of a range must be a number, not {describe_value(end)}", "write a number"
            )
            return
        if kind == "int" and not isinstance(end, int):
            fix = f"write {int(end)}" if end == int(end) else 'write a whole number, or "type": "float"'
            yield Finding(("range", index), f"the end of an int range must be whole, not {end}", fix)
            return
    low, high = ends
    if low > high:
        yield Finding(("range",), f"the range ends below its start: [{low}, {high}]", f"write [{high}, {low}]")
    elif low == high:
        yield Finding(
            ("range",), f"the range holds one value only: [{low}, {high}]", f"write {low} in place of the object"
        )
    elif findings := list(_check_reach(value, low, high)):
        yield from findings
    else:
        yield from _check_steps(value, low, high)


def _check_reach(value: Mapping[str, Any], low: float, high: float) -> Iterator[Finding]:
    """Refuse what the arithmetic of the proposers cannot do: it is of 64 bits, with differences and squares."""
    far = LARGEST_WHOLE if value["type"] == "int" else _FARTHEST
    widest = max(-low, high)
    if widest > far:
        yield Finding(
            ("range",), f"a range may reach to {far:g}, and this one does to {abbreviate(widest)}", "narrow it"
        )
    elif value["type"] == "float" and high - low < _NARROWEST * widest:
        what = f"the range holds next to one value only: [{low}, {high}]"
        yield Finding(("range",), what, f"write {low} in place of the object, or widen it")
    elif value.get("log") is True and 0 < low < 1 / _FARTHEST:
        yield Finding(("range",), f"a log range may start at {1 / _FARTHEST:g}, and this one does at {low}", "raise it")


def _check_steps(value: Mapping[str, Any], low: float, high: float) -> Iterator[Finding]:
    interval: Any = value.get("interval")
    n, log = value.get("n"), value.get("log", False)
    if not isinstance(log, bool):
        yield Finding(
            ("log",), f'"log" must be true or false, not {describe_value(log)}', "write true or false, without quotes"
        )
    elif log and low <= 0:
        yield Finding(("log",), f"a log range must start above 0, not at {low}", "raise the start, or remove log")
    if "interval" in value and "n" in value:
        yield Finding(("n",), '"interval" and "n" together', "keep one of the two")
    if "n" in value and not (isinstance(n, int) and not isinstance(n, bool) and 2 <= n <= LARGEST_WHOLE):
        yield Finding(("n",), f'"n" must be a whole number from 2, not {abbreviate(n)}', 'write "n": 5')
    if "interval" not in value:
        return
    whole = value["type"] == "int"
    if not is_number(interval) or (whole and not isinstance(interval, int)) or not 0 < interval <= high - low:
        kind = "a whole number" if whole else "a number"
        what = f'"interval" must be {kind} above 0, at most {high - low:g}, not {abbreviate(interval)}'
        yield Finding(("interval",), what, f'write "interval": {1 if whole else round((high - low) / 4, 6):g}')
    elif (high - low) / interval > LARGEST_WHOLE:
        yield Finding(
            ("interval",), f'"interval": {interval} makes more values than can be counted', "write a larger one"
        )
    if log is True:
        yield Finding(("interval",), '"interval" in a log range', 'write "n": 5')


_NUMBER = r"(-?\d+(?:\.\d*)?(?:[eE]-?\d+)?)"
_TWO_NUMBERS = re.compile(rf"\s*[\[(]?\s*{_NUMBER}\s*(?:-|,|:|;|to|\.\.\.?)\s*{_NUMBER}\s*[\])]?\s*")


def two_numbers(text: str) -> list[float] | None:
    """Return the numbers of a text such as ``0.1-0.9`` or ``[1, 8]``; None for any other."""
    found = _TWO_NUMBERS.fullmatch(text)
    return None if found is None else [int(one) if one.lstrip("-").isdigit() else float(one) for one in found.groups()]


def is_number(value: Any) -> bool:
    """Tell whether `value` is a finite number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
