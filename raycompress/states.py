"""The states of a trial, as the journal, the terminal and the report call them."""

from __future__ import annotations

from enum import StrEnum


class TrialState(StrEnum):
    """How a trial stands, or how it ended."""

    RUNNING = "running"
    FINISHED = "finished"
    """Reported a finite result; its model, if asked for, is saved."""
    FAILED = "failed"
    """Ended with an exception or an exit code other than 0."""
    TIMED_OUT = "timed out"
    """Longer than ``trial_timeout_s``."""
    KILLED = "killed"
    """Ended by a signal that was not ours: a crash, another person."""
    OUT_OF_MEMORY = "out of memory"
    """It asked for more memory than there is, of the machine or of a GPU, or the kernel killed it for that."""
    NO_RESULT = "no result"
    """Ended well and reported nothing."""
    NOT_A_NUMBER = "not a number"
    """The last result was NaN or infinite."""
    BAD_RESULT = "bad result"
    """Reported something that is no result, such as a dict where a number belongs."""
    STOPPED = "stopped"
    """Ended by us: by Ctrl-C, or because the time budget was spent."""
    ENDED_EARLY = "ended early"
    """Ended by us: its intermediate results were poor."""
    OVER_BUDGET = "over budget"
    """Ended before it trained: its model would break a constraint on sizes."""

    @property
    def is_failure(self) -> bool:
        """Whether the trial ended, and not as it should."""
        ended = (TrialState.ENDED_EARLY, TrialState.OVER_BUDGET)
        return self not in (TrialState.RUNNING, TrialState.FINISHED, TrialState.STOPPED, *ended)
