"""Search ranges as other tools write them: NNI, Ray Tune, Weights & Biases, Optuna, and what a person makes up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raycompress.config.schema.ranges import KEYS, TYPES, is_number, two_numbers

_ENDS = (("min", "max"), ("low", "high"), ("lower", "upper"), ("from", "to"), ("start", "stop"), ("start", "end"))
_KINDS = ("type", "_type", "distribution", "dist")
_LISTS = ("range", "values", "_value", "value", "choices", "options", "categories", "bounds", "domain", "grid_search")
_CHOICES = ("values", "choices", "options", "categories", "grid_search")
FOREIGN_KEYS = {*(end for pair in _ENDS for end in pair), *_KINDS, *_LISTS} - {*KEYS}
"""Keys that such ranges have and ours do not."""
_WHOLE = ("int", "integer", "randint", "int_uniform", "q_uniform_int", "lograndint", "qrandint", "i")


def meant_range(value: Any) -> dict[str, Any] | None:
    """Return the search range that `value`, in another tool's words, stands for; None where it is none, or ours.

    Examples
    --------
    >>> meant_range({"_type": "uniform", "_value": [0.1, 0.9]})
    {'type': 'float', 'range': [0.1, 0.9]}
    >>> meant_range({"distribution": "log_uniform_values", "min": 0.001, "max": 0.1})
    {'type': 'float', 'range': [0.001, 0.1], 'log': True}
    >>> meant_range([0.3, 0.5, 0.7])
    {'type': 'choice', 'range': [0.3, 0.5, 0.7]}
    """
    if isinstance(value, list):
        return _of_list(value)
    if not isinstance(value, Mapping) or _is_ours(value):
        return None
    kind = str(next((value[key] for key in _KINDS if key in value), "")).lower()
    given = next((value[key] for key in _LISTS if key in value), None)
    ends = next(([value[low], value[high]] for low, high in _ENDS if low in value and high in value), given)
    ends = two_numbers(ends) if isinstance(ends, str) else ends
    if not isinstance(ends, list) or not ends:
        return None
    is_choice = any(part in kind for part in ("choice", "categor", "grid")) or any(key in value for key in _CHOICES)
    if is_choice or len(ends) != 2 or not all(is_number(end) for end in ends):
        return {"type": "choice", "range": ends} if not any(isinstance(one, dict) for one in ends) else None
    found = _between(ends, is_whole=kind in _WHOLE)
    return {**found, "log": True} if "log" in kind or value.get("log") is True else found


def meant_parameters(value: Any) -> list[dict[str, Any]] | None:
    """Return the ``parameter_config`` that an object of names and search ranges stands for; None for any other."""
    if not isinstance(value, dict) or not value:
        return None
    ranges = {name: meant_range(each) or each for name, each in value.items()}
    if not all(isinstance(each, dict) and "range" in each for each in ranges.values()):
        return None
    return [{"name": name, **each} for name, each in ranges.items()]


def _is_ours(value: Mapping[str, Any]) -> bool:
    """Tell whether a range is written as ours: what is wrong with it is then said of its keys."""
    return all(key in KEYS for key in value) or (value.get("type") in TYPES and isinstance(value.get("range"), list))


def _of_list(value: Sequence[Any]) -> dict[str, Any] | None:
    if len(value) == 2 and all(is_number(one) for one in value) and value[0] < value[1]:
        return _between(value, is_whole=False)
    plain = len(value) > 1 and all(is_number(one) or isinstance(one, str) for one in value)
    return {"type": "choice", "range": list(value)} if plain else None


def _between(ends: Sequence[float], *, is_whole: bool) -> dict[str, Any]:
    whole = all(isinstance(end, int) for end in ends) and (is_whole or max(ends) > 1)
    return {"type": "int" if whole else "float", "range": list(ends)}
