"""How much of its part of the model a value of a dimension leaves: of channels, bits or blocks alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from raycompress.config.dimension import Dimension

Sample = dict[str, Any]
"""Name of a dimension -> its value."""
_GONE = 0.5
"""What a residual block that is dropped counts as: much less than all of its layers, which others make up for."""
_LEAST = 1e-3
_STEPS = 16


def low(dimension: Dimension) -> float:
    """Return the least sparsity of a dimension."""
    assert dimension.low is not None
    return float(dimension.low)


def high(dimension: Dimension) -> float:
    """Return the largest sparsity of a dimension."""
    assert dimension.high is not None
    return float(dimension.high)


def is_sparsity(dimension: Dimension) -> bool:
    """Tell whether a dimension is a range of sparsities, among those that ``guided`` measures."""
    return dimension.kind == "float"


def kept(dimension: Dimension, value: Any) -> float:
    """Return the share that `value` leaves, above 0: of the channels, of the most bits, of the blocks."""
    if is_sparsity(dimension):
        return max(1 - float(value), _LEAST)
    if dimension.choices is None:  # so many blocks go
        return 1 - (1 - _GONE) * float(value) / max(1.0, high(dimension))
    if isinstance(value, bool):
        return 1.0 if value else _GONE
    if float(dimension.most) < 1:  # a few sparsities to choose among
        return max(1 - float(value), _LEAST)
    return float(value) / float(dimension.most)


def options(dimension: Dimension, steps: int = _STEPS) -> list[Any]:
    """Return the values of a dimension, from what leaves most to what leaves least; of a sparsity `steps` even ones."""
    if is_sparsity(dimension):
        return [dimension.nearest(one) for one in np.linspace(low(dimension), high(dimension), steps).tolist()]
    if dimension.choices is None:
        return list(range(int(low(dimension)), int(high(dimension)) + 1))
    return sorted(dimension.choices, key=lambda one: -kept(dimension, one))


def whole(dimension: Dimension) -> Any:
    """Return the value that leaves most."""
    return options(dimension)[0]


def random_value(dimension: Dimension, random: np.random.Generator) -> Any:
    """Return a random value of a dimension."""
    if is_sparsity(dimension):
        return dimension.plain(random.uniform(low(dimension), high(dimension)))
    known = options(dimension)
    return known[int(random.integers(len(known)))]


def changed(dimension: Dimension, value: Any, random: np.random.Generator, spread: float) -> Any:
    """Return a value that leaves a little more or less; of a few options another one.

    Parameters
    ----------
    spread
        Standard deviation of the change of a sparsity, of the logarithm of the kept share.
    """
    if is_sparsity(dimension):
        left = (1 - float(value)) * math.exp(float(random.normal(0, spread)))
        return dimension.plain(min(max(1 - left, low(dimension)), high(dimension)))
    others = [one for one in options(dimension) if one != value]
    return others[int(random.integers(len(others)))] if others else value
