"""The latency of a model from the times of many passes: their median and its confidence interval."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Times = list[tuple[float, float]]
"""Seconds of each pass: by the clock, and of CPU time."""

FEWEST = 6
"""Passes that a 95 % interval of the median needs at least."""
_NARROW = 0.03


@dataclass(frozen=True)
class Latency:
    """Median time of one forward pass, in milliseconds.

    Attributes
    ----------
    wall_ms, cpu_ms
        By the clock, and by CPU time.
    low_ms, high_ms
        A 95 % confidence interval of `wall_ms`, see `interval`.
    """

    wall_ms: float
    cpu_ms: float
    low_ms: float
    high_ms: float

    @classmethod
    def of(cls, times: Times) -> Latency:
        """Return the latency by measured `times`."""
        walls = [1e3 * wall for wall, _ in times]
        return cls(statistics.median(walls), 1e3 * statistics.median(cpu for _, cpu in times), *interval(walls))

    @property
    def is_sharp(self) -> bool:
        """Whether more passes would hardly narrow the interval."""
        return self.high_ms - self.low_ms <= _NARROW * self.wall_ms

    def to_json(self) -> dict[str, float]:
        """Return plain JSON data, as messages and manifests have it."""
        return {
            "latency_ms": self.wall_ms,
            "latency_low_ms": self.low_ms,
            "latency_high_ms": self.high_ms,
            "cpu_ms": self.cpu_ms,
        }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a 95 % confidence interval of the median of what `values` were drawn from, whatever its distribution.

    The ends are two of the values: the number of those below the median is binomial with probability 1/2, so that the
    median lies outside of the k-th smallest and the k-th largest with twice the chance of fewer than k of n. The
    largest such k is used (Le Boudec, Performance Evaluation of Computer and Communication Systems, 2010, theorem
    2.1; Hahn and Meeker, Statistical Intervals, 1991, section 5.2). Of fewer than six values even the smallest and the
    largest hold it less often than that.

    Examples
    --------
    >>> interval(range(1, 31))
    (10, 21)
    """
    ordered = sorted(values)
    below = itertools.accumulate(math.comb(len(ordered), k) for k in range(len(ordered)))
    k = sum(chance <= 0.025 * 2 ** len(ordered) for chance in below)
    return ordered[max(k, 1) - 1], ordered[-max(k, 1)]


def rounds(times: Sequence[Times], fewest: int, most: int = 240, seconds: float = 10.0) -> Iterator[int]:
    """Yield the numbers of rounds to measure, as long as more are worth it.

    `fewest` at least and `most` at most. In between the medians are looked at whenever there are twice as many as the
    last time: often enough to save time, and too seldom for a search after a narrow interval. `seconds` end it at any
    time, but not before there is an interval at all.

    Parameters
    ----------
    times
        What was measured so far of each model; the caller adds to it.
    """
    end, look = time.monotonic() + seconds, fewest
    for number in range(most):
        if number >= FEWEST and time.monotonic() > end:
            return
        if number == look:
            if all(Latency.of(measured).is_sharp for measured in times):
                return
            look *= 2
        yield number


def once(run: Callable[[], object], cpu_clock: Callable[[], float]) -> tuple[float, float]:
    """Return the seconds of ``run()``, by the clock and by `cpu_clock`."""
    wall, cpu = time.perf_counter(), cpu_clock()
    run()
    return time.perf_counter() - wall, cpu_clock() - cpu
