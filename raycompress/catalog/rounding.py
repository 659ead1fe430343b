"""From a sparsity to a number of channels or weights: the one rule that engines, forecasts and checks share."""

from __future__ import annotations


def removed_count(total: int, sparsity: float) -> int:
    """Return how many of `total` channels or weights go at `sparsity`: their product, rounded down.

    A product that misses a whole number by no more than 1e-9 counts as that number, so that the binary rounding of
    0.29 or of 7 / 25 takes nothing away: ``removed_count(n, k / n) == k`` for every ``0 <= k <= n < 10**6``.

    Examples
    --------
    >>> removed_count(10, 0.45), removed_count(100, 0.29), int(100 * 0.29)
    (4, 29, 28)
    """
    return int(total * sparsity + 1e-9)


def removable(channels: int, sparsity: float, round_to: int = 1) -> int:
    """Return how many of `channels` go at `sparsity`; 0 where that is less than can go.

    `removed_count` go, and then as many more or fewer as bring what stays to the nearest multiple of `round_to`; all
    of them staying counts as one, none of them staying does not.

    Examples
    --------
    >>> removable(64, 0.3), removable(64, 0.3, round_to=8)  # 45 stay, or 48
    (19, 16)
    """
    wanted = removed_count(channels, sparsity)
    return channels - rounded(channels - wanted, channels, round_to) if wanted else 0


def rounded(kept: int, channels: int, round_to: int) -> int:
    """Return the number nearest to `kept` that may stay of `channels`; of two that are as near, the larger."""
    below = kept // round_to * round_to
    options = [number for number in (below, below + round_to) if round_to <= number < channels]
    return min((*options, channels), key=lambda number: (abs(number - kept), -number))
