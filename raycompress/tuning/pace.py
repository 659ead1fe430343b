"""How long what goes on before a search will take, told to whoever waits where that is long."""

from __future__ import annotations

import time
from collections.abc import Callable

LONG_S = 600.0
_SURE_S = 20.0
"""Measured for so long, the rest can be guessed from it."""


class Pace:
    """Says once how long a survey takes.

    Parameters
    ----------
    tell
        Takes the note.
    clock
        Seconds that pass.
    """

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._began: tuple[float, int] | None = None
        self._is_judged = False

    def take(self, done: int, total: int) -> None:
        """Take how many measurements of all are done; how long processes took to start does not count."""
        if self._began is None:
            self._began = self._clock(), done
            return
        began, first = self._began
        passed = self._clock() - began
        if self._is_judged or done <= first or passed < _SURE_S:
            return
        self._is_judged = True
        left = passed / (done - first) * (total - done)
        if left > LONG_S:
            self._tell(
                f"measuring the model before the search takes about {round(left / 60)} minutes more; an evaluator= "
                "that looks at some of the data is enough for it, and what is measured is kept for later searches"
            )
