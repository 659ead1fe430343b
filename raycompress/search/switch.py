"""How a search is stopped before its end: by a person, by a failed trial, or because its time is spent."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopSwitch:
    """Ends a search when it is thrown.

    Parameters
    ----------
    time_budget_s
        Seconds from `start` after which it throws itself; None for no bound.

    Attributes
    ----------
    reason
        ``stopped``, ``failure`` or ``time budget``; None while the search goes on.
    detail
        Why, in one line.
    """

    def __init__(self, time_budget_s: float | None) -> None:
        self._time_budget_s = time_budget_s
        self._started = time.monotonic()
        self.reason: str | None = None
        self.detail = ""

    def start(self) -> None:
        """Begin to count the time."""
        self._started = time.monotonic()

    def throw(self, reason: str, detail: str) -> None:
        """Stop the search; the first reason stays."""
        if self.reason is None:
            self.reason, self.detail = reason, detail

    def is_thrown(self) -> bool:
        """Tell whether the search is to end now."""
        if self._time_budget_s is not None and time.monotonic() - self._started > self._time_budget_s:
            self.throw("time budget", f"the time budget of {self._time_budget_s:g} s is spent")
        return self.reason is not None


@contextmanager
def thrown_by_signals(switch: StopSwitch) -> Iterator[None]:
    """Have Ctrl-C, SIGTERM and SIGHUP throw `switch`; a second one interrupts at once.

    A SIGHUP that is ignored, as under nohup, stays so: the search outlives its terminal.

    Python handles signals in its main thread alone: elsewhere nothing is changed, and they are the caller's.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if switch.reason == "stopped":
            raise KeyboardInterrupt
        if number == signal.SIGHUP:  # the terminal is gone, and writing to it would be an error
            for stream in terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        switch.throw("stopped", f"stopped by {signal.Signals(number).name}")

    terminals = [stream for stream in (1, 2) if os.isatty(stream)]  # a file that is written to stays
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
