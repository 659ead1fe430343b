"""How many channels a share of a layer is, where the number that stays is to be a multiple of something."""

from __future__ import annotations


def removable(channels: int, sparsity: float, round_to: int = 1) -> int:
    """Return how many of `channels` go at `sparsity`; 0 where that is less than can go.

    ``int(channels * sparsity)`` go, and then as many more or fewer as bring what stays to the nearest multiple of
    `round_to`; all of them staying counts as one, none of them staying does not.
    """
    wanted = int(sparsity * channels)
    return channels - rounded(channels - wanted, channels, round_to) if wanted else 0


def rounded(kept: int, channels: int, round_to: int) -> int:
    """Return the number nearest to `kept` that may stay of `channels`; of two that are as near, the larger."""
    below = kept // round_to * round_to
    options = [number for number in (below, below + round_to) if round_to <= number < channels]
    return min((*options, channels), key=lambda number: (abs(number - kept), -number))
