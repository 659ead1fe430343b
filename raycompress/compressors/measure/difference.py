"""The relative difference of two lists of outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raycompress.bundle.bundle import TOLERANCE

__all__ = ["TOLERANCE", "relative_difference"]


def relative_difference(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """Return the L2 norm of the difference over the L2 norm of `expected`, all outputs together, in float64.

    This is the number under ``relative_difference`` in a journal, for torch and for Keras models alike.

    Parameters
    ----------
    expected, found
        Outputs in the same order: torch tensors of any device and type, or numpy arrays.

    Returns
    -------
    float
        Infinite where the number of outputs or a shape differs, or where `expected` is all zeros and `found` is not;
        NaN where either holds one. An infinity that both hold at the same place is no difference.

    Examples
    --------
    >>> relative_difference([np.array([3.0, 4.0])], [np.array([3.0, 4.5])])
    0.1
    """
    ones, others = [_array(output) for output in expected], [_array(output) for output in found]
    if [one.shape for one in ones] != [other.shape for other in others]:
        return math.inf
    difference = norm = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for one, other in zip(ones, others, strict=True):
            compared = ~((one == other) & np.isinf(one))
            difference += float(np.square(one - other, where=compared, out=np.zeros_like(one)).sum())
            norm += float(np.square(one, where=compared, out=np.zeros_like(one)).sum())
    if norm == 0.0:
        return 0.0 if difference == 0.0 else math.inf
    return math.sqrt(difference / norm)


def _array(output: Any) -> NDArray[np.float64]:
    if hasattr(output, "detach"):  # a tensor; numpy knows no bfloat16, and not every device has float64
        output = output.detach().cpu().double().numpy()
    return np.asarray(output, np.float64)
