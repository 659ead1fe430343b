"""Memory that is exhausted: who is to go then, and how to tell that it was that."""

from __future__ import annotations

import contextlib
from pathlib import Path

_LARGEST_SCORE = 1000
_SAID_BY_TORCH = ("can't allocate memory", "CUDA out of memory", "out of memory. Tried to allocate")


def offer_this_process() -> None:
    """Have the kernel choose this process and its children before others: a trial, not what watches over it."""
    with contextlib.suppress(OSError):  # no such file here: then the kernel chooses the largest process anyway
        Path("/proc/self/oom_score_adj").write_text(str(_LARGEST_SCORE))  # Ray gives its workers the same


def kills() -> int:
    """Return how many processes of this machine the kernel has killed because memory was exhausted."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def is_exhausted(error: BaseException) -> bool:
    """Tell whether an exception says that there was not enough memory."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError", "ResourceExhaustedError"}:
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID_BY_TORCH)
