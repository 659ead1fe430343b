"""Two threads of which one runs at a time: Tune, which owns its loop, and the search, which has its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Turns(Generic[Item]):
    """Runs `other` in a thread that stands still whenever it is not its turn.

    This thread calls `receive`, which lets the other one go on until that calls `give`, or ends.

    Parameters
    ----------
    other
        What the other thread runs.

    Attributes
    ----------
    is_over
        Whether it has ended.
    """

    def __init__(self, other: Callable[[], None]) -> None:
        self._given: queue.SimpleQueue[Sequence[Item] | BaseException | None] = queue.SimpleQueue()
        self._turn: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._other = other
        # a daemon: where it hangs in Ray, a second Ctrl-C still ends this process
        self._thread = threading.Thread(target=self._run, name="tune", daemon=True)
        self._is_letting_run = False
        self.is_over = False

    def receive(self) -> Sequence[Item]:
        """Let the other thread go on until it gives something, and return that; nothing where it has ended.

        Raises
        ------
        BaseException
            What ended the other thread.
        """
        if self.is_over:
            return []
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._turn.put(None)
        given = self._given.get()  # which a signal interrupts, and its handler runs
        if given is None or isinstance(given, BaseException):
            self.is_over = True
        if isinstance(given, BaseException):
            raise given
        return given or []

    def give(self, items: Sequence[Item]) -> None:
        """Hand `items` over and wait for the next turn; the other thread calls this."""
        if self._is_letting_run:
            return
        self._given.put(items)
        self._turn.get()

    def finish(self) -> None:
        """Let the other thread run to its end, without turns, and wait for it."""
        self._is_letting_run = True
        if self._thread.ident is None:
            self.is_over = True
        while not self.is_over:
            self.receive()
        if self._thread.ident is not None:
            self._thread.join()  # until its frames, and what they refer to, are gone

    def _run(self) -> None:
        try:
            self._other()
        except BaseException as error:  # noqa: BLE001 - `receive` raises it
            self._given.put(error)
        else:
            self._given.put(None)
