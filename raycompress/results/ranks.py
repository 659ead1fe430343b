"""How far two orders agree."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence


def rank_correlation(pairs: Iterable[tuple[float, float]]) -> float:
    """Return Spearman's rank correlation, equal values sharing their mean rank; 0 where there is no order to compare.

    Examples
    --------
    >>> rank_correlation([(1, 10), (2, 20), (3, 15)])
    0.5
    """
    known = list(pairs)
    if len(known) < 2:
        return 0.0
    first, second = (_ranks(values) for values in zip(*known, strict=True))
    if len(set(first)) == 1 or len(set(second)) == 1:
        return 0.0
    return statistics.correlation(first, second)


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(values)
    ends = {value: (order.index(value), len(order) - 1 - order[::-1].index(value)) for value in set(values)}
    return [sum(ends[value]) / 2 for value in values]
