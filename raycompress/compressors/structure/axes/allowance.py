"""How much of time and memory the analysis of one network may take: what goes beyond ends by an error of ours.

A network within them takes seconds. What could grow without them: a loop in ``forward()`` of very many operations, an
operation that spreads a few channels over very many positions, and couplings that are settled again and again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from raycompress.errors import CompressionError

SECONDS = 60.0
"""CPU seconds that the analysis may take, those of the network's own passes not counted."""
POSITIONS = 1 << 26
"""Positions over which one operation may spread atoms: 512 MiB of them."""

_SMALLER = "pass a smaller dummy_input=, such as one sample, smaller images or a shorter sequence: what hangs together "
_SMALLER += "is the same"


class Allowance:
    """The time that is left for one network.

    Parameters
    ----------
    seconds
        CPU seconds of this thread.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._limit = SECONDS if seconds is None else seconds
        self._spent = 0.0
        self._since: float | None = None

    @contextmanager
    def spending(self, where: str) -> Iterator[None]:
        """Count what is computed inside; `where` says what that is.

        Raises
        ------
        CompressionError
            More than the limit was spent.
        """
        self._since = time.thread_time()
        try:
            yield
            self.check(where)
        finally:
            self._spent += time.thread_time() - self._since
            self._since = None

    def check(self, where: str) -> None:
        """Raise CompressionError where more than the limit was spent."""
        now = 0.0 if self._since is None else time.thread_time() - self._since
        if self._spent + now > self._limit:
            raise CompressionError(
                f"what hangs together in this model was not found within {self._limit:g} s of computing, "
                f"which ended at {where}",
                where="dummy_input",
                fix=_SMALLER,
            )


def need_room(shape: Sequence[int]) -> None:
    """Raise CompressionError where an array of `shape` would hold more than `POSITIONS` atoms."""
    count = math.prod(shape)
    if count > POSITIONS:
        raise CompressionError(
            f"{count:,} positions meet at a time, more than the {POSITIONS:,} that are followed",
            where="dummy_input",
            fix=_SMALLER,
        )
