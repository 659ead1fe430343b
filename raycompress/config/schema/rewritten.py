"""How to write a value whose meaning is plain, and whose form alone is wrong."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

from raycompress.config.schema.foreign_ranges import meant_range
from raycompress.config.text.reader import JsonPath

DIRECTIONS = {
    **dict.fromkeys(("maximize", "maximise", "maximum", "higher", "highest", "up", "largest", "accuracy"), "max"),
    **dict.fromkeys(("minimize", "minimise", "minimum", "lower", "lowest", "down", "smallest", "loss"), "min"),
}
"""What other tools, and people, write for the two directions."""
_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d)\w*\s*")
_MEASURED = ("flops", "params", "size_bytes", "latency_ms", "latency", "size", "loss", "error", "macs")
_RATIOS = ("flops", "params", "size_bytes", "latency_ms")


def rewritten(stem: str, path: JsonPath, value: Any) -> str:
    """Return how to write `value`, found where pydantic wants a `stem`; empty where a person has to know."""
    key = str(path[-1]) if path else ""
    if stem in ("dict", "model"):
        return _as_object(path, value)
    if stem in ("float", "int") and (meant := meant_range(value)):
        return f"write {json.dumps(meant, ensure_ascii=False)}"
    if stem in ("float", "int") and key.endswith("_s") and (seconds := _seconds(value)):
        return f"write {seconds:g}, in seconds"
    if stem == "float" and (share := _percentage(key, value)) is not None:
        return f"percent? write {share:g}"
    if stem == "list" and isinstance(value, (str, int, float, dict)):
        return f"write {json.dumps([value], ensure_ascii=False)}"
    if stem == "string":
        return _as_text(key, value)
    if stem == "int" and isinstance(value, float) and value == int(value):
        return f"write {int(value)}"
    if stem == "bool" and value in (0, 1):
        return f"write {json.dumps(bool(value))}"
    return _without_quotes(stem, value) if isinstance(value, str) else ""


def _as_object(path: JsonPath, value: Any) -> str:
    key = path[-1] if path else ""
    meant: dict[str, Any] | None = None
    if key == "scheduler" and isinstance(value, str):
        meant = {"type": value.lower()}
    elif key == "objectives" and (names := [value] if isinstance(value, str) else value) and _are_texts(names):
        meant = {name: "min" if name.lower() in _MEASURED else "max" for name in names}
    elif key == "env" and _are_texts(value) and all("=" in one for one in value):
        meant = dict(one.split("=", 1) for one in value)
    elif path[:-1] == ("constraints",):
        share = _percentage("ratio", value) if isinstance(value, str) else value
        if isinstance(share, (int, float)) and not isinstance(share, bool):
            meant = {"max_ratio": share} if key in _RATIOS and 0 < share < 1 else {"min": share}
    return "" if meant is None else f"write {json.dumps(meant, ensure_ascii=False)}"


def _as_text(key: str, value: Any) -> str:
    if _are_texts(value) and value:
        text = " && ".join(value) if key in ("prescript", "postscript") else shlex.join(value)
        return f"write {json.dumps(text, ensure_ascii=False)}"
    return f'write "{json.dumps(value)}"' if isinstance(value, (int, float)) else ""


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _seconds(value: Any) -> float | None:
    found = _DURATION.fullmatch(value.lower()) if isinstance(value, str) else None
    return None if found is None else float(found[1]) * _SECONDS[found[2]]


def _without_quotes(stem: str, value: str) -> str:
    try:
        plain = json.loads(value.strip().lower())
    except ValueError:
        return ""
    wanted: Any = {"int": int, "float": (int, float), "bool": bool}.get(stem)
    if wanted is None or not isinstance(plain, wanted) or (stem != "bool" and isinstance(plain, bool)):
        return ""
    return f"write {json.dumps(plain)}, without quotes"


def _percentage(key: str, value: Any) -> float | None:
    """Return the share that a text such as ``50%`` stands for, or ``50`` for a key that holds a share."""
    text = value.strip() if isinstance(value, str) else ""
    is_share = any(part in key for part in ("sparsity", "fraction", "ratio"))
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        return None
    return number / 100 if text.endswith("%") or (is_share and is_percent(number)) else None


def is_percent(value: Any) -> bool:
    """Tell whether a number is more likely a percentage than a share."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 2 <= value < 100
