"""The seam between a search, which decides, and who runs its trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from raycompress.search.trials import Continued, Ended, Event, Lost, Result, Started, TrialPlan, TrialRequest

__all__ = [
    "Backend",
    "Continued",
    "Ended",
    "Event",
    "Lost",
    "MakeBackend",
    "Result",
    "Started",
    "TrialPlan",
    "TrialRequest",
]


class Backend(Protocol):
    """Runs trials; `raycompress.session.loop` drives it, from one thread.

    A trial's events are `Started`, then any number of `Result`, then `Ended`. `Lost` may come at any time, and
    `Started` again after it, and after that `Continued` where it goes on from a checkpoint. A trial whose `Result` was
    polled waits until the next `poll`, or until it is stopped.
    """

    def room(self) -> int:
        """Return how many trials can be started now."""

    def start(self, trial: TrialRequest) -> None:
        """Run a trial; there is `room` for it. Nothing of it has to happen before the next `poll`."""

    def poll(self) -> Sequence[Event]:
        """Let trials go on until something has happened, or for a moment, and return what; it may be nothing.

        Raises
        ------
        RaycompressError
            Trials can no longer be run.
        """

    def stop(self, number: int) -> None:
        """End a trial whose `Result` the last `poll` returned: its processes are gone on return, its files are not.

        It has no further events.
        """

    def close(self) -> None:
        """End whatever runs, without further events, and let go of everything; more than once is no error."""


MakeBackend = Callable[[TrialPlan, int], Backend]
"""Makes the backend of a search of what its trials share and how many run at a time."""
