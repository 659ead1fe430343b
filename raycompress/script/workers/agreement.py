"""What workers agree on: the first decides, and the others do as it did.

The workers of one trial of a search agree by files, whatever the script does with torch.distributed: the first writes
one and says so, and the trial's actors bring it to the machines of the others. Those that a person has started, by
torchrun or ``accelerate launch``, agree by the store of their process group.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from raycompress.errors import ScriptError
from raycompress.script import context, statefile
from raycompress.script.workers import process_group

ENDED = "ended"
"""The file that is there once the first worker has ended, and nothing follows."""

_PAUSE_S = 0.01


def follows(trial: context.Trial | None) -> bool:
    """Tell whether this process is a worker that does as the first one does."""
    if trial is not None and trial.agreed is not None:
        return trial.rank > 0
    return process_group.rank() > 0


def agreed(trial: context.Trial | None, decide: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return what ``decide()`` gave in the first worker; each worker asks for the same things in the same order.

    Raises
    ------
    ScriptError
        The first worker has failed, or has ended and never asked: the script calls something on some of its workers
        alone.
    """
    if trial is None or trial.agreed is None:
        return process_group.agreed(decide)
    path = trial.agreed / str(trial.agreements)
    trial.agreements += 1
    if trial.rank == 0:
        decision = decide()
        path.parent.mkdir(exist_ok=True)
        statefile.write(path, {}, decision)
        trial.send({"type": "agreed", "number": trial.agreements - 1})
        return decision
    while not path.exists():
        if (trial.agreed / ENDED).exists():
            raise ScriptError(
                f"worker {trial.rank} waits for what worker 0 decides, which has ended",
                where="compress",
                fix="call compress(), apply_speedup() and rc.checkpoint.load() on every worker, in the same order",
            )
        time.sleep(_PAUSE_S)
    return statefile.read(path)
