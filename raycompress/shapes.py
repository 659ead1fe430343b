"""Checks of the shape of plain JSON data."""

from __future__ import annotations

import sys
from typing import Any

Shape = Any
"""
``str``, ``bool``, ``dict``
    A value of exactly this type.
``int``, ``float``
    A number that a float can hold; for ``int`` a whole one. NaN and the infinities are floats.
``None``, ``"word"``
    This value.
``(one, other)``
    One of several.
``[inner]``
    A list of such values.
``{str: inner}``
    An object with any keys and such values.
``{"key": inner}``
    An object that has at least these keys.
"""


def fits(value: Any, shape: Shape) -> bool:
    """Tell whether `value` has `shape`.

    Examples
    --------
    >>> fits({"trial": 3, "values": {"accuracy": 0.9}}, {"trial": int, "values": ({str: float}, None)})
    True
    >>> fits({"trial": True}, {"trial": int})
    False
    """
    if shape in (int, float):
        kinds = (int,) if shape is int else (int, float)
        return type(value) in kinds and (type(value) is float or abs(value) <= sys.float_info.max)
    if isinstance(shape, type):
        return type(value) is shape
    if isinstance(shape, tuple):
        return any(fits(value, one) for one in shape)
    if isinstance(shape, list):
        return type(value) is list and all(fits(one, shape[0]) for one in value)
    if isinstance(shape, dict):
        if type(value) is not dict:
            return False
        if str in shape:
            return all(fits(one, shape[str]) for one in value.values())
        return all(name in value and fits(value[name], inner) for name, inner in shape.items())
    return bool(value == shape)
