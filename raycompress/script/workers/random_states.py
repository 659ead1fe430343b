"""Where random numbers stand: of this process, and with a trial's checkpoint those of each of its workers.

The checkpoint is the first worker's, and holds its states. Each other worker writes its own beside it. It may be a call
of ``rc.checkpoint`` behind the first one or ahead of it when the trial is lost, so that it keeps the last two.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raycompress.script import context, statefile


def states() -> dict[str, Any]:
    """Return where the random numbers of Python, numpy and torch stand, as far as they are loaded."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    found: dict[str, Any] = {"python": random.getstate()}
    if numpy is not None:
        found["numpy"] = numpy.random.get_state()
    if torch is not None:
        found["torch"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def restore(found: Mapping[str, Any]) -> None:
    """Let them go on from what `states` returned."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    random.setstate(found["python"])
    if numpy is not None and "numpy" in found:
        numpy.random.set_state(found["numpy"])
    if torch is not None and "torch" in found:
        torch.set_rng_state(found["torch"])
        if "cuda" in found and len(found["cuda"]) <= torch.cuda.device_count():
            torch.cuda.set_rng_state_all(found["cuda"])


def file_of(checkpoint: Path, worker: int) -> Path:
    """Return the file of a worker's own states, beside a trial's checkpoint; of the first one the checkpoint itself."""
    return checkpoint.with_name(f"{checkpoint.name}.worker-{worker}") if worker else checkpoint


def resumed(checkpoint: Path) -> Path:
    """Return the second name of the checkpoint that the workers of a trial go on from."""
    return checkpoint.with_name(f"{checkpoint.name}.resumed")


def write_own(trial: context.Trial, identity: str, generators: Mapping[str, Any]) -> None:
    """Write the states of a worker other than the first.

    Parameters
    ----------
    identity
        What the trial's checkpoint belongs to.
    generators
        The states of the generators that the script saves, by name.
    """
    assert trial.checkpoint is not None
    trial.random[trial.checkpoints] = {"process": states(), "generators": dict(generators)}
    for earlier in sorted(trial.random)[:-2]:
        del trial.random[earlier]
    statefile.write(file_of(trial.checkpoint, trial.rank), {"identity": identity}, {"states": trial.random})


def read_own(trial: context.Trial, identity: str) -> dict[str, Any] | None:
    """Return what a worker other than the first wrote at the checkpoint that the trial goes on from; None for nothing.

    The script may have saved on the first worker alone, or the file may be on another machine, which is gone.
    """
    assert trial.checkpoint is not None
    path = file_of(trial.checkpoint, trial.rank)
    about = statefile.read_about(path)
    if about is None or about["identity"] != identity:
        return None
    try:
        kept = statefile.read(path)["states"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    trial.random = {number: one for number, one in kept.items() if number <= trial.checkpoints}
    found: dict[str, Any] | None = trial.random.get(trial.checkpoints)
    return found
